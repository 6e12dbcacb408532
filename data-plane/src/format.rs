//! Envoy's format strings (`%REQ(x-id)%`), compiled once and rendered per request.
//!
//! Source: Envoy's "Access logging: command operators", which header mutations share.

pub(crate) mod compile;
pub mod mutation;
pub mod rare;
mod grpc;
mod operator;
mod time;

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, Version};
use xds_proto::field::FieldError;

use self::operator::Operator;
use self::rare::{Left, Lookup, MetadataPath};
use crate::metadata::Metadata;

/// What the operators read. Whatever is not known yet is `None` or empty, and renders as absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    /// Headers of the request, `%REQ%`.
    pub request_headers: Option<&'a HeaderMap>,
    /// Headers of the response, `%RESP%`.
    pub response_headers: Option<&'a HeaderMap>,
    /// Trailers of the response, `%TRAILER%`.
    pub response_trailers: Option<&'a HeaderMap>,
    /// `%REQ(:METHOD)%`.
    pub method: Option<&'a Method>,
    /// Path and query, `%REQ(:PATH)%`.
    pub path: &'a str,
    /// The authority, `%REQ(:AUTHORITY)%`.
    pub host: &'a str,
    /// `%REQ(:SCHEME)%`.
    pub scheme: &'a str,
    /// `%PROTOCOL%`.
    pub protocol: Option<Version>,
    /// `%UPSTREAM_PROTOCOL%`.
    pub upstream_protocol: Option<Version>,
    /// `%RESPONSE_CODE%`.
    pub response_code: Option<u16>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: &'a str,
    /// The body of a reply of our own before it is formatted, `%LOCAL_REPLY_BODY%`.
    pub local_reply_body: &'a str,
    /// `%RESPONSE_FLAGS%`.
    pub flags: Flags<'a>,
    /// When the request began, `%START_TIME%`.
    pub start: Option<SystemTime>,
    /// From the first byte of the request to the last of the response, `%DURATION%`.
    pub duration: Option<Duration>,
    /// From the first byte of the request to its last, `%REQUEST_DURATION%`.
    pub request_duration: Option<Duration>,
    /// From the first byte of the request to the first upstream response byte, `%RESPONSE_DURATION%`.
    pub response_duration: Option<Duration>,
    /// The client, after x-forwarded-for rules, `%DOWNSTREAM_REMOTE_ADDRESS%`.
    pub remote: Option<SocketAddr>,
    /// The peer of the socket, `%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%`.
    pub direct_remote: Option<SocketAddr>,
    /// Our side of the client's connection, `%DOWNSTREAM_LOCAL_ADDRESS%`.
    pub local: Option<SocketAddr>,
    /// The endpoint chosen, `%UPSTREAM_HOST%`.
    pub endpoint: Option<SocketAddr>,
    /// Our side of the upstream connection, `%UPSTREAM_LOCAL_ADDRESS%`.
    pub upstream_local: Option<&'a SocketAddr>,
    /// `%UPSTREAM_CLUSTER%`.
    pub cluster: &'a str,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport_failure: &'a str,
    /// How often the request was sent upstream, `%UPSTREAM_REQUEST_ATTEMPT_COUNT%`.
    pub attempts: u32,
    /// `%ROUTE_NAME%`.
    pub route_name: &'a str,
    /// `%VIRTUAL_HOST_NAME%`.
    pub virtual_host: &'a str,
    /// `%CONNECTION_TERMINATION_DETAILS%`.
    pub termination_details: &'a str,
    /// Bytes of the request body, `%BYTES_RECEIVED%`.
    pub bytes_received: u64,
    /// Bytes of the response body, `%BYTES_SENT%`.
    pub bytes_sent: u64,
    /// The server name of the client's TLS hello, `%REQUESTED_SERVER_NAME%`.
    pub server_name: &'a str,
    /// The TLS version with the client, `%DOWNSTREAM_TLS_VERSION%`.
    pub tls_version: &'a str,
    /// What filters left, `%DYNAMIC_METADATA%`.
    pub metadata: Option<&'a Metadata>,
    /// The machine's host name, `%HOSTNAME%`.
    pub hostname: &'a str,
    /// Whether the client speaks gRPC.
    pub is_grpc: bool,
    /// Whether the request is a health check of ours.
    pub is_health_check: bool,
    /// Why a line is written, `%ACCESS_LOG_TYPE%`.
    pub log_type: &'a str,
    /// Who knows the rest.
    pub lookup: Option<&'a dyn Lookup>,
}

