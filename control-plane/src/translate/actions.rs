//! Routes of Envoy made from a rule: one for each of its matches.

use std::time::Duration;

use xds_proto::envoy::config::core::v3::DataSource;
use xds_proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use xds_proto::envoy::config::route::v3::route::Action;
use xds_proto::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
};
use xds_proto::envoy::config::route::v3::weighted_cluster::{ClusterWeight, cluster_weight};
use xds_proto::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, RetryPolicy, Route, RouteAction, WeightedCluster,
};

use crate::model::httproute::filter::{HttpFilter, Redirect, UrlRewrite};
use crate::model::httproute::{HttpMatch, HttpRule};
use crate::translate::cluster::cluster_name;
use crate::translate::envoy::{duration, number};
use crate::translate::filters::{
    self, HeaderChanges, PathChange, header_changes, request_modifier, response_modifier,
};
use crate::translate::hostname::ANY;
use crate::translate::matches::{Precedence, route_match};
use crate::translate::rules::{RoutePlan, RulePlan, Share};

/// A request may take so long unless its rule says otherwise (Envoy's own default).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// A stream may be silent so long.
pub(super) const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// The cluster of shares that lead nowhere; there never is one of this name.
const INVALID: &str = "invalid";

/// Where routes are put.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    /// The listener's port.
    pub(super) port: u16,
    /// Whether its clients speak TLS.
    pub(super) is_tls: bool,
    /// The virtual host's domain.
    pub(super) domain: &'a str,
}

/// A route with what it is sorted by.
#[derive(Debug)]
pub(super) struct Sorted {
    /// What it is sorted by.
    pub(super) precedence: Precedence,
    /// The field it came from.
    pub(super) field: String,
    /// The route.
    pub(super) route: Route,
}

/// All routes of a plan.
pub(super) fn routes(plan: &RoutePlan<'_>, site: Site<'_>) -> Vec<Sorted> {
    let mut out = Vec::new();
    for (rule_index, rule) in plan.rules.iter().enumerate() {
        let any = [HttpMatch::default()];
        let matches = if rule.rule.matches.is_empty() { &any[..] } else { &rule.rule.matches };
        let template = template(rule, site);
        for (index, entry) in matches.iter().enumerate() {
            let metadata = &plan.route.metadata;
            let place = (rule_index, index);
            out.push(Sorted {
                precedence: Precedence::new(entry, metadata.age_order(), place),
                field: format!("spec.rules[{rule_index}].matches[{index}]"),
                route: Route {
                    name: format!("{}/{}/{index}", metadata.place(), rule.name),
                    r#match: Some(route_match(entry)),
                    ..template.clone()
                },
            });
        }
    }
    out
}

/// A route of the rule, but for its name and match.
fn template(plan: &RulePlan<'_>, site: Site<'_>) -> Route {
    let Ok(shares) = &plan.shares else { return answer(500) };
    let rule = plan.rule;
    let request = request_modifier(&rule.filters).map(header_changes).unwrap_or_default();
    let response = response_modifier(&rule.filters).map(header_changes).unwrap_or_default();
    let redirect = rule.filters.iter().find_map(|filter| match filter {
        HttpFilter::RequestRedirect { redirect } => Some(redirect),
        _ => None,
    });
    let action = match redirect {
        Some(redirect) => Action::Redirect(redirect_action(redirect, rule, site)),
        None if shares.iter().all(|share| share.backend.is_none() || share.weight == 0) => {
            return Route {
                response_headers_to_add: response.add,
                response_headers_to_remove: response.remove,
                ..answer(500)
            };
        }
        None => Action::Route(route_action(rule, shares, request.host.clone())),
    };
    Route {
        request_headers_to_add: request.add,
        request_headers_to_remove: request.remove,
        response_headers_to_add: response.add,
        response_headers_to_remove: response.remove,
        action: Some(action),
        ..Default::default()
    }
}

/// A route that answers with this status and an empty body.
pub(super) fn answer(status: u32) -> Route {
    let body: Option<DataSource> = None;
    let action = DirectResponseAction { status, body, ..Default::default() };
    Route { action: Some(Action::DirectResponse(action)), ..Default::default() }
}

