//! Ports as listeners: filter chains, TLS, and the HTTP connection manager with its limits.

use std::net::IpAddr;
use std::time::Duration;

use xds_proto::convert;
use xds_proto::envoy::config::core::v3::data_source::Specifier;
use xds_proto::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use xds_proto::envoy::config::core::v3::{
    DataSource, HttpProtocolOptions, TransportSocket, transport_socket,
};
use xds_proto::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter, listener_filter,
};
use xds_proto::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, PathWithEscapedSlashesAction, RouteSpecifier, UpgradeConfig,
};
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, Rds,
};
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use xds_proto::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret,
    TlsCertificate, TlsParameters, secret,
};
use xds_proto::google::protobuf::BoolValue;

use crate::model::meta::Place;
use crate::model::secret::TlsPair;
use crate::translate::actions::STREAM_IDLE_TIMEOUT;
use crate::translate::cluster::{BUFFER_LIMIT, http2_options};
use crate::translate::envoy::{ads, any, duration, number};
use crate::translate::hostname::ANY;
use crate::translate::http_filters;
use crate::translate::listeners::ClientTrust;

/// A head must be complete within this.
const REQUEST_HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// A TLS handshake must be over within this.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without requests is closed after this (Envoy's own default, written out).
const CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// The size of a head (Envoy's own default, written out).
const HEADERS_KB_MAX: u32 = 60;
/// Headers of a head (Envoy's own default, written out).
const HEADERS_MAX: u32 = 100;

/// What one filter chain is made of.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    /// Its name; of HTTP, that of its routes too.
    pub(super) name: String,
    /// The server name it answers for, `*` for all and for what has none.
    pub(super) server_name: String,
    /// Whether what is no TLS is not for it.
    pub(super) is_for_tls: bool,
    /// TLS that ends in it.
    pub(super) tls: Option<ChainTls<'a>>,
    /// What is done to its connections.
    pub(super) work: Work,
}

/// What is done to the connections of a filter chain.
#[derive(Debug)]
pub(super) enum Work {
    /// They carry HTTP.
    Http,
    /// Their bytes go to one of these clusters.
    Bytes(ClusterSpecifier),
}

/// TLS of a filter chain.
#[derive(Debug)]
pub(super) struct ChainTls<'a> {
    /// Its certificates.
    pub(super) secrets: &'a [Place],
    /// Whether only TLS 1.3 is spoken.
    pub(super) is_tls13_only: bool,
    /// Protocols that are offered inside.
    pub(super) alpn: &'static [&'static str],
    /// What is asked of clients.
    pub(super) clients: Option<&'a ClientTrust>,
}

/// The name of a secret on the wire.
pub(super) fn secret_name(place: &Place) -> String {
    format!("secret/{place}")
}

/// A certificate and its key on the wire.
pub(super) fn secret(place: &Place, pair: &TlsPair) -> Secret {
    let inline = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        Some(DataSource { specifier: Some(Specifier::InlineString(text)), ..Default::default() })
    };
    Secret {
        name: secret_name(place),
        r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(&pair.certificate),
            private_key: inline(&pair.private_key),
            ..Default::default()
        })),
    }
}

/// The name of certificates of authorities on the wire.
pub(super) fn authorities_name(places: &[Place]) -> String {
    let names: Vec<String> = places.iter().map(ToString::to_string).collect();
    format!("ca/{}", names.join("+"))
}

/// Certificates of authorities on the wire.
pub(super) fn authorities(places: &[Place], pem: String) -> Secret {
    let trusted_ca =
        DataSource { specifier: Some(Specifier::InlineString(pem)), ..Default::default() };
    Secret {
        name: authorities_name(places),
        r#type: Some(secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(trusted_ca),
            ..Default::default()
        })),
    }
}

/// The listener of a port.
pub(super) fn listener(name: &str, address: IpAddr, port: u16, chains: &[Chain<'_>]) -> Listener {
    let inspects = chains.iter().any(|chain| chain.tls.is_some() || chain.is_for_tls);
    let inspector = ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(&TlsInspector::default()))),
        ..Default::default()
    };
    Listener {
        name: name.to_owned(),
        address: Some(convert::to_address(&address.to_string(), port)),
        per_connection_buffer_limit_bytes: number(BUFFER_LIMIT),
        listener_filters: inspects.then_some(inspector).into_iter().collect(),
        filter_chains: chains.iter().map(filter_chain).collect(),
        ..Default::default()
    }
}

