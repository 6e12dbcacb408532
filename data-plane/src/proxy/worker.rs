//! What the requests of one worker share.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bootstrap::runtime::ResetLimits;
use crate::cluster::pool::Pools;
use crate::filtering::on_demand::Desk;
use crate::format::Context;
use crate::listener::AccessLog;
use crate::overload::Overload;
use crate::snapshot::{Snapshot, SnapshotCell, SnapshotReader};
use crate::telemetry::Registry;
use crate::telemetry::access_log::{LogFile, WorkerLog};

/// How long a line may wait for others before it is handed over.
const LOG_DELAY: Duration = Duration::from_millis(200);

/// What a worker is told.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Where all numbers are.
    pub registry: Arc<Registry>,
    /// The proxy's own access log.
    pub access_log: Option<LogFile>,
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
    /// What clients on this machine are called in `x-forwarded-for`.
    pub own_address: IpAddr,
    /// The name of this machine.
    pub hostname: Arc<str>,
}

/// What the requests of one worker share. Lives on the worker's thread.
#[derive(Debug)]
pub struct Worker {
    /// Connections to endpoints.
    pub pools: Pools,
    /// What it was told.
    pub settings: WorkerSettings,
    /// Tasks of the worker.
    pub tasks: TaskTracker,
    /// Whether the proxy is about to end: those who ask for its health are to send others no more.
    pub is_ending: Cell<bool>,
    snapshots: RefCell<SnapshotReader>,
    log: Option<WorkerLog>,
    log_waits: Notify,
}

impl Worker {
    /// A worker without connections.
    pub fn new(settings: WorkerSettings, snapshots: &SnapshotCell) -> Rc<Self> {
        let tasks = TaskTracker::new();
        let log = settings.registry.access_logs().map(|logs| logs.worker());
        Rc::new(Self {
            pools: Pools::new(tasks.clone()),
            settings,
            tasks,
            is_ending: Cell::new(false),
            snapshots: RefCell::new(snapshots.reader()),
            log,
            log_waits: Notify::new(),
        })
    }

    /// The current snapshot, where it is not `known`.
    pub fn newer_snapshot(&self, known: &Arc<Snapshot>) -> Option<Arc<Snapshot>> {
        let mut snapshots = self.snapshots.borrow_mut();
        let current = snapshots.get();
        (!Arc::ptr_eq(current, known)).then(|| Arc::clone(current))
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.snapshots.borrow_mut().get())
    }

    /// Adds a line to an access log.
    pub fn log(&self, file: LogFile, write: impl FnOnce(&mut String)) {
        if let Some(log) = &self.log
            && log.write(file, write)
        {
            self.log_waits.notify_one();
        }
    }

    /// Adds a line to each of these logs that wants one.
    pub fn log_all(&self, logs: &[AccessLog], context: &Context<'_>) {
        for log in logs.iter().filter(|log| log.filter.logs(context)) {
            self.log(log.file, |out| log.format.write(context, out));
        }
    }

    /// Has all lines written, at most for `patience`. Blocks the worker: nothing is under way.
    pub fn finish_logs(&self, patience: Duration) {
        if let (Some(log), Some(logs)) = (&self.log, self.settings.registry.access_logs()) {
            log.flush();
            logs.flush(patience);
        }
    }

    /// Hands lines over while they come in, until `shutdown`.
    pub async fn flush_logs(&self, shutdown: CancellationToken) {
        let Some(log) = &self.log else { return };
        while shutdown.run_until_cancelled(self.log_waits.notified()).await.is_some() {
            shutdown.run_until_cancelled(tokio::time::sleep(LOG_DELAY)).await;
            log.flush();
        }
        log.flush();
    }
}
