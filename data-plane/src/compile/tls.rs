//! TLS contexts of both sides.

mod parameters;

use std::sync::Arc;

use rustls::pki_types::ServerName;
use xds_proto::convert::optional_duration;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use xds_proto::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::{
    OcspStaplePolicy, SessionTicketKeysType,
};
use xds_proto::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, UpstreamTlsContext,
};
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;

use crate::compile::secret;
use crate::compile::source::reference;
use crate::reference::Reference;
use crate::tls::Parameters;
use crate::tls::client::ClientTlsConfig;
use crate::tls::secret::{CertificateSource, ValidationSource};
use crate::tls::server::{ServerTlsConfig, TicketSource};

/// Compiles TLS towards clients.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub fn server(message: DownstreamTlsContext) -> Result<ServerTlsConfig, FieldError> {
    fields!(message: DownstreamTlsContext,
        read: [
            common_tls_context, require_client_certificate, require_sni,
            disable_stateful_session_resumption, prefer_client_ciphers, session_ticket_keys_type,
            ocsp_staple_policy, session_timeout,
        ],
        // What nobody is named like always gets the certificate that its client can verify.
        ignore: [full_scan_certs_on_sni_mismatch],
        refuse: []);
    // Others judge the staple; this one passes on what is given.
    if OcspStaplePolicy::try_from(ocsp_staple_policy) != Ok(OcspStaplePolicy::LenientStapling) {
        return Err(FieldError::unsupported()).at("ocsp_staple_policy");
    }
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
        Some(ValidationSource::Inline(validation)) if !validation.proves() => {
            return Err(FieldError::required())
                .at("trusted_ca")
                .at("validation_context")
                .at("common_tls_context");
        }
        _ => {}
    }
    let tickets = match session_ticket_keys_type {
        None | Some(SessionTicketKeysType::DisableStatelessSessionResumption(false)) => {
            TicketSource::Own
        }
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)) => {
            TicketSource::Nowhere
        }
        Some(SessionTicketKeysType::SessionTicketKeys(message)) => {
            let keys = secret::ticket_keys(message).at("session_ticket_keys")?;
            TicketSource::Inline(Arc::new(keys))
        }
        Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(message)) => {
            let name = secret_reference(message).at("session_ticket_keys_sds_secret_config")?;
            TicketSource::Secret(name)
        }
    };
    let lifetime = optional_duration(session_timeout.as_ref(), "session_timeout")?;
    let ticket_secs = lifetime.map(|lifetime| u32::try_from(lifetime.as_secs()));
    let ticket_secs = ticket_secs
        .transpose()
        .map_err(|_| FieldError::invalid("must be below 2^32 s"))
        .at("session_timeout")?;
    Ok(ServerTlsConfig {
        certificates: common.certificates,
        alpn: common.alpn,
        parameters: common.parameters,
        validation: common.validation,
        requires_client_certificate,
        requires_sni: require_sni.is_some_and(|flag| flag.value),
        prefers_client_ciphers: prefer_client_ciphers,
        tickets,
        ticket_secs,
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
        sni_from_request: false,
        verifies_sni: auto_sni_san_validation,
        validation: common.validation,
        certificate: common.certificates.into_iter().next(),
        alpn: common.alpn,
        parameters: common.parameters,
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
    parameters: Parameters,
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
        secret_reference(message).map(CertificateSource::Secret)
    })?;
    Ok(Common {
        certificates: inline.into_iter().chain(named).collect(),
        alpn: alpn_protocols.into_iter().map(String::into_bytes).collect(),
        parameters: tls_params
            .map(parameters::compile)
            .transpose()
            .at("tls_params")?
            .unwrap_or_default(),
        validation: validation_context_type.map(validation).transpose()?,
    })
}

