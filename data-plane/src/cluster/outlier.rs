//! Outlier detection: endpoints that answer worse than the others are left out for a while.
//!
//! What answers say is counted by the workers; rates are judged once an interval.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::cluster::endpoints::Endpoint;
use crate::cluster::failure::UpstreamFailure;
use crate::cluster::live::Mark;

/// When endpoints are ejected, and for how long (`OutlierDetection`). Percentages of enforcement
/// are the chance that what was detected has a consequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierConfig {
    /// Time between judgements.
    pub interval: Duration,
    /// How long the first ejection lasts; each that follows soon lasts as much longer.
    pub ejection_base: Duration,
    /// How long any ejection lasts at most.
    pub ejection_max: Duration,
    /// Up to so much is added.
    pub ejection_jitter: Duration,
    /// No more than so many percent of the endpoints are ejected.
    pub ejected_percent_max: u32,
    /// One endpoint may be ejected even if it is more than that.
    pub always_ejects_one: bool,
    /// Whether a health check that succeeds ends an ejection.
    pub check_ends_ejection: bool,
    /// Whether failures to connect are counted apart from answers; else they count as 503 and 504.
    pub splits_local: bool,
    /// So many answers of 5xx in a row.
    pub server_errors: Consecutive,
    /// So many answers of 502, 503 or 504 in a row.
    pub gateway_errors: Consecutive,
    /// So many failures to connect in a row.
    pub local_errors: Consecutive,
    /// A success rate far below that of the others.
    pub success_rate: SuccessRate,
    /// Too many failures.
    pub failure_percentage: FailurePercentage,
}

/// A number of failures in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consecutive {
    /// How many.
    pub count: u32,
    /// Percentage of enforcement.
    pub enforcing: u32,
}

/// Success rates far below the average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    /// Endpoints with enough requests that there must be.
    pub endpoints_min: usize,
    /// Requests in an interval that are enough.
    pub requests_min: u64,
    /// How many standard deviations are far.
    pub deviations: f64,
    /// Percentage of enforcement.
    pub enforcing: u32,
    /// Percentage of enforcement, of failures to connect.
    pub enforcing_local: u32,
}

/// Failures above a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailurePercentage {
    /// The threshold.
    pub threshold: u32,
    /// Endpoints with enough requests that there must be.
    pub endpoints_min: usize,
    /// Requests in an interval that are enough.
    pub requests_min: u64,
    /// Percentage of enforcement.
    pub enforcing: u32,
    /// Percentage of enforcement, of failures to connect.
    pub enforcing_local: u32,
}

/// Envoy's defaults.
impl Default for OutlierConfig {
    fn default() -> Self {
        let five = |enforcing| Consecutive { count: 5, enforcing };
        Self {
            interval: Duration::from_secs(10),
            ejection_base: Duration::from_secs(30),
            ejection_max: Duration::from_secs(300),
            ejection_jitter: Duration::ZERO,
            ejected_percent_max: 10,
            always_ejects_one: false,
            check_ends_ejection: true,
            splits_local: false,
            server_errors: five(100),
            gateway_errors: five(0),
            local_errors: five(100),
            success_rate: SuccessRate {
                endpoints_min: 5,
                requests_min: 100,
                deviations: 1.9,
                enforcing: 100,
                enforcing_local: 100,
            },
            failure_percentage: FailurePercentage {
                threshold: 85,
                endpoints_min: 5,
                requests_min: 50,
                enforcing: 0,
                enforcing_local: 0,
            },
        }
    }
}

/// How one try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// With an answer.
    Answer(StatusCode),
    /// Without: no connection, or it broke.
    Failed,
    /// Without, in time.
    TimedOut,
}

impl Observed {
    /// What a failure says of the endpoint, if it is the endpoint's.
    pub fn failure(reason: UpstreamFailure) -> Option<Self> {
        match reason {
            UpstreamFailure::Overflow | UpstreamFailure::Local | UpstreamFailure::Request => None,
            UpstreamFailure::ConnectTimeout => Some(Self::TimedOut),
            UpstreamFailure::Connect
            | UpstreamFailure::Tls
            | UpstreamFailure::Reset
            | UpstreamFailure::Refused
            | UpstreamFailure::Closed
            | UpstreamFailure::ReusedClosed
            | UpstreamFailure::Protocol => Some(Self::Failed),
        }
    }
}

/// What is counted of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct OutlierLive {
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_errors: AtomicU32,
    answers: Rate,
    connects: Rate,
    ejection: Mutex<Ejection>,
}

#[derive(Debug, Default)]
struct Rate {
    total: AtomicU64,
    good: AtomicU64,
}

