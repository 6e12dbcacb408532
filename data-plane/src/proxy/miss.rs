//! A try without an answer: what that means to the client, and whether nobody can have acted on the request.

use http::{Method, Request};

use crate::body::Body;
use crate::cluster::failure::{UpstreamError, UpstreamFailure};
use crate::retry::Failure;
use crate::telemetry::why::Why;

/// A try without an answer.
#[derive(Debug)]
pub(super) struct Miss {
    pub(super) why: Why,
    pub(super) failure: Failure,
    /// The request, where nothing of it was sent.
    pub(super) unsent: Option<Box<Request<Body>>>,
    /// Whether upstream has certainly done nothing for it.
    pub(super) is_unprocessed: bool,
}

impl Miss {
    pub(super) fn new(error: UpstreamError, method: &Method) -> Self {
        let unsent = error.request;
        let is_idempotent = matches!(
            *method,
            Method::GET
                | Method::HEAD
                | Method::OPTIONS
                | Method::TRACE
                | Method::PUT
                | Method::DELETE
        );
        // Without an answer on a connection that had served before, the usual reason is that it
        // was closed as the request went out (RFC 9110 section 9.2.2 allows the second try).
        let was_stale = error.reason == UpstreamFailure::ReusedClosed && is_idempotent;
        let is_unprocessed = unsent.is_some() || error.reason.is_unprocessed() || was_stale;
        let failure = error.reason.outcome(unsent.is_some());
        Self { why: why(error.reason), failure, unsent, is_unprocessed }
    }
}

fn why(reason: UpstreamFailure) -> Why {
    match reason {
        UpstreamFailure::Connect | UpstreamFailure::ConnectTimeout => Why::UpstreamConnectFailed,
        UpstreamFailure::Local => Why::LocalConnectFailed,
        UpstreamFailure::Tls => Why::UpstreamTlsFailed,
        UpstreamFailure::Overflow => Why::UpstreamOverflow,
        UpstreamFailure::Refused | UpstreamFailure::Reset => Why::UpstreamReset,
        UpstreamFailure::Closed => Why::UpstreamClosed,
        UpstreamFailure::ReusedClosed => Why::ReusedConnectionClosed,
        UpstreamFailure::Protocol => Why::UpstreamProtocolError,
        UpstreamFailure::Request => Why::BadRequest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_method_that_may_be_repeated_is_sent_again_over_a_stale_connection() {
        for (reason, method, is_unprocessed) in [
            (UpstreamFailure::ReusedClosed, Method::GET, true),
            (UpstreamFailure::ReusedClosed, Method::POST, false),
            (UpstreamFailure::Closed, Method::GET, false),
            (UpstreamFailure::Refused, Method::POST, true),
        ] {
            let error = UpstreamError { reason, request: None, source: None };
            assert_eq!(Miss::new(error, &method).is_unprocessed, is_unprocessed, "{reason:?}");
        }
    }
}
