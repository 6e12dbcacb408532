//! TLS towards endpoints.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, client::ResolvesClientCert};

use crate::reference::Reference;
use crate::tls::secret::{Certificate, CertificateSource, Secrets, Validation, ValidationSource};
use crate::tls::verify::EndpointVerifier;
use crate::tls::{Parameters, SecretError};

/// Session tickets kept for a cluster's server name.
const SESSIONS_MAX: usize = 8;

/// TLS towards endpoints, compiled from an `UpstreamTlsContext`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTlsConfig {
    /// The server name to ask for.
    pub sni: Option<ServerName<'static>>,
    /// Ask for the endpoint's hostname, where it has one.
    pub sni_from_host: bool,
    /// Ask for the host that the request is for.
    pub sni_from_request: bool,
    /// The certificate must be for the name that was asked for.
    pub verifies_sni: bool,
    /// Whom to trust; without it every certificate will do.
    pub validation: Option<ValidationSource>,
    /// What to show when the endpoint asks for a certificate.
    pub certificate: Option<CertificateSource>,
    /// What to offer by ALPN instead of what the protocol calls for.
    pub alpn: Vec<Vec<u8>>,
    /// Versions of TLS, and what is spoken in them.
    pub parameters: Parameters,
    /// Whether sessions are resumed.
    pub resumes: bool,
}

impl ClientTlsConfig {
    /// The secrets it needs.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Reference> {
        let certificate = self.certificate.as_ref().and_then(CertificateSource::secret);
        certificate.into_iter().chain(self.validation.as_ref().and_then(ValidationSource::secret))
    }
}

/// What to offer by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Offer {
    Http1,
    Http2,
    Both,
}

/// TLS towards endpoints, ready to connect.
#[derive(Debug)]
pub struct ClientTls {
    /// What it was made of.
    pub config: ClientTlsConfig,
    certificate: Option<Arc<Certificate>>,
    validation: Option<Arc<Validation>>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    both: Arc<ClientConfig>,
}

impl ClientTls {
    /// Resolves the secrets. Gives `previous` where it is made of the same, so that connections and
    /// sessions live on.
    ///
    /// # Errors
    /// When a secret is missing or is no use.
    pub fn link(
        config: &ClientTlsConfig,
        secrets: &Secrets,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, SecretError> {
        let certificate = config.certificate.as_ref().map(|source| source.find(secrets));
        let certificate = certificate.transpose()?;
        let validation = config.validation.as_ref().map(|source| source.find(secrets));
        let validation = validation.transpose()?;
        if let Some(previous) = previous
            && previous.config == *config
            && previous.certificate == certificate
            && previous.validation == validation
        {
            return Ok(Arc::clone(previous));
        }
        let verifier = EndpointVerifier::new(validation.clone(), config.verifies_sni);
        let builder = ClientConfig::builder_with_provider(config.parameters.provider())
            .with_protocol_versions(config.parameters.versions())
            .map_err(|error| SecretError::Refused(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut base = match &certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let resolver = SingleCertAndKey::from(Arc::clone(&certificate.key));
                builder.with_client_cert_resolver(Arc::new(resolver) as Arc<dyn ResolvesClientCert>)
            }
        };
        base.enable_sni = config.sni.is_some() || config.sni_from_host || config.sni_from_request;
        base.resumption = if config.resumes {
            Resumption::in_memory_sessions(SESSIONS_MAX)
        } else {
            Resumption::disabled()
        };
        let offering = |protocols: &[&[u8]]| {
            let mut offering = base.clone();
            offering.alpn_protocols = if config.alpn.is_empty() {
                protocols.iter().map(|protocol| protocol.to_vec()).collect()
            } else {
                config.alpn.clone()
            };
            Arc::new(offering)
        };
        Ok(Arc::new(Self {
            http1: offering(&[b"http/1.1"]),
            http2: offering(&[b"h2"]),
            both: offering(&[b"h2", b"http/1.1"]),
            config: config.clone(),
            certificate,
            validation,
        }))
    }

    /// Whether anybody may pose as the endpoint, or anybody with a certificate of the authority.
    pub fn is_lax(&self) -> bool {
        !self.config.verifies_sni
            && self.validation.as_ref().is_none_or(|validation| validation.names.is_empty())
    }

    pub(crate) fn offering(&self, offer: Offer) -> &Arc<ClientConfig> {
        match offer {
            Offer::Http1 => &self.http1,
            Offer::Http2 => &self.http2,
            Offer::Both => &self.both,
        }
    }
}
