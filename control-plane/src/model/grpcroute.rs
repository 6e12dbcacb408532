//! GRPCRoute: which calls of gRPC go where.

use serde::Deserialize;
use serde_json::Value;

use crate::finding::codes;
use crate::model::filter::schema as filter;
use crate::model::kind::{Kind, no_extra};
use crate::model::meta::{Metadata, document};
use crate::model::regex::check_expression;
use crate::model::route::{
    ACCEPTED_COLUMN, BACKEND_GROUP, BACKEND_KIND, BACKEND_NAME, BACKEND_NAMESPACE, BACKEND_PORT,
    BACKEND_WEIGHT, BACKENDS_COLUMN, HOSTNAMES, HOSTNAMES_COLUMN, PARENTS, Parent, RULE_NAME,
    not_too_many_matches, parents_differ, port_by_kind, rule_names_differ, some_weight,
};
use crate::model::rule::{
    HEADER_MATCH, Rule, SESSION_PERSISTENCE, ValueMatch, ValueMatchType, values,
};
use crate::model::schema::{ObjectSchema, Report, Schema, defaulted, list, optional, required};
use crate::model::text::Format;

/// A route.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GrpcRoute {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: GrpcRouteSpec,
}

/// What a route asks for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteSpec {
    /// The gateways or sections that it attaches to.
    #[serde(default)]
    pub parent_refs: Vec<Parent>,
    /// The hostnames that it answers for; none is all of the listener.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Its rules.
    #[serde(default)]
    pub rules: Vec<Rule<GrpcMatch>>,
    /// Whether it attaches to default gateways.
    pub use_default_gateways: Option<String>,
}

/// What a call must be; all that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcMatch {
    /// Its service and method.
    pub method: Option<MethodMatch>,
    /// Its headers.
    #[serde(default)]
    pub headers: Vec<ValueMatch>,
}

/// What the service and method of a call must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodMatch {
    /// How they are compared.
    #[serde(rename = "type")]
    pub match_type: ValueMatchType,
    /// The service; none is all.
    pub service: Option<String>,
    /// The method; none is all.
    pub method: Option<String>,
}

/// The kind.
pub static KIND: Kind = Kind {
    group: "gateway.networking.k8s.io",
    version: "v1",
    also_versions: &[],
    kind: "GRPCRoute",
    plural: "grpcroutes",
    singular: "grpcroute",
    short_names: &[],
    namespaced: true,
    has_status: true,
    columns: &[HOSTNAMES_COLUMN, ACCEPTED_COLUMN, BACKENDS_COLUMN],
    schema: document!(required("spec", Schema::Object(&ROUTE))),
    extra: no_extra,
};

static ROUTE: ObjectSchema = ObjectSchema {
    fields: &[
        PARENTS,
        HOSTNAMES,
        optional("rules", list(&RULE, 16)),
        optional("useDefaultGateways", Schema::Enum(&["All", "None"])),
    ],
    rules: &[parents_differ, not_too_many_matches, rule_names_differ],
};

static RULE: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        RULE_NAME,
        optional("matches", list(&MATCH, 64)),
        optional("filters", list(&filter::GRPC_FILTER, 16)),
        optional("backendRefs", list(&BACKEND_REF, 16)),
        SESSION_PERSISTENCE,
    ],
    rules: &[filter::together, some_weight],
});

static BACKEND_REF: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        BACKEND_GROUP,
        BACKEND_KIND,
        BACKEND_NAME,
        BACKEND_NAMESPACE,
        BACKEND_PORT,
        BACKEND_WEIGHT,
        optional("filters", list(&filter::GRPC_FILTER, 16)),
    ],
    rules: &[filter::together, port_by_kind],
});

static MATCH: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        optional("method", Schema::Object(&METHOD)),
        optional("headers", values(&HEADER_MATCH)),
    ],
    rules: &[],
});

static METHOD: ObjectSchema = ObjectSchema {
    fields: &[
        defaulted("type", "\"Exact\"", Schema::Enum(&["Exact", "RegularExpression"])),
        optional("service", Schema::Text(Format::Free(1024))),
        optional("method", Schema::Text(Format::Free(1024))),
    ],
    rules: &[|method, report| {
        if method["service"].is_null() && method["method"].is_null() {
            report.add(codes::REQUIRED, "service or method must be given");
        }
        for (field, is_name) in [("service", is_service as fn(&str) -> bool), ("method", is_method)]
        {
            let Some(text) = method[field].as_str() else { continue };
            check_part(method, field, (text, is_name(text)), report);
        }
    }],
};

fn check_part(method: &Value, field: &str, (text, is_name): (&str, bool), report: &mut Report) {
    if method["type"] == "RegularExpression" {
        if let Err(reason) = check_expression(text) {
            report.add_at(field, codes::BAD_REGEX, reason);
        }
    } else if !is_name {
        let message = format!("{text:?} is no name of a {field} of gRPC");
        report.add_at(field, codes::BAD_NAME, message);
    }
}

/// Words with dots between them, and perhaps one before.
fn is_service(text: &str) -> bool {
    text.strip_prefix('.').unwrap_or(text).split('.').all(is_method)
}

/// A word that does not begin with a digit.
fn is_method(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::route::tests::checked;

    fn check(spec: Value) -> (Value, Vec<String>) {
        checked(&KIND, spec)
    }

    fn method(method: Value) -> Vec<String> {
        check(json!({"rules": [{"matches": [{"method": method}]}]})).1
    }

    #[test]
    fn a_route_may_be_empty_and_gets_the_defaults_of_the_crd() {
        assert_eq!(check(json!({})), (json!({}), vec![]));
        let (spec, none) = check(json!({"rules": [{
            "matches": [{"method": {"service": "a.B"}}],
            "backendRefs": [{"name": "s", "port": 1}],
        }]}));
        assert_eq!(none, [""; 0]);
        assert_eq!(
            spec,
            json!({"rules": [{
                "matches": [{"method": {"service": "a.B", "type": "Exact"}}],
                "backendRefs":
                    [{"name": "s", "port": 1, "group": "", "kind": "Service", "weight": 1}],
            }]})
        );
    }

    #[test]
    fn services_and_methods_are_names_or_expressions() {
        for good in [
            json!({"service": "a.b_1.C"}),
            json!({"service": ".a"}),
            json!({"method": "Say_1"}),
            json!({"type": "RegularExpression", "method": "Say.*", "service": "a|b"}),
        ] {
            assert_eq!(method(good), [""; 0]);
        }
        let at = "spec.rules[0].matches[0].method";
        assert_eq!(method(json!({})), [format!("WL0005 {at}: service or method must be given")]);
        assert_eq!(
            method(json!({"service": "a/b", "method": "1a"})),
            [
                format!("WL0043 {at}.service: \"a/b\" is no name of a service of gRPC"),
                format!("WL0043 {at}.method: \"1a\" is no name of a method of gRPC"),
            ]
        );
        let refused = method(json!({"type": "RegularExpression", "method": "(?!a)"}));
        assert!(refused[0].starts_with(&format!("WL0045 {at}.method: ")), "{refused:?}");
    }

    #[test]
    fn filters_of_http_alone_are_refused() {
        let filter = json!({"type": "URLRewrite"});
        assert_eq!(
            check(json!({"rules": [{"filters": [filter]}]})).1,
            ["WL0040 spec.rules[0].filters[0].type: \"URLRewrite\" is none of \
              RequestHeaderModifier, ResponseHeaderModifier, RequestMirror, ExtensionRef"]
        );
    }
}
