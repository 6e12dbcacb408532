//! Keeps an eye on the endpoints of one cluster: health checks, and judgements of outliers.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xds_proto::convert::Address;

use crate::cluster::Cluster;
use crate::cluster::connect::Connector;
use crate::cluster::endpoints::Endpoint;
use crate::cluster::health::probe::Probe;
use crate::cluster::health::{CheckConfig, Findings};
use crate::cluster::live::Mark;
use crate::cluster::outlier::{judge, was_checked};

/// What a watch needs beside its cluster.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Runs its tasks.
    pub tasks: TaskTracker,
    /// Told when the first checks of all endpoints of a cluster have ended.
    pub checked: Arc<Notify>,
}

/// Whether the endpoints of a cluster need a watch.
pub fn is_needed(cluster: &Cluster) -> bool {
    cluster.config.check.is_some() || cluster.config.outlier.is_some()
}

/// Watches a cluster, in each form that it takes, until `shutdown`.
pub async fn run(
    mut cluster: watch::Receiver<Arc<Cluster>>,
    around: Surroundings,
    shutdown: CancellationToken,
) {
    let mut checks = Checks {
        running: HashMap::new(),
        cluster: cluster.clone(),
        around,
        shutdown: shutdown.clone(),
    };
    let mut judged_at = Instant::now();
    loop {
        let current = Arc::clone(&cluster.borrow_and_update());
        checks.follow(&current);
        let judgement = async {
            match &current.config.outlier {
                Some(outlier) => {
                    tokio::time::sleep_until(judged_at + outlier.interval).await;
                    outlier
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = cluster.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            outlier = judgement => {
                judged_at = Instant::now();
                judge(&current, outlier, judged_at);
                current.refresh();
            }
        }
    }
}

/// The checks of a cluster: one task an endpoint.
struct Checks {
    running: HashMap<Address, Running>,
    cluster: watch::Receiver<Arc<Cluster>>,
    around: Surroundings,
    shutdown: CancellationToken,
}

struct Running {
    endpoint: Arc<Endpoint>,
    token: CancellationToken,
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.running.values().for_each(|running| running.token.cancel());
    }
}

impl Checks {
    /// Starts and stops tasks, so that there is one for each endpoint as it is.
    fn follow(&mut self, cluster: &Cluster) {
        let mut old = std::mem::take(&mut self.running);
        for endpoint in cluster.endpoints.iter().filter(|endpoint| endpoint.is_checked()) {
            let running = match old.remove(&endpoint.config.address) {
                Some(running) if is_same(&running.endpoint, endpoint) => running,
                other => {
                    other.inspect(|running| running.token.cancel());
                    self.start(endpoint)
                }
            };
            self.running.insert(endpoint.config.address.clone(), running);
        }
        old.into_values().for_each(|running| running.token.cancel());
    }

    fn start(&self, endpoint: &Arc<Endpoint>) -> Running {
        let token = self.shutdown.child_token();
        let task = Task {
            probe: Probe {
                connector: connector(endpoint),
                own_host: own_host(endpoint),
                cluster: Arc::clone(&endpoint.home.config.name),
                tasks: self.around.tasks.clone(),
                sender: None,
            },
            endpoint: Arc::clone(endpoint),
            cluster: self.cluster.clone(),
            checked: Arc::clone(&self.around.checked),
        };
        let until = token.clone();
        self.around.tasks.spawn(async move {
            until.run_until_cancelled(task.run()).await;
        });
        Running { endpoint: Arc::clone(endpoint), token }
    }
}

fn is_same(running: &Endpoint, endpoint: &Endpoint) -> bool {
    Arc::ptr_eq(&running.home.config, &endpoint.home.config)
        && Arc::ptr_eq(&running.live, &endpoint.live)
        && Arc::ptr_eq(&running.connector, &endpoint.connector)
        && running.config.check == endpoint.config.check
        && running.config.hostname == endpoint.config.hostname
}

/// Connects to where the endpoint is checked.
fn connector(endpoint: &Endpoint) -> Arc<Connector> {
    let own = endpoint.config.check.as_deref();
    let mut address = own
        .and_then(|check| check.address.clone())
        .unwrap_or_else(|| endpoint.config.address.clone());
    let common = endpoint.home.config.check.as_ref().and_then(|check| check.port);
    if let Some(port) = own.and_then(|check| check.port).or(common) {
        match &mut address {
            Address::Ip(address) => address.set_port(port),
            Address::Name(_, old) => *old = port,
            Address::Pipe(_) => {}
        }
    }
    if address == endpoint.connector.address {
        return Arc::clone(&endpoint.connector);
    }
    Arc::new(Connector { address, ..(*endpoint.connector).clone() })
}

fn own_host(endpoint: &Endpoint) -> Option<Arc<str>> {
    let check = endpoint.config.check.as_ref()?;
    Some(Arc::clone(&check.hostname)).filter(|name| !name.is_empty())
}

/// Checks one endpoint again and again.
struct Task {
    probe: Probe,
    endpoint: Arc<Endpoint>,
    cluster: watch::Receiver<Arc<Cluster>>,
    checked: Arc<Notify>,
}

impl Task {
    async fn run(mut self) {
        let home = Arc::clone(&self.endpoint.home);
        let Some(check) = &home.config.check else { return };
        let live = Arc::clone(&self.endpoint.live);
        let mut findings = if live.has(Mark::Known) {
            Findings::resumed(!live.has(Mark::Unchecked))
        } else {
            sleep(check.jitter.initial.mul_f64(fastrand::f64())).await;
            Findings::default()
        };
        loop {
            let found = self.probe.ask(check).await;
            let has_traffic = home.live.stats.connections_total.value() > 0;
            let wait = check.take(&mut findings, found, has_traffic);
            self.apply(check, findings);
            sleep(check.jittered(wait, fastrand::f64())).await;
        }
    }

    fn apply(&self, check: &CheckConfig, findings: Findings) {
        let (live, home) = (&self.endpoint.live, &self.endpoint.home);
        let is_first = live.mark(Mark::Known, true);
        let degraded_changed = live.mark(Mark::Degraded, findings.is_degraded);
        let is_changed = live.mark(Mark::Unchecked, !findings.is_up);
        if is_changed && findings.is_up {
            live.came_up(Instant::now());
        }
        if is_changed || is_first {
            let (cluster, endpoint) = (&*home.config.name, &*self.endpoint.label);
            let is_healthy = findings.is_up;
            tracing::info!(cluster, endpoint, is_healthy, port = ?check.port, "health checked");
        }
        if is_changed || degraded_changed {
            home.live.health_changed();
        }
        if findings.is_up {
            was_checked(&self.endpoint);
        }
        // The table is built here, so that no request has to.
        let cluster = Arc::clone(&self.cluster.borrow());
        cluster.refresh();
        if is_first {
            self.checked.notify_one();
        }
    }
}
