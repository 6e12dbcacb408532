//! The operators themselves: their names, and what they write.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, Version};
use xds_proto::field::FieldError;

use super::rare::{self, MetadataPath, Rare};
use super::time::TimeFormat;
use super::{Context, Flags, Kind, Piece, grpc, push};

/// What stands between two percent signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operator {
    Header {
        of: Headers,
        name: Name,
        other: Option<Name>,
        without_query: bool,
    },
    StartTime(TimeFormat),
    EmitTime(TimeFormat),
    /// Path, or the one that the client sent, or the first of them that there is.
    Path {
        of: PathOf,
        without_query: bool,
    },
    QueryParameter(Box<str>),
    GrpcStatus(grpc::Form),
    UniqueId,
    Metadata(MetadataPath),
    Rare(Rare),
    Address(Address, Part),
    Text(Text),
    Flags {
        is_long: bool,
    },
    Number(Number),
    Protocol(Side),
    LocalReplyBody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Headers {
    Request,
    Response,
    Trailers,
}

/// A header, or one of the pseudo-headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Header(HeaderName),
    Method,
    Path,
    Authority,
    Scheme,
    Status,
}

/// Which path of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathOf {
    Present,
    Original,
    OriginalOrPresent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address {
    Remote,
    DirectRemote,
    Local,
    Upstream,
    UpstreamLocal,
    UpstreamRemote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Ip,
    Port,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Cluster,
    Details,
    Hostname,
    LogType,
    RouteName,
    ServerName,
    TerminationDetails,
    TlsVersion,
    TransportFailure,
    VirtualHost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Attempts,
    BytesReceived,
    BytesSent,
    Duration,
    RequestDuration,
    RequestHeadersBytes,
    RequestTransferDuration,
    ResponseCode,
    ResponseDuration,
    ResponseHeadersBytes,
    ResponseTrailersBytes,
    ResponseTransferDuration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Downstream,
    Upstream,
}

/// Takes one operator off the text behind its first `%`; the rest begins behind its last.
pub(super) fn parse(text: &str) -> Result<(Piece, &str), FieldError> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let malformed =
        || FieldError::invalid("a % that begins no operator; a plain one is written %%");
    let end = text.find(|c| !is_name(c)).ok_or_else(malformed)?;
    let (name, mut rest) = text.split_at(end);
    let mut argument = None;
    if let Some(inside) = rest.strip_prefix('(') {
        let (inside, after) = inside.split_once(')').ok_or_else(malformed)?;
        argument = Some(inside);
        rest = after;
    }
    let mut max = None;
    if let Some(digits) = rest.strip_prefix(':') {
        let end = digits.find('%').ok_or_else(malformed)?;
        max = Some(digits[..end].parse().map_err(|_| malformed())?);
        rest = &digits[end..];
    }
    let rest = rest.strip_prefix('%').ok_or_else(malformed)?;
    if name.is_empty() {
        return Err(malformed());
    }
    Ok((Piece::Operator { operator: operator(name, argument)?, max }, rest))
}

fn operator(name: &str, argument: Option<&str>) -> Result<Operator, FieldError> {
    let text = argument.unwrap_or_default();
    match name {
        "REQ" | "REQUEST_HEADER" | "REQ_WITHOUT_QUERY" => {
            return header(name, argument, Headers::Request);
        }
        "RESP" | "RESPONSE_HEADER" => return header(name, argument, Headers::Response),
        "TRAILER" | "RESPONSE_TRAILER" => return header(name, argument, Headers::Trailers),
        "START_TIME" => return TimeFormat::compile(text).map(Operator::StartTime),
        "EMIT_TIME" => return TimeFormat::compile(text).map(Operator::EmitTime),
        "PATH" => return path(text),
        "QUERY_PARAM" if !text.is_empty() => return Ok(Operator::QueryParameter(text.into())),
        "DYNAMIC_METADATA" => return MetadataPath::parse(name, text).map(Operator::Metadata),
        "METADATA" => return metadata(text),
        "GRPC_STATUS" => return grpc::Form::parse(text).map(Operator::GrpcStatus),
        _ => {}
    }
    if let Some(rare) = rare::parse(name, argument) {
        return rare.map(Operator::Rare);
    }
    match (plain(name).or_else(|| address(name)), argument) {
        (Some(operator), None) => Ok(operator),
        (Some(_), Some(_)) => Err(FieldError::invalid(format!("%{name}% takes no argument"))),
        (None, _) => Err(FieldError::invalid(format!("unknown operator %{name}%"))),
    }
}

