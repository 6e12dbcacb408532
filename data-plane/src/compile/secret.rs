//! A `Secret` resource to a certificate or to trust.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use sha2::{Digest, Sha256};
use webpki::EndEntityCert;
use xds_proto::convert::inline_data;
use xds_proto::envoy::config::core::v3::DataSource;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SubjectAltNameMatcher, TlsCertificate,
    TlsSessionTicketKeys,
};
use xds_proto::envoy::r#type::matcher::v3::StringMatcher;
use xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;

use crate::matcher::compile as matcher;
use crate::tls::names::NameMatcher;
use crate::tls::provider;
use crate::tls::secret::{Certificate, Hash, Pins, SecretConfig, SecretKind, Validation};
use crate::tls::ticket::TicketKeys;

/// Compiles a secret.
///
/// # Errors
/// The first field that is missing, out of range or not implemented; a key that does not match.
pub fn compile(message: Secret) -> Result<SecretConfig, FieldError> {
    fields!(message: Secret, read: [name, r#type], ignore: [], refuse: []);
    let name = required_text(name, "name")?.into();
    let kind = match required(r#type, "type")? {
        Type::TlsCertificate(message) => {
            SecretKind::Certificate(Arc::new(certificate(message).at("tls_certificate")?))
        }
        Type::ValidationContext(message) => {
            SecretKind::Validation(Arc::new(validation(message).at("validation_context")?))
        }
        Type::SessionTicketKeys(message) => {
            SecretKind::TicketKeys(Arc::new(ticket_keys(message).at("session_ticket_keys")?))
        }
        Type::GenericSecret(_) => return Err(FieldError::unsupported()).at("generic_secret"),
    };
    Ok(SecretConfig { name, kind })
}

/// A certificate with its key.
pub(crate) fn certificate(message: TlsCertificate) -> Result<Certificate, FieldError> {
    fields!(message: TlsCertificate,
    read: [certificate_chain, private_key, ocsp_staple],
    // Says when to read files again; there are none left when a resource is compiled.
    ignore: [watched_directory],
    refuse: [
        pkcs12, private_key_provider, password, signed_certificate_timestamp,
        tls_params,
    ]);
    let chain = certificates(certificate_chain).at("certificate_chain")?;
    let key = inline_data(private_key).and_then(|pem| {
        PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| FieldError::invalid("no private key in PEM form"))
    });
    let key = key.at("private_key")?;
    let mut hash = Sha256::new();
    chain.iter().for_each(|certificate| hash.update(certificate));
    let (names, uris) = names(&chain).at("certificate_chain")?;
    let staple = match ocsp_staple {
        None => None,
        staple => Some(inline_data(staple).at("ocsp_staple")?),
    };
    staple.iter().for_each(|staple| hash.update(staple));
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            FieldError::invalid("does not match certificate_chain")
        }
        error => FieldError::invalid(error.to_string()),
    });
    let key = CertifiedKey { ocsp: staple, ..key.at("private_key")? };
    Ok(Certificate { key: Arc::new(key), names, uris, digest: hash.finalize().into() })
}

type Names = Box<[Box<str>]>;

/// The DNS names and the URIs of a certificate.
fn names(chain: &[CertificateDer<'static>]) -> Result<(Names, Names), FieldError> {
    let leaf = required(chain.first(), "certificate")?;
    let leaf = EndEntityCert::try_from(leaf)
        .map_err(|error| FieldError::invalid(format!("invalid certificate: {error}")))?;
    let names = leaf.valid_dns_names().map(|name| name.to_ascii_lowercase().into()).collect();
    Ok((names, leaf.valid_uri_names().map(Into::into).collect()))
}

fn certificates(source: Option<DataSource>) -> Result<Vec<CertificateDer<'static>>, FieldError> {
    let pem = inline_data(source)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) | Err(_) => Err(FieldError::invalid("no certificate in PEM form")),
    }
}

/// The keys of session tickets.
pub(crate) fn ticket_keys(message: TlsSessionTicketKeys) -> Result<TicketKeys, FieldError> {
    fields!(message: TlsSessionTicketKeys, read: [keys], ignore: [], refuse: []);
    let keys = each(keys, "keys", |source| {
        let key = inline_data(Some(source))?;
        if key.len() != TicketKeys::KEY_BYTES {
            let reason = format!("must be {} bytes, has {}", TicketKeys::KEY_BYTES, key.len());
            return Err(FieldError::invalid(reason));
        }
        Ok(key)
    })?;
    TicketKeys::new(&keys).ok_or_else(FieldError::required).at("keys")
}

