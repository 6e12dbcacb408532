//! The control planes that a bootstrap names, and how to reach them.

use std::time::Duration;

use xds_proto::convert::{self, Address};
use xds_proto::envoy::config::bootstrap::v3::bootstrap::StaticResources;
use xds_proto::envoy::config::cluster::v3::Cluster;
use xds_proto::envoy::config::core::v3::api_config_source::ApiType;
use xds_proto::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use xds_proto::envoy::config::core::v3::{ApiConfigSource, GrpcService};
use xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use xds_proto::field::{At, FieldError, required, required_text};
use xds_proto::fields;

/// How long a connection to a control plane may take, where the bootstrap does not say. Envoy's.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The variant of ADS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Api {
    /// Only what changed.
    #[default]
    Delta,
    /// The state of the world.
    Sotw,
}

/// One server to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    /// Its IP address or name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// Its TLS; without it the connection is plain text.
    pub tls: Option<Tls>,
}

impl ControlPlane {
    /// `host:port`, with the brackets that an IPv6 address needs.
    pub fn authority(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// The TLS of a connection to a control plane.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificates, in PEM, that may have signed the server's.
    pub ca: Vec<u8>,
    /// Our own certificate and key, in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the server's certificate must have; else the host.
    pub server_name: Option<String>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("identity", &self.identity.as_ref().map(|_| "***"))
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// The source that `ads_config` describes.
#[derive(Debug)]
pub(super) struct Ads {
    pub(super) api: Api,
    pub(super) node_once_a_stream: bool,
    pub(super) control_planes: Vec<ControlPlane>,
}

/// Reads `ads_config`; its clusters must be static ones.
pub(super) fn read_ads(
    message: ApiConfigSource,
    statics: &StaticResources,
) -> Result<Ads, FieldError> {
    fields!(message: ApiConfigSource,
        read: [api_type, grpc_services, set_node_on_first_message_only],
        // Version 3 is the only one left; requests are few by themselves.
        ignore: [transport_api_version, rate_limit_settings],
        refuse: [cluster_names, refresh_delay, request_timeout, config_validators],
    );
    let api = match ApiType::try_from(api_type) {
        Ok(ApiType::Grpc | ApiType::AggregatedGrpc) => Api::Sotw,
        Ok(ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc) => Api::Delta,
        _ => return Err(FieldError::unsupported()).at("api_type"),
    };
    if grpc_services.is_empty() {
        return Err(FieldError::required()).at("grpc_services");
    }
    let services = xds_proto::field::each(grpc_services, "grpc_services", |service| {
        read_service(service, statics)
    })?;
    let control_planes = services.into_iter().flatten().collect();
    Ok(Ads { api, node_once_a_stream: set_node_on_first_message_only, control_planes })
}

fn read_service(
    message: GrpcService,
    statics: &StaticResources,
) -> Result<Vec<ControlPlane>, FieldError> {
    fields!(message: GrpcService,
        read: [target_specifier],
        // A stream that lasts has no timeout; it is opened again by the client's own back-off.
        ignore: [timeout, retry_policy],
        refuse: [initial_metadata],
    );
    match required(target_specifier, "envoy_grpc")? {
        TargetSpecifier::EnvoyGrpc(grpc) => read_envoy_grpc(grpc, statics).at("envoy_grpc"),
        TargetSpecifier::GoogleGrpc(_) => Err(FieldError::unsupported()).at("google_grpc"),
    }
}

fn read_envoy_grpc(
    message: EnvoyGrpc,
    statics: &StaticResources,
) -> Result<Vec<ControlPlane>, FieldError> {
    fields!(message: EnvoyGrpc,
        read: [cluster_name],
        // The client has a back-off and a limit of its own, and sends no headers of Envoy's.
        ignore: [retry_policy, max_receive_message_length, skip_envoy_headers],
        refuse: [authority],
    );
    let name = required_text(cluster_name, "cluster_name")?;
    let cluster = statics.clusters.iter().find(|cluster| cluster.name == name);
    let reason = || FieldError::invalid(format!("{name:?} is none of static_resources.clusters"));
    let cluster = cluster.ok_or_else(reason).at("cluster_name")?;
    servers_of(cluster).map_err(|error| {
        FieldError::invalid(format!("cluster {name:?}: {error}")).at("cluster_name")
    })
}

/// The servers of a static cluster. What else is wrong with the cluster is found where all clusters
/// are compiled.
fn servers_of(cluster: &Cluster) -> Result<Vec<ControlPlane>, FieldError> {
    let connect_timeout =
        convert::optional_duration(cluster.connect_timeout.as_ref(), "connect_timeout")?
            .unwrap_or(CONNECT_TIMEOUT);
    let tls = read_transport_socket(cluster).at("transport_socket")?;
    let assignment = required(cluster.load_assignment.as_ref(), "load_assignment")?;
    let mut servers = Vec::new();
    for endpoint in assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints) {
        let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
            return Err(FieldError::required()).at("endpoint").at("load_assignment");
        };
        let (host, port) = match convert::address(endpoint.address.clone()).at("load_assignment")? {
            Address::Ip(address) => (address.ip().to_string(), address.port()),
            Address::Name(name, port) => (name, port),
            Address::Pipe(_) => {
                return Err(FieldError::unsupported()).at("pipe").at("load_assignment");
            }
        };
        servers.push(ControlPlane { host, port, connect_timeout, tls: tls.clone() });
    }
    if servers.is_empty() {
        return Err(FieldError::required()).at("endpoints").at("load_assignment");
    }
    Ok(servers)
}

