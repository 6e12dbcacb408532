//! What an `HttpConnectionManager` says about connections and requests.

use std::time::Duration;

use http::HeaderValue;
use xds_proto::convert::{duration, optional_duration};
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager as hcm,
};
use xds_proto::field::{At, FieldError, each};
use xds_proto::fields;
use xds_proto::google::protobuf;

use super::super::header_case;
use super::extensions::{detection, early_change, request_id};
use crate::framing::http2::FrameLimits;
use crate::listener::http::{
    CertificateDetails, Codec, Detection, EdgeOptions, EscapedSlashes, ForwardCertificate,
    HeadLimits, HostOptions, Http1Options, Http2Options, HttpOptions, PathOptions, ServerHeader,
    StripPort, Timeouts, Underscores, Upgrade,
};
use crate::matcher::compile::cidr;

pub(super) fn compile(mut message: HttpConnectionManager) -> Result<HttpOptions, FieldError> {
    let common = message.common_http_protocol_options.take();
    let common = common_options(common).at("common_http_protocol_options")?;
    let http1_options = http1(message.http_protocol_options.take());
    let http2_options = http2(message.http2_protocol_options.take());
    let upgrades = std::mem::take(&mut message.upgrade_configs);
    let options = HttpOptions {
        codec: codec(message.codec_type).at("codec_type")?,
        edge: edge(&message)?,
        path: path(&message)?,
        host: host(&message),
        underscores: common.underscores,
        passes_expectations: message.proxy_100_continue,
        tells_overload: message.append_local_overload,
        server: server(&message.server_name, message.server_header_transformation)?,
        limits: HeadLimits { bytes_max: bytes_max(&message)?, fields_max: common.fields_max },
        timeouts: timeouts(&message, common.timeouts)?,
        requests_max: common.requests_max,
        http1: http1_options.at("http_protocol_options")?,
        http2: http2_options.at("http2_protocol_options")?,
        upgrades: each(upgrades, "upgrade_configs", upgrade)?.into(),
    };
    account(message)?;
    Ok(options)
}

/// Accounts for every field.
fn account(message: HttpConnectionManager) -> Result<(), FieldError> {
    fields!(message: HttpConnectionManager,
        read: [
            codec_type, common_http_protocol_options, http_protocol_options,
            http2_protocol_options, server_name, server_header_transformation,
            max_request_headers_kb, stream_idle_timeout, request_timeout, request_headers_timeout,
            use_remote_address, xff_num_trusted_hops, internal_address_config, skip_xff_append,
            via, generate_request_id, preserve_external_request_id,
            always_set_request_id_in_response, forward_client_cert_details, upgrade_configs,
            normalize_path, merge_slashes, path_with_escaped_slashes_action,
            strip_matching_host_port, strip_trailing_host_dot, strip_port_mode, http_filters,
            original_ip_detection_extensions, early_header_mutation_extensions,
            request_id_extension, append_x_forwarded_port, access_log, route_specifier, local_reply_config,
            set_current_client_cert_details, proxy_100_continue, drain_timeout, delayed_close_timeout,
            http1_safe_max_connection_duration, append_local_overload,
        ],
        ignore: [
            // Names of statistics; ours are named by the listener.
            stat_prefix,
            // HTTP/3 is not served; the options change nothing else.
            http3_protocol_options,
            // A write that stands still ends with the stream's idle timeout.
            stream_flush_timeout,
            // Clients come back at their own pace.
            drain_timeout_jitter,
            // One line is written, when the request ends.
            access_log_flush_interval, flush_access_log_on_new_request, access_log_options,
            // What is malformed ends the stream, or the connection where framing is lost.
            stream_error_on_invalid_http_message,
            // No filter reads the PROXY header's values.
            add_proxy_protocol_connection_state,
        ],
        refuse: [
            add_user_agent, tracing, scheme_header_transformation,
            forward_client_cert_matcher,
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            path_normalization_options, proxy_status_config,
            typed_header_validation_config, forward_proto_config,
        ],
    );
    let _read_above = (
        (codec_type, common_http_protocol_options, http_protocol_options, http2_protocol_options),
        (server_name, server_header_transformation, max_request_headers_kb),
        (stream_idle_timeout, request_timeout, request_headers_timeout),
        (drain_timeout, delayed_close_timeout, http1_safe_max_connection_duration),
        (use_remote_address, xff_num_trusted_hops, internal_address_config, skip_xff_append, via),
        (generate_request_id, preserve_external_request_id, always_set_request_id_in_response),
        (forward_client_cert_details, upgrade_configs, http_filters, access_log, route_specifier),
        (local_reply_config, set_current_client_cert_details),
        (normalize_path, merge_slashes, path_with_escaped_slashes_action),
        (strip_matching_host_port, strip_trailing_host_dot, strip_port_mode),
        (original_ip_detection_extensions, early_header_mutation_extensions),
        (request_id_extension, append_x_forwarded_port, proxy_100_continue, append_local_overload),
    );
    Ok(())
}

