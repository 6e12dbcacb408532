//! What a route does with a request: forward it, redirect it, or answer it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::RequestView;
use super::mirror::MirrorPolicy;
use super::redirect::Redirect;
use super::rewrite::{HostRewrite, PathRewrite};
use crate::chain::overrides::FilterSet;
use crate::filtering::rate_limit::RateLimit;
use crate::format::mutation::HeaderMutations;
use crate::labels::Labels;
use crate::matcher::hash::HashPolicy;
use crate::retry::RetryPolicy;

/// The action of a route (`Route.action`).
#[derive(Debug)]
pub enum Action {
    /// Sent to a cluster.
    Forward(Box<Forward>),
    /// Answered with a `Location`.
    Redirect(Box<Redirect>),
    /// Answered as configured.
    Direct(Box<DirectResponse>),
}

/// Position of a cluster's name in those of its virtual host
/// ([`super::virtual_host::VirtualHost::cluster_names`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterIndex(pub(crate) u32);

/// How a request is forwarded (`RouteAction`).
#[derive(Debug)]
pub struct Forward {
    /// Where to.
    pub cluster: ClusterChoice,
    /// From the last byte of the request to the last of the response, over all attempts
    /// (`timeout`: unset is 15 s, zero is none; none too where `max_stream_duration` is given).
    pub timeout: Option<Duration>,
    /// While nothing is sent either way (`idle_timeout`).
    pub idle_timeout: Limit,
    /// Over all of the stream (`max_stream_duration.max_stream_duration`).
    pub max_stream_duration: Limit,
    /// What `grpc-timeout` may replace the timeout with.
    pub grpc_timeout: Option<GrpcTimeout>,
    /// When to try again (`retry_policy`, else the virtual host's).
    pub retry: Option<Arc<RetryPolicy>>,
    /// How much of a request is kept for that (`request_body_buffer_limit`, else `per_request_buffer_limit_bytes`).
    pub kept_bytes_max: usize,
    /// Where copies of its requests go (`request_mirror_policies`, else of the levels around it).
    pub mirrors: Arc<[MirrorPolicy]>,
    /// Which protocols a request may switch to (`upgrade_configs`).
    pub upgrades: Box<[Upgrade]>,
    /// The answer when the cluster is not known (`cluster_not_found_response_code`).
    pub cluster_not_found: StatusCode,
    /// A new path (`prefix_rewrite`, `regex_rewrite`, `path_rewrite`).
    pub path_rewrite: Option<PathRewrite>,
    /// A new host (`host_rewrite_specifier`).
    pub host_rewrite: Option<HostRewrite>,
    /// The metadata that an endpoint must have (`metadata_match`); empty: whatever it has.
    pub labels: Labels,
    /// What requests are hashed by (`hash_policy`).
    pub hash_policy: HashPolicy,
    /// Whether the old host goes into `x-forwarded-host` (`append_x_forwarded_host`).
    pub append_x_forwarded_host: bool,
    /// How its requests are counted (`rate_limits`).
    pub rate_limits: Box<[RateLimit]>,
    /// Whether they are also counted as the virtual host has it (`include_vh_rate_limits`).
    pub includes_virtual_host_rate_limits: bool,
}

/// The limit of a route, which may leave it to the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limit {
    /// As the HTTP connection manager has it.
    #[default]
    Inherited,
    /// None.
    Off,
    /// This long.
    After(Duration),
}

impl Limit {
    /// The limit to hold, given the listener's.
    pub fn or(self, inherited: Option<Duration>) -> Option<Duration> {
        match self {
            Self::Inherited => inherited,
            Self::Off => None,
            Self::After(limit) => Some(limit),
        }
    }
}

/// How `grpc-timeout` of a gRPC request stands in for the route's timeout
/// (`max_stream_duration.grpc_timeout_header_max`, `max_grpc_timeout`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcTimeout {
    /// At most this; none is no bound.
    pub max: Option<Duration>,
    /// Taken off what the client asks, so that it hears of the timeout.
    pub offset: Duration,
    /// Whether it stands in for the longest stream instead (`max_stream_duration`).
    pub is_of_stream: bool,
}

/// One of `upgrade_configs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The value of the `Upgrade` header, any case.
    pub protocol: Box<str>,
    /// Whether it is allowed here.
    pub is_enabled: bool,
}

impl Forward {
    /// Whether a request may switch to `protocol`; none leaves it to the listener.
    pub fn allows_upgrade(&self, protocol: &str) -> Option<bool> {
        self.upgrades
            .iter()
            .find(|upgrade| upgrade.protocol.eq_ignore_ascii_case(protocol))
            .map(|upgrade| upgrade.is_enabled)
    }
}

