//! What an HTTPRoute looks like, and what must hold within it.

use serde_json::Value;

use crate::finding::codes;
use crate::model::filter::schema as filter;
use crate::model::route::{
    BACKEND_GROUP, BACKEND_KIND, BACKEND_NAME, BACKEND_NAMESPACE, BACKEND_PORT, BACKEND_WEIGHT,
    HOSTNAMES, PARENTS, RULE_NAME, not_too_many_matches, parents_differ, port_by_kind,
    rule_names_differ, some_weight,
};
use crate::model::rule::{
    HEADER_MATCH, QUERY_MATCH, RETRY, SESSION_PERSISTENCE, TIMEOUTS, expression, values,
};
use crate::model::schema::{ObjectSchema, Report, Schema, defaulted, list, optional};
use crate::model::text::Format;

/// `spec`.
pub(super) const SPEC: Schema = Schema::Object(&ROUTE);

static ROUTE: ObjectSchema = ObjectSchema {
    fields: &[
        PARENTS,
        HOSTNAMES,
        defaulted(
            "rules",
            r#"[{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]"#,
            Schema::List { item: &RULE, min: 1, max: 16, keys: &[] },
        ),
        optional("useDefaultGateways", Schema::Enum(&["All", "None"])),
    ],
    rules: &[parents_differ, not_too_many_matches, rule_names_differ],
};

static RULE: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        RULE_NAME,
        defaulted(
            "matches",
            r#"[{"path": {"type": "PathPrefix", "value": "/"}}]"#,
            list(&MATCH, 64),
        ),
        optional("filters", list(&filter::HTTP_FILTER, 16)),
        optional("backendRefs", list(&BACKEND_REF, 16)),
        TIMEOUTS,
        RETRY,
        SESSION_PERSISTENCE,
    ],
    rules: &[filter::together, filter::redirect_alone, filter::prefix_needs_match, some_weight],
});

static MATCH: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        defaulted("path", r#"{"type": "PathPrefix", "value": "/"}"#, Schema::Object(&PATH)),
        optional("headers", values(&HEADER_MATCH)),
        optional("queryParams", values(&QUERY_MATCH)),
        optional("method", Schema::Enum(METHODS)),
    ],
    rules: &[],
});

const METHODS: &[&str] =
    &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
static PATH: ObjectSchema = ObjectSchema {
    fields: &[
        defaulted(
            "type",
            "\"PathPrefix\"",
            Schema::Enum(&["Exact", "PathPrefix", "RegularExpression"]),
        ),
        defaulted("value", "\"/\"", Schema::Text(Format::Free(1024))),
    ],
    rules: &[path_value, expression],
};

static BACKEND_REF: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        BACKEND_GROUP,
        BACKEND_KIND,
        BACKEND_NAME,
        BACKEND_NAMESPACE,
        BACKEND_PORT,
        BACKEND_WEIGHT,
        optional("filters", list(&filter::HTTP_FILTER, 16)),
    ],
    rules: &[filter::together, port_by_kind],
});

fn path_value(path: &Value, report: &mut Report) {
    if path["type"] == "RegularExpression" {
        return;
    }
    let value = path["value"].as_str().unwrap_or_default();
    let refused = |message: String, report: &mut Report| {
        report.add_at("value", codes::BAD_NAME, message);
    };
    if !value.starts_with('/') {
        return refused("must start with /".to_owned(), report);
    }
    for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        if value.contains(part) {
            return refused(format!("must not contain {part}"), report);
        }
    }
    for end in ["/..", "/."] {
        if value.ends_with(end) {
            return refused(format!("must not end with {end}"), report);
        }
    }
    if !is_path(value) {
        refused("has characters that no path has; write them as %XX".to_owned(), report);
    }
}

