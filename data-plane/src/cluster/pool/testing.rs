//! Upstreams for tests: a hyper server, or a script of bytes, in the test's own process.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use xds_proto::convert::Address;

use crate::body::Body;
use crate::cluster::balancer::{BalancerConfig, Selection};
use crate::cluster::endpoints::{
    EndpointConfig, EndpointsConfig, Health, Locality, LocalityConfig,
};
use crate::cluster::failure::UpstreamError;
use crate::cluster::health::CheckConfig;
use crate::cluster::live::Breakers;
use crate::cluster::outlier::OutlierConfig;
use crate::cluster::pool::Pools;
use crate::cluster::protocol::ConnectionConfig;
use crate::cluster::{Cluster, ClusterConfig, Discovery};
use crate::telemetry::Registry;
use crate::tls::client::ClientTlsConfig;

/// What an upstream saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Connections accepted.
    pub(crate) accepted: Cell<usize>,
    /// Connections that ended.
    pub(crate) ended: Cell<usize>,
    /// Requests being answered.
    pub(crate) busy: Cell<usize>,
    /// The most requests being answered at a time.
    pub(crate) busiest: Cell<usize>,
}

/// An upstream.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Rc<Seen>,
    /// Requests for `/wait` take one each.
    pub(crate) tickets: Rc<Semaphore>,
    /// Connections that are told to go away once they have answered.
    pub(crate) goes_away: Rc<Cell<bool>>,
}

/// What the upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Speaks {
    Http1,
    Http2 { streams_max: u32 },
}

impl Upstream {
    /// Starts a hyper server.
    pub(crate) async fn start(speaks: Speaks, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            seen: Rc::default(),
            tickets: Rc::new(Semaphore::new(0)),
            goes_away: Rc::default(),
        };
        let (seen, tickets) = (Rc::clone(&upstream.seen), Rc::clone(&upstream.tickets));
        let goes_away = Rc::clone(&upstream.goes_away);
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen.accepted.set(seen.accepted.get() + 1);
                let (seen, tickets) = (Rc::clone(&seen), Rc::clone(&tickets));
                let (goes_away, tls) = (Rc::clone(&goes_away), tls.clone());
                spawn_local(async move {
                    match tls {
                        None => drive(stream, speaks, &seen, tickets, goes_away).await,
                        Some(tls) => {
                            if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                                drive(stream, speaks, &seen, tickets, goes_away).await;
                            }
                        }
                    }
                    seen.ended.set(seen.ended.get() + 1);
                });
            }
        });
        upstream
    }

    pub(crate) fn accepted(&self) -> usize {
        self.seen.accepted.get()
    }
}

async fn drive(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
    speaks: Speaks,
    seen: &Rc<Seen>,
    tickets: Rc<Semaphore>,
    goes_away: Rc<Cell<bool>>,
) {
    let seen = Rc::clone(seen);
    let service = service_fn(move |request: http::Request<Incoming>| {
        answer(request, Rc::clone(&seen), Rc::clone(&tickets))
    });
    let io = TokioIo::new(stream);
    match speaks {
        Speaks::Http1 => {
            let server = hyper::server::conn::http1::Builder::new();
            drop(server.serve_connection(io, service).await);
        }
        Speaks::Http2 { streams_max } => {
            let mut server = hyper::server::conn::http2::Builder::new(Local);
            server.max_concurrent_streams(streams_max);
            let mut connection = std::pin::pin!(server.serve_connection(io, service));
            loop {
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = tokio::time::sleep(Duration::from_millis(1)), if goes_away.get() => {
                        goes_away.set(false);
                        connection.as_mut().graceful_shutdown();
                    }
                    () = tokio::time::sleep(Duration::from_millis(5)), if !goes_away.get() => {}
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, part: F) {
        spawn_local(part);
    }
}

async fn answer(
    request: http::Request<Incoming>,
    seen: Rc<Seen>,
    tickets: Rc<Semaphore>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    seen.busy.set(seen.busy.get() + 1);
    seen.busiest.set(seen.busiest.get().max(seen.busy.get()));
    let path = request.uri().path().to_owned();
    let host = match request.uri().authority() {
        Some(authority) => authority.to_string(),
        None => request.headers()["host"].to_str().unwrap().to_owned(),
    };
    let body = request.into_body().collect().await.unwrap().to_bytes();
    if path == "/wait" {
        tickets.acquire().await.unwrap().forget();
    }
    seen.busy.set(seen.busy.get() - 1);
    let text = format!("{host} {path} {}", String::from_utf8_lossy(&body));
    let mut response = http::Response::new(Full::from(text));
    if path == "/close" {
        response.headers_mut().insert("connection", "close".parse().unwrap());
    }
    Ok(response)
}

/// An upstream that does as it is told with each connection.
pub(crate) async fn scripted<F: Future<Output = ()> + 'static>(
    script: impl Fn(TcpStream, usize) -> F + 'static,
) -> (SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Rc::new(Cell::new(0));
    let count = Rc::clone(&accepted);
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.set(count.get() + 1);
            spawn_local(script(stream, count.get()));
        }
    });
    (address, accepted)
}

