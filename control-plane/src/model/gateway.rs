//! Gateway: where a fleet listens, with which certificates, and whose routes may attach.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::finding::codes;
use crate::model::kind::{Column, Kind, no_extra};
use crate::model::meta::{Metadata, TEXT, condition, document};
use crate::model::schema::{ObjectSchema, Report, Schema, defaulted, list, optional, required};
use crate::model::text::Format;

/// The annotation that names the fleet of a Gateway.
pub const FLEET: &str = "weighlock.dev/fleet";
/// The listener option that names the least TLS version.
pub const TLS_MIN_VERSION: &str = "weighlock.dev/tls-min-version";

/// A gateway.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Gateway {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: GatewaySpec,
}

/// What a gateway asks for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewaySpec {
    /// The class, which says who serves it.
    pub gateway_class_name: String,
    /// Where it listens.
    pub listeners: Vec<Listener>,
    /// Addresses it asks for.
    #[serde(default)]
    pub addresses: Vec<GatewayAddress>,
    /// What is made for it in a cluster.
    pub infrastructure: Option<Infrastructure>,
    /// Which ListenerSets may attach.
    pub allowed_listeners: Option<Value>,
    /// TLS of all its listeners and backends.
    pub tls: Option<Value>,
    /// Whether routes without a parent attach.
    pub default_scope: Option<String>,
}

/// What is made for a gateway in a cluster.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Infrastructure {
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Parameters; none are supported.
    pub parameters_ref: Option<Value>,
}

/// An address that a gateway asks for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayAddress {
    /// `IPAddress`, `Hostname`, or a type of somebody's own.
    #[serde(rename = "type")]
    pub address_type: String,
    /// The address; none asks for any.
    pub value: Option<String>,
}

/// One place where a gateway listens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// Its name within the gateway.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP` or `UDP`.
    pub protocol: String,
    /// The hostname that it answers for; none is all.
    pub hostname: Option<String>,
    /// Its certificates.
    pub tls: Option<ListenerTls>,
    /// Whose routes may attach.
    pub allowed_routes: AllowedRoutes,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// `Terminate` or `Passthrough`.
    pub mode: String,
    /// Secrets with certificates.
    #[serde(default)]
    pub certificate_refs: Vec<SecretRef>,
    /// Settings of an implementation's own.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// A reference to a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// Its group; empty for a Secret.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; none is that of the referring object.
    pub namespace: Option<String>,
}

/// Whose routes may attach to a listener.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedRoutes {
    /// From which namespaces.
    pub namespaces: RouteNamespaces,
    /// Of which kinds; none is what the protocol takes.
    #[serde(default)]
    pub kinds: Vec<RouteGroupKind>,
}

/// From which namespaces routes may attach.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteNamespaces {
    /// `All`, `Selector` or `Same`.
    pub from: String,
    /// The selector, for `Selector`.
    pub selector: Option<LabelSelector>,
}

/// A kind of route.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteGroupKind {
    /// Its group.
    pub group: String,
    /// Its kind.
    pub kind: String,
}

/// Selects by labels; all that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LabelSelector {
    /// Labels with these values.
    pub match_labels: BTreeMap<String, String>,
    /// Other demands.
    pub match_expressions: Vec<LabelDemand>,
}

/// One demand on labels.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelDemand {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// The values, for the first two.
    #[serde(default)]
    pub values: Vec<String>,
}

impl LabelSelector {
    /// Whether the labels are what it asks for.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|demand| demand.holds(labels))
    }
}

impl LabelDemand {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

impl Gateway {
    /// The fleet that serves it.
    pub fn fleet(&self) -> &str {
        match self.metadata.annotations.get(FLEET).map(String::as_str) {
            None | Some("") => "default",
            Some(fleet) => fleet,
        }
    }
}

/// The kind.
pub static KIND: Kind = Kind {
    group: "gateway.networking.k8s.io",
    version: "v1",
    also_versions: &["v1beta1"],
    kind: "Gateway",
    plural: "gateways",
    singular: "gateway",
    short_names: &["gtw"],
    namespaced: true,
    has_status: true,
    columns: &[
        Column { name: "ADDRESS", wide: false, text: address_text },
        Column {
            name: "PROGRAMMED",
            wide: false,
            text: |value| condition(&value["status"]["conditions"], "Programmed"),
        },
        Column { name: "LISTENERS", wide: true, text: listeners_text },
    ],
    schema: document!(required("spec", Schema::Object(&SPEC))),
    extra: no_extra,
};

static SPEC: ObjectSchema = ObjectSchema {
    fields: &[
        required("gatewayClassName", Schema::Text(Format::Filled(253))),
        required("listeners", Schema::List { item: &LISTENER, min: 1, max: 64, keys: &["name"] }),
        optional("addresses", list(&ADDRESS, 16)),
        optional("infrastructure", Schema::Object(&INFRASTRUCTURE)),
        optional("allowedListeners", Schema::Any),
        optional("tls", Schema::Any),
        optional("defaultScope", Schema::Enum(&["All", "None"])),
    ],
    rules: &[distinct_listeners, distinct_addresses],
};

static LISTENER: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        required("name", Schema::Text(Format::Subdomain)),
        required("port", Schema::Integer { min: 1, max: 65535 }),
        required("protocol", Schema::Text(Format::Protocol)),
        optional("hostname", Schema::Text(Format::Hostname)),
        optional("tls", Schema::Object(&TLS)),
        defaulted(
            "allowedRoutes",
            r#"{"namespaces": {"from": "Same"}}"#,
            Schema::Object(&ALLOWED_ROUTES),
        ),
    ],
    rules: &[tls_fits_protocol],
});

