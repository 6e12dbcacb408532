//! The admin page: probes, metrics, and what is configured. It never shows a secret.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, ORIGIN};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::dump::Dump;
use crate::snapshot::SnapshotCell;
use crate::telemetry::Registry;

pub mod dump;
mod pages;

/// Connections at a time; more wait.
const CONNECTIONS_MAX: usize = 256;
/// How long a request head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the config loop may take to answer; a big change is compiled meanwhile.
const DUMP_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether traffic should come here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// The first snapshot is not complete.
    Starting,
    /// Yes.
    Ready,
    /// No more: the proxy is about to end.
    Draining,
}

/// What the admin page shows, and where it gets it from.
#[derive(Debug)]
pub struct Admin {
    /// Numbers.
    pub registry: Arc<Registry>,
    /// What requests see.
    pub snapshots: SnapshotCell,
    /// Whether traffic should come here.
    pub readiness: watch::Receiver<Readiness>,
    /// Asks the config loop for what it knows.
    pub dumps: mpsc::Sender<oneshot::Sender<Dump>>,
    /// Ends the proxy.
    pub quit: CancellationToken,
}

/// Serves the admin page until `shutdown`.
pub async fn serve(
    admin: Arc<Admin>,
    listener: TcpListener,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = shutdown.run_until_cancelled(async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        });
        match accepted.await {
            Some((Ok(slot), Ok((stream, peer)))) => {
                let (admin, shutdown) = (Arc::clone(&admin), shutdown.clone());
                tasks.spawn(async move {
                    shutdown.run_until_cancelled(converse(admin, stream, peer)).await;
                    drop(slot);
                });
            }
            Some((_, Err(error))) => {
                tracing::debug!(%error, "admin connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Some((Err(_), _)) | None => return,
        }
    }
}

