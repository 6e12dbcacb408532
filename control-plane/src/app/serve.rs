//! `weighlock serve`: builds the control plane, owns its tasks, and orders its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Admin, Readiness};
use crate::api::{self, Api};
use crate::cli::problem::{Exit, Problem};
use crate::fleet::Fleet;
use crate::model::gatewayclass;
use crate::pipeline::Pipeline;
use crate::process::Signals;
use crate::settings::{Settings, StoreKind};
use crate::snapshot::Snapshots;
use crate::source::directory;
use crate::source::directory::watch::Watch;
use crate::store::Store;
use crate::store::change::StoreError;
use crate::store::state::ObjectKey;
use crate::telemetry::metrics::Metrics;
use crate::{cli, serve};

/// How long what is under way may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The sockets of the control plane, bound.
#[derive(Debug)]
struct Sockets {
    api: TcpListener,
    xds: TcpListener,
    admin: TcpListener,
}

/// What the tasks share.
#[derive(Debug)]
struct Parts {
    store: Arc<Store>,
    snapshots: Arc<Snapshots>,
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    pipeline: Pipeline,
}

/// Tasks that run until the end. One that ends earlier ends the program.
#[derive(Debug)]
struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    failed: mpsc::Sender<Problem>,
}

impl Tasks {
    fn start<E: std::fmt::Display>(
        &self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let (failed, shutdown) = (self.failed.clone(), self.shutdown.clone());
        self.tracker.spawn(async move {
            let result = task.await;
            if let (Err(error), false) = (result, shutdown.is_cancelled()) {
                let problem = Problem::new(Exit::Failed, "WL0900", format!("{name} failed"));
                // Only the first is told, and the program ends.
                drop(failed.try_send(problem.detail(error.to_string())));
            }
        });
    }
}

/// Runs the control plane until a signal, or until a part of it fails.
///
/// # Errors
/// What keeps it from starting, or what failed.
pub async fn run(settings: Settings) -> Result<Exit, Problem> {
    check_open(&settings)?;
    let mut signals = Signals::new().map_err(|error| {
        Problem::new(Exit::Failed, "WL0900", "signals cannot be heard").detail(error.to_string())
    })?;
    let sockets = bind(&settings).await?;
    let parts = build(&settings).await?;
    let (failed, mut failure) = mpsc::channel(1);
    let tasks = Tasks { tracker: TaskTracker::new(), shutdown: CancellationToken::new(), failed };
    let state = parts.store.state();
    tracing::info!(revision = state.revision, objects = state.objects.len(), "the store is read");
    follow_files(&tasks, &settings, &parts).await?;
    announce(&sockets)?;
    start(&tasks, &settings, &parts, sockets);
    let result = tokio::select! {
        _ = signals.next() => Ok(Exit::Done),
        problem = failure.recv() => Err(problem.unwrap_or_else(|| {
            Problem::new(Exit::Failed, "WL0900", "a part of the control plane ended")
        })),
    };
    tracing::info!("ending");
    parts.readiness.is_ending.store(true, Ordering::Release);
    tasks.shutdown.cancel();
    tasks.tracker.close();
    tokio::select! {
        ended = timeout(END_LIMIT, tasks.tracker.wait()) => if ended.is_err() {
            tracing::warn!("what was under way did not end in time");
        },
        code = signals.next() => std::process::exit(code.into()),
    }
    result
}

/// Without TLS and tokens there is only the open mode, and that only where nobody else reaches it.
fn check_open(settings: &Settings) -> Result<(), Problem> {
    if !settings.open {
        return Err(Problem::usage("serve needs --open")
            .detail("TLS and tokens come with a later version")
            .help("add --open: plain text and everyone an admin, on loopback addresses only"));
    }
    let addresses = [
        ("api-address", settings.api_address),
        ("xds-address", settings.xds_address),
        ("admin-address", settings.admin_address),
    ];
    for (name, address) in addresses {
        if !address.ip().is_loopback() {
            return Err(Problem::usage("--open is for loopback addresses only")
                .detail(format!("--{name} {address} can be reached from elsewhere"))
                .help(format!("--{name} 127.0.0.1:{}", address.port())));
        }
    }
    Ok(())
}