/// The argument of `%METADATA%`: the kind, and a path.
fn metadata(argument: &str) -> Result<Operator, FieldError> {
    match argument.strip_prefix("DYNAMIC:") {
        Some(path) => MetadataPath::parse("METADATA", path).map(Operator::Metadata),
        None => Err(FieldError::invalid(format!(
            "%METADATA({argument})% is not supported, only DYNAMIC is"
        ))),
    }
}

/// The argument of `%PATH%`: with the query or without, and which path.
fn path(argument: &str) -> Result<Operator, FieldError> {
    let (query, of) = argument.split_once(':').unwrap_or((argument, ""));
    let unknown = || FieldError::invalid(format!("%PATH({argument})% is not known"));
    let without_query = match query {
        "" | "WQ" => false,
        "NQ" => true,
        _ => return Err(unknown()),
    };
    let of = match of {
        "" | "ORIG_OR_PATH" => PathOf::OriginalOrPresent,
        "ORIG" => PathOf::Original,
        "PATH" => PathOf::Present,
        _ => return Err(unknown()),
    };
    Ok(Operator::Path { of, without_query })
}

fn header(operator: &str, argument: Option<&str>, of: Headers) -> Result<Operator, FieldError> {
    let argument = argument.filter(|argument| !argument.is_empty()).ok_or_else(|| {
        FieldError::invalid(format!("%{operator}% needs a header name in parentheses"))
    })?;
    let name = |text: &str| {
        Ok(match (text.to_ascii_lowercase().as_str(), of) {
            (":method", Headers::Request) => Name::Method,
            (":path", Headers::Request) => Name::Path,
            (":authority", Headers::Request) => Name::Authority,
            (":scheme", Headers::Request) => Name::Scheme,
            (":status", Headers::Response) => Name::Status,
            (lower, _) => Name::Header(HeaderName::from_bytes(lower.as_bytes()).map_err(|_| {
                FieldError::invalid(format!("%{operator}%: {text:?} is not a header name"))
            })?),
        })
    };
    let (first, other) = match argument.split_once('?') {
        Some((first, other)) => (name(first)?, Some(name(other)?)),
        None => (name(argument)?, None),
    };
    let without_query = operator == "REQ_WITHOUT_QUERY";
    Ok(Operator::Header { of, name: first, other, without_query })
}

