//! A `Listener` resource to a listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::{Message, Name};
use xds_proto::convert::{Address, address, optional_duration};
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::config::core::v3::address::Address as AddressKind;
use xds_proto::envoy::config::listener::v3 as api;
use xds_proto::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol as ProxyProtocolMessage;
use xds_proto::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use xds_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;
use xds_proto::google::protobuf::Any;

use super::{access_log, entry, socket_options};
use crate::listener::matching::{self, ChainMatch};
use crate::listener::sockets::SocketOptions;
use crate::listener::tcp::TcpConfig;
use crate::listener::{FilterChainConfig, HttpConfig, ListenerConfig, ProxyProtocol};
use crate::matcher::compile::cidr;
use crate::overload::door::Exempt;
use crate::route::RouteTable;
use crate::tls::server::ServerTlsConfig;

/// How long a client may take to say what chains are chosen by, where nothing is set.
const HELLO_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a handshake may take where nothing is set. Envoy has no limit; a client that stalls
/// would hold a socket for ever.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// Connections accepted in one go where nothing is set; other work waits meanwhile.
const ACCEPTS_PER_WAKE: usize = 16;

/// Compiles a listener.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub fn compile(message: api::Listener) -> Result<ListenerConfig, FieldError> {
    fields!(message: api::Listener,
        read: [
            name, address, filter_chains, default_filter_chain, listener_filters,
            listener_filters_timeout, max_connections_to_accept_per_socket_event,
            per_connection_buffer_limit_bytes, access_log, bind_to_port, socket_options,
            tcp_keepalive, ignore_global_conn_limit, bypass_overload_manager,
        ],
        ignore: [
            // Names of statistics; ours are named by the listener.
            stat_prefix, stats_matcher,
            // Who reads slowly meets the timeouts of its request.
            per_connection_buffer_high_watermark_timeout,
            // For control planes and statistics.
            metadata, traffic_direction,
            // A listener that goes always drains.
            drain_type,
            // A hello that does not come in time ends the connection, or is none.
            continue_on_listener_filters_timeout,
            // Each worker has a socket of its own.
            reuse_port, enable_reuse_port, connection_balance_config,
            // How many may wait is as large as the system allows.
            tcp_backlog_size, tcp_fast_open_queue_length,
        ],
        refuse: [
            additional_addresses, fcds_config, filter_chain_matcher, use_original_dst,
            deprecated_v1, transparent, freebind, udp_listener_config,
            api_listener, enable_mptcp, listener_specifier,
        ],
    );
    let name: Arc<str> = required_text(name, "name")?.into();
    let ipv4_compat = takes_ipv4(address.as_ref());
    let address = bind_address(address)?;
    if bind_to_port.is_some_and(|binds| !binds.value) {
        return Err(FieldError::invalid("a listener without a port is served by nobody"))
            .at("bind_to_port");
    }
    let mut sockets = SocketOptions::default();
    tcp_keepalive.into_iter().for_each(|one| socket_options::keepalive(&mut sockets, one));
    each(socket_options, "socket_options", |one| socket_options::add(&mut sockets, one))?;
    let filters = each(listener_filters, "listener_filters", listener_filter)?;
    let proxy_protocol = filters.into_iter().flatten().next();
    let chains = each(filter_chains, "filter_chains", filter_chain)?;
    let default_chain = default_filter_chain.map(filter_chain).transpose();
    let default_chain = default_chain.at("default_filter_chain")?;
    if chains.is_empty() && default_chain.is_none() {
        return Err(FieldError::required()).at("filter_chains");
    }
    let matches: Vec<_> = chains.iter().map(|chain| &chain.matches).collect();
    if let Some((first, second)) = matching::conflict(&matches) {
        let reason = format!("has the same matching rules as filter_chains[{first}]");
        return Err(FieldError::invalid(reason)).at_index(second).at("filter_chains");
    }
    let timeout = optional_duration(listener_filters_timeout.as_ref(), "listener_filters_timeout")?;
    let hello_timeout = timeout.unwrap_or(HELLO_TIMEOUT);
    let accepts = max_connections_to_accept_per_socket_event.map(|count| count.value.max(1));
    Ok(ListenerConfig {
        name,
        address,
        ipv4_compat,
        chains: chains.into_iter().map(Arc::new).collect(),
        default_chain: default_chain.map(Arc::new),
        hello_timeout: (!hello_timeout.is_zero()).then_some(hello_timeout),
        buffer_bytes: per_connection_buffer_limit_bytes
            .and_then(|bytes| usize::try_from(bytes.value).ok())
            .filter(|bytes| *bytes > 0)
            .unwrap_or(usize::MAX),
        accepts_per_wake: accepts
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(ACCEPTS_PER_WAKE),
        proxy_protocol,
        sockets,
        exempt: Exempt {
            from_limit: ignore_global_conn_limit,
            from_pressure: bypass_overload_manager,
        },
        logs: each(access_log, "access_log", access_log::compile)?.into(),
    })
}

