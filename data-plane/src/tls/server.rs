//! TLS towards clients.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{
    ClientHello, NoClientAuth, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
    ServerConfig,
};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::reference::Reference;
use crate::tls::secret::{
    self, Certificate, CertificateSource, Secrets, Validation, ValidationSource,
};
use crate::tls::ticket::{TicketKeys, Tickets};
use crate::tls::verify::ClientVerifier;
use crate::tls::{Parameters, SecretError};

/// TLS towards clients, compiled from a `DownstreamTlsContext`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTlsConfig {
    /// The certificates to choose from, at least one.
    pub certificates: Vec<CertificateSource>,
    /// What to agree on by ALPN, best first.
    pub alpn: Vec<Vec<u8>>,
    /// Versions of TLS, and what is spoken in them.
    pub parameters: Parameters,
    /// Whom to trust when a client shows a certificate; without it none is asked for.
    pub validation: Option<ValidationSource>,
    /// Whether a client must show a certificate.
    pub requires_client_certificate: bool,
    /// Whether a client must send a server name.
    pub requires_sni: bool,
    /// Whether the client's order of cipher suites counts, not ours.
    pub prefers_client_ciphers: bool,
    /// Whether sessions may be resumed by tickets, and by which keys those are made.
    pub tickets: TicketSource,
    /// What clients are told of how long a ticket holds, where that is set; in seconds.
    pub ticket_secs: Option<u32>,
    /// Whether sessions may be resumed from memory.
    pub has_session_cache: bool,
}

impl ServerTlsConfig {
    /// The secrets it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &Reference> {
        let certificates = self.certificates.iter().filter_map(CertificateSource::secret);
        certificates
            .chain(self.validation.as_ref().and_then(ValidationSource::secret))
            .chain(self.tickets.secret())
    }
}

/// Where the keys of session tickets come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TicketSource {
    /// There are no tickets.
    Nowhere,
    /// They are this context's own, and change by themselves.
    Own,
    /// The resource holds them.
    Inline(Arc<TicketKeys>),
    /// A secret of its own.
    Secret(Reference),
}

impl TicketSource {
    fn secret(&self) -> Option<&Reference> {
        match self {
            Self::Nowhere | Self::Own | Self::Inline(_) => None,
            Self::Secret(secret) => Some(secret),
        }
    }

    fn find(&self, secrets: &Secrets) -> Result<Option<Arc<TicketKeys>>, SecretError> {
        match self {
            Self::Nowhere | Self::Own => Ok(None),
            Self::Inline(keys) => Ok(Some(Arc::clone(keys))),
            Self::Secret(secret) => secret::ticket_keys(&secret.name, secrets).map(Some),
        }
    }
}

/// TLS towards clients, ready to accept.
#[derive(Debug)]
pub struct ServerTls {
    /// What it was made of.
    pub config: Arc<ServerTlsConfig>,
    /// For clients that share a protocol with us by ALPN, or send none.
    pub acceptor: Arc<ServerConfig>,
    without_alpn: Arc<ServerConfig>,
    certificates: Vec<Arc<Certificate>>,
    validation: Option<Arc<Validation>>,
    ticket_keys: Option<Arc<TicketKeys>>,
}

