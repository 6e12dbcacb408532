//! What of a rule cannot be served, and why.

use crate::finding::codes;
use crate::model::filter::{HttpFilter, PathModifier};
use crate::model::route::BackendRef;
use crate::model::rule::Rule;
use crate::translate::filters::{header_refusal, request_modifier};
use crate::translate::matches::Matcher;
use crate::translate::plan::RuleParts;
use crate::translate::problem::Problem;
use crate::translate::session;

/// Why a rule cannot be served, if so.
pub(super) fn refusal<M: Matcher>(
    rule: &Rule<M>,
    parts: RuleParts<'_>,
    place: &str,
) -> Option<Problem> {
    let expression = rule.matches.iter().enumerate().find_map(|(index, entry)| {
        let (field, reason) = entry.bad_expression()?;
        let field = format!("{place}.matches[{index}].{field}");
        Some(Problem::new("UnsupportedValue", codes::BAD_REGEX, field, reason))
    });
    expression
        .or_else(|| rule_filters(parts, place))
        .or_else(|| backend_filters(&rule.backend_refs, place))
        .or_else(|| incompatible(parts.filters, &rule.backend_refs, place))
        .or_else(|| session::refusal(rule.session_persistence.as_ref()?, &rule.backend_refs, place))
}

fn rule_filters(rule: RuleParts<'_>, place: &str) -> Option<Problem> {
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
            HttpFilter::RequestMirror { .. } | HttpFilter::Cors { .. } => None,
            HttpFilter::ExternalAuth { .. } | HttpFilter::ExtensionRef { .. } => {
                Some(unsupported(format!("filter {} is not supported", filter.name())))
            }
        }
    })
}

/// A prefix can be replaced only where exactly one was matched.
fn needs_prefix(rule: RuleParts<'_>, path: Option<&PathModifier>, field: &str) -> Option<Problem> {
    let replaces = matches!(path, Some(PathModifier::ReplacePrefixMatch { .. }));
    (replaces && rule.prefix.is_none()).then(|| {
        let message = "ReplacePrefixMatch needs exactly one PathPrefix match in the rule";
        Problem::new("UnsupportedValue", codes::CONTRADICTION, field, message)
    })
}

fn backend_filters(references: &[BackendRef], place: &str) -> Option<Problem> {
    let all = references.iter().enumerate().flat_map(|(reference, backend)| {
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

/// Filters that would write the same thing, or that leave one another nothing to do.
fn incompatible(own: &[HttpFilter], references: &[BackendRef], place: &str) -> Option<Problem> {
    let of_references = references.iter().enumerate();
    let of_references = of_references
        .map(|(index, reference)| (format!("backendRefs[{index}]."), &*reference.filters));
    let places = std::iter::once((String::new(), own)).chain(of_references);
    for (prefix, filters) in places {
        let rewrites_host = filters.iter().any(|filter| {
            matches!(filter, HttpFilter::UrlRewrite { rewrite } if rewrite.hostname.is_some())
        });
        let sets_host = request_modifier(filters).is_some_and(|modifier| {
            modifier.set.iter().any(|header| header.name.eq_ignore_ascii_case("host"))
        });
        let has = |name| filters.iter().any(|filter| filter.name() == name);
        let message = if rewrites_host && sets_host {
            "URLRewrite and RequestHeaderModifier both set the host"
        } else if has("RequestRedirect") && has("URLRewrite") {
            "RequestRedirect and URLRewrite cannot be used together"
        } else if has("RequestRedirect") && has("RequestMirror") {
            "what is redirected is not forwarded, so there is nothing for RequestMirror to copy"
        } else if has("RequestRedirect") && has("CORS") {
            // Envoy's filter leaves routes alone that do not forward.
            "CORS is only supported for what is forwarded"
        } else {
            continue;
        };
        let field = format!("{place}.{prefix}filters");
        return Some(Problem::new("IncompatibleFilters", codes::CONTRADICTION, field, message));
    }
    None
}
