//! Why an upstream gave no response.

use std::error::Error;
use std::fmt;

use crate::body::Body;
use crate::framing::Violation;
use crate::retry::Failure;
use crate::telemetry::stats::UpstreamFailureKind;

/// Why an upstream gave no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamFailure {
    /// The connection was not made: refused, unreachable, no such socket.
    Connect,
    /// The connection was not begun: this machine has no descriptor, port or memory left for it.
    Local,
    /// The connection was not made in time.
    ConnectTimeout,
    /// The TLS handshake failed.
    Tls,
    /// A circuit breaker is open.
    Overflow,
    /// The upstream reset the stream or the connection, or cut the response head short.
    Reset,
    /// The upstream said that it did not process the request: `REFUSED_STREAM`, or a `GOAWAY` that
    /// names an earlier stream.
    Refused,
    /// A connection made for this request was closed before a byte of the response.
    Closed,
    /// A connection that had served before was closed before a byte of the response: keep-alive's
    /// race.
    ReusedClosed,
    /// What came is no HTTP, or what was sent is none to the upstream (`PROTOCOL_ERROR`).
    Protocol,
    /// The request's own body failed, or the request cannot be said in the upstream's protocol.
    Request,
}

impl UpstreamFailure {
    /// What it counts as.
    pub fn kind(self) -> UpstreamFailureKind {
        match self {
            Self::Connect | Self::Local | Self::ConnectTimeout => UpstreamFailureKind::Connect,
            Self::Tls => UpstreamFailureKind::Tls,
            Self::Overflow => UpstreamFailureKind::Overflow,
            Self::Reset | Self::Refused | Self::Closed | Self::ReusedClosed | Self::Request => {
                UpstreamFailureKind::Reset
            }
            Self::Protocol => UpstreamFailureKind::Protocol,
        }
    }

    /// What it means for a retry; `is_unsent` where not a byte of the request was written.
    pub fn outcome(self, is_unsent: bool) -> Failure {
        match self {
            Self::Connect | Self::Local | Self::ConnectTimeout | Self::Tls => Failure::Connect,
            Self::Overflow => Failure::Overflow,
            Self::Refused => Failure::RefusedStream,
            Self::Reset | Self::Closed | Self::ReusedClosed if is_unsent => {
                Failure::ResetBeforeRequest
            }
            Self::Reset | Self::Closed | Self::ReusedClosed | Self::Protocol | Self::Request => {
                Failure::Reset
            }
        }
    }

    /// Whether the upstream certainly did nothing for the request, so that it may be sent again
    /// whatever its method. Its body may be half gone all the same: see [`UpstreamError::request`].
    pub fn is_unprocessed(self) -> bool {
        matches!(
            self,
            Self::Connect
                | Self::Local
                | Self::ConnectTimeout
                | Self::Tls
                | Self::Overflow
                | Self::Refused
        )
    }
}

/// A request without a response.
#[derive(Debug)]
pub struct UpstreamError {
    /// Why.
    pub reason: UpstreamFailure,
    /// The request, untouched, when not a byte of it was written. It may be sent again as it is.
    pub request: Option<Box<http::Request<Body>>>,
    /// What the layer below says.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl UpstreamError {
    pub(crate) fn new(
        reason: UpstreamFailure,
        request: Option<Box<http::Request<Body>>>,
        source: Option<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { reason, request, source }
    }

    /// What hyper's error means. `is_reused`: the connection had served before.
    pub(crate) fn of_hyper(
        error: hyper::Error,
        request: Option<http::Request<Body>>,
        is_reused: bool,
    ) -> Self {
        let reason = classify(&error, is_reused);
        Self::new(reason, request.map(Box::new), Some(Box::new(error)))
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reason {
            UpstreamFailure::Connect => "connection failed",
            UpstreamFailure::Local => "connection could not be begun",
            UpstreamFailure::ConnectTimeout => "connection timed out",
            UpstreamFailure::Tls => "TLS handshake failed",
            UpstreamFailure::Overflow => "circuit breaker open",
            UpstreamFailure::Reset => "reset by the upstream",
            UpstreamFailure::Refused => "refused by the upstream",
            UpstreamFailure::Closed => "closed by the upstream",
            UpstreamFailure::ReusedClosed => "reused connection closed by the upstream",
            UpstreamFailure::Protocol => "invalid response",
            UpstreamFailure::Request => "request failed",
        })
    }
}

impl Error for UpstreamError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

fn classify(error: &hyper::Error, is_reused: bool) -> UpstreamFailure {
    let closed = if is_reused { UpstreamFailure::ReusedClosed } else { UpstreamFailure::Closed };
    if let Some(error) = cause::<h2::Error>(error) {
        return match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => UpstreamFailure::Refused,
            // What came after the last stream that a GOAWAY names; the others end as usual.
            Some(_) if error.is_go_away() && error.is_remote() => UpstreamFailure::Refused,
            Some(h2::Reason::PROTOCOL_ERROR) if error.is_remote() => UpstreamFailure::Protocol,
            Some(_) if error.is_remote() => UpstreamFailure::Reset,
            Some(_) if error.is_library() => UpstreamFailure::Protocol,
            Some(_) => UpstreamFailure::Reset,
            None if error.is_io() => closed,
            None => UpstreamFailure::Request,
        };
    }
    // First, since what is wrong with the body of a request may be of the same kind.
    if error.is_user() {
        return UpstreamFailure::Request;
    }
    let inner = cause::<std::io::Error>(error).and_then(std::io::Error::get_ref);
    if error.is_parse() || inner.is_some_and(|inner| inner.is::<Violation>()) {
        UpstreamFailure::Protocol
    } else {
        closed
    }
}

fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
