//! Every message head is checked beside the codec, before anything believes it.
//!
//! A request that passes has its path and query as its URI, and exactly one valid `host` header,
//! whatever version it came in.

pub mod path;
mod host;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};

use self::path::Canonical;
use crate::framing::Violation;
use crate::listener::http::{HttpOptions, Underscores};
use crate::telemetry::why::Why;

/// A request that is not served, and what the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// An answer by reason.
    Why(Why),
    /// An answer by reason, of which more is to be told as `%RESPONSE_CODE_DETAILS%`.
    Detail(Why, &'static str),
    /// An answer of another status, without a body; and its details.
    Status(StatusCode, &'static str),
    /// The client is sent to the canonical path.
    Redirect(HeaderValue),
    /// The client's address is not known; an answer of this status.
    NoClient(StatusCode),
}

impl From<Why> for Refused {
    fn from(why: Why) -> Self {
        Self::Why(why)
    }
}

impl From<Violation> for Refused {
    fn from(violation: Violation) -> Self {
        let bad = |details| Self::Detail(Why::BadRequest, details);
        match violation {
            Violation::Line
            | Violation::LineEnd
            | Violation::Method
            | Violation::Length
            | Violation::LengthWithoutBody
            | Violation::Chunk
            | Violation::CutShort
            | Violation::Trailers
            | Violation::Surplus => Self::Why(Why::BadRequest),
            Violation::Character => bad("http1.invalid_characters"),
            Violation::Target => bad("http1.invalid_url"),
            Violation::Scheme => bad("http1.invalid_scheme"),
            Violation::Encoding => bad("http1.invalid_transfer_encoding"),
            Violation::LengthAndEncoding => bad("http1.content_length_and_chunked_not_allowed"),
            Violation::Version => Self::Why(Why::UnknownVersion),
            Violation::FieldCount => Self::Detail(Why::HeadersTooLarge, "http1.too_many_headers"),
            Violation::HeadSize => Self::Detail(Why::HeadersTooLarge, "http1.headers_too_large"),
            Violation::TargetSize => Self::Why(Why::TargetTooLong),
            Violation::Timeout => Self::Why(Why::HeaderTimeout),
        }
    }
}

/// What a request asks for beyond an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asks {
    /// The protocol to upgrade to, as sent.
    pub upgrade: Option<HeaderValue>,
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Checks the head of a request and makes it canonical. `local_port` is the listener's.
///
/// # Errors
/// When it must not be served.
pub fn request<B>(
    request: &mut Request<B>,
    options: &HttpOptions,
    local_port: u16,
) -> Result<Asks, Refused> {
    version(request, options)?;
    if request.method() == Method::CONNECT {
        // No route is for it: those that are (`connect_matcher`) are not taken.
        return Err(Refused::Why(Why::NoRoute));
    }
    let version = request.version();
    let headers = request.headers_mut();
    let fields = Fields::of(headers);
    if fields.has(Fields::FRAMING) {
        framing(headers, version)?;
    }
    if fields.has(Fields::EXPECT) {
        expectation(headers, options.passes_expectations)?;
    }
    if headers.len() > options.limits.fields_max {
        return Err(Refused::Why(Why::HeadersTooLarge));
    }
    underscores(headers, options.underscores, version)?;
    let mut asked = None;
    if fields.has(Fields::HOP_BY_HOP) {
        asked = upgrade(headers, version);
        take_hop_by_hop(headers);
    }
    if let Some(protocol) = &asked {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    host::settle(request, options, local_port)?;
    target(request, options)?;
    if fields.has(Fields::COOKIE) {
        join_cookies(request.headers_mut());
    }
    Ok(Asks { upgrade: asked })
}

/// Which fields a head has of those that are looked at: one pass instead of a look-up for each, since
/// nearly always there is none.
#[derive(Debug, Clone, Copy)]
struct Fields(u8);

impl Fields {
    const FRAMING: u8 = 1;
    const EXPECT: u8 = 2;
    const HOP_BY_HOP: u8 = 4;
    const COOKIE: u8 = 8;

    fn of(headers: &HeaderMap) -> Self {
        let one = |name: &HeaderName| match name.as_str() {
            "content-length" => Self::FRAMING,
            "transfer-encoding" => Self::FRAMING | Self::HOP_BY_HOP,
            "expect" => Self::EXPECT,
            "connection" | "te" | "upgrade" | "keep-alive" | "proxy-connection"
            | "http2-settings" => Self::HOP_BY_HOP,
            "cookie" => Self::COOKIE,
            _ => 0,
        };
        Self(headers.keys().fold(0, |fields, name| fields | one(name)))
    }

    fn has(self, fields: u8) -> bool {
        self.0 & fields != 0
    }
}

fn version<B>(request: &mut Request<B>, options: &HttpOptions) -> Result<(), Refused> {
    if request.version() != Version::HTTP_10 && request.version() != Version::HTTP_09 {
        return Ok(());
    }
    if !options.http1.accept_http_10 {
        return Err(Refused::Why(Why::LowVersion));
    }
    if let Some(host) = &options.http1.default_host
        && !request.headers().contains_key(HOST)
    {
        request.headers_mut().insert(HOST, host.clone());
    }
    Ok(())
}

/// Exactly `chunked`, or a length that is one number; never both (RFC 9112 section 6.3).
fn framing(headers: &HeaderMap, version: Version) -> Result<(), Refused> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        let is_chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
        let is_alone = encodings.next().is_none() && !headers.contains_key(CONTENT_LENGTH);
        if !is_chunked || !is_alone || version != Version::HTTP_11 {
            return Err(Refused::Why(Why::BadRequest));
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next()
        && (lengths.next().is_some() || !is_number(length))
    {
        return Err(Refused::Why(Why::BadRequest));
    }
    Ok(())
}

fn is_number(value: &HeaderValue) -> bool {
    !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit)
}

/// `100-continue` is answered by the codec as soon as somebody reads the body: at once, or when
/// upstream wants it.
fn expectation(headers: &mut HeaderMap, passes: bool) -> Result<(), Refused> {
    let Some(value) = headers.get(EXPECT) else { return Ok(()) };
    if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
        return Err(Refused::Status(StatusCode::EXPECTATION_FAILED, "expectation_failed"));
    }
    if !passes {
        headers.remove(EXPECT);
    }
    Ok(())
}