fn route_action(rule: &HttpRule, shares: &[Share<'_>], host: Option<String>) -> RouteAction {
    let rewrite = rule.filters.iter().find_map(|filter| match filter {
        HttpFilter::UrlRewrite { rewrite } => Some(rewrite),
        _ => None,
    });
    let (request, per_try) = timeouts(rule);
    let is_dangling = shares.iter().any(|share| share.backend.is_none());
    let mut action = RouteAction {
        cluster_specifier: Some(cluster_specifier(shares)),
        timeout: duration(request),
        // A request that may take longer than a stream may be silent is silent while it waits.
        idle_timeout: (request > STREAM_IDLE_TIMEOUT).then_some(request).and_then(duration),
        retry_policy: per_try.map(|per_try| RetryPolicy {
            per_try_timeout: duration(per_try),
            ..Default::default()
        }),
        host_rewrite_specifier: rewrite
            .and_then(|rewrite| rewrite.hostname.clone())
            .or(host)
            .map(HostRewriteSpecifier::HostRewriteLiteral),
        ..Default::default()
    };
    if is_dangling {
        action.cluster_not_found_response_code =
            ClusterNotFoundResponseCode::InternalServerError.into();
    }
    if let Some(rewrite) = rewrite {
        rewrite_path(&mut action, rewrite, rule);
    }
    action
}

/// How long the request may take, and one try of it.
fn timeouts(rule: &HttpRule) -> (Duration, Option<Duration>) {
    let timeouts = rule.timeouts.unwrap_or_default();
    let per_try = timeouts.backend_request.filter(|per_try| !per_try.is_zero());
    // A try that may be longer than the default makes the request so too.
    let default = per_try.unwrap_or_default().max(REQUEST_TIMEOUT);
    (timeouts.request.unwrap_or(default), per_try)
}

fn rewrite_path(action: &mut RouteAction, rewrite: &UrlRewrite, rule: &HttpRule) {
    let prefix = filters::only_prefix(rule).unwrap_or("/");
    match rewrite.path.as_ref().and_then(|path| filters::path_change(path, prefix)) {
        None => {}
        Some(PathChange::Full(path)) => action.regex_rewrite = Some(filters::full_path(&path)),
        Some(PathChange::Prefix(prefix)) => action.prefix_rewrite = prefix,
        Some(PathChange::Regex(change)) => action.regex_rewrite = Some(change),
    }
}

/// One cluster as it is; several, or one whose share is changed on its way, by weight.
fn cluster_specifier(shares: &[Share<'_>]) -> ClusterSpecifier {
    if let [Share { backend: Some(backend), filters: [], .. }] = shares {
        return ClusterSpecifier::Cluster(cluster_name(backend));
    }
    let weight = |share: &Share<'_>| -> ClusterWeight {
        let name = share.backend.as_ref().map_or_else(|| INVALID.to_owned(), cluster_name);
        let HeaderChanges { add, remove, host } =
            request_modifier(share.filters).map(header_changes).unwrap_or_default();
        let response = response_modifier(share.filters).map(header_changes).unwrap_or_default();
        let rewritten = share.filters.iter().find_map(|filter| match filter {
            HttpFilter::UrlRewrite { rewrite } => rewrite.hostname.clone(),
            _ => None,
        });
        ClusterWeight {
            name,
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

fn redirect_action(redirect: &Redirect, rule: &HttpRule, site: Site<'_>) -> RedirectAction {
    let own_scheme = if site.is_tls { "https" } else { "http" };
    let scheme = redirect.scheme.as_deref().unwrap_or(own_scheme);
    let default_port = if scheme == "https" { 443 } else { 80 };
    let by_scheme = if redirect.scheme.is_some() { default_port } else { site.port };
    let port = redirect.port.unwrap_or(by_scheme);
    let is_written = port != default_port;
    // Where no port is written Envoy keeps the one of the request's host, which is that of the
    // other scheme; a host that is known is written without it.
    let known = (redirect.scheme.is_some() && !is_written && !site.domain.starts_with(ANY))
        .then_some(site.domain);
    let prefix = filters::only_prefix(rule).unwrap_or("/");
    let path = redirect.path.as_ref().and_then(|path| filters::path_change(path, prefix));
    RedirectAction {
        scheme_rewrite_specifier: redirect
            .scheme
            .clone()
            .map(SchemeRewriteSpecifier::SchemeRedirect),
        host_redirect: redirect.hostname.as_deref().or(known).unwrap_or_default().to_owned(),
        port_redirect: if is_written { port.into() } else { 0 },
        path_rewrite_specifier: path.map(|path| match path {
            PathChange::Full(path) => PathRewriteSpecifier::PathRedirect(path),
            PathChange::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
            PathChange::Regex(change) => PathRewriteSpecifier::RegexRewrite(change),
        }),
        response_code: match redirect.status_code {
            301 => RedirectResponseCode::MovedPermanently,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::Found,
        }
        .into(),
        ..Default::default()
    }
}