fn timeouts(message: &HttpConnectionManager, common: Timeouts) -> Result<Timeouts, FieldError> {
    let idle = timeout(message.stream_idle_timeout.as_ref(), "stream_idle_timeout")?;
    let request = timeout(message.request_timeout.as_ref(), "request_timeout")?;
    let headers = timeout(message.request_headers_timeout.as_ref(), "request_headers_timeout")?;
    let drain = optional_duration(message.drain_timeout.as_ref(), "drain_timeout")?;
    let linger = timeout(message.delayed_close_timeout.as_ref(), "delayed_close_timeout")?;
    Ok(Timeouts {
        stream_idle: idle.unwrap_or(common.stream_idle),
        request: request.flatten(),
        request_headers: headers.unwrap_or(common.request_headers),
        drain: drain.unwrap_or(common.drain),
        linger: linger.unwrap_or(common.linger),
        ends_with_answer: message.http1_safe_max_connection_duration,
        ..common
    })
}

fn edge(message: &HttpConnectionManager) -> Result<EdgeOptions, FieldError> {
    let field = "early_header_mutation_extensions";
    let early = each(message.early_header_mutation_extensions.clone(), field, early_change)?;
    let ids = message.request_id_extension.clone();
    ids.map(request_id).transpose().at("request_id_extension")?;
    let internal = message.internal_address_config.as_ref();
    let ranges = internal.map(|config| config.cidr_ranges.clone()).unwrap_or_default();
    let internal = each(ranges, "cidr_ranges", cidr).at("internal_address_config")?;
    Ok(EdgeOptions {
        use_remote_address: is_true(message.use_remote_address.as_ref()),
        trusted_hops: message.xff_num_trusted_hops,
        skip_xff_append: message.skip_xff_append,
        detections: detections(message)?,
        internal: internal.into(),
        early_changes: early.into_iter().flatten().collect(),
        append_port: message.append_x_forwarded_port,
        via: optional_header(&message.via, "via")?,
        generate_request_id: message.generate_request_id.as_ref().is_none_or(|flag| flag.value),
        preserve_request_id: message.preserve_external_request_id,
        request_id_in_response: message.always_set_request_id_in_response,
        certificate: forwards_certificate(message.forward_client_cert_details)
            .at("forward_client_cert_details")?,
        certificate_details: certificate_details(message.set_current_client_cert_details)
            .at("set_current_client_cert_details")?,
    })
}

fn detections(message: &HttpConnectionManager) -> Result<Box<[Detection]>, FieldError> {
    let field = "original_ip_detection_extensions";
    let detections = each(message.original_ip_detection_extensions.clone(), field, detection)?;
    if detections.is_empty() {
        return Ok(Box::default());
    }
    let rival = match message {
        _ if is_true(message.use_remote_address.as_ref()) => "use_remote_address",
        _ if message.xff_num_trusted_hops > 0 => "xff_num_trusted_hops",
        _ => return Ok(detections.into()),
    };
    Err(FieldError::invalid(format!("{rival} may not be set beside it"))).at(field)
}

