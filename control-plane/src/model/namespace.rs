//! Namespace: only its labels matter, for listeners that select namespaces.

use serde::Deserialize;

use crate::model::kind::{Kind, no_extra};
use crate::model::meta::{Metadata, document};
use crate::model::schema::{Schema, optional};

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Namespace {
    /// Its name and labels.
    pub metadata: Metadata,
}

/// The kind.
pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    also_versions: &[],
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    has_status: true,
    columns: &[],
    schema: document!(optional("spec", Schema::Any)),
    extra: no_extra,
};