async fn bind(settings: &Settings) -> Result<Sockets, Problem> {
    Ok(Sockets {
        api: listen("api-address", settings.api_address).await?,
        xds: listen("xds-address", settings.xds_address).await?,
        admin: listen("admin-address", settings.admin_address).await?,
    })
}

async fn listen(name: &str, address: SocketAddr) -> Result<TcpListener, Problem> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            Problem::new(Exit::Failed, "WL0602", format!("port {} is in use", address.port()))
                .detail(format!("--{name} {address}: another program listens there"))
                .help(format!("end that program, or take another port with --{name} IP:PORT"))
        }
        _ => Problem::new(Exit::Failed, "", format!("cannot listen on {address}"))
            .detail(format!("--{name}: {}", error.to_string().to_lowercase())),
    })
}

async fn build(settings: &Settings) -> Result<Parts, Problem> {
    let (kind, directory) = (settings.store, settings.data_dir.clone());
    let opened = spawn_blocking(move || {
        let store = match kind {
            StoreKind::Redb => Store::open(&directory)?,
            StoreKind::Memory => Store::in_memory()?,
        };
        ensure_class(&store)?;
        Ok(store)
    });
    let store = match opened.await {
        Ok(Ok(store)) => Arc::new(store),
        Ok(Err(error)) => return Err(store_problem(settings, &error)),
        Err(error) => {
            return Err(Problem::new(Exit::Failed, "WL0900", "the store cannot be opened")
                .detail(error.to_string()));
        }
    };
    if kind == StoreKind::Memory {
        tracing::warn!("the store is in memory: everything is forgotten at the end");
    }
    let (snapshots, fleet) = (Arc::<Snapshots>::default(), Arc::<Fleet>::default());
    let (metrics, readiness) = (Arc::<Metrics>::default(), Arc::<Readiness>::default());
    readiness.is_store_loaded.store(true, Ordering::Release);
    let pipeline = Pipeline::new(store.clone(), snapshots.clone(), fleet.clone(), metrics.clone());
    Ok(Parts { store, snapshots, fleet, metrics, readiness, pipeline })
}

/// Our GatewayClass exists by itself.
fn ensure_class(store: &Store) -> Result<(), StoreError> {
    let kind = &gatewayclass::KIND;
    let name = gatewayclass::OUR_CLASS.to_owned();
    let value = serde_json::json!({
        "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": name},
        "spec": {"controllerName": gatewayclass::CONTROLLER},
    });
    store.ensure(ObjectKey { kind, namespace: String::new(), name }, value)
}

fn store_problem(settings: &Settings, error: &StoreError) -> Problem {
    let directory = settings.data_dir.display();
    match error {
        StoreError::Locked(_) => {
            Problem::new(Exit::Failed, "WL0603", "the data directory is locked")
                .detail(format!("another server uses {directory}"))
                .help("end that server, or give this one another folder with --data-dir")
        }
        other => {
            Problem::new(Exit::Failed, "", format!("the store in {directory} cannot be opened"))
                .detail(other.to_string())
                .help("check that the folder can be written, or name another with --data-dir")
        }
    }
}

/// Says where things are, on standard output, one a line: the ports may have been given by the system.
fn announce(sockets: &Sockets) -> Result<(), Problem> {
    let address = |socket: &TcpListener| {
        socket.local_addr().map_err(|error| {
            Problem::new(Exit::Failed, "WL0900", "a socket has no address")
                .detail(error.to_string())
        })
    };
    let (api, xds, admin) =
        (address(&sockets.api)?, address(&sockets.xds)?, address(&sockets.admin)?);
    tracing::info!(%api, %xds, %admin, "listening");
    let text = format!("api    http://{api}\nxds    {xds}\nadmin  http://{admin}\n");
    // Whoever started this program may have closed its output; that is no reason to end.
    drop(cli::show::print_quietly(&text));
    Ok(())
}

