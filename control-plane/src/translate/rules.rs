//! Rules of routes, judged by themselves: what is valid in them, and where their requests go.

use crate::finding::codes;
use crate::model::httproute::filter::{HttpFilter, PathModifier};
use crate::model::httproute::{HttpRoute, HttpRule, PathMatch, ValueMatch, ValueMatchType};
use crate::model::meta::Place;
use crate::model::regex::check_expression;
use crate::translate::filters::{header_refusal, only_prefix, request_modifier};
use crate::translate::problem::Problem;
use crate::translate::references::Referrer;

/// A route, judged.
#[derive(Debug)]
pub(super) struct RoutePlan<'a> {
    /// The route.
    pub(super) route: &'a HttpRoute,
    /// Its rules.
    pub(super) rules: Vec<RulePlan<'a>>,
    /// References that lead nowhere.
    pub(super) dangling: Vec<Problem>,
}

/// A rule, judged.
#[derive(Debug)]
pub(super) struct RulePlan<'a> {
    /// The rule.
    pub(super) rule: &'a HttpRule,
    /// Its name, or its place in the route.
    pub(super) name: String,
    /// Where its requests go, or why it is invalid.
    pub(super) shares: Result<Vec<Share<'a>>, Problem>,
}

/// A share of the requests of a rule.
#[derive(Debug)]
pub(super) struct Share<'a> {
    /// Its weight.
    pub(super) weight: u32,
    /// Its backend; none when the reference leads nowhere.
    pub(super) backend: Option<Place>,
    /// What is done to it.
    pub(super) filters: &'a [HttpFilter],
}

impl RoutePlan<'_> {
    /// What is wrong with its rules.
    pub(super) fn invalid(&self) -> Vec<&Problem> {
        self.rules.iter().filter_map(|rule| rule.shares.as_ref().err()).collect()
    }

    /// Whether no rule of it is valid.
    pub(super) fn is_all_invalid(&self) -> bool {
        self.rules.iter().all(|rule| rule.shares.is_err())
    }
}

/// Judges a route.
pub(super) fn plan<'a>(route: &'a HttpRoute, referrer: Referrer<'_>) -> RoutePlan<'a> {
    let mut dangling = Vec::new();
    let rules = route.spec.rules.iter().enumerate().map(|(index, rule)| {
        let place = format!("spec.rules[{index}]");
        let shares = match refusal(rule, &place) {
            Some(problem) => Err(problem),
            None => Ok(shares(rule, &place, referrer, &mut dangling)),
        };
        RulePlan { rule, name: rule.name.clone().unwrap_or_else(|| index.to_string()), shares }
    });
    let rules = rules.collect();
    RoutePlan { route, rules, dangling }
}

fn shares<'a>(
    rule: &'a HttpRule,
    place: &str,
    referrer: Referrer<'_>,
    dangling: &mut Vec<Problem>,
) -> Vec<Share<'a>> {
    let share = |(index, reference): (usize, &'a crate::model::httproute::HttpBackendRef)| {
        let backend = referrer.backend(reference, &format!("{place}.backendRefs[{index}]"));
        let backend = backend.map_err(|problem| dangling.push(problem)).ok();
        Share { weight: reference.weight, backend, filters: &reference.filters }
    };
    rule.backend_refs.iter().enumerate().map(share).collect()
}

/// Why a rule cannot be served, if so.
fn refusal(rule: &HttpRule, place: &str) -> Option<Problem> {
    let unsupported = |field: &str, what: &str| {
        let message = format!("{what} is not supported");
        let field = format!("{place}.{field}");
        Problem::new("UnsupportedValue", codes::NOT_SUPPORTED, field, message)
    };
    if rule.retry.is_some() {
        return Some(unsupported("retry", "retry"));
    }
    if rule.session_persistence.is_some() {
        return Some(unsupported("sessionPersistence", "sessionPersistence"));
    }
    bad_expression(rule, place)
        .or_else(|| rule_filters(rule, place))
        .or_else(|| backend_filters(rule, place))
        .or_else(|| incompatible(rule, place))
}

fn rule_filters(rule: &HttpRule, place: &str) -> Option<Problem> {
    let filters = rule.filters.iter().enumerate();
    filters.into_iter().find_map(|(index, filter)| {
        let field = format!("{place}.filters[{index}]");
        let unsupported =
            |message| Problem::new("UnsupportedValue", codes::NOT_SUPPORTED, &*field, message);
        match filter {
            HttpFilter::RequestHeaderModifier { modifier } => {
                header_refusal(modifier, true).map(unsupported)
            }
            HttpFilter::ResponseHeaderModifier { modifier } => {
                header_refusal(modifier, false).map(unsupported)
            }
            HttpFilter::RequestRedirect { redirect } => {
                needs_prefix(rule, redirect.path.as_ref(), &field)
            }
            HttpFilter::UrlRewrite { rewrite } => needs_prefix(rule, rewrite.path.as_ref(), &field),
            HttpFilter::RequestMirror { .. }
            | HttpFilter::Cors { .. }
            | HttpFilter::ExternalAuth { .. }
            | HttpFilter::ExtensionRef { .. } => {
                Some(unsupported(format!("filter {} is not supported", filter.name())))
            }
        }
    })
}

