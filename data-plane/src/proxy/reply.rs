//! Replies that the proxy makes itself, as Envoy makes them.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::body::Body;
use crate::guard::Refused;
use crate::telemetry::why::Why;

const GRPC: &[u8] = b"application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// A reply of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Local {
    /// Why.
    pub(super) why: Why,
    /// Its status, where it is not that of the reason.
    pub(super) status: Option<StatusCode>,
    /// Whether earlier tries failed too.
    pub(super) was_retried: bool,
}

impl Local {
    /// A reply as the reason has it.
    pub(super) fn new(why: Why) -> Self {
        Self { why, status: None, was_retried: false }
    }

    /// A reply with another status.
    pub(super) fn with_status(why: Why, status: StatusCode) -> Self {
        Self { why, status: Some(status), was_retried: false }
    }

    /// The response, for a client that speaks gRPC or not.
    pub(super) fn respond(&self, is_grpc: bool) -> Response<Body> {
        let facts = self.why.facts();
        let status = self.status.or(facts.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let text = if self.was_retried {
            facts.body.replace("headers. reset", "headers. retried and the latest reset")
        } else {
            facts.body.to_owned()
        };
        let mut response =
            if is_grpc { grpc(facts.grpc_status, &text) } else { plain(status, text) };
        if self.why == Why::UpstreamOverflow {
            response.headers_mut().insert(OVERLOADED, HeaderValue::from_static("true"));
        }
        response
    }
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let has_text = !text.is_empty();
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    if has_text {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// A response of trailers alone (gRPC over HTTP/2, "Trailers-Only").
fn grpc(status: &'static str, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from_static(status));
    if !message.is_empty()
        && let Ok(message) = HeaderValue::try_from(percent_encode(message))
    {
        headers.insert(GRPC_MESSAGE, message);
    }
    response
}

/// As gRPC encodes messages: everything but printable ASCII, and `%` itself.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..0x20 | 0x7f.. => {
                use std::fmt::Write as _;
                // Writing to a String does not fail.
                let _infallible = write!(out, "%{byte:02X}");
            }
            other => out.push(char::from(other)),
        }
    }
    out
}

/// Whether a request is gRPC, by its content type.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(GRPC) && matches!(value.get(GRPC.len()), None | Some(b'+' | b';'))
    })
}

/// The answer to a request that the guard refuses.
pub(super) fn refused(refused: Refused, is_grpc: bool) -> (Why, Response<Body>) {
    match refused {
        Refused::Why(why) => (why, Local::new(why).respond(is_grpc)),
        Refused::Status(status) => (Why::BadRequest, plain(status, String::new())),
        Refused::Redirect(location) => {
            let mut response = plain(StatusCode::TEMPORARY_REDIRECT, String::new());
            response.headers_mut().insert(http::header::LOCATION, location);
            (Why::DirectResponse, response)
        }
    }
}

/// Takes off the body where the client expects none: the codec of HTTP/2 would send it.
pub(super) fn fit_body(response: &mut Response<Body>, method: &Method) {
    let status = response.status();
    let has_none = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if method != Method::HEAD && !has_none {
        return;
    }
    let length = http_body::Body::size_hint(response.body()).exact();
    *response.body_mut() = Body::empty();
    if status == StatusCode::NO_CONTENT {
        response.headers_mut().remove(CONTENT_LENGTH);
    } else if let Some(length) = length.filter(|length| *length > 0) {
        let length = HeaderValue::from(length);
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(length);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text(local: &Local) -> (u16, Option<String>, String) {
        let response = local.respond(false);
        let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap().into());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn replies_read_as_envoys_do() {
        let plain = Some("text/plain".to_owned());
        assert_eq!(text(&Local::new(Why::NoRoute)).await, (404, None, String::new()));
        assert_eq!(
            text(&Local::new(Why::NoHealthyEndpoint)).await,
            (503, plain.clone(), "no healthy upstream".into())
        );
        assert_eq!(
            text(&Local { was_retried: true, ..Local::new(Why::UpstreamReset) }).await,
            (
                503,
                plain.clone(),
                "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote reset".into()
            )
        );
        assert_eq!(
            text(&Local::new(Why::UpstreamTimeout)).await,
            (504, plain, "upstream request timeout".into())
        );
        let overflow = Local::new(Why::UpstreamOverflow).respond(false);
        assert_eq!(overflow.headers()["x-envoy-overloaded"], "true");
    }

    #[test]
    fn grpc_clients_get_their_own_status_by_meaning() {
        let response = Local::new(Why::UpstreamTimeout).respond(true);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "4");
        assert_eq!(response.headers()["grpc-message"], "upstream request timeout");
        assert_eq!(percent_encode("a%b\né"), "a%25b%0A%C3%A9");
        let kind = |value: &'static str| {
            is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert!(kind("application/grpc") && kind("application/grpc+proto"));
        assert!(!kind("application/grpc-web") && !kind("text/plain"));
    }

    #[test]
    fn a_head_request_gets_the_length_and_not_the_body() {
        let mut response = Response::new(Body::full("hello"));
        fit_body(&mut response, &Method::HEAD);
        assert_eq!(response.headers()[CONTENT_LENGTH], "5");
        assert!(response.body().is_empty());
    }
}
