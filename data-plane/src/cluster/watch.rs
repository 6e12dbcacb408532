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
    Arc::new(Connector { address, also: Box::default(), ..(*endpoint.connector).clone() })
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::balancer::Selection;
    use crate::cluster::health::tests::check;
    use crate::cluster::health::{HttpQuestion, Intervals, Question};
    use crate::cluster::outlier::{Observed, OutlierConfig, observe};
    use crate::cluster::pool::testing::{
        Client, Settings, Speaks, Upstream, endpoints, locally, until,
    };

    fn quick(question: Question) -> CheckConfig {
        let quick = Duration::from_millis(10);
        let intervals = Intervals {
            healthy: quick,
            unhealthy: quick,
            healthy_edge: quick,
            unhealthy_edge: quick,
            no_traffic: quick,
            no_traffic_healthy: quick,
        };
        CheckConfig { intervals, failures: 1, successes: 1, question, ..check() }
    }

    fn http(path: &str, is_http2: bool) -> Question {
        Question::Http(Box::new(HttpQuestion {
            host: None,
            path: path.into(),
            method: http::Method::GET,
            body: bytes::Bytes::new(),
            headers: crate::format::mutation::HeaderMutations::default(),
            is_http2,
            expected: Box::new([200..=200]),
            retriable: Box::default(),
            receives: Box::new([bytes::Bytes::from(format!("c {path}"))]),
            body_max: 1024,
            service: None,
        }))
    }

    struct Watched {
        cluster: watch::Sender<Arc<Cluster>>,
        around: Surroundings,
        shutdown: CancellationToken,
    }

    fn watched(cluster: &Arc<Cluster>) -> Watched {
        let (sender, receiver) = watch::channel(Arc::clone(cluster));
        let around = Surroundings { tasks: TaskTracker::new(), checked: Arc::default() };
        let shutdown = CancellationToken::new();
        around.tasks.spawn(run(receiver, around.clone(), shutdown.clone()));
        Watched { cluster: sender, around, shutdown }
    }

    fn picks(cluster: &Cluster) -> usize {
        let picks = (0..20).filter_map(|_| cluster.pick(&Selection::default()));
        let mut labels: Vec<_> = picks.map(|endpoint| Arc::clone(&endpoint.label)).collect();
        labels.sort_unstable();
        labels.dedup();
        labels.len()
    }

    #[tokio::test]
    async fn a_new_endpoint_is_used_once_a_check_succeeds() {
        locally(async {
            for is_http2 in [false, true] {
                let speaks =
                    if is_http2 { Speaks::Http2 { streams_max: 9 } } else { Speaks::Http1 };
                let upstream = Upstream::start(speaks, None).await;
                let dead = Address::Ip("127.0.0.1:1".parse().unwrap());
                let addresses = [Address::Ip(upstream.address), dead];
                let check = Some(quick(http("/healthz", is_http2)));
                let settings = Settings { check, ..Settings::default() };
                let mut client = Client::of(endpoints(&addresses), settings);
                assert!(!client.cluster.is_checked());
                let watched = watched(&client.cluster);
                watched.around.checked.notified().await;
                until(|| client.cluster.is_checked()).await;
                assert_eq!(picks(&client.cluster), 1);
                assert!(client.cluster.endpoints[1].live.has(Mark::Unchecked));
                // What is known of an endpoint survives a change of the cluster.
                client.relink(endpoints(&addresses[..1]));
                watched.cluster.send_replace(Arc::clone(&client.cluster));
                assert_eq!(picks(&client.cluster), 1);
                assert!(upstream.accepted() <= 2, "a connection serves many checks");
                watched.shutdown.cancel();
            }
        })
        .await;
    }

    #[tokio::test]
    async fn an_endpoint_that_dies_is_left_out_and_comes_back() {
        locally(async {
            let (address, _) = crate::cluster::pool::testing::scripted(|_, _| async {}).await;
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let dying = listener.local_addr().unwrap();
            let addresses = [Address::Ip(address), Address::Ip(dying)];
            let settings = Settings { check: Some(quick(check().question)), ..Settings::default() };
            let client = Client::of(endpoints(&addresses), settings);
            let watched = watched(&client.cluster);
            until(|| picks(&client.cluster) == 2).await;
            drop(listener);
            until(|| picks(&client.cluster) == 1).await;
            let listener = tokio::net::TcpListener::bind(dying).await.unwrap();
            until(|| picks(&client.cluster) == 2).await;
            drop(listener);
            watched.shutdown.cancel();
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_ejection_ends_by_itself() {
        let outlier = OutlierConfig { ejected_percent_max: 100, ..OutlierConfig::default() };
        let settings = Settings { outlier: Some(outlier), ..Settings::default() };
        let cluster = crate::cluster::pool::testing::of_settings(2, settings);
        let watched = watched(&cluster);
        (0..5).for_each(|_| observe(&cluster.endpoints[0], Observed::Failed));
        assert_eq!(picks(&cluster), 1);
        tokio::time::sleep(Duration::from_secs(41)).await;
        assert_eq!(picks(&cluster), 2);
        watched.shutdown.cancel();
    }
}
