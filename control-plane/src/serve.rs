//! The xDS server: aggregated and per-type discovery services, both protocols, over one listener.

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;
use crate::snapshot::Snapshots;

/// Serves xDS on a listener until `shutdown`, then ends the streams and returns.
///
/// # Errors
/// When connections can no longer be accepted.
pub async fn serve(
    _snapshots: Arc<Snapshots>,
    _fleet: Arc<Fleet>,
    _listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<()> {
    shutdown.cancelled().await;
    Ok(())
}
