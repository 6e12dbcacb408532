//! Secrets as accepted: a certificate with its key, or whom to trust.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use crate::reference::Reference;
use crate::tls::SecretError;
use crate::tls::names::NameMatcher;
use crate::tls::ticket::TicketKeys;

/// Secrets by name.
pub type Secrets = HashMap<Arc<str>, Arc<SecretConfig>>;

/// A secret, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretConfig {
    /// Its name.
    pub name: Arc<str>,
    /// What it holds.
    pub kind: SecretKind,
}

/// What a secret holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretKind {
    /// A certificate with its key.
    Certificate(Arc<Certificate>),
    /// Whom to trust.
    Validation(Arc<Validation>),
    /// What session tickets are made by.
    TicketKeys(Arc<TicketKeys>),
}

/// A certificate chain and the key that matches it.
pub struct Certificate {
    /// As rustls wants it.
    pub key: Arc<CertifiedKey>,
    /// The DNS names of the certificate, in lower case.
    pub names: Box<[Box<str>]>,
    /// The URIs of the certificate.
    pub uris: Box<[Box<str>]>,
    /// Hash of the chain and its staple; two with the same chain are the same.
    pub digest: [u8; 32],
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).field("key", &"***").finish()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Certificate {}

/// A SHA-256.
pub type Hash = [u8; 32];

/// Certificates and keys by hash: where any are named, a peer must show one of them.
#[derive(Debug, Clone, Default)]
pub struct Pins {
    /// Of whole certificates.
    pub certificates: Box<[Hash]>,
    /// Of public keys, as in a certificate (`SubjectPublicKeyInfo`).
    pub keys: Box<[Hash]>,
}

impl Pins {
    /// Whether none are named.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.keys.is_empty()
    }

    fn and(&self, other: &Self) -> Self {
        let both = |one: &[Hash], other: &[Hash]| one.iter().chain(other).copied().collect();
        Self {
            certificates: both(&self.certificates, &other.certificates),
            keys: both(&self.keys, &other.keys),
        }
    }
}

/// Whom to trust, and which names a peer must have.
#[derive(Clone)]
pub struct Validation {
    /// The authorities that may vouch; empty when none are named.
    pub roots: Arc<RootCertStore>,
    /// Hashes of their certificates: a peer may show one of them itself, self-signed.
    pub anchors: Box<[[u8; 32]]>,
    /// One of these names must be in the peer's certificate, if there are any.
    pub names: Box<[NameMatcher]>,
    /// Peers that will do.
    pub pins: Pins,
    /// Whether a server tells its clients which authorities it trusts.
    pub sends_authorities: bool,
    /// Hash of the message; two of the same message are the same.
    pub digest: [u8; 32],
}

impl fmt::Debug for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validation")
            .field("roots", &self.roots.len())
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Validation {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Validation {}

impl Validation {
    /// Whether what it asks for says who a peer is: names alone do not.
    pub fn proves(&self) -> bool {
        !self.roots.is_empty() || (!self.pins.is_empty() && self.names.is_empty())
    }

    /// Envoy's merge of a default context with the one that SDS delivers: what the secret sets
    /// wins, names add up.
    fn merged(default: &Self, secret: &Self) -> Self {
        let roots = if secret.roots.is_empty() { default } else { secret };
        let digest = Sha256::new().chain_update(default.digest).chain_update(secret.digest);
        Self {
            roots: Arc::clone(&roots.roots),
            anchors: roots.anchors.clone(),
            names: default.names.iter().chain(&secret.names).cloned().collect(),
            pins: default.pins.and(&secret.pins),
            sends_authorities: default.sends_authorities && secret.sends_authorities,
            digest: digest.finalize().into(),
        }
    }
}

/// Where a certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// The resource holds it.
    Inline(Arc<Certificate>),
    /// A secret of its own.
    Secret(Reference),
}

impl CertificateSource {
    pub(crate) fn secret(&self) -> Option<&Reference> {
        match self {
            Self::Inline(_) => None,
            Self::Secret(secret) => Some(secret),
        }
    }

    pub(crate) fn find(&self, secrets: &Secrets) -> Result<Arc<Certificate>, SecretError> {
        match self {
            Self::Inline(certificate) => Ok(Arc::clone(certificate)),
            Self::Secret(Reference { name, .. }) => match &secret(name, secrets)?.kind {
                SecretKind::Certificate(certificate) => Ok(Arc::clone(certificate)),
                SecretKind::Validation(_) | SecretKind::TicketKeys(_) => {
                    Err(SecretError::WrongKind(Arc::clone(name), "certificate"))
                }
            },
        }
    }
}

/// Where trust comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValidationSource {
    /// The resource holds it.
    Inline(Arc<Validation>),
    /// A secret of its own.
    Secret(Reference),
    /// A secret of its own, over what the resource holds.
    Combined(Arc<Validation>, Reference),
}

impl ValidationSource {
    pub(crate) fn secret(&self) -> Option<&Reference> {
        match self {
            Self::Inline(_) => None,
            Self::Secret(secret) | Self::Combined(_, secret) => Some(secret),
        }
    }

    pub(crate) fn find(&self, secrets: &Secrets) -> Result<Arc<Validation>, SecretError> {
        let named = |Reference { name, .. }: &Reference| match &secret(name, secrets)?.kind {
            SecretKind::Validation(validation) => Ok(Arc::clone(validation)),
            SecretKind::Certificate(_) | SecretKind::TicketKeys(_) => {
                Err(SecretError::WrongKind(Arc::clone(name), "validation context"))
            }
        };
        match self {
            Self::Inline(validation) => Ok(Arc::clone(validation)),
            Self::Secret(secret) => named(secret),
            Self::Combined(default, secret) => {
                Ok(Arc::new(Validation::merged(default, &*named(secret)?)))
            }
        }
    }
}

/// The keys of session tickets in the secret of this name.
pub(super) fn ticket_keys(
    name: &Arc<str>,
    secrets: &Secrets,
) -> Result<Arc<TicketKeys>, SecretError> {
    match &secret(name, secrets)?.kind {
        SecretKind::TicketKeys(keys) => Ok(Arc::clone(keys)),
        SecretKind::Certificate(_) | SecretKind::Validation(_) => {
            Err(SecretError::WrongKind(Arc::clone(name), "set of session ticket keys"))
        }
    }
}

fn secret<'a>(name: &Arc<str>, secrets: &'a Secrets) -> Result<&'a SecretConfig, SecretError> {
    secrets.get(name).map(AsRef::as_ref).ok_or_else(|| SecretError::Missing(Arc::clone(name)))
}
