//! Verifies a peer as Envoy means it: the chain where authorities are named, names where names are.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use sha2::{Digest, Sha256};
use webpki::EndEntityCert;

use crate::tls::names::NameMatcher;
use crate::tls::secret::Validation;
use crate::tls::{SecretError, provider};

/// Verifies endpoints.
#[derive(Debug)]
pub(crate) struct EndpointVerifier {
    validation: Option<Arc<Validation>>,
    verifies_sni: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl EndpointVerifier {
    /// Trusts what `validation` says; everything without one. `verifies_sni`: the certificate must
    /// be for the name that was asked for.
    pub(crate) fn new(validation: Option<Arc<Validation>>, verifies_sni: bool) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self { validation, verifies_sni, algorithms }
    }
}

impl ServerCertVerifier for EndpointVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(validation) = &self.validation else {
            return Ok(ServerCertVerified::assertion());
        };
        if !validation.roots.is_empty() {
            let verified = verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                &validation.roots,
                intermediates,
                now,
                self.algorithms.all,
            );
            verified.or_else(|error| allow_anchor(error, end_entity, validation))?;
        }
        verify_names(end_entity, &validation.names)?;
        if self.verifies_sni {
            let parsed = parse(end_entity)?;
            parsed
                .verify_is_valid_for_subject_name(server_name)
                .map_err(|_| CertificateError::NotValidForName)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Verifies clients: rustls does, and then the names.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    validation: Arc<Validation>,
}

impl ClientVerifier {
    /// Trusts what `validation` says. A client without a certificate passes unless it is `required`.
    pub(crate) fn new(validation: Arc<Validation>, required: bool) -> Result<Self, SecretError> {
        let roots = Arc::clone(&validation.roots);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
        if !required {
            builder = builder.allow_unauthenticated();
        }
        if !validation.sends_authorities {
            builder = builder.clear_root_hint_subjects();
        }
        let inner = builder.build().map_err(|error| SecretError::Refused(error.to_string()))?;
        Ok(Self { inner, validation })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now);
        if let Err(error) = verified {
            allow_anchor(error, end_entity, &self.validation)?;
        }
        verify_names(end_entity, &self.validation.names)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Lets a peer pass that shows a trusted certificate itself, which is an authority's: OpenSSL does,
/// and so self-signed certificates are used. webpki has checked its validity before it said so.
fn allow_anchor(
    error: Error,
    end_entity: &CertificateDer<'_>,
    validation: &Validation,
) -> Result<(), Error> {
    let Error::InvalidCertificate(CertificateError::Other(other)) = &error else {
        return Err(error);
    };
    let is_authority = other
        .0
        .downcast_ref::<webpki::Error>()
        .is_some_and(|error| *error == webpki::Error::CaUsedAsEndEntity);
    let digest: [u8; 32] = Sha256::digest(end_entity).into();
    if is_authority && validation.anchors.contains(&digest) { Ok(()) } else { Err(error) }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<EndEntityCert<'a>, Error> {
    EndEntityCert::try_from(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

fn verify_names(certificate: &CertificateDer<'_>, names: &[NameMatcher]) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let parsed = parse(certificate)?;
    if names.iter().any(|name| name.matches(&parsed)) {
        return Ok(());
    }
    Err(CertificateError::NotValidForName.into())
}
