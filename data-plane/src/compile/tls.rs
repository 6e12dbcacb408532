//! TLS contexts of both sides.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use xds_proto::envoy::config::core::v3::ConfigSource;
use xds_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use xds_proto::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsParameters, UpstreamTlsContext,
};
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;

use crate::compile::secret;
use crate::tls::Versions;
use crate::tls::client::ClientTlsConfig;
use crate::tls::secret::{CertificateSource, ValidationSource};
use crate::tls::server::ServerTlsConfig;

/// Compiles TLS towards clients.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub fn server(message: DownstreamTlsContext) -> Result<ServerTlsConfig, FieldError> {
    fields!(message: DownstreamTlsContext,
        read: [
            common_tls_context, require_client_certificate, require_sni,
            disable_stateful_session_resumption, prefer_client_ciphers, session_ticket_keys_type,
        ],
        // What nobody is named like always gets the certificate that its client can verify.
        ignore: [full_scan_certs_on_sni_mismatch],
        refuse: [session_timeout, ocsp_staple_policy]);
    let common = common(common_tls_context.unwrap_or_default()).at("common_tls_context")?;
    if common.certificates.is_empty() {
        return Err(FieldError::invalid("a server needs a certificate")).at("common_tls_context");
    }
    let requires_client_certificate = require_client_certificate.is_some_and(|flag| flag.value);
    match &common.validation {
        // Envoy would take any certificate, which is no authentication at all.
        None if requires_client_certificate => {
            return Err(FieldError::invalid("needs a validation context"))
                .at("require_client_certificate");
        }
        Some(ValidationSource::Inline(validation)) if validation.roots.is_empty() => {
            return Err(FieldError::required())
                .at("trusted_ca")
                .at("validation_context")
                .at("common_tls_context");
        }
        _ => {}
    }
    let has_tickets = match session_ticket_keys_type {
        None | Some(SessionTicketKeysType::DisableStatelessSessionResumption(false)) => true,
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)) => false,
        Some(SessionTicketKeysType::SessionTicketKeys(_)) => {
            return Err(FieldError::unsupported()).at("session_ticket_keys");
        }
        Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(_)) => {
            return Err(FieldError::unsupported()).at("session_ticket_keys_sds_secret_config");
        }
    };
    Ok(ServerTlsConfig {
        certificates: common.certificates,
        alpn: common.alpn,
        versions: common.versions,
        validation: common.validation,
        requires_client_certificate,
        requires_sni: require_sni.is_some_and(|flag| flag.value),
        prefers_client_ciphers: prefer_client_ciphers,
        has_tickets,
        has_session_cache: !disable_stateful_session_resumption,
    })
}

/// Compiles TLS towards endpoints.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub fn client(message: UpstreamTlsContext) -> Result<ClientTlsConfig, FieldError> {
    fields!(message: UpstreamTlsContext,
        read: [
            common_tls_context, sni, auto_host_sni, auto_sni_san_validation, max_session_keys,
        ],
        // rustls always checks key usage.
        ignore: [enforce_rsa_key_usage],
        refuse: [allow_renegotiation]);
    let common = common(common_tls_context.unwrap_or_default()).at("common_tls_context")?;
    if common.certificates.len() > 1 {
        return Err(FieldError::invalid("at most one client certificate"))
            .at("tls_certificates")
            .at("common_tls_context");
    }
    if auto_sni_san_validation && common.validation.is_none() {
        return Err(FieldError::invalid("needs a validation context"))
            .at("auto_sni_san_validation");
    }
    if let Some(ValidationSource::Inline(validation)) = &common.validation
        && validation.roots.is_empty()
        && (auto_sni_san_validation || !validation.names.is_empty())
    {
        return Err(FieldError::invalid("names prove nothing without a trusted_ca"))
            .at("validation_context")
            .at("common_tls_context");
    }
    Ok(ClientTlsConfig {
        sni: (!sni.is_empty()).then(|| server_name(&sni)).transpose().at("sni")?,
        sni_from_host: auto_host_sni,
        verifies_sni: auto_sni_san_validation,
        validation: common.validation,
        certificate: common.certificates.into_iter().next(),
        alpn: common.alpn,
        versions: common.versions,
        resumes: max_session_keys.is_none_or(|keys| keys.value > 0),
    })
}

fn server_name(name: &str) -> Result<ServerName<'static>, FieldError> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| FieldError::invalid(format!("{name:?} is no host name")))
}

/// What both sides have.
struct Common {
    certificates: Vec<CertificateSource>,
    alpn: Vec<Vec<u8>>,
    versions: Versions,
    validation: Option<ValidationSource>,
}