impl<'a> Context<'a> {
    /// What filters left there.
    pub fn left(&self, asked: &MetadataPath) -> Option<Left<'a>> {
        let metadata = self.metadata?;
        if asked.path.is_empty() {
            return metadata.namespace(&asked.namespace).map(Left::All);
        }
        metadata.value(&asked.namespace, &asked.path).map(Left::One)
    }

    /// The gRPC status of any response, gRPC's or not.
    pub(crate) fn grpc_status(&self) -> u32 {
        const UNKNOWN: usize = 2;
        let status = grpc::of_any(self).unwrap_or(UNKNOWN);
        u32::try_from(status).unwrap_or(u32::MAX)
    }

    fn request_headers_bytes(&self) -> u64 {
        let Some(headers) = self.request_headers else { return 0 };
        let method = self.method.map_or("", |method| method.as_str());
        let pseudo = [(":method", method), (":path", self.path), (":scheme", self.scheme)];
        let length = |text: &str| u64::try_from(text.len()).unwrap_or(u64::MAX);
        let pseudo = pseudo.iter().map(|(name, value)| length(name) + length(value)).sum::<u64>();
        // The host stands in the headers, under a name that is shorter than `:authority`.
        let host = if headers.contains_key(http::header::HOST) { 6 } else { 0 };
        operator::bytes(headers) + pseudo + host
    }

    fn response_headers_bytes(&self) -> u64 {
        // And `:status`.
        self.response_headers.map_or(0, |headers| operator::bytes(headers) + 10)
    }
}

/// What the value of a format is, where values have types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text of several parts.
    Mixed,
    /// Text.
    Text,
    /// A number.
    Number,
    /// Whatever it is, as JSON.
    Json,
}

/// Envoy's response flags of an exchange: those that filters noted, and those of how it ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flags<'a> {
    /// What filters noted.
    pub noted: &'a [&'static str],
    /// How it ended; empty where nothing is to be said.
    pub ends: [&'static str; 2],
}

impl<'a> Flags<'a> {
    /// The flags, in order.
    pub fn iter(self) -> impl Iterator<Item = &'static str> + 'a {
        self.noted.iter().copied().chain(self.ends).filter(|flag| !flag.is_empty())
    }

    /// Whether nothing went wrong.
    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }
}

impl fmt::Display for Flags<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut flags = self.iter();
        if let Some(first) = flags.next() {
            f.write_str(first)?;
        }
        flags.try_for_each(|flag| write!(f, ",{flag}"))
    }
}

/// A format string, ready to render.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Box<[Piece]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Operator { operator: Operator, max: Option<usize> },
}

impl Template {
    /// Compiles a format string.
    ///
    /// # Errors
    /// An operator that is unknown or lacks its argument, or a `%` that begins none.
    pub fn compile(text: &str) -> Result<Self, FieldError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            let (piece, after) = operator::parse(rest)?;
            pieces.push(piece);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into()));
        }
        Ok(Self(pieces.into()))
    }

    /// Appends the text; what is absent is left out, as Envoy does in headers.
    pub fn render(&self, context: &Context<'_>, out: &mut String) {
        self.render_with(context, "", out);
    }

    /// Appends the text with `absent` for what is absent (`-` in Envoy's access logs). Says whether
    /// anything but that was there to write.
    pub fn render_with(&self, context: &Context<'_>, absent: &str, out: &mut String) -> bool {
        let mut is_present = false;
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => {
                    out.push_str(text);
                    is_present = true;
                }
                Piece::Operator { operator, max } => {
                    let start = out.len();
                    if !operator.write(context, out) {
                        out.push_str(absent);
                        continue;
                    }
                    is_present = true;
                    if let Some(max) = max
                        && out.len() - start > *max
                    {
                        out.truncate(out.floor_char_boundary(start + max));
                    }
                }
            }
        }
        is_present
    }

    /// Appends the value of its only operator as JSON. Says whether there is one.
    pub(crate) fn render_json(&self, context: &Context<'_>, out: &mut String) -> bool {
        match &*self.0 {
            [Piece::Operator { operator, .. }] => operator.write_json(context, out),
            _ => false,
        }
    }

    /// What its value is where values have types: that of its only operator.
    pub(crate) fn kind(&self) -> Kind {
        match &*self.0 {
            [Piece::Operator { operator, max: None }] => operator.kind(),
            [Piece::Operator { .. }] => Kind::Text,
            _ => Kind::Mixed,
        }
    }

    /// The text, where it is the same for every request.
    pub fn literal(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }
}

