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
use crate::model::configmap::{DATA, keys_text};
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

    /// The certificate chain and key of a `kubernetes.io/tls` secret.
    ///
    /// # Errors
    /// Which value is wrong, and how.
    pub fn tls_pair(&self) -> Result<TlsPair, BadPair> {
        let value = |key| self.value(key).ok_or_else(|| BadPair::new(key, "required"));
        let pair = TlsPair { certificate: value("tls.crt")?, private_key: value("tls.key")? };
        pair.check()?;
        Ok(pair)
    }
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsPair {
    /// The chain, the server's own first.
    pub certificate: Vec<u8>,
    /// The key.
    pub private_key: Vec<u8>,
}

impl std::fmt::Debug for TlsPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsPair")
    }
}

/// Why a pair cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPair {
    /// The key of the value: `tls.crt` or `tls.key`.
    pub key: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl BadPair {
    fn new(key: &'static str, reason: impl Into<String>) -> Self {
        Self { key, reason: reason.into() }
    }
}

impl TlsPair {
    fn check(&self) -> Result<(), BadPair> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| BadPair::new("tls.crt", format!("no PEM certificates: {error}")))?;
        if chain.is_empty() {
            return Err(BadPair::new("tls.crt", "holds no PEM certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.private_key)
            .map_err(|error| BadPair::new("tls.key", format!("no PEM private key: {error}")))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certified = rustls::sign::CertifiedKey::from_der(chain, key, &provider);
        certified.map(drop).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                BadPair::new("tls.key", "is not the key of the certificate in tls.crt")
            }
            error => BadPair::new("tls.crt", error.to_string()),
        })
    }
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
        Column { name: "KEYS", wide: false, text: keys_text },
    ],
    schema: Schema::Object(&ObjectSchema {
        fields: &[
            required("apiVersion", TEXT),
            required("kind", TEXT),
            required("metadata", METADATA_SCHEMA),
            defaulted("type", "\"Opaque\"", TEXT),
            optional("data", DATA),
            optional("stringData", DATA),
            optional("immutable", Schema::Boolean),
        ],
        rules: &[],
    }),
    extra,
};

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
        && let Err(BadPair { key, reason }) = secret.tls_pair()
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