fn common(message: CommonTlsContext) -> Result<Common, FieldError> {
    fields!(message: CommonTlsContext,
    read: [
        tls_params, tls_certificates, tls_certificate_sds_secret_configs, alpn_protocols,
        validation_context_type,
    ],
    ignore: [],
    refuse: [
        tls_certificate_provider_instance, custom_tls_certificate_selector,
        tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance,
        custom_handshaker, key_log,
    ]);
    let inline = each(tls_certificates, "tls_certificates", |message| {
        Ok(CertificateSource::Inline(Arc::new(secret::certificate(message)?)))
    })?;
    let field = "tls_certificate_sds_secret_configs";
    let named = each(tls_certificate_sds_secret_configs, field, |message| {
        secret_name(message).map(CertificateSource::Secret)
    })?;
    Ok(Common {
        certificates: inline.into_iter().chain(named).collect(),
        alpn: alpn_protocols.into_iter().map(String::into_bytes).collect(),
        versions: tls_params.map_or_else(|| Ok(Versions::default()), versions).at("tls_params")?,
        validation: validation_context_type.map(validation).transpose()?,
    })
}

fn versions(message: TlsParameters) -> Result<Versions, FieldError> {
    fields!(message: TlsParameters,
        read: [tls_minimum_protocol_version, tls_maximum_protocol_version],
        ignore: [],
        refuse: [cipher_suites, ecdh_curves, signature_algorithms, compliance_policies]);
    let version = |value| match TlsProtocol::try_from(value) {
        Ok(TlsProtocol::TlsAuto) => Ok(None),
        Ok(version @ (TlsProtocol::TlSv12 | TlsProtocol::TlSv13)) => Ok(Some(version)),
        Ok(TlsProtocol::TlSv10 | TlsProtocol::TlSv11) => {
            Err(FieldError::invalid("TLS 1.0 and 1.1 are not supported"))
        }
        Err(_) => Err(FieldError::invalid("unknown value")),
    };
    let min = version(tls_minimum_protocol_version).at("tls_minimum_protocol_version")?;
    let max = version(tls_maximum_protocol_version).at("tls_maximum_protocol_version")?;
    let versions = Versions {
        tls12: min != Some(TlsProtocol::TlSv13),
        tls13: max != Some(TlsProtocol::TlSv12),
    };
    if versions == (Versions { tls12: false, tls13: false }) {
        return Err(FieldError::invalid("is below the minimum")).at("tls_maximum_protocol_version");
    }
    Ok(versions)
}

fn validation(message: ValidationContextType) -> Result<ValidationSource, FieldError> {
    match message {
        ValidationContextType::ValidationContext(message) => {
            let validation = secret::validation(message).at("validation_context")?;
            Ok(ValidationSource::Inline(Arc::new(validation)))
        }
        ValidationContextType::ValidationContextSdsSecretConfig(message) => {
            let field = "validation_context_sds_secret_config";
            Ok(ValidationSource::Secret(secret_name(message).at(field)?))
        }
        ValidationContextType::CombinedValidationContext(message) => {
            combined(message).at("combined_validation_context")
        }
        // Two forms, both long deprecated.
        _ => Err(FieldError::unsupported()).at("validation_context_certificate_provider"),
    }
}

fn combined(message: CombinedCertificateValidationContext) -> Result<ValidationSource, FieldError> {
    fields!(message: CombinedCertificateValidationContext,
    read: [default_validation_context, validation_context_sds_secret_config],
    ignore: [],
    refuse: [
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance,
    ]);
    let default = required(default_validation_context, "default_validation_context")?;
    let default = secret::validation(default).at("default_validation_context")?;
    let field = "validation_context_sds_secret_config";
    let name = secret_name(required(validation_context_sds_secret_config, field)?).at(field)?;
    Ok(ValidationSource::Combined(Arc::new(default), name))
}

fn secret_name(message: SdsSecretConfig) -> Result<Arc<str>, FieldError> {
    fields!(message: SdsSecretConfig, read: [name, sds_config], ignore: [], refuse: []);
    // Without a source it is a secret of the bootstrap.
    if let Some(source) = sds_config {
        config_source(source).at("sds_config")?;
    }
    Ok(required_text(name, "name")?.into())
}

/// Whether what it names comes on the one stream that we have.
pub(crate) fn config_source(message: ConfigSource) -> Result<(), FieldError> {
    fields!(message: ConfigSource,
        read: [config_source_specifier],
        // One stream, one version, and nothing waits for ever.
        ignore: [resource_api_version, initial_fetch_timeout],
        refuse: [authorities]);
    match required(config_source_specifier, "config_source_specifier")? {
        ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_) => Ok(()),
        ConfigSourceSpecifier::ApiConfigSource(_) => {
            Err(FieldError::unsupported()).at("api_config_source")
        }
        ConfigSourceSpecifier::PathConfigSource(_) => {
            Err(FieldError::unsupported()).at("path_config_source")
        }
        // The deprecated form of a path.
        _ => Err(FieldError::unsupported()).at("path"),
    }
}
