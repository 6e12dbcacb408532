//! Workers under traffic: real sockets, a backend that misbehaves on demand, and swaps between.

mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;
use xds_proto::envoy::config::cluster::v3::Cluster;
use xds_proto::envoy::config::listener::v3::Listener;
use xds_proto::json::from_yaml;
use xds_proto::resource::{Resource, ResourceType};

use crate::bootstrap::runtime::ResetLimits;
use crate::compile::Tables;
use crate::compile::link::link;
use crate::filtering::on_demand::Desk;
use crate::overload::Overload;
use crate::overload::plan::Limits;
use crate::serve::sockets::BindAddress;
use crate::serve::{Settings, Workers};
use crate::snapshot::SnapshotCell;
use crate::telemetry::Registry;

type Frames = futures_util::stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>;

/// Answers as the path says; counts requests that were given up.
struct Backend {
    address: SocketAddr,
    given_up: Arc<AtomicUsize>,
}

struct GivenUp(Arc<AtomicUsize>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Backend {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let given_up = Arc::new(AtomicUsize::new(0));
        let (tasks, count) = (TaskTracker::new(), Arc::clone(&given_up));
        tasks.clone().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tasks.spawn(async move {
                    let service = service_fn(move |request| answer(request, Arc::clone(&count)));
                    let auto = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let stream = TokioIo::new(stream);
                    drop(auto.serve_connection_with_upgrades(stream, service).await);
                });
            }
        });
        Self { address, given_up }
    }
}

async fn answer(
    request: Request<Incoming>,
    given_up: Arc<AtomicUsize>,
) -> Result<Response<StreamBody<Frames>>, Infallible> {
    let frames = |frames: Vec<Result<Frame<Bytes>, std::io::Error>>| -> StreamBody<Frames> {
        StreamBody::new(Box::pin(futures_util::stream::iter(frames)))
    };
    let mut response = Response::new(frames(vec![]));
    match request.uri().path() {
        "/hang" => {
            let _given_up = GivenUp(given_up);
            std::future::pending::<()>().await;
        }
        "/cut" => {
            use futures_util::StreamExt;
            let begin = futures_util::stream::once(async { Ok(Frame::data("begin".into())) });
            // Later, so that the head and the beginning are on their way.
            let cut = futures_util::stream::once(async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Err(std::io::Error::other("cut"))
            });
            *response.body_mut() = StreamBody::new(Box::pin(begin.chain(cut)));
        }
        "/grpc" => {
            let trailers =
                HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            let te = request.headers().get("te").cloned();
            let data = Frame::data(format!("te={:?}", te.unwrap()).into());
            *response.body_mut() = frames(vec![Ok(data), Ok(Frame::trailers(trailers))]);
        }
        "/ws" => {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket")] {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            TaskTracker::new().spawn(async move {
                let upgraded = hyper::upgrade::on(request).await.unwrap();
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
                tokio::io::copy(&mut read, &mut write).await.unwrap();
            });
        }
        _ => {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let text = format!("{} {} {:?} {}", head.method, head.uri, head.headers, body.len());
            *response.body_mut() = frames(vec![Ok(Frame::data(text.into()))]);
        }
    }
    Ok(response)
}

/// Workers with one listener.
struct Proxy {
    workers: Workers,
    snapshots: SnapshotCell,
    registry: Arc<Registry>,
    tables: Tables,
    address: SocketAddr,
    log: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

fn listener(routes: &str, extra: &str) -> Resource {
    let text = format!(
        r#"
name: in
address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
filter_chains:
- filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: in
      {extra}
      route_config:
        name: r
        virtual_hosts:
        - {{name: v, domains: ["*"], routes: [{routes}]}}
      http_filters:
      - name: envoy.filters.http.router
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"#
    );
    Resource::pack(&from_yaml::<Listener>(&text).unwrap()).unwrap()
}

fn cluster(name: &str, addresses: &[SocketAddr], is_http2: bool) -> Resource {
    let endpoint = |address: &SocketAddr| {
        let (ip, port) = (address.ip(), address.port());
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}}}"
        )
    };
    let endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
    let endpoints = endpoints.join(", ");
    let protocol =
        if is_http2 { "http2_protocol_options: {}" } else { "http_protocol_options: {}" };
    let text = format!(
        r#"
name: {name}
type: STATIC
connect_timeout: 1s
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {{{protocol}}}
load_assignment:
  cluster_name: {name}
  endpoints: [{{lb_endpoints: [{endpoints}]}}]
"#
    );
    Resource::pack(&from_yaml::<Cluster>(&text).unwrap()).unwrap()
}