fn plain(name: &str) -> Option<Operator> {
    Some(match name {
        "LOCAL_REPLY_BODY" => Operator::LocalReplyBody,
        "PROTOCOL" => Operator::Protocol(Side::Downstream),
        "UPSTREAM_PROTOCOL" => Operator::Protocol(Side::Upstream),
        "RESPONSE_CODE" => Operator::Number(Number::ResponseCode),
        "DURATION" => Operator::Number(Number::Duration),
        "REQUEST_DURATION" => Operator::Number(Number::RequestDuration),
        "RESPONSE_DURATION" => Operator::Number(Number::ResponseDuration),
        "RESPONSE_TX_DURATION" => Operator::Number(Number::ResponseTransferDuration),
        "REQUEST_TX_DURATION" => Operator::Number(Number::RequestTransferDuration),
        "REQUEST_HEADERS_BYTES" => Operator::Number(Number::RequestHeadersBytes),
        "RESPONSE_HEADERS_BYTES" => Operator::Number(Number::ResponseHeadersBytes),
        "RESPONSE_TRAILERS_BYTES" => Operator::Number(Number::ResponseTrailersBytes),
        "GRPC_STATUS_NUMBER" => Operator::GrpcStatus(grpc::Form::Number),
        "UNIQUE_ID" => Operator::UniqueId,
        "BYTES_RECEIVED" => Operator::Number(Number::BytesReceived),
        "BYTES_SENT" => Operator::Number(Number::BytesSent),
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::Number(Number::Attempts),
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Operator::Text(Text::Cluster),
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::Text(Text::TransportFailure),
        "RESPONSE_CODE_DETAILS" => Operator::Text(Text::Details),
        "RESPONSE_FLAGS" => Operator::Flags { is_long: false },
        "RESPONSE_FLAGS_LONG" => Operator::Flags { is_long: true },
        "ACCESS_LOG_TYPE" => Operator::Text(Text::LogType),
        "CONNECTION_TERMINATION_DETAILS" => Operator::Text(Text::TerminationDetails),
        "ROUTE_NAME" => Operator::Text(Text::RouteName),
        "VIRTUAL_HOST_NAME" => Operator::Text(Text::VirtualHost),
        "REQUESTED_SERVER_NAME" => Operator::Text(Text::ServerName),
        "DOWNSTREAM_TLS_VERSION" => Operator::Text(Text::TlsVersion),
        "HOSTNAME" => Operator::Text(Text::Hostname),
        _ => return None,
    })
}

fn address(name: &str) -> Option<Operator> {
    if name == "UPSTREAM_HOST" {
        return Some(Operator::Address(Address::Upstream, Part::Whole));
    }
    for (prefix, address) in [
        ("DOWNSTREAM_REMOTE_", Address::Remote),
        ("DOWNSTREAM_DIRECT_REMOTE_", Address::DirectRemote),
        ("DOWNSTREAM_LOCAL_", Address::Local),
        ("UPSTREAM_REMOTE_", Address::UpstreamRemote),
        ("UPSTREAM_LOCAL_", Address::UpstreamLocal),
    ] {
        let part = match name.strip_prefix(prefix) {
            Some("ADDRESS") => Part::Whole,
            Some("ADDRESS_WITHOUT_PORT") => Part::Ip,
            Some("PORT") => Part::Port,
            _ => continue,
        };
        return Some(Operator::Address(address, part));
    }
    None
}

impl Operator {
    /// Appends the value; false, and nothing written, when there is none.
    pub(super) fn write(&self, context: &Context<'_>, out: &mut String) -> bool {
        match self {
            Self::Header { of, name, other, without_query } => {
                let start = out.len();
                let found = name.write(*of, context, out)
                    || other.as_ref().is_some_and(|other| other.write(*of, context, out));
                if *without_query && let Some(at) = out[start..].find('?') {
                    out.truncate(start + at);
                }
                found
            }
            Self::StartTime(format) => {
                context.start.map(|start| format.write(start.into(), out)).is_some()
            }
            Self::EmitTime(format) => {
                format.write(std::time::SystemTime::now().into(), out);
                true
            }
            Self::Path { of, without_query } => {
                let path = of.path(context);
                let end = if *without_query { path.find('?') } else { None };
                write_text(&path[..end.unwrap_or(path.len())], out)
            }
            Self::QueryParameter(name) => {
                let query = context.path.split_once('?').map_or("", |(_, query)| query);
                let mut pairs =
                    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                let value = pairs.find(|(key, _)| *key == &**name).map_or("", |(_, value)| value);
                write_decoded(value, out)
            }
            Self::GrpcStatus(form) => {
                grpc::status(context).map(|status| form.write(status, out)).is_some()
            }
            Self::UniqueId => {
                let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes());
                push(out, format_args!("{}", id.into_uuid()));
                true
            }
            Self::Metadata(path) => context.left(path).map(|left| left.write(out)).is_some(),
            Self::Rare(asked) => context.lookup.is_some_and(|lookup| lookup.write(asked, out)),
            Self::Address(address, part) => {
                address.of(context).map(|address| part.write(address, out)).is_some()
            }
            // Envoy writes a dash where no flag is set.
            Self::Flags { .. } if context.flags.is_empty() => write_text("-", out),
            Self::Flags { is_long: false } => {
                push(out, format_args!("{}", context.flags));
                true
            }
            Self::Flags { is_long: true } => {
                write_long_flags(context.flags, out);
                true
            }
            Self::Text(text) => write_text(text.of(context), out),
            // Empty, it is there all the same.
            Self::LocalReplyBody => {
                out.push_str(context.local_reply_body);
                true
            }
            Self::Number(number) => {
                number.of(context).map(|number| push(out, format_args!("{number}"))).is_some()
            }
            Self::Protocol(side) => {
                side.of(context).is_some_and(|version| write_text(protocol(version), out))
            }
        }
    }
}

