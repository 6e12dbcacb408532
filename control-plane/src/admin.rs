//! The admin listener: probes and metrics.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio_util::sync::CancellationToken;
use xds_proto::resource::ResourceType;

use crate::fleet::status::{NodeState, NodeStatus};
use crate::fleet::{Fleet, count_states};
use crate::telemetry::metrics::{self, Metrics};

/// What must be true before `/readyz` says so.
#[derive(Debug, Default)]
pub struct Readiness {
    /// The store is read.
    pub is_store_loaded: AtomicBool,
    /// The first snapshot is published.
    pub is_published: AtomicBool,
    /// xDS connections are taken.
    pub is_xds_listening: AtomicBool,
    /// The program is ending.
    pub is_ending: AtomicBool,
}

impl Readiness {
    /// What is still missing.
    fn missing(&self) -> Vec<&'static str> {
        let is_set = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        [
            (is_set(&self.is_store_loaded), "the store is being read"),
            (is_set(&self.is_published), "the first snapshot is not published"),
            (is_set(&self.is_xds_listening), "xDS is not listening"),
            (!is_set(&self.is_ending), "the program is ending"),
        ]
        .into_iter()
        .filter(|(is_done, _)| !is_done)
        .map(|(_, missing)| missing)
        .collect()
    }
}

/// What the admin listener shows.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Whether the program may be sent traffic.
    pub readiness: Arc<Readiness>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The nodes, counted when metrics are read.
    pub fleet: Arc<Fleet>,
    /// The embedded store's file, measured when metrics are read.
    pub store_file: Option<PathBuf>,
}

/// The pages of the admin listener.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let missing = admin.readiness.missing();
    if missing.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n")
    }
}

async fn show_metrics(State(admin): State<Admin>) -> impl IntoResponse {
    count_nodes(&admin.metrics, &admin.fleet.nodes());
    if let Some(file) = &admin.store_file
        && let Ok(facts) = tokio::fs::metadata(file).await
    {
        admin.metrics.store_bytes.set(i64::try_from(facts.len()).unwrap_or(i64::MAX));
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], admin.metrics.render())
}

fn count_nodes(metrics: &Metrics, nodes: &[NodeStatus]) {
    let counts = count_states(nodes);
    for (state, word) in [
        (NodeState::Synced, "synced"),
        (NodeState::Pending, "pending"),
        (NodeState::Stale, "stale"),
        (NodeState::Nack, "NACK"),
        (NodeState::Lost, "lost"),
    ] {
        let count = counts.get(&state).copied().unwrap_or_default();
        let gauge = metrics.nodes.get_or_create(&metrics::State { state: word });
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// Counts what nodes say, and tells of refusals, until `shutdown`.
pub async fn observe(fleet: Arc<Fleet>, metrics: Arc<Metrics>, shutdown: CancellationToken) {
    let mut changed = fleet.changed();
    let mut seen: HashMap<Arc<str>, Seen> = HashMap::new();
    loop {
        changed.mark_unchanged();
        let nodes = fleet.nodes();
        for node in &nodes {
            let now = Seen::of(node);
            let before = seen.insert(node.node.clone(), now.clone());
            tell(&metrics, node, before.as_ref(), &now);
        }
        seen.retain(|name, _| nodes.iter().any(|node| node.node == *name));
        tokio::select! {
            news = changed.changed() => if news.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}

/// What was known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    state: NodeState,
    revision: Option<u64>,
    refusals: u32,
    refused: Option<String>,
}

impl Seen {
    fn of(node: &NodeStatus) -> Self {
        Self {
            state: node.state,
            revision: node.revision,
            refusals: node.nack.as_ref().map_or(0, |nack| nack.tries),
            refused: node.nack.as_ref().map(|nack| nack.text.clone()),
        }
    }
}

fn tell(metrics: &Metrics, node: &NodeStatus, before: Option<&Seen>, now: &Seen) {
    let was_known = before.is_some_and(|seen| seen.state != NodeState::Lost);
    if now.state == NodeState::Lost {
        if was_known {
            tracing::info!(node = &*node.node, "a node is gone");
        }
        return;
    }
    if !was_known {
        tracing::info!(node = &*node.node, fleet = &*node.fleet, kind = %node.kind, "a node connected");
    }
    if before.is_some_and(|seen| seen.revision != now.revision)
        && let Some(lag) = node.lag_ms
    {
        // Whole milliseconds: what the fleet keeps.
        metrics.propagation_seconds.observe(std::time::Duration::from_millis(lag).as_secs_f64());
    }
    let Some(nack) = &node.nack else { return };
    if before.is_none_or(|seen| seen.refusals != now.refusals || seen.refused != now.refused) {
        metrics.nacks.get_or_create(&metrics::Type { r#type: nack.r#type }).inc();
        let kind = ResourceType::from_short_name(nack.r#type);
        tracing::warn!(
            node = &*node.node,
            type_url = kind.map_or(nack.r#type, ResourceType::type_url),
            resource = nack.resources.join(", "),
            error = nack.text,
            "a node refused a resource"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_is_missing() {
        let readiness = Readiness::default();
        readiness.is_store_loaded.store(true, Ordering::Release);
        let missing = readiness.missing();
        assert_eq!(missing, ["the first snapshot is not published", "xDS is not listening"]);
        readiness.is_published.store(true, Ordering::Release);
        readiness.is_xds_listening.store(true, Ordering::Release);
        assert!(readiness.missing().is_empty());
        readiness.is_ending.store(true, Ordering::Release);
        assert_eq!(readiness.missing(), ["the program is ending"]);
    }
}