fn takes_ipv4(address: Option<&core::Address>) -> bool {
    match address.and_then(|address| address.address.as_ref()) {
        Some(AddressKind::SocketAddress(socket)) => socket.ipv4_compat,
        Some(AddressKind::Pipe(_) | AddressKind::EnvoyInternalAddress(_)) | None => false,
    }
}

fn bind_address(message: Option<core::Address>) -> Result<SocketAddr, FieldError> {
    match address(message)? {
        Address::Ip(address) => Ok(address),
        Address::Name(..) => Err(FieldError::invalid("must be an IP address"))
            .at("address")
            .at("socket_address")
            .at("address"),
        Address::Pipe(_) => Err(FieldError::unsupported()).at("pipe").at("address"),
    }
}

/// Whatever chains are chosen by is looked at anyway; the TLS inspector asks for no more.
fn listener_filter(message: api::ListenerFilter) -> Result<Option<ProxyProtocol>, FieldError> {
    fields!(message: api::ListenerFilter,
        read: [name, config_type],
        ignore: [],
        refuse: [filter_disabled],
    );
    match config_type {
        Some(api::listener_filter::ConfigType::TypedConfig(config))
            if config.type_url == TlsInspector::type_url() =>
        {
            Ok(None)
        }
        None if name == "envoy.filters.listener.tls_inspector" => Ok(None),
        Some(api::listener_filter::ConfigType::TypedConfig(config))
            if config.type_url == ProxyProtocolMessage::type_url() =>
        {
            let message = ProxyProtocolMessage::decode(config.value.as_slice())
                .map_err(|error| FieldError::invalid(error.to_string()));
            message.and_then(proxy_protocol).map(Some).at("typed_config")
        }
        Some(api::listener_filter::ConfigType::TypedConfig(config)) => {
            unknown_extension("listener filter", &config).at("typed_config")
        }
        Some(api::listener_filter::ConfigType::ConfigDiscovery(_)) => {
            Err(FieldError::unsupported()).at("config_discovery")
        }
        None => Err(FieldError::required()).at("typed_config"),
    }
}

fn proxy_protocol(message: ProxyProtocolMessage) -> Result<ProxyProtocol, FieldError> {
    fields!(message: ProxyProtocolMessage,
        read: [allow_requests_without_proxy_protocol],
        // Nobody here reads what else the header says, nor passes it on.
        ignore: [stat_prefix, pass_through_tlvs, tlv_location],
        refuse: [rules, disallowed_versions],
    );
    Ok(ProxyProtocol { is_optional: allow_requests_without_proxy_protocol })
}

pub(super) fn unknown_extension<T>(what: &str, config: &Any) -> Result<T, FieldError> {
    let name = config.type_url.rsplit('/').next().unwrap_or_default();
    Err(FieldError::invalid(format!("unknown {what} {name:?}"))).at("type_url")
}