fn path(message: &HttpConnectionManager) -> Result<PathOptions, FieldError> {
    Ok(PathOptions {
        normalize: is_true(message.normalize_path.as_ref()),
        merge_slashes: message.merge_slashes,
        escaped_slashes: escaped_slashes(message.path_with_escaped_slashes_action)
            .at("path_with_escaped_slashes_action")?,
    })
}

fn host(message: &HttpConnectionManager) -> HostOptions {
    let strips_any =
        matches!(message.strip_port_mode, Some(hcm::StripPortMode::StripAnyHostPort(true)));
    let strip_port = match (strips_any, message.strip_matching_host_port) {
        (true, _) => StripPort::Any,
        (false, true) => StripPort::Matching,
        (false, false) => StripPort::No,
    };
    HostOptions { strip_port, strip_trailing_dot: message.strip_trailing_host_dot }
}

fn bytes_max(message: &HttpConnectionManager) -> Result<u32, FieldError> {
    match &message.max_request_headers_kb {
        None => Ok(HttpOptions::default().limits.bytes_max),
        Some(kb) if (1..=8192).contains(&kb.value) => Ok(kb.value * 1024),
        Some(_) => {
            Err(FieldError::invalid("must be between 1 and 8192")).at("max_request_headers_kb")
        }
    }
}

fn is_true(flag: Option<&protobuf::BoolValue>) -> bool {
    flag.is_some_and(|flag| flag.value)
}

/// A time limit where one is given; zero is none.
fn timeout(
    value: Option<&protobuf::Duration>,
    field: &'static str,
) -> Result<Option<Option<Duration>>, FieldError> {
    let limit = optional_duration(value, field)?;
    Ok(limit.map(|limit| (!limit.is_zero()).then_some(limit)))
}

fn optional_header(text: &str, field: &'static str) -> Result<Option<HeaderValue>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_str(text)
        .map(Some)
        .map_err(|error| FieldError::invalid(error.to_string()))
        .at(field)
}

fn unknown<T>(value: i32) -> Result<T, FieldError> {
    Err(FieldError::invalid(format!("unknown value {value}")))
}

fn codec(value: i32) -> Result<Codec, FieldError> {
    match hcm::CodecType::try_from(value) {
        Ok(hcm::CodecType::Auto) => Ok(Codec::Auto),
        Ok(hcm::CodecType::Http1) => Ok(Codec::Http1),
        Ok(hcm::CodecType::Http2) => Ok(Codec::Http2),
        Ok(hcm::CodecType::Http3) => Err(FieldError::unsupported()),
        Err(_) => unknown(value),
    }
}

fn server(name: &str, transformation: i32) -> Result<ServerHeader, FieldError> {
    use hcm::ServerHeaderTransformation;
    let name =
        optional_header(name, "server_name")?.unwrap_or_else(|| HeaderValue::from_static("envoy"));
    match ServerHeaderTransformation::try_from(transformation) {
        Ok(ServerHeaderTransformation::Overwrite) => Ok(ServerHeader::Overwrite(name)),
        Ok(ServerHeaderTransformation::AppendIfAbsent) => Ok(ServerHeader::AppendIfAbsent(name)),
        Ok(ServerHeaderTransformation::PassThrough) => Ok(ServerHeader::PassThrough),
        Err(_) => unknown(transformation).at("server_header_transformation"),
    }
}

fn escaped_slashes(value: i32) -> Result<EscapedSlashes, FieldError> {
    use hcm::PathWithEscapedSlashesAction as Action;
    match Action::try_from(value) {
        Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) => {
            Ok(EscapedSlashes::Keep)
        }
        Ok(Action::RejectRequest) => Ok(EscapedSlashes::Reject),
        Ok(Action::UnescapeAndRedirect) => Ok(EscapedSlashes::Redirect),
        Ok(Action::UnescapeAndForward) => Ok(EscapedSlashes::Decode),
        Err(_) => unknown(value),
    }
}

