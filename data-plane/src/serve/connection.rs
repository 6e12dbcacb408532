//! One connection from the socket to its end.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::Either;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use http::header::{CONNECTION, HeaderValue};
use http::{Method, StatusCode, Version};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::end::{End, FIRST_BYTE_MAX, Next};
use super::frames::Framed;
use super::gate::{Gate, HeadClock};
use super::guarded::Guarded;
use super::handshake::{self, HandshakeError};
use super::io::{Io, Stream};
use crate::body::flow::Metered;
use crate::body::stall::{Driven, StreamWatch};
use crate::bootstrap::runtime::ResetLimits;
use crate::framing::http2::Frames;
use crate::framing::{CODEC_FIELDS, Rules};
use crate::listener::http::{Codec, HttpOptions};
use crate::listener::sockets::SocketOptions;
use crate::overload::door::Pass;
use crate::proxy::connection::{Connection, Serving};
use crate::proxy::{self, ReplyBody};
use crate::telemetry::stats::{Fault, ListenerStats, Protocol};

/// What hyper may take more than the guard lets pass, so that only the guard refuses.
const HTTP1_SLACK_BYTES: usize = 1024;

/// Bytes that hyper reads ahead, and those of a response that wait for the client.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;

/// Bytes of a response that wait in TLS for the client; one record and a bit.
const TLS_BUFFER_BYTES: usize = 20 * 1024;

/// Bytes of a response that wait in HTTP/2 on each stream, beside the piece that is over them.
const STREAM_BUFFER_BYTES: usize = 4 * 1024;

/// How long a client may take that is only told to come back later.
const SHED_MAX: Duration = Duration::from_secs(5);

/// A client that was let in.
pub(super) struct Guest {
    pub(super) socket: TcpStream,
    pub(super) remote: SocketAddr,
    pub(super) pass: Pass,
}

pub(super) async fn serve(serving: Rc<Serving>, guest: Guest) {
    if guest.pass.is_shed {
        // Who takes longer is not told.
        drop(tokio::time::timeout(SHED_MAX, Box::pin(converse(serving, guest))).await);
    } else {
        converse(serving, guest).await;
    }
}

async fn converse(serving: Rc<Serving>, Guest { socket, remote, pass }: Guest) {
    // Where it fails, small writes are slower; nothing else.
    socket.set_nodelay(true).unwrap_or_default();
    let options = serving.listener().config.sockets;
    if options != SocketOptions::default() {
        let set = options.set(&socket2::SockRef::from(&socket), remote.is_ipv6());
        if let Err(error) = set {
            tracing::debug!(listener = &*serving.name, %error, "a socket option was refused");
        }
    }
    let name = Rc::clone(&serving);
    match handshake::establish(&serving, socket, remote).await {
        Ok((admitted, stream)) => {
            let connection = Rc::clone(admitted.connection());
            connection.is_shed.set(pass.is_shed);
            speak(Rc::clone(&connection), stream).await;
            // What began in its place is let go like it.
            connection.tunnel_ended().await;
            drop((admitted, pass));
        }
        Err(error) => log_failed(&name, &error),
    }
}

fn log_failed(serving: &Serving, error: &HandshakeError) {
    let error: &dyn std::error::Error = error;
    tracing::debug!(listener = &*serving.name, error, "connection came to nothing");
}

