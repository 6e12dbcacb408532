//! Which cluster a request goes to, what it asks of an endpoint, and what its end says of that one.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};

use super::deadline::Expired;
use super::exchange::{Exchange, path_of};
use super::forward::Plan;
use crate::body::Body;
use crate::cluster::Cluster;
use crate::cluster::balancer::Selection;
use crate::cluster::failure::UpstreamError;
use crate::cluster::outlier::Observed;
use crate::matcher::hash::HashView;
use crate::route::action::{ClusterChoice, Draw, Forward, WeightedCluster};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The cluster of a request, and its place among several.
pub(super) fn choose<'a>(
    plan: &Plan<'a>,
    view: &HashView<'_>,
) -> (Option<&'a Arc<Cluster>>, Option<&'a WeightedCluster>) {
    let (routes, host) = (plan.routes, plan.found.host);
    match &plan.forward.cluster {
        ClusterChoice::One(index) => (routes.cluster(host, *index), None),
        ClusterChoice::Weighted(_) => {
            let picked = picked(plan.forward, view, plan.random);
            (picked.and_then(|picked| routes.cluster(host, picked.index)), picked)
        }
        ClusterChoice::Header(name) => {
            (view.headers.get(name).and_then(|value| routes.named(value)), None)
        }
    }
}

/// Which of several clusters a request goes to; none where there are not several.
pub(super) fn picked<'a>(
    forward: &'a Forward,
    view: &HashView<'_>,
    random: u64,
) -> Option<&'a WeightedCluster> {
    let ClusterChoice::Weighted(clusters) = &forward.cluster else { return None };
    let drawn = match &clusters.draw {
        Draw::Random => None,
        Draw::Hash => forward.hash_policy.hash(view, None),
        Draw::Header(name) => number(view.headers.get(name)),
    };
    clusters.pick(drawn.unwrap_or(random))
}

fn number(value: Option<&HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.parse().ok()
}

/// What of a request is hashed.
pub(super) fn hash_view<'a>(exchange: &Exchange, request: &'a Request<Body>) -> HashView<'a> {
    let facts = &exchange.connection.facts;
    HashView {
        headers: request.headers(),
        path: path_of(request.uri()),
        client: exchange.origin.map_or(facts.remote, |origin| origin.client).ip(),
        connection: (facts.remote, facts.local),
    }
}

/// What the route and the cluster ask of an endpoint. Cookies that are hashed and were not there
/// are made.
pub(super) fn select<'a>(
    plan: &Plan<'a>,
    cluster: &Cluster,
    (picked, view): (Option<&'a WeightedCluster>, &HashView<'_>),
    cookies: &mut Vec<HeaderValue>,
) -> Selection<'a> {
    let own = &cluster.config.balancer.hash_policy;
    let policy = if own.is_empty() { &plan.forward.hash_policy } else { own };
    let labels = picked.and_then(|picked| picked.labels.as_ref());
    Selection {
        hash: policy.hash(view, Some(cookies)),
        labels: Some(labels.unwrap_or(&plan.forward.labels)),
        attempt: 0,
    }
}

/// What a try says of its endpoint, if it is the endpoint's.
pub(super) fn observed(
    sent: &Result<Result<Response<Body>, UpstreamError>, Expired>,
) -> Option<Observed> {
    match sent {
        Ok(Ok(response)) => Some(Observed::Answer(outcome(response))),
        Ok(Err(error)) => Observed::failure(error.reason),
        Err(Expired::Response | Expired::PerTry) => Some(Observed::TimedOut),
        Err(Expired::Idle | Expired::Request | Expired::Stream) => None,
    }
}

/// The status of an answer; of gRPC the one that its own means.
fn outcome(response: &Response<Body>) -> StatusCode {
    match response.headers().get(GRPC_STATUS).map(HeaderValue::as_bytes) {
        None | Some(b"0") => response.status(),
        Some(b"14") => StatusCode::SERVICE_UNAVAILABLE,
        Some(b"4") => StatusCode::GATEWAY_TIMEOUT,
        Some(b"2" | b"13" | b"15") => StatusCode::INTERNAL_SERVER_ERROR,
        Some(b"12") => StatusCode::NOT_IMPLEMENTED,
        Some(_) => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::failure::UpstreamFailure;

    #[test]
    fn a_grpc_status_counts_as_the_status_that_it_means() {
        for (status, grpc_status, means) in
            [(200, "0", 200), (200, "14", 503), (200, "13", 500), (200, "5", 400), (503, "", 503)]
        {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if !grpc_status.is_empty() {
                response.headers_mut().insert(GRPC_STATUS, HeaderValue::from_static(grpc_status));
            }
            assert_eq!(outcome(&response).as_u16(), means, "{grpc_status}");
        }
    }

    #[test]
    fn what_is_the_clients_or_ours_says_nothing_of_the_endpoint() {
        let failed =
            |reason| observed(&Ok(Err(UpstreamError { reason, request: None, source: None })));
        assert_eq!(failed(UpstreamFailure::Request), None);
        assert_eq!(failed(UpstreamFailure::Overflow), None);
        assert_eq!(failed(UpstreamFailure::Connect), Some(Observed::Failed));
        assert_eq!(failed(UpstreamFailure::ConnectTimeout), Some(Observed::TimedOut));
        assert_eq!(observed(&Err(Expired::PerTry)), Some(Observed::TimedOut));
        assert_eq!(observed(&Err(Expired::Request)), None);
    }
}
