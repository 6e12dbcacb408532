//! Requests that are forwarded: to which clusters, how changed, and for how long.

use std::time::Duration;

use xds_proto::envoy::config::core::v3::RuntimeFractionalPercent;
use xds_proto::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration,
    RequestMirrorPolicy,
};
use xds_proto::envoy::config::route::v3::weighted_cluster::{ClusterWeight, cluster_weight};
use xds_proto::envoy::config::route::v3::{RouteAction, WeightedCluster};
use xds_proto::envoy::r#type::v3::FractionalPercent;
use xds_proto::envoy::r#type::v3::fractional_percent::DenominatorType;

use crate::model::filter::{HttpFilter, UrlRewrite};
use crate::translate::actions::{STREAM_IDLE_TIMEOUT, Site};
use crate::translate::backends::{ClusterKey, INVALID};
use crate::translate::envoy::{duration, number};
use crate::translate::filters::{
    self, HeaderChanges, PathChange, header_changes, request_modifier, response_modifier,
};
use crate::translate::plan::{Copies, RouteKind, RulePlan, Share};

/// A request may take so long unless its rule says otherwise (Envoy's own default).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Sends the requests of a rule to where its shares lead.
pub(super) fn route_action(
    kind: RouteKind,
    rule: &RulePlan<'_>,
    (shares, host): (&[Share<'_>], Option<String>),
    site: Site<'_>,
) -> RouteAction {
    let rewrite = rule.rule.filters.iter().find_map(|filter| match filter {
        HttpFilter::UrlRewrite { rewrite } => Some(rewrite),
        _ => None,
    });
    let request = request_timeout(kind, rule);
    let mut action = RouteAction {
        cluster_specifier: Some(cluster_specifier(kind, shares, site)),
        timeout: duration(request),
        // A request that may take longer than a stream may be silent is silent while it waits.
        idle_timeout: (request > STREAM_IDLE_TIMEOUT).then_some(request).and_then(duration),
        host_rewrite_specifier: rewrite
            .and_then(|rewrite| rewrite.hostname.clone())
            .or(host)
            .map(HostRewriteSpecifier::HostRewriteLiteral),
        request_mirror_policies: rule
            .copies
            .iter()
            .map(|copies| mirror(kind, copies, site))
            .collect(),
        ..Default::default()
    };
    match kind {
        RouteKind::Http if shares.iter().any(|share| share.to.is_none()) => {
            action.cluster_not_found_response_code =
                ClusterNotFoundResponseCode::InternalServerError.into();
        }
        RouteKind::Http | RouteKind::Tls | RouteKind::Tcp => {}
        // A call says itself how long it may take (`grpc-timeout`).
        RouteKind::Grpc => {
            action.max_stream_duration = Some(MaxStreamDuration {
                grpc_timeout_header_max: duration(Duration::ZERO),
                ..Default::default()
            });
        }
    }
    if let Some(rewrite) = rewrite {
        rewrite_path(&mut action, rewrite, rule.rule.prefix.unwrap_or("/"));
    }
    action
}

/// How long the request may take; zero is for ever.
fn request_timeout(kind: RouteKind, rule: &RulePlan<'_>) -> Duration {
    let timeouts = rule.rule.timeouts;
    let default = match kind {
        RouteKind::Grpc => Duration::ZERO,
        // A try that may be longer than the default makes the request so too.
        RouteKind::Http | RouteKind::Tls | RouteKind::Tcp => {
            timeouts.backend_request.unwrap_or_default().max(REQUEST_TIMEOUT)
        }
    };
    timeouts.request.unwrap_or(default)
}

fn rewrite_path(action: &mut RouteAction, rewrite: &UrlRewrite, prefix: &str) {
    match rewrite.path.as_ref().and_then(|path| filters::path_change(path, prefix)) {
        None => {}
        Some(PathChange::Full(path)) => action.regex_rewrite = Some(filters::full_path(&path)),
        Some(PathChange::Prefix(prefix)) => action.prefix_rewrite = prefix,
        Some(PathChange::Regex(change)) => action.regex_rewrite = Some(change),
    }
}

/// One cluster as it is; several, or one whose share is changed on its way, by weight.
fn cluster_specifier(kind: RouteKind, shares: &[Share<'_>], site: Site<'_>) -> ClusterSpecifier {
    if let [Share { to: Some(to), filters: [], .. }] = shares {
        return ClusterSpecifier::Cluster(ClusterKey::new(to, kind, site).name());
    }
    let weight = |share: &Share<'_>| -> ClusterWeight {
        let name = |to| ClusterKey::new(to, kind, site).name();
        let HeaderChanges { add, remove, host } =
            request_modifier(share.filters).map(header_changes).unwrap_or_default();
        let response = response_modifier(share.filters).map(header_changes).unwrap_or_default();
        let rewritten = share.filters.iter().find_map(|filter| match filter {
            HttpFilter::UrlRewrite { rewrite } => rewrite.hostname.clone(),
            _ => None,
        });
        ClusterWeight {
            name: share.to.as_ref().map_or_else(|| INVALID.to_owned(), name),
            weight: number(share.weight),
            request_headers_to_add: add,
            request_headers_to_remove: remove,
            response_headers_to_add: response.add,
            response_headers_to_remove: response.remove,
            host_rewrite_specifier: rewritten
                .or(host)
                .map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
            ..Default::default()
        }
    };
    ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters: shares.iter().map(weight).collect(),
        ..Default::default()
    })
}

/// Copies keep the host of the request, unlike those that Envoy marks by default.
fn mirror(kind: RouteKind, copies: &Copies, site: Site<'_>) -> RequestMirrorPolicy {
    let fraction = |numerator| {
        let denominator = DenominatorType::Million.into();
        let default_value = Some(FractionalPercent { numerator, denominator });
        RuntimeFractionalPercent { default_value, ..Default::default() }
    };
    RequestMirrorPolicy {
        cluster: ClusterKey::new(&copies.to, kind, site).name(),
        runtime_fraction: copies.of_a_million.map(fraction),
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    }
}