fn filter_chain(message: api::FilterChain) -> Result<FilterChainConfig, FieldError> {
    fields!(message: api::FilterChain,
        read: [
            filter_chain_match, filters, transport_socket, transport_socket_connect_timeout, name,
        ],
        // No filter here reads it.
        ignore: [metadata],
        refuse: [use_proxy_proto],
    );
    let matches = filter_chain_match.map(chain_match).transpose().at("filter_chain_match")?;
    let tls = transport_socket.map(transport).transpose().at("transport_socket")?.flatten();
    let timeout = optional_duration(
        transport_socket_connect_timeout.as_ref(),
        "transport_socket_connect_timeout",
    )?;
    let timeout = timeout.unwrap_or(HANDSHAKE_TIMEOUT);
    let mut filters = filters;
    let last = filters.pop().ok_or_else(FieldError::required).at("filters")?;
    let place = filters.len();
    let entry = each(filters, "filters", entry::compile)?;
    let (http, tcp) = network_filter(last).at_index(place).at("filters")?;
    Ok(FilterChainConfig {
        name: name.into(),
        matches: matches.unwrap_or_default(),
        tls: tls.map(Arc::new),
        handshake_timeout: (!timeout.is_zero()).then_some(timeout),
        entry: entry.into_iter().flatten().collect(),
        http,
        tcp,
    })
}

fn network_filter(message: api::Filter) -> Result<(HttpConfig, Option<TcpConfig>), FieldError> {
    let config = match message.config_type {
        Some(api::filter::ConfigType::TypedConfig(config)) => config,
        Some(api::filter::ConfigType::ConfigDiscovery(_)) => {
            return Err(FieldError::unsupported()).at("config_discovery");
        }
        None => return Err(FieldError::required()).at("typed_config"),
    };
    if config.type_url == TcpProxy::type_url() {
        let message = TcpProxy::decode(config.value.as_slice())
            .map_err(|error| FieldError::invalid(error.to_string()))
            .at("typed_config")?;
        let compiled = super::tcp_proxy::compile(message).at("typed_config")?;
        let table = RouteTable::of_clusters(compiled.clusters);
        return Ok((HttpConfig::for_bytes(table, compiled.logs), Some(compiled.config)));
    }
    if config.type_url != HttpConnectionManager::type_url() {
        return unknown_extension("network filter", &config).at("typed_config");
    }
    let message = HttpConnectionManager::decode(config.value.as_slice())
        .map_err(|error| FieldError::invalid(error.to_string()))
        .at("typed_config")?;
    let http = super::http_connection_manager::compile(message).at("typed_config")?;
    Ok((http, None))
}

fn transport(message: core::TransportSocket) -> Result<Option<ServerTlsConfig>, FieldError> {
    let core::transport_socket::ConfigType::TypedConfig(config) =
        required(message.config_type, "typed_config")?;
    if config.type_url == RawBuffer::type_url() {
        return Ok(None);
    }
    if config.type_url != DownstreamTlsContext::type_url() {
        return unknown_extension("transport socket", &config).at("typed_config");
    }
    let message = DownstreamTlsContext::decode(config.value.as_slice())
        .map_err(|error| FieldError::invalid(error.to_string()))
        .at("typed_config")?;
    super::tls::server(message).map(Some).at("typed_config")
}

fn chain_match(message: api::FilterChainMatch) -> Result<ChainMatch, FieldError> {
    use api::filter_chain_match::ConnectionSourceType;
    fields!(message: api::FilterChainMatch,
        read: [
            destination_port, prefix_ranges, direct_source_prefix_ranges, source_type,
            source_prefix_ranges, source_ports, server_names, transport_protocol,
            application_protocols,
        ],
        ignore: [],
        refuse: [address_suffix, suffix_len],
    );
    let destination_port = destination_port.map(|value| port(value.value)).transpose();
    let is_tls = match transport_protocol.as_str() {
        "" => None,
        "tls" => Some(true),
        "raw_buffer" => Some(false),
        other => {
            let reason = format!("unknown protocol {other:?}");
            return Err(FieldError::invalid(reason)).at("transport_protocol");
        }
    };
    let is_local_source = match ConnectionSourceType::try_from(source_type) {
        Ok(ConnectionSourceType::Any) => None,
        Ok(ConnectionSourceType::SameIpOrLoopback) => Some(true),
        Ok(ConnectionSourceType::External) => Some(false),
        Err(_) => return Err(FieldError::invalid("unknown value")).at("source_type"),
    };
    Ok(ChainMatch {
        destination_port: destination_port.at("destination_port")?,
        destination: each(prefix_ranges, "prefix_ranges", cidr)?,
        server_names: each(server_names, "server_names", server_name)?,
        is_tls,
        application_protocols: application_protocols
            .into_iter()
            .map(|protocol| protocol.into_bytes().into())
            .collect(),
        direct_source: each(direct_source_prefix_ranges, "direct_source_prefix_ranges", cidr)?,
        is_local_source,
        source: each(source_prefix_ranges, "source_prefix_ranges", cidr)?,
        source_ports: each(source_ports, "source_ports", port)?,
    })
}

