//! ConfigMap: texts that other documents refer to, such as the certificates of authorities.

use std::collections::BTreeMap;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::{Map, Value};

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

/// The key of certificates of authorities.
pub const AUTHORITIES: &str = "ca.crt";

impl ConfigMap {
    /// Certificates of authorities, as PEM.
    ///
    /// # Errors
    /// Why there are none.
    pub fn authorities(&self) -> Result<&str, String> {
        let text = self.data.get(AUTHORITIES).ok_or("required")?;
        let certificates: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        match certificates {
            Ok(certificates) if certificates.is_empty() => {
                Err("holds no PEM certificate".to_owned())
            }
            Ok(_) => Ok(text),
            Err(error) => Err(format!("no PEM certificates: {error}")),
        }
    }
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
    columns: &[Column { name: "DATA", wide: false, text: keys_text }],
    schema: Schema::Object(&ObjectSchema {
        fields: &[
            required("apiVersion", TEXT),
            required("kind", TEXT),
            required("metadata", METADATA_SCHEMA),
            optional("data", DATA),
            optional("binaryData", DATA),
            optional("immutable", Schema::Boolean),
        ],
        rules: &[],
    }),
    extra: no_extra,
};

/// How many keys there are.
pub(super) fn keys_text(document: &Value) -> String {
    document["data"].as_object().map_or(0, Map::len).to_string()
}

/// Keys with values of up to a mebibyte.
pub(super) const DATA: Schema = Schema::Map { value: &VALUE, max: 1000 };

const VALUE: Schema = Schema::Text(Format::Free(1 << 20));