fn forwards_certificate(value: i32) -> Result<ForwardCertificate, FieldError> {
    use hcm::ForwardClientCertDetails as Details;
    match Details::try_from(value) {
        Ok(Details::Sanitize) => Ok(ForwardCertificate::Sanitize),
        Ok(Details::ForwardOnly) => Ok(ForwardCertificate::ForwardOnly),
        Ok(Details::AppendForward) => Ok(ForwardCertificate::AppendForward),
        Ok(Details::SanitizeSet) => Ok(ForwardCertificate::SanitizeSet),
        Ok(Details::AlwaysForwardOnly) => Ok(ForwardCertificate::AlwaysForwardOnly),
        Err(_) => unknown(value),
    }
}

fn certificate_details(
    message: Option<hcm::SetCurrentClientCertDetails>,
) -> Result<CertificateDetails, FieldError> {
    let message = message.unwrap_or_default();
    fields!(message: hcm::SetCurrentClientCertDetails,
        read: [subject, cert, chain, dns, uri, issuer],
        ignore: [],
        // Other than the one that Envoy has always written.
        refuse: [format],
    );
    let subject = is_true(subject.as_ref());
    Ok(CertificateDetails { subject, certificate: cert, chain, dns, uri, issuer })
}

fn upgrade(message: hcm::UpgradeConfig) -> Result<Upgrade, FieldError> {
    fields!(message: hcm::UpgradeConfig,
        read: [upgrade_type, enabled],
        ignore: [],
        refuse: [filters],
    );
    if upgrade_type.eq_ignore_ascii_case("connect") || upgrade_type.is_empty() {
        return Err(FieldError::unsupported()).at("upgrade_type");
    }
    Ok(Upgrade {
        protocol: upgrade_type.to_ascii_lowercase().into(),
        enabled: enabled.is_none_or(|flag| flag.value),
    })
}

struct Common {
    timeouts: Timeouts,
    fields_max: usize,
    underscores: Underscores,
    requests_max: Option<u32>,
}

fn common_options(message: Option<core::HttpProtocolOptions>) -> Result<Common, FieldError> {
    use core::http_protocol_options::HeadersWithUnderscoresAction as Action;
    let message = message.unwrap_or_default();
    fields!(message: core::HttpProtocolOptions,
        read: [
            idle_timeout, max_connection_duration, max_headers_count, max_stream_duration,
            headers_with_underscores_action, max_requests_per_connection,
        ],
        // The jitter spreads what an age limit cuts off; clients come back at their own pace.
        ignore: [max_connection_duration_jitter, max_response_headers_kb],
        refuse: [],
    );
    let HttpOptions { timeouts, limits, .. } = HttpOptions::default();
    let timeouts = Timeouts {
        connection_idle: timeout(idle_timeout.as_ref(), "idle_timeout")?
            .unwrap_or(timeouts.connection_idle),
        connection_age_max: timeout(max_connection_duration.as_ref(), "max_connection_duration")?
            .flatten(),
        stream_age_max: timeout(max_stream_duration.as_ref(), "max_stream_duration")?.flatten(),
        ..timeouts
    };
    let fields_max = match max_headers_count {
        None => limits.fields_max,
        Some(count) if count.value > 0 => usize::try_from(count.value).unwrap_or(usize::MAX),
        Some(_) => {
            return Err(FieldError::invalid("must be at least 1")).at("max_headers_count");
        }
    };
    let underscores = match Action::try_from(headers_with_underscores_action) {
        Ok(Action::Allow) => Underscores::Allow,
        Ok(Action::RejectRequest) => Underscores::Reject,
        Ok(Action::DropHeader) => Underscores::Drop,
        Err(_) => {
            return unknown(headers_with_underscores_action).at("headers_with_underscores_action");
        }
    };
    let requests_max = max_requests_per_connection.map(|max| max.value).filter(|max| *max > 0);
    Ok(Common { timeouts, fields_max, underscores, requests_max })
}