fn port(value: u32) -> Result<u16, FieldError> {
    u16::try_from(value).map_err(|_| FieldError::invalid("must be at most 65535"))
}

fn server_name(name: String) -> Result<Box<str>, FieldError> {
    let host = name.strip_prefix("*.").unwrap_or(&name);
    if host.is_empty() || host.contains('*') {
        return Err(FieldError::invalid("must be a host, or `*.` and a host"));
    }
    Ok(name.to_ascii_lowercase().into())
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::listener::RouteSource;

    fn compiled(text: &str) -> Result<ListenerConfig, String> {
        compile(from_yaml(text).unwrap()).map_err(|error| error.to_string())
    }

    const HCM: &str = r#"
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          rds: {route_config_name: r, config_source: {ads: {}}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;

    fn with_chains(chains: &str) -> String {
        format!(
            "name: l\naddress: {{socket_address: {{address: '::', port_value: 80, ipv4_compat: true}}}}\nfilter_chains:\n{chains}"
        )
    }

    #[test]
    fn a_plain_listener_compiles() {
        let listener = compiled(&with_chains(&format!("    - name: c{HCM}"))).unwrap();
        assert_eq!(&*listener.name, "l");
        assert!(listener.ipv4_compat);
        let chain = &listener.chains[0];
        assert!(chain.tls.is_none());
        assert!(matches!(&chain.http.routes, RouteSource::Named(routes) if &*routes.name == "r"));
        assert_eq!(chain.http.options, crate::listener::http::HttpOptions::default());
    }

    #[test]
    fn chains_that_match_the_same_are_refused_by_position() {
        let text = with_chains(&format!("    - name: a{HCM}    - name: b{HCM}"));
        assert_eq!(
            compiled(&text).unwrap_err(),
            "filter_chains[1]: has the same matching rules as filter_chains[0]"
        );
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        for (text, error) in [
            (
                "name: l\naddress: {socket_address: {address: 127.0.0.1, port_value: 80}}"
                    .to_owned(),
                "filter_chains: required",
            ),
            (
                "address: {socket_address: {address: 127.0.0.1, port_value: 80}}".to_owned(),
                "name: required",
            ),
            (
                "name: l\naddress: {socket_address: {address: a.test, port_value: 80}}".to_owned(),
                "address.socket_address.address: must be an IP address",
            ),
            (with_chains("    - name: c"), "filter_chains[0].filters: required"),
            (
                with_chains(&format!(
                    "    - filter_chain_match: {{server_names: ['*x.test']}}{HCM}"
                )),
                "filter_chains[0].filter_chain_match.server_names[0]: must be a host, or `*.` and a host",
            ),
            (
                with_chains(&format!("    - use_proxy_proto: true{HCM}")),
                "filter_chains[0].use_proxy_proto: not supported",
            ),
            (
                with_chains(&format!(
                    "    - filter_chain_match: {{source_prefix_ranges: [{{address_prefix: 10.0.0.0, prefix_len: 40}}]}}{HCM}"
                )),
                "filter_chains[0].filter_chain_match.source_prefix_ranges[0].prefix_len: must be at most 32, or 128 for IPv6",
            ),
        ] {
            assert_eq!(compiled(&text).unwrap_err(), error);
        }
    }
}