/// Whom to trust.
pub(crate) fn validation(message: CertificateValidationContext) -> Result<Validation, FieldError> {
    let digest = Sha256::digest(message.encode_to_vec()).into();
    fields!(message: CertificateValidationContext,
    read: [
        trusted_ca, match_typed_subject_alt_names, match_subject_alt_names,
        suppress_client_ca_list, verify_certificate_hash, verify_certificate_spki,
    ],
    // `watched_directory`: see above. `only_verify_leaf_cert_crl` is about lists, refused.
    ignore: [watched_directory, only_verify_leaf_cert_crl],
    refuse: [
        ca_certificate_provider_instance, system_root_certs, require_signed_certificate_timestamp, crl,
        allow_expired_certificate, trust_chain_verification, custom_validator_config,
        max_verify_depth,
    ]);
    let trusted = match trusted_ca {
        None => Vec::new(),
        Some(source) => certificates(Some(source)).at("trusted_ca")?,
    };
    let roots = roots(&trusted).at("trusted_ca")?;
    let typed = each(match_typed_subject_alt_names, "match_typed_subject_alt_names", typed_name)?;
    let untyped = each(match_subject_alt_names, "match_subject_alt_names", untyped_name)?;
    let names = typed.into_iter().chain(untyped).flatten().collect();
    let pins = Pins {
        certificates: each(verify_certificate_hash, "verify_certificate_hash", |text| hash(&text))?
            .into(),
        keys: each(verify_certificate_spki, "verify_certificate_spki", |text| key_hash(&text))?
            .into(),
    };
    Ok(Validation {
        roots: Arc::new(roots),
        anchors: trusted.iter().map(|one| Sha256::digest(one).into()).collect(),
        names,
        pins,
        sends_authorities: !suppress_client_ca_list,
        digest,
    })
}

/// The authorities. Bundles carry some that no TLS library takes; one that can be used is enough.
fn roots(trusted: &[CertificateDer<'static>]) -> Result<RootCertStore, FieldError> {
    let mut roots = RootCertStore::empty();
    let mut refused = None;
    for certificate in trusted {
        if let Err(error) = roots.add(certificate.clone()) {
            refused = Some(error);
        }
    }
    match refused {
        Some(error) if roots.is_empty() => Err(FieldError::invalid(error.to_string())),
        _ => Ok(roots),
    }
}

/// A SHA-256 in hexadecimal, perhaps with a colon after each byte, as openssl prints it.
fn hash(text: &str) -> Result<Hash, FieldError> {
    let invalid = || FieldError::invalid("is no SHA-256 in hexadecimal");
    let has_colons = text.len() == 32 * 3 - 1;
    let digits = if has_colons { text.replace(':', "") } else { text.to_owned() };
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(invalid());
    }
    let mut hash = Hash::default();
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).map_err(|_| invalid())?;
    }
    Ok(hash)
}

/// A SHA-256 in base64.
fn key_hash(text: &str) -> Result<Hash, FieldError> {
    let bytes = BASE64_STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| FieldError::invalid("is no SHA-256 in base64"))
}

fn typed_name(message: SubjectAltNameMatcher) -> Result<Vec<NameMatcher>, FieldError> {
    fields!(message: SubjectAltNameMatcher,
        read: [san_type, matcher],
        // Only for `OTHER_NAME`.
        ignore: [oid],
        refuse: []);
    let text = required(matcher, "matcher")?;
    let name = match SanType::try_from(san_type) {
        Ok(SanType::Dns) => dns_name(text).at("matcher"),
        Ok(SanType::Uri) => matcher::string(text).map(NameMatcher::Uri).at("matcher"),
        Ok(SanType::IpAddress) => ip(&text).at("matcher"),
        Ok(SanType::Email | SanType::OtherName) => Err(FieldError::unsupported()).at("san_type"),
        Ok(SanType::Unspecified) | Err(_) => {
            Err(FieldError::invalid("unknown value")).at("san_type")
        }
    };
    Ok(vec![name?])
}

