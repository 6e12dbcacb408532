//! Builds the proxy, owns its tasks and runtimes, and orders its shutdown.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustix::process::{Signal, nice, set_parent_process_death_signal};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xds_proto::descriptor;

use crate::admin::dump::Dump;
use crate::admin::{self, Admin, Readiness};
use crate::bootstrap::{Bootstrap, RuntimeSource};
use crate::cluster::watch::Surroundings;
use crate::compile::Origin;
use crate::compile::cluster::resolver;
use crate::filtering::on_demand::Desk;
use crate::overload::Overload;
use crate::serve::{self, Workers};
use crate::snapshot::SnapshotCell;
use crate::telemetry::Registry;
use crate::xds::client::{self, Event};
use crate::xds::disk::{Disk, DiskError};
use crate::xds::subscription::{Roots, Wanted};

pub mod settings;
pub mod logs;
mod config;
mod demands;
mod listening;
mod lookups;
mod patience;
mod pressure;
mod retired;
mod saver;
mod watches;
#[cfg(test)]
mod traffic;

use config::{ConfigLoop, Inbox, Outlets};
use listening::Listening;
use lookups::Lookups;
use pressure::Sampler;
use saver::Saver;
use settings::Args;
use watches::Watches;

/// Threads for all that is not traffic: configuration, the admin page, DNS.
const CONTROL_THREADS: usize = 2;
/// By how much nicer they are than workers: who makes a big table must not keep requests waiting.
/// A third of what a worker gets is theirs all the same.
const CONTROL_NICE: i32 = 5;
/// Responses and answers that may wait for the config loop.
const INBOX_MAX: usize = 16;

/// Runs the proxy until a signal ends it. Blocks; must not be called on an async runtime.
///
/// # Errors
/// When it cannot start: a setting is wrong, or an address is taken.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.exit_with_parent {
        set_parent_process_death_signal(Some(Signal::TERM)).context("--exit-with-parent")?;
    }
    logs::start(args.log_level, args.log_format)?;
    let bootstrap = settings::read(args)?;
    // Only a dump of the configuration needs them again.
    descriptor::release();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .on_thread_start(|| {
            // On Linux a thread has a niceness of its own.
            if let Err(error) = nice(CONTROL_NICE) {
                tracing::debug!(%error, "control threads are as busy as workers");
            }
        })
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let result = runtime.block_on(run_until_told(args, bootstrap));
    runtime.shutdown_background();
    result
}

/// Why the proxy did not start, for a person: a line each for what failed and for what made it fail.
pub fn failure(error: &anyhow::Error) -> String {
    let mut text = format!("✗ {error}\n");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        for line in cause.lines() {
            text += &format!("    {line}\n");
        }
    }
    text
}

