//! Paths that two servers could read differently: what is matched is what is forwarded.

use std::net::SocketAddr;

use gateway_tests::gateway::{ControlPlane, LIMIT, Proxy, folder};
use gateway_tests::raw::{Raw, Recorder};
use gateway_tests::{documents, ports, wait};
use serde_json::{Value, json};

use super::{Change, Rig};

/// What becomes of a path.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Becomes {
    /// It reaches the backend for `/admin`, as this.
    Admin(&'static str),
    /// It reaches the backend for everything else, as this.
    Public(&'static str),
    /// The client is sent there.
    Redirect(&'static str),
    /// It is refused.
    Refused,
}

use Becomes::{Admin, Public, Redirect, Refused};

/// What our control plane says of paths by default.
const BY_DEFAULT: [(&str, Becomes); 46] = [
    ("/", Public("/")),
    ("/a/b", Public("/a/b")),
    ("/admin", Admin("/admin")),
    ("/admin/x?y=/../z", Admin("/admin/x?y=/../z")),
    ("/adminx", Public("/adminx")),
    ("/Admin", Public("/Admin")),
    // Dots.
    ("/a/../admin", Admin("/admin")),
    ("/a/./../admin/.", Admin("/admin/")),
    ("/admin/..", Public("/")),
    ("/admin/../a", Public("/a")),
    ("/../admin", Admin("/admin")),
    ("/../../../etc/passwd", Public("/etc/passwd")),
    ("/...", Public("/...")),
    ("/.hidden", Public("/.hidden")),
    ("/a/..b", Public("/a/..b")),
    ("/%2e%2e/admin", Admin("/admin")),
    ("/a/%2E./admin", Admin("/admin")),
    ("/a/.%2e/admin", Admin("/admin")),
    ("/admin/%2e%2e/a", Public("/a")),
    // Encoded twice, it is decoded once.
    ("/a/%252e%252e/admin", Public("/a/%252e%252e/admin")),
    // What needs no escape.
    ("/%61dmin", Admin("/admin")),
    ("/%41%7E", Public("/A~")),
    ("/a%20b", Public("/a%20b")),
    ("/%c3%a9", Public("/%C3%A9")),
    // Slashes.
    ("//admin", Admin("/admin")),
    ("/a//../admin", Public("/a/admin")),
    ("///a///b//", Public("/a/b/")),
    ("/admin//", Admin("/admin/")),
    ("/a%2fb", Redirect("/a/b")),
    ("/admin%2Fx", Redirect("/admin/x")),
    ("/a%2f..%2fadmin", Redirect("/admin")),
    ("/a%5cb", Redirect("/a/b")),
    ("/a\\..\\admin", Admin("/admin")),
    ("/a?b=%2f", Public("/a?b=%2f")),
    // Parameters.
    ("/admin;x=y", Public("/admin;x=y")),
    ("/a;x/b", Public("/a;x/b")),
    ("/a/..;/admin", Refused),
    ("/a/..;x=y/admin", Refused),
    ("/a/.;/admin", Refused),
    ("/a/%2e%2e;/admin", Refused),
    // No text, or no escape.
    ("/a%00", Refused),
    ("/%00/../admin", Refused),
    ("/%ff", Refused),
    ("/%c0%ae%c0%ae/admin", Refused),
    ("/%", Refused),
    ("/%zz", Refused),
];

/// Whoever is asked, and what they got.
struct Backends {
    admin: Recorder,
    public: Recorder,
}

impl Backends {
    async fn start() -> Self {
        Self { admin: Recorder::start().await, public: Recorder::start().await }
    }

    /// What becomes of a path.
    async fn told(&self, proxy: SocketAddr, path: &str) -> (u16, String) {
        self.admin.forget();
        self.public.forget();
        let mut client = Raw::connect(proxy).await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n\r\n")).await;
        let response = client.response(true).await.unwrap();
        let got = |of: &Recorder| of.all().split(' ').nth(1).map(str::to_owned);
        let told = match (response.header("location"), got(&self.admin), got(&self.public)) {
            (Some(location), None, None) => format!("to {location}"),
            (None, Some(path), None) => format!("admin {path}"),
            (None, None, Some(path)) => format!("public {path}"),
            (None, None, None) => String::new(),
            all => panic!("{path}: {all:?}"),
        };
        (response.status, told)
    }

    async fn check(&self, proxy: SocketAddr, rows: &[(&str, Becomes)]) {
        let mut wrong = Vec::new();
        for (path, becomes) in rows {
            let wanted = match becomes {
                Admin(path) => (200, format!("admin {path}")),
                Public(path) => (200, format!("public {path}")),
                Redirect(to) => (307, format!("to {to}")),
                Refused => (400, String::new()),
            };
            let got = self.told(proxy, path).await;
            if got != wanted {
                wrong.push(format!("{path}: {got:?}, not {wanted:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_of_documents_are_canonical_before_they_are_matched() {
    let (data, backends) = (folder(), Backends::start().await);
    let control = ControlPlane::start(data.path()).await;
    let port = ports::free();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let rule = |path: &str, backend: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], \
             backendRefs: [{{group: weighlock.dev, kind: Backend, name: {backend}}}]}}"
        )
    };
    let all = documents::gateway("web", "default", port)
        + &documents::backend("admin", backends.admin.address)
        + &documents::backend("public", backends.public.address)
        + &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\n\
             spec: {{parentRefs: [{{name: web}}], rules: [{}, {}]}}\n",
            rule("/admin", "admin"),
            rule("/", "public")
        );
    control.apply(&all);
    let _proxy = Proxy::start(control.xds, "n1", "default").await;
    wait::until("the route", LIMIT, || async {
        let answer = gateway_tests::client::get(address, "a.test", "/").await;
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) { Ok(()) } else { Err(answer) }
    })
    .await;
    backends.check(address, &BY_DEFAULT).await;
    // Names of headers that some servers take for others.
    let mut client = Raw::connect(address).await;
    client.send("GET / HTTP/1.1\r\nhost: a.test\r\nx_user: root\r\n\r\n").await;
    assert_eq!(client.response(true).await.unwrap().status, 400);
}

