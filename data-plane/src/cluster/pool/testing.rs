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
use crate::cluster::balancer::BalancerConfig;
use crate::cluster::endpoints::{
    EndpointConfig, EndpointsConfig, Health, Locality, LocalityConfig,
};
use crate::cluster::failure::UpstreamError;
use crate::cluster::live::Breakers;
use crate::cluster::pool::Pools;
use crate::cluster::protocol::ConnectionConfig;
use crate::cluster::{Cluster, ClusterConfig, Discovery};
use crate::telemetry::Registry;
use crate::tls::client::ClientTlsConfig;

/// What an upstream saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Connections accepted.
    pub(super) accepted: Cell<usize>,
    /// Connections that ended.
    pub(super) ended: Cell<usize>,
    /// Requests being answered.
    pub(super) busy: Cell<usize>,
    /// The most requests being answered at a time.
    pub(super) busiest: Cell<usize>,
}

/// An upstream.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    pub(super) seen: Rc<Seen>,
    /// Requests for `/wait` take one each.
    pub(super) tickets: Rc<Semaphore>,
    /// Connections that are told to go away once they have answered.
    pub(super) goes_away: Rc<Cell<bool>>,
}

/// What the upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Speaks {
    Http1,
    Http2 { streams_max: u32 },
}

impl Upstream {
    /// Starts a hyper server.
    pub(super) async fn start(speaks: Speaks, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
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

    pub(super) fn accepted(&self) -> usize {
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
pub(super) async fn scripted<F: Future<Output = ()> + 'static>(
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
pub(super) async fn read_head(stream: &mut TcpStream) -> bool {
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
pub(super) async fn reply(stream: &mut TcpStream, bytes: &str) -> bool {
    read_head(stream).await && stream.write_all(bytes.as_bytes()).await.is_ok()
}

/// A client of one cluster.
pub(super) struct Client {
    pub(super) pools: Pools,
    pub(super) cluster: Arc<Cluster>,
    pub(super) registry: Registry,
}

/// What a test's cluster has beside its only endpoint.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) connection: ConnectionConfig,
    pub(super) breakers: Breakers,
    pub(super) tls: Option<ClientTlsConfig>,
}

/// Endpoints at these addresses.
pub(super) fn endpoints(addresses: &[Address]) -> Arc<EndpointsConfig> {
    let endpoints = addresses.iter().map(|address| EndpointConfig {
        address: address.clone(),
        hostname: "".into(),
        weight: 1,
        health: Health::Healthy,
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

impl Client {
    pub(super) fn new(address: SocketAddr, settings: Settings) -> Self {
        Self::of(endpoints(&[Address::Ip(address)]), settings)
    }

    pub(super) fn of(endpoints: Arc<EndpointsConfig>, settings: Settings) -> Self {
        let config = Arc::new(ClusterConfig {
            name: "c".into(),
            discovery: Discovery::Static(Arc::clone(&endpoints)),
            balancer: BalancerConfig::default(),
            connection: Arc::new(settings.connection),
            tls: settings.tls,
            breakers: settings.breakers,
            secret_names: Box::default(),
        });
        let registry = Registry::default();
        let secrets = Default::default();
        let cluster = Cluster::link(config, endpoints, &secrets, None, &registry).unwrap();
        Self { pools: Pools::new(TaskTracker::new()), cluster, registry }
    }

    /// Puts other endpoints in place.
    pub(super) fn relink(&mut self, endpoints: Arc<EndpointsConfig>) {
        let config = Arc::clone(&self.cluster.config);
        let secrets = Default::default();
        let previous = Some(&self.cluster);
        let linked = Cluster::link(config, endpoints, &secrets, previous, &self.registry);
        self.cluster = linked.unwrap();
    }

    /// Sends a request and gives the head of the response.
    pub(super) async fn send(
        &self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, UpstreamError> {
        let endpoint = self.cluster.pick().unwrap();
        self.pools.send(&self.cluster, &endpoint, request).await
    }

    /// Gets a path and reads the response.
    pub(super) async fn get(&self, path: &str) -> Result<String, UpstreamError> {
        let response = self.send(request(path)).await?;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }
}

/// A request for a path.
pub(super) fn request(path: &str) -> http::Request<Body> {
    http::Request::builder().uri(path).header("host", "up.test").body(Body::empty()).unwrap()
}

/// Runs what needs local tasks, and not for ever.
pub(super) async fn locally<F: Future>(test: F) -> F::Output {
    let local = tokio::task::LocalSet::new();
    let limited = tokio::time::timeout(Duration::from_secs(20), test);
    local.run_until(limited).await.unwrap()
}

/// Waits until a condition holds.
pub(super) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
