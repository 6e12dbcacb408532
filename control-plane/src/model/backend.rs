//! Backend: where requests go outside a cluster: names, addresses or a socket.

use serde::Deserialize;
use serde_json::Value;

use crate::finding::codes;
use crate::model::duration;
use crate::model::kind::{Column, Kind, no_extra};
use crate::model::meta::{Metadata, document};
use crate::model::schema::{ObjectSchema, Report, Schema, defaulted, optional, required};
use crate::model::text::Format;

/// A backend.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Backend {
    /// Its name.
    pub metadata: Metadata,
    /// Where it is.
    pub spec: BackendSpec,
}

/// Where a backend is and what it speaks.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendSpec {
    /// What it speaks: `http`, `kubernetes.io/h2c`, `kubernetes.io/ws`, `grpc`, `https`.
    pub app_protocol: String,
    /// Its endpoints, all of one sort.
    pub endpoints: Vec<Endpoint>,
    /// How names are resolved.
    pub dns: Option<Dns>,
}

/// One endpoint: exactly one of host, ip and unix.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// A name to resolve.
    pub host: Option<String>,
    /// An address.
    pub ip: Option<String>,
    /// A socket's path.
    pub unix: Option<String>,
    /// The port, for host and ip.
    pub port: Option<u16>,
    /// Its share beside the others.
    pub weight: u32,
    /// Lower is used first.
    pub priority: u32,
    /// Where it stands.
    pub zone: Option<String>,
}

/// How names are resolved.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dns {
    /// `All` addresses, or `One`.
    pub addresses: String,
    /// `Auto`, `V4` or `V6`.
    pub family: String,
    /// How often.
    pub refresh: String,
    /// Whether the record's time to live rules instead.
    #[serde(rename = "respectTTL")]
    pub respect_ttl: bool,
}

/// The protocols that backends may speak.
pub const PROTOCOLS: &[&str] =
    &["http", "https", "grpc", "kubernetes.io/h2c", "kubernetes.io/ws", "kubernetes.io/wss"];

/// The kind.
pub static KIND: Kind = Kind {
    group: "weighlock.dev",
    version: "v1alpha1",
    also_versions: &[],
    kind: "Backend",
    plural: "backends",
    singular: "backend",
    short_names: &[],
    namespaced: true,
    has_status: true,
    columns: &[
        Column { name: "ENDPOINTS", wide: false, text: endpoints_text },
        Column { name: "HEALTHY", wide: false, text: |_| "-".to_owned() },
    ],
    schema: document!(required("spec", Schema::Object(&SPEC))),
    extra: no_extra,
};

static SPEC: ObjectSchema = ObjectSchema {
    fields: &[
        defaulted("appProtocol", "\"http\"", Schema::Enum(PROTOCOLS)),
        required("endpoints", Schema::List { item: &ENDPOINT, min: 1, max: 256, keys: &[] }),
        optional("dns", Schema::Object(&DNS)),
    ],
    rules: &[one_sort, priorities_without_gap, one_address_once, dns_for_names],
};

static ENDPOINT: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        optional("host", Schema::Text(Format::PreciseHostname)),
        optional("ip", Schema::Text(Format::Address)),
        // The path of a socket has room for 107 bytes (unix(7)).
        optional("unix", Schema::Text(Format::Filled(107))),
        optional("port", Schema::Integer { min: 1, max: 65535 }),
        defaulted("weight", "1", Schema::Integer { min: 1, max: 1_000_000 }),
        defaulted("priority", "0", Schema::Integer { min: 0, max: 128 }),
        optional("zone", Schema::Text(Format::Filled(253))),
    ],
    rules: &[|endpoint, report| {
        let sorts = SORTS.iter().filter(|sort| !endpoint[**sort].is_null()).count();
        if sorts != 1 {
            report.add(codes::CONTRADICTION, "must have exactly one of host, ip and unix");
        } else if endpoint["unix"].is_null() && endpoint["port"].is_null() {
            report.add_at("port", codes::REQUIRED, "required");
        } else if !endpoint["unix"].is_null() && !endpoint["port"].is_null() {
            report.add_at("port", codes::CONTRADICTION, "a socket has no port");
        } else if endpoint["unix"].as_str().is_some_and(|path| !path.starts_with('/')) {
            report.add_at("unix", codes::BAD_NAME, "must be an absolute path");
        }
    }],
});

static DNS: ObjectSchema = ObjectSchema {
    fields: &[
        defaulted("addresses", "\"All\"", Schema::Enum(&["All", "One"])),
        defaulted("family", "\"Auto\"", Schema::Enum(&["Auto", "V4", "V6"])),
        defaulted("refresh", "\"30s\"", Schema::Text(Format::Duration)),
        defaulted("respectTTL", "true", Schema::Boolean),
    ],
    rules: &[|dns, report| {
        let refresh = dns["refresh"].as_str().and_then(duration::parse).unwrap_or_default();
        if refresh.as_millis() < 1000 {
            report.add_at("refresh", codes::OUT_OF_RANGE, "must be at least 1s");
        }
    }],
};

const SORTS: &[&str] = &["host", "ip", "unix"];