/// A rig with two clusters and these options of its manager.
async fn rig(backends: &Backends, mut manager: Value) -> Rig {
    let cluster = |name: &str, address: SocketAddr| {
        json!({"name": name, "type": "STATIC", "connect_timeout": "2s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{
                "endpoint": {"address": {"socket_address": {
                    "address": "127.0.0.1", "port_value": address.port()}}}}]}]}})
    };
    let route = |path: &str, to: &str| json!({"match": {"prefix": path}, "route": {"cluster": to}});
    let admin = json!({"match": {"path_separated_prefix": "/admin"}, "route": {"cluster": "a"}});
    manager["route_config"] = json!({"name": "inline", "virtual_hosts": [{"name": "v",
        "domains": ["*"], "routes": [admin, route("/", "b")]}]});
    let first = cluster("a", backends.admin.address);
    let second = cluster("b", backends.public.address);
    let more = vec![second];
    Rig::start(Change { manager, cluster: first, more_clusters: more, ..Change::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_of_a_bootstrap_are_as_it_says() {
    let backends = Backends::start().await;
    // Nothing is said: Envoy leaves paths as they are, and that is told.
    let plain = rig(&backends, json!({})).await;
    let rows = [
        ("/admin", Admin("/admin")),
        ("/a/../admin", Public("/a/../admin")),
        ("//admin", Public("//admin")),
        ("/%61dmin", Public("/%61dmin")),
        ("/a%2fb", Public("/a%2fb")),
        ("/a/..;/admin", Public("/a/..;/admin")),
    ];
    backends.check(plain.address, &rows).await;
    for setting in [
        "normalize_path",
        "merge_slashes",
        "path_with_escaped_slashes_action",
        "headers_with_underscores_action",
    ] {
        let series = format!("weighlock_listener_lax{{listener=\"web\",setting=\"{setting}\"}}");
        assert_eq!(plain.metric(&series).await, Some(1.0), "{setting}");
    }
    let said = plain.proxy.process.output();
    assert_eq!(said.matches("listener has lax settings").count(), 1, "{said}");

    let strict = json!({"normalize_path": true, "merge_slashes": true,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"}});
    let strict = rig(&backends, strict).await;
    let rows: Vec<_> = BY_DEFAULT
        .into_iter()
        .map(|(path, becomes)| match becomes {
            Redirect(_) => (path, Refused),
            other => (path, other),
        })
        .collect();
    backends.check(strict.address, &rows).await;
    assert!(!strict.proxy.process.output().contains("lax"));

    let forward = json!({"normalize_path": true, "merge_slashes": true,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"});
    let forward = rig(&backends, forward).await;
    let rows: Vec<_> = BY_DEFAULT
        .into_iter()
        .map(|(path, becomes)| match becomes {
            Redirect(to) if to.starts_with("/admin") => (path, Admin(to)),
            Redirect(to) => (path, Public(to)),
            other => (path, other),
        })
        .collect();
    backends.check(forward.address, &rows).await;

    // Normal, but not merged: what came escaped stays so.
    let kept = rig(&backends, json!({"normalize_path": true})).await;
    let rows = [
        ("/a/../admin", Admin("/admin")),
        ("//admin", Public("//admin")),
        ("/a%2fb", Public("/a%2Fb")),
        ("/admin%2fx", Public("/admin%2Fx")),
        ("/a/..;/admin", Refused),
        ("/a%00", Refused),
    ];
    backends.check(kept.address, &rows).await;
}