async fn run_until_told(args: &Args, bootstrap: Bootstrap) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let proxy = Proxy::start(args, bootstrap).await?;
    tokio::select! {
        name = signals.next() => tracing::info!(signal = name, "draining"),
        () = proxy.quit.cancelled() => tracing::info!("draining, as the admin page was told"),
    }
    tokio::select! {
        () = proxy.drain(args) => tracing::info!("ended"),
        name = signals.next() => {
            tracing::warn!(signal = name, "ended at once");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A proxy that runs.
struct Proxy {
    workers: Arc<Workers>,
    readiness: watch::Sender<Readiness>,
    quit: CancellationToken,
    /// Ends the tasks that bring configuration.
    sources: CancellationToken,
    source_tasks: TaskTracker,
    /// Ends the tasks that those need.
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Proxy {
    async fn start(args: &Args, bootstrap: Bootstrap) -> anyhow::Result<Self> {
        let admin_address = bootstrap.admin.context("no admin address")?;
        let admin_listener = TcpListener::bind(admin_address)
            .await
            .with_context(|| format!("admin address {admin_address}"))?;
        let resolver = resolver::of_bootstrap(bootstrap.names.clone())?;
        let snapshots = SnapshotCell::default();
        let registry = Arc::new(Registry::default());
        let (desk, asks) = Desk::new();
        let (workers, sampler) = start_workers(args, &bootstrap, (&snapshots, &registry), desk)?;
        let workers = Arc::new(workers);
        let (readiness, _) = watch::channel(Readiness::Starting);
        let (dumps, dump_requests) = mpsc::channel(INBOX_MAX);
        let (answers, answer_inbox) = mpsc::channel(INBOX_MAX);
        let (events, event_inbox) = mpsc::channel(INBOX_MAX);
        let (wanted, wanted_news) = watch::channel(Arc::default());
        let proxy = Self {
            workers: Arc::clone(&workers),
            readiness: readiness.clone(),
            quit: CancellationToken::new(),
            sources: CancellationToken::new(),
            source_tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let (changed, checked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let around =
            Surroundings { tasks: proxy.source_tasks.clone(), checked: Arc::clone(&checked) };
        let outlets = Outlets {
            snapshots: snapshots.clone(),
            registry: Arc::clone(&registry),
            listening: Listening::new(workers),
            lookups: Lookups::new(resolver, answers, &proxy.source_tasks, &proxy.sources),
            watches: Watches::new(around, proxy.sources.clone()),
            readiness: readiness.clone(),
            wanted,
            changed: Arc::clone(&changed),
        };
        let (node, roots) = (bootstrap.node.id.clone(), roots(&bootstrap));
        let mut config = ConfigLoop::new(node, bootstrap.api, roots, outlets);
        load_static(&mut config, &bootstrap)?;
        if let Some(saver) = load_disk(args, &bootstrap, &mut config, changed, dumps.clone())? {
            proxy.source_tasks.spawn(saver.run(proxy.sources.clone()));
        }
        let inbox = Inbox {
            events: event_inbox,
            answers: answer_inbox,
            dumps: dump_requests,
            asks,
            checked,
        };
        proxy.tasks.spawn(config.run(inbox, proxy.shutdown.clone()));
        proxy.tasks.spawn(sampler.run(proxy.shutdown.clone()));
        let admin = Arc::new(Admin {
            registry,
            snapshots,
            readiness: readiness.subscribe(),
            dumps,
            quit: proxy.quit.clone(),
        });
        let address = admin_listener.local_addr()?;
        tracing::info!(%address, "admin listening");
        let serving =
            admin::serve(admin, admin_listener, proxy.tasks.clone(), proxy.shutdown.clone());
        proxy.tasks.spawn(serving);
        proxy.follow(bootstrap, events, wanted_news);
        Ok(proxy)
    }

    /// Follows the control planes of the bootstrap, if there are any.
    fn follow(
        &self,
        bootstrap: Bootstrap,
        events: mpsc::Sender<Event>,
        wanted: watch::Receiver<Arc<Wanted>>,
    ) {
        if bootstrap.control_planes.is_empty() {
            return;
        }
        let settings = client::Settings {
            control_planes: bootstrap.control_planes,
            api: bootstrap.api,
            node: bootstrap.node,
            node_once_a_stream: bootstrap.node_once_a_stream,
            wanted,
        };
        self.source_tasks.spawn(client::run(settings, events, self.sources.clone()));
    }

    /// Lets traffic go elsewhere, then ends what is left.
    async fn drain(self, args: &Args) {
        self.readiness.send_replace(Readiness::Draining);
        self.workers.drain(args.drain_delay, args.drain_timeout).await;
        self.sources.cancel();
        self.source_tasks.close();
        self.source_tasks.wait().await;
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Starts those who serve, and what tells them when that is too much.
fn start_workers(
    args: &Args,
    bootstrap: &Bootstrap,
    (snapshots, registry): (&SnapshotCell, &Arc<Registry>),
    desk: Desk,
) -> anyhow::Result<(Workers, Sampler)> {
    let count = match args.concurrency {
        Some(count) => count,
        None => std::thread::available_parallelism().context("give --concurrency")?,
    };
    let overload = Overload::new(bootstrap.limits.clone());
    let settings = serve::Settings {
        registry: Arc::clone(registry),
        access_log: args.access_log.clone(),
        node: bootstrap.node.id.as_str().into(),
        node_cluster: bootstrap.node.cluster.as_str().into(),
        desk,
        overload: Arc::clone(&overload),
        resets: bootstrap.resets,
    };
    let workers = Workers::start(count, snapshots, &settings).context("cannot start workers")?;
    Ok((workers, Sampler::new(bootstrap.overload.clone(), overload, Arc::clone(registry))))
}

fn roots(bootstrap: &Bootstrap) -> Roots {
    let runtime = bootstrap.runtime.iter().filter_map(|layer| match &layer.source {
        RuntimeSource::Resource(name) => Some(Arc::clone(name)),
        RuntimeSource::Static(_) => None,
    });
    Roots {
        listeners: bootstrap.dynamic_listeners,
        clusters: bootstrap.dynamic_clusters,
        runtime: runtime.collect(),
    }
}

fn load_static(config: &mut ConfigLoop, bootstrap: &Bootstrap) -> anyhow::Result<()> {
    let rejected = config.load(Origin::Bootstrap, &bootstrap.resources);
    if let Some((kind, first)) = rejected.first() {
        bail!("static_resources: {kind} {:?}: {}", first.name, first.error);
    }
    Ok(())
}

/// Loads what was saved, and prepares to save.
fn load_disk(
    args: &Args,
    bootstrap: &Bootstrap,
    config: &mut ConfigLoop,
    changed: Arc<Notify>,
    dumps: mpsc::Sender<oneshot::Sender<Dump>>,
) -> anyhow::Result<Option<Saver>> {
    let (Some(folder), false) = (&args.state_dir, bootstrap.control_planes.is_empty()) else {
        return Ok(None);
    };
    let disk = Disk::open(folder)?;
    let node = &bootstrap.node;
    match disk.load() {
        Ok(None) => tracing::info!("no saved state"),
        Ok(Some(saved)) if saved.node_cluster != node.cluster => {
            let saved = saved.node_cluster;
            tracing::warn!(saved, node_cluster = node.cluster, "saved state is of another fleet");
        }
        Ok(Some(saved)) => {
            let rejected = config.load(Origin::ControlPlane, &saved.resources);
            for (kind, refused) in &rejected {
                tracing::warn!(
                    type_url = kind.type_url(),
                    resource = &*refused.name,
                    error = %refused.error,
                    "saved resource refused"
                );
            }
            tracing::info!(resources = saved.resources.len(), "serving saved state");
            config.mark_complete();
        }
        Err(error @ DiskError::Corrupt { .. }) => tracing::warn!(%error, "saved state refused"),
        Err(error @ DiskError::Io { .. }) => return Err(error.into()),
    }
    let (node_id, node_cluster) = (node.id.clone(), node.cluster.clone());
    Ok(Some(Saver { disk, node_id, node_cluster, changed, dumps }))
}

/// The signals that end the program.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_in_lines_and_without_a_backtrace() {
        let error = anyhow::anyhow!("line 3\n  | adress").context("b.yaml");
        assert_eq!(failure(&error), "✗ b.yaml\n    line 3\n      | adress\n");
    }
}