fn http1(message: Option<core::Http1ProtocolOptions>) -> Result<Http1Options, FieldError> {
    let message = message.unwrap_or_default();
    fields!(message: core::Http1ProtocolOptions,
        read: [
            accept_http_10, default_host_for_http_10, allow_chunked_length, allow_custom_methods,
            allow_absolute_url, enable_trailers, header_key_format,
        ],
        ignore: [
            // Which parser it is changes nothing.
            use_balsa_parser,
            // An invalid request always ends its connection.
            override_stream_error_on_invalid_http_message,
            // About requests that go out.
            send_fully_qualified_url,
        ],
        refuse: [ignore_http_11_upgrade],
    );
    Ok(Http1Options {
        accept_http_10,
        default_host: optional_header(&default_host_for_http_10, "default_host_for_http_10")?,
        allow_chunked_length,
        allow_custom_methods,
        refuse_absolute_url: allow_absolute_url.is_some_and(|flag| !flag.value),
        trailers: enable_trailers,
        keeps_case: header_case::keeps(header_key_format)?,
    })
}

fn http2(message: Option<core::Http2ProtocolOptions>) -> Result<Http2Options, FieldError> {
    let defaults = HttpOptions::default().http2;
    let message = message.unwrap_or_default();
    fields!(message: core::Http2ProtocolOptions,
        read: [
            max_concurrent_streams, initial_stream_window_size, initial_connection_window_size,
            connection_keepalive, allow_connect, hpack_table_size, max_outbound_frames,
            max_outbound_control_frames, max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent,
        ],
        ignore: [
            // About streams that are reset faster than that: they are counted against those that end
            // well, as the runtime keys `overload.premature_reset_…` say.
            stream_reset_burst, stream_reset_rate,
            // A field may be as large as the whole head.
            max_header_field_size_kb,
            // About the codec, of which there is one.
            use_oghttp2_codec, enable_huffman_encoding, max_metadata_size,
            // An invalid request always ends its stream.
            stream_error_on_invalid_http_messaging, override_stream_error_on_invalid_http_message,
        ],
        refuse: [allow_metadata, custom_settings_parameters, disallow_obs_text]);
    let frames = FrameLimits {
        unread: number(max_outbound_frames, 1, "max_outbound_frames", defaults.frames.unread)?,
        control: number(
            max_outbound_control_frames,
            1,
            "max_outbound_control_frames",
            defaults.frames.control,
        )?,
        empty_in_a_row: number(
            max_consecutive_inbound_frames_with_empty_payload,
            0,
            "max_consecutive_inbound_frames_with_empty_payload",
            defaults.frames.empty_in_a_row,
        )?,
        priority_a_stream: number(
            max_inbound_priority_frames_per_stream,
            0,
            "max_inbound_priority_frames_per_stream",
            defaults.frames.priority_a_stream,
        )?,
        window_updates_a_data: number(
            max_inbound_window_update_frames_per_data_frame_sent,
            1,
            "max_inbound_window_update_frames_per_data_frame_sent",
            defaults.frames.window_updates_a_data,
        )?,
    };
    let keepalive = connection_keepalive.map(keepalive).transpose();
    Ok(Http2Options {
        concurrent_streams_max: number(
            max_concurrent_streams,
            1,
            "max_concurrent_streams",
            defaults.concurrent_streams_max,
        )?,
        stream_window: number(
            initial_stream_window_size,
            65_535,
            "initial_stream_window_size",
            defaults.stream_window,
        )?,
        connection_window: number(
            initial_connection_window_size,
            65_535,
            "initial_connection_window_size",
            defaults.connection_window,
        )?,
        allow_connect,
        keepalive: keepalive.at("connection_keepalive")?.flatten(),
        header_table_bytes: hpack_table_size.map(|size| size.value),
        frames,
    })
}

/// A number that is at least this; none of them goes beyond 31 bits.
fn number(
    value: Option<protobuf::UInt32Value>,
    least: u32,
    field: &'static str,
    default: u32,
) -> Result<u32, FieldError> {
    match value {
        None => Ok(default),
        Some(value) if (least..=i32::MAX.unsigned_abs()).contains(&value.value) => Ok(value.value),
        Some(_) => {
            Err(FieldError::invalid(format!("must be between {least} and 2147483647"))).at(field)
        }
    }
}

