//! HTTP/1.1 connections: one request at a time, kept for the next.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http::header::EXPECT;
use http_body::{Body as _, Frame, SizeHint};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::body::flow::{Flow, Go, Metered, Outgoing};
use crate::body::{Body, BodyError, Lease};
use crate::cluster::connect::Stream;
use crate::cluster::failure::{UpstreamError, UpstreamFailure};
use crate::cluster::pool::endpoint::{Permit, Pool, Refusal};
use crate::cluster::pool::guarded::{Gate, Guarded};
use crate::cluster::pool::{Link, Occupied, request};
use crate::cluster::protocol::ConnectionConfig;
use crate::framing::{CODEC_FIELDS, Rules};

/// How long a connection may take to finish what the response did not wait for: the rest of a
/// request body.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// Room for the largest head, and a read of body beside it.
const BUFFER_BYTES_MAX: usize = 128 * 1024;

/// What hyper may take more than the guard lets pass, so that only the guard refuses.
const SLACK_BYTES: usize = 1024;

/// A connection that nobody uses at the moment.
#[derive(Debug)]
pub(super) struct Http1 {
    sender: SendRequest<Sent>,
    flow: Arc<Flow>,
    gate: Arc<Gate>,
    task: AbortHandle,
    made_at: Instant,
    idle_since: Instant,
    requests: u32,
    pub(super) link: Rc<Link>,
}

impl Http1 {
    /// Whether it is closed, or too old, or has lain idle or served for long enough.
    pub(super) fn is_spent(&self, config: &ConnectionConfig, now: Instant) -> bool {
        self.is_closed()
            || config.idle_timeout.is_some_and(|max| now - self.idle_since >= max)
            || config.connection_duration_max.is_some_and(|max| now - self.made_at >= max)
            || config.requests_max.is_some_and(|max| self.requests >= max)
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.gate.is_spoiled()
    }

    pub(super) fn rest(&mut self, now: Instant) {
        self.idle_since = now;
    }
}

/// Starts a connection on a stream.
pub(super) async fn open(
    pool: &Rc<Pool>,
    stream: Stream,
    permit: Permit,
) -> Result<Http1, Refusal> {
    let config = &pool.connector.config;
    let rules = Rules {
        bytes_max: config.head_bytes_max as usize,
        fields_max: config.headers_max,
        allows_chunked_length: config.allows_chunked_length,
        allows_any_method: false,
    };
    let head_bytes_max = rules.bytes_max + SLACK_BYTES;
    let gate = Arc::<Gate>::default();
    let link = Link { local: stream.local_address(), protocol: Version::HTTP_11 };
    let flow = Flow::new(config.buffer_bytes, pool.large.clone());
    let stream = Guarded::new(stream, rules, Arc::clone(&gate));
    let stream = Metered::new(stream, Arc::clone(&flow));
    let mut builder = Builder::new();
    if config.headers_max > CODEC_FIELDS {
        builder.max_headers(config.headers_max);
    }
    let handshake = builder
        .max_header_size(head_bytes_max)
        .preserve_header_case(config.http1_keeps_case)
        .max_buf_size(BUFFER_BYTES_MAX.max(head_bytes_max))
        .handshake::<_, Sent>(TokioIo::new(stream));
    let (sender, connection) = handshake.await.map_err(|error| Refusal {
        reason: UpstreamFailure::Connect,
        source: Some(std::io::Error::other(error)),
    })?;
    let task = pool.tasks.spawn_local(async move {
        let _permit = permit;
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "upstream connection ended");
        }
    });
    let (now, task) = (Instant::now(), task.abort_handle());
    let link = Rc::new(link);
    Ok(Http1 { sender, flow, gate, task, made_at: now, idle_since: now, requests: 0, link })
}

/// Sends a request on a connection that is idle.
pub(super) async fn send(
    pool: Rc<Pool>,
    mut connection: Http1,
    in_flight: &mut Option<Occupied>,
    mut request: Box<http::Request<Body>>,
) -> Result<http::Response<Body>, UpstreamError> {
    let is_reused = connection.requests > 0;
    connection.requests = connection.requests.saturating_add(1);
    connection.flow.begin(request.version() == http::Version::HTTP_2);
    let has_trailers = pool.connector.config.http1_trailers;
    connection.gate.ask(request.method());
    request::make_http1(&mut request);
    let expectation = request.headers().contains_key(EXPECT).then(|| expectation(&mut request));
    let flow = Arc::clone(&connection.flow);
    let request = (*request).map(|body| {
        let body = if has_trailers { body } else { body.without_trailers() };
        Sent::new(Outgoing::new(body, Some(flow)).held_by(expectation))
    });
    let sent = connection.sender.try_send_request(request);
    let mut lease = Box::new(Http1Lease { connection: Some(connection), pool, in_flight: None });
    match sent.await {
        Ok(response) if response.status() == http::StatusCode::SWITCHING_PROTOCOLS => {
            if let Some(connection) = lease.connection.take() {
                connection.flow.become_tunnel();
            }
            lease.in_flight = in_flight.take();
            Ok(response.map(|_| Body::in_place_of(lease)))
        }
        Ok(response) => {
            lease.in_flight = in_flight.take();
            let response = response.map(|incoming| Body::leased(incoming, lease));
            Ok(if has_trailers { response } else { response.map(Body::ignoring_trailers) })
        }
        Err(mut error) => {
            let request = error.take_message().map(|request| request.map(Sent::into_body));
            Err(UpstreamError::of_hyper(error.into_error(), request, is_reused))
        }
    }
}

/// The body of a request, in a box where there is one: the codec keeps room for 32 requests on each
/// connection.
struct Sent(Option<Box<Outgoing>>);

impl Sent {
    fn new(body: Outgoing) -> Self {
        Self((!body.is_end_stream()).then(|| Box::new(body)))
    }

    fn into_body(self) -> Body {
        self.0.map_or_else(Body::empty, |body| body.into_body())
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().0 {
            Some(body) => Pin::new(&mut **body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |body| body.size_hint())
    }
}

/// What has the body of a request wait until upstream wants it (RFC 9110 section 10.1.1).
fn expectation(request: &mut http::Request<Body>) -> Arc<Go> {
    let go = Arc::new(Go::default());
    let given = Arc::clone(&go);
    hyper::ext::on_informational(request, move |interim| {
        if interim.status() == http::StatusCode::CONTINUE {
            given.give();
        }
    });
    go
}

/// A connection under a request. Dropped before the end of the response, it closes.
struct Http1Lease {
    connection: Option<Http1>,
    pool: Rc<Pool>,
    in_flight: Option<Occupied>,
}

impl Lease for Http1Lease {
    fn flow(&self) -> Option<&Arc<Flow>> {
        self.connection.as_ref().map(|connection| &connection.flow)
    }

    fn complete(mut self: Box<Self>) {
        self.in_flight = None;
        let Some(mut connection) = self.connection.take() else { return };
        connection.flow.end();
        if connection.is_closed() {
            connection.task.abort();
            return;
        }
        let pool = Rc::clone(&self.pool);
        if connection.sender.is_ready() {
            pool.put(connection);
            return;
        }
        // The response overtook the end of the request, or the task has not been polled since.
        self.pool.tasks.spawn_local(async move {
            match tokio::time::timeout(SETTLE_MAX, connection.sender.ready()).await {
                Ok(Ok(())) => pool.put(connection),
                Ok(Err(_)) => {}
                Err(_) => connection.task.abort(),
            }
        });
    }
}

impl Drop for Http1Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.task.abort();
        }
    }
}