async fn speak(connection: Rc<Connection>, mut stream: Stream) {
    let view = connection.view();
    let Some(chain) = view.chain() else { return };
    let options = &chain.config.http.options;
    let alpn = match &mut stream {
        Stream::Plain(_) => None,
        Stream::Tls(tls) => {
            let session = tls.get_mut().1;
            session.set_buffer_limit(Some(TLS_BUFFER_BYTES));
            connection.tls_version.set(tls_version(session.protocol_version()));
            let cipher = session.negotiated_cipher_suite().map(|suite| suite.suite());
            connection.tls_cipher.set(cipher.map_or("", tls_cipher));
            session.alpn_protocol().map(<[u8]>::to_vec)
        }
    };
    if let Some(delay) = connection.is_refused() {
        if let Some(delay) = delay {
            handshake::wait(&connection, delay).await;
        }
        return proxy::tcp::refuse(&connection, &view);
    }
    if chain.config.tcp.is_some() {
        if connection.is_shed.get() {
            // There is no way to tell it.
            return;
        }
        let _open = Open::new(connection.stats(), Protocol::Tcp);
        let io = Io::new(stream);
        return proxy::tcp::serve(&connection, view, io).await;
    }
    let mut io = Io::new(stream);
    let is_http2 = match (options.codec, alpn.as_deref()) {
        (Codec::Http1, _) => false,
        (Codec::Http2, _) | (Codec::Auto, Some(b"h2")) => true,
        (Codec::Auto, Some(_)) => false,
        (Codec::Auto, None) => {
            let idle = options.timeouts.connection_idle.unwrap_or(FIRST_BYTE_MAX);
            let sniffed = tokio::time::timeout(idle.min(FIRST_BYTE_MAX), io.is_http2()).await;
            let Ok(Ok(is_http2)) = sniffed else { return };
            is_http2
        }
    };
    let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
    let version = if is_http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    connection.protocol.set(Some(version));
    let _open = Open::new(connection.stats(), protocol);
    if is_http2 {
        let executor = Local { tasks: connection.worker().tasks.clone(), watch: Rc::default() };
        let watch = Rc::clone(&executor.watch);
        let resets = connection.worker().settings.resets;
        let builder = http2_builder(options, resets, executor);
        let frames = Frames::new(options.http2.frames, resets);
        drop(view);
        connection.set_streams(true);
        http2(&builder, (io, frames), (Rc::clone(&connection), watch)).await;
        connection.set_streams(false);
    } else {
        let (builder, rules) = (http1_builder(options), rules(options));
        drop(view);
        http1(&builder, (io, rules), connection).await;
    }
}

/// As Envoy names it.
fn tls_version(version: Option<rustls::ProtocolVersion>) -> &'static str {
    match version {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    }
}

/// As OpenSSL, and so Envoy, names it.
fn tls_cipher(suite: rustls::CipherSuite) -> &'static str {
    use rustls::CipherSuite as Suite;
    match suite {
        Suite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        Suite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        Suite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}

/// Counts a connection while it is open.
struct Open(Arc<ListenerStats>, Protocol);

impl Open {
    fn new(stats: Arc<ListenerStats>, protocol: Protocol) -> Self {
        stats.opened(protocol);
        Self(stats, protocol)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed(self.1);
    }
}

fn http1_builder(options: &HttpOptions) -> http1::Builder {
    let bytes_max = rules(options).bytes_max + HTTP1_SLACK_BYTES;
    let mut builder = http1::Builder::new();
    if options.limits.fields_max > CODEC_FIELDS {
        builder.max_headers(options.limits.fields_max);
    }
    builder
        .max_header_size(bytes_max)
        .preserve_header_case(options.http1.keeps_case)
        .max_buf_size(bytes_max.max(HTTP1_BUFFER_BYTES))
        // The deadlines are our own: hyper's counts the time between requests too.
        .header_read_timeout(None)
        .timer(TokioTimer::new());
    builder
}

fn rules(options: &HttpOptions) -> Rules {
    Rules {
        bytes_max: usize::try_from(options.limits.bytes_max).unwrap_or(usize::MAX),
        fields_max: options.limits.fields_max,
        allows_chunked_length: options.http1.allow_chunked_length,
        allows_any_method: options.http1.allow_custom_methods,
    }
}
/// What watches over the stream that is spawned next.
type NextWatch = Rc<Cell<Option<Rc<StreamWatch>>>>;

/// Spawns the streams of a connection on the worker.
#[derive(Clone)]
struct Local {
    tasks: TaskTracker,
    /// Watches over the stream whose request came last, until that is spawned.
    watch: NextWatch,
}

impl<F> Executor<F> for Local
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        match self.watch.take() {
            Some(watch) => self.tasks.spawn_local(Driven::new(future, watch)),
            // What carries the bytes of a tunnel.
            None => self.tasks.spawn_local(async move {
                future.await;
            }),
        };
    }
}

fn http2_builder(
    options: &HttpOptions,
    resets: ResetLimits,
    executor: Local,
) -> http2::Builder<Local> {
    let early = usize::try_from(resets.streams.div_ceil(2)).unwrap_or(usize::MAX);
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.http2.concurrent_streams_max)
        .initial_stream_window_size(options.http2.stream_window)
        .initial_connection_window_size(options.http2.connection_window)
        .max_send_buf_size(STREAM_BUFFER_BYTES)
        .max_header_list_size(options.limits.bytes_max)
        // Streams are counted as they end; these end before anybody hears of them.
        .max_pending_accept_reset_streams(early)
        // Counted by us, against all streams.
        .max_local_error_reset_streams(None);
    if let Some(bytes) = options.http2.header_table_bytes {
        builder.header_table_size(bytes);
    }
    if options.http2.allow_connect {
        builder.enable_connect_protocol();
    }
    if let Some((interval, timeout)) = options.http2.keepalive {
        builder.keep_alive_interval(interval).keep_alive_timeout(timeout);
    }
    builder
}

