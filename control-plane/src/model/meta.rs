//! What every document carries: its metadata.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::model::schema::{ObjectSchema, Schema, list, optional};
use crate::model::text::Format;

/// The metadata of a document, as far as translation reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Its namespace; empty for a kind without.
    pub namespace: String,
    /// Rises with each change of the spec.
    pub generation: i64,
    /// When it was made, as RFC 3339: text that sorts by age.
    pub creation_timestamp: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Metadata {
    /// Where it is.
    pub fn place(&self) -> Place {
        Place { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Sorts older objects first, then by namespace and name.
    pub fn age_order(&self) -> (&str, &str, &str) {
        (&self.creation_timestamp, &self.namespace, &self.name)
    }
}

/// Where an object of a known kind is.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Its namespace; empty for a kind without.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Place {
    /// A place by namespace and name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The metadata of a document.
pub(crate) const METADATA_SCHEMA: Schema = Schema::Object(&METADATA);

static METADATA: ObjectSchema = ObjectSchema {
    fields: &[
        optional("name", Schema::Text(Format::Subdomain)),
        optional("generateName", Schema::Text(Format::Free(253))),
        optional("namespace", Schema::Text(Format::Label)),
        optional("labels", Schema::Map { value: &TEXT, max: 1000 }),
        optional("annotations", Schema::Map { value: &TEXT, max: 1000 }),
        optional("uid", TEXT),
        optional("resourceVersion", TEXT),
        optional("generation", Schema::Integer { min: 0, max: i64::MAX }),
        optional("creationTimestamp", TEXT),
        optional("deletionTimestamp", TEXT),
        optional("deletionGracePeriodSeconds", Schema::Integer { min: 0, max: i64::MAX }),
        optional("finalizers", list(&TEXT, 1000)),
        optional("ownerReferences", list(&Schema::Any, 1000)),
        optional("managedFields", list(&Schema::Any, 1000)),
        optional("selfLink", TEXT),
    ],
    rules: &[|metadata, report| {
        if metadata["name"].is_null() && metadata["generateName"].is_null() {
            report.add_at("name", crate::finding::codes::REQUIRED, "required");
        }
    }],
};

/// Any text.
pub(crate) const TEXT: Schema = Schema::Text(Format::Free(262_144));

/// The status of the condition of this type in `conditions`; empty when there is none.
pub(crate) fn condition(conditions: &Value, kind: &str) -> String {
    let entries = conditions.as_array().map(Vec::as_slice).unwrap_or_default();
    let found = entries.iter().find(|entry| entry["type"] == kind);
    found.and_then(|entry| entry["status"].as_str()).unwrap_or_default().to_owned()
}

/// The texts of a list, joined with commas.
pub(crate) fn joined(values: &Value) -> String {
    let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
    values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// The fields that a document of a kind with spec and status has.
macro_rules! document {
    ($spec:expr) => {
        crate::model::schema::Schema::Object(&crate::model::schema::ObjectSchema {
            fields: &[
                crate::model::schema::required("apiVersion", crate::model::meta::TEXT),
                crate::model::schema::required("kind", crate::model::meta::TEXT),
                crate::model::schema::Field {
                    name: "metadata",
                    schema: crate::model::meta::METADATA_SCHEMA,
                    presence: crate::model::schema::Presence::Required,
                },
                $spec,
                crate::model::schema::optional("status", crate::model::schema::Schema::Any),
            ],
            rules: &[],
        })
    };
}
pub(crate) use document;