static TLS: ObjectSchema = ObjectSchema {
    fields: &[
        defaulted("mode", "\"Terminate\"", Schema::Enum(&["Terminate", "Passthrough"])),
        optional("certificateRefs", list(&SECRET_REF, 64)),
        optional("options", Schema::Map { value: &TEXT, max: 16 }),
    ],
    rules: &[|tls, report| {
        let is_empty = |field: &str| match &tls[field] {
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            _ => true,
        };
        if tls["mode"] == "Terminate" && is_empty("certificateRefs") && is_empty("options") {
            let message = "certificateRefs or options must be given when mode is Terminate";
            report.add(codes::CONTRADICTION, message);
        }
    }],
};

static SECRET_REF: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        defaulted("group", "\"\"", Schema::Text(Format::Group)),
        defaulted("kind", "\"Secret\"", Schema::Text(Format::KindName)),
        required("name", Schema::Text(Format::Filled(253))),
        optional("namespace", Schema::Text(Format::Label)),
    ],
    rules: &[],
});

static ALLOWED_ROUTES: ObjectSchema = ObjectSchema {
    fields: &[
        defaulted("namespaces", r#"{"from": "Same"}"#, Schema::Object(&NAMESPACES)),
        optional("kinds", list(&ROUTE_KIND, 8)),
    ],
    rules: &[],
};

static NAMESPACES: ObjectSchema = ObjectSchema {
    fields: &[
        defaulted("from", "\"Same\"", Schema::Enum(&["All", "Selector", "Same"])),
        optional("selector", Schema::Object(&SELECTOR)),
    ],
    rules: &[],
};

static SELECTOR: ObjectSchema = ObjectSchema {
    fields: &[
        optional("matchLabels", Schema::Map { value: &TEXT, max: 1000 }),
        optional("matchExpressions", list(&DEMAND, 1000)),
    ],
    rules: &[],
};

static DEMAND: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        required("key", TEXT),
        required("operator", Schema::Enum(&["In", "NotIn", "Exists", "DoesNotExist"])),
        optional("values", list(&TEXT, 1000)),
    ],
    rules: &[],
});

static ROUTE_KIND: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        defaulted("group", "\"gateway.networking.k8s.io\"", Schema::Text(Format::Group)),
        required("kind", Schema::Text(Format::KindName)),
    ],
    rules: &[],
});

static ADDRESS: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        defaulted("type", "\"IPAddress\"", Schema::Text(Format::Filled(253))),
        optional("value", Schema::Text(Format::Free(253))),
    ],
    rules: &[],
});

static INFRASTRUCTURE: ObjectSchema = ObjectSchema {
    fields: &[
        optional("labels", Schema::Map { value: &TEXT, max: 8 }),
        optional("annotations", Schema::Map { value: &TEXT, max: 16 }),
        optional("parametersRef", Schema::Any),
    ],
    rules: &[],
};

fn tls_fits_protocol(listener: &Value, report: &mut Report) {
    let protocol = listener["protocol"].as_str().unwrap_or_default();
    let has = |field: &str| !listener[field].is_null();
    match protocol {
        "HTTP" | "TCP" | "UDP" if has("tls") => {
            let message = format!("must not be given for protocol {protocol}");
            report.add_at("tls", codes::CONTRADICTION, message);
        }
        "HTTPS" if has("tls") && listener["tls"]["mode"] != "Terminate" => {
            let message = "must be Terminate for protocol HTTPS";
            report.add_at("tls.mode", codes::CONTRADICTION, message);
        }
        "TLS" if !has("tls") => report.add_at("tls", codes::REQUIRED, "required for protocol TLS"),
        _ => {}
    }
    if matches!(protocol, "TCP" | "UDP") && has("hostname") {
        let message = format!("must not be given for protocol {protocol}");
        report.add_at("hostname", codes::CONTRADICTION, message);
    }
}