#[derive(Debug, Default)]
struct Ejection {
    at: Option<Instant>,
    /// How many base times it lasts.
    factor: u32,
    jitter: Duration,
}

impl Rate {
    fn count(&self, is_good: bool) {
        self.total.fetch_add(1, Relaxed);
        if is_good {
            self.good.fetch_add(1, Relaxed);
        }
    }

    /// Percentage of successes since the last call, and how many requests there were.
    fn take(&self) -> (f64, u64) {
        let (total, good) = (self.total.swap(0, Relaxed), self.good.swap(0, Relaxed));
        (good as f64 * 100.0 / total.max(1) as f64, total)
    }
}

impl OutlierLive {
    fn ejection(&self) -> MutexGuard<'_, Ejection> {
        self.ejection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_failures(&self) {
        for count in [&self.server_errors, &self.gateway_errors, &self.local_errors] {
            count.store(0, Relaxed);
        }
    }
}

/// Counts a failure; whether it is the last of so many in a row, which then count anew.
fn is_enough(counter: &AtomicU32, consecutive: Consecutive) -> bool {
    let is_enough = counter.fetch_add(1, Relaxed) + 1 == consecutive.count;
    if is_enough {
        counter.store(0, Relaxed);
    }
    is_enough
}

/// Takes note of how a try ended. Costs nothing where the cluster has no outlier detection.
pub fn observe(endpoint: &Endpoint, observed: Observed) {
    let Some(config) = &endpoint.home.config.outlier else { return };
    let counts = &endpoint.live.outlier;
    let status = match observed {
        Observed::Answer(status) => {
            if config.splits_local {
                counts.local_errors.store(0, Relaxed);
                counts.connects.count(true);
            }
            status
        }
        Observed::Failed | Observed::TimedOut if config.splits_local => {
            counts.connects.count(false);
            if is_enough(&counts.local_errors, config.local_errors) {
                eject(endpoint, config, config.local_errors.enforcing);
            }
            return;
        }
        Observed::Failed => StatusCode::SERVICE_UNAVAILABLE,
        Observed::TimedOut => StatusCode::GATEWAY_TIMEOUT,
    };
    counts.answers.count(!status.is_server_error());
    if !matches!(status.as_u16(), 502..=504) {
        counts.gateway_errors.store(0, Relaxed);
    } else if is_enough(&counts.gateway_errors, config.gateway_errors) {
        eject(endpoint, config, config.gateway_errors.enforcing);
    }
    if !status.is_server_error() {
        counts.server_errors.store(0, Relaxed);
    } else if is_enough(&counts.server_errors, config.server_errors) {
        eject(endpoint, config, config.server_errors.enforcing);
    }
}

fn eject(endpoint: &Endpoint, config: &OutlierConfig, enforcing: u32) {
    let cluster = &endpoint.home.live;
    if endpoint.live.has(Mark::Ejected) {
        return;
    }
    let ejected = cluster.ejected.load(Relaxed);
    let percent = (u64::from(ejected) + 1) * 100;
    let allowed =
        u64::from(cluster.endpoints.load(Relaxed)) * u64::from(config.ejected_percent_max);
    let is_allowed = percent <= allowed || (ejected == 0 && config.always_ejects_one);
    if !is_allowed || fastrand::u32(0..100) >= enforcing {
        return;
    }
    let mut ejection = endpoint.live.outlier.ejection();
    if !endpoint.live.mark(Mark::Ejected, true) {
        return;
    }
    cluster.ejected.fetch_add(1, Relaxed);
    ejection.at = Some(Instant::now());
    ejection.jitter = config.ejection_jitter.mul_f64(fastrand::f64());
    if config.ejection_base * ejection.factor < config.ejection_max + config.ejection_base {
        ejection.factor += 1;
    }
    cluster.health_changed();
    let (cluster, endpoint) = (&*endpoint.home.config.name, &*endpoint.label);
    tracing::info!(cluster, endpoint, "endpoint ejected");
}

/// Ends an ejection, if there is one.
pub(crate) fn restore(endpoint: &Endpoint) {
    let mut ejection = endpoint.live.outlier.ejection();
    if !endpoint.live.mark(Mark::Ejected, false) {
        return;
    }
    ejection.at = None;
    endpoint.live.outlier.forget_failures();
    // A swap counts them anew, perhaps at this moment; the next one sets it right.
    let less = |count: u32| Some(count.saturating_sub(1));
    let _before = endpoint.home.live.ejected.fetch_update(Relaxed, Relaxed, less);
    endpoint.home.live.health_changed();
    let (cluster, endpoint) = (&*endpoint.home.config.name, &*endpoint.label);
    tracing::info!(cluster, endpoint, "endpoint no longer ejected");
}

