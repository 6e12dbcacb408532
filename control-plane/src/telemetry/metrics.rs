//! Every metric of the control plane, with its help and its unit.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A node's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct State {
    /// As `wlctl status` shows it.
    pub state: &'static str,
}

/// A resource type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Type {
    /// `CDS`, `EDS`, …
    pub r#type: &'static str,
}

/// What became of something.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `ok`, `refused`, `conflict` or `failed`.
    pub result: &'static str,
}

/// A request to the API.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiRequest {
    /// The template of the route.
    pub route: String,
    /// `2xx`, `4xx`, …
    pub code_class: &'static str,
}

/// The template of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiRoute {
    /// The template of the route.
    pub route: String,
}

type ByOutcome = Family<Outcome, Histogram, fn() -> Histogram>;
type ByApiRoute = Family<ApiRoute, Histogram, fn() -> Histogram>;

/// The metrics of one control plane.
pub struct Metrics {
    registry: Registry,
    /// How many nodes are in each state.
    pub nodes: Family<State, Gauge>,
    /// The newest revision that was published.
    pub revision: Gauge,
    /// Writes of documents, by what became of them.
    pub apply: Family<Outcome, Counter>,
    /// How long a write took.
    pub apply_duration_seconds: ByOutcome,
    /// From a change to the snapshot, without sending it.
    pub snapshot_build_seconds: Histogram,
    /// From the accepted write to the ACK of a node.
    pub propagation_seconds: Histogram,
    /// What nodes refused.
    pub nacks: Family<Type, Counter>,
    /// The size of the embedded store's file.
    pub store_bytes: Gauge,
    /// Requests to the API.
    pub api_requests: Family<ApiRequest, Counter>,
    /// How long requests to the API took, watches aside.
    pub api_request_duration_seconds: ByApiRoute,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("weighlock_control"),
            nodes: Family::default(),
            revision: Gauge::default(),
            apply: Family::default(),
            apply_duration_seconds: Family::new_with_constructor(seconds),
            snapshot_build_seconds: seconds(),
            propagation_seconds: seconds(),
            nacks: Family::default(),
            store_bytes: Gauge::default(),
            api_requests: Family::default(),
            api_request_duration_seconds: Family::new_with_constructor(seconds),
        };
        metrics.register();
        metrics
    }
}

/// From 0.5 ms to 16 s, each twice the one before.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("nodes", "Nodes by state", self.nodes.clone());
        registry.register("revision", "Newest published revision", self.revision.clone());
        registry.register("apply", "Writes of documents", self.apply.clone());
        registry.register(
            "apply_duration_seconds",
            "Time of a write of documents",
            self.apply_duration_seconds.clone(),
        );
        registry.register(
            "snapshot_build_seconds",
            "Time from a change to the snapshot",
            self.snapshot_build_seconds.clone(),
        );
        registry.register(
            "propagation_seconds",
            "Time from an accepted write to the ACK of a node",
            self.propagation_seconds.clone(),
        );
        registry.register("nacks", "Resources that nodes refused", self.nacks.clone());
        registry.register("store_bytes", "Size of the embedded store", self.store_bytes.clone());
        registry.register("api_requests", "Requests to the API", self.api_requests.clone());
        registry.register(
            "api_request_duration_seconds",
            "Time of a request to the API",
            self.api_request_duration_seconds.clone(),
        );
    }

    /// The metrics as Prometheus reads them.
    pub fn render(&self) -> String {
        let mut out = String::new();
        match text::encode(&mut out, &self.registry) {
            Ok(()) => out,
            Err(fmt::Error) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_prefix_and_counters_end_in_total() {
        let metrics = Metrics::default();
        metrics.revision.set(7);
        metrics.nacks.get_or_create(&Type { r#type: "RDS" }).inc();
        let text = metrics.render();
        assert!(text.contains("weighlock_control_revision 7"), "{text}");
        assert!(text.contains("weighlock_control_nacks_total{type=\"RDS\"} 1"), "{text}");
        assert!(text.contains("weighlock_control_snapshot_build_seconds_bucket"), "{text}");
    }
}
