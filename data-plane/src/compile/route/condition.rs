//! Compiles `RouteMatch`: when a route is the one.

use xds_proto::envoy::config::route::v3::RouteMatch;
use xds_proto::envoy::config::route::v3::route_match::{PathSpecifier, TlsContextMatchOptions};
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;

use crate::matcher::compile as matcher;
use crate::matcher::regex::{Regex, literal_prefix};
use crate::matcher::uri_template::UriTemplate;
use crate::route::condition::{Condition, OtherConditions, PathCondition, PathKind};

/// Compiles the conditions of a route, and the template of its path if it has one.
pub(super) fn compile(message: RouteMatch) -> Result<(Condition, Option<UriTemplate>), FieldError> {
    fields!(message: RouteMatch,
        read: [
            path_specifier, case_sensitive, runtime_fraction, headers, query_parameters, grpc,
            tls_context, dynamic_metadata,
        ],
        ignore: [],
        refuse: [cookies, filter_state]);
    let case_sensitive = case_sensitive.is_none_or(|value| value.value);
    let specifier = required(path_specifier, "path_specifier")?;
    let (path, template) = match specifier {
        PathSpecifier::PathMatchPolicy(policy) => {
            let template = matcher::uri_template(policy).at("path_match_policy")?;
            let regex = template.regex().at("path_match_policy")?;
            (by_expression(regex, template.pattern()), Some(template))
        }
        specifier => (path(specifier, case_sensitive)?, None),
    };
    let rest = OtherConditions {
        headers: each(headers, "headers", matcher::header)?.into(),
        query: each(query_parameters, "query_parameters", matcher::query)?.into(),
        is_grpc: grpc.is_some(),
        is_client_known: tls_context.map(client).transpose().at("tls_context")?.flatten(),
        metadata: each(dynamic_metadata, "dynamic_metadata", matcher::metadata)?.into(),
        millionths: runtime_fraction.map(matcher::fraction).transpose().at("runtime_fraction")?,
    };
    let rest = (!rest.is_empty()).then(|| Box::new(rest));
    Ok((Condition { path, rest }, template))
}

/// Whether the client has to show a certificate: one that is no good is never let in.
fn client(message: TlsContextMatchOptions) -> Result<Option<bool>, FieldError> {
    fields!(message: TlsContextMatchOptions, read: [presented, validated], ignore: [], refuse: []);
    match (presented.map(|is| is.value), validated.map(|is| is.value)) {
        (Some(presented), Some(validated)) if presented != validated => {
            Err(FieldError::invalid("no certificate is shown and not validated")).at("validated")
        }
        (presented, validated) => Ok(presented.or(validated)),
    }
}

/// An expression says itself what case means.
fn by_expression(regex: Regex, pattern: &str) -> PathCondition {
    let text = literal_prefix(pattern).into();
    PathCondition { kind: PathKind::Regex(regex), text, case_sensitive: true }
}

fn path(specifier: PathSpecifier, case_sensitive: bool) -> Result<PathCondition, FieldError> {
    let text = |kind, text: String| PathCondition {
        kind,
        text: if case_sensitive { text.into() } else { text.to_ascii_lowercase().into() },
        case_sensitive,
    };
    Ok(match specifier {
        PathSpecifier::Path(path) => text(PathKind::Exact, path),
        PathSpecifier::Prefix(path) => text(PathKind::Prefix, path),
        PathSpecifier::PathSeparatedPrefix(path) => {
            if path.len() < 2 || path.ends_with('/') || path.contains(['?', '#']) {
                return Err(FieldError::invalid(
                    "must have two characters, no ? or #, and not end with /",
                ))
                .at("path_separated_prefix");
            }
            text(PathKind::SeparatedPrefix, path)
        }
        PathSpecifier::SafeRegex(expression) => {
            let (regex, pattern) = matcher::regex(expression).at("safe_regex")?;
            by_expression(regex, &pattern)
        }
        PathSpecifier::ConnectMatcher(_) => {
            return Err(FieldError::unsupported()).at("connect_matcher");
        }
        PathSpecifier::PathMatchPolicy(_) => {
            return Err(FieldError::unsupported()).at("path_match_policy");
        }
    })
}

#[cfg(test)]
mod tests {
    use xds_proto::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        for (yaml, want) in [
            ("{}", "path_specifier: required"),
            (
                "{path_separated_prefix: /a/}",
                "path_separated_prefix: must have two characters, no ? or #, and not end with /",
            ),
            (
                "{safe_regex: {regex: '/a(?=b)'}}",
                "safe_regex.regex: not a valid RE2 expression: look-around, including look-ahead \
                 and look-behind, is not supported",
            ),
            ("{connect_matcher: {}}", "connect_matcher: not supported"),
            ("{path_match_policy: {name: x}}", "path_match_policy.typed_config: required"),
            (
                "{prefix: /, tls_context: {presented: true, validated: false}}",
                "tls_context.validated: no certificate is shown and not validated",
            ),
            ("{prefix: /, dynamic_metadata: [{filter: f}]}", "dynamic_metadata[0].path: required"),
            ("{prefix: /, filter_state: [{}]}", "filter_state: not supported"),
            ("{prefix: /, headers: [{name: ''}]}", "headers[0].name: required"),
            ("{prefix: /, runtime_fraction: {}}", "runtime_fraction.default_value: required"),
        ] {
            let error = compile(json::from_yaml(yaml).unwrap()).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn a_path_without_case_is_kept_in_lower_case() {
        let yaml = "{prefix: /Ab, case_sensitive: false}";
        let (condition, _) = compile(json::from_yaml(yaml).unwrap()).unwrap();
        assert_eq!((&*condition.path.text, condition.path.case_sensitive), ("/ab", false));
        assert!(condition.rest.is_none());
    }
}
