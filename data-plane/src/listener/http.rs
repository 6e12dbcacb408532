//! What the HTTP connection manager of a filter chain was told.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::filtering::header_change::HeaderChange;
use crate::framing::http2::FrameLimits;
use crate::matcher::cidr::Cidr;

/// How a chain treats its connections and requests.
///
/// The default is what Envoy does when nothing is set, lax where Envoy is lax.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOptions {
    /// Which protocol connections speak.
    pub codec: Codec,
    /// Who the client is, and who may say so.
    pub edge: EdgeOptions,
    /// How paths are made canonical.
    pub path: PathOptions,
    /// How the port of the authority is treated.
    pub host: HostOptions,
    /// What becomes of header names with underscores.
    pub underscores: Underscores,
    /// `expect: 100-continue` goes upstream, whose word begins the body.
    pub passes_expectations: bool,
    /// Clients are told which replies are for overload (`append_local_overload`).
    pub tells_overload: bool,
    /// The `server` header of responses.
    pub server: ServerHeader,
    /// How large a request head may be.
    pub limits: HeadLimits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How many requests a connection may carry.
    pub requests_max: Option<u32>,
    /// HTTP/1 connections.
    pub http1: Http1Options,
    /// HTTP/2 connections.
    pub http2: Http2Options,
    /// Protocols that a client may upgrade to, in lower case; a route may say otherwise.
    pub upgrades: Box<[Upgrade]>,
}

/// Which protocol the connections of a chain speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Codec {
    /// What ALPN agreed on, or what the first bytes are.
    #[default]
    Auto,
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// Who the client is, and who may say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeOptions {
    /// The peer of the connection is the client, and is added to `x-forwarded-for`.
    pub use_remote_address: bool,
    /// Proxies in front that may be believed.
    pub trusted_hops: u32,
    /// Leave `x-forwarded-for` as it came.
    pub skip_xff_append: bool,
    /// Where else the client's address is looked for, first to last, where it is not the peer's.
    pub detections: Box<[Detection]>,
    /// Client addresses that are inside.
    pub internal: Box<[Cidr]>,
    /// Changes of the headers before anything looks at them.
    pub early_changes: Box<[HeaderChange]>,
    /// Tell the listener's port in `x-forwarded-port`.
    pub append_port: bool,
    /// Added to the `via` header of requests and responses.
    pub via: Option<HeaderValue>,
    /// Give each request an id.
    pub generate_request_id: bool,
    /// Keep the id that an edge client sent.
    pub preserve_request_id: bool,
    /// Tell the id in every response.
    pub request_id_in_response: bool,
    /// What upstream is told of the client's certificate.
    pub certificate: ForwardCertificate,
    /// What of it, where we tell it ourselves.
    pub certificate_details: CertificateDetails,
}

/// A way to find the address of the client (`original_ip_detection_extensions`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detection {
    /// In `x-forwarded-for`.
    ForwardedFor {
        /// Which of its addresses.
        by: ForwardedBy,
        /// Add the peer to the header.
        appends: bool,
    },
    /// In a header of its own.
    Header {
        /// The header.
        name: HeaderName,
        /// The address may count as inside.
        is_trusted: bool,
        /// Refuse requests without an address.
        else_status: Option<StatusCode>,
    },
}

/// Which address of `x-forwarded-for` is the client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardedBy {
    /// The one that so many others follow.
    Hops(u32),
    /// The last that is none of these proxies, where the peer is one of them.
    Proxies(Box<[Cidr]>),
}

/// What becomes of `x-forwarded-client-cert` (`forward_client_cert_details`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardCertificate {
    /// It is dropped.
    #[default]
    Sanitize,
    /// It is passed on if the client showed a certificate itself.
    ForwardOnly,
    /// As `ForwardOnly`, and the client's own certificate is added.
    AppendForward,
    /// The client's own certificate, if it showed one, is all that there is.
    SanitizeSet,
    /// It is passed on.
    AlwaysForwardOnly,
}

/// What is told of a client's certificate, beside its hash (`set_current_client_cert_details`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags, as the API has them")]
pub struct CertificateDetails {
    /// The subject.
    pub subject: bool,
    /// The certificate itself.
    pub certificate: bool,
    /// All certificates that the client sent.
    pub chain: bool,
    /// The DNS names.
    pub dns: bool,
    /// The URIs.
    pub uri: bool,
    /// The issuer.
    pub issuer: bool,
}

impl Default for EdgeOptions {
    fn default() -> Self {
        Self {
            use_remote_address: false,
            trusted_hops: 0,
            skip_xff_append: false,
            detections: Box::default(),
            internal: Box::default(),
            early_changes: Box::default(),
            append_port: false,
            via: None,
            generate_request_id: true,
            preserve_request_id: false,
            request_id_in_response: false,
            certificate: ForwardCertificate::default(),
            certificate_details: CertificateDetails::default(),
        }
    }
}

/// How paths are made canonical before they are matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathOptions {
    /// Resolve dot segments, decode what needs no encoding (RFC 3986 section 6).
    pub normalize: bool,
    /// Make one slash of several.
    pub merge_slashes: bool,
    /// What becomes of `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