/// Puts the documents of files into the store before anything is published, and follows them.
async fn follow_files(tasks: &Tasks, settings: &Settings, parts: &Parts) -> Result<(), Problem> {
    let Some(path) = &settings.config else {
        let store = parts.store.clone();
        let released = spawn_blocking(move || store.commit(&directory::release(&store.state())));
        if let Ok(Err(error)) = released.await {
            tracing::warn!(%error, "objects that files once held stay read-only");
        }
        return Ok(());
    };
    let watch = Watch::start(path, parts.store.clone()).await.map_err(|error| {
        Problem::new(
            Exit::WrongInput,
            "WL0007",
            format!("--config {} cannot be read", path.display()),
        )
        .detail(error.to_string().to_lowercase())
    })?;
    tasks.start("the reader of files", watch.run(tasks.shutdown.clone()));
    Ok(())
}

fn start(tasks: &Tasks, settings: &Settings, parts: &Parts, sockets: Sockets) {
    let shutdown = &tasks.shutdown;
    let admin = Admin {
        readiness: parts.readiness.clone(),
        metrics: parts.metrics.clone(),
        fleet: parts.fleet.clone(),
        store_file: (settings.store == StoreKind::Redb)
            .then(|| settings.data_dir.join(crate::store::redb::FILE)),
    };
    let ended = shutdown.clone().cancelled_owned();
    let server = axum::serve(sockets.admin, admin::router(admin)).with_graceful_shutdown(ended);
    tasks.start("the admin listener", server.into_future());

    let (pipeline, ended) = (parts.pipeline.clone(), shutdown.clone());
    tasks.start("the pipeline", async move { pipeline.run(ended).await });
    let (mut published, readiness) = (parts.pipeline.published(), parts.readiness.clone());
    tasks.start("the pipeline", async move {
        let first = published.wait_for(|release| release.revision.is_some()).await.map(drop);
        readiness.is_published.store(true, Ordering::Release);
        first
    });

    let observer = admin::observe(parts.fleet.clone(), parts.metrics.clone(), shutdown.clone());
    tasks.start("the observer of the fleet", async move {
        observer.await;
        Ok::<(), io::Error>(())
    });

    let xds =
        serve::serve(parts.snapshots.clone(), parts.fleet.clone(), sockets.xds, shutdown.clone());
    parts.readiness.is_xds_listening.store(true, Ordering::Release);
    tasks.start("the xDS server", xds);

    let api = Api::new(api::Parts {
        store: parts.store.clone(),
        fleet: parts.fleet.clone(),
        pipeline: parts.pipeline.clone(),
        shutdown: shutdown.clone(),
    });
    let events = api.clone();
    tasks.start("the collector of events", async move {
        events.collect_events().await;
        Ok::<(), io::Error>(())
    });
    tasks.start("the API", api.serve(sockets.api));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_may_be_open() {
        let open = Settings { open: true, ..Settings::default() };
        assert!(check_open(&open).is_ok());
        assert!(check_open(&Settings::default()).is_err());
        let wide = Settings { xds_address: "0.0.0.0:18000".parse().unwrap(), ..open };
        let problem = check_open(&wide).unwrap_err();
        assert_eq!(problem.help.as_deref(), Some("--xds-address 127.0.0.1:18000"));
        assert_eq!(problem.exit, Exit::WrongInput);
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = holder.local_addr().unwrap();
        let problem = listen("api-address", address).await.unwrap_err();
        assert_eq!(problem.code, "WL0602");
        assert_eq!(problem.title, format!("port {} is in use", address.port()));
    }
}
