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
        verify_self(end_entity, validation)?;
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

/// Verifies clients: rustls the chain, where authorities are named, and then the certificate itself.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    chain: Option<Arc<dyn ClientCertVerifier>>,
    validation: Arc<Validation>,
    is_required: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    /// Trusts what `validation` says. A client without a certificate passes unless it is `required`.
    pub(crate) fn new(validation: Arc<Validation>, required: bool) -> Result<Self, SecretError> {
        let roots = Arc::clone(&validation.roots);
        if !validation.proves() {
            return Err(SecretError::Refused("no trusted_ca".to_owned()));
        }
        let chain = if roots.is_empty() {
            None
        } else {
            let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
            if !validation.sends_authorities {
                builder = builder.clear_root_hint_subjects();
            }
            Some(builder.build().map_err(|error| SecretError::Refused(error.to_string()))?)
        };
        let algorithms = provider().signature_verification_algorithms;
        Ok(Self { chain, validation, is_required: required, algorithms })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.as_ref().map_or(&[], |chain| chain.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(chain) = &self.chain
            && let Err(error) = chain.verify_client_cert(end_entity, intermediates, now)
        {
            allow_anchor(error, end_entity, &self.validation)?;
        }
        verify_self(end_entity, &self.validation)?;
        Ok(ClientCertVerified::assertion())
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

/// Verifies what a certificate says itself: its names, and which one it is.
fn verify_self(certificate: &CertificateDer<'_>, validation: &Validation) -> Result<(), Error> {
    let Validation { names, pins, .. } = validation;
    if names.is_empty() && pins.is_empty() {
        return Ok(());
    }
    let parsed = parse(certificate)?;
    if !names.is_empty() && !names.iter().any(|name| name.matches(&parsed)) {
        return Err(CertificateError::NotValidForName.into());
    }
    let is_pinned = || {
        let key = parsed.subject_public_key_info();
        pins.certificates.contains(&Sha256::digest(certificate).into())
            || pins.keys.contains(&Sha256::digest(key).into())
    };
    if pins.is_empty() || is_pinned() {
        return Ok(());
    }
    Err(CertificateError::ApplicationVerificationFailure.into())
}
