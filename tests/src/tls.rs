//! A TLS client that trusts whatever it is shown: tests look at it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, Error, HandshakeKind, ProtocolVersion,
    SignatureScheme, SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A certificate and its key.
pub type Pair = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// What a client offers; where nothing is named, all that there is.
#[derive(Debug, Default)]
pub struct Looker {
    /// Versions of TLS.
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Cipher suites of TLS 1.2.
    pub suites: Vec<CipherSuite>,
    /// Signatures that it understands.
    pub schemes: Vec<SignatureScheme>,
    /// Protocols, by ALPN.
    pub alpn: Vec<&'static str>,
}

impl Looker {
    /// A configuration; `own` is shown where a certificate is asked for.
    pub fn config(&self, own: Option<Pair>) -> ClientConfig {
        self.watching(own).0
    }

    /// A configuration, and the OCSP response that a server stapled last.
    pub fn watching(&self, own: Option<Pair>) -> (ClientConfig, Arc<Mutex<Vec<u8>>>) {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| {
            self.suites.is_empty()
                || suite.tls13().is_some()
                || self.suites.contains(&suite.suite())
        });
        let provider = Arc::new(provider);
        let schemes = if self.schemes.is_empty() {
            provider.signature_verification_algorithms.supported_schemes()
        } else {
            self.schemes.clone()
        };
        let stapled = Arc::default();
        let anyone =
            Anyone { provider: Arc::clone(&provider), schemes, stapled: Arc::clone(&stapled) };
        let versions =
            if self.versions.is_empty() { rustls::DEFAULT_VERSIONS } else { &self.versions };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(anyone));
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        (config, stapled)
    }
}

#[derive(Debug)]
struct Anyone {
    provider: Arc<CryptoProvider>,
    schemes: Vec<SignatureScheme>,
    stapled: Arc<Mutex<Vec<u8>>>,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.stapled.lock().unwrap() = ocsp_response.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// What two sides agreed on, and the answer to one request.
#[derive(Debug)]
pub struct Session {
    /// Whether it was a full handshake.
    pub kind: HandshakeKind,
    /// The version of TLS.
    pub version: ProtocolVersion,
    /// The cipher suite.
    pub suite: CipherSuite,
    /// The protocol, by ALPN.
    pub alpn: Option<String>,
    /// The group that keys were exchanged in; not after a resumption.
    pub group: Option<String>,
    /// The certificate that the server showed.
    pub shown: Vec<u8>,
    /// The whole answer to `GET /` as HTTP/1.1; empty where HTTP/2 was agreed on.
    pub answer: String,
}

/// Connects with a client that keeps its sessions, and asks once.
///
/// # Errors
/// When there is no connection, or no handshake.
pub async fn session(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> Result<Session> {
    let socket = TcpStream::connect(address).await?;
    let name_of_server = ServerName::try_from(name.to_owned())?;
    let mut stream = TlsConnector::from(Arc::clone(config)).connect(name_of_server, socket).await?;
    let said = stream.get_ref().1;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut session = Session {
        kind: said.handshake_kind().context("no handshake")?,
        version: said.protocol_version().context("no version")?,
        suite: said.negotiated_cipher_suite().context("no suite")?.suite(),
        alpn: said.alpn_protocol().map(text),
        group: said.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())),
        shown: said.peer_certificates().and_then(|all| all.first()).context("none")?.to_vec(),
        answer: String::new(),
    };
    if session.alpn.as_deref() != Some("h2") {
        let request = format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // Some close without saying so.
        let _ = stream.read_to_end(&mut answer).await;
        session.answer = text(&answer);
    }
    Ok(session)
}
