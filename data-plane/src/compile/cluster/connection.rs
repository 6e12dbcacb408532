//! How connections of a cluster are made, what they speak, and how long they live.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use prost::Name;
use xds_proto::convert::{Address, optional_duration, socket_address};
use xds_proto::envoy::config::cluster::v3::UpstreamConnectionOptions;
use xds_proto::envoy::config::cluster::v3::upstream_connection_options::{
    FirstAddressFamilyVersion, HappyEyeballsConfig,
};
use xds_proto::envoy::config::cluster::v3::cluster::ClusterProtocolSelection;
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use xds_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use xds_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;
use xds_proto::google::protobuf::{self, Any, UInt32Value};

use crate::cluster::protocol::{
    AddressFamily, ConnectionConfig, HappyEyeballs, Http2Config, RequestSni, TcpKeepalive,
    UpstreamProtocol,
};
use crate::compile::route::action::header_name;
use crate::compile::{header_case, unpack};

/// The key of the protocol options, and the only one we know.
const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The fields of a cluster that say it.
pub(super) struct ConnectionFields {
    pub(super) timeout: Option<protobuf::Duration>,
    pub(super) typed: HashMap<String, Any>,
    pub(super) requests_max: Option<UInt32Value>,
    pub(super) common: Option<core::HttpProtocolOptions>,
    /// Options of HTTP/1 and of HTTP/2, and which of them is spoken.
    pub(super) http: (Option<core::Http1ProtocolOptions>, Option<core::Http2ProtocolOptions>, i32),
    pub(super) upstream: Option<core::UpstreamHttpProtocolOptions>,
    pub(super) options: (Option<UpstreamConnectionOptions>, Option<core::BindConfig>),
    pub(super) buffer_bytes: Option<UInt32Value>,
}

pub(super) fn compile(fields: ConnectionFields) -> Result<ConnectionConfig, FieldError> {
    let mut config = ConnectionConfig::default();
    if let Some(timeout) = optional_duration(fields.timeout.as_ref(), "connect_timeout")? {
        if timeout.is_zero() {
            return Err(FieldError::invalid("must be more than 0")).at("connect_timeout");
        }
        config.connect_timeout = timeout;
    }
    config.requests_max = limit(fields.requests_max);
    if let Some(bytes) = limit(fields.buffer_bytes) {
        config.buffer_bytes = bytes as usize;
    }
    let (options, bind) = fields.options;
    if let Some(message) = options {
        self::options(message, &mut config).at("upstream_connection_options")?;
    }
    if let Some(message) = bind {
        config.sources = sources(message).at("upstream_bind_config")?.into();
    }
    let mut typed = fields.typed;
    if let Some(packed) = typed.remove(HTTP) {
        let read = http(&packed, &mut config).at_key(HTTP);
        read.at("typed_extension_protocol_options")?;
    } else {
        if let Some(message) = fields.common {
            common(message, &mut config).at("common_http_protocol_options")?;
        }
        let (of_http1, of_http2, selection) = fields.http;
        if let Some(message) = of_http1 {
            http1(message, &mut config).at("http_protocol_options")?;
        }
        if let Some(message) = of_http2 {
            config.http2 = http2(message).at("http2_protocol_options")?;
            config.protocol = UpstreamProtocol::Http2;
        }
        if let Some(message) = fields.upstream {
            config.request_sni = request_sni(message).at("upstream_http_protocol_options")?;
        }
        if selection == ClusterProtocolSelection::UseDownstreamProtocol as i32 {
            config.protocol = UpstreamProtocol::Downstream;
        }
    }
    if let Some(other) = typed.keys().next() {
        return Err(FieldError::unsupported()).at_key(other).at("typed_extension_protocol_options");
    }
    Ok(config)
}

/// No limit where it is 0.
fn limit(value: Option<UInt32Value>) -> Option<u32> {
    value.map(|value| value.value).filter(|value| *value > 0)
}