impl ServerTls {
    /// Resolves the secrets. Gives `previous` where it is made of the same, so that sessions can be
    /// resumed across a swap.
    ///
    /// # Errors
    /// When a secret is missing or is no use.
    pub fn link(
        config: &Arc<ServerTlsConfig>,
        secrets: &Secrets,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, SecretError> {
        let certificates = config.certificates.iter().map(|source| source.find(secrets));
        let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
        let validation = config.validation.as_ref().map(|source| source.find(secrets));
        let validation = validation.transpose()?;
        let ticket_keys = config.tickets.find(secrets)?;
        if let Some(previous) = previous
            && previous.config == *config
            && previous.certificates == certificates
            && previous.validation == validation
            && previous.ticket_keys == ticket_keys
        {
            return Ok(Arc::clone(previous));
        }
        let mut acceptor = acceptor(config, &certificates, validation.as_ref())?;
        resume(&mut acceptor, config, (ticket_keys.as_deref(), validation.as_deref()))?;
        let mut without_alpn = acceptor.clone();
        without_alpn.alpn_protocols.clear();
        Ok(Arc::new(Self {
            config: Arc::clone(config),
            acceptor: Arc::new(acceptor),
            without_alpn: Arc::new(without_alpn),
            certificates,
            validation,
            ticket_keys,
        }))
    }

    /// The certificate that this client is shown.
    pub fn certificate_for(&self, hello: ClientHello<'_>) -> Option<Arc<Certificate>> {
        let key = self.acceptor.cert_resolver.resolve(hello)?;
        self.certificates.iter().find(|certificate| Arc::ptr_eq(&certificate.key, &key)).cloned()
    }

    /// The acceptor for this client. A client whose protocols are none of ours is served without
    /// ALPN, as Envoy does; rustls by itself would refuse it.
    pub fn acceptor_for(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        let ours = &self.config.alpn;
        let is_foreign = hello
            .alpn()
            .is_some_and(|mut offered| !offered.any(|offer| ours.iter().any(|our| our == offer)));
        if is_foreign { &self.without_alpn } else { &self.acceptor }
    }
}

fn acceptor(
    config: &ServerTlsConfig,
    certificates: &[Arc<Certificate>],
    validation: Option<&Arc<Validation>>,
) -> Result<ServerConfig, SecretError> {
    let refused = |error: rustls::Error| SecretError::Refused(error.to_string());
    let builder = ServerConfig::builder_with_provider(config.parameters.provider())
        .with_protocol_versions(config.parameters.versions())
        .map_err(refused)?;
    let builder = match validation {
        None => builder.with_client_cert_verifier(Arc::new(NoClientAuth)),
        Some(validation) => {
            let required = config.requires_client_certificate;
            let verifier = ClientVerifier::new(Arc::clone(validation), required)?;
            builder.with_client_cert_verifier(Arc::new(verifier))
        }
    };
    let mut acceptor =
        builder.with_cert_resolver(Arc::new(Resolver::new(certificates, config.requires_sni)));
    acceptor.alpn_protocols.clone_from(&config.alpn);
    acceptor.ignore_client_order = !config.prefers_client_ciphers;
    Ok(acceptor)
}

/// How long a ticket by shared keys holds, where nothing is set: as long as OpenSSL's.
const TICKET_SECS: u32 = 7200;

/// Sets how sessions are resumed.
fn resume(
    acceptor: &mut ServerConfig,
    config: &ServerTlsConfig,
    (keys, validation): (Option<&TicketKeys>, Option<&Validation>),
) -> Result<(), SecretError> {
    if !config.has_session_cache {
        acceptor.session_storage = Arc::new(NoServerSessionStorage {});
    }
    if let Some(keys) = keys {
        // A client that resumes is not asked for its certificate: its session must be one of a
        // context that asked for the same.
        let digest = validation.map_or([0; 32], |validation| validation.digest);
        let context: [&[u8]; 2] = [&digest, &[u8::from(config.requires_client_certificate)]];
        let tickets = Tickets::new(keys, &context, config.ticket_secs.unwrap_or(TICKET_SECS));
        let tickets = tickets.map_err(|error| SecretError::Refused(error.to_string()))?;
        acceptor.ticketer = Arc::new(tickets);
    } else if config.tickets == TicketSource::Own {
        let own = Ticketer::new().map_err(|error| SecretError::Refused(error.to_string()))?;
        acceptor.ticketer = match config.ticket_secs {
            None => own,
            Some(lifetime_secs) => Arc::new(Told { own, lifetime_secs }),
        };
    } else {
        // TLS 1.3 has no other sessions.
        acceptor.send_tls13_tickets = 0;
    }
    Ok(())
}

/// Tickets whose lifetime is told otherwise.
#[derive(Debug)]
struct Told {
    own: Arc<dyn ProducesTickets>,
    lifetime_secs: u32,
}

impl ProducesTickets for Told {
    fn enabled(&self) -> bool {
        self.own.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.lifetime_secs
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.own.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.own.decrypt(cipher)
    }
}

/// Chooses by server name, exact before wildcard, then by what the client can verify: ECDSA first,
/// since it costs us a sixteenth of RSA. A name that no certificate bears gets the first ones.
#[derive(Debug)]
struct Resolver {
    all: Vec<Arc<CertifiedKey>>,
    by_name: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    requires_sni: bool,
}

impl Resolver {
    fn new(certificates: &[Arc<Certificate>], requires_sni: bool) -> Self {
        let mut by_name = HashMap::<Box<str>, Vec<Arc<CertifiedKey>>>::new();
        for certificate in certificates {
            for name in &certificate.names {
                by_name.entry(name.clone()).or_default().push(Arc::clone(&certificate.key));
            }
        }
        let all = certificates.iter().map(|certificate| Arc::clone(&certificate.key)).collect();
        Self { all, by_name, requires_sni }
    }

    fn named(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let exact = self.by_name.get(name);
        let found = exact.or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(format!("*.{parent}").as_str())
        });
        found.map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        match hello.server_name() {
            None if self.requires_sni => None,
            None => choose(&self.all, schemes),
            // rustls has already made it lower case.
            Some(name) => self
                .named(name)
                .and_then(|keys| choose(keys, schemes))
                .or_else(|| choose(&self.all, schemes)),
        }
    }
}

fn choose(keys: &[Arc<CertifiedKey>], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
    let usable = || keys.iter().filter(|key| key.key.choose_scheme(schemes).is_some());
    usable()
        .find(|key| key.key.algorithm() == SignatureAlgorithm::ECDSA)
        .or_else(|| usable().next())
        .map(Arc::clone)
}