impl Proxy {
    /// `routes` is YAML; clusters `one` (HTTP/1), `two` (HTTP/2), `dead`, `half` (dead) and
    /// `pair` may be named.
    async fn start(backend: &Backend, routes: &str, extra: &str) -> Self {
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("access.log");
        let (snapshots, registry) = (SnapshotCell::default(), Arc::new(Registry::default()));
        let settings = Settings {
            desk: Desk::new().0,
            registry: Arc::clone(&registry),
            access_log: Some(log.clone()),
            node: "n".into(),
            node_cluster: "edge".into(),
            overload: Overload::new(Limits::default()),
            resets: ResetLimits::default(),
        };
        let workers = Workers::start(NonZeroUsize::MIN, &snapshots, &settings).unwrap();
        let mut tables = Tables::default();
        let clusters = [
            cluster("one", &[backend.address], false),
            cluster("two", &[backend.address], true),
            cluster("dead", &[dead], false),
            cluster("half", &[backend.address, dead], false),
            cluster("pair", &[backend.address, Backend::start().await.address], false),
        ];
        assert_eq!(tables.apply(ResourceType::Cluster, &clusters, &[]), []);
        let bind = BindAddress { address: "127.0.0.1:0".parse().unwrap(), ipv4_compat: false };
        let sockets = workers.bind(bind, false).unwrap();
        let address = sockets.address;
        let mut proxy =
            Self { workers, snapshots, registry, tables, address, log, _folder: folder };
        proxy.push(routes, extra);
        proxy.workers.listen(&"in".into(), sockets);
        proxy
    }

    fn push(&mut self, routes: &str, extra: &str) {
        self.push_listener(listener(routes, extra));
    }

    fn push_listener(&mut self, listener: Resource) {
        assert_eq!(self.tables.apply(ResourceType::Listener, &[listener], &[]), []);
        let linked = link(&self.tables, &self.snapshots.load(), &self.registry);
        assert_eq!(linked.waiting, []);
        self.snapshots.publish(Arc::new(linked.snapshot));
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn http1(&self) -> http1::SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.connect().await);
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        TaskTracker::new().spawn(connection);
        sender
    }

    async fn http2(&self) -> http2::SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.connect().await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        TaskTracker::new().spawn(connection);
        sender
    }

    /// The lines of the log, once there are that many.
    async fn lines(&self, count: usize) -> Vec<serde_json::Value> {
        let text = || std::fs::read_to_string(&self.log).unwrap_or_default();
        until(|| text().lines().count() >= count).await;
        text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Waits until it holds, or long enough to be sure that it never will.
async fn until(holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(holds(), "waited in vain");
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::builder().uri(path).header("host", "a.test").body(Full::default()).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

const ALL_TO_ONE: &str = "{match: {prefix: /}, name: all, route: {cluster: one}}";

#[tokio::test]
async fn http1_is_forwarded_with_the_headers_of_the_edge() {
    let backend = Backend::start().await;
    let proxy = Proxy::start(&backend, ALL_TO_ONE, "").await;
    let mut client = proxy.http1().await;
    let mut request = get("/x?y=1");
    *request.method_mut() = http::Method::POST;
    *request.body_mut() = Full::from("hello");
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["server"], "envoy");
    assert!(response.headers().contains_key("x-envoy-upstream-service-time"));
    let echo = text(response).await;
    assert!(echo.starts_with("POST /x?y=1 "), "{echo}");
    assert!(echo.ends_with(" 5"), "{echo}");
    for header in [
        "x-request-id",
        "\"x-forwarded-proto\": \"http\"",
        "x-envoy-expected-rq-timeout-ms\": \"15000\"",
        "\"host\": \"a.test\"",
    ] {
        assert!(echo.contains(header), "{header} in {echo}");
    }
    assert!(!echo.contains("x-forwarded-for"), "{echo}");
    let line = &proxy.lines(1).await[0];
    assert_eq!(
        (&line["status"], &line["route"], &line["path"]),
        (&200.into(), &"all".into(), &"/x".into())
    );
    assert_eq!((&line["bytes_in"], &line["cluster"]), (&5.into(), &"one".into()));
    assert!(line.get("why").is_none());
}

#[tokio::test]
async fn http2_is_forwarded_to_both_versions_and_trailers_pass() {
    let backend = Backend::start().await;
    let routes = "{match: {prefix: /grpc}, route: {cluster: two}}, {match: {prefix: /}, route: {cluster: one}}";
    let proxy = Proxy::start(&backend, routes, "").await;
    let mut client = proxy.http2().await;
    let request = |path: &str| {
        let uri = format!("http://a.test{path}");
        Request::builder().uri(uri).header("te", "trailers").body(Full::default()).unwrap()
    };
    let echo = text(client.send_request(request("/x")).await.unwrap()).await;
    assert!(echo.contains("\"host\": \"a.test\""), "{echo}");
    let response = client.send_request(request("/grpc")).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "te=\"trailers\"");
}

