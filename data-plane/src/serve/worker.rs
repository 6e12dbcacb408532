//! The thread of a worker: what it is told, and the listeners that it serves.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::{accept, sockets};
use crate::proxy::connection::Serving;
use crate::proxy::worker::{Worker, WorkerSettings};
use crate::snapshot::SnapshotCell;

/// How often listeners without requests follow the snapshot.
const REFRESH: Duration = Duration::from_secs(1);

/// How long the clients of a listener that was removed hear that their connections end, before
/// those without a request are closed.
const SAY_CLOSE_FOR: Duration = Duration::from_secs(5);

/// How long it takes after that until all have been asked to end, so that they do not come back all at
/// once; and in how many parts.
const ASK_FOR: Duration = Duration::from_secs(5);
const ASK_PARTS: u32 = 20;

/// How long the last lines of access log may take to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// What a worker is told to do.
#[derive(Debug)]
pub(super) enum Command {
    Listen { name: Arc<str>, socket: std::net::TcpListener },
    Unlisten { name: Arc<str>, within: Duration },
    SayClose,
    End { within: Duration, done: oneshot::Sender<()> },
}

pub(super) fn run(
    runtime: &Runtime,
    snapshots: &SnapshotCell,
    settings: WorkerSettings,
    inbox: mpsc::Receiver<Command>,
) {
    let local = LocalSet::new();
    local.block_on(runtime, async {
        let worker = Worker::new(settings, snapshots);
        let end = CancellationToken::new();
        let (sweeper, logger) = (Rc::clone(&worker), Rc::clone(&worker));
        let (sweep_end, log_end) = (end.clone(), end.clone());
        worker.tasks.spawn_local(async move { sweeper.pools.sweep(sweep_end).await });
        let logs = worker.tasks.spawn_local(async move { logger.flush_logs(log_end).await });
        Listeners { worker, active: HashMap::new(), leaving: Vec::new() }.run(inbox).await;
        end.cancel();
        if let Err(error) = logs.await {
            tracing::error!(%error, "the task of the access log failed");
        }
    });
}

/// The listeners of a worker.
struct Listeners {
    worker: Rc<Worker>,
    active: HashMap<Arc<str>, Active>,
    /// Removed, with connections that are let go.
    leaving: Vec<Rc<Serving>>,
}

struct Active {
    serving: Rc<Serving>,
    stop: CancellationToken,
}

impl Listeners {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut refresh = tokio::time::interval(REFRESH);
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let command = tokio::select! {
                command = inbox.recv() => command,
                _ = refresh.tick() => {
                    self.active.values().for_each(|active| active.serving.refresh());
                    self.leaving.retain(|serving| serving.connection_count() > 0);
                    continue;
                }
            };
            match command {
                None => return,
                Some(Command::Listen { name, socket }) => self.listen(&name, socket),
                Some(Command::Unlisten { name, within }) => self.unlisten(&name, within),
                Some(Command::SayClose) => {
                    self.worker.is_ending.set(true);
                    self.active.values().for_each(|active| active.serving.say_close());
                }
                Some(Command::End { within, done }) => {
                    self.end(within).await;
                    self.worker.finish_logs(LOG_PATIENCE);
                    // Whoever asked may have stopped waiting.
                    done.send(()).unwrap_or_default();
                    return;
                }
            }
        }
    }

    fn listen(&mut self, name: &Arc<str>, socket: std::net::TcpListener) {
        let Some(serving) = Serving::new(name, &self.worker) else {
            tracing::error!(listener = &**name, "listener is not in the snapshot");
            return;
        };
        let socket = sockets::listen(&socket).and_then(|()| TcpListener::from_std(socket));
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(listener = &**name, %error, "listener cannot be served");
                return;
            }
        };
        let stop = CancellationToken::new();
        let accepting = accept::run(Rc::clone(&serving), socket, stop.clone());
        self.worker.tasks.spawn_local(accepting);
        if let Some(before) = self.active.insert(Arc::clone(name), Active { serving, stop }) {
            before.stop.cancel();
            before.serving.drain();
        }
    }

    fn unlisten(&mut self, name: &Arc<str>, within: Duration) {
        let Some(active) = self.active.remove(name) else { return };
        active.stop.cancel();
        self.leaving.push(Rc::clone(&active.serving));
        self.worker.tasks.spawn_local(async move {
            active.serving.say_close();
            tokio::time::sleep(SAY_CLOSE_FOR.min(within)).await;
            for part in 0..ASK_PARTS {
                active.serving.drain_part(part, ASK_PARTS);
                tokio::time::sleep(ASK_FOR.min(within) / ASK_PARTS).await;
            }
            drain(&active.serving, within).await;
        });
    }

    async fn end(&mut self, within: Duration) {
        let active: Vec<_> = self.active.drain().map(|(_, active)| active).collect();
        for Active { stop, .. } in &active {
            stop.cancel();
        }
        let active = active.iter().map(|active| &active.serving);
        let all = active.chain(&self.leaving).map(|serving| drain(serving, within));
        futures_util::future::join_all(all).await;
    }
}

/// Asks the connections to end, and waits until they have.
async fn drain(serving: &Rc<Serving>, within: Duration) {
    // The accept loop has to take its last turn first: what it finds waiting is served.
    tokio::task::yield_now().await;
    serving.drain();
    let emptied = async {
        while serving.connection_count() > 0 {
            serving.emptied.notified().await;
        }
    };
    if tokio::time::timeout(within, emptied).await.is_err() {
        let left = serving.connection_count();
        tracing::warn!(listener = &*serving.name, left, "connections were cut off");
        serving.cut_off();
    }
}
