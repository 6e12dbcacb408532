//! What HTTP filters are made of: what they see of a request, how they answer, and what they keep.

pub mod collect;
pub mod keep;
pub mod on_demand;
pub mod rate_limit;
pub mod stage;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use crate::body::Body;
use crate::telemetry::why::Why;

const GRPC: &[u8] = b"application/grpc";

/// What a filter decides about a request.
#[derive(Debug)]
pub enum Verdict {
    /// Hand the request to the next filter.
    Continue,
    /// Answer now, without an upstream.
    Reply(Why, Box<Response<Body>>),
}

impl Verdict {
    /// The answer that the reason itself has.
    pub fn refuse(why: Why) -> Self {
        let facts = why.facts();
        let status = facts.status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::reply(why, text(status, facts.body))
    }

    /// An answer.
    pub fn reply(why: Why, response: Response<Body>) -> Self {
        Self::Reply(why, Box::new(response))
    }
}

/// A reply of ours: text, or nothing.
pub fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let text: String = text.into();
    let has_text = !text.is_empty();
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    if has_text {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// Whether chance has it, in so many of a million.
pub fn happens(millionths: u32) -> bool {
    match millionths {
        0 => false,
        1_000_000.. => true,
        part => fastrand::u32(..1_000_000) < part,
    }
}

/// A reply of trailers alone, for a client that speaks gRPC ("Trailers-Only").
pub fn grpc(code: u32, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code));
    if !message.is_empty()
        && let Ok(message) = HeaderValue::try_from(percent_encode(message))
    {
        headers.insert("grpc-message", message);
    }
    response
}

/// The gRPC status that an HTTP status stands for (gRPC's `http-grpc-status-mapping.md`).
pub fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502..=504 => "14",
        _ => "2",
    }
}

/// As gRPC encodes messages: everything but printable ASCII, and `%` itself.
pub(crate) fn percent_encode(text: &str) -> String {
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
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(GRPC) && matches!(value.get(GRPC.len()), None | Some(b'+' | b';'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_as_grpc_has_it() {
        assert_eq!(percent_encode("a%b\né"), "a%25b%0A%C3%A9");
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let kind = |value: &'static str| {
            is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert!(kind("application/grpc") && kind("application/grpc+proto"));
        assert!(!kind("application/grpc-web") && !kind("text/plain"));
    }
}
