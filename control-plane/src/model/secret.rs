//! Secret: certificates and keys. Its values never appear in a finding.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use serde_json::Value;

use crate::finding::codes;
use crate::model::kind::{Column, Kind};
use crate::model::meta::{METADATA_SCHEMA, Metadata, TEXT};
use crate::model::schema::{ObjectSchema, Report, Schema, defaulted, map_step, optional, required};

/// The type of a Secret with a certificate and its key.
pub const TLS: &str = "kubernetes.io/tls";

/// A secret.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret {
    /// Its name.
    pub metadata: Metadata,
    /// Its type.
    #[serde(rename = "type", default)]
    pub secret_type: String,
    /// Its values, in base64.
    #[serde(default)]
    pub data: BTreeMap<String, String>,
    /// Its values, as text; these win.
    #[serde(default, rename = "stringData")]
    pub string_data: BTreeMap<String, String>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret {} {}", self.metadata.place(), self.secret_type)
    }
}

impl Secret {
    /// The bytes of a value.
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        if let Some(text) = self.string_data.get(key) {
            return Some(text.clone().into_bytes());
        }
        BASE64_STANDARD.decode(self.data.get(key)?).ok()
    }

    /// The certificate chain and key of a `kubernetes.io/tls` secret, both PEM.
    ///
    /// # Errors
    /// The key of the value and what is wrong with it.
    pub fn tls_pair(&self) -> Result<(Vec<u8>, Vec<u8>), (&'static str, String)> {
        let value = |key| self.value(key).ok_or((key, "required".to_owned()));
        let (certificate, private_key) = (value("tls.crt")?, value("tls.key")?);
        check_pair(&certificate, &private_key)?;
        Ok((certificate, private_key))
    }
}

fn check_pair(certificate: &[u8], private_key: &[u8]) -> Result<(), (&'static str, String)> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| ("tls.crt", format!("no PEM certificates: {error}")))?;
    if chain.is_empty() {
        return Err(("tls.crt", "holds no PEM certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(private_key)
        .map_err(|error| ("tls.key", format!("no PEM private key: {error}")))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::sign::CertifiedKey::from_der(chain, key, &provider).map(drop).map_err(|error| {
        match error {
            rustls::Error::InconsistentKeys(_) => {
                ("tls.key", "is not the key of the certificate in tls.crt".to_owned())
            }
            error => ("tls.crt", error.to_string()),
        }
    })
}

/// The kind.
pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    also_versions: &[],
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short_names: &[],
    namespaced: true,
    has_status: false,
    columns: &[
        Column {
            name: "TYPE",
            wide: false,
            text: |value| value["type"].as_str().unwrap_or_default().to_owned(),
        },
        Column {
            name: "KEYS",
            wide: false,
            text: |value| value["data"].as_object().map_or(0, serde_json::Map::len).to_string(),
        },
    ],
    schema: Schema::Object(&ObjectSchema {
        fields: &[
            required("apiVersion", TEXT),
            required("kind", TEXT),
            required("metadata", METADATA_SCHEMA),
            defaulted("type", "\"Opaque\"", TEXT),
            optional("data", Schema::Map { value: &VALUE, max: 1000 }),
            optional("stringData", Schema::Map { value: &VALUE, max: 1000 }),
            optional("immutable", Schema::Boolean),
        ],
        rules: &[],
    }),
    extra,
};

const VALUE: Schema = Schema::Text(crate::model::text::Format::Free(1 << 20));

/// Text values become base64 as in an API server, and a TLS secret must hold a pair.
fn extra(document: &mut Value, report: &mut Report) {
    fold_string_data(document);
    let Ok(secret) = serde_json::from_value::<Secret>(document.clone()) else { return };
    for (key, value) in &secret.data {
        if BASE64_STANDARD.decode(value).is_err() {
            report.within("data", |report| {
                report.add_at(&map_step(key), codes::WRONG_TYPE, "must be base64")
            });
        }
    }
    if secret.secret_type == TLS
        && report.problems.is_empty()
        && let Err((key, reason)) = secret.tls_pair()
    {
        report.add_at(&format!("data[\"{key}\"]"), codes::BAD_CERTIFICATE, reason);
    }
}

fn fold_string_data(document: &mut Value) {
    let Some(fields) = document.as_object_mut() else { return };
    let Some(Value::Object(texts)) = fields.shift_remove("stringData") else { return };
    let data = fields.entry("data").or_insert_with(|| Value::Object(serde_json::Map::new()));
    for (key, text) in texts {
        data[key] = BASE64_STANDARD.encode(text.as_str().unwrap_or_default()).into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn findings(mut document: Value) -> (Value, Vec<String>) {
        let findings = KIND.check(&mut document);
        (document, findings.iter().map(ToString::to_string).collect())
    }

    fn tls(certificate: &str, key: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cert"}, "type": TLS,
            "stringData": {"tls.crt": certificate, "tls.key": key},
        })
    }

    #[test]
    fn a_tls_secret_holds_a_pair() {
        let pair = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
        let (document, none) = findings(tls(&pair.cert.pem(), &pair.signing_key.serialize_pem()));
        assert_eq!(none, [""; 0]);
        assert!(document["stringData"].is_null());
        assert!(document["data"]["tls.crt"].as_str().unwrap().starts_with("LS0t"));
        let (_, wrong) = findings(tls(&pair.cert.pem(), &other.signing_key.serialize_pem()));
        assert_eq!(
            wrong,
            [
                "WL0201 Secret default/cert: data[\"tls.key\"]: is not the key of the certificate in tls.crt"
            ]
        );
        let (_, empty) = findings(tls("", "x"));
        assert_eq!(
            empty,
            ["WL0201 Secret default/cert: data[\"tls.crt\"]: holds no PEM certificate"]
        );
    }

    #[test]
    fn other_secrets_hold_anything_in_base64() {
        let (_, wrong) = findings(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": {"a": "!"},
        }));
        assert_eq!(wrong, ["WL0003 Secret default/x: data.a: must be base64"]);
    }
}