/// RFC 3986 path characters, and whole percent-encodings.
fn is_path(value: &str) -> bool {
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let holds = match byte {
            b'%' => [bytes.next(), bytes.next()]
                .iter()
                .all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit())),
            _ => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !holds {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::model::httproute::KIND;
    use crate::model::route::tests::checked;

    use super::*;

    fn check(spec: Value) -> (Value, Vec<String>) {
        checked(&KIND, spec)
    }

    fn findings(rule: Value) -> Vec<String> {
        check(json!({"rules": [rule]})).1
    }

    #[test]
    fn defaults_are_those_of_the_crd() {
        let (spec, none) = check(json!({
            "parentRefs": [{"name": "g"}],
            "rules": [
                {
                    "matches": [
                        {"headers": [{"name": "a", "value": "b"}]},
                        {"path": {"value": "/x"}, "queryParams": [{"name": "a", "value": "b"}]},
                    ],
                    "backendRefs": [{"name": "s", "port": 80}],
                },
                {"filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}]},
            ],
        }));
        assert_eq!(none, [""; 0]);
        let root = json!({"type": "PathPrefix", "value": "/"});
        let exact = json!([{"name": "a", "value": "b", "type": "Exact"}]);
        assert_eq!(
            spec,
            json!({
                "parentRefs": [{"name": "g", "group": "gateway.networking.k8s.io", "kind": "Gateway"}],
                "rules": [
                    {
                        "matches": [
                            {"path": root, "headers": exact},
                            {"path": {"type": "PathPrefix", "value": "/x"}, "queryParams": exact},
                        ],
                        "backendRefs":
                            [{"name": "s", "port": 80, "group": "", "kind": "Service", "weight": 1}],
                    },
                    {
                        "matches": [{"path": root}],
                        "filters": [{
                            "type": "RequestRedirect",
                            "requestRedirect": {"scheme": "https", "statusCode": 302},
                        }],
                    },
                ],
            })
        );
        assert_eq!(check(json!({})).0, json!({"rules": [{"matches": [{"path": root}]}]}));
    }

    #[test]
    fn a_misspelled_field_is_named_with_its_path() {
        assert_eq!(
            findings(json!({"backendRefs": [{"name": "s", "port": 80, "wieght": 1}]})),
            ["WL0002 spec.rules[0].backendRefs[0].wieght: unknown field"]
        );
    }

    #[test]
    fn paths_and_expressions_are_checked() {
        let with = |path: Value| findings(json!({"matches": [{"path": path}]}));
        for (value, reason) in [
            ("a", "must start with /"),
            ("/a//b", "must not contain //"),
            ("/a/../b", "must not contain /../"),
            ("/a%2Fb", "must not contain %2F"),
            ("/a/..", "must not end with /.."),
            ("/a b", "has characters that no path has; write them as %XX"),
            ("/a%2", "has characters that no path has; write them as %XX"),
        ] {
            assert_eq!(
                with(json!({"value": value})),
                [format!("WL0043 spec.rules[0].matches[0].path.value: {reason}")]
            );
        }
        let refused = with(json!({"type": "RegularExpression", "value": "/(?!a).*"}));
        assert_eq!(refused.len(), 1);
        assert!(
            refused[0].starts_with("WL0045 spec.rules[0].matches[0].path.value: "),
            "{refused:?}"
        );
        assert_eq!(with(json!({"type": "RegularExpression", "value": "/a|/b"})), [""; 0]);
    }

    #[test]
    fn weights_are_not_all_zero() {
        let reference = |weight: u32| json!({"name": "s", "port": 80, "weight": weight});
        assert_eq!(findings(json!({"backendRefs": [reference(0), reference(1)]})), [""; 0]);
        assert_eq!(
            findings(json!({"backendRefs": [reference(0), reference(0)]})),
            [
                "WL0040 spec.rules[0].backendRefs: the weights must not all be 0: no backend would get \
              a request"
            ]
        );
        assert_eq!(
            findings(json!({"backendRefs": [{"name": "s", "weight": 2_000_000}]})),
            ["WL0040 spec.rules[0].backendRefs[0].weight: must be from 0 to 1000000"]
        );
        assert_eq!(
            findings(json!({"backendRefs": [{"name": "s"}]})),
            ["WL0005 spec.rules[0].backendRefs[0].port: required for a Service"]
        );
    }

    #[test]
    fn parents_are_told_apart() {
        let parents = |parents: Value| check(json!({"parentRefs": parents})).1;
        assert_eq!(
            parents(json!([{"name": "g", "sectionName": "a"}, {"name": "g", "sectionName": "b"}])),
            [""; 0]
        );
        assert_eq!(
            parents(json!([{"name": "g"}, {"name": "g", "sectionName": "b"}])),
            [
                "WL0042 spec.parentRefs[1].sectionName: must be given when one parent is referred to \
              twice"
            ]
        );
        assert_eq!(
            parents(json!([{"name": "g"}, {"name": "h"}, {"name": "g"}])),
            ["WL0044 spec.parentRefs[2]: given twice"]
        );
    }

    #[test]
    fn a_try_is_no_longer_than_the_request() {
        assert_eq!(
            findings(json!({"timeouts": {"request": "1s", "backendRequest": "2s"}})),
            ["WL0042 spec.rules[0].timeouts.backendRequest: must not be longer than request"]
        );
        assert_eq!(
            findings(json!({"timeouts": {"request": "0s", "backendRequest": "2s"}})),
            [""; 0]
        );
    }
}
