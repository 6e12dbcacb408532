//! HTTP/2 connections: many requests at a time.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::{StatusCode, Version};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::ext::Protocol;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::body::{Body, Lease};
use crate::cluster::connect::Stream;
use crate::cluster::failure::{UpstreamError, UpstreamFailure};
use crate::cluster::pool::endpoint::{Permit, Pool, Refusal};
use crate::cluster::pool::frames::Framed;
use crate::cluster::pool::{Link, Occupied, request};
use crate::cluster::protocol::ConnectionConfig;

/// Bytes of a request that wait on each stream, beside the piece that is over them.
const SEND_BYTES: usize = 64 * 1024;

/// A connection that many requests share.
#[derive(Debug)]
pub(super) struct Http2 {
    sender: RefCell<SendRequest<Body>>,
    made_at: Instant,
    idle_since: Cell<Instant>,
    requests: Cell<u32>,
    streams: Cell<usize>,
    /// What the upstream allows at present, and we.
    streams_max: Rc<Cell<usize>>,
    /// Wakes the connection to look at the upstream's settings, which come before any response.
    unsettled: Rc<RefCell<Option<Waker>>>,
    link: Rc<Link>,
}

impl Http2 {
    pub(super) fn has_room(&self) -> bool {
        self.streams.get() < self.streams_max.get()
    }

    /// Whether it takes no more requests: it is closed or going away, too old, or has served enough.
    pub(super) fn is_spent(&self, config: &ConnectionConfig) -> bool {
        self.sender.borrow().is_closed()
            || config.connection_duration_max.is_some_and(|max| self.made_at.elapsed() >= max)
            || config.requests_max.is_some_and(|max| self.requests.get() >= max)
    }

    /// Whether it has lain idle for long enough.
    pub(super) fn is_stale(&self, config: &ConnectionConfig, now: Instant) -> bool {
        self.streams.get() == 0
            && config.idle_timeout.is_some_and(|max| now - self.idle_since.get() >= max)
    }
}

/// One request's share of a connection.
#[derive(Debug)]
pub(super) struct Http2Stream {
    pool: Rc<Pool>,
    connection: Rc<Http2>,
}

impl Http2Stream {
    pub(super) fn new(pool: &Rc<Pool>, connection: &Rc<Http2>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self { pool: Rc::clone(pool), connection: Rc::clone(connection) }
    }

    pub(super) fn link(&self) -> &Rc<Link> {
        &self.connection.link
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        let streams = self.connection.streams.get() - 1;
        self.connection.streams.set(streams);
        if streams == 0 {
            self.connection.idle_since.set(Instant::now());
        }
        self.pool.fill();
    }
}

