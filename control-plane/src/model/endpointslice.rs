//! EndpointSlice: some endpoints of a Service.

use serde::Deserialize;
use serde_json::Value;

use crate::finding::codes;
use crate::model::kind::{Column, Kind, no_extra};
use crate::model::meta::{METADATA_SCHEMA, Metadata, Place, TEXT};
use crate::model::schema::{ObjectSchema, Report, Schema, list, optional, required};
use crate::model::text::Format;

/// The label that names the service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Some endpoints of a service.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Its name.
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// The endpoints.
    #[serde(default)]
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports of each of them.
    #[serde(default)]
    pub ports: Vec<SlicePort>,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SliceEndpoint {
    /// Its addresses, any of which will do.
    pub addresses: Vec<String>,
    /// Whether it can be used.
    #[serde(default)]
    pub conditions: EndpointConditions,
    /// Where it stands.
    pub zone: Option<String>,
}

/// Whether an endpoint can be used; what is not known counts as ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// It takes requests, and is not about to end.
    pub ready: Option<bool>,
    /// It takes requests.
    pub serving: Option<bool>,
    /// It is about to end.
    pub terminating: Option<bool>,
}

/// A port of every endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SlicePort {
    /// The name of the service's port.
    #[serde(default)]
    pub name: String,
    /// The port; none is any, which nothing here can mean.
    pub port: Option<u16>,
}

impl EndpointSlice {
    /// The service that it belongs to.
    pub fn service(&self) -> Option<Place> {
        let name = self.metadata.labels.get(SERVICE_NAME)?;
        Some(Place::new(&self.metadata.namespace, name))
    }
}

/// The kind.
pub static KIND: Kind = Kind {
    group: "discovery.k8s.io",
    version: "v1",
    also_versions: &[],
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    short_names: &[],
    namespaced: true,
    has_status: false,
    columns: &[Column { name: "ENDPOINTS", wide: false, text: endpoints_text }],
    schema: Schema::Object(&ObjectSchema {
        fields: &[
            required("apiVersion", TEXT),
            required("kind", TEXT),
            required("metadata", METADATA_SCHEMA),
            required("addressType", Schema::Enum(&["IPv4", "IPv6", "FQDN"])),
            required("endpoints", list(&ENDPOINT, 1000)),
            optional("ports", Schema::List { item: &PORT, min: 0, max: 100, keys: &["name"] }),
        ],
        rules: &[addresses_of_type],
    }),
    extra: no_extra,
};

static ENDPOINT: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        required("addresses", Schema::List { item: &TEXT, min: 1, max: 100, keys: &[""] }),
        optional("conditions", Schema::Object(&CONDITIONS)),
        optional("hostname", TEXT),
        optional("targetRef", Schema::Any),
        optional("nodeName", TEXT),
        optional("zone", TEXT),
        optional("hints", Schema::Any),
        optional("deprecatedTopology", Schema::Any),
    ],
    rules: &[],
});

static CONDITIONS: ObjectSchema = ObjectSchema {
    fields: &[
        optional("ready", Schema::Boolean),
        optional("serving", Schema::Boolean),
        optional("terminating", Schema::Boolean),
    ],
    rules: &[],
};

static PORT: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        optional("name", Schema::Text(Format::Free(63))),
        optional("protocol", Schema::Enum(&["TCP", "UDP", "SCTP"])),
        optional("port", Schema::Integer { min: 1, max: 65535 }),
        optional("appProtocol", Schema::Text(Format::Free(253))),
    ],
    rules: &[],
});

fn endpoints(slice: &Value) -> &[Value] {
    slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn addresses_of_type(slice: &Value, report: &mut Report) {
    let fits = |address: &str| match slice["addressType"].as_str() {
        Some("IPv4") => address.parse::<std::net::Ipv4Addr>().is_ok(),
        Some("IPv6") => address.parse::<std::net::Ipv6Addr>().is_ok(),
        _ => true,
    };
    for (index, endpoint) in endpoints(slice).iter().enumerate() {
        let addresses = endpoint["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (place, address) in addresses.iter().enumerate() {
            if !address.as_str().is_some_and(fits) {
                let field = format!("endpoints[{index}].addresses[{place}]");
                let message = format!("{address} is no {} address", text(&slice["addressType"]));
                report.add_at(&field, codes::BAD_NAME, message);
            }
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn endpoints_text(slice: &Value) -> String {
    let addresses =
        endpoints(slice).iter().filter_map(|endpoint| endpoint["addresses"][0].as_str());
    addresses.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_of_the_type_that_is_said() {
        let mut slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "s"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["::1"], "ready": true}],
        });
        let findings: Vec<_> = KIND.check(&mut slice).iter().map(ToString::to_string).collect();
        assert_eq!(findings, ["WL0002 EndpointSlice default/s: endpoints[1].ready: unknown field"]);
        slice["endpoints"][1].as_object_mut().unwrap().remove("ready");
        let findings: Vec<_> = KIND.check(&mut slice).iter().map(ToString::to_string).collect();
        assert_eq!(
            findings,
            [
                "WL0043 EndpointSlice default/s: endpoints[1].addresses[0]: \"::1\" is no IPv4 address"
            ]
        );
    }
}
