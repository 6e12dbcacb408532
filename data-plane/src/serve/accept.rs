//! Accepts connections, whatever comes, until told to stop.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::connection;
use crate::proxy::connection::Serving;

/// How long to wait where the process or the machine is out of something. The connection stays in
/// the backlog; asking again at once would only burn the processor.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(serving: Rc<Serving>, socket: TcpListener, stop: CancellationToken) {
    let mut in_a_row = 0;
    while let Some(accepted) = stop.run_until_cancelled(socket.accept()).await {
        take(&serving, accepted).await;
        in_a_row += 1;
        if in_a_row >= serving.listener().config.accepts_per_wake {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
    }
    // With the socket, the kernel would throw away what waits at it.
    while let Ok(Ok(accepted)) = tokio::time::timeout(Duration::ZERO, socket.accept()).await {
        take(&serving, Ok(accepted)).await;
    }
}

async fn take(serving: &Rc<Serving>, accepted: io::Result<(TcpStream, std::net::SocketAddr)>) {
    match accepted {
        Ok((stream, remote)) => {
            let tasks = serving.worker().tasks.clone();
            tasks.spawn_local(connection::serve(Rc::clone(serving), stream, remote));
        }
        Err(error) if is_of_the_connection(&error) => {
            tracing::debug!(%error, listener = &*serving.name, "connection was gone at once");
        }
        Err(error) => {
            tracing::warn!(%error, listener = &*serving.name, "cannot accept; waiting");
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
        }
    }
}

/// Whether the error concerns the connection alone, and the next one may be fine.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | NotConnected)
}
