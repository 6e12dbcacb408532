//! A tunnel: after both sides agreed to switch protocols, bytes go both ways until one side ends.

use std::rc::Rc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::{Method, Response, StatusCode, Version, request, response};
use http_body_util::BodyExt;
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ReplyBody;
use super::connection::Connection;
use super::exchange::Exchange;
use crate::body::{Activity, Body, Deadlines};
use crate::telemetry::why::Why;

/// Bytes that may be under way in each direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// Makes the CONNECT of HTTP/2 for another protocol (RFC 8441) the upgrade of HTTP/1.1 that it stands
/// for, so that nothing else has to know both.
pub(super) fn unify(head: &mut request::Parts) {
    let Some(protocol) = head.extensions.remove::<Protocol>() else { return };
    let Ok(protocol) = HeaderValue::from_str(protocol.as_str()) else { return };
    head.method = Method::GET;
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(UPGRADE, protocol);
}

/// Gives the answer to an upgrade the form of the client's protocol.
pub(super) fn answer(head: &mut response::Parts, version: Version) {
    if version == Version::HTTP_2 {
        head.status = StatusCode::OK;
        for name in [CONNECTION, UPGRADE, CONTENT_LENGTH] {
            head.headers.remove(name);
        }
    }
}

/// Sends the body of an answer through the tunnel that HTTP/2 makes of any success, until it takes too
/// long or the connection is cut off.
pub(super) fn without_switch(
    connection: Rc<Connection>,
    client: OnUpgrade,
    response: Response<ReplyBody>,
    (Deadlines { idle, end }, activity): (Deadlines, Rc<Activity>),
) -> Response<ReplyBody> {
    let (mut head, mut body) = response.into_parts();
    head.headers.remove(CONTENT_LENGTH);
    let tasks = connection.worker().tasks.clone();
    tasks.spawn_local(async move {
        let sent = async {
            let Ok(client) = client.await else { return };
            let mut client = TokioIo::new(client);
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(bytes) = frame.into_data() else { continue };
                if send(&mut client, &bytes).await.is_err() {
                    return;
                }
            }
            // Dropped, it ends too.
            client.shutdown().await.unwrap_or_default();
        };
        tokio::select! {
            () = sent => {}
            () = idle_for(idle, &activity) => {}
            () = until(end) => {}
            () = connection.cut_off() => {}
        }
    });
    Response::from_parts(head, ReplyBody::done())
}

/// Both ends of a tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    /// Holds what the request takes up upstream, and says when to give up.
    pub(super) upstream_body: Body,
}

impl Tunnel {
    /// Carries bytes until upstream ends, or the client is gone, nothing moves for too long, or the connection is cut off.
    pub(super) async fn run(self, mut exchange: Box<Exchange>) {
        let connection = Rc::clone(&exchange.connection);
        let ended = tokio::select! {
            ended = carry(self, &mut exchange) => ended,
            () = connection.cut_off() => Some(Why::ClientClosed),
        };
        exchange.response.complete();
        exchange.why = ended;
        connection.end_tunnel();
    }
}

async fn carry(tunnel: Tunnel, exchange: &mut Exchange) -> Option<Why> {
    let Tunnel { client, upstream, upstream_body } = tunnel;
    let Deadlines { idle, end } = upstream_body.deadlines();
    let upstream = match upstream.await {
        Ok(upstream) => upstream,
        Err(_) => return Some(Why::UpstreamClosed),
    };
    let Ok(client) = client.await else { return Some(Why::ClientClosed) };
    let (from_client, mut to_client) = tokio::io::split(TokioIo::<Upgraded>::new(client));
    let (from_upstream, mut to_upstream) = tokio::io::split(TokioIo::<Upgraded>::new(upstream));
    let activity = Rc::clone(&exchange.activity);
    let (sent, received) = (Rc::clone(&exchange.request), Rc::clone(&exchange.response));
    let finished = Notify::new();
    let up = async {
        match copy(from_client, &mut to_upstream, |bytes| sent.add(bytes)).await {
            // Who closes a connection of HTTP/1 is gone; a stream of HTTP/2 may still listen.
            Ok(()) if exchange.version == Version::HTTP_2 => {
                finished.notify_one();
                std::future::pending().await
            }
            Ok(()) | Err(Broken::Source) => Over::Client(Why::ClientClosed),
            Err(Broken::Sink) => Over::Upstream { is_broken: true },
        }
    };
    let down = until_gone(from_upstream, &mut to_client, &finished, |bytes| received.add(bytes));
    let over = tokio::select! {
        over = up => over,
        over = down => over,
        () = idle_for(idle, &activity) => return Some(Why::IdleTimeout),
        () = until(end) => return Some(Why::StreamTimeout),
    };
    let is_stream = exchange.link.as_ref().is_some_and(|link| link.protocol == Version::HTTP_2);
    match over {
        Over::Client(why) => Some(why),
        Over::Upstream { .. } if !is_stream => Some(Why::ResponseClosed),
        Over::Upstream { is_broken } if is_broken || is_reset(&mut to_upstream).await => {
            Some(Why::ResponseReset)
        }
        Over::Upstream { .. } => None,
    }
}

/// Who ended a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Client(Why),
    Upstream { is_broken: bool },
}

/// Whether a stream whose last byte was read was reset in truth: reading does not tell, writing does.
async fn is_reset(stream: &mut (impl AsyncWrite + Unpin)) -> bool {
    // What writes to the stream has to hear of it first.
    tokio::task::yield_now().await;
    stream.flush().await.is_err()
}

/// Carries bytes to the client until they end, or the client turns out to be gone once it has
/// `finished`.
async fn until_gone(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    finished: &Notify,
    count: impl Fn(usize),
) -> Over {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = finished.notified() => {
                if is_reset(&mut to).await {
                    return Over::Client(Why::ClientReset);
                }
                continue;
            }
        };
        match read {
            Ok(0) => {
                // Whether it hears of the end or not, there is nothing more to tell it.
                to.shutdown().await.unwrap_or_default();
                return Over::Upstream { is_broken: false };
            }
            Ok(read) => {
                count(read);
                if send(&mut to, &buffer[..read]).await.is_err() {
                    return Over::Client(Why::ClientClosed);
                }
            }
            Err(_) => return Over::Upstream { is_broken: true },
        }
    }
}

/// Which side of a copy broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Source,
    Sink,
}

/// Carries bytes one way until they end, and counts them.
pub(super) async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: impl Fn(usize),
) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await.map_err(|_| Broken::Source)?;
        if read == 0 {
            return to.shutdown().await.map_err(|_| Broken::Sink);
        }
        count(read);
        send(&mut to, &buffer[..read]).await.map_err(|_| Broken::Sink)?;
    }
}

async fn send(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// Waits until that time.
pub(super) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits until nothing has moved for so long.
pub(super) async fn idle_for(limit: Option<Duration>, activity: &Activity) {
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        let at = activity.last() + limit;
        if at <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(at).await;
    }
}