fn read_transport_socket(cluster: &Cluster) -> Result<Option<Tls>, FieldError> {
    use xds_proto::envoy::config::core::v3::transport_socket::ConfigType;
    let Some(socket) = &cluster.transport_socket else { return Ok(None) };
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
        return Err(FieldError::required()).at("typed_config");
    };
    if any.type_url
        == "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
    {
        return Ok(None);
    }
    if any.type_url != <tls::UpstreamTlsContext as prost::Name>::type_url() {
        return Err(FieldError::unsupported()).at("typed_config");
    }
    let context = <tls::UpstreamTlsContext as prost::Message>::decode(&*any.value)
        .map_err(|error| FieldError::invalid(error.to_string()))
        .at("typed_config")?;
    read_tls(context).map(Some).at("typed_config")
}

fn read_tls(message: tls::UpstreamTlsContext) -> Result<Tls, FieldError> {
    fields!(message: tls::UpstreamTlsContext,
        read: [common_tls_context, sni],
        // Connections last, so sessions need not; key usage is always checked; there is no
        // request to take a name from.
        ignore: [max_session_keys, enforce_rsa_key_usage, auto_host_sni, auto_sni_san_validation],
        refuse: [allow_renegotiation],
    );
    let common = required(common_tls_context, "common_tls_context")?;
    read_common(common, sni).at("common_tls_context")
}

fn read_common(message: tls::CommonTlsContext, sni: String) -> Result<Tls, FieldError> {
    fields!(message: tls::CommonTlsContext,
        read: [tls_certificates, validation_context_type],
        // gRPC is spoken over HTTP/2 and TLS 1.2 or 1.3, whatever is asked for.
        ignore: [alpn_protocols, tls_params],
        refuse: [
            tls_certificate_sds_secret_configs, tls_certificate_provider_instance,
            custom_tls_certificate_selector, tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance, custom_handshaker, key_log,
        ],
    );
    let validation = match required(validation_context_type, "validation_context")? {
        ValidationContextType::ValidationContext(validation) => validation,
        _ => return Err(FieldError::unsupported()).at("validation_context_type"),
    };
    let (ca, name) = read_validation(validation).at("validation_context")?;
    let identity = match tls_certificates.len() {
        0 => None,
        1 => tls_certificates.into_iter().next(),
        _ => return Err(FieldError::invalid("more than one")).at("tls_certificates"),
    };
    let identity = identity
        .map(|certificate| {
            let chain =
                convert::inline_data(certificate.certificate_chain).at("certificate_chain")?;
            let key = convert::inline_data(certificate.private_key).at("private_key")?;
            Ok((chain, key))
        })
        .transpose()
        .at_index(0)
        .at("tls_certificates")?;
    let server_name = name.or((!sni.is_empty()).then_some(sni));
    Ok(Tls { ca, identity, server_name })
}

/// The certificates that may have signed, and the name that the server must have.
fn read_validation(
    message: tls::CertificateValidationContext,
) -> Result<(Vec<u8>, Option<String>), FieldError> {
    #[expect(deprecated, reason = "the field is refused")]
    let deprecated = &message.match_subject_alt_names;
    xds_proto::field::unsupported(deprecated, "match_subject_alt_names")?;
    fields!(message: tls::CertificateValidationContext,
        read: [trusted_ca, match_typed_subject_alt_names],
        // The first is about clients. The second, of old, is refused above.
        ignore: [suppress_client_ca_list, match_subject_alt_names],
        refuse: [
            ca_certificate_provider_instance, system_root_certs, watched_directory,
            verify_certificate_spki, verify_certificate_hash,
            require_signed_certificate_timestamp, crl, allow_expired_certificate,
            trust_chain_verification, custom_validator_config, only_verify_leaf_cert_crl,
            max_verify_depth,
        ],
    );
    let ca = convert::inline_data(trusted_ca).at("trusted_ca")?;
    let field = "match_typed_subject_alt_names";
    let name = match &match_typed_subject_alt_names[..] {
        [] => None,
        [matcher] => {
            let pattern = matcher.matcher.as_ref().and_then(|text| text.match_pattern.as_ref());
            match pattern {
                Some(MatchPattern::Exact(name)) => Some(name.clone()),
                _ => return Err(FieldError::unsupported()).at("matcher").at_index(0).at(field),
            }
        }
        _ => return Err(FieldError::unsupported()).at(field),
    };
    Ok((ca, name))
}
