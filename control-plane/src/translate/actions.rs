//! Routes of Envoy made from a rule: one for each of its matches, or more where methods are told apart.

use std::collections::HashMap;
use std::time::Duration;

use xds_proto::envoy::config::core::v3::DataSource;
use xds_proto::envoy::config::route::v3::route::Action;
use xds_proto::envoy::config::route::v3::{DirectResponseAction, RetryPolicy, Route, RouteMatch};
use xds_proto::google::protobuf::Any;

use crate::model::filter::HttpFilter;
use crate::model::meta::Place;
use crate::translate::cors;
use crate::translate::envoy::{exactly, matching};
use crate::translate::filters::{header_changes, request_modifier, response_modifier};
use crate::translate::matches::{Precedence, header};
use crate::translate::plan::{MatchPlan, RouteKind, RoutePlan, RulePlan};
use crate::translate::retry::{self, Retries};
use crate::translate::session;

mod forward;
mod redirect;

/// A stream may be silent so long.
pub(super) const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Where routes are put.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    /// The listener's port.
    pub(super) port: u16,
    /// Whether its clients speak TLS.
    pub(super) is_tls: bool,
    /// The virtual host's domain.
    pub(super) domain: &'a str,
    /// The gateway, where it shows backends a certificate.
    pub(super) shows_certificate: Option<&'a Place>,
    /// Whether TLS of its clients goes on to backends as it is.
    pub(super) passes_tls: bool,
}

/// A route with what it is sorted by.
#[derive(Debug)]
pub(super) struct Sorted {
    /// What it is sorted by.
    pub(super) precedence: Precedence,
    /// The field it came from.
    pub(super) field: String,
    /// What it must be told apart by from others; none for one that another of its match goes with.
    pub(super) key: Option<RouteMatch>,
    /// The route.
    pub(super) route: Route,
}

/// All routes of a plan.
pub(super) fn routes(plan: &RoutePlan<'_>, site: Site<'_>) -> Vec<Sorted> {
    let mut out = Vec::new();
    for (rule_index, rule) in plan.rules.iter().enumerate() {
        let template = template(plan, rule, site);
        let retries = match template.action {
            Some(Action::Route(_)) => retry::of_rule(rule.rule),
            _ => Retries::Inherited,
        };
        for entry in &rule.matches {
            let metadata = &plan.metadata;
            let place = (rule_index, entry.index);
            let name = format!("{}/{}/{}", metadata.place(), rule.name, entry.index);
            for (index, (matcher, retry)) in variants(entry, &retries, rule).into_iter().enumerate()
            {
                out.push(Sorted {
                    precedence: Precedence::new(entry.specificity, metadata.age_order(), place),
                    field: format!("spec.rules[{rule_index}].matches[{}]", entry.index),
                    key: (index == 0).then(|| entry.matcher.clone()),
                    route: with_retry(&template, retry, (&name, matcher)),
                });
            }
        }
    }
    out
}

fn with_retry(
    template: &Route,
    retry: Option<RetryPolicy>,
    (name, matcher): (&str, RouteMatch),
) -> Route {
    let mut route = Route { name: name.to_owned(), r#match: Some(matcher), ..template.clone() };
    if let (Some(retry), Some(Action::Route(action))) = (retry, &mut route.action) {
        action.retry_policy = Some(retry);
    }
    route
}

/// The routes that a match becomes: what may be repeated is told apart by its method.
fn variants(
    entry: &MatchPlan,
    retries: &Retries,
    rule: &RulePlan<'_>,
) -> Vec<(RouteMatch, Option<RetryPolicy>)> {
    let mut variants = Vec::new();
    let whole = || entry.matcher.clone();
    match (retries, &entry.method) {
        (Retries::Inherited, _) => variants.push((whole(), None)),
        (Retries::Same(policy), _) => variants.push((whole(), Some((**policy).clone()))),
        (Retries::Apart { methods, repeatable, others }, Some(method)) => {
            let is_repeatable = methods.iter().any(|one| one == method);
            let policy = if is_repeatable { repeatable } else { others };
            variants.push((whole(), Some((**policy).clone())));
        }
        (Retries::Apart { methods, repeatable, others }, None) => {
            let mut narrow = whole();
            narrow.headers.insert(0, header(":method", matching(&methods.join("|"))));
            variants.push((narrow, Some((**repeatable).clone())));
            variants.push((whole(), Some((**others).clone())));
        }
    }
    variants.extend(preflight(entry, rule).map(|matcher| (matcher, None)));
    variants
}

/// What a browser asks before it sends a request of the match's method: the rule answers that too.
fn preflight(entry: &MatchPlan, rule: &RulePlan<'_>) -> Option<RouteMatch> {
    let method = entry.method.as_deref().filter(|method| *method != "OPTIONS")?;
    cors::of_filters(rule.rule.filters)?;
    let mut matcher = entry.matcher.clone();
    matcher.headers.retain(|header| header.name != ":method");
    let asks = [
        header(":method", exactly("OPTIONS")),
        header("access-control-request-method", exactly(method)),
    ];
    matcher.headers.splice(0..0, asks);
    Some(matcher)
}

/// A route of the rule, but for its name and match.
fn template(plan: &RoutePlan<'_>, rule: &RulePlan<'_>, site: Site<'_>) -> Route {
    let Ok(shares) = &rule.shares else { return answer(500) };
    let filters = rule.rule.filters;
    let request = request_modifier(filters).map(header_changes).unwrap_or_default();
    let response = response_modifier(filters).map(header_changes).unwrap_or_default();
    let redirect = filters.iter().find_map(|filter| match filter {
        HttpFilter::RequestRedirect { redirect } => Some(redirect),
        _ => None,
    });
    let leads_nowhere = shares.iter().all(|share| share.to.is_none() || share.weight == 0);
    let action = match redirect {
        Some(redirect) => {
            let prefix = rule.rule.prefix.unwrap_or("/");
            Action::Redirect(redirect::redirect_action(redirect, prefix, site))
        }
        None if leads_nowhere => {
            return Route {
                response_headers_to_add: response.add,
                response_headers_to_remove: response.remove,
                typed_per_filter_config: filter_configs(plan, rule),
                ..answer(match plan.kind {
                    RouteKind::Grpc => 503,
                    RouteKind::Http | RouteKind::Tls | RouteKind::Tcp => 500,
                })
            };
        }
        None => Action::Route(forward::route_action(plan.kind, rule, (shares, request.host), site)),
    };
    Route {
        request_headers_to_add: request.add,
        request_headers_to_remove: request.remove,
        response_headers_to_add: response.add,
        response_headers_to_remove: response.remove,
        typed_per_filter_config: filter_configs(plan, rule),
        action: Some(action),
        ..Default::default()
    }
}

/// What the rule says to the filters of the chain.
fn filter_configs(plan: &RoutePlan<'_>, rule: &RulePlan<'_>) -> HashMap<String, Any> {
    let cors = cors::of_filters(rule.rule.filters).map(cors::config);
    let name = format!("{}/{}", plan.metadata.place(), rule.name);
    let session =
        rule.rule.session.map(|session| session::config(session, &name, rule.rule.prefix));
    let configs = cors.into_iter().chain(session);
    configs.map(|(name, config)| (name.to_owned(), config)).collect()
}

/// A route that answers with this status and an empty body.
pub(super) fn answer(status: u32) -> Route {
    let body: Option<DataSource> = None;
    let action = DirectResponseAction { status, body, ..Default::default() };
    Route { action: Some(Action::DirectResponse(action)), ..Default::default() }
}
