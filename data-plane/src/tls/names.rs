//! The names that a peer's certificate must bear.

use std::net::IpAddr;

use rustls::pki_types::ServerName;
use webpki::EndEntityCert;

/// One name that will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameMatcher {
    /// A DNS name; the certificate may have a wildcard for it.
    Dns(ServerName<'static>),
    /// An IP address.
    Ip(IpAddr),
    /// A URI, such as a SPIFFE identity.
    Uri(Box<str>),
}

impl NameMatcher {
    /// Whether the certificate bears the name.
    pub fn matches(&self, certificate: &EndEntityCert<'_>) -> bool {
        match self {
            Self::Dns(name) => certificate.verify_is_valid_for_subject_name(name).is_ok(),
            Self::Ip(ip) => certificate
                .verify_is_valid_for_subject_name(&ServerName::IpAddress((*ip).into()))
                .is_ok(),
            Self::Uri(uri) => certificate.valid_uri_names().any(|name| name == &**uri),
        }
    }
}
