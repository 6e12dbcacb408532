//! Copies of a request on their way to other clusters. Nobody waits for their answers.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Version};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use super::edge::{FORWARDED_FOR, append};
use super::exchange::Exchange;
use super::forward::Plan;
use crate::body::{Body, tee};
use crate::cluster::Cluster;
use crate::cluster::balancer::Selection;
use crate::cluster::pool::Pools;
use crate::route::mirror::{MirrorCluster, MirrorPolicy};
use crate::telemetry::stats::UpstreamFailureKind;

const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");

/// How long a copy may take where its route has no limit.
const LIMIT: Duration = Duration::from_secs(300);

/// Sends copies of a request, as it goes upstream, to where its route wants them. Reading its body then
/// feeds the copies.
pub(super) fn send(
    exchange: &Exchange,
    plan: &Plan<'_>,
    request: &mut Request<Body>,
    limit: Option<Duration>,
) {
    let policies = &plan.forward.mirrors;
    if policies.is_empty() || plan.is_upgrade || request.method() == Method::CONNECT {
        return;
    }
    let wanted = policies.iter().filter(|policy| fastrand::u32(..1_000_000) < policy.millionths);
    let targets: Vec<_> = wanted
        .filter_map(|policy| Some((policy, Arc::clone(cluster(plan, policy, request.headers())?))))
        .collect();
    if targets.is_empty() {
        return;
    }
    let copies = if request.body().is_empty() {
        targets.iter().map(|_| Body::empty()).collect()
    } else {
        let (body, copies) = tee::tee(std::mem::take(request.body_mut()), targets.len());
        *request.body_mut() = body;
        copies
    };
    let worker = exchange.connection.worker();
    for ((policy, cluster), copy) in targets.into_iter().zip(copies) {
        let request = head(exchange, policy, request).map(|()| copy);
        let pools = worker.pools.clone();
        worker.tasks.spawn_local(deliver(pools, cluster, request, limit.unwrap_or(LIMIT)));
    }
}

fn cluster<'a>(
    plan: &Plan<'a>,
    policy: &MirrorPolicy,
    headers: &HeaderMap,
) -> Option<&'a Arc<Cluster>> {
    let routes = plan.routes;
    match &policy.cluster {
        MirrorCluster::One(index) => routes.cluster(plan.found.host, *index),
        MirrorCluster::Header(name) => routes.named(headers.get(name)?),
    }
}

fn head(exchange: &Exchange, policy: &MirrorPolicy, original: &Request<Body>) -> Request<()> {
    let mut head = Request::new(());
    head.method_mut().clone_from(original.method());
    head.uri_mut().clone_from(original.uri());
    *head.version_mut() = Version::HTTP_11;
    head.headers_mut().clone_from(original.headers());
    let headers = head.headers_mut();
    headers.remove(CONNECTION);
    if let Some(host) = headers.get(HOST) {
        let host = policy.host(host);
        headers.insert(HOST, host);
    }
    // As Envoy's own client has it: the copy comes from this proxy.
    headers.insert(INTERNAL, HeaderValue::from_static("true"));
    let own = exchange.connection.worker().settings.own_address.to_canonical();
    append(headers, &FORWARDED_FOR, ",", own.to_string().as_bytes());
    head
}

async fn deliver(pools: Pools, cluster: Arc<Cluster>, request: Request<Body>, limit: Duration) {
    let started = Instant::now();
    let answered = timeout(limit, ask(&pools, &cluster, request, started)).await;
    let stats = &cluster.live.stats;
    match answered {
        Ok(Some(())) => {}
        Ok(None) => stats.first_attempts.count(None),
        Err(_) => stats.failure(UpstreamFailureKind::Timeout),
    }
}

/// Reads all of the answer; none when there is none.
async fn ask(
    pools: &Pools,
    cluster: &Arc<Cluster>,
    request: Request<Body>,
    started: Instant,
) -> Option<()> {
    let endpoint = cluster.pick(&Selection::default())?;
    let response = match pools.send(&endpoint, request).await {
        Ok(response) => response,
        Err(error) => {
            cluster.live.stats.failure(error.reason.kind());
            let error: &dyn std::error::Error = &error;
            tracing::debug!(cluster = &*cluster.config.name, error, "a copy got no response");
            return None;
        }
    };
    let stats = &cluster.live.stats;
    stats.first_attempts.count(Some(response.status()));
    stats.duration.record(started.elapsed());
    let mut body = response.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    Some(())
}