fn options(
    message: UpstreamConnectionOptions,
    config: &mut ConnectionConfig,
) -> Result<(), FieldError> {
    fields!(message: UpstreamConnectionOptions,
        read: [tcp_keepalive, happy_eyeballs_config],
        // Names of interfaces are not logged.
        ignore: [set_local_interface_name_on_upstream_connections],
        refuse: []);
    config.keepalive = tcp_keepalive.map(keepalive).transpose().at("tcp_keepalive")?;
    if let Some(message) = happy_eyeballs_config {
        config.eyeballs = eyeballs(message).at("happy_eyeballs_config")?;
    }
    Ok(())
}

fn sources(message: core::BindConfig) -> Result<Vec<SocketAddr>, FieldError> {
    fields!(message: core::BindConfig,
        read: [source_address, extra_source_addresses, additional_source_addresses],
        // An address that names a namespace is refused.
        ignore: [validate_network_namespaces],
        refuse: [freebind, socket_options, local_address_selector]);
    let extra = each(extra_source_addresses, "extra_source_addresses", extra_source)?;
    // The older field counts where the newer is not set.
    let more = if extra.is_empty() {
        each(additional_source_addresses, "additional_source_addresses", source)?
    } else {
        extra
    };
    let first = source_address.map(source).transpose().at("source_address")?;
    Ok(first.into_iter().chain(more).collect())
}

fn extra_source(message: core::ExtraSourceAddress) -> Result<SocketAddr, FieldError> {
    fields!(message: core::ExtraSourceAddress,
        read: [address], ignore: [], refuse: [socket_options]);
    source(required(address, "address")?).at("address")
}

fn source(message: core::SocketAddress) -> Result<SocketAddr, FieldError> {
    match socket_address(message)? {
        Address::Ip(address) => Ok(address),
        Address::Name(..) | Address::Pipe(_) => {
            Err(FieldError::invalid("must be an IP address")).at("address")
        }
    }
}

fn eyeballs(message: HappyEyeballsConfig) -> Result<HappyEyeballs, FieldError> {
    fields!(message: HappyEyeballsConfig,
        read: [first_address_family_version, first_address_family_count],
        ignore: [],
        refuse: []);
    let first = match FirstAddressFamilyVersion::try_from(first_address_family_version) {
        Ok(FirstAddressFamilyVersion::Default) => None,
        Ok(FirstAddressFamilyVersion::V4) => Some(AddressFamily::V4),
        Ok(FirstAddressFamilyVersion::V6) => Some(AddressFamily::V6),
        Ok(FirstAddressFamilyVersion::Pipe | FirstAddressFamilyVersion::Internal) | Err(_) => {
            return Err(FieldError::unsupported()).at("first_address_family_version");
        }
    };
    let first_count = first_address_family_count.map_or(1, |count| count.value as usize);
    Ok(HappyEyeballs { first, first_count })
}

fn keepalive(message: core::TcpKeepalive) -> Result<TcpKeepalive, FieldError> {
    fields!(message: core::TcpKeepalive,
        read: [keepalive_probes, keepalive_time, keepalive_interval], ignore: [], refuse: []);
    let seconds = |value: Option<UInt32Value>| value.map(|s| Duration::from_secs(s.value.into()));
    Ok(TcpKeepalive {
        probes: keepalive_probes.map(|probes| probes.value),
        time: seconds(keepalive_time),
        interval: seconds(keepalive_interval),
    })
}

fn http(packed: &Any, config: &mut ConnectionConfig) -> Result<(), FieldError> {
    if packed.type_url != HttpProtocolOptions::type_url() {
        return Err(FieldError::invalid(format!("unexpected {}", packed.type_url)));
    }
    let message: HttpProtocolOptions = unpack(packed)?;
    fields!(message: HttpProtocolOptions,
    read: [
        common_http_protocol_options, http_filters, upstream_protocol_options,
        upstream_http_protocol_options,
    ],
    ignore: [],
    refuse: [
        header_validation_config, outlier_detection,
        request_mirror_policies, hash_policy, retry_policy,
    ]);
    // The codec is what an empty chain ends in, too.
    let foreign = http_filters.iter().position(|f| f.name != "envoy.filters.http.upstream_codec");
    if let Some(index) = foreign {
        return Err(FieldError::unsupported()).at_index(index).at("http_filters");
    }
    if let Some(message) = common_http_protocol_options {
        common(message, config).at("common_http_protocol_options")?;
    }
    if let Some(message) = upstream_http_protocol_options {
        config.request_sni = request_sni(message).at("upstream_http_protocol_options")?;
    }
    match required(upstream_protocol_options, "upstream_protocol_options")? {
        UpstreamProtocolOptions::ExplicitHttpConfig(message) => {
            explicit(message, config).at("explicit_http_config")
        }
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(message) => {
            downstream(message, config).at("use_downstream_protocol_config")
        }
        UpstreamProtocolOptions::AutoConfig(message) => auto(message, config).at("auto_config"),
    }
}