/// Reads a request without a body.
pub(crate) async fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return false,
        }
    }
    true
}

/// Reads a request and writes `bytes`; whether the client is still there.
pub(crate) async fn reply(stream: &mut TcpStream, bytes: &str) -> bool {
    read_head(stream).await && stream.write_all(bytes.as_bytes()).await.is_ok()
}

/// A client of one cluster.
pub(crate) struct Client {
    pub(crate) pools: Pools,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) registry: Registry,
}

/// What a test's cluster has beside its only endpoint.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) connection: ConnectionConfig,
    pub(crate) breakers: Breakers,
    pub(crate) tls: Option<ClientTlsConfig>,
    pub(crate) outlier: Option<OutlierConfig>,
    pub(crate) check: Option<CheckConfig>,
}

/// Endpoints at these addresses.
pub(crate) fn endpoints(addresses: &[Address]) -> Arc<EndpointsConfig> {
    let endpoints = addresses.iter().map(|address| EndpointConfig {
        address: address.clone(),
        also: Box::default(),
        hostname: "".into(),
        weight: 1,
        health: Health::Healthy,
        labels: Arc::default(),
        sockets: None,
        check: None,
    });
    let group = LocalityConfig {
        locality: Locality::default(),
        priority: 0,
        weight: None,
        endpoints: endpoints.collect(),
    };
    Arc::new(EndpointsConfig {
        name: "c".into(),
        localities: Box::new([group]),
        overprovisioning_percent: 140,
    })
}

fn config(endpoints: &Arc<EndpointsConfig>, settings: Settings) -> ClusterConfig {
    ClusterConfig {
        name: "c".into(),
        discovery: Discovery::Static(Arc::clone(endpoints)),
        balancer: BalancerConfig::default(),
        connection: Arc::new(settings.connection),
        tls: settings.tls,
        sockets: Box::default(),
        breakers: settings.breakers,
        check: settings.check.map(Arc::new),
        outlier: settings.outlier,
        secrets: Box::default(),
    }
}

/// A cluster that chooses as told.
pub(crate) fn of_config(balancer: BalancerConfig, endpoints: Arc<EndpointsConfig>) -> Arc<Cluster> {
    let config = ClusterConfig { balancer, ..config(&endpoints, Settings::default()) };
    Client::linked(config, endpoints).cluster
}

/// A cluster of so many endpoints, which nobody talks to.
pub(crate) fn of_settings(count: u16, settings: Settings) -> Arc<Cluster> {
    let addresses: Vec<_> =
        (1..=count).map(|port| Address::Ip(([127, 0, 0, 1], port).into())).collect();
    Client::of(endpoints(&addresses), settings).cluster
}

impl Client {
    pub(crate) fn new(address: SocketAddr, settings: Settings) -> Self {
        Self::of(endpoints(&[Address::Ip(address)]), settings)
    }

    pub(crate) fn of(endpoints: Arc<EndpointsConfig>, settings: Settings) -> Self {
        Self::linked(config(&endpoints, settings), endpoints)
    }

    pub(crate) fn linked(config: ClusterConfig, endpoints: Arc<EndpointsConfig>) -> Self {
        let registry = Registry::default();
        let secrets = Default::default();
        let cluster = Cluster::link(Arc::new(config), endpoints, &secrets, None, &registry);
        Self { pools: Pools::new(TaskTracker::new()), cluster: cluster.unwrap(), registry }
    }

    /// Puts other endpoints in place.
    pub(crate) fn relink(&mut self, endpoints: Arc<EndpointsConfig>) {
        let config = Arc::clone(&self.cluster.config);
        let secrets = Default::default();
        let previous = Some(&self.cluster);
        let linked = Cluster::link(config, endpoints, &secrets, previous, &self.registry);
        self.cluster = linked.unwrap();
    }

    /// Sends a request and gives the head of the response.
    pub(crate) async fn send(
        &self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, UpstreamError> {
        let endpoint = self.cluster.pick(&Selection::default()).unwrap();
        self.pools.send(&endpoint, request).await
    }

    /// Gets a path and reads the response.
    pub(crate) async fn get(&self, path: &str) -> Result<String, UpstreamError> {
        let response = self.send(request(path)).await?;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }
}

/// A request for a path.
pub(crate) fn request(path: &str) -> http::Request<Body> {
    http::Request::builder().uri(path).header("host", "up.test").body(Body::empty()).unwrap()
}

/// Runs what needs local tasks, and not for ever.
pub(crate) async fn locally<F: Future>(test: F) -> F::Output {
    let local = tokio::task::LocalSet::new();
    let limited = tokio::time::timeout(Duration::from_secs(20), test);
    local.run_until(limited).await.unwrap()
}

/// Waits until a condition holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
