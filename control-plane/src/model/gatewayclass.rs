//! GatewayClass: which controller serves a Gateway.

use serde::Deserialize;
use serde_json::Value;

use crate::model::kind::{Column, Kind, no_extra};
use crate::model::meta::{Metadata, condition, document};
use crate::model::schema::{ObjectSchema, Schema, optional, required};
use crate::model::text::Format;

/// The controller that we are.
pub const CONTROLLER: &str = "weighlock.dev/gateway-controller";
/// The class that exists without a document.
pub const OUR_CLASS: &str = "weighlock";

/// A class of gateways.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GatewayClass {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: GatewayClassSpec,
}

/// Who serves the class.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayClassSpec {
    /// The controller.
    pub controller_name: String,
    /// A text for people.
    pub description: Option<String>,
    /// Parameters; none are supported.
    pub parameters_ref: Option<Value>,
}

/// The kind.
pub static KIND: Kind = Kind {
    group: "gateway.networking.k8s.io",
    version: "v1",
    also_versions: &["v1beta1"],
    kind: "GatewayClass",
    plural: "gatewayclasses",
    singular: "gatewayclass",
    short_names: &["gc"],
    namespaced: false,
    has_status: true,
    columns: &[
        Column {
            name: "CONTROLLER",
            wide: false,
            text: |value| value["spec"]["controllerName"].as_str().unwrap_or_default().to_owned(),
        },
        Column {
            name: "ACCEPTED",
            wide: false,
            text: |value| condition(&value["status"]["conditions"], "Accepted"),
        },
    ],
    schema: document!(required("spec", Schema::Object(&SPEC))),
    extra: no_extra,
};

static SPEC: ObjectSchema = ObjectSchema {
    fields: &[
        required("controllerName", Schema::Text(Format::ControllerName)),
        optional("description", Schema::Text(Format::Free(64))),
        optional("parametersRef", Schema::Object(&PARAMETERS)),
    ],
    rules: &[],
};

/// A reference to parameters, of a class.
static PARAMETERS: ObjectSchema = ObjectSchema {
    fields: &[
        required("group", Schema::Text(Format::Group)),
        required("kind", Schema::Text(Format::KindName)),
        required("name", Schema::Text(Format::Filled(253))),
        optional("namespace", Schema::Text(Format::Label)),
    ],
    rules: &[],
};