/// The name that is asked for in TLS, where it is that of the request.
fn request_sni(
    message: core::UpstreamHttpProtocolOptions,
) -> Result<Option<RequestSni>, FieldError> {
    fields!(message: core::UpstreamHttpProtocolOptions,
        read: [auto_sni, auto_san_validation, override_auto_sni_header], ignore: [], refuse: []);
    if !auto_sni && auto_san_validation {
        let reason = "is supported only together with auto_sni";
        return Err(FieldError::invalid(reason)).at("auto_san_validation");
    }
    let header = (!override_auto_sni_header.is_empty()).then_some(override_auto_sni_header);
    let header =
        header.map(|name| header_name(&name)).transpose().at("override_auto_sni_header")?;
    Ok(auto_sni.then_some(RequestSni { header, is_verified: auto_san_validation }))
}

fn explicit(message: ExplicitHttpConfig, config: &mut ConnectionConfig) -> Result<(), FieldError> {
    match required(message.protocol_config, "protocol_config")? {
        ProtocolConfig::HttpProtocolOptions(message) => {
            config.protocol = UpstreamProtocol::Http1;
            http1(message, config).at("http_protocol_options")
        }
        ProtocolConfig::Http2ProtocolOptions(message) => {
            config.protocol = UpstreamProtocol::Http2;
            config.http2 = http2(message).at("http2_protocol_options")?;
            Ok(())
        }
        ProtocolConfig::Http3ProtocolOptions(_) => {
            Err(FieldError::unsupported()).at("http3_protocol_options")
        }
    }
}

fn downstream(
    message: UseDownstreamHttpConfig,
    config: &mut ConnectionConfig,
) -> Result<(), FieldError> {
    fields!(message: UseDownstreamHttpConfig,
        read: [http_protocol_options, http2_protocol_options],
        ignore: [],
        refuse: [http3_protocol_options]);
    config.protocol = UpstreamProtocol::Downstream;
    both(http_protocol_options, http2_protocol_options, config)
}

fn auto(message: AutoHttpConfig, config: &mut ConnectionConfig) -> Result<(), FieldError> {
    fields!(message: AutoHttpConfig,
        read: [http_protocol_options, http2_protocol_options],
        ignore: [],
        refuse: [http3_protocol_options, alternate_protocols_cache_options]);
    config.protocol = UpstreamProtocol::Auto;
    both(http_protocol_options, http2_protocol_options, config)
}

fn both(
    first: Option<core::Http1ProtocolOptions>,
    second: Option<core::Http2ProtocolOptions>,
    config: &mut ConnectionConfig,
) -> Result<(), FieldError> {
    if let Some(message) = first {
        http1(message, config).at("http_protocol_options")?;
    }
    if let Some(message) = second {
        config.http2 = http2(message).at("http2_protocol_options")?;
    }
    Ok(())
}