/// Writes a text with what is percent-encoded in it decoded; says whether there is any.
fn write_decoded(text: &str, out: &mut String) -> bool {
    if !text.contains('%') {
        return write_text(text, out);
    }
    let digit = |at: usize| text.as_bytes().get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut decoded, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(byte) = text.as_bytes().get(at) {
        let pair = if *byte == b'%' { digit(at + 1).zip(digit(at + 2)) } else { None };
        let code = pair.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        decoded.push(code.unwrap_or(*byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    write_text(&String::from_utf8_lossy(&decoded), out)
}

/// Envoy's names of response flags.
fn write_long_flags(flags: Flags<'_>, out: &mut String) {
    for (index, flag) in flags.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(match flag {
            "DC" => "DownstreamConnectionTermination",
            "DI" => "DelayInjected",
            "DPE" => "DownstreamProtocolError",
            "DT" => "DurationTimeout",
            "FI" => "FaultInjected",
            "LH" => "FailedLocalHealthCheck",
            "NC" => "NoClusterFound",
            "NR" => "NoRouteFound",
            "OM" => "OverloadManagerTerminated",
            "RL" => "RateLimited",
            "SI" => "StreamIdleTimeout",
            "UAEX" => "UnauthorizedExternalService",
            "UC" => "UpstreamConnectionTermination",
            "UF" => "UpstreamConnectionFailure",
            "UH" => "NoHealthyUpstream",
            "UO" => "UpstreamOverflow",
            "UPE" => "UpstreamProtocolError",
            "UR" => "UpstreamRemoteReset",
            "URX" => "UpstreamRetryLimitExceeded",
            "UT" => "UpstreamRequestTimeout",
            other => other,
        });
    }
}

fn write_text(text: &str, out: &mut String) -> bool {
    out.push_str(text);
    !text.is_empty()
}

impl Name {
    fn write(&self, of: Headers, context: &Context<'_>, out: &mut String) -> bool {
        match self {
            Self::Header(name) => {
                let headers = match of {
                    Headers::Request => context.request_headers,
                    Headers::Response => context.response_headers,
                    Headers::Trailers => context.response_trailers,
                };
                // The first line of several, as in Envoy.
                headers
                    .and_then(|headers| headers.get(name))
                    .map(|value| out.push_str(&String::from_utf8_lossy(value.as_bytes())))
                    .is_some()
            }
            Self::Method => write_text(context.method.map_or("", |method| method.as_str()), out),
            Self::Path => write_text(context.path, out),
            Self::Authority => write_text(context.host, out),
            Self::Scheme => write_text(context.scheme, out),
            Self::Status => {
                context.response_code.map(|code| push(out, format_args!("{code}"))).is_some()
            }
        }
    }
}

impl PathOf {
    fn path<'a>(self, context: &Context<'a>) -> &'a str {
        let original = || {
            let headers = context.request_headers?;
            headers.get("x-envoy-original-path")?.to_str().ok()
        };
        match self {
            Self::Present => context.path,
            Self::Original => original().unwrap_or_default(),
            Self::OriginalOrPresent => original().unwrap_or(context.path),
        }
    }
}

