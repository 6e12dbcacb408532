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
use tokio_util::task::TaskTracker;

use super::ReplyBody;
use super::exchange::Exchange;
use crate::body::{Activity, Body};
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

/// Sends the body of an answer through the tunnel that HTTP/2 makes of any success.
pub(super) fn without_switch(
    tasks: &TaskTracker,
    client: OnUpgrade,
    response: Response<ReplyBody>,
) -> Response<ReplyBody> {
    let (mut head, mut body) = response.into_parts();
    head.headers.remove(CONTENT_LENGTH);
    tasks.spawn_local(async move {
        let Ok(client) = client.await else { return };
        let mut client = TokioIo::new(client);
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(bytes) = frame.into_data() else { continue };
            if client.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // Dropped, it ends too.
        client.shutdown().await.unwrap_or_default();
    });
    Response::from_parts(head, ReplyBody::done())
}

/// Both ends of a tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    /// Holds what the request takes up upstream.
    pub(super) upstream_body: Body,
    pub(super) idle: Option<Duration>,
}

impl Tunnel {
    /// Carries bytes until upstream ends, or the client is gone, nothing moves for too long, or the connection is cut off.
    pub(super) async fn run(self, mut exchange: Exchange) {
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
    let Tunnel { client, upstream, upstream_body: _upstream_body, idle } = tunnel;
    let upstream = match upstream.await {
        Ok(upstream) => upstream,
        Err(_) => return Some(Why::UpstreamClosed),
    };
    let Ok(client) = client.await else { return Some(Why::ClientClosed) };
    let (from_client, to_client) = tokio::io::split(TokioIo::<Upgraded>::new(client));
    let (from_upstream, to_upstream) = tokio::io::split(TokioIo::<Upgraded>::new(upstream));
    let activity = Rc::clone(&exchange.activity);
    let (sent, received) = (Rc::clone(&exchange.request), Rc::clone(&exchange.response));
    let finished = Notify::new();
    let up = async {
        let ended = copy(from_client, to_upstream, |bytes| sent.add(bytes)).await;
        // Who closes a connection of HTTP/1 is gone; a stream of HTTP/2 may still listen.
        if ended.is_ok() && exchange.version == Version::HTTP_2 {
            finished.notify_one();
            std::future::pending().await
        }
    };
    let down = until_gone(from_upstream, to_client, &finished, |bytes| received.add(bytes));
    tokio::select! {
        () = up => None,
        _ = down => None,
        () = idle_for(idle, &activity) => Some(Why::IdleTimeout),
    }
}

/// Carries bytes to the client until they end, or the client turns out to be gone once it has
/// `finished`: a stream that was reset reads like one that ended.
async fn until_gone(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    finished: &Notify,
    count: impl Fn(usize),
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read?,
            () = finished.notified() => {
                // What writes to the stream has to hear of the reset first.
                tokio::task::yield_now().await;
                to.flush().await?;
                continue;
            }
        };
        if read == 0 {
            return to.shutdown().await;
        }
        count(read);
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
    }
}

/// Carries bytes one way until they end, and counts them.
pub(super) async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: impl Fn(usize),
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        count(read);
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
    }
}

/// Waits until nothing has moved for so long.
pub(super) async fn idle_for(limit: Option<Duration>, activity: &Activity) {
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        let at = activity.last() + limit;
        if at <= tokio::time::Instant::now() {
            return;
        }
        tokio::time::sleep_until(at).await;
    }
}