#[tokio::test]
async fn failures_are_answered_as_envoy_answers_them_and_say_why() {
    let backend = Backend::start().await;
    let routes = "{match: {prefix: /dead}, route: {cluster: dead}}, {match: {prefix: /gone}, route: {cluster_header: x-cluster}}, {match: {prefix: /hang}, route: {cluster: one, timeout: 0.1s}}";
    let proxy = Proxy::start(&backend, routes, "").await;
    let mut client = proxy.http1().await;
    let connect = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";
    for (path, status, body) in [
        ("/none", 404, ""),
        ("/dead", 503, connect),
        ("/gone", 503, ""),
        ("/hang", 504, "upstream request timeout"),
    ] {
        let response = client.send_request(get(path)).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(text(response).await, body, "{path}");
        client.ready().await.unwrap();
    }
    let lines = proxy.lines(4).await;
    let whys: Vec<_> = lines.iter().map(|line| line["why"].as_str().unwrap()).collect();
    assert_eq!(whys, ["no_route", "upstream_connect_failed", "no_cluster", "upstream_timeout"]);
    assert_eq!(backend.given_up.load(Relaxed), 1);
    let page = proxy.registry.render();
    assert!(page.contains("weighlock_local_replies_total{listener=\"in\",host=\"_other\",route=\"_none\",reason=\"no_route\"} 1"), "{page}");
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_request_upstream() {
    let backend = Backend::start().await;
    let proxy = Proxy::start(&backend, ALL_TO_ONE, "").await;
    let mut stream = proxy.connect().await;
    stream.write_all(b"GET /hang HTTP/1.1\r\nhost: a.test\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    let line = &proxy.lines(1).await[0];
    assert_eq!((&line["why"], &line["status"]), (&"client_closed".into(), &0.into()));
    until(|| backend.given_up.load(Relaxed) == 1).await;
}

#[tokio::test]
async fn a_body_that_breaks_off_upstream_breaks_off_downstream() {
    let backend = Backend::start().await;
    let proxy = Proxy::start(&backend, ALL_TO_ONE, "").await;
    let mut stream = proxy.connect().await;
    stream.write_all(b"GET /cut HTTP/1.1\r\nhost: a.test\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    let all = String::from_utf8(all).unwrap();
    assert!(all.starts_with("HTTP/1.1 200"), "{all}");
    assert!(!all.ends_with("0\r\n\r\n"), "{all}");
    let response = proxy.http2().await.send_request(get("http://a.test/cut")).await;
    assert!(response.unwrap().into_body().collect().await.is_err());
    assert_eq!(proxy.lines(2).await[0]["why"], "response_broken");
}

#[tokio::test]
async fn a_websocket_is_a_tunnel_only_where_it_is_allowed() {
    let backend = Backend::start().await;
    let mut proxy =
        Proxy::start(&backend, ALL_TO_ONE, "upgrade_configs: [{upgrade_type: websocket}]").await;
    let ask =
        b"GET /ws HTTP/1.1\r\nhost: a.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut stream = proxy.connect().await;
    stream.write_all(ask).await.unwrap();
    let mut buffer = [0; 1024];
    let read = stream.read(&mut buffer).await.unwrap();
    let head = String::from_utf8_lossy(&buffer[..read]).to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
    stream.write_all(b"ping").await.unwrap();
    let read = stream.read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..read], b"ping");
    proxy.push(ALL_TO_ONE, "");
    stream.write_all(b"pong").await.unwrap();
    let read = stream.read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..read], b"pong");
    let mut other = proxy.connect().await;
    other.write_all(ask).await.unwrap();
    let read = other.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 403"));
}

