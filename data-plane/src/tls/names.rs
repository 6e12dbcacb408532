//! The names that a peer's certificate must bear.

use std::net::IpAddr;

use rustls::pki_types::ServerName;
use webpki::EndEntityCert;

use crate::matcher::StringMatcher;

/// Names that will do.
#[derive(Debug, Clone)]
pub enum NameMatcher {
    /// A DNS name; the certificate may have a wildcard for it.
    Dns(ServerName<'static>),
    /// DNS names whose text matches, wildcards as they stand.
    DnsText(StringMatcher),
    /// An IP address.
    Ip(IpAddr),
    /// URIs whose text matches, such as a SPIFFE identity.
    Uri(StringMatcher),
}

impl NameMatcher {
    /// Whether the certificate bears such a name.
    pub fn matches(&self, certificate: &EndEntityCert<'_>) -> bool {
        match self {
            Self::Dns(name) => certificate.verify_is_valid_for_subject_name(name).is_ok(),
            Self::DnsText(text) => {
                certificate.valid_dns_names().any(|name| text.matches(name.as_bytes()))
            }
            Self::Ip(ip) => certificate
                .verify_is_valid_for_subject_name(&ServerName::IpAddress((*ip).into()))
                .is_ok(),
            Self::Uri(text) => {
                certificate.valid_uri_names().any(|name| text.matches(name.as_bytes()))
            }
        }
    }
}
