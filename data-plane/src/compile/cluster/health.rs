//! How endpoints are checked.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::uri::PathAndQuery;
use xds_proto::convert::optional_duration;
use xds_proto::envoy::config::core::v3::health_check::payload::Payload as Form;
use xds_proto::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck,
};
use xds_proto::envoy::config::core::v3::{HealthCheck, RequestMethod};
use xds_proto::envoy::r#type::v3::{CodecClientType, Int64Range};
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;
use xds_proto::google::protobuf::{self, UInt32Value};

use crate::cluster::health::{
    CheckConfig, GrpcQuestion, HttpQuestion, Intervals, Jitter, Question, TcpQuestion,
};
use crate::format::compile::mutations;
use crate::matcher::compile::string;

/// Envoy's time between checks of a cluster that has never had a connection.
const NO_TRAFFIC: Duration = Duration::from_secs(60);

pub(super) fn compile(message: HealthCheck) -> Result<CheckConfig, FieldError> {
    fields!(message: HealthCheck,
    read: [
        timeout, interval, initial_jitter, interval_jitter, interval_jitter_percent,
        unhealthy_threshold, healthy_threshold, alt_port, reuse_connection, no_traffic_interval,
        no_traffic_healthy_interval, unhealthy_interval, unhealthy_edge_interval,
        healthy_edge_interval, health_checker,
    ],
    // Changes of health are logged with everything else.
    ignore: [
        event_log_path, event_logger, event_service, always_log_health_check_failures,
        always_log_health_check_success,
    ],
    refuse: [tls_options, transport_socket_match_criteria]);
    let healthy = required(positive(interval.as_ref(), "interval")?, "interval")?;
    let unhealthy = positive(unhealthy_interval.as_ref(), "unhealthy_interval")?.unwrap_or(healthy);
    let no_traffic =
        positive(no_traffic_interval.as_ref(), "no_traffic_interval")?.unwrap_or(NO_TRAFFIC);
    let or = |value: Option<&protobuf::Duration>, field, default| {
        positive(value, field).map(|interval| interval.unwrap_or(default))
    };
    let intervals = Intervals {
        healthy,
        unhealthy,
        healthy_edge: or(healthy_edge_interval.as_ref(), "healthy_edge_interval", healthy)?,
        unhealthy_edge: or(unhealthy_edge_interval.as_ref(), "unhealthy_edge_interval", unhealthy)?,
        no_traffic,
        no_traffic_healthy: or(
            no_traffic_healthy_interval.as_ref(),
            "no_traffic_healthy_interval",
            no_traffic,
        )?,
    };
    let jitter = Jitter {
        initial: optional_duration(initial_jitter.as_ref(), "initial_jitter")?.unwrap_or_default(),
        interval: optional_duration(interval_jitter.as_ref(), "interval_jitter")?
            .unwrap_or_default(),
        percent: interval_jitter_percent,
    };
    Ok(CheckConfig {
        timeout: required(positive(timeout.as_ref(), "timeout")?, "timeout")?,
        intervals,
        jitter,
        failures: required(unhealthy_threshold, "unhealthy_threshold")?.value,
        successes: required(healthy_threshold, "healthy_threshold")?.value,
        port: alt_port.map(port).transpose().at("alt_port")?,
        reuses: reuse_connection.is_none_or(|flag| flag.value),
        question: question(required(health_checker, "health_checker")?)?,
    })
}

fn positive(
    value: Option<&protobuf::Duration>,
    field: &'static str,
) -> Result<Option<Duration>, FieldError> {
    match optional_duration(value, field)? {
        Some(Duration::ZERO) => Err(FieldError::invalid("must be more than 0")).at(field),
        time => Ok(time),
    }
}

fn port(value: UInt32Value) -> Result<u16, FieldError> {
    u16::try_from(value.value).map_err(|_| FieldError::invalid("must be at most 65535"))
}

fn question(message: HealthChecker) -> Result<Question, FieldError> {
    match message {
        HealthChecker::HttpHealthCheck(message) => {
            http(message).map(|question| Question::Http(Box::new(question))).at("http_health_check")
        }
        HealthChecker::TcpHealthCheck(message) => {
            tcp(message).map(Question::Tcp).at("tcp_health_check")
        }
        HealthChecker::GrpcHealthCheck(message) => {
            grpc(message).map(Question::Grpc).at("grpc_health_check")
        }
        HealthChecker::CustomHealthCheck(_) => {
            Err(FieldError::unsupported()).at("custom_health_check")
        }
    }
}

fn http(message: HttpHealthCheck) -> Result<HttpQuestion, FieldError> {
    fields!(message: HttpHealthCheck,
        read: [
            host, path, send, receive, response_buffer_size, request_headers_to_add,
            request_headers_to_remove, expected_statuses, retriable_statuses, codec_client_type,
            service_name_matcher, method,
        ],
        ignore: [],
        refuse: []);
    let path = required_text(path, "path")?;
    if !path.starts_with('/') || path.parse::<PathAndQuery>().is_err() {
        return Err(FieldError::invalid("must be a path")).at("path");
    }
    let is_http2 = match CodecClientType::try_from(codec_client_type) {
        Ok(CodecClientType::Http1) => false,
        Ok(CodecClientType::Http2) => true,
        Ok(CodecClientType::Http3) | Err(_) => {
            return Err(FieldError::unsupported()).at("codec_client_type");
        }
    };
    let mut expected = each(expected_statuses, "expected_statuses", statuses)?;
    if expected.is_empty() {
        expected.push(200..=200);
    }
    let body_max = response_buffer_size.map_or(1024, |size| size.value);
    Ok(HttpQuestion {
        host: (!host.is_empty()).then(|| host.into()),
        path: path.into(),
        method: method_of(method).at("method")?,
        body: send.map(payload).transpose().at("send")?.unwrap_or_default(),
        headers: mutations(
            (request_headers_to_add, "request_headers_to_add"),
            (request_headers_to_remove, "request_headers_to_remove"),
        )?,
        is_http2,
        expected: expected.into(),
        retriable: each(retriable_statuses, "retriable_statuses", statuses)?.into(),
        receives: each(receive, "receive", payload)?.into(),
        body_max: usize::try_from(body_max).unwrap_or(usize::MAX),
        service: service_name_matcher.map(string).transpose().at("service_name_matcher")?,
    })
}