fn common(
    message: core::HttpProtocolOptions,
    config: &mut ConnectionConfig,
) -> Result<(), FieldError> {
    fields!(message: core::HttpProtocolOptions,
        read: [
            idle_timeout, max_connection_duration, max_headers_count, max_response_headers_kb,
            max_requests_per_connection,
        ],
        // About requests that come in.
        ignore: [headers_with_underscores_action],
        refuse: [max_connection_duration_jitter, max_stream_duration]);
    if let Some(timeout) = optional_duration(idle_timeout.as_ref(), "idle_timeout")? {
        config.idle_timeout = (!timeout.is_zero()).then_some(timeout);
    }
    let field = "max_connection_duration";
    let duration = optional_duration(max_connection_duration.as_ref(), field)?;
    config.connection_duration_max = duration.filter(|duration| !duration.is_zero());
    if let Some(count) = limit(max_headers_count) {
        config.headers_max = count as usize;
    }
    if let Some(kib) = max_response_headers_kb {
        // Envoy's range.
        if !(1..=8192).contains(&kib.value) {
            return Err(FieldError::invalid("must be between 1 and 8192"))
                .at("max_response_headers_kb");
        }
        config.head_bytes_max = kib.value * 1024;
    }
    config.requests_max = limit(max_requests_per_connection).or(config.requests_max);
    Ok(())
}

fn http1(
    message: core::Http1ProtocolOptions,
    config: &mut ConnectionConfig,
) -> Result<(), FieldError> {
    fields!(message: core::Http1ProtocolOptions,
        read: [enable_trailers, allow_chunked_length, header_key_format],
        ignore: [
            // About requests that come in.
            allow_absolute_url, accept_http_10, default_host_for_http_10, ignore_http_11_upgrade,
            // Which parser it is changes nothing.
            use_balsa_parser, allow_custom_methods,
            // An invalid response always ends its connection.
            override_stream_error_on_invalid_http_message,
        ],
        refuse: [send_fully_qualified_url]);
    config.http1_trailers = enable_trailers;
    config.http1_keeps_case = header_case::keeps(header_key_format)?;
    config.allows_chunked_length = allow_chunked_length;
    Ok(())
}

fn http2(message: core::Http2ProtocolOptions) -> Result<Http2Config, FieldError> {
    fields!(message: core::Http2ProtocolOptions,
        read: [
            max_concurrent_streams, initial_stream_window_size, initial_connection_window_size,
            connection_keepalive,
        ],
        ignore: [
            // h2 bounds its queues and what a peer may send without progress by itself.
            hpack_table_size, max_outbound_frames, max_outbound_control_frames,
            max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent, stream_reset_burst,
            stream_reset_rate, max_header_field_size_kb,
            // About the codec, of which there is one.
            use_oghttp2_codec, enable_huffman_encoding, max_metadata_size,
            // An invalid response always ends its stream.
            stream_error_on_invalid_http_messaging, override_stream_error_on_invalid_http_message,
            // About requests that come in.
            allow_connect,
        ],
        refuse: [allow_metadata, custom_settings_parameters, disallow_obs_text]);
    let defaults = Http2Config::default();
    let window = |value: Option<UInt32Value>, default, field| match value.map(|v| v.value) {
        None => Ok(default),
        Some(size @ 65_535..=0x7fff_ffff) => Ok(size),
        Some(_) => Err(FieldError::invalid("must be between 65535 and 2147483647")).at(field),
    };
    let mut config = Http2Config {
        streams_max: max_concurrent_streams.map_or(defaults.streams_max, |max| max.value),
        stream_window: window(
            initial_stream_window_size,
            defaults.stream_window,
            "initial_stream_window_size",
        )?,
        connection_window: window(
            initial_connection_window_size,
            defaults.connection_window,
            "initial_connection_window_size",
        )?,
        ..defaults
    };
    if config.streams_max == 0 {
        return Err(FieldError::invalid("must be at least 1")).at("max_concurrent_streams");
    }
    if let Some(message) = connection_keepalive {
        pings(message, &mut config).at("connection_keepalive")?;
    }
    Ok(config)
}

fn pings(message: core::KeepaliveSettings, config: &mut Http2Config) -> Result<(), FieldError> {
    fields!(message: core::KeepaliveSettings,
        read: [interval, timeout],
        // Connections are not made at the same moment, and so do not ping at the same moment. A
        // connection that lay idle is pinged by the interval too.
        ignore: [interval_jitter, connection_idle_interval],
        refuse: []);
    let interval = optional_duration(interval.as_ref(), "interval")?;
    config.ping_interval = interval.filter(|interval| !interval.is_zero());
    let timeout = optional_duration(timeout.as_ref(), "timeout")?;
    config.ping_timeout = required(timeout, "timeout")?;
    Ok(())
}
