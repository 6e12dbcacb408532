//! The xDS server: aggregated and per-type discovery services, both protocols, over one listener.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use crate::fleet::Fleet;
use crate::serve::service::Discovery;
use crate::serve::stream::Shared;
use crate::snapshot::Snapshots;

pub mod service;
pub mod stream;
pub mod session;
pub mod delta;
pub mod sotw;
pub mod order;
pub mod response;
pub mod subscription;
pub mod held;
pub mod blame;
pub mod message;

/// How often a silent connection is probed, so that half-open ones are found.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long a probed connection may take to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How much a client may send before it must wait: requests are small, except for the list of
/// versions with which a client of a large fleet resumes.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// How long streams have to end when the control plane goes down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves xDS on a listener until `shutdown`, then ends the streams and returns.
///
/// # Errors
/// When the listener has no address, or connections can no longer be accepted.
pub async fn serve(
    snapshots: Arc<Snapshots>,
    fleet: Arc<Fleet>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let identifier = format!("weighlock/{} {address}", env!("CARGO_PKG_VERSION")).into();
    let shared = Shared { snapshots, fleet, identifier, shutdown: shutdown.clone() };
    let tasks = TaskTracker::new();
    let discovery = Discovery::new(shared, tasks.clone());
    let server = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .max_concurrent_streams(None)
        .serve_with_incoming_shutdown(
            discovery,
            TcpListenerStream::new(listener),
            shutdown.clone().cancelled_owned(),
        );
    let served = end_soon_after(&shutdown, server).await;
    shutdown.cancel();
    tasks.close();
    drop(tokio::time::timeout(SHUTDOWN_TIMEOUT, tasks.wait()).await);
    served
}

/// A connection that does not close by itself must not keep the program from ending.
async fn end_soon_after(
    shutdown: &CancellationToken,
    server: impl Future<Output = Result<(), tonic::transport::Error>>,
) -> io::Result<()> {
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
    };
    tokio::select! {
        served = server => served.map_err(io::Error::other),
        () = overdue => Ok(()),
    }
}