/// A health check succeeded.
pub(crate) fn was_checked(endpoint: &Endpoint) {
    if endpoint.home.config.outlier.is_some_and(|config| config.check_ends_ejection) {
        restore(endpoint);
    }
}

/// Judges all endpoints of a cluster by what was counted since the last time.
pub(crate) fn judge(cluster: &Cluster, config: &OutlierConfig, now: Instant) {
    for endpoint in &cluster.endpoints {
        review(endpoint, config, now);
    }
    let enforcing = (config.success_rate.enforcing, config.failure_percentage.enforcing);
    compare(cluster, config, enforcing, |endpoint| endpoint.live.outlier.answers.take());
    if config.splits_local {
        let enforcing =
            (config.success_rate.enforcing_local, config.failure_percentage.enforcing_local);
        compare(cluster, config, enforcing, |endpoint| endpoint.live.outlier.connects.take());
    }
}

/// Ends an ejection whose time is over; time without one makes the next one shorter.
fn review(endpoint: &Endpoint, config: &OutlierConfig, now: Instant) {
    let mut ejection = endpoint.live.outlier.ejection();
    let is_over = match ejection.at {
        None => {
            ejection.factor = ejection.factor.saturating_sub(1);
            false
        }
        Some(at) => {
            let lasts = (config.ejection_base * ejection.factor).min(config.ejection_max);
            now.saturating_duration_since(at) >= lasts + ejection.jitter
        }
    };
    drop(ejection);
    if is_over {
        restore(endpoint);
    }
}

fn compare(
    cluster: &Cluster,
    config: &OutlierConfig,
    (rate_enforcing, percentage_enforcing): (u32, u32),
    take: impl Fn(&Endpoint) -> (f64, u64),
) {
    let rates: Vec<_> =
        cluster.endpoints.iter().map(|endpoint| (endpoint, take(endpoint))).collect();
    let with_at_least = |requests_min: u64| -> Vec<_> {
        let serving = rates.iter().filter(|(endpoint, _)| !endpoint.live.has(Mark::Ejected));
        let enough = serving.filter(|(_, (_, total))| *total > 0 && *total >= requests_min);
        enough.map(|(endpoint, (rate, _))| (*endpoint, *rate)).collect()
    };
    let rule = &config.success_rate;
    let judged = with_at_least(rule.requests_min);
    if !judged.is_empty() && judged.len() >= rule.endpoints_min {
        let threshold = threshold(judged.iter().map(|(_, rate)| *rate), rule.deviations);
        for (endpoint, _) in judged.iter().filter(|(_, rate)| *rate < threshold) {
            eject(endpoint, config, rate_enforcing);
        }
    }
    let rule = &config.failure_percentage;
    let judged = with_at_least(rule.requests_min);
    if !judged.is_empty() && judged.len() >= rule.endpoints_min {
        let fails = |rate: f64| 100.0 - rate >= f64::from(rule.threshold);
        for (endpoint, _) in judged.iter().filter(|(_, rate)| fails(*rate)) {
            eject(endpoint, config, percentage_enforcing);
        }
    }
}

