//! What a Gateway looks like, and what must hold within it.

use serde_json::Value;

use crate::finding::codes;
use crate::model::meta::TEXT;
use crate::model::schema::{
    Field, ObjectSchema, Report, Schema, defaulted, list, optional, required,
};
use crate::model::text::{Format, is_qualified_name, is_subdomain};

/// `spec` of a Gateway.
pub(super) static SPEC: ObjectSchema = ObjectSchema {
    fields: &[
        required("gatewayClassName", Schema::Text(Format::Filled(253))),
        LISTENERS,
        optional("addresses", list(&ADDRESS, 16)),
        optional("infrastructure", Schema::Object(&INFRASTRUCTURE)),
        optional("allowedListeners", Schema::Object(&ALLOWED_LISTENERS)),
        optional("tls", Schema::Object(&GATEWAY_TLS)),
        optional("defaultScope", Schema::Enum(&["All", "None"])),
    ],
    rules: &[distinct_listeners, distinct_addresses],
};

/// `spec.listeners`, of a ListenerSet too.
pub(in crate::model) const LISTENERS: Field =
    required("listeners", Schema::List { item: &LISTENER, min: 1, max: 64, keys: &["name"] });

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

static ALLOWED_LISTENERS: ObjectSchema = ObjectSchema {
    fields: &[defaulted("namespaces", r#"{"from": "None"}"#, Schema::Object(&SET_NAMESPACES))],
    rules: &[],
};

static SET_NAMESPACES: ObjectSchema = ObjectSchema {
    fields: &[
        defaulted("from", "\"None\"", Schema::Enum(&["All", "Selector", "Same", "None"])),
        optional("selector", Schema::Object(&SELECTOR)),
    ],
    rules: &[],
};

static GATEWAY_TLS: ObjectSchema = ObjectSchema {
    fields: &[
        optional("backend", Schema::Object(&BACKEND_TLS)),
        optional("frontend", Schema::Object(&FRONTEND_TLS)),
    ],
    rules: &[],
};

static BACKEND_TLS: ObjectSchema =
    ObjectSchema { fields: &[optional("clientCertificateRef", SECRET_REF)], rules: &[] };

static FRONTEND_TLS: ObjectSchema = ObjectSchema {
    fields: &[
        required("default", Schema::Object(&PORT_TLS)),
        optional("perPort", Schema::List { item: &NAMED_PORT, min: 0, max: 64, keys: &["port"] }),
    ],
    rules: &[],
};

static NAMED_PORT: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        required("port", Schema::Integer { min: 1, max: 65535 }),
        required("tls", Schema::Object(&PORT_TLS)),
    ],
    rules: &[],
});

static PORT_TLS: ObjectSchema =
    ObjectSchema { fields: &[optional("validation", Schema::Object(&VALIDATION))], rules: &[] };

static VALIDATION: ObjectSchema = ObjectSchema {
    fields: &[
        required(
            "caCertificateRefs",
            Schema::List { item: &AUTHORITY_REF, min: 1, max: 16, keys: &[] },
        ),
        defaulted(
            "mode",
            "\"AllowValidOnly\"",
            Schema::Enum(&["AllowValidOnly", "AllowInsecureFallback"]),
        ),
    ],
    rules: &[],
};

static AUTHORITY_REF: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        required("group", Schema::Text(Format::Group)),
        required("kind", Schema::Text(Format::KindName)),
        required("name", Schema::Text(Format::Filled(253))),
        optional("namespace", Schema::Text(Format::Label)),
    ],
    rules: &[],
});

const SECRET_REF: Schema = Schema::Object(&ObjectSchema {
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
    rules: &[|address, report| {
        let Some(value) = address["value"].as_str() else { return };
        let is_address = value.parse::<std::net::IpAddr>().is_ok();
        if address["type"] == "IPAddress" && !is_address {
            report.add_at("value", codes::BAD_NAME, format!("{value:?} is no IP address"));
        }
        let is_hostname = is_subdomain(value.strip_prefix("*.").unwrap_or(value));
        if address["type"] == "Hostname" && !value.is_empty() && !is_hostname {
            report.add_at("value", codes::BAD_NAME, format!("{value:?} is no hostname"));
        }
    }],
});

static INFRASTRUCTURE: ObjectSchema = ObjectSchema {
    fields: &[
        optional("labels", Schema::Map { value: &LABEL_VALUE, max: 8 }),
        optional("annotations", Schema::Map { value: &ANNOTATION_VALUE, max: 16 }),
        optional("parametersRef", Schema::Object(&PARAMETERS)),
    ],
    rules: &[|infrastructure, report| {
        for field in ["labels", "annotations"] {
            let keys = infrastructure[field].as_object().into_iter().flat_map(|map| map.keys());
            for key in keys.filter(|key| !is_qualified_name(key)) {
                let message = format!("{key:?} is no name (a word, or a domain and a word)");
                report.add_at(&format!("{field}[\"{key}\"]"), codes::BAD_NAME, message);
            }
        }
    }],
};

const LABEL_VALUE: Schema = Schema::Text(Format::LabelValue);
const ANNOTATION_VALUE: Schema = Schema::Text(Format::Free(4096));

static PARAMETERS: ObjectSchema = ObjectSchema {
    fields: &[
        required("group", Schema::Text(Format::Group)),
        required("kind", Schema::Text(Format::KindName)),
        required("name", Schema::Text(Format::Filled(253))),
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

/// No two listeners have port, protocol and hostname in common.
pub(in crate::model) fn distinct_listeners(spec: &Value, report: &mut Report) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use crate::model::gateway::{KIND, LabelSelector};

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