#[tokio::test]
async fn a_swap_shows_on_the_connections_that_are_open() {
    let backend = Backend::start().await;
    let mut proxy = Proxy::start(&backend, ALL_TO_ONE, "").await;
    let (mut first, mut second) = (proxy.http1().await, proxy.http2().await);
    for round in 0..20 {
        let status = 200 + round;
        let routes = format!("{{match: {{prefix: /}}, direct_response: {{status: {status}}}}}");
        proxy.push(&routes, &format!("server_name: s{round}"));
        let one = first.send_request(get("/")).await.unwrap();
        let two = second.send_request(get("http://a.test/")).await.unwrap();
        for response in [one, two] {
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()["server"], format!("s{round}"));
            text(response).await;
        }
        first.ready().await.unwrap();
    }
}

#[tokio::test]
async fn draining_finishes_what_is_under_way_and_closes() {
    let backend = Backend::start().await;
    let routes = "{match: {prefix: /hang}, route: {cluster: one, timeout: 0.3s}}, {match: {prefix: /}, route: {cluster: one}}";
    let proxy = Proxy::start(&backend, routes, "").await;
    let (mut busy, mut talking) = (proxy.http1().await, proxy.http1().await);
    text(talking.send_request(get("/")).await.unwrap()).await;
    talking.ready().await.unwrap();
    let asked = busy.send_request(get("/hang"));
    let traffic = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let response = talking.send_request(get("/")).await.unwrap();
        assert_eq!(response.headers()["connection"], "close");
        asked.await.unwrap()
    };
    let drained = proxy.workers.drain(Duration::from_millis(200), Duration::from_secs(10));
    let (response, ()) = tokio::join!(traffic, drained);
    assert_eq!(response.status(), 504);
    assert!(TcpStream::connect(proxy.address).await.is_err());
}

#[tokio::test]
async fn a_request_that_found_a_dead_endpoint_goes_to_another_and_turns_are_kept() {
    let backend = Backend::start().await;
    let routes = "{match: {prefix: /half}, route: {cluster: half}}, {match: {prefix: /}, route: {cluster: pair}}";
    let proxy = Proxy::start(&backend, routes, "").await;
    let mut client = proxy.http1().await;
    for path in ["/half", "/"] {
        for _ in 0..10 {
            let response = client.send_request(get(path)).await.unwrap();
            assert_eq!(response.status(), 200);
            text(response).await;
            client.ready().await.unwrap();
        }
    }
    let lines = proxy.lines(20).await;
    assert!(lines[..10].iter().any(|line| line["attempts"] == 2));
    let here = backend.address.to_string();
    assert_eq!(lines[10..].iter().filter(|line| line["endpoint"] == here).count(), 5);
}

#[tokio::test]
async fn a_policy_has_failures_tried_again_and_says_when_it_gave_up() {
    let backend = Backend::start().await;
    let routes = "{match: {prefix: /}, route: {cluster: dead, retry_policy: {retry_on: connect-failure, num_retries: 2, retry_back_off: {base_interval: 0.001s}}}}";
    let proxy = Proxy::start(&backend, routes, "").await;
    let mut client = proxy.http1().await;
    let response = client.send_request(get("/")).await.unwrap();
    assert_eq!(response.status(), 503);
    let body = text(response).await;
    assert!(body.contains("headers. retried and the latest reset reason: "), "{body}");
    let line = &proxy.lines(1).await[0];
    assert_eq!((&line["attempts"], &line["flags"]), (&3.into(), &"URX,UF".into()));
    assert_eq!(line["why"], "retries_exhausted");
}