/// Starts a connection on a stream.
pub(super) async fn open(
    pool: &Rc<Pool>,
    stream: Stream,
    permit: Permit,
) -> Result<Rc<Http2>, Refusal> {
    let config = &pool.connector.config;
    let link = Link { local: stream.local_address(), protocol: Version::HTTP_2 };
    let mut builder = Builder::new(LocalExecutor(pool.tasks.clone()));
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(config.http2.stream_window)
        .initial_connection_window_size(config.http2.connection_window)
        .max_header_list_size(config.head_bytes_max)
        .max_send_buf_size(SEND_BYTES);
    // What earlier connections were allowed holds until the upstream says otherwise.
    if let Some(last) = pool.streams_max.get() {
        builder.initial_max_send_streams(last);
    }
    if let Some(interval) = config.http2.ping_interval {
        builder.keep_alive_interval(interval).keep_alive_timeout(config.http2.ping_timeout);
        builder.keep_alive_while_idle(true);
    }
    let handshake = builder.handshake::<_, Body>(TokioIo::new(Framed::new(stream))).await;
    let (sender, connection) = handshake.map_err(|error| Refusal {
        reason: UpstreamFailure::Connect,
        source: Some(std::io::Error::other(error)),
    })?;
    let ours = config.http2.streams_max as usize;
    let streams_max = Rc::new(Cell::new(ours.min(connection.current_max_send_streams())));
    let allowed = Rc::clone(&streams_max);
    let unsettled = Rc::new(RefCell::new(None));
    let waker = Rc::clone(&unsettled);
    let owner = Rc::downgrade(pool);
    pool.tasks.spawn_local(async move {
        let _permit = permit;
        let mut connection = pin!(connection);
        *waker.borrow_mut() = Some(poll_fn(|context| Poll::Ready(context.waker().clone())).await);
        let ended = poll_fn(|context| {
            let polled = connection.as_mut().poll(context);
            let now = ours.min(connection.current_max_send_streams());
            let before = allowed.replace(now);
            if now != before
                && let Some(pool) = owner.upgrade()
            {
                pool.streams_max.set(Some(now));
                pool.fill();
            }
            polled
        });
        if let Err(error) = ended.await {
            tracing::debug!(error = &error as &dyn std::error::Error, "upstream connection ended");
        }
    });
    let now = Instant::now();
    Ok(Rc::new(Http2 {
        sender: RefCell::new(sender),
        made_at: now,
        idle_since: Cell::new(now),
        requests: Cell::new(0),
        streams: Cell::new(0),
        streams_max,
        unsettled,
        link: Rc::new(link),
    }))
}

/// Sends a request as a stream of a shared connection.
pub(super) async fn send(
    stream: Http2Stream,
    in_flight: &mut Option<Occupied>,
    request: Box<http::Request<Body>>,
) -> Result<http::Response<Body>, UpstreamError> {
    let connection = &stream.connection;
    let is_reused = connection.requests.get() > 0;
    let request = match request::for_http2(*request, stream.pool.connector.tls.is_some()) {
        Ok(request) => request,
        Err(request) => {
            return Err(UpstreamError::new(UpstreamFailure::Request, Some(request), None));
        }
    };
    let protocol = request.extensions().get::<Protocol>().cloned();
    connection.requests.set(connection.requests.get().saturating_add(1));
    let sent = connection.sender.borrow_mut().try_send_request(request);
    match sent.await {
        Ok(response) => {
            if let Some(waker) = connection.unsettled.take() {
                waker.wake();
            }
            if response.headers().len() > stream.pool.connector.config.headers_max {
                return Err(UpstreamError::new(UpstreamFailure::Protocol, None, None));
            }
            let lease = Box::new(Http2Lease { _stream: stream, _in_flight: in_flight.take() });
            if let Some(protocol) = protocol
                && response.status() == StatusCode::OK
            {
                return Ok(switched(response, &protocol).map(|()| Body::in_place_of(lease)));
            }
            Ok(response.map(|incoming| Body::leased(incoming, lease)))
        }
        Err(mut error) => {
            let request = error.take_message();
            Err(UpstreamError::of_hyper(error.into_error(), request, is_reused))
        }
    }
}

/// The answer to a CONNECT for another protocol, as that to an upgrade of HTTP/1.1.
fn switched(response: http::Response<hyper::body::Incoming>, to: &Protocol) -> http::Response<()> {
    let (mut head, _) = response.into_parts();
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.headers.remove(CONTENT_LENGTH);
    if let Ok(protocol) = HeaderValue::from_str(to.as_str()) {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol);
    }
    http::Response::from_parts(head, ())
}

/// A stream under a request. Dropping the body resets it, when it has not ended.
struct Http2Lease {
    _stream: Http2Stream,
    _in_flight: Option<Occupied>,
}

impl Lease for Http2Lease {
    fn complete(self: Box<Self>) {}
}

/// Drives the parts of a connection on the worker's own thread.
#[derive(Debug, Clone)]
struct LocalExecutor(TaskTracker);

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, part: F) {
        self.0.spawn_local(part);
    }
}