fn endpoints(spec: &Value) -> &[Value] {
    spec["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The sort of an endpoint, as an index into [`SORTS`].
fn sort_of(endpoint: &Value) -> Option<&'static str> {
    SORTS.iter().copied().find(|sort| !endpoint[*sort].is_null())
}

fn one_sort(spec: &Value, report: &mut Report) {
    let first = endpoints(spec).first().and_then(sort_of);
    let other = endpoints(spec).iter().position(|endpoint| sort_of(endpoint) != first);
    if let Some(index) = other {
        let message = "names, addresses and sockets may not be mixed";
        report.add_at(&format!("endpoints[{index}]"), codes::CONTRADICTION, message);
    }
}

/// A gap would leave the priorities behind it unused, and gRPC clients refuse one.
fn priorities_without_gap(spec: &Value, report: &mut Report) {
    let mut used: Vec<u64> =
        endpoints(spec).iter().filter_map(|endpoint| endpoint["priority"].as_u64()).collect();
    used.sort_unstable();
    used.dedup();
    if let Some(missing) = (0..).zip(&used).find(|(wanted, found)| wanted != *found) {
        let message = format!("no endpoint has priority {}, {} has no use", missing.0, missing.1);
        report.add_at("endpoints", codes::CONTRADICTION, message);
    }
}

fn one_address_once(spec: &Value, report: &mut Report) {
    let key = |endpoint: &Value| {
        let text = |sort: &str| endpoint[sort].as_str().map(str::to_lowercase);
        (text("host"), text("ip"), text("unix"), endpoint["port"].as_u64())
    };
    let all = endpoints(spec);
    for (index, endpoint) in all.iter().enumerate() {
        let first = all.iter().take(index).position(|other| key(other) == key(endpoint));
        if let Some(first) = first {
            let message = format!("given twice: the same as entry {first}");
            report.add_at(&format!("endpoints[{index}]"), codes::DUPLICATE, message);
        }
    }
}

fn dns_for_names(spec: &Value, report: &mut Report) {
    let all = endpoints(spec);
    let names = all.iter().all(|endpoint| !endpoint["host"].is_null());
    if !spec["dns"].is_null() && !names {
        report.add_at("dns", codes::CONTRADICTION, "needs endpoints with host");
    } else if spec["dns"]["addresses"] == "One" && all.len() != 1 {
        report.add_at("dns.addresses", codes::CONTRADICTION, "One needs exactly one endpoint");
    }
}

fn endpoints_text(document: &Value) -> String {
    let one = |endpoint: &Value| match sort_of(endpoint) {
        Some("unix") => endpoint["unix"].as_str().unwrap_or_default().to_owned(),
        Some(sort) => {
            format!("{}:{}", endpoint[sort].as_str().unwrap_or_default(), endpoint["port"])
        }
        None => String::new(),
    };
    endpoints(&document["spec"]).iter().map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn findings(spec: Value) -> Vec<String> {
        let mut document = json!({
            "apiVersion": "weighlock.dev/v1alpha1", "kind": "Backend",
            "metadata": {"name": "b"}, "spec": spec,
        });
        let findings = KIND.check(&mut document);
        let text = |f: &crate::finding::Finding| format!("{} {}: {}", f.code, f.field, f.message);
        findings.iter().map(text).collect()
    }

    #[test]
    fn one_sort_of_endpoint_is_taken() {
        assert_eq!(findings(json!({"endpoints": [{"ip": "10.0.0.1", "port": 80}]})), [""; 0]);
        assert_eq!(
            findings(
                json!({"endpoints": [{"ip": "10.0.0.1", "port": 80}, {"host": "a", "port": 1}]})
            ),
            ["WL0042 spec.endpoints[1]: names, addresses and sockets may not be mixed"]
        );
        assert_eq!(
            findings(
                json!({"endpoints": [{"ip": "10.0.0.1", "host": "a", "port": 80}, {"host": "a"}]})
            ),
            [
                "WL0042 spec.endpoints[0]: must have exactly one of host, ip and unix",
                "WL0005 spec.endpoints[1].port: required",
            ]
        );
    }

    #[test]
    fn endpoints_make_sense_together() {
        let one = json!({"host": "a", "port": 80});
        assert_eq!(
            findings(json!({"endpoints": [one, one, {"host": "b", "port": 1, "priority": 2}]})),
            [
                "WL0042 spec.endpoints: no endpoint has priority 1, 2 has no use",
                "WL0044 spec.endpoints[1]: given twice: the same as entry 0",
            ]
        );
        assert_eq!(
            findings(json!({"endpoints": [{"ip": "::1", "port": 80}], "dns": {}})),
            ["WL0042 spec.dns: needs endpoints with host"]
        );
        assert_eq!(
            findings(json!({"endpoints": [], "appProtocol": "htpp"})),
            [
                "WL0040 spec.appProtocol: \"htpp\" is none of http, https, grpc, \
                 kubernetes.io/h2c, kubernetes.io/ws, kubernetes.io/wss",
                "WL0040 spec.endpoints: must have at least 1 entries",
            ]
        );
    }
}
