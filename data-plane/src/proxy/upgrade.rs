//! A tunnel: after both sides agreed to switch protocols, bytes go both ways until one side ends.

use std::rc::Rc;
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::exchange::Exchange;
use crate::body::Activity;
use crate::cluster::pool::InFlight;
use crate::telemetry::why::Why;

/// Bytes that may be under way in each direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// Both ends of a tunnel, and what it takes up upstream.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    pub(super) in_flight: Option<InFlight>,
    pub(super) idle: Option<Duration>,
}

impl Tunnel {
    /// Carries bytes until one side ends, nothing moves for too long, or the connection is cut off.
    pub(super) async fn run(self, mut exchange: Exchange) {
        let connection = Rc::clone(&exchange.connection);
        let ended = tokio::select! {
            ended = carry(self, &mut exchange) => ended,
            () = connection.cut_off() => Some(Why::ClientClosed),
        };
        exchange.response.complete();
        exchange.why = ended;
    }
}

async fn carry(tunnel: Tunnel, exchange: &mut Exchange) -> Option<Why> {
    let Tunnel { client, upstream, in_flight: _in_flight, idle } = tunnel;
    let upstream = match upstream.await {
        Ok(upstream) => upstream,
        Err(_) => return Some(Why::UpstreamClosed),
    };
    let Ok(client) = client.await else { return Some(Why::ClientClosed) };
    let (from_client, to_client) = tokio::io::split(TokioIo::<Upgraded>::new(client));
    let (from_upstream, to_upstream) = tokio::io::split(TokioIo::<Upgraded>::new(upstream));
    let activity = Rc::clone(&exchange.activity);
    let (sent, received) = (Rc::clone(&exchange.request), Rc::clone(&exchange.response));
    let up = copy(from_client, to_upstream, |bytes| sent.add(bytes));
    let down = copy(from_upstream, to_client, |bytes| received.add(bytes));
    let both = async { tokio::join!(up, down) };
    tokio::select! {
        _ = both => None,
        () = idle_for(idle, &activity) => Some(Why::IdleTimeout),
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