/// A prefix can be replaced only where exactly one was matched.
fn needs_prefix(rule: &HttpRule, path: Option<&PathModifier>, field: &str) -> Option<Problem> {
    let replaces = matches!(path, Some(PathModifier::ReplacePrefixMatch { .. }));
    (replaces && only_prefix(rule).is_none()).then(|| {
        let message = "ReplacePrefixMatch needs exactly one PathPrefix match in the rule";
        Problem::new("UnsupportedValue", codes::CONTRADICTION, field, message)
    })
}

fn backend_filters(rule: &HttpRule, place: &str) -> Option<Problem> {
    let all = rule.backend_refs.iter().enumerate().flat_map(|(reference, backend)| {
        let filters = backend.filters.iter().enumerate();
        filters.map(move |(index, filter)| (reference, index, filter))
    });
    all.into_iter().find_map(|(reference, index, filter)| {
        let field = format!("{place}.backendRefs[{reference}].filters[{index}]");
        let refused = match filter {
            HttpFilter::RequestHeaderModifier { modifier } => header_refusal(modifier, true),
            HttpFilter::ResponseHeaderModifier { modifier } => header_refusal(modifier, false),
            HttpFilter::UrlRewrite { rewrite } if rewrite.path.is_none() => None,
            HttpFilter::UrlRewrite { .. }
            | HttpFilter::RequestRedirect { .. }
            | HttpFilter::RequestMirror { .. }
            | HttpFilter::Cors { .. }
            | HttpFilter::ExternalAuth { .. }
            | HttpFilter::ExtensionRef { .. } => {
                let message = format!("{} cannot be used on a backendRef", filter.name());
                let code = codes::NOT_SUPPORTED;
                return Some(Problem::new("IncompatibleFilters", code, field, message));
            }
        };
        refused
            .map(|message| Problem::new("UnsupportedValue", codes::NOT_SUPPORTED, field, message))
    })
}

/// Filters that would write the same thing.
fn incompatible(rule: &HttpRule, place: &str) -> Option<Problem> {
    let places = std::iter::once((String::new(), &rule.filters)).chain(
        rule.backend_refs
            .iter()
            .enumerate()
            .map(|(index, reference)| (format!("backendRefs[{index}]."), &reference.filters)),
    );
    let mut redirects_and_rewrites = false;
    for (prefix, filters) in places {
        let rewrites_host = filters.iter().any(|filter| {
            matches!(filter, HttpFilter::UrlRewrite { rewrite } if rewrite.hostname.is_some())
        });
        let sets_host = request_modifier(filters).is_some_and(|modifier| {
            modifier.set.iter().any(|header| header.name.eq_ignore_ascii_case("host"))
        });
        let has = |name| filters.iter().any(|filter| filter.name() == name);
        redirects_and_rewrites |= has("RequestRedirect") && has("URLRewrite");
        let message = if rewrites_host && sets_host {
            "URLRewrite and RequestHeaderModifier both set the host"
        } else if redirects_and_rewrites {
            "RequestRedirect and URLRewrite cannot be used together"
        } else {
            continue;
        };
        let field = format!("{place}.{prefix}filters");
        return Some(Problem::new("IncompatibleFilters", codes::CONTRADICTION, field, message));
    }
    None
}

/// An expression that does not compile; a store of ours refuses it, a cluster does not.
fn bad_expression(rule: &HttpRule, place: &str) -> Option<Problem> {
    rule.matches.iter().enumerate().find_map(|(index, entry)| {
        let place = format!("{place}.matches[{index}]");
        let path = match &entry.path {
            PathMatch::RegularExpression(expression) => {
                refused(expression, format!("{place}.path"))
            }
            PathMatch::Exact(_) | PathMatch::PathPrefix(_) => None,
        };
        path.or_else(|| bad_value(&entry.headers, &place, "headers"))
            .or_else(|| bad_value(&entry.query_params, &place, "queryParams"))
    })
}

fn bad_value(entries: &[ValueMatch], place: &str, list: &str) -> Option<Problem> {
    entries.iter().enumerate().find_map(|(index, entry)| match entry.match_type {
        ValueMatchType::Exact => None,
        ValueMatchType::RegularExpression => {
            refused(&entry.value, format!("{place}.{list}[{index}]"))
        }
    })
}

fn refused(expression: &str, place: String) -> Option<Problem> {
    let reason = check_expression(expression).err()?;
    Some(Problem::new("UnsupportedValue", codes::BAD_REGEX, format!("{place}.value"), reason))
}
