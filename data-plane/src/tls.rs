//! TLS of both sides: certificates and trust as configs, and rustls configs once secrets are known.

pub mod server;
mod subject;
pub mod client;
pub mod verify;
pub mod names;
pub mod identity;
pub mod secret;
pub mod ticket;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, NamedGroup, SupportedProtocolVersion, version};

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

/// What of TLS is allowed (`TlsParameters`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// TLS 1.2 is allowed.
    pub tls12: bool,
    /// TLS 1.3 is allowed.
    pub tls13: bool,
    /// Cipher suites of TLS 1.2, best first; empty: all that there are. Those of 1.3 are always all.
    pub suites: Box<[CipherSuite]>,
    /// Groups to exchange keys in, best first; empty: all that there are.
    pub groups: Box<[NamedGroup]>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { tls12: true, tls13: true, suites: Box::default(), groups: Box::default() }
    }
}

impl Parameters {
    fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        static TLS12: [&SupportedProtocolVersion; 1] = [&version::TLS12];
        static TLS13: [&SupportedProtocolVersion; 1] = [&version::TLS13];
        match (self.tls12, self.tls13) {
            (true, false) => &TLS12,
            (false, true) => &TLS13,
            _ => rustls::DEFAULT_VERSIONS,
        }
    }

    /// The implementation, as far as it is allowed.
    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        let all = provider();
        if self.suites.is_empty() && self.groups.is_empty() {
            return all;
        }
        let mut allowed = CryptoProvider::clone(&all);
        if !self.suites.is_empty() {
            let tls13 = all.cipher_suites.iter().filter(|suite| suite.tls13().is_some());
            let of_name =
                |name: &CipherSuite| all.cipher_suites.iter().find(|suite| suite.suite() == *name);
            let tls12 = self.suites.iter().filter_map(of_name);
            allowed.cipher_suites = tls13.chain(tls12).copied().collect();
        }
        if !self.groups.is_empty() {
            let of_name =
                |name: &NamedGroup| all.kx_groups.iter().find(|group| group.name() == *name);
            allowed.kx_groups = self.groups.iter().filter_map(of_name).copied().collect();
        }
        Arc::new(allowed)
    }
}

/// The one implementation of cryptography; the process may have others installed.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // AES with 128 bits first, as Envoy has it: it is as safe, and costs less.
        provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
            _ => 1,
        });
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

#[cfg(test)]
pub(crate) mod testing;
