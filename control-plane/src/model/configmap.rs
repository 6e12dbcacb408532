//! ConfigMap: texts that other documents refer to, such as the certificates of authorities.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::model::kind::{Column, Kind, no_extra};
use crate::model::meta::{METADATA_SCHEMA, Metadata, TEXT};
use crate::model::schema::{ObjectSchema, Schema, optional, required};
use crate::model::text::Format;

/// Texts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ConfigMap {
    /// Its name.
    pub metadata: Metadata,
    /// The texts.
    #[serde(default)]
    pub data: BTreeMap<String, String>,
}

/// The kind.
pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    also_versions: &[],
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    namespaced: true,
    has_status: false,
    columns: &[Column {
        name: "DATA",
        wide: false,
        text: |value| value["data"].as_object().map_or(0, serde_json::Map::len).to_string(),
    }],
    schema: Schema::Object(&ObjectSchema {
        fields: &[
            required("apiVersion", TEXT),
            required("kind", TEXT),
            required("metadata", METADATA_SCHEMA),
            optional("data", Schema::Map { value: &VALUE, max: 1000 }),
            optional("binaryData", Schema::Map { value: &VALUE, max: 1000 }),
            optional("immutable", Schema::Boolean),
        ],
        rules: &[],
    }),
    extra: no_extra,
};

const VALUE: Schema = Schema::Text(Format::Free(1 << 20));