fn distinct_listeners(spec: &Value, report: &mut Report) {
    let listeners = spec["listeners"].as_array().map(Vec::as_slice).unwrap_or_default();
    let key = |listener: &Value| {
        [&listener["port"], &listener["protocol"], &listener["hostname"]].map(Clone::clone)
    };
    for (index, listener) in listeners.iter().enumerate() {
        let first = listeners.iter().take(index).position(|other| key(other) == key(listener));
        if let Some(first) = first {
            let message = format!(
                "has the port, protocol and hostname of listener {}",
                listeners[first]["name"]
            );
            report.add_at(&format!("listeners[{index}]"), codes::DUPLICATE, message);
        }
    }
}

fn distinct_addresses(spec: &Value, report: &mut Report) {
    let addresses = spec["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, address) in addresses.iter().enumerate() {
        let known = address["type"] == "IPAddress" || address["type"] == "Hostname";
        let twice = addresses.iter().take(index).any(|other| other == address);
        if known && !address["value"].is_null() && twice {
            report.add_at(&format!("addresses[{index}]"), codes::DUPLICATE, "given twice");
        }
    }
}

fn address_text(document: &Value) -> String {
    let addresses = document["status"]["addresses"].as_array().map(Vec::as_slice);
    let values = addresses.unwrap_or_default().iter().filter_map(|entry| entry["value"].as_str());
    values.collect::<Vec<_>>().join(",")
}

fn listeners_text(document: &Value) -> String {
    let listeners = document["spec"]["listeners"].as_array().map(Vec::as_slice);
    let one = |listener: &Value| {
        format!("{}:{}", listener["name"].as_str().unwrap_or_default(), listener["port"])
    };
    listeners.unwrap_or_default().iter().map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn findings(listeners: Value) -> Vec<String> {
        let mut document = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "g"},
            "spec": {"gatewayClassName": "weighlock", "listeners": listeners},
        });
        let findings = KIND.check(&mut document);
        let text = |f: &crate::finding::Finding| format!("{} {}: {}", f.code, f.field, f.message);
        findings.iter().map(text).collect()
    }

    #[test]
    fn tls_goes_with_the_protocol() {
        let tls = json!({"certificateRefs": [{"name": "c"}]});
        assert_eq!(
            findings(json!([
                {"name": "a", "port": 80, "protocol": "HTTP", "tls": tls},
                {"name": "b", "port": 443, "protocol": "HTTPS", "tls": {"mode": "Passthrough"}},
                {"name": "c", "port": 444, "protocol": "TLS"},
                {"name": "d", "port": 445, "protocol": "HTTPS", "tls": {}},
                {"name": "e", "port": 446, "protocol": "UDP", "hostname": "a.example"},
            ])),
            [
                "WL0042 spec.listeners[0].tls: must not be given for protocol HTTP",
                "WL0042 spec.listeners[1].tls.mode: must be Terminate for protocol HTTPS",
                "WL0005 spec.listeners[2].tls: required for protocol TLS",
                "WL0042 spec.listeners[3].tls: certificateRefs or options must be given when mode is \
                 Terminate",
                "WL0042 spec.listeners[4].hostname: must not be given for protocol UDP",
            ]
        );
    }

    #[test]
    fn listeners_are_distinct() {
        assert_eq!(
            findings(json!([
                {"name": "a", "port": 80, "protocol": "HTTP"},
                {"name": "b", "port": 80, "protocol": "HTTP"},
            ])),
            ["WL0044 spec.listeners[1]: has the port, protocol and hostname of listener \"a\""]
        );
    }

    #[test]
    fn a_selector_asks_for_labels() {
        let labels = BTreeMap::from([("edge".to_owned(), "public".to_owned())]);
        let selector = |value: Value| serde_json::from_value::<LabelSelector>(value).unwrap();
        assert!(selector(json!({})).selects(&labels));
        assert!(selector(json!({"matchLabels": {"edge": "public"}})).selects(&labels));
        assert!(!selector(json!({"matchLabels": {"edge": "private"}})).selects(&labels));
        for (operator, values, holds) in [
            ("In", json!(["public"]), true),
            ("NotIn", json!(["public"]), false),
            ("Exists", json!([]), true),
            ("DoesNotExist", json!([]), false),
        ] {
            let demand = json!({"key": "edge", "operator": operator, "values": values});
            assert_eq!(selector(json!({"matchExpressions": [demand]})).selects(&labels), holds);
        }
    }
}
