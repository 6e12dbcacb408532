//! Gateway: where a fleet listens, with which certificates, and whose routes may attach.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::model::kind::{Column, Kind, no_extra};
use crate::model::meta::{Metadata, condition, document};
use crate::model::schema::{Schema, required};

pub(super) mod schema;

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
    #[serde(default)]
    pub allowed_listeners: AllowedListeners,
    /// TLS of all its listeners and backends.
    #[serde(default)]
    pub tls: GatewayTls,
    /// Whether routes without a parent attach.
    pub default_scope: Option<String>,
}

/// Which ListenerSets may attach to a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedListeners {
    /// From which namespaces; none is from none.
    pub namespaces: Option<RouteNamespaces>,
}

/// TLS of a gateway on both sides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayTls {
    /// Towards backends.
    pub backend: BackendTls,
    /// Towards clients.
    pub frontend: Option<FrontendTls>,
}

/// TLS of a gateway towards backends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTls {
    /// The certificate that it shows them.
    pub client_certificate_ref: Option<Reference>,
}

/// TLS of a gateway towards clients, over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendTls {
    /// On ports that are not named.
    pub default: PortTls,
    /// On these ports.
    #[serde(default)]
    pub per_port: Vec<NamedPortTls>,
}

/// TLS of one port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPortTls {
    /// The port.
    pub port: u16,
    /// What holds on it.
    pub tls: PortTls,
}

/// What TLS asks of clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortTls {
    /// What their certificates must be; none asks for none.
    pub validation: Option<ClientValidation>,
}

/// What certificates of clients must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientValidation {
    /// Authorities that sign them.
    pub ca_certificate_refs: Vec<Reference>,
    /// `AllowValidOnly` or `AllowInsecureFallback`.
    pub mode: String,
}

impl FrontendTls {
    /// What is asked of the clients of a port.
    pub fn of_port(&self, port: u16) -> Option<&ClientValidation> {
        let named = self.per_port.iter().find(|named| named.port == port);
        named.map_or(&self.default, |named| &named.tls).validation.as_ref()
    }
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
    pub certificate_refs: Vec<Reference>,
    /// Settings of an implementation's own.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// A reference to a Secret or ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Its group; empty for both.
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
    /// `All`, `Selector`, `Same`, or for ListenerSets `None`.
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
    schema: document!(required("spec", Schema::Object(&schema::SPEC))),
    extra: no_extra,
};

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
