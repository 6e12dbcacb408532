//! What the proxy counts and logs: numbers by name at link time, lines off the request path.

pub mod access_log;
pub mod instrument;
pub mod json;
pub mod metrics;
pub mod stats;
pub mod why;
mod exposition;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use access_log::AccessLogs;
use instrument::Counter;
use stats::{ClusterStats, ListenerStats, ProxyStats, RouteStats};

/// The most label sets that a metric may have; what comes later shares one.
const SETS_MAX: usize = 2_000;

/// The label value of what came after [`SETS_MAX`].
const OVERFLOW: &str = "_overflow";

/// The names that a route's numbers are kept under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteLabels {
    /// The listener.
    pub listener: Arc<str>,
    /// The domain of the virtual host that matched, `_other` for none.
    pub host: Arc<str>,
    /// The route, `_none` for none.
    pub route: Arc<str>,
}

/// Hands out numbers by name, and renders them all. Locked only when tables are linked, and when
/// somebody reads.
#[derive(Debug, Default)]
pub struct Registry {
    listeners: Mutex<BTreeMap<Arc<str>, Arc<ListenerStats>>>,
    routes: Mutex<BTreeMap<RouteLabels, Arc<RouteStats>>>,
    clusters: Mutex<BTreeMap<Arc<str>, Arc<ClusterStats>>>,
    certificates: Mutex<BTreeMap<Arc<str>, i64>>,
    revision: Mutex<Option<Arc<str>>>,
    proxy: ProxyStats,
    dropped_lines: Arc<Counter>,
    access_logs: OnceLock<AccessLogs>,
    overflows: Counter,
}

impl Registry {
    /// The numbers of the listener `name`.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerStats> {
        Arc::clone(lock(&self.listeners).entry(Arc::clone(name)).or_default())
    }

    /// The numbers of the cluster `name`.
    pub fn cluster(&self, name: &Arc<str>) -> Arc<ClusterStats> {
        let mut clusters = lock(&self.clusters);
        if clusters.len() >= SETS_MAX && !clusters.contains_key(name) {
            self.overflows.increment();
            return Arc::clone(clusters.entry(Arc::from(OVERFLOW)).or_default());
        }
        Arc::clone(clusters.entry(Arc::clone(name)).or_default())
    }

    /// The numbers of a route of a listener.
    pub fn route(&self, labels: &RouteLabels) -> Arc<RouteStats> {
        let mut routes = lock(&self.routes);
        if let Some(stats) = routes.get(labels) {
            return Arc::clone(stats);
        }
        if routes.len() < SETS_MAX {
            return Arc::clone(routes.entry(labels.clone()).or_default());
        }
        self.overflows.increment();
        let other = Arc::<str>::from(OVERFLOW);
        let labels =
            RouteLabels { listener: Arc::clone(&other), host: Arc::clone(&other), route: other };
        Arc::clone(routes.entry(labels).or_default())
    }

    /// The numbers of the proxy as a whole.
    pub fn proxy(&self) -> &ProxyStats {
        &self.proxy
    }

    /// Counts lines of access log that were not written.
    pub fn dropped_lines(&self) -> Arc<Counter> {
        Arc::clone(&self.dropped_lines)
    }

    /// Starts the writer of access logs, at the first call.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start_access_logs(&self) -> std::io::Result<&AccessLogs> {
        if let Some(logs) = self.access_logs.get() {
            return Ok(logs);
        }
        let logs = AccessLogs::start(self.dropped_lines())?;
        Ok(self.access_logs.get_or_init(|| logs))
    }

    /// The writer of access logs, where it was started.
    pub fn access_logs(&self) -> Option<&AccessLogs> {
        self.access_logs.get()
    }

    /// Sets when certificates expire, in seconds since 1970, by the name of their secret.
    pub fn set_certificates(&self, expiry: impl IntoIterator<Item = (Arc<str>, i64)>) {
        *lock(&self.certificates) = expiry.into_iter().collect();
    }

    /// Sets the revision that is served.
    pub fn set_revision(&self, revision: Option<Arc<str>>) {
        *lock(&self.revision) = revision;
    }

    /// Everything as Prometheus text.
    pub fn render(&self) -> String {
        exposition::render(self)
    }
}

/// A number is right even where a thread that held the lock panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sets_beyond_the_limit_share_one() {
        let registry = Registry::default();
        let labels = |n: usize| RouteLabels {
            listener: "l".into(),
            host: "*".into(),
            route: n.to_string().into(),
        };
        let first = registry.route(&labels(0));
        let last = (1..SETS_MAX + 2).map(|n| registry.route(&labels(n))).last().unwrap();
        last.requests.count(None);
        assert!(Arc::ptr_eq(&first, &registry.route(&labels(0))));
        assert!(Arc::ptr_eq(&last, &registry.route(&labels(SETS_MAX + 7))));
        assert!(registry.render().contains(
            "weighlock_requests_total{listener=\"_overflow\",host=\"_overflow\",route=\"_overflow\",code_class=\"0xx\"} 1\n"
        ));
    }
}