fn underscores(
    headers: &mut HeaderMap,
    action: Underscores,
    version: Version,
) -> Result<(), Refused> {
    let has_underscore = |name: &&HeaderName| name.as_str().contains('_');
    match action {
        Underscores::Allow => {}
        Underscores::Reject => {
            if headers.keys().any(|name| has_underscore(&name)) {
                let details = match version {
                    Version::HTTP_2 => "http2.unexpected_underscore",
                    _ => "http1.unexpected_underscore",
                };
                return Err(Refused::Detail(Why::BadRequest, details));
            }
        }
        Underscores::Drop => {
            let names: Vec<_> = headers.keys().filter(has_underscore).cloned().collect();
            for name in names {
                headers.remove(name);
            }
        }
    }
    Ok(())
}

/// The protocol that a client wants to speak from here on. Cleartext HTTP/2 is not offered this way
/// (RFC 9113 section 3.1).
fn upgrade(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let is_asked = version >= Version::HTTP_11
        && nominated(headers).any(|name| name.eq_ignore_ascii_case("upgrade"));
    (is_asked && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| protocol.clone())
}

fn nominated(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Removes what concerns one connection only (RFC 9110 section 7.6.1). `te: trailers` stays, since
/// we forward trailers.
pub fn drop_hop_by_hop(headers: &mut HeaderMap) {
    if Fields::of(headers).has(Fields::HOP_BY_HOP) {
        take_hop_by_hop(headers);
    }
}

fn take_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let names: Vec<HeaderName> = nominated(headers)
            .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .filter(|name| !is_protected(name))
            .collect();
        for name in names {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    if headers.contains_key(TE) {
        let wants_trailers = headers.get_all(TE).iter().any(|value| {
            let mut codings = value.as_bytes().split(|byte| *byte == b',');
            codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        });
        headers.remove(TE);
        if wants_trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    for name in [TRANSFER_ENCODING, UPGRADE, KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS] {
        headers.remove(name);
    }
}

/// What a client cannot have removed by naming it in `connection`: framing, the host, and what we
/// and the proxies around us say in headers.
fn is_protected(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "host"
            | "content-length"
            | "transfer-encoding"
            | "te"
            | "upgrade"
            | "cookie"
            | "authorization"
            | "content-type"
            | "via"
            | "forwarded"
            | "x-request-id"
    ) || name.starts_with("x-forwarded-")
        || name.starts_with("x-envoy-")
        || name.starts_with("x-weighlock-")
}

/// Leaves the canonical path and query as the URI.
fn target<B>(request: &mut Request<B>, options: &HttpOptions) -> Result<(), Refused> {
    let uri = request.uri();
    let before = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let is_asterisk = before == "*" && request.method() == Method::OPTIONS;
    if !before.starts_with('/') && !is_asterisk {
        return Err(Refused::Why(Why::BadRequest));
    }
    if request.version() == Version::HTTP_2 && !before.is_ascii() {
        return Err(Refused::Detail(Why::BadRequest, "http2.invalid.header.field"));
    }
    let is_origin_form = uri.authority().is_none() && uri.scheme().is_none();
    let canonical = if is_asterisk {
        Canonical::Serve(before.into())
    } else {
        // Envoy gives such a refusal no body.
        path::canonical(before, options.path)
            .map_err(|_| Refused::Status(StatusCode::BAD_REQUEST, "path_normalization_failed"))?
    };
    match canonical {
        Canonical::Redirect(to) => {
            Err(HeaderValue::try_from(to).map_or(Refused::Why(Why::BadRequest), Refused::Redirect))
        }
        Canonical::Serve(path) if is_origin_form && path == before => Ok(()),
        Canonical::Serve(path) => {
            let path =
                PathAndQuery::try_from(path.as_ref()).map_err(|_| Refused::Why(Why::BadRequest))?;
            *request.uri_mut() = Uri::from(path);
            Ok(())
        }
    }
}

/// HTTP/2 clients may send cookies in crumbs, which HTTP/1 does not know (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs = headers.get_all(COOKIE).iter().count();
    if crumbs < 2 {
        return;
    }
    let mut joined = Vec::new();
    for crumb in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

/// A response that must not be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response breaks the protocol")]
pub struct BadResponse;

/// Checks the head of a response. `asked_upgrade` says whether it may be a 101.
///
/// # Errors
/// When its framing cannot be trusted, or it switches protocols and nobody asked.
pub fn response<B>(response: &mut Response<B>, asked_upgrade: bool) -> Result<(), BadResponse> {
    let status = response.status();
    let headers = response.headers_mut();
    let fields = Fields::of(headers);
    if fields.has(Fields::FRAMING) {
        let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
        if let Some(encoding) = encodings.next() {
            let is_chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
            if !is_chunked || encodings.next().is_some() {
                return Err(BadResponse);
            }
            // Both together come this far only where the cluster allows it; the encoding counts then.
            headers.remove(CONTENT_LENGTH);
        }
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        if let Some(length) = lengths.next()
            && (!is_number(length) || lengths.any(|other| other != length))
        {
            return Err(BadResponse);
        }
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return if asked_upgrade { Ok(()) } else { Err(BadResponse) };
    }
    if status.is_informational() {
        return Err(BadResponse);
    }
    if fields.has(Fields::HOP_BY_HOP) {
        take_hop_by_hop(headers);
        headers.remove(TE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::http::{Http1Options, PathOptions};

    fn parts(line: &str, version: Version, headers: &[(&str, &str)]) -> Request<()> {
        let (method, target) = line.split_once(' ').unwrap();
        let mut request = http::Request::builder().method(method).uri(target).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn check(line: &str, headers: &[(&str, &str)]) -> Result<(Request<()>, Asks), Refused> {
        let mut head = parts(line, Version::HTTP_11, headers);
        request(&mut head, &HttpOptions::default(), 80).map(|asks| (head, asks))
    }

    #[test]
    fn what_breaks_framing_or_host_is_refused() {
        let host = ("host", "a.test");
        for (line, headers) in [
            ("GET /", vec![host, host]),
            ("GET /", vec![("host", "")]),
            ("GET /", vec![("host", "a b")]),
            ("GET /", vec![("host", "user@a.test")]),
            ("GET /", vec![("host", "a.test,b.test")]),
            ("GET /", vec![("host", "a.test/b")]),
            ("GET /", vec![("host", "a.test:99999")]),
            ("GET /", vec![("host", "a.test:+1")]),
            ("GET /", vec![("host", "[::1")]),
            ("GET /", vec![host, ("transfer-encoding", "chunked"), ("content-length", "1")]),
            ("GET /", vec![host, ("transfer-encoding", "identity, chunked")]),
            ("GET /", vec![host, ("transfer-encoding", "chunked, chunked")]),
            ("GET /", vec![host, ("transfer-encoding", "gzip")]),
            ("GET /", vec![host, ("transfer-encoding", "chunked"), ("transfer-encoding", "x")]),
            ("GET /", vec![host, ("content-length", "+5")]),
            ("GET /", vec![host, ("content-length", "5"), ("content-length", "6")]),
            ("GET *", vec![host]),
        ] {
            let refused = check(line, &headers).map(|_| ());
            let is_bad = matches!(
                refused,
                Err(Refused::Why(Why::BadRequest) | Refused::Detail(Why::BadRequest, _))
            );
            assert!(is_bad, "{line} {headers:?}: {refused:?}");
        }
    }

    #[test]
    fn what_is_well_formed_passes() {
        for (line, host) in [
            ("GET /a?b=c", "a.test"),
            ("GET /", "a.test:8080"),
            ("GET /", "[::1]:80"),
            ("GET /", "127.0.0.1"),
            ("OPTIONS *", "a.test"),
            ("GET http://a.test/x", "a.test"),
            ("GET http://a.test:80/x", "A.test"),
            ("GET https://a.test/x", "a.test:443"),
            ("GET http://a.test:81/x", "a.test:81"),
        ] {
            assert!(check(line, &[("host", host)]).is_ok(), "{line} {host}");
        }
        let (head, _) = check("GET http://a.test/x?y", &[("host", "A.test:80")]).unwrap();
        assert_eq!(*head.uri(), "/x?y");
        assert_eq!(head.headers()[HOST], "a.test");
        let connect = check("CONNECT a.test:80", &[("host", "a.test:80")]);
        assert_eq!(connect.unwrap_err(), Refused::Why(Why::NoRoute));
        let none = Refused::Status(StatusCode::BAD_REQUEST, "missing_host_header");
        assert_eq!(check("GET /", &[]).unwrap_err(), none);
    }

    #[test]
    fn connection_takes_its_own_headers_and_no_others() {
        let (head, _) = check(
            "GET /",
            &[
                ("host", "a.test"),
                ("connection", "close, x-mine, host, x-forwarded-for, content-length"),
                ("x-mine", "1"),
                ("x-forwarded-for", "1.2.3.4"),
                ("content-length", "0"),
                ("keep-alive", "5"),
                ("te", "deflate, Trailers"),
                ("upgrade", "h2c"),
            ],
        )
        .unwrap();
        let names: Vec<_> = head.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!(head.headers()[TE], "trailers");
        assert!(head.headers().contains_key("x-forwarded-for"));
        assert!(head.headers().contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn an_upgrade_is_asked_for_by_two_headers() {
        let upgrade = |headers: &[(&str, &str)]| {
            let mut all = vec![("host", "a.test")];
            all.extend(headers);
            check("GET /", &all).unwrap().1.upgrade
        };
        assert_eq!(
            upgrade(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]),
            Some(HeaderValue::from_static("websocket"))
        );
        assert_eq!(upgrade(&[("upgrade", "websocket")]), None);
        assert_eq!(upgrade(&[("connection", "upgrade"), ("upgrade", "h2c")]), None);
    }

    #[test]
    fn http2_joins_crumbs_and_knows_one_authority() {
        let options = HttpOptions::default();
        let target = "GET http://a.test/";
        let mut head = parts(target, Version::HTTP_2, &[("cookie", "a=1"), ("cookie", "b=2")]);
        request(&mut head, &options, 80).unwrap();
        assert_eq!(head.headers()[COOKIE], "a=1; b=2");
        assert_eq!(head.headers()[HOST], "a.test");
        let mut head = parts(target, Version::HTTP_2, &[("host", "b.test")]);
        assert_eq!(request(&mut head, &options, 80), Err(host::INVALID_AUTHORITY));
    }

    #[test]
    fn limits_and_options_refuse_by_their_own_status() {
        let options = HttpOptions {
            underscores: Underscores::Reject,
            path: PathOptions { normalize: true, ..PathOptions::default() },
            ..HttpOptions::default()
        };
        let refused = |line: &str, version, headers: &[(&str, &str)]| {
            let mut all = vec![("host", "a.test")];
            all.extend(headers);
            request(&mut parts(line, version, &all), &options, 80).unwrap_err()
        };
        let http11 = Version::HTTP_11;
        for (version, details) in [
            (http11, "http1.unexpected_underscore"),
            (Version::HTTP_2, "http2.unexpected_underscore"),
        ] {
            let refused = refused("GET /", version, &[("a_b", "1")]);
            assert_eq!(refused, Refused::Detail(Why::BadRequest, details));
        }
        assert_eq!(refused("GET /", Version::HTTP_10, &[]), Refused::Why(Why::LowVersion));
        assert_eq!(
            refused("GET /", http11, &[("expect", "200-ok")]),
            Refused::Status(StatusCode::EXPECTATION_FAILED, "expectation_failed")
        );
        let path = Refused::Status(StatusCode::BAD_REQUEST, "path_normalization_failed");
        assert_eq!(refused("GET /%00", http11, &[]), path);
        let many = vec![("x-h", "1"); 100];
        assert_eq!(refused("GET /", http11, &many), Refused::Why(Why::HeadersTooLarge));
    }

    #[test]
    fn http_1_0_gets_the_default_host_where_it_is_served() {
        let options = HttpOptions {
            http1: Http1Options {
                accept_http_10: true,
                default_host: Some(HeaderValue::from_static("a.test")),
                ..Http1Options::default()
            },
            ..HttpOptions::default()
        };
        let mut head = parts("GET /", Version::HTTP_10, &[]);
        assert!(request(&mut head, &options, 80).is_ok());
        assert_eq!(head.headers()[HOST], "a.test");
    }

    #[test]
    fn a_response_that_breaks_framing_or_switches_unasked_is_refused() {
        let head = |status: u16, headers: &[(&str, &str)]| {
            let mut response = http::Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            response.body(()).unwrap()
        };
        let chunked = ("transfer-encoding", "chunked");
        assert!(response(&mut head(200, &[chunked]), false).is_ok());
        let mut both = head(200, &[chunked, ("content-length", "1")]);
        response(&mut both, false).unwrap();
        assert!(both.headers().is_empty(), "the encoding counts, and is dropped hop by hop");
        assert!(response(&mut head(200, &[("transfer-encoding", "gzip")]), false).is_err());
        assert!(response(&mut head(200, &[("content-length", "x")]), false).is_err());
        assert!(response(&mut head(101, &[]), false).is_err());
        assert!(response(&mut head(101, &[]), true).is_ok());
        let mut kept = head(200, &[("connection", "close"), ("keep-alive", "1"), ("x", "1")]);
        response(&mut kept, false).unwrap();
        assert_eq!(kept.headers().len(), 1);
    }
}
