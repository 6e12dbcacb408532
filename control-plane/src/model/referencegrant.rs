//! ReferenceGrant: permission for objects of other namespaces to refer into this one.

use serde::Deserialize;

use crate::model::kind::{Kind, no_extra};
use crate::model::meta::{Metadata, Place, document};
use crate::model::schema::{ObjectSchema, Schema, optional, required};
use crate::model::text::Format;

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ReferenceGrant {
    /// Its namespace is the one it opens.
    pub metadata: Metadata,
    /// What it permits.
    pub spec: ReferenceGrantSpec,
}

/// What a grant permits: any of `from` may refer to any of `to`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceGrantSpec {
    /// Who may refer.
    pub from: Vec<GrantFrom>,
    /// To what.
    pub to: Vec<GrantTo>,
}

/// Who may refer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantFrom {
    /// The API group of the referring object.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
}

/// What may be referred to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantTo {
    /// The API group of the object.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name; none is all.
    pub name: Option<String>,
}

impl ReferenceGrant {
    /// Whether it lets `from` refer to the object of `kind` at `to`.
    pub fn permits(&self, from: &GrantFrom, (group, kind): (&str, &str), to: &Place) -> bool {
        self.metadata.namespace == to.namespace
            && self.spec.from.contains(from)
            && self.spec.to.iter().any(|entry| {
                entry.group == group
                    && entry.kind == kind
                    && entry.name.as_ref().is_none_or(|name| name.is_empty() || *name == to.name)
            })
    }
}

/// The kind.
pub static KIND: Kind = Kind {
    group: "gateway.networking.k8s.io",
    version: "v1beta1",
    also_versions: &["v1"],
    kind: "ReferenceGrant",
    plural: "referencegrants",
    singular: "referencegrant",
    short_names: &["refgrant"],
    namespaced: true,
    has_status: false,
    columns: &[],
    schema: document!(required("spec", Schema::Object(&SPEC))),
    extra: no_extra,
};

static SPEC: ObjectSchema = ObjectSchema {
    fields: &[
        required("from", Schema::List { item: &FROM, min: 1, max: 16, keys: &[] }),
        required("to", Schema::List { item: &TO, min: 1, max: 16, keys: &[] }),
    ],
    rules: &[],
};

static FROM: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        required("group", Schema::Text(Format::Group)),
        required("kind", Schema::Text(Format::KindName)),
        required("namespace", Schema::Text(Format::Label)),
    ],
    rules: &[],
});

static TO: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        required("group", Schema::Text(Format::Group)),
        required("kind", Schema::Text(Format::KindName)),
        optional("name", Schema::Text(Format::Filled(253))),
    ],
    rules: &[],
});
