//! What HTTP filters are made of: what they see of a request, how they answer, and what they keep.

pub mod call;
pub mod collect;
pub mod header_change;
pub mod header_rules;
pub mod keep;
pub mod on_demand;
pub mod query;
pub mod rate_limit;
pub mod stage;
pub mod subject;
pub mod tree;

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::body::Body;
use crate::matcher::header;
use crate::telemetry::why::Why;

const GRPC: &[u8] = b"application/grpc";

/// What a filter decides about a request.
#[derive(Debug)]
pub enum Verdict {
    /// Hand the request to the next filter.
    Continue,
    /// Answer now, without an upstream.
    Reply(Box<Reply>),
}

/// The answer of a filter. The filters see it on its way out, as they see every response.
#[derive(Debug)]
pub struct Reply {
    /// Why the filter answers.
    pub why: Why,
    /// The answer.
    pub response: Response<Body>,
    /// What `%RESPONSE_CODE_DETAILS%` says, where it is not what the reason says.
    pub details: Option<Cow<'static, str>>,
    /// Whether it goes out as it is. Else it is a local reply: the listener's rules for those may
    /// change it, and gRPC clients get it as trailers alone.
    pub is_final: bool,
}

impl Reply {
    /// A local reply.
    pub fn new(why: Why, response: Response<Body>) -> Self {
        Self { why, response, details: None, is_final: false }
    }

    /// The local reply that the reason itself has.
    pub fn refusal(why: Why) -> Self {
        let facts = why.facts();
        let status = facts.status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(why, text(status, facts.body))
    }
}

impl From<Reply> for Verdict {
    fn from(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

impl Verdict {
    /// The local reply that the reason itself has.
    pub fn refuse(why: Why) -> Self {
        Reply::refusal(why).into()
    }

    /// A local reply.
    pub fn reply(why: Why, response: Response<Body>) -> Self {
        Reply::new(why, response).into()
    }

    /// An answer that goes out as it is.
    pub fn answer(why: Why, response: Response<Body>) -> Self {
        Reply { is_final: true, ..Reply::new(why, response) }.into()
    }

    /// The same with other details; a request that goes on has none.
    #[must_use]
    pub fn detailed(mut self, details: impl Into<Cow<'static, str>>) -> Self {
        if let Self::Reply(reply) = &mut self {
            reply.details = Some(details.into());
        }
        self
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

/// The value of a header, several lines joined with a comma.
pub fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    match header::joined(headers, name)? {
        Cow::Borrowed(_) => headers.get(name).cloned(),
        Cow::Owned(all) => HeaderValue::from_maybe_shared(Bytes::from(all)).ok(),
    }
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
