//! What the access logs say of an exchange.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Version};
use time::OffsetDateTime;

use super::exchange::{Exchange, path_of};
use crate::format::Context;
use crate::telemetry::json::push_string;
use crate::telemetry::why::Why;

/// Writes the lines of an exchange that is over.
pub(super) fn write(exchange: &Exchange, took: Duration) {
    let worker = exchange.connection.worker();
    if let Some(file) = worker.settings.access_log {
        worker.log(file, |out| line(exchange, took, out));
    }
    let Some(chain) = exchange.view.chain().filter(|chain| !chain.logs.is_empty()) else { return };
    let context = Context {
        log_type: "DownstreamEnd",
        duration: Some(took),
        response_duration: exchange.answered_at.map(|at| at.duration_since(exchange.started)),
        request_duration: exchange
            .request
            .completed_at()
            .map(|at| at.duration_since(exchange.started)),
        ..exchange.context()
    };
    for log in chain.logs.iter().filter(|log| log.filter.logs(&context)) {
        worker.log(log.file, |out| log.format.write(&context, out));
    }
}

/// Appends the line of the `weighlock` format.
fn line(exchange: &Exchange, took: Duration, out: &mut String) {
    let mut line = Line { out, is_first: true };
    line.out.push('{');
    line.key("time");
    push_time(exchange.started_at(), line.out);
    line.header("request_id", exchange.request_id());
    line.text("node", &exchange.connection.worker().settings.node);
    line.text("listener", exchange.connection.listener_name());
    line.text("protocol", protocol(exchange.version));
    if !exchange.is_unread {
        line.text("method", exchange.method.as_str());
        line.header("host", exchange.host.as_ref());
        let path = path_of(&exchange.uri);
        line.text("path", path.split('?').next().unwrap_or_default());
    }
    line.number("status", exchange.head.as_ref().map_or(0, |head| head.status.as_u16().into()));
    let grpc_status = exchange.head.as_ref().and_then(|head| head.grpc_status.as_ref());
    line.header("grpc_status", grpc_status);
    let flags = exchange.flags();
    if !flags.is_empty() {
        line.key("flags");
        line.display(flags);
    }
    if exchange.why.is_some() || exchange.is_exhausted {
        let why = if exchange.is_exhausted { Some(Why::RetriesExhausted) } else { exchange.why };
        line.text("why", why.map_or("", Why::name));
    }
    line.text("route", exchange.route.as_ref().map_or("", |route| &route.route));
    upstream(exchange, &mut line);
    line.key("duration_ms");
    push_ms(took, line.out);
    line.number("gateway_us", micros(exchange.gateway_time()));
    if exchange.attempts > 0 {
        line.key("upstream_ms");
        push_ms(exchange.upstream_wait, line.out);
    }
    line.number("bytes_in", exchange.request.bytes());
    line.number("bytes_out", exchange.response.bytes());
    let client = exchange.origin.map_or(exchange.connection.facts.remote, |origin| origin.client);
    line.key("client_ip");
    line.display(client.ip().to_canonical());
    line.header("user_agent", exchange.user_agent());
    line.text("tls_version", exchange.connection.tls_version.get());
    line.text("tls_sni", exchange.connection.facts.server_name.as_deref().unwrap_or_default());
    line.out.push_str("}\n");
}

fn upstream(exchange: &Exchange, line: &mut Line<'_>) {
    if let Some(cluster) = &exchange.cluster {
        line.text("cluster", &cluster.config.name);
    }
    if let Some(endpoint) = &exchange.endpoint {
        line.text("endpoint", &endpoint.label);
    }
    if exchange.attempts > 0 {
        line.number("attempts", exchange.attempts.into());
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 | Version::HTTP_09 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// One JSON object, key by key; what is absent is left out.
struct Line<'a> {
    out: &'a mut String,
    is_first: bool,
}

impl Line<'_> {
    fn key(&mut self, key: &str) {
        if !self.is_first {
            self.out.push(',');
        }
        self.is_first = false;
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
    }

    fn text(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.key(key);
            push_string(self.out, text);
        }
    }

    fn header(&mut self, key: &str, value: Option<&HeaderValue>) {
        if let Some(value) = value {
            match value.to_str() {
                Ok(text) => self.text(key, text),
                Err(_) => self.text(key, &String::from_utf8_lossy(value.as_bytes())),
            }
        }
    }

    fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        push(self.out, format_args!("{number}"));
    }

    fn display(&mut self, value: impl std::fmt::Display) {
        push(self.out, format_args!("\"{value}\""));
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _infallible = out.write_fmt(text);
}

fn push_ms(duration: Duration, out: &mut String) {
    let us = micros(duration);
    push(out, format_args!("{}.{:03}", us / 1000, us % 1000));
}

/// RFC 3339 in UTC, to the microsecond.
fn push_time(at: SystemTime, out: &mut String) {
    let at = OffsetDateTime::from(at);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = (at.hour(), at.minute(), at.second());
    let micros = at.microsecond();
    push(
        out,
        format_args!(
            "\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z\""
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_to_the_microsecond() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_790_000_000_000_042);
        let mut out = String::new();
        push_time(at, &mut out);
        assert_eq!(out, "\"2026-09-21T14:13:20.000042Z\"");
        out.clear();
        push_ms(Duration::from_micros(1_042), &mut out);
        assert_eq!(out, "1.042");
    }
}
