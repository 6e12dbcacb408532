//! Service: what a cluster calls a backend. Its endpoints are in EndpointSlices.

use serde::Deserialize;
use serde_json::Value;

use crate::model::kind::{Column, Kind, no_extra};
use crate::model::meta::{Metadata, TEXT, document};
use crate::model::schema::{ObjectSchema, Schema, defaulted, list, optional, required};
use crate::model::text::Format;

/// A service.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Service {
    /// Its name.
    pub metadata: Metadata,
    /// What it is.
    pub spec: ServiceSpec,
}

/// What a service is, as far as routing reads it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub service_type: String,
    /// Its ports.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name, by which EndpointSlices speak of it; empty when there is only one.
    #[serde(default)]
    pub name: String,
    /// The port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// What is spoken on it.
    #[serde(default)]
    pub app_protocol: String,
}

impl Service {
    /// The port with this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.spec.ports.iter().find(|port| port.port == number)
    }
}

/// The kind.
pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    also_versions: &[],
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    namespaced: true,
    has_status: false,
    columns: &[
        Column {
            name: "TYPE",
            wide: false,
            text: |value| value["spec"]["type"].as_str().unwrap_or_default().to_owned(),
        },
        Column { name: "PORTS", wide: false, text: ports_text },
    ],
    schema: document!(required("spec", Schema::Object(&SPEC))),
    extra: no_extra,
};

/// What an API server takes; routing reads type and ports, the rest is kept.
static SPEC: ObjectSchema = ObjectSchema {
    fields: &[
        defaulted(
            "type",
            "\"ClusterIP\"",
            Schema::Enum(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
        ),
        optional(
            "ports",
            Schema::List { item: &PORT, min: 0, max: 1000, keys: &["port", "protocol"] },
        ),
        optional("selector", Schema::Map { value: &TEXT, max: 1000 }),
        optional("clusterIP", TEXT),
        optional("clusterIPs", list(&TEXT, 2)),
        optional("externalIPs", list(&TEXT, 1000)),
        optional("externalName", TEXT),
        optional("externalTrafficPolicy", TEXT),
        optional("internalTrafficPolicy", TEXT),
        optional("trafficDistribution", TEXT),
        optional("ipFamilies", list(&TEXT, 2)),
        optional("ipFamilyPolicy", TEXT),
        optional("sessionAffinity", TEXT),
        optional("sessionAffinityConfig", Schema::Any),
        optional("loadBalancerIP", TEXT),
        optional("loadBalancerClass", TEXT),
        optional("loadBalancerSourceRanges", list(&TEXT, 1000)),
        optional("allocateLoadBalancerNodePorts", Schema::Boolean),
        optional("healthCheckNodePort", Schema::Integer { min: 0, max: 65535 }),
        optional("publishNotReadyAddresses", Schema::Boolean),
    ],
    rules: &[],
};

static PORT: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        optional("name", Schema::Text(Format::Label)),
        required("port", Schema::Integer { min: 1, max: 65535 }),
        defaulted("protocol", "\"TCP\"", Schema::Enum(&["TCP", "UDP", "SCTP"])),
        optional("appProtocol", Schema::Text(Format::Free(253))),
        // A number or the name of a container's port.
        optional("targetPort", Schema::Any),
        optional("nodePort", Schema::Integer { min: 0, max: 65535 }),
    ],
    rules: &[],
});

fn ports_text(document: &Value) -> String {
    let ports = document["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |port: &Value| {
        format!("{}/{}", port["port"], port["protocol"].as_str().unwrap_or_default())
    };
    ports.iter().map(one).collect::<Vec<_>>().join(",")
}
