//! Backends that die as a killed process does, and return at the same port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// How long a backend lives, and how long it is dead.
const LIVES: Duration = Duration::from_secs(3);
const DEAD: Duration = Duration::from_secs(2);

/// A backend; dropping it resets its connections.
#[derive(Debug)]
pub(crate) struct Mortal {
    pub(crate) address: SocketAddr,
    name: &'static str,
    task: JoinHandle<()>,
}

impl Mortal {
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), name).await
    }

    pub(crate) async fn start_at(address: SocketAddr, name: &'static str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, name, task: tokio::spawn(serve(listener, name)) }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends a backend and starts it again, until it is aborted.
pub(crate) async fn die_and_return(mut backend: Mortal) {
    let mut turn = Instant::now();
    loop {
        turn += LIVES;
        sleep_until(turn).await;
        backend.task.abort();
        turn += DEAD;
        sleep_until(turn).await;
        let listener = TcpListener::bind(backend.address).await.unwrap();
        backend.task = tokio::spawn(serve(listener, backend.name));
    }
}

async fn serve(listener: TcpListener, name: &'static str) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(name, request));
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Says who it is, and how much it was sent.
async fn answer(
    name: &'static str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let length = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
    let response = Response::builder().header("x-backend", name);
    Ok(response.body(Full::new(format!("{length}").into())).unwrap())
}