fn validation(message: ValidationContextType) -> Result<ValidationSource, FieldError> {
    match message {
        ValidationContextType::ValidationContext(message) => {
            let validation = secret::validation(message).at("validation_context")?;
            Ok(ValidationSource::Inline(Arc::new(validation)))
        }
        ValidationContextType::ValidationContextSdsSecretConfig(message) => {
            let field = "validation_context_sds_secret_config";
            Ok(ValidationSource::Secret(secret_reference(message).at(field)?))
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
    let name =
        secret_reference(required(validation_context_sds_secret_config, field)?).at(field)?;
    Ok(ValidationSource::Combined(Arc::new(default), name))
}

fn secret_reference(message: SdsSecretConfig) -> Result<Reference, FieldError> {
    fields!(message: SdsSecretConfig, read: [name, sds_config], ignore: [], refuse: []);
    let name: Arc<str> = required_text(name, "name")?.into();
    match sds_config {
        Some(source) => reference(name, source).at("sds_config"),
        // Without a source it is a secret of the bootstrap.
        None => Ok(Reference::new(name)),
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use tokio_rustls::{LazyConfigAcceptor, TlsConnector};
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::tls::client::{ClientTls, Offer};
    use crate::tls::secret::{SecretConfig, Secrets};
    use crate::tls::server::ServerTls;
    use crate::tls::testing::{Authority, Pair, quoted, self_signed};
    use crate::tls::{SecretError, server};

    fn client(yaml: &str) -> Result<ClientTlsConfig, String> {
        super::client(from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    fn server(yaml: &str) -> Result<ServerTlsConfig, String> {
        super::server(from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    fn trusting(authority: &str, more: &str) -> String {
        format!(
            "validation_context: {{trusted_ca: {{inline_string: {}}}{more}}}",
            quoted(authority)
        )
    }

    fn showing(pairs: &[&Pair], more: &str) -> String {
        let pairs: Vec<_> = pairs.iter().map(|pair| pair.yaml()).collect();
        format!("{{common_tls_context: {{tls_certificates: [{}]{more}}}}}", pairs.join(", "))
    }

    /// What both sides agree on: the protocol, and the certificate that the server showed.
    #[derive(Debug)]
    struct Agreed {
        alpn: Option<Vec<u8>>,
        shown: CertificateDer<'static>,
        is_tls12: bool,
    }

    async fn handshake(client_yaml: &str, server_yaml: &str) -> Result<Agreed, String> {
        let secrets = Secrets::new();
        let client = ClientTls::link(&client(client_yaml)?, &secrets, None).unwrap();
        let server = Arc::new(server(server_yaml)?);
        let server = ServerTls::link(&server, &secrets, None).unwrap();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = client.config.sni.clone().unwrap_or("127.0.0.1".try_into().unwrap());
        let connector = TlsConnector::from(Arc::clone(client.offering(Offer::Both)));
        let accepting = async {
            let start = LazyConfigAcceptor::new(Default::default(), far).await?;
            let acceptor = Arc::clone(server.acceptor_for(&start.client_hello()));
            start.into_stream(acceptor).await
        };
        let (connected, accepted) = tokio::join!(connector.connect(name, near), accepting);
        accepted.map_err(|error| error.to_string())?;
        let connected = connected.map_err(|error| error.to_string())?;
        let connection = connected.get_ref().1;
        Ok(Agreed {
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            shown: connection.peer_certificates().unwrap()[0].clone().into_owned(),
            is_tls12: connection.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_2),
        })
    }

    fn der(pair: &Pair) -> CertificateDer<'static> {
        rustls::pki_types::pem::PemObject::from_pem_slice(pair.certificate.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn an_endpoint_is_verified_as_far_as_envoy_would() {
        let authority = Authority::new();
        let shown = authority.issue(&["up.test", "*.wild.test", "spiffe://td/up"]);
        let server = showing(&[&shown], "");
        let san = |kind: &str, how: &str| {
            let one = format!("{{san_type: {kind}, matcher: {{{how}}}}}");
            trusting(&authority.pem(), &format!(", match_typed_subject_alt_names: [{one}]"))
        };
        let other = Authority::new().pem();
        for (validation, is_trusted) in [
            (String::new(), true),
            (trusting(&authority.pem(), ""), true),
            (trusting(&other, ""), false),
            (san("DNS", "exact: up.test"), true),
            (san("DNS", "exact: a.wild.test"), true),
            (san("DNS", "suffix: .test"), true),
            (san("DNS", "exact: other.test"), false),
            (san("URI", "prefix: 'spiffe://td/'"), true),
            (san("URI", "exact: 'spiffe://td/other'"), false),
            (san("IP_ADDRESS", "exact: 127.0.0.1"), false),
        ] {
            let client = format!("{{sni: whatever.test, common_tls_context: {{{validation}}}}}");
            let agreed = handshake(&client, &server).await;
            assert_eq!(agreed.is_ok(), is_trusted, "{validation}: {agreed:?}");
        }
        for (sni, is_trusted) in [("up.test", true), ("other.test", false)] {
            let trusting = trusting(&authority.pem(), "");
            let client = format!(
                "{{sni: {sni}, auto_sni_san_validation: true, common_tls_context: {{{trusting}}}}}"
            );
            assert_eq!(handshake(&client, &server).await.is_ok(), is_trusted, "{sni}");
        }
    }

    #[tokio::test]
    async fn a_self_signed_certificate_can_be_trusted_itself() {
        let (own, other) = (self_signed(&["up.test"]), self_signed(&["up.test"]));
        for (trusted, is_trusted) in [(&own, true), (&other, false)] {
            let trusting = trusting(&trusted.certificate, "");
            let client = format!("{{common_tls_context: {{{trusting}}}}}");
            assert_eq!(handshake(&client, &showing(&[&own], "")).await.is_ok(), is_trusted);
            // And the other way round.
            let server = showing(&[&other], &format!(", {trusting}"));
            let server = server.replacen('{', "{require_client_certificate: true, ", 1);
            assert_eq!(handshake(&showing(&[&own], ""), &server).await.is_ok(), is_trusted);
        }
    }

    #[tokio::test]
    async fn clients_show_a_certificate_where_they_must() {
        let authority = Authority::new();
        let shown = authority.issue(&["up.test"]);
        let trusting = format!(", {}", trusting(&authority.pem(), ""));
        let optional = showing(&[&shown], &trusting);
        let required = optional.replacen('{', "{require_client_certificate: true, ", 1);
        let good = showing(&[&authority.issue(&["client.test"])], "");
        let bad = showing(&[&Authority::new().issue(&["client.test"])], "");
        for (client, server, is_let_in) in [
            ("{}", &optional, true),
            ("{}", &required, false),
            (&good, &required, true),
            (&bad, &required, false),
            (&bad, &optional, false),
        ] {
            assert_eq!(handshake(client, server).await.is_ok(), is_let_in);
        }
    }

    #[tokio::test]
    async fn the_certificate_is_chosen_by_server_name() {
        let authority = Authority::new();
        let pairs = [&["one.test"][..], &["two.test"], &["*.two.test"]];
        let pairs = pairs.map(|names| authority.issue(names));
        let server = showing(&[&pairs[0], &pairs[1], &pairs[2]], "");
        for (sni, index) in [
            ("one.test", 0),
            ("two.test", 1),
            ("a.two.test", 2),
            ("TWO.test", 1),
            ("b.a.two.test", 0),
            ("else.test", 0),
        ] {
            let agreed = handshake(&format!("{{sni: {sni}}}"), &server).await.unwrap();
            assert_eq!(agreed.shown, der(&pairs[index]), "{sni}");
        }
    }

    #[tokio::test]
    async fn protocols_are_agreed_on_and_strangers_served_without() {
        let shown = self_signed(&["up.test"]);
        let server = showing(&[&shown], ", alpn_protocols: [h2, http/1.1]");
        let agreed = handshake("{}", &server).await.unwrap();
        assert_eq!(agreed.alpn.as_deref(), Some(&b"h2"[..]));
        assert!(!agreed.is_tls12);
        let stranger = "{common_tls_context: {alpn_protocols: [gopher]}}";
        assert_eq!(handshake(stranger, &server).await.unwrap().alpn, None);
        let old = ", tls_params: {tls_maximum_protocol_version: TLSv1_2}";
        assert!(handshake("{}", &showing(&[&shown], old)).await.unwrap().is_tls12);
    }

    #[test]
    fn secrets_are_found_by_name_and_a_change_of_one_is_a_change() {
        let source = "{name: s, sds_config: {ads: {}}}";
        let yaml =
            format!("{{common_tls_context: {{tls_certificate_sds_secret_configs: [{source}]}}}}");
        let config = Arc::new(server(&yaml).unwrap());
        assert_eq!(config.secrets().collect::<Vec<_>>(), [&Reference::new("s".into())]);
        let error = ServerTls::link(&config, &Secrets::new(), None).unwrap_err();
        assert_eq!(error, SecretError::Missing("s".into()));
        let secrets = |pair: &Pair| -> Secrets {
            let yaml = format!("{{name: s, tls_certificate: {}}}", pair.yaml());
            let secret = crate::compile::secret::compile(from_yaml(&yaml).unwrap()).unwrap();
            [(Arc::from("s"), Arc::new(secret))].into()
        };
        let (first, second) = (self_signed(&["a.test"]), self_signed(&["a.test"]));
        let linked: Arc<server::ServerTls> =
            ServerTls::link(&config, &secrets(&first), None).unwrap();
        let same = ServerTls::link(&config, &secrets(&first), Some(&linked)).unwrap();
        assert!(Arc::ptr_eq(&linked, &same));
        let other = ServerTls::link(&config, &secrets(&second), Some(&linked)).unwrap();
        assert!(!Arc::ptr_eq(&linked, &other));
    }

    #[test]
    fn a_key_is_never_shown() {
        let pair = self_signed(&["a.test"]);
        let yaml = format!("{{name: s, tls_certificate: {}}}", pair.yaml());
        let secret: SecretConfig =
            crate::compile::secret::compile(from_yaml(&yaml).unwrap()).unwrap();
        let shown = format!("{secret:?} {:?}", server(&showing(&[&pair], "")));
        assert!(shown.contains("***") && shown.contains("a.test"));
        assert!(!pair.key.lines().any(|line| line.len() > 20 && shown.contains(line)), "{shown}");
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let pair = self_signed(&["a.test"]);
        let empty = "common_tls_context: a server needs a certificate";
        assert_eq!(server("{}").unwrap_err(), empty);
        let required =
            showing(&[&pair], "").replacen('{', "{require_client_certificate: true, ", 1);
        assert_eq!(
            server(&required).unwrap_err(),
            "require_client_certificate: needs a validation context"
        );
        for (yaml, error) in [
            ("{allow_renegotiation: true}", "allow_renegotiation: not supported"),
            ("{sni: 'a b'}", "sni: \"a b\" is no host name"),
            (
                "{common_tls_context: {tls_params: {tls_minimum_protocol_version: TLSv1_1}}}",
                "common_tls_context.tls_params.tls_minimum_protocol_version: TLS 1.0 and 1.1 are \
                 not supported",
            ),
            (
                "{common_tls_context: {validation_context: {match_typed_subject_alt_names: \
                 [{san_type: DNS, matcher: {exact: a}}]}}}",
                "common_tls_context.validation_context: names prove nothing without a trusted_ca",
            ),
            (
                "{common_tls_context: {tls_certificate_sds_secret_configs: [{name: a, sds_config: \
                 {path_config_source: {path: /x}}}]}}",
                "common_tls_context.tls_certificate_sds_secret_configs[0].sds_config.\
                 path_config_source: not supported",
            ),
        ] {
            assert_eq!(client(yaml).unwrap_err(), error);
        }
    }
}
