//! Workers: threads that accept connections, serve them, and let them go.

pub mod sockets;
mod accept;
mod connection;
mod end;
mod frames;
mod gate;
mod guarded;
mod handshake;
mod io;
mod proxy_protocol;
mod socket;
mod worker;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use self::sockets::{BindAddress, Sockets};
use self::worker::Command;
use crate::bootstrap::runtime::ResetLimits;
use crate::filtering::on_demand::Desk;
use crate::overload::Overload;
use crate::proxy::worker::WorkerSettings;
use crate::snapshot::SnapshotCell;
use crate::telemetry::Registry;

/// Commands that may wait for a worker.
const COMMANDS: usize = 4096;

/// How long a listener that was removed may take to let its connections go.
const REMOVED_DRAIN_MAX: Duration = Duration::from_secs(600);

/// What workers are told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where all numbers are.
    pub registry: Arc<Registry>,
    /// The file of the proxy's own access log; `-` is standard output.
    pub access_log: Option<PathBuf>,
    /// The node's name, for the log.
    pub node: Arc<str>,
    /// The cluster that the node belongs to.
    pub node_cluster: Arc<str>,
    /// Where virtual hosts are asked for that are not there yet.
    pub desk: Desk,
    /// What is done about too much work.
    pub overload: Arc<Overload>,
    /// How many streams of HTTP/2 may be given up early.
    pub resets: ResetLimits,
}

/// The threads that serve. Dropped, they end at once.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
}

impl Workers {
    /// Starts `count` workers that serve what `snapshots` holds.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(
        count: NonZeroUsize,
        snapshots: &SnapshotCell,
        settings: &Settings,
    ) -> std::io::Result<Self> {
        let logs = settings.registry.start_access_logs()?;
        let access_log = settings.access_log.as_ref().and_then(|path| logs.file(path));
        let settings = WorkerSettings {
            registry: Arc::clone(&settings.registry),
            access_log,
            node: Arc::clone(&settings.node),
            node_cluster: Arc::clone(&settings.node_cluster),
            desk: settings.desk.clone(),
            overload: Arc::clone(&settings.overload),
            resets: settings.resets,
            own_address: sockets::own_address(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into(),
        };
        let mut workers = Vec::with_capacity(count.get());
        for index in 0..count.get() {
            let (commands, inbox) = mpsc::channel(COMMANDS);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (snapshots, settings) = (snapshots.clone(), settings.clone());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || worker::run(&runtime, &snapshots, settings, inbox))?;
            workers.push(Thread { commands, thread });
        }
        Ok(Self { workers })
    }

    /// Binds a socket for each worker. `is_ours` says that one of our listeners has the address.
    ///
    /// # Errors
    /// When the address is taken or not of this machine.
    pub fn bind(&self, address: BindAddress, is_ours: bool) -> std::io::Result<Sockets> {
        Sockets::bind(address, self.workers.len(), is_ours)
    }

    /// Accepts connections of the listener `name` on `sockets`. The snapshot has the listener.
    pub fn listen(&self, name: &Arc<str>, sockets: Sockets) {
        for (worker, socket) in self.workers.iter().zip(sockets.sockets) {
            worker.tell(Command::Listen { name: Arc::clone(name), socket });
        }
    }

    /// Stops accepting for the listener `name`, and drains its connections.
    pub fn unlisten(&self, name: &Arc<str>) {
        for worker in &self.workers {
            worker.tell(Command::Unlisten { name: Arc::clone(name), within: REMOVED_DRAIN_MAX });
        }
    }

    /// Drains: for `delay` connections are still accepted, and clients hear that theirs end; then
    /// none is accepted, and what is under way may take `timeout` to end. Then all workers end.
    pub async fn drain(&self, delay: Duration, timeout: Duration) {
        for worker in &self.workers {
            worker.tell(Command::SayClose);
        }
        tokio::time::sleep(delay).await;
        let ends = self.workers.iter().map(|worker| {
            let (done, end) = oneshot::channel();
            worker.tell(Command::End { within: timeout, done });
            end
        });
        let ends: Vec<_> = ends.collect();
        for end in ends {
            // A worker that is gone has ended too.
            end.await.unwrap_or_default();
        }
    }
}

impl Thread {
    fn tell(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            tracing::error!("a worker does not listen");
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for Thread { commands, thread } in self.workers.drain(..) {
            drop(commands);
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}