impl Address {
    fn of(self, context: &Context<'_>) -> Option<SocketAddr> {
        match self {
            Self::Remote => context.remote,
            Self::DirectRemote => context.direct_remote,
            Self::Local => context.local,
            Self::Upstream => context.endpoint,
            Self::UpstreamLocal => context.upstream_local.copied(),
            // Without a connection there is no other side.
            Self::UpstreamRemote => {
                context.endpoint.filter(|_| context.upstream_protocol.is_some())
            }
        }
    }
}

impl Part {
    fn write(self, address: SocketAddr, out: &mut String) {
        match self {
            Self::Whole => push(out, format_args!("{address}")),
            Self::Ip => push(out, format_args!("{}", address.ip())),
            Self::Port => push(out, format_args!("{}", address.port())),
        }
    }
}

impl Text {
    fn of<'a>(self, context: &Context<'a>) -> &'a str {
        match self {
            Self::Cluster => context.cluster,
            Self::Details => context.details,
            Self::LogType if context.log_type.is_empty() => "NotSet",
            Self::LogType => context.log_type,
            Self::Hostname => context.hostname,
            Self::RouteName => context.route_name,
            Self::ServerName => context.server_name,
            Self::TerminationDetails => context.termination_details,
            Self::TlsVersion => context.tls_version,
            Self::TransportFailure => context.transport_failure,
            Self::VirtualHost => context.virtual_host,
        }
    }
}

impl Number {
    fn of(self, context: &Context<'_>) -> Option<u64> {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        match self {
            Self::Attempts => Some(context.attempts.into()),
            Self::BytesReceived => Some(context.bytes_received),
            Self::BytesSent => Some(context.bytes_sent),
            Self::Duration => context.duration.map(ms),
            Self::RequestDuration => context.request_duration.map(ms),
            // What goes upstream goes as it comes.
            Self::RequestTransferDuration if context.upstream_protocol.is_none() => None,
            Self::RequestTransferDuration => context.request_duration.map(ms),
            Self::RequestHeadersBytes => Some(context.request_headers_bytes()),
            Self::ResponseHeadersBytes => Some(context.response_headers_bytes()),
            Self::ResponseTrailersBytes => Some(context.response_trailers.map_or(0, bytes)),
            // Envoy writes 0 where there was no response.
            Self::ResponseCode => Some(context.response_code.unwrap_or(0).into()),
            Self::ResponseDuration => context.response_duration.map(ms),
            Self::ResponseTransferDuration => {
                Some(ms(context.duration?.saturating_sub(context.response_duration?)))
            }
        }
    }
}

/// Bytes of names and values, as Envoy counts them.
pub(super) fn bytes(headers: &HeaderMap) -> u64 {
    let lengths = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    u64::try_from(lengths.sum::<usize>()).unwrap_or(u64::MAX)
}

impl Operator {
    /// Appends the value as JSON, where it has a form in JSON; false when there is none.
    pub(super) fn write_json(&self, context: &Context<'_>, out: &mut String) -> bool {
        match self {
            Self::Metadata(path) => context.left(path).map(|left| left.write_json(out)).is_some(),
            other => other.write(context, out),
        }
    }

    /// What the value is in a typed format.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Number(_) | Self::GrpcStatus(grpc::Form::Number) => Kind::Number,
            Self::Address(_, Part::Port) => Kind::Number,
            Self::Rare(rare) if rare.is_number() => Kind::Number,
            Self::Metadata(_) => Kind::Json,
            _ => Kind::Text,
        }
    }
}

impl Side {
    fn of(self, context: &Context<'_>) -> Option<Version> {
        match self {
            Self::Downstream => context.protocol,
            Self::Upstream => context.upstream_protocol,
        }
    }
}

/// The name Envoy gives a protocol.
fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 | Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}