async fn converse(admin: Arc<Admin>, stream: TcpStream, peer: SocketAddr) {
    let service = service_fn(move |request: Request<Incoming>| {
        let admin = Arc::clone(&admin);
        async move {
            let is_local = peer.ip().to_canonical().is_loopback();
            Ok::<_, std::convert::Infallible>(admin.respond(&request, is_local).await)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "admin connection ended");
    }
}

/// A path, whether it changes something, and what it is for.
type Page = (&'static str, bool, &'static str);

const PAGES: [Page; 8] = [
    ("/livez", false, "200 while the process runs"),
    ("/readyz", false, "200 while traffic should come here"),
    ("/ready", false, "the same in Envoy's words"),
    ("/metrics", false, "numbers, as Prometheus text"),
    (
        "/config_dump",
        false,
        "what the control plane sent, with versions and whether it was accepted",
    ),
    ("/clusters", false, "endpoints, as text"),
    ("/listeners", false, "listeners, as text"),
    ("/quitquitquit", true, "drains and ends the proxy"),
];

impl Admin {
    async fn respond<B>(&self, request: &Request<B>, is_local: bool) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let Some((_, changes, _)) = PAGES.iter().find(|(known, _, _)| *known == path) else {
            return text(StatusCode::NOT_FOUND, index());
        };
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        if *changes != (*request.method() == Method::POST) || !(*changes || is_read) {
            let allowed = if *changes { "POST" } else { "GET" };
            let mut response =
                text(StatusCode::METHOD_NOT_ALLOWED, format!("{path} answers {allowed} only\n"));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            return response;
        }
        // A browser that a page of someone else's sends here says where that page is from.
        if *changes && (!is_local || request.headers().contains_key(ORIGIN)) {
            return text(StatusCode::FORBIDDEN, "changes are made from this machine only\n".into());
        }
        match path {
            "/livez" => text(StatusCode::OK, "ok\n".into()),
            "/readyz" => self.readyz(["starting\n", "ready\n", "draining\n"]),
            "/ready" => self.readyz(["INITIALIZING\n", "LIVE\n", "DRAINING\n"]),
            "/metrics" => typed("text/plain; version=0.0.4", self.registry.render()),
            "/clusters" => text(StatusCode::OK, pages::clusters(&self.snapshots.load())),
            "/quitquitquit" => {
                self.quit.cancel();
                text(StatusCode::OK, "OK\n".into())
            }
            _ => match self.ask().await {
                Some(dump) if path == "/listeners" => text(StatusCode::OK, pages::listeners(&dump)),
                Some(dump) => config_dump(dump).await,
                None => text(StatusCode::SERVICE_UNAVAILABLE, "the proxy is busy or ends\n".into()),
            },
        }
    }

    fn readyz(&self, words: [&'static str; 3]) -> Response<Full<Bytes>> {
        let [starting, ready, draining] = words;
        match *self.readiness.borrow() {
            Readiness::Starting => text(StatusCode::SERVICE_UNAVAILABLE, starting.into()),
            Readiness::Ready => text(StatusCode::OK, ready.into()),
            Readiness::Draining => text(StatusCode::SERVICE_UNAVAILABLE, draining.into()),
        }
    }

    async fn ask(&self) -> Option<Dump> {
        let work = async {
            let (reply, dump) = oneshot::channel();
            self.dumps.send(reply).await.ok()?;
            dump.await.ok()
        };
        tokio::time::timeout(DUMP_TIMEOUT, work).await.ok().flatten()
    }
}

async fn config_dump(dump: Dump) -> Response<Full<Bytes>> {
    let render = move || {
        let json = format!("{:#}\n", dump.to_json());
        // They take more memory than most configurations.
        xds_proto::descriptor::release();
        json
    };
    match tokio::task::spawn_blocking(render).await {
        Ok(json) => typed("application/json", json),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn index() -> String {
    let mut index = String::from("not found; there is:\n");
    for (path, changes, what) in PAGES {
        let method = if changes { "POST" } else { "GET" };
        index.push_str(&format!("  {method:4} {path:15} {what}\n"));
    }
    index
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = typed("text/plain; charset=utf-8", body);
    *response.status_mut() = status;
    response
}

fn typed(content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(readiness: Readiness) -> Admin {
        Admin {
            registry: Arc::default(),
            snapshots: SnapshotCell::default(),
            readiness: watch::channel(readiness).1,
            dumps: mpsc::channel(1).0,
            quit: CancellationToken::new(),
        }
    }

    async fn ask(admin: &Admin, method: Method, path: &str, is_local: bool) -> StatusCode {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        admin.respond(&request, is_local).await.status()
    }

    #[tokio::test]
    async fn readiness_is_told_in_both_dialects() {
        for (readiness, status) in [
            (Readiness::Starting, StatusCode::SERVICE_UNAVAILABLE),
            (Readiness::Ready, StatusCode::OK),
            (Readiness::Draining, StatusCode::SERVICE_UNAVAILABLE),
        ] {
            let admin = admin(readiness);
            assert_eq!(ask(&admin, Method::GET, "/readyz", false).await, status);
            assert_eq!(ask(&admin, Method::GET, "/ready", false).await, status);
            assert_eq!(ask(&admin, Method::GET, "/livez", false).await, StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn only_a_local_post_changes_anything() {
        let admin = admin(Readiness::Ready);
        for (method, is_local, status) in [
            (Method::GET, true, StatusCode::METHOD_NOT_ALLOWED),
            (Method::POST, false, StatusCode::FORBIDDEN),
        ] {
            assert_eq!(ask(&admin, method, "/quitquitquit", is_local).await, status);
        }
        let mut request =
            Request::builder().method(Method::POST).uri("/quitquitquit").body(()).unwrap();
        request.headers_mut().insert(ORIGIN, HeaderValue::from_static("http://a.test"));
        assert_eq!(admin.respond(&request, true).await.status(), StatusCode::FORBIDDEN);
        assert!(!admin.quit.is_cancelled());
        assert_eq!(ask(&admin, Method::POST, "/quitquitquit", true).await, StatusCode::OK);
        assert!(admin.quit.is_cancelled());
        let status = ask(&admin, Method::POST, "/metrics", true).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test]
    async fn an_unknown_path_lists_what_there_is() {
        assert_eq!(
            ask(&admin(Readiness::Ready), Method::GET, "/", true).await,
            StatusCode::NOT_FOUND
        );
        assert!(index().contains("GET  /config_dump"));
    }
}
