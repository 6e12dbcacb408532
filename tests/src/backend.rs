//! A backend that says who it is and echoes what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// How much is kept of what a backend was asked.
const SEEN_MAX: usize = 100;

/// A running backend.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    requests: Arc<Requests>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

impl Backend {
    /// Starts one on a free port; it speaks HTTP/1.1 and HTTP/2 with prior knowledge.
    pub async fn start(name: &'static str) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), name).await
    }

    /// As [`Self::start`], at an address.
    pub async fn start_at(address: SocketAddr, name: &'static str) -> Self {
        Self::start_over(address, name, None).await
    }

    /// Starts one that speaks TLS.
    pub async fn start_tls(name: &'static str, config: ServerConfig) -> Self {
        let tls = TlsAcceptor::from(Arc::new(config));
        Self::start_over(([127, 0, 0, 1], 0).into(), name, Some(tls)).await
    }

    async fn start_over(address: SocketAddr, name: &'static str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Requests>::default();
        let count = Arc::clone(&requests);
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::clone(&connections);
        let open = Arc::new(AtomicUsize::new(0));
        let now_open = Arc::clone(&open);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                accepted.fetch_add(1, Ordering::Relaxed);
                let (count, noted) = (Arc::clone(&count), Arc::clone(&noted));
                let tls = tls.clone();
                let open = Open::new(&now_open);
                tokio::spawn(async move {
                    let _open = open;
                    let Some(tls) = tls else {
                        return serve(stream, (name, Client::default()), (count, noted)).await;
                    };
                    if let Ok(stream) = tls.accept(stream).await {
                        let session = stream.get_ref().1;
                        let client = Client {
                            server_name: session.server_name().map(str::to_owned),
                            certificate: session.peer_certificates().is_some(),
                        };
                        serve(stream, (name, client), (count, noted)).await;
                    }
                });
            }
        });
        Self { address, requests, connections, open, seen, task }
    }

    /// What it was asked of late, as it echoed it.
    pub fn seen(&self) -> Vec<Value> {
        self.seen.lock().unwrap().clone()
    }

    /// Forgets what it was asked.
    pub fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many requests it has seen.
    pub fn hits(&self) -> usize {
        self.requests.all.load(Ordering::Relaxed)
    }

    /// How many requests it has had in hand at once, at most, since this was asked last.
    pub fn take_most(&self) -> usize {
        self.requests.most.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How many requests there were, and are in hand.
#[derive(Debug, Default)]
struct Requests {
    all: AtomicUsize,
    now: Arc<AtomicUsize>,
    most: AtomicUsize,
}

impl Requests {
    fn begin(&self) -> Open {
        self.all.fetch_add(1, Ordering::Relaxed);
        let one = Open::new(&self.now);
        self.most.fetch_max(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
        one
    }
}

/// One open connection or request, as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a client said before its first request.
#[derive(Debug, Clone, Default)]
struct Client {
    server_name: Option<String>,
    certificate: bool,
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (name, client): (&'static str, Client),
    (count, noted): (Arc<Requests>, Arc<Mutex<Vec<Value>>>),
) {
    let service = service_fn(move |request| {
        let (one, client, noted) = (count.begin(), client.clone(), Arc::clone(&noted));
        async move {
            let answer = answer(name, client, request, noted).await;
            drop(one);
            answer
        }
    });
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

/// `/status/N` answers N, `/slow/MS` waits, an upgrade to `websocket` echoes bytes; all else echoes the request as JSON. A header
/// `reply-NAME` of the request becomes the header `NAME` of the response.
async fn answer(
    name: &'static str,
    client: Client,
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Value>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.headers().get("upgrade").is_some_and(|value| value == "websocket") {
        return Ok(upgrade(request));
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut status = StatusCode::OK;
    let path = head.uri.path();
    if let Some(code) = path.strip_prefix("/status/") {
        status = code.parse().unwrap_or(StatusCode::BAD_REQUEST);
    }
    if let Some(wait) = path.strip_prefix("/slow/").and_then(|ms| ms.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
    // Several lines of one name are one, as RFC 9110 section 5.3 has it.
    let line = |name: &HeaderName| {
        let lines = head.headers.get_all(name).iter();
        lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect::<Vec<_>>().join(",")
    };
    let headers: serde_json::Map<_, _> =
        head.headers.keys().map(|name| (name.to_string(), line(name).into())).collect();
    let host = head.uri.host().map(str::to_owned);
    let mut echo = json!({
        "backend": name, "scheme": head.uri.scheme_str(), "method": head.method.as_str(), "host": host,
        "path": head.uri.path_and_query().map_or("", |path| path.as_str()),
        "version": format!("{:?}", head.version), "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    if let Some(server_name) = client.server_name {
        echo["server_name"] = server_name.into();
        echo["certificate"] = if client.certificate { "shown" } else { "none" }.into();
    }
    {
        let mut seen = seen.lock().unwrap();
        if seen.len() < SEEN_MAX {
            seen.push(echo.clone());
        }
    }
    let mut response = Response::new(Full::new(echo.to_string().into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("x-backend", HeaderValue::from_static(name));
    for (key, value) in &head.headers {
        if let Some(key) = key.as_str().strip_prefix("reply-") {
            headers.append(key.parse::<HeaderName>().unwrap(), value.clone());
        }
    }
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    Ok(response)
}

fn upgrade(request: Request<Incoming>) -> Response<Full<Bytes>> {
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .body(Full::default())
        .unwrap()
}