/// How the cluster is chosen (`RouteAction.cluster_specifier`).
#[derive(Debug)]
pub enum ClusterChoice {
    /// Always this one.
    One(ClusterIndex),
    /// By weight.
    Weighted(WeightedClusters),
    /// The one this request header names.
    Header(HeaderName),
}

/// Clusters that share the requests of a route by weight (`weighted_clusters`).
#[derive(Debug)]
pub struct WeightedClusters {
    /// Whose number decides.
    pub draw: Draw,
    clusters: Box<[WeightedCluster]>,
    total: u64,
}

/// What number decides on a cluster (`random_value_specifier`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Draw {
    /// A random one.
    Random,
    /// The hash of the request, where it has one (`use_hash_policy`).
    Hash,
    /// The one in this header, where it has one (`header_name`).
    Header(HeaderName),
}

/// One of [`WeightedClusters`].
#[derive(Debug)]
pub struct WeightedCluster {
    /// The cluster.
    pub index: ClusterIndex,
    /// Its share of the total.
    pub weight: u32,
    /// A host for requests that go there (`host_rewrite_literal`).
    pub host_rewrite: Option<HeaderValue>,
    /// The metadata that an endpoint must have, the route's included (`metadata_match`).
    pub labels: Option<Labels>,
    /// What is said of filters here and around (`typed_per_filter_config`).
    pub filters: FilterSet,
    pub(crate) request: HeaderMutations,
    pub(crate) response: HeaderMutations,
}

impl WeightedCluster {
    /// A cluster that changes nothing of what it gets.
    pub fn plain(index: ClusterIndex, weight: u32) -> Self {
        Self {
            index,
            weight,
            host_rewrite: None,
            labels: None,
            filters: FilterSet::default(),
            request: HeaderMutations::default(),
            response: HeaderMutations::default(),
        }
    }
}

impl WeightedClusters {
    /// Clusters with a total weight above zero; none otherwise.
    pub fn new(clusters: Vec<WeightedCluster>, draw: Draw) -> Option<Self> {
        let total = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
        (total > 0).then(|| Self { draw, clusters: clusters.into(), total })
    }

    /// The cluster a number falls on.
    pub fn pick(&self, random: u64) -> Option<&WeightedCluster> {
        let mut left = random % self.total;
        self.clusters.iter().find(|cluster| match left.checked_sub(cluster.weight.into()) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
    }

    /// All of them, in order.
    pub fn clusters(&self) -> &[WeightedCluster] {
        &self.clusters
    }
}

/// An answer that needs no upstream (`DirectResponseAction`).
#[derive(Debug)]
pub struct DirectResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
    /// `text/plain` where there is a body; header mutations may change it.
    pub content_type: Option<HeaderValue>,
}

impl DirectResponse {
    /// The answer to a request. A redirect, or a 201, says where: as in Envoy, here.
    pub fn respond(&self, request: &RequestView<'_>) -> Response<Bytes> {
        let mut response = Response::new(self.body.clone());
        *response.status_mut() = self.status;
        if self.status.is_redirection() || self.status == StatusCode::CREATED {
            let location = [request.scheme, "://", request.host, request.path].concat();
            if let Ok(location) = HeaderValue::from_str(&location) {
                response.headers_mut().insert(LOCATION, location);
            }
        }
        if let Some(content_type) = &self.content_type {
            response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighted(weights: &[u32]) -> Option<WeightedClusters> {
        let cluster = |(index, weight): (usize, &u32)| {
            WeightedCluster::plain(ClusterIndex(index.try_into().unwrap()), *weight)
        };
        let clusters = weights.iter().enumerate().map(cluster).collect();
        WeightedClusters::new(clusters, Draw::Random)
    }

    #[test]
    fn each_cluster_gets_its_weight_and_weight_zero_gets_nothing() {
        let clusters = weighted(&[0, 70, 0, 30, 0]).unwrap();
        let mut got = [0; 5];
        for random in 0..1000 {
            got[clusters.pick(random).unwrap().index.0 as usize] += 1;
        }
        assert_eq!(got, [0, 700, 0, 300, 0]);
    }

    #[test]
    fn weights_sum_above_zero_and_may_exceed_32_bits() {
        assert!(weighted(&[0, 0]).is_none());
        assert!(weighted(&[]).is_none());
        let clusters = weighted(&[u32::MAX, u32::MAX]).unwrap();
        assert_eq!(clusters.pick(u64::from(u32::MAX)).unwrap().index, ClusterIndex(1));
    }

    #[test]
    fn a_limit_of_the_route_replaces_the_listeners() {
        let (a, b) = (Duration::from_secs(1), Duration::from_secs(2));
        assert_eq!(Limit::Inherited.or(Some(a)), Some(a));
        assert_eq!(Limit::Off.or(Some(a)), None);
        assert_eq!(Limit::After(b).or(Some(a)), Some(b));
    }
}
