//! What a request must be: matches as Envoy has them, and which of two comes first.

use std::cmp::Reverse;

use xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use xds_proto::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use xds_proto::envoy::config::route::v3::route_match::PathSpecifier;
use xds_proto::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher, RouteMatch};
use xds_proto::envoy::r#type::matcher::v3::StringMatcher;

use crate::model::httproute::{HttpMatch, PathMatch, ValueMatch, ValueMatchType};
use crate::translate::envoy::{exactly, matching, regex};

/// Orders matches of one virtual host; the least comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    path_kind: u8,
    path_length: Reverse<usize>,
    without_method: bool,
    headers: Reverse<usize>,
    query_parameters: Reverse<usize>,
    /// Age, namespace and name of the route.
    route: (String, String, String),
    /// Which rule of the route, and which match of the rule.
    place: (usize, usize),
}

impl Precedence {
    /// The precedence of a match of the route with this age, at this place in it.
    pub(super) fn new(
        entry: &HttpMatch,
        (created, namespace, name): (&str, &str, &str),
        place: (usize, usize),
    ) -> Self {
        let (path_kind, path) = match &entry.path {
            PathMatch::Exact(path) => (0, path.as_str()),
            PathMatch::RegularExpression(expression) => (1, expression.as_str()),
            PathMatch::PathPrefix(prefix) => (2, trimmed(prefix)),
        };
        Self {
            path_kind,
            path_length: Reverse(path.chars().count()),
            without_method: entry.method.is_none(),
            headers: Reverse(first_by_name(&entry.headers, true).len()),
            query_parameters: Reverse(first_by_name(&entry.query_params, false).len()),
            route: (created.to_owned(), namespace.to_owned(), name.to_owned()),
            place,
        }
    }
}

/// A prefix goes by segments, so a slash at its end says nothing; the root stays.
pub(super) fn trimmed(prefix: &str) -> &str {
    match prefix.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    }
}

/// The first entry of each name; header names are compared without case.
fn first_by_name(entries: &[ValueMatch], without_case: bool) -> Vec<&ValueMatch> {
    let same = |a: &str, b: &str| if without_case { a.eq_ignore_ascii_case(b) } else { a == b };
    let mut first: Vec<&ValueMatch> = Vec::new();
    for entry in entries {
        if !first.iter().any(|other| same(&other.name, &entry.name)) {
            first.push(entry);
        }
    }
    first
}

/// The match as Envoy has it.
pub(super) fn route_match(entry: &HttpMatch) -> RouteMatch {
    let path = match &entry.path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        PathMatch::RegularExpression(expression) => PathSpecifier::SafeRegex(regex(expression)),
        PathMatch::PathPrefix(prefix) => match trimmed(prefix) {
            "/" => PathSpecifier::Prefix("/".to_owned()),
            prefix => PathSpecifier::PathSeparatedPrefix(prefix.to_owned()),
        },
    };
    let method = entry.method.iter().map(|method| header(":method", exactly(method)));
    let headers = first_by_name(&entry.headers, true);
    let headers = headers.iter().map(|entry| header(&entry.name.to_lowercase(), value(entry)));
    let query_parameters = first_by_name(&entry.query_params, false);
    RouteMatch {
        path_specifier: Some(path),
        headers: method.chain(headers).collect(),
        query_parameters: query_parameters.iter().map(|entry| query_parameter(entry)).collect(),
        ..Default::default()
    }
}

fn header(name: &str, value: StringMatcher) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(value)),
        ..Default::default()
    }
}

fn query_parameter(entry: &ValueMatch) -> QueryParameterMatcher {
    QueryParameterMatcher {
        name: entry.name.clone(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(value(
            entry,
        ))),
    }
}

fn value(entry: &ValueMatch) -> StringMatcher {
    match entry.match_type {
        ValueMatchType::Exact => exactly(&entry.value),
        ValueMatchType::RegularExpression => matching(&entry.value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(value: serde_json::Value) -> HttpMatch {
        serde_json::from_value(value).unwrap()
    }

    fn path(kind: &str, value: &str) -> serde_json::Value {
        json!({"type": kind, "value": value})
    }

    #[test]
    fn the_more_specific_match_comes_first() {
        let header = json!([{"type": "Exact", "name": "a", "value": "b"}]);
        let ordered = [
            json!({"path": path("Exact", "/long/path")}),
            json!({"path": path("Exact", "/a")}),
            json!({"path": path("RegularExpression", "/.*")}),
            json!({"path": path("PathPrefix", "/long"), "method": "GET"}),
            json!({"path": path("PathPrefix", "/long"), "headers": header}),
            json!({"path": path("PathPrefix", "/long"), "queryParams": header}),
            json!({"path": path("PathPrefix", "/long/")}),
            json!({"path": path("PathPrefix", "/")}),
        ];
        let keys: Vec<_> = ordered
            .iter()
            .enumerate()
            .map(|(i, value)| Precedence::new(&entry(value.clone()), ("", "n", "r"), (0, 99 - i)))
            .collect();
        assert!(keys.is_sorted(), "{keys:?}");
    }

    #[test]
    fn age_name_and_place_decide_between_equals() {
        let any = HttpMatch::default();
        let key = |route, place| Precedence::new(&any, route, place);
        assert!(
            key(("2026-01-01T00:00:00Z", "z", "z"), (9, 9))
                < key(("2026-01-02T00:00:00Z", "a", "a"), (0, 0))
        );
        assert!(key(("", "a", "a"), (9, 9)) < key(("", "a", "b"), (0, 0)));
        assert!(key(("", "a", "a"), (0, 1)) < key(("", "a", "a"), (1, 0)));
    }

    #[test]
    fn of_equivalent_header_names_the_first_counts() {
        let matched = route_match(&entry(json!({
            "path": path("PathPrefix", "/a/"),
            "headers": [
                {"type": "Exact", "name": "X-A", "value": "1"},
                {"type": "Exact", "name": "x-a", "value": "2"},
            ],
        })));
        assert_eq!(matched.headers, [super::header("x-a", exactly("1"))]);
        assert_eq!(matched.path_specifier, Some(PathSpecifier::PathSeparatedPrefix("/a".into())));
    }
}
