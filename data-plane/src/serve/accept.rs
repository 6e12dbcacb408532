//! Accepts connections, whatever comes, until told to stop.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection;
use crate::overload::door::Door;
use crate::proxy::connection::Serving;
use crate::telemetry::stats::Refusal;

/// How long to wait where the process or the machine is out of something. The connection stays in
/// the backlog; asking again at once would only burn the processor.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How often at most it is said that connections are turned away.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

pub(super) async fn run(serving: Rc<Serving>, socket: TcpListener, stop: CancellationToken) {
    let overload = &serving.worker().settings.overload;
    let door = overload.door(&serving.name, Arc::clone(&serving.listener().stats));
    let mut entrance = Entrance { serving, door, complained: None };
    let mut in_a_row = 0;
    while !stop.is_cancelled() {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = entrance.door.closed() => {
                stop.run_until_cancelled(entrance.door.opened()).await;
                continue;
            }
            accepted = socket.accept() => accepted,
        };
        entrance.take(accepted).await;
        in_a_row += 1;
        if in_a_row >= entrance.serving.listener().config.accepts_per_wake {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
    }
    // With the socket, the kernel would throw away what waits at it.
    while let Ok(Ok(accepted)) = tokio::time::timeout(Duration::ZERO, socket.accept()).await {
        entrance.take(Ok(accepted)).await;
    }
}

/// Where connections come in.
struct Entrance {
    serving: Rc<Serving>,
    door: Door,
    complained: Option<Instant>,
}

impl Entrance {
    async fn take(&mut self, accepted: io::Result<(TcpStream, std::net::SocketAddr)>) {
        let serving = &self.serving;
        match accepted {
            Ok((stream, remote)) => {
                match self.door.enter(&stream, serving.listener().config.exempt) {
                    Ok(pass) => {
                        let is_shed = pass.is_shed;
                        let tasks = serving.worker().tasks.clone();
                        let guest = connection::Guest { socket: stream, remote, pass };
                        tasks.spawn_local(connection::serve(Rc::clone(serving), guest));
                        if is_shed {
                            self.complain("too many connections; telling clients 503");
                        }
                    }
                    Err(Refusal::Descriptors) => self.complain("file descriptors run out"),
                    Err(Refusal::Overload) => self.complain("overloaded; closing connections"),
                    Err(Refusal::ListenerLimit | Refusal::Limit) => {
                        self.complain("too many connections; closing some");
                    }
                }
            }
            Err(error) if is_of_the_connection(&error) => {
                tracing::debug!(%error, listener = &*serving.name, "connection was gone at once");
            }
            Err(error) => {
                tracing::debug!(%error, listener = &*serving.name, "cannot accept");
                self.complain("cannot accept; waiting");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }

    /// Says once in a while that connections are turned away.
    fn complain(&mut self, message: &'static str) {
        let now = Instant::now();
        if self.complained.is_some_and(|last| now - last < COMPLAINT_INTERVAL) {
            return;
        }
        self.complained = Some(now);
        tracing::warn!(listener = &*self.serving.name, reason = message, "connections turned away");
    }
}

/// Whether the error concerns the connection alone, and the next one may be fine.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | NotConnected)
}