fn method_of(method: i32) -> Result<Method, FieldError> {
    match RequestMethod::try_from(method) {
        Ok(RequestMethod::MethodUnspecified | RequestMethod::Get) => Ok(Method::GET),
        Ok(RequestMethod::Connect) => Err(FieldError::invalid("cannot be CONNECT")),
        Ok(other) => Method::from_bytes(other.as_str_name().as_bytes())
            .map_err(|_| FieldError::invalid("unknown value")),
        Err(_) => Err(FieldError::invalid("unknown value")),
    }
}

fn statuses(message: Int64Range) -> Result<RangeInclusive<u16>, FieldError> {
    fields!(message: Int64Range, read: [start, end], ignore: [], refuse: []);
    match (u16::try_from(start), u16::try_from(end)) {
        (Ok(start @ 100..), Ok(end @ ..=600)) if start < end => Ok(start..=end - 1),
        _ => Err(FieldError::invalid("must be within 100 and 600, and not empty")),
    }
}

fn tcp(message: TcpHealthCheck) -> Result<TcpQuestion, FieldError> {
    fields!(message: TcpHealthCheck,
        read: [send, receive], ignore: [], refuse: [proxy_protocol_config]);
    Ok(TcpQuestion {
        sends: send.map(payload).transpose().at("send")?.unwrap_or_default(),
        receives: each(receive, "receive", payload)?.into(),
    })
}

/// Bytes, or text that says them in hexadecimal digits.
fn payload(message: Payload) -> Result<Bytes, FieldError> {
    let bytes = match required(message.payload, "payload")? {
        Form::Binary(bytes) => bytes,
        Form::Text(text) => text
            .as_bytes()
            .chunks(2)
            .map(|pair| {
                let digits = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
                u8::from_str_radix(digits, 16).ok()
            })
            .collect::<Option<Vec<u8>>>()
            .ok_or_else(|| FieldError::invalid("must be hexadecimal digits"))
            .at("text")?,
    };
    if bytes.is_empty() {
        return Err(FieldError::required());
    }
    Ok(bytes.into())
}

fn grpc(message: GrpcHealthCheck) -> Result<GrpcQuestion, FieldError> {
    fields!(message: GrpcHealthCheck,
        read: [service_name, authority, initial_metadata], ignore: [], refuse: []);
    let metadata =
        mutations((initial_metadata, "initial_metadata"), (Vec::new(), "initial_metadata"))?;
    Ok(GrpcQuestion {
        service: service_name.into(),
        authority: (!authority.is_empty()).then(|| authority.into()),
        metadata,
    })
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    const COMMON: &str = "timeout: 1s, interval: 2s, unhealthy_threshold: 3, healthy_threshold: 4";

    fn compiled(more: &str) -> Result<CheckConfig, String> {
        compile(from_yaml(&format!("{{{COMMON}, {more}}}")).unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_unset_means_what_it_means_to_envoy() {
        let check = compiled("http_health_check: {path: /healthz}").unwrap();
        let (two, minute) = (Duration::from_secs(2), Duration::from_secs(60));
        let intervals = Intervals {
            healthy: two,
            unhealthy: two,
            healthy_edge: two,
            unhealthy_edge: two,
            no_traffic: minute,
            no_traffic_healthy: minute,
        };
        assert_eq!((check.intervals, check.failures, check.successes), (intervals, 3, 4));
        assert!(check.reuses);
        let Question::Http(http) = check.question else { unreachable!() };
        assert_eq!((&*http.expected, &http.method), (&[200..=200][..], &Method::GET));
    }

    #[test]
    fn payloads_are_hexadecimal_or_bytes() {
        let check = compiled("tcp_health_check: {send: {text: '5049'}, receive: [{binary: UEk=}]}");
        let Question::Tcp(tcp) = check.unwrap().question else { unreachable!() };
        assert_eq!((tcp.sends, &*tcp.receives), ("PI".into(), &["PI".into()][..]));
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        for (more, error) in [
            ("reuse_connection: true", "health_checker: required"),
            ("http_health_check: {}", "http_health_check.path: required"),
            ("http_health_check: {path: x}", "http_health_check.path: must be a path"),
            (
                "http_health_check: {path: /, expected_statuses: [{start: 300, end: 200}]}",
                "http_health_check.expected_statuses[0]: must be within 100 and 600, and not empty",
            ),
            (
                "tcp_health_check: {send: {text: xyz}}",
                "tcp_health_check.send.text: must be hexadecimal digits",
            ),
            ("custom_health_check: {name: redis}", "custom_health_check: not supported"),
        ] {
            assert_eq!(compiled(more).unwrap_err(), error);
        }
    }
}
