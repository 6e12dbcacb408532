//! Matches of HTTPRoutes.

use xds_proto::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use xds_proto::envoy::config::route::v3::route_match::PathSpecifier;
use xds_proto::envoy::config::route::v3::{QueryParameterMatcher, RouteMatch};

use crate::model::httproute::{HttpMatch, PathMatch};
use crate::model::rule::ValueMatch;
use crate::translate::envoy::{exactly, regex};
use crate::translate::matches::{
    Matcher, bad_value, first_by_name, header, headers, refused, value,
};
use crate::translate::plan::MatchPlan;

impl Matcher for HttpMatch {
    fn plan(&self, index: usize) -> MatchPlan {
        let (path_kind, path) = match &self.path {
            PathMatch::Exact(path) => (2, path.as_str()),
            PathMatch::RegularExpression(expression) => (1, expression.as_str()),
            PathMatch::PathPrefix(prefix) => (0, trimmed(prefix)),
        };
        let specificity = [
            path_kind,
            path.chars().count(),
            self.method.iter().len(),
            first_by_name(&self.headers, true).len(),
            first_by_name(&self.query_params, false).len(),
        ];
        MatchPlan { index, specificity, method: self.method.clone(), matcher: route_match(self) }
    }

    fn bad_expression(&self) -> Option<(String, String)> {
        let path = match &self.path {
            PathMatch::RegularExpression(expression) => refused(expression, "path.value".into()),
            PathMatch::Exact(_) | PathMatch::PathPrefix(_) => None,
        };
        path.or_else(|| bad_value(&self.headers, "headers"))
            .or_else(|| bad_value(&self.query_params, "queryParams"))
    }

    fn only_prefix(matches: &[Self]) -> Option<&str> {
        match matches {
            [] => Some("/"),
            [only] => match &only.path {
                PathMatch::PathPrefix(prefix) => Some(prefix),
                PathMatch::Exact(_) | PathMatch::RegularExpression(_) => None,
            },
            _ => None,
        }
    }
}

/// A prefix goes by segments, so a slash at its end says nothing; the root stays.
pub(in crate::translate) fn trimmed(prefix: &str) -> &str {
    match prefix.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    }
}

fn route_match(entry: &HttpMatch) -> RouteMatch {
    let path = match &entry.path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        PathMatch::RegularExpression(expression) => PathSpecifier::SafeRegex(regex(expression)),
        PathMatch::PathPrefix(prefix) => match trimmed(prefix) {
            "/" => PathSpecifier::Prefix("/".to_owned()),
            prefix => PathSpecifier::PathSeparatedPrefix(prefix.to_owned()),
        },
    };
    let method = entry.method.iter().map(|method| header(":method", exactly(method)));
    let query_parameters = first_by_name(&entry.query_params, false);
    RouteMatch {
        path_specifier: Some(path),
        headers: method.chain(headers(&entry.headers)).collect(),
        query_parameters: query_parameters.iter().map(|entry| query_parameter(entry)).collect(),
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
        let keys: Vec<_> =
            ordered.into_iter().map(|value| entry(value).plan(0).specificity).collect();
        assert!(keys.is_sorted_by(|a, b| a > b), "{keys:?}");
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
        assert_eq!(matched.headers, [header("x-a", exactly("1"))]);
        assert_eq!(matched.path_specifier, Some(PathSpecifier::PathSeparatedPrefix("/a".into())));
    }
}
