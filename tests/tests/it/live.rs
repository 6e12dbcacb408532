//! Changes under connections that are open: what is new holds for their next request, and nothing is closed.

use std::net::SocketAddr;
use std::time::Duration;

use gateway_tests::client::{Ask, Connection};
use gateway_tests::gateway::{ControlPlane, LIMIT, Proxy, folder};
use gateway_tests::switch::{By, Switching, Tunnel, switch};
use gateway_tests::{documents, ports, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const T: &str = "type.googleapis.com/envoy.extensions";

/// What a push says of the listener for HTTP, beside its name.
struct Front {
    port: u16,
    manager: Value,
    /// More of the listener.
    listener: Value,
    /// What its chain is for.
    matches: Value,
}

fn resources(front: &Front, tcp: Option<u16>, upstream: SocketAddr) -> Vec<Value> {
    let mut web = documents::raw_listener("web", front.port, "r", &[]);
    for (key, value) in front.listener.as_object().into_iter().flatten() {
        web[key] = value.clone();
    }
    web["filter_chains"][0]["filter_chain_match"] = front.matches.clone();
    let manager = &mut web["filter_chains"][0]["filters"][0]["typed_config"];
    manager["http2_protocol_options"] = json!({"allow_connect": true});
    manager["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]);
    for (key, value) in front.manager.as_object().into_iter().flatten() {
        manager[key] = value.clone();
    }
    let routes = json!([{"match": {"prefix": "/echo"}, "route": {"cluster": "a"}},
        {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}]);
    let mut all = vec![web, documents::raw_routes("r", &routes)];
    if let Some(port) = tcp {
        let mut listener = documents::raw_listener("tcp", port, "unused", &[]);
        listener["filter_chains"] = json!([{"filters": [{"name": "t", "typed_config": {
            "@type": format!("{T}.filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "t", "cluster": "a"}}]}]);
        all.push(listener);
    }
    all.extend(documents::raw_cluster("a", upstream));
    all
}

/// One connection of each kind.
struct Open {
    http1: Connection,
    http2: Connection,
    tunnels: Vec<Tunnel>,
    tcp: TcpStream,
}

impl Open {
    async fn new(web: SocketAddr, tcp: SocketAddr) -> Self {
        let mut tunnels = Vec::new();
        for by in [By::Http1, By::Http2] {
            let switched = switch(web, by, ("/echo", "websocket"), &[]).await.unwrap();
            tunnels.push(switched.tunnel.unwrap());
        }
        let mut tcp = TcpStream::connect(tcp).await.unwrap();
        tcp.write_all(b"GET /echo HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            .await
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        Self {
            http1: Connection::http1(web).await.unwrap(),
            http2: Connection::http2(web).await.unwrap(),
            tunnels,
            tcp,
        }
    }

    /// The `server` that answers on the connections that carry requests.
    async fn servers(&mut self) -> [String; 2] {
        let ask = Ask::get("a.test", "/");
        let of = async |connection: &mut Connection| {
            connection.ask(&ask).await.unwrap().header("server").unwrap().to_owned()
        };
        [of(&mut self.http1).await, of(&mut self.http2).await]
    }

    /// Whether what is said to the upstream still comes back.
    async fn tunnels_live(&mut self) {
        for tunnel in &mut self.tunnels {
            tunnel.write("hello").await;
            assert_eq!(tunnel.read().await.unwrap(), "hello");
        }
        self.tcp_lives().await;
    }

    async fn tcp_lives(&mut self) {
        self.tcp.write_all(b"hi").await.unwrap();
        let mut back = [0; 2];
        self.tcp.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hi");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_open_connections_follow_and_stay() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let upstream = Switching::start(true).await;
    let (web, tcp) = (ports::address(), ports::address());
    let front = |server: &str, listener: Value, matches: Value| Front {
        port: web.port(),
        manager: json!({"server_name": server}),
        listener,
        matches,
    };
    let none = || json!({});
    let first = resources(&front("first", none(), none()), Some(tcp.port()), upstream.address);
    let revision = control.put_group("g", &first).await;
    let _proxy = Proxy::start(control.xds, "n", "g").await;
    control.node_has("n", revision).await;
    let mut open = Open::new(web, tcp).await;
    assert_eq!(open.servers().await, ["first", "first"]);
    let listener_filter = |name: &str, message: &str| {
        json!({"listener_filters": [{"name": name, "typed_config": {
            "@type": format!("{T}.filters.listener.{name}.v3.{message}")}}]})
    };
    let mut more_windows = front("windows", none(), none());
    more_windows.manager["http2_protocol_options"] = json!({"allow_connect": true, "initial_stream_window_size": 70_000, "max_concurrent_streams": 7});
    more_windows.manager["http_protocol_options"] = json!({"accept_http_10": true});
    for front in [
        front("manager", none(), none()),
        front("inspected", listener_filter("tls_inspector", "TlsInspector"), none()),
        front(
            "matched",
            none(),
            json!({"source_prefix_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]}),
        ),
        front("introduced", listener_filter("proxy_protocol", "ProxyProtocol"), none()),
        front("buffered", json!({"per_connection_buffer_limit_bytes": 5000}), none()),
        more_windows,
    ] {
        let server = front.manager["server_name"].as_str().unwrap().to_owned();
        let revision =
            control.put_group("g", &resources(&front, Some(tcp.port()), upstream.address)).await;
        control.node_has("n", revision).await;
        assert_eq!(open.servers().await, [&*server, &*server]);
        open.tunnels_live().await;
        assert!(!open.http1.is_closed() && !open.http2.is_closed(), "{server}");
    }

    // Limits are those of now.
    let mut hasty = front("hasty", none(), none());
    hasty.manager["drain_timeout"] = "0.1s".into();
    hasty.manager["common_http_protocol_options"] = json!({"idle_timeout": "0.3s"});
    control.put_group("g", &resources(&hasty, Some(tcp.port()), upstream.address)).await;
    wait::until("idle connections to end", LIMIT, || async {
        let ended = [open.http1.is_closed(), open.http2.is_closed()];
        if ended == [true, true] { Ok(()) } else { Err(format!("{ended:?}")) }
    })
    .await;
    open.tunnels_live().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_leaves_serves_its_connections_to_their_end() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let upstream = Switching::start(true).await;
    let (web, tcp) = (ports::address(), ports::address());
    let front = |server: &str, matches: Value| Front {
        port: web.port(),
        manager: json!({"server_name": server, "drain_timeout": "1s"}),
        listener: json!({}),
        matches,
    };
    let put = async |front: &Front| {
        let all = resources(front, Some(tcp.port()), upstream.address);
        control.put_group("g", &all).await
    };
    let revision = put(&front("first", json!({}))).await;
    let _proxy = Proxy::start(control.xds, "n", "g").await;
    control.node_has("n", revision).await;
    let mut open = Open::new(web, tcp).await;
    let mut idle = Connection::http1(web).await.unwrap();
    idle.ask(&Ask::get("a.test", "/")).await.unwrap();
    let elsewhere =
        json!({"source_prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]});
    let revision = put(&front("second", elsewhere)).await;
    control.node_has("n", revision).await;
    let answer = open.http1.ask(&Ask::get("a.test", "/")).await.unwrap();
    assert_eq!(
        (answer.header("server"), answer.header("connection")),
        (Some("first"), Some("close"))
    );
    let mut other = Connection::http1(web).await.unwrap();
    assert!(other.ask(&Ask::get("a.test", "/")).await.is_err(), "no chain is for it");
    wait::until("the others to end", LIMIT, || async {
        let ended = [open.http1.is_closed(), open.http2.is_closed(), idle.is_closed()];
        if ended == [true; 3] { Ok(()) } else { Err(format!("{ended:?}")) }
    })
    .await;
    open.tunnels_live().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_leaves_lets_go_of_its_connections_one_after_the_other() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let upstream = Switching::start(true).await;
    let (web, tcp, next) = (ports::address(), ports::address(), ports::address());
    let front =
        |port: u16| Front { port, manager: json!({}), listener: json!({}), matches: json!({}) };
    let revision = control
        .put_group("g", &resources(&front(web.port()), Some(tcp.port()), upstream.address))
        .await;
    let drain = ["--drain-delay", "0s", "--drain-timeout", "6s"];
    let mut proxy = Proxy::start_with(control.xds, "n", "g", &drain);
    proxy.ready().await;
    control.node_has("n", revision).await;
    let mut open = Open::new(web, tcp).await;
    open.servers().await;
    let mut many = Vec::new();
    for _ in 0..20 {
        let mut one = Connection::http2(web).await.unwrap();
        one.ask(&Ask::get("a.test", "/")).await.unwrap();
        many.push(one);
    }
    // The one listener moves, the other is gone.
    let revision =
        control.put_group("g", &resources(&front(next.port()), None, upstream.address)).await;
    control.node_has("n", revision).await;
    for port in [web, tcp] {
        wait::until("nobody to listen", LIMIT, || async {
            if TcpStream::connect(port).await.is_err() { Ok(()) } else { Err(port) }
        })
        .await;
    }
    let answer = open.http1.ask(&Ask::get("a.test", "/")).await.unwrap();
    assert_eq!(answer.header("connection"), Some("close"));
    let mut counts = Vec::new();
    wait::until("all to have heard that they end", LIMIT, || {
        let closed = many.iter().filter(|one| one.is_closed()).count();
        counts.push(closed);
        async move { if closed == 20 { Ok(()) } else { Err(closed) } }
    })
    .await;
    assert!(counts.iter().any(|count| (1..20).contains(count)), "all at once: {counts:?}");
    assert!(open.http1.is_closed() && open.http2.is_closed());
    open.tunnels_live().await;

    // The end of the program waits for tunnels, and cuts them off.
    let ended = Duration::from_secs(1);
    proxy.process.terminate();
    assert!(tokio::time::timeout(ended, proxy.process.ended()).await.is_err(), "it waits");
    open.tunnels_live().await;
    assert_eq!(proxy.process.ended().await, 0);
    for tunnel in &mut open.tunnels {
        assert!(tunnel.read().await.is_err());
    }
}