/// What becomes of `%2F` and `%5C` in a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They stay.
    #[default]
    Keep,
    /// The request is refused.
    Reject,
    /// The client is sent to the decoded path.
    Redirect,
    /// They are decoded.
    Decode,
}

/// How the authority is treated before hosts are matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostOptions {
    /// Which ports are taken off.
    pub strip_port: StripPort,
    /// Take a dot off the end.
    pub strip_trailing_dot: bool,
}

/// Which port is taken off the authority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StripPort {
    /// None.
    #[default]
    No,
    /// The listener's own.
    Matching,
    /// Any.
    Any,
}

/// What becomes of header names with underscores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Underscores {
    /// They pass.
    #[default]
    Allow,
    /// The request is refused.
    Reject,
    /// The header is dropped.
    Drop,
}

/// The `server` header of responses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerHeader {
    /// Ours, whatever upstream says.
    Overwrite(HeaderValue),
    /// Ours where upstream says nothing.
    AppendIfAbsent(HeaderValue),
    /// What upstream says.
    PassThrough,
}

/// How large a request head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of names and values.
    pub bytes_max: u32,
    /// Fields; each cookie crumb is one.
    pub fields_max: usize,
}

/// How long things may take; `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A connection without a request.
    pub connection_idle: Option<Duration>,
    /// A connection as a whole; then it drains.
    pub connection_age_max: Option<Duration>,
    /// A request in which nothing moves; a route may say otherwise.
    pub stream_idle: Option<Duration>,
    /// Until the request is there as a whole.
    pub request: Option<Duration>,
    /// Until the head of the request is there.
    pub request_headers: Option<Duration>,
    /// A stream as a whole; a route may say otherwise.
    pub stream_age_max: Option<Duration>,
    /// From the word that a connection of HTTP/1 ends to its end, where nobody asks for anything.
    pub drain: Duration,
    /// While what the client still sends is read after the last answer.
    pub linger: Option<Duration>,
    /// A connection of HTTP/1 that is too old ends only with an answer.
    pub ends_with_answer: bool,
}

/// What holds for HTTP/1 connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags, as the API has them")]
pub struct Http1Options {
    /// Serve HTTP/1.0.
    pub accept_http_10: bool,
    /// The host of an HTTP/1.0 request without one.
    pub default_host: Option<HeaderValue>,
    /// Take a request with both `content-length` and `transfer-encoding`, by the latter.
    pub allow_chunked_length: bool,
    /// Take methods that are not known.
    pub allow_custom_methods: bool,
    /// Refuse targets that name a host.
    pub refuse_absolute_url: bool,
    /// Take trailers of requests, and send those of responses.
    pub trailers: bool,
    /// Keep names of headers as they are written.
    pub keeps_case: bool,
}

/// What holds for HTTP/2 connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Options {
    /// Streams at a time.
    pub concurrent_streams_max: u32,
    /// Bytes that a client may send on a stream without being asked for more.
    pub stream_window: u32,
    /// Bytes that a client may send on a connection without being asked for more.
    pub connection_window: u32,
    /// Extended CONNECT (RFC 8441).
    pub allow_connect: bool,
    /// Pings: how often, and how long the answer may take.
    pub keepalive: Option<(Duration, Duration)>,
    /// Bytes of the table that headers of requests may refer to.
    pub header_table_bytes: Option<u32>,
    /// How many frames of a kind are too many.
    pub frames: FrameLimits,
}

/// A protocol that a client may upgrade to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The protocol, in lower case.
    pub protocol: Arc<str>,
    /// Whether it is allowed.
    pub enabled: bool,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            codec: Codec::default(),
            edge: EdgeOptions::default(),
            path: PathOptions::default(),
            host: HostOptions::default(),
            underscores: Underscores::default(),
            passes_expectations: false,
            tells_overload: false,
            server: ServerHeader::Overwrite(HeaderValue::from_static("envoy")),
            limits: HeadLimits { bytes_max: 60 * 1024, fields_max: 100 },
            timeouts: Timeouts {
                connection_idle: Some(Duration::from_secs(3600)),
                connection_age_max: None,
                stream_idle: Some(Duration::from_secs(300)),
                request: None,
                // Envoy has none; a client that drips a head would hold a connection for ever.
                request_headers: Some(Duration::from_secs(15)),
                stream_age_max: None,
                drain: Duration::from_secs(5),
                linger: Some(Duration::from_secs(1)),
                ends_with_answer: false,
            },
            requests_max: None,
            http1: Http1Options::default(),
            http2: Http2Options {
                // Envoy 1.40's defaults: 1024 streams, 16 MiB and 24 MiB of window.
                concurrent_streams_max: 1024,
                stream_window: 16 << 20,
                connection_window: 24 << 20,
                allow_connect: false,
                keepalive: None,
                header_table_bytes: None,
                frames: FrameLimits::default(),
            },
            upgrades: Box::default(),
        }
    }
}