fn filter_chain(chain: &Chain<'_>) -> FilterChain {
    let (name, config) = match &chain.work {
        Work::Http => ("http_connection_manager", any(&manager(&chain.name))),
        Work::Bytes(clusters) => ("tcp_proxy", any(&tcp_proxy(&chain.name, clusters))),
    };
    let filter = Filter {
        name: format!("envoy.filters.network.{name}"),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    };
    let server_names = Some(&chain.server_name).filter(|name| *name != ANY);
    let transport_protocol = if chain.is_for_tls { "tls" } else { "" };
    FilterChain {
        name: chain.name.clone(),
        filter_chain_match: (server_names.is_some() || chain.is_for_tls).then(|| {
            FilterChainMatch {
                server_names: server_names.into_iter().cloned().collect(),
                transport_protocol: transport_protocol.to_owned(),
                ..Default::default()
            }
        }),
        filters: vec![filter],
        transport_socket: chain.tls.as_ref().map(transport_socket),
        transport_socket_connect_timeout: chain.tls.as_ref().and(duration(HANDSHAKE_TIMEOUT)),
        ..Default::default()
    }
}

fn tcp_proxy(name: &str, clusters: &ClusterSpecifier) -> TcpProxy {
    TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(clusters.clone()),
        idle_timeout: duration(CONNECTION_IDLE_TIMEOUT),
        ..Default::default()
    }
}

fn transport_socket(tls: &ChainTls<'_>) -> TransportSocket {
    let least = if tls.is_tls13_only { TlsProtocol::TlSv13 } else { TlsProtocol::TlSv12 };
    let sds = |name| SdsSecretConfig { name, sds_config: Some(ads()) };
    let validation = tls.clients.map(|clients| {
        let authorities = sds(authorities_name(&clients.authorities));
        if !clients.lets_all_in {
            return ValidationContextType::ValidationContextSdsSecretConfig(authorities);
        }
        let lenient = CertificateValidationContext {
            trust_chain_verification: TrustChainVerification::AcceptUntrusted.into(),
            ..Default::default()
        };
        ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
            default_validation_context: Some(lenient),
            validation_context_sds_secret_config: Some(authorities),
            ..Default::default()
        })
    });
    let must_show = tls.clients.is_some_and(|clients| !clients.lets_all_in);
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: least.into(),
                ..Default::default()
            }),
            tls_certificate_sds_secret_configs: tls
                .secrets
                .iter()
                .map(|place| sds(secret_name(place)))
                .collect(),
            alpn_protocols: tls.alpn.iter().map(|&protocol| protocol.to_owned()).collect(),
            validation_context_type: validation,
            ..Default::default()
        }),
        require_client_certificate: must_show.then_some(BoolValue { value: true }),
        ..Default::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(&context))),
    }
}

fn manager(routes: &str) -> HttpConnectionManager {
    let mut http2 = http2_options();
    // WebSocket over HTTP/2 is an extended CONNECT (RFC 8441).
    http2.allow_connect = true;
    HttpConnectionManager {
        stat_prefix: routes.to_owned(),
        codec_type: CodecType::Auto.into(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: routes.to_owned(),
        })),
        http_filters: http_filters::all(),
        server_name: "weighlock".to_owned(),
        use_remote_address: Some(BoolValue { value: true }),
        normalize_path: Some(BoolValue { value: true }),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::UnescapeAndRedirect.into(),
        max_request_headers_kb: number(HEADERS_KB_MAX),
        request_headers_timeout: duration(REQUEST_HEADERS_TIMEOUT),
        stream_idle_timeout: duration(STREAM_IDLE_TIMEOUT),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: duration(CONNECTION_IDLE_TIMEOUT),
            max_headers_count: number(HEADERS_MAX),
            headers_with_underscores_action: HeadersWithUnderscoresAction::RejectRequest.into(),
            ..Default::default()
        }),
        http2_protocol_options: Some(http2),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    }
}