/// The mean, less so many standard deviations.
fn threshold(rates: impl ExactSizeIterator<Item = f64> + Clone, deviations: f64) -> f64 {
    let count = rates.len() as f64;
    let mean = rates.clone().sum::<f64>() / count;
    let variance = rates.map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    mean - deviations * variance.sqrt()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::pool::testing::{Settings, of_settings};

    fn cluster(endpoints: u16, outlier: OutlierConfig) -> Arc<Cluster> {
        of_settings(endpoints, Settings { outlier: Some(outlier), ..Settings::default() })
    }

    fn all_may_go() -> OutlierConfig {
        OutlierConfig { ejected_percent_max: 100, ..OutlierConfig::default() }
    }

    fn answer(endpoint: &Endpoint, status: u16, times: u32) {
        for _ in 0..times {
            observe(endpoint, Observed::Answer(StatusCode::from_u16(status).unwrap()));
        }
    }

    fn ejected(cluster: &Cluster) -> Vec<usize> {
        let endpoints = cluster.endpoints.iter().enumerate();
        let ejected = endpoints.filter(|(_, endpoint)| endpoint.live.has(Mark::Ejected));
        ejected.map(|(index, _)| index).collect()
    }

    #[tokio::test]
    async fn failures_in_a_row_eject_and_the_next_pick_knows() {
        let cluster = cluster(2, all_may_go());
        answer(&cluster.endpoints[0], 500, 4);
        answer(&cluster.endpoints[0], 404, 1);
        answer(&cluster.endpoints[0], 500, 4);
        assert!(ejected(&cluster).is_empty());
        answer(&cluster.endpoints[0], 500, 1);
        assert_eq!(ejected(&cluster), [0]);
        for _ in 0..10 {
            let picked = cluster.pick(&Default::default()).unwrap();
            assert!(Arc::ptr_eq(&picked, &cluster.endpoints[1]));
        }
    }

    #[tokio::test]
    async fn no_more_than_the_allowed_part_is_ejected() {
        for (percent, always, expected) in [(10, false, 0), (10, true, 1), (50, false, 2)] {
            let outlier = OutlierConfig {
                ejected_percent_max: percent,
                always_ejects_one: always,
                ..OutlierConfig::default()
            };
            let cluster = cluster(4, outlier);
            cluster.endpoints.iter().for_each(|endpoint| answer(endpoint, 500, 5));
            assert_eq!(ejected(&cluster).len(), expected);
        }
    }

    #[tokio::test]
    async fn gateway_failures_count_apart_and_only_where_enforced() {
        let gateway_errors = Consecutive { count: 2, enforcing: 100 };
        let cluster = cluster(2, OutlierConfig { gateway_errors, ..all_may_go() });
        answer(&cluster.endpoints[0], 500, 4);
        assert!(ejected(&cluster).is_empty());
        observe(&cluster.endpoints[1], Observed::Failed);
        observe(&cluster.endpoints[1], Observed::TimedOut);
        assert_eq!(ejected(&cluster), [1]);
    }

    #[tokio::test]
    async fn failures_to_connect_are_split_where_asked() {
        let local_errors = Consecutive { count: 3, enforcing: 100 };
        let cluster =
            cluster(2, OutlierConfig { splits_local: true, local_errors, ..all_may_go() });
        observe(&cluster.endpoints[0], Observed::Failed);
        observe(&cluster.endpoints[0], Observed::TimedOut);
        answer(&cluster.endpoints[0], 500, 1);
        observe(&cluster.endpoints[0], Observed::Failed);
        assert!(ejected(&cluster).is_empty());
        (0..2).for_each(|_| observe(&cluster.endpoints[0], Observed::Failed));
        assert_eq!(ejected(&cluster), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_ejection_lasts_longer_and_quiet_makes_the_next_shorter() {
        let config = all_may_go();
        let cluster = cluster(2, config);
        let endpoint = &cluster.endpoints[0];
        let mut lasted = Vec::new();
        for _ in 0..3 {
            answer(endpoint, 500, 5);
            let at = Instant::now();
            while endpoint.live.has(Mark::Ejected) {
                tokio::time::advance(Duration::from_secs(10)).await;
                judge(&cluster, &config, Instant::now());
            }
            lasted.push(at.elapsed().as_secs());
        }
        assert_eq!(lasted, [30, 60, 90]);
        (0..3).for_each(|_| judge(&cluster, &config, Instant::now()));
        answer(endpoint, 500, 5);
        tokio::time::advance(Duration::from_secs(30)).await;
        judge(&cluster, &config, Instant::now());
        assert!(ejected(&cluster).is_empty());
    }

    #[tokio::test]
    async fn a_rate_far_below_the_others_ejects() {
        let config = all_may_go();
        let cluster = cluster(6, config);
        for (index, endpoint) in cluster.endpoints.iter().enumerate() {
            for _ in 0..25 {
                answer(endpoint, 200, if index == 3 { 2 } else { 4 });
                answer(endpoint, 500, if index == 3 { 2 } else { 0 });
            }
        }
        judge(&cluster, &config, Instant::now());
        assert_eq!(ejected(&cluster), [3]);
    }

    #[tokio::test]
    async fn too_many_failures_eject_where_enforced() {
        let rule =
            FailurePercentage { threshold: 50, enforcing: 100, ..all_may_go().failure_percentage };
        let success_rate = SuccessRate { enforcing: 0, ..all_may_go().success_rate };
        let config = OutlierConfig { failure_percentage: rule, success_rate, ..all_may_go() };
        let cluster = cluster(5, config);
        for (index, endpoint) in cluster.endpoints.iter().enumerate() {
            for _ in 0..50 {
                answer(endpoint, if index < 2 { 500 } else { 200 }, 1);
                answer(endpoint, 200, 1);
            }
        }
        judge(&cluster, &config, Instant::now());
        assert_eq!(ejected(&cluster), [0, 1]);
    }
}