/// Appends formatted text; writing to a string cannot fail.
fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str, context: &Context<'_>) -> String {
        let mut out = String::new();
        Template::compile(text).unwrap().render(context, &mut out);
        out
    }

    #[test]
    fn text_without_operators_is_literal() {
        assert_eq!(Template::compile("a b").unwrap().literal(), Some("a b"));
        assert_eq!(Template::compile("").unwrap().literal(), Some(""));
        assert_eq!(Template::compile("100%%").unwrap().literal(), Some("100%"));
        assert_eq!(Template::compile("%PROTOCOL%").unwrap().literal(), None);
    }

    #[test]
    fn operators_read_the_request_and_the_response() {
        let request = HeaderMap::from_iter([(http::header::HOST, "h".parse().unwrap())]);
        let response = HeaderMap::from_iter([(http::header::SERVER, "s".parse().unwrap())]);
        let context = Context {
            request_headers: Some(&request),
            response_headers: Some(&response),
            method: Some(&Method::PUT),
            path: "/q?z=1",
            host: "example.com",
            scheme: "https",
            protocol: Some(Version::HTTP_11),
            response_code: Some(201),
            remote: Some("10.0.0.1:5".parse().unwrap()),
            local: Some("[::1]:80".parse().unwrap()),
            start: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)),
            duration: Some(Duration::from_millis(7)),
            cluster: "c",
            bytes_sent: 9,
            ..Context::default()
        };
        for (text, want) in [
            ("%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)%", "PUT /q?z=1 example.com"),
            ("%REQ(host)% %REQ(X-NONE?:SCHEME)% [%REQ(x-none)%]", "h https []"),
            ("%REQ_WITHOUT_QUERY(:PATH)%", "/q"),
            ("%REQ(:AUTHORITY):4%|%RESP(server)%", "exam|s"),
            ("%PROTOCOL% %RESPONSE_CODE% %DURATION% %BYTES_SENT%", "HTTP/1.1 201 7 9"),
            ("%DOWNSTREAM_REMOTE_ADDRESS%", "10.0.0.1:5"),
            ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.1"),
            ("%DOWNSTREAM_LOCAL_ADDRESS%", "[::1]:80"),
            ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%", "::1 80"),
            ("%START_TIME%", "1970-01-01T00:00:01.500Z"),
            ("%START_TIME(%Y/%m/%d %H:%M:%S.%3f %s)%", "1970/01/01 00:00:01.500 1"),
            ("%UPSTREAM_CLUSTER%%%", "c%"),
            ("%UPSTREAM_HOST%", ""),
        ] {
            assert_eq!(render(text, &context), want, "{text}");
        }
    }

    #[test]
    fn absent_values_can_be_marked_as_in_access_logs() {
        let mut out = String::new();
        let template = Template::compile("%REQ(x)% %RESPONSE_FLAGS%").unwrap();
        assert!(template.render_with(&Context::default(), "-", &mut out));
        assert_eq!(out, "- -");
        let template = Template::compile("%REQ(x)%").unwrap();
        assert!(!template.render_with(&Context::default(), "", &mut out));
    }

    #[test]
    fn what_is_not_an_operator_is_refused_by_name() {
        for (text, want) in [
            ("%NOPE%", "unknown operator %NOPE%"),
            ("%REQ%", "%REQ% needs a header name in parentheses"),
            ("%REQ(a b)%", "%REQ%: \"a b\" is not a header name"),
            ("50% of", "a % that begins no operator; a plain one is written %%"),
            ("%PROTOCOL", "a % that begins no operator; a plain one is written %%"),
            ("%PROTOCOL(x)%", "%PROTOCOL% takes no argument"),
            ("%START_TIME(%Q)%", "%START_TIME%: unknown conversion %Q"),
        ] {
            assert_eq!(Template::compile(text).unwrap_err().to_string(), want, "{text}");
        }
    }
}
