//! Who a client is by the certificate that it showed.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use webpki::EndEntityCert;

use super::subject;

/// A client's certificate, verified, and what it says.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    /// Its subject (RFC 2253).
    pub subject: String,
    /// Who issued it (RFC 2253).
    pub issuer: String,
    /// The URIs of its subject.
    pub uris: Box<[Box<str>]>,
    /// The DNS names of its subject.
    pub dns_names: Box<[Box<str>]>,
}

impl Identity {
    /// What the chain of a peer says; none where there is no certificate that can be read.
    pub fn new(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let leaf = EndEntityCert::try_from(chain.first()?).ok()?;
        Some(Self {
            subject: subject::render(leaf.subject()),
            issuer: subject::render(leaf.issuer()),
            uris: leaf.valid_uri_names().map(Into::into).collect(),
            dns_names: leaf.valid_dns_names().map(Into::into).collect(),
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
        })
    }

    /// The SHA-256 of the certificate, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(self.chain.first().map_or(&[][..], AsRef::as_ref)) {
            // Writing to a String does not fail.
            let _infallible = write!(text, "{byte:02x}");
        }
        text
    }

    /// The serial number, in hexadecimal.
    pub fn serial(&self) -> String {
        self.chain.first().map(|leaf| subject::serial(leaf)).unwrap_or_default()
    }

    /// The certificate in PEM form, URL-encoded.
    pub fn encoded_certificate(&self) -> String {
        encoded(self.chain.iter().take(1))
    }

    /// All certificates that the client sent in PEM form, URL-encoded.
    pub fn encoded_chain(&self) -> String {
        encoded(self.chain.iter())
    }
}

fn encoded<'a>(certificates: impl Iterator<Item = &'a CertificateDer<'static>>) -> String {
    const LINE: usize = 64;
    let mut out = String::new();
    for certificate in certificates {
        out.push_str("-----BEGIN%20CERTIFICATE-----%0A");
        let text = STANDARD.encode(certificate);
        for (index, char) in text.chars().enumerate() {
            if index > 0 && index % LINE == 0 {
                out.push_str("%0A");
            }
            match char {
                '+' => out.push_str("%2B"),
                '/' => out.push_str("%2F"),
                '=' => out.push_str("%3D"),
                other => out.push(other),
            }
        }
        out.push_str("%0A-----END%20CERTIFICATE-----%0A");
    }
    out
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::tls::testing::Authority;

    #[test]
    fn a_certificate_is_read_and_written() {
        let pair = Authority::new().issue(&["a.test", "b.test", "spiffe://td/a"]);
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
        let identity = Identity::new(&[der.clone(), der]).unwrap();
        assert_eq!(&*identity.dns_names, ["a.test".into(), "b.test".into()]);
        assert_eq!(&*identity.uris, ["spiffe://td/a".into()]);
        assert_eq!(identity.fingerprint().len(), 64);
        let decoded = |text: String| {
            let parts = [("%20", " "), ("%2B", "+"), ("%2F", "/"), ("%3D", "="), ("%0A", "\n")];
            parts.iter().fold(text, |text, (from, to)| text.replace(from, to))
        };
        let pem = pair.certificate.replace("\r\n", "\n");
        assert_eq!(decoded(identity.encoded_certificate()), pem);
        assert_eq!(decoded(identity.encoded_chain()), pem.repeat(2));
        assert!(Identity::new(&[]).is_none());
    }
}