async fn http1(builder: &http1::Builder, (io, rules): (Io, Rules), connection: Rc<Connection>) {
    let gate = Gate::new();
    let io = Guarded::new(io, rules, Arc::clone(&gate));
    let (owner, beyond) = (Rc::clone(&connection), Arc::clone(&gate));
    let count = Cell::new(0);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (owner, beyond) = (Rc::clone(&owner), Arc::clone(&beyond));
        let place = count.replace(count.get() + 1);
        // hyper keeps room for the future as long as the connection lives: mostly idle.
        Box::pin(answer(&owner, beyond, place, request))
    });
    let io = Metered::new(io, Arc::clone(&connection.flow));
    let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
    // Apart, so that what ends a connection is not looked at each time that something moves on it.
    let mut ends = FuturesUnordered::from_iter([End::of_http1(&connection, &gate).next()]);
    loop {
        let served = tokio::select! {
            biased;
            served = serving.as_mut() => served,
            Some((next, end)) = ends.next() => {
                ends.push(end.next());
                match next {
                    Next::Drain => serving.as_mut().graceful_shutdown(),
                    Next::Late => gate.head_is_late(),
                    Next::GiveUp | Next::Close => return,
                }
                continue;
            }
        };
        if let Err(error) = served {
            log_ended(&connection, &error);
        }
        return;
    }
}

/// Answers the request at `place` of its connection.
fn answer(
    connection: &Rc<Connection>,
    gate: Arc<Gate>,
    place: u64,
    request: http::Request<Incoming>,
) -> impl Future<Output = Result<http::Response<ReplyBody>, Infallible>> + use<> {
    let is_connect = request.method() == Method::CONNECT;
    let answer = match gate.broken() {
        Some(broken) if broken.head == Some(place) => {
            let connection = Rc::clone(connection);
            Either::Left(Box::pin(proxy::refuse(connection, request, broken.violation)))
        }
        _ => Either::Right(proxy::serve(connection, request, None)),
    };
    async move {
        let mut response = answer.await;
        let status = response.status();
        let is_tunnel = is_connect && status.is_success();
        gate.answered(status == StatusCode::SWITCHING_PROTOCOLS || is_tunnel);
        if gate.broken().is_some_and(|broken| broken.head.is_none()) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

async fn http2(
    builder: &http2::Builder<Local>,
    (io, frames): (Io, Frames),
    (connection, watch): (Rc<Connection>, NextWatch),
) {
    let clock = Rc::new(HeadClock::new());
    let io = Framed::new(io, frames, &clock, &connection);
    let owner = Rc::clone(&connection);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (owner, stream) = (Rc::clone(&owner), StreamWatch::new());
        watch.set(Some(Rc::clone(&stream)));
        // In a box, since the task keeps the room for it until the last byte is sent.
        Box::pin(proxy::serve(&owner, request, Some(stream)).map(Ok::<_, Infallible>))
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut ends = FuturesUnordered::from_iter([End::of_http2(&connection, &clock).next()]);
    loop {
        let served = tokio::select! {
            biased;
            served = serving.as_mut() => served,
            Some((next, end)) = ends.next() => {
                ends.push(end.next());
                match next {
                    Next::Drain => serving.as_mut().graceful_shutdown(),
                    Next::Late | Next::GiveUp => {
                        connection.give_up(connection.fault().unwrap_or(Fault::SlowHeaders));
                        // It finds out when it reads or writes.
                        poll_fn(|context| Poll::Ready(serving.as_mut().poll(context).is_ready()))
                            .await;
                        return;
                    }
                    Next::Close => return,
                }
                continue;
            }
        };
        if let Err(error) = served {
            give_up(&connection, &error);
            log_ended(&connection, &error);
        }
        return;
    }
}

/// Notes what the codec finds wrong or too much.
fn give_up(connection: &Connection, error: &hyper::Error) {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            match error.reason() {
                _ if !error.is_library() => {}
                Some(h2::Reason::ENHANCE_YOUR_CALM) => connection.give_up(Fault::Excess),
                Some(_) => connection.give_up(Fault::Protocol),
                None => {}
            }
        }
        source = error.source();
    }
}

fn log_ended(connection: &Connection, error: &hyper::Error) {
    let error: &dyn std::error::Error = error;
    tracing::debug!(listener = &**connection.listener_name(), error, "connection ended");
}