/// The old form is about names of every type.
fn untyped_name(message: StringMatcher) -> Result<Vec<NameMatcher>, FieldError> {
    let mut names = vec![NameMatcher::Uri(matcher::string(message.clone())?)];
    names.extend(ip(&message));
    names.push(dns_name(message)?);
    Ok(names)
}

fn dns_name(text: StringMatcher) -> Result<NameMatcher, FieldError> {
    match &text.match_pattern {
        Some(MatchPattern::Exact(name)) => match name.clone().try_into() {
            Ok(name) => Ok(NameMatcher::Dns(name)),
            // A wildcard is only found in a certificate that has the same.
            Err(_) => matcher::string(text).map(NameMatcher::DnsText),
        },
        _ => matcher::string(text).map(NameMatcher::DnsText),
    }
}

fn ip(text: &StringMatcher) -> Result<NameMatcher, FieldError> {
    match &text.match_pattern {
        Some(MatchPattern::Exact(ip)) => ip
            .parse()
            .map(NameMatcher::Ip)
            .map_err(|_| FieldError::invalid("is no IP address"))
            .at("exact"),
        _ => Err(FieldError::invalid("addresses are compared by exact")),
    }
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::tls::testing::{Pair, quoted, self_signed};

    fn compiled(yaml: &str) -> Result<SecretConfig, String> {
        compile(from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn hashes_are_read_as_people_write_them() {
        let zeros = "00".repeat(32);
        let colons = vec!["Ab"; 32].join(":");
        assert_eq!(hash(&zeros), Ok([0; 32]));
        assert_eq!(hash(&colons), Ok([0xab; 32]));
        for bad in ["", "00", &zeros[1..], &zeros.replace("00", "+0"), &colons.replace(':', "-")] {
            assert_eq!(hash(bad).unwrap_err().to_string(), "is no SHA-256 in hexadecimal", "{bad}");
        }
        assert_eq!(key_hash(&BASE64_STANDARD.encode([7; 32])), Ok([7; 32]));
        for bad in ["", "AAAA", "*"] {
            assert_eq!(key_hash(bad).unwrap_err().to_string(), "is no SHA-256 in base64", "{bad}");
        }
    }

    #[test]
    fn a_certificate_has_the_names_it_bears() {
        let pair = self_signed(&["A.test", "*.b.test"]);
        let secret = compiled(&format!("{{name: s, tls_certificate: {}}}", pair.yaml())).unwrap();
        let SecretKind::Certificate(certificate) = secret.kind else { unreachable!() };
        assert_eq!(*certificate.names, ["a.test".into(), "*.b.test".into()]);
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let (one, two) = (self_signed(&["a.test"]), self_signed(&["a.test"]));
        let mixed = Pair { key: two.key, ..one.clone() }.yaml();
        let keyless = Pair { key: "none".into(), ..one.clone() }.yaml();
        let bare = Pair { certificate: one.key.clone(), ..one }.yaml();
        for (yaml, error) in [
            (format!("{{tls_certificate: {mixed}}}"), "name: required"),
            ("{name: s}".into(), "type: required"),
            (
                format!("{{name: s, tls_certificate: {mixed}}}"),
                "tls_certificate.private_key: does not match certificate_chain",
            ),
            (
                format!("{{name: s, tls_certificate: {keyless}}}"),
                "tls_certificate.private_key: no private key in PEM form",
            ),
            (
                format!("{{name: s, tls_certificate: {bare}}}"),
                "tls_certificate.certificate_chain: no certificate in PEM form",
            ),
            ("{name: s, session_ticket_keys: {}}".into(), "session_ticket_keys.keys: required"),
            (
                "{name: s, session_ticket_keys: {keys: [{inline_string: x}]}}".into(),
                "session_ticket_keys.keys[0]: must be 80 bytes, has 1",
            ),
            (
                "{name: s, tls_certificate: {certificate_chain: {filename: /x}}}".into(),
                "tls_certificate.certificate_chain.filename: not supported",
            ),
            (
                format!(
                    "{{name: s, validation_context: {{trusted_ca: {{inline_string: {}}}, crl: \
                     {{inline_string: x}}}}}}",
                    quoted("x")
                ),
                "validation_context.crl: not supported",
            ),
        ] {
            assert_eq!(compiled(&yaml).unwrap_err(), error);
        }
    }
}