fn keepalive(message: core::KeepaliveSettings) -> Result<Option<(Duration, Duration)>, FieldError> {
    fields!(message: core::KeepaliveSettings,
        read: [interval, timeout],
        // Connections are not opened at the same moment, and so do not ping at the same moment. A
        // connection that lay idle is pinged by the interval too.
        ignore: [interval_jitter, connection_idle_interval],
        refuse: []);
    let timeout = timeout.ok_or_else(FieldError::required).at("timeout")?;
    let Some(interval) = interval else { return Ok(None) };
    let interval = duration(&interval).at("interval")?;
    let timeout = duration(&timeout).at("timeout")?;
    if interval.is_zero() || timeout.is_zero() {
        return Err(FieldError::invalid("must be longer than 0")).at("interval");
    }
    Ok(Some((interval, timeout)))
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    fn compiled(text: &str) -> Result<HttpOptions, String> {
        compile(from_yaml(text).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_envoy_gateway_always_sets_is_taken() {
        let options = compiled(
            "stat_prefix: in
common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST, idle_timeout: 0s}
http2_protocol_options: {initial_connection_window_size: 1048576, initial_stream_window_size: 65536, max_concurrent_streams: 100}
merge_slashes: true
normalize_path: true
path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT
server_header_transformation: PASS_THROUGH
use_remote_address: true
upgrade_configs: [{upgrade_type: WebSocket}]",
        )
        .unwrap();
        assert_eq!(options.underscores, Underscores::Reject);
        assert_eq!(options.timeouts.connection_idle, None);
        assert_eq!(options.timeouts.stream_idle, Some(Duration::from_secs(300)));
        assert_eq!(options.http2.concurrent_streams_max, 100);
        assert_eq!(options.path.escaped_slashes, EscapedSlashes::Redirect);
        assert_eq!(options.server, ServerHeader::PassThrough);
        assert!(options.edge.use_remote_address);
        assert_eq!(&*options.upgrades[0].protocol, "websocket");
    }

    #[test]
    fn nothing_set_is_envoys_default() {
        assert_eq!(compiled("stat_prefix: in"), Ok(HttpOptions::default()));
    }

    #[test]
    fn what_is_wrong_or_not_implemented_is_named_by_its_path() {
        for (text, error) in [
            ("max_request_headers_kb: 9000", "max_request_headers_kb: must be between 1 and 8192"),
            ("add_user_agent: true", "add_user_agent: not supported"),
            (
                "stream_idle_timeout: -1s",
                "stream_idle_timeout: must be between 0 and 315576000000 s",
            ),
            (
                "upgrade_configs: [{upgrade_type: CONNECT}]",
                "upgrade_configs[0].upgrade_type: not supported",
            ),
            (
                "http2_protocol_options: {max_concurrent_streams: 0}",
                "http2_protocol_options.max_concurrent_streams: must be between 1 and 2147483647",
            ),
            (
                "http2_protocol_options: {max_outbound_frames: 0}",
                "http2_protocol_options.max_outbound_frames: must be between 1 and 2147483647",
            ),
            (
                "http2_protocol_options: {max_outbound_control_frames: 0}",
                "http2_protocol_options.max_outbound_control_frames: must be between 1 and 2147483647",
            ),
            (
                "http2_protocol_options: {max_inbound_window_update_frames_per_data_frame_sent: 0}",
                "http2_protocol_options.max_inbound_window_update_frames_per_data_frame_sent: must be between 1 and 2147483647",
            ),
            (
                "internal_address_config: {cidr_ranges: [{address_prefix: x}]}",
                "internal_address_config.cidr_ranges[0].address_prefix: must be an IP address",
            ),
        ] {
            assert_eq!(compiled(text).unwrap_err(), error);
        }
    }
}
