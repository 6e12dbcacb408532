//! TLSRoute and TCPRoute: which connections go where.

use serde::Deserialize;
use serde_json::Value;

use crate::finding::codes;
use crate::model::kind::{Kind, no_extra};
use crate::model::meta::{Metadata, document};
use crate::model::route::{
    ACCEPTED_COLUMN, BACKEND_GROUP, BACKEND_KIND, BACKEND_NAME, BACKEND_NAMESPACE, BACKEND_PORT,
    BACKEND_WEIGHT, BACKENDS_COLUMN, BackendRef, HOSTNAME, HOSTNAMES_COLUMN, PARENTS, Parent,
    RULE_NAME, parents_differ, port_by_kind, some_weight,
};
use crate::model::schema::{Field, ObjectSchema, Report, Schema, required};

/// A route of connections.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct L4Route {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: L4RouteSpec,
}

/// What a route of connections asks for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct L4RouteSpec {
    /// The gateways or sections that it attaches to.
    #[serde(default)]
    pub parent_refs: Vec<Parent>,
    /// The server names that it is for; a TCPRoute has none.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Its only rule.
    pub rules: Vec<L4Rule>,
}

/// The rule of a route of connections.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct L4Rule {
    /// Its name.
    pub name: Option<String>,
    /// Where connections go.
    pub backend_refs: Vec<BackendRef>,
}

/// TLSRoute.
pub static TLS: Kind = Kind {
    kind: "TLSRoute",
    plural: "tlsroutes",
    singular: "tlsroute",
    columns: &[HOSTNAMES_COLUMN, ACCEPTED_COLUMN, BACKENDS_COLUMN],
    schema: document!(required("spec", Schema::Object(&TLS_SPEC))),
    ..BASE
};

/// TCPRoute.
pub static TCP: Kind = Kind {
    kind: "TCPRoute",
    plural: "tcproutes",
    singular: "tcproute",
    columns: &[ACCEPTED_COLUMN, BACKENDS_COLUMN],
    schema: document!(required("spec", Schema::Object(&TCP_SPEC))),
    ..BASE
};

/// What the kinds have in common.
const BASE: Kind = Kind {
    group: "gateway.networking.k8s.io",
    version: "v1",
    also_versions: &[],
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    namespaced: true,
    has_status: true,
    columns: &[],
    schema: Schema::Any,
    extra: no_extra,
};

static TLS_SPEC: ObjectSchema = ObjectSchema {
    fields: &[
        PARENTS,
        required("hostnames", Schema::List { item: &HOSTNAME, min: 1, max: 1024, keys: &[] }),
        RULES,
    ],
    rules: &[parents_differ, no_address],
};

static TCP_SPEC: ObjectSchema =
    ObjectSchema { fields: &[PARENTS, RULES], rules: &[parents_differ] };

const RULES: Field = required("rules", Schema::List { item: &RULE, min: 1, max: 1, keys: &[] });

static RULE: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        RULE_NAME,
        required("backendRefs", Schema::List { item: &BACKEND_REF, min: 1, max: 16, keys: &[] }),
    ],
    rules: &[some_weight],
});

static BACKEND_REF: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        BACKEND_GROUP,
        BACKEND_KIND,
        BACKEND_NAME,
        BACKEND_NAMESPACE,
        BACKEND_PORT,
        BACKEND_WEIGHT,
    ],
    rules: &[port_by_kind],
});

/// Server names are no addresses (RFC 6066 section 3).
fn no_address(spec: &Value, report: &mut Report) {
    let names = spec["hostnames"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, name) in names.iter().enumerate() {
        if name.as_str().is_some_and(|name| name.parse::<std::net::IpAddr>().is_ok()) {
            let message = "must not be an IP address";
            report.add_at(&format!("hostnames[{index}]"), codes::BAD_NAME, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::route::tests::checked;

    fn findings(kind: &Kind, spec: Value) -> Vec<String> {
        checked(kind, spec).1
    }

    #[test]
    fn there_is_one_rule_with_backends() {
        let rule = json!({"backendRefs": [{"name": "s", "port": 1}]});
        assert_eq!(findings(&TCP, json!({"rules": [rule]})), [""; 0]);
        assert_eq!(
            findings(&TCP, json!({"rules": [rule, rule]})),
            ["WL0040 spec.rules: must have at most 1 entries, has 2"]
        );
        assert_eq!(
            findings(&TCP, json!({"rules": [{}], "hostnames": ["a"]})),
            ["WL0002 spec.hostnames: unknown field", "WL0005 spec.rules[0].backendRefs: required"]
        );
    }

    #[test]
    fn server_names_are_needed_and_no_addresses() {
        let rules = json!([{"backendRefs": [{"name": "s", "port": 1}]}]);
        assert_eq!(findings(&TLS, json!({"rules": rules})), ["WL0005 spec.hostnames: required"]);
        assert_eq!(
            findings(&TLS, json!({"rules": rules, "hostnames": ["10.0.0.1", "*.a.example"]})),
            ["WL0043 spec.hostnames[0]: must not be an IP address"]
        );
    }
}
