//! ListenerSet: more listeners of a Gateway, by those who may not write the Gateway.

use serde::Deserialize;

use crate::model::gateway::Listener;
use crate::model::gateway::schema::{LISTENERS, distinct_listeners};
use crate::model::kind::{Column, Kind, no_extra};
use crate::model::meta::{Metadata, condition, document};
use crate::model::schema::{ObjectSchema, Schema, defaulted, optional, required};
use crate::model::text::Format;

/// More listeners of a gateway.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ListenerSet {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: ListenerSetSpec,
}

/// What a listener set asks for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerSetSpec {
    /// The gateway.
    pub parent_ref: GatewayRef,
    /// The listeners.
    pub listeners: Vec<Listener>,
}

/// A reference to a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayRef {
    /// Its group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; none is that of the set.
    pub namespace: Option<String>,
}

/// The kind.
pub static KIND: Kind = Kind {
    group: "gateway.networking.k8s.io",
    version: "v1",
    also_versions: &[],
    kind: "ListenerSet",
    plural: "listenersets",
    singular: "listenerset",
    short_names: &["lset"],
    namespaced: true,
    has_status: true,
    columns: &[
        Column {
            name: "ACCEPTED",
            wide: false,
            text: |value| condition(&value["status"]["conditions"], "Accepted"),
        },
        Column {
            name: "PROGRAMMED",
            wide: false,
            text: |value| condition(&value["status"]["conditions"], "Programmed"),
        },
    ],
    schema: document!(required("spec", Schema::Object(&SPEC))),
    extra: no_extra,
};

static SPEC: ObjectSchema = ObjectSchema {
    fields: &[required("parentRef", Schema::Object(&PARENT)), LISTENERS],
    rules: &[distinct_listeners],
};

static PARENT: ObjectSchema = ObjectSchema {
    fields: &[
        defaulted("group", "\"gateway.networking.k8s.io\"", Schema::Text(Format::Group)),
        defaulted("kind", "\"Gateway\"", Schema::Text(Format::KindName)),
        required("name", Schema::Text(Format::Filled(253))),
        optional("namespace", Schema::Text(Format::Label)),
    ],
    rules: &[],
};
