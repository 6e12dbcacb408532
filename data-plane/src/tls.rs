//! TLS of both sides: certificates and trust as configs, and rustls configs once secrets are known.

pub mod server;
mod subject;
pub mod client;
pub mod verify;
pub mod names;
pub mod identity;
pub mod secret;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::{SupportedProtocolVersion, version};

/// A secret that a cluster or listener names and nobody has sent yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It has not arrived.
    #[error("secret {0:?} is missing")]
    Missing(Arc<str>),
    /// It has arrived, and is something else.
    #[error("secret {0:?} is no {1}")]
    WrongKind(Arc<str>, &'static str),
    /// rustls refuses what was made of it.
    #[error("{0}")]
    Refused(String),
}

/// The versions of TLS that are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Versions {
    /// TLS 1.2 is allowed.
    pub tls12: bool,
    /// TLS 1.3 is allowed.
    pub tls13: bool,
}

impl Default for Versions {
    fn default() -> Self {
        Self { tls12: true, tls13: true }
    }
}

impl Versions {
    fn list(self) -> &'static [&'static SupportedProtocolVersion] {
        static TLS12: [&SupportedProtocolVersion; 1] = [&version::TLS12];
        static TLS13: [&SupportedProtocolVersion; 1] = [&version::TLS13];
        match (self.tls12, self.tls13) {
            (true, false) => &TLS12,
            (false, true) => &TLS13,
            _ => rustls::DEFAULT_VERSIONS,
        }
    }
}

/// The one implementation of cryptography; the process may have others installed.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

#[cfg(test)]
pub(crate) mod testing;
