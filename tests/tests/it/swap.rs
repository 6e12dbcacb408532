//! Pushes under load: no request fails, no connection closes, and what was pushed is what is served.

use std::net::SocketAddr;
use std::time::Duration;

use gateway_tests::backend::Backend;
use gateway_tests::client::{Ask, Connection, get};
use gateway_tests::gateway::{ControlPlane, Proxy, folder};
use gateway_tests::load::{Load, Protocol, Seen};
use gateway_tests::{documents, ports};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

const PUSHES: u32 = 400;
const EVERY: Duration = Duration::from_millis(50);
const HOST: &str = "swap.test";

/// Twenty pushes a second for twenty seconds, to two proxies: routes, weights, a certificate and a filter chain change.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_pushes_a_second_close_and_fail_nothing() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let certificates: Vec<Certificate> = (0..8).map(|_| certificate(HOST)).collect();
    let certificate_of = |push: u32| &certificates[push as usize % certificates.len()];
    let sides = ["left", "right"].map(Side::new);
    for side in &sides {
        control.put_group(side.fleet, &side.resources((&a, &b), certificate_of(0), 0)).await;
    }
    let _left = Proxy::start(control.xds, "left-1", "left").await;
    let _right = Proxy::start(control.xds, "right-1", "right").await;

    let mut loads = Vec::new();
    let mut held = Vec::new();
    for side in &sides {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            loads.push(Load::start(side.plain, protocol, 3, Ask::get(HOST, "/load")));
        }
        held.push(Connection::tls(side.tls, HOST, &["http/1.1"]).await.unwrap().0);
        held.push(Connection::tls(side.tls, HOST, &["h2"]).await.unwrap().0);
    }
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let started = Instant::now();
    for push in 1..=PUSHES {
        tick.tick().await;
        let mut revisions = Vec::new();
        for side in &sides {
            let changed = side.resources((&a, &b), certificate_of(push), push);
            revisions.push(control.patch_group(side.fleet, &changed, &[]).await);
        }
        for (side, revision) in sides.iter().zip(revisions) {
            control.node_has(&format!("{}-1", side.fleet), revision).await;
            side.follows(push).await;
        }
        if push % 20 == 0 {
            for (connection, side) in held.iter_mut().zip([0, 0, 1, 1].map(|side| &sides[side])) {
                let answer = connection.ask(&Ask::get(HOST, "/version")).await.unwrap();
                assert_eq!(
                    answer.text(),
                    format!("push {push}"),
                    "on a TLS connection opened before"
                );
                assert!(!connection.is_closed());
                let (_, seen) = Connection::tls(side.tls, HOST, &["h2"]).await.unwrap();
                assert_eq!(seen.as_ref(), certificate_of(push).der, "certificate of push {push}");
            }
        }
    }
    let took = started.elapsed();
    for load in loads {
        let Seen { by_backend, failed, closed } = load.stop().await;
        assert!(failed.is_empty(), "{} failed, first {:?}", failed.len(), failed.first());
        assert_eq!(closed, 0, "connections closed");
        assert!(by_backend["a"] > 0 && by_backend["b"] > 0, "{by_backend:?}");
    }
    eprintln!("{PUSHES} pushes took {took:?}");
}

/// One fleet: where it listens, and what it is sent.
struct Side {
    fleet: &'static str,
    plain: SocketAddr,
    tls: SocketAddr,
}

impl Side {
    fn new(fleet: &'static str) -> Self {
        Self { fleet, plain: ports::address(), tls: ports::address() }
    }

    /// What push `n` serves: weights that move, a route and a filter that say its number, a certificate.
    fn resources(
        &self,
        (a, b): (&Backend, &Backend),
        certificate: &Certificate,
        n: u32,
    ) -> Vec<Value> {
        let weight = 1 + n % 99;
        let routes = json!([
            {"match": {"path": "/version"}, "direct_response": {"status": 200, "body": {"inline_string": format!("push {n}")}}},
            {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [
                {"name": "a", "weight": 100 - weight}, {"name": "b", "weight": weight}]}}},
        ]);
        let filters = [documents::response_header("x-push", &n.to_string())];
        let mut tls = documents::raw_listener("tls", self.tls.port(), "routes", &filters);
        tls["filter_chains"][0]["transport_socket"] = documents::raw_tls("certificate");
        let mut all = vec![
            documents::raw_listener("web", self.plain.port(), "routes", &filters),
            tls,
            documents::raw_secret("certificate", &certificate.pem, &certificate.key),
            documents::raw_routes("routes", &routes),
        ];
        all.extend(documents::raw_cluster("a", a.address));
        all.extend(documents::raw_cluster("b", b.address));
        all
    }

    /// Whether the next request follows push `n`.
    async fn follows(&self, n: u32) {
        let answer = get(self.plain, HOST, "/version").await.unwrap();
        assert_eq!(answer.text(), format!("push {n}"));
        assert_eq!(answer.header("x-push"), Some(&*n.to_string()), "filter chain of push {n}");
    }
}

/// Certificates change for new handshakes; open TLS connections live on.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_served_and_old_connections_stay() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let backend = Backend::start("a").await;
    let port = ports::free();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let first = certificate("one.test");
    control.apply(&documents::backend("a", backend.address));
    control.apply(&secret(&first));
    control.apply(&https_gateway(port));
    control.apply(&documents::route("r", &["web"], &[("a", 1)]));
    let _proxy = Proxy::start(control.xds, "n1", "default").await;

    let (mut h1, seen) = Connection::tls(address, "one.test", &["http/1.1"]).await.unwrap();
    let (mut h2, _) = Connection::tls(address, "one.test", &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(seen.as_ref(), first.der);
    for round in 0..5 {
        let next = certificate("one.test");
        control.apply(&secret(&next));
        let (_, seen) = Connection::tls(address, "one.test", &["h2"]).await.unwrap();
        assert_eq!(seen.as_ref(), next.der, "round {round}");
        let ask = Ask::get("one.test", "/");
        assert_eq!(h1.ask(&ask).await.unwrap().backend(), "a");
        let answer = h2.ask(&ask).await.unwrap();
        assert_eq!((answer.backend(), answer.version), ("a", http::Version::HTTP_2));
        assert!(!h1.is_closed() && !h2.is_closed());
    }
}

struct Certificate {
    pem: String,
    key: String,
    der: Vec<u8>,
}

fn certificate(name: &str) -> Certificate {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    Certificate {
        pem: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        der: made.cert.der().to_vec(),
    }
}

fn secret(certificate: &Certificate) -> String {
    let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indent(&certificate.pem),
        indent(&certificate.key)
    )
}

fn https_gateway(port: u16) -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: web}}
spec:
  gatewayClassName: weighlock
  listeners:
  - {{name: https, port: {port}, protocol: HTTPS, hostname: one.test, tls: {{certificateRefs: [{{name: cert}}]}}}}
"#
    )
}
