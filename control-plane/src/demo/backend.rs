//! A backend that says who it is.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

/// Starts one on a free port; it answers everything with `hello from NAME`.
///
/// # Errors
/// When no port is to be had.
pub async fn start(name: &'static str, tasks: &TaskTracker) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let connections = tasks.clone();
    tasks.spawn(async move {
        loop {
            // A connection that breaks before it is taken is the client's affair.
            let Ok((stream, _)) = listener.accept().await else { continue };
            let answer = service_fn(move |_| async move {
                let text = format!("hello from {name}\n");
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
            });
            connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    Ok(address)
}
