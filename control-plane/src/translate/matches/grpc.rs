//! Matches of GRPCRoutes: calls are requests to `/SERVICE/METHOD`.

use xds_proto::envoy::config::route::v3::RouteMatch;
use xds_proto::envoy::config::route::v3::route_match::PathSpecifier;

use crate::model::grpcroute::{GrpcMatch, MethodMatch};
use crate::model::rule::ValueMatchType;
use crate::translate::envoy::regex;
use crate::translate::matches::{Matcher, bad_value, first_by_name, headers, refused};
use crate::translate::plan::MatchPlan;

/// Any service, any method.
const ANY: &str = "[^/]+";

impl Matcher for GrpcMatch {
    fn plan(&self, index: usize) -> MatchPlan {
        let (service, method) = self.method.as_ref().map(parts).unwrap_or_default();
        let length = |part: Option<&str>| part.map_or(0, |part| part.chars().count());
        let headers = first_by_name(&self.headers, true).len();
        let specificity = [length(service), length(method), headers, 0, 0];
        MatchPlan { index, specificity, method: None, matcher: route_match(self) }
    }

    fn bad_expression(&self) -> Option<(String, String)> {
        let method = self.method.as_ref().filter(|one| is_expression(one));
        let part = |text: &Option<String>, field: &str| {
            text.as_ref().and_then(|text| refused(text, format!("method.{field}")))
        };
        let method = method
            .and_then(|one| part(&one.service, "service").or_else(|| part(&one.method, "method")));
        method.or_else(|| bad_value(&self.headers, "headers"))
    }

    fn only_prefix(_: &[Self]) -> Option<&str> {
        None
    }
}

fn is_expression(method: &MethodMatch) -> bool {
    match method.match_type {
        ValueMatchType::Exact => false,
        ValueMatchType::RegularExpression => true,
    }
}

/// Service and method; a service may be written with a dot before it, as in protobuf.
fn parts(method: &MethodMatch) -> (Option<&str>, Option<&str>) {
    let service = method.service.as_deref().filter(|service| !service.is_empty());
    let method_name = method.method.as_deref().filter(|method| !method.is_empty());
    let service = service.map(|service| match is_expression(method) {
        true => service,
        false => service.strip_prefix('.').unwrap_or(service),
    });
    (service, method_name)
}

fn route_match(entry: &GrpcMatch) -> RouteMatch {
    let every = || PathSpecifier::Prefix("/".to_owned());
    let path = entry.method.as_ref().map_or_else(every, |method| match parts(method) {
        (None, None) => every(),
        (service, name) if is_expression(method) => {
            let part = |part: Option<&str>| {
                part.map_or_else(|| ANY.to_owned(), |expression| format!("(?:{expression})"))
            };
            PathSpecifier::SafeRegex(regex(format!("/{}/{}", part(service), part(name))))
        }
        (Some(service), Some(name)) => PathSpecifier::Path(format!("/{service}/{name}")),
        (Some(service), None) => PathSpecifier::Prefix(format!("/{service}/")),
        // A method is letters, digits and underscores: nothing that an expression would read.
        (None, Some(name)) => PathSpecifier::SafeRegex(regex(format!("/{ANY}/{name}"))),
    });
    RouteMatch {
        path_specifier: Some(path),
        headers: headers(&entry.headers),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn plan(value: Value) -> MatchPlan {
        serde_json::from_value::<GrpcMatch>(value).unwrap().plan(0)
    }

    #[test]
    fn a_call_is_matched_by_its_path() {
        let path = |method: Value| plan(json!({"method": method})).matcher.path_specifier.unwrap();
        let exact =
            |service, method| path(json!({"type": "Exact", "service": service, "method": method}));
        let expression = |text: &str| PathSpecifier::SafeRegex(regex(text));
        assert_eq!(exact(Some("a.B"), Some("C")), PathSpecifier::Path("/a.B/C".into()));
        assert_eq!(exact(Some(".a.B"), None), PathSpecifier::Prefix("/a.B/".into()));
        assert_eq!(exact(None, Some("C")), expression("/[^/]+/C"));
        let method = json!({"type": "RegularExpression", "service": "a|b"});
        assert_eq!(path(method), expression("/(?:a|b)/[^/]+"));
        assert_eq!(plan(json!({})).matcher.path_specifier, Some(PathSpecifier::Prefix("/".into())));
    }

    #[test]
    fn the_longer_service_comes_first_then_the_longer_method_then_more_headers() {
        let method = |service: &str, method: Option<&str>| json!({"type": "Exact", "service": service, "method": method});
        let header = json!([{"type": "Exact", "name": "a", "value": "b"}]);
        let ordered = [
            json!({"method": method("long.Name", None)}),
            json!({"method": method("a.B", Some("Long"))}),
            json!({"method": method("a.B", Some("C")), "headers": header}),
            json!({"method": method("a.B", Some("C"))}),
            json!({"headers": header}),
            json!({}),
        ];
        let keys: Vec<_> = ordered.into_iter().map(|entry| plan(entry).specificity).collect();
        assert!(keys.is_sorted_by(|a, b| a > b), "{keys:?}");
    }

    #[test]
    fn an_expression_that_does_not_compile_is_named() {
        let method = json!({"type": "RegularExpression", "service": "a", "method": "("});
        let entry: GrpcMatch = serde_json::from_value(json!({"method": method})).unwrap();
        assert_eq!(entry.bad_expression().unwrap().0, "method.method");
    }
}
