//! A body that comes no faster than it is told to.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::body::{Body, BoxError};

/// How often a second a piece may go out.
const PIECES: u64 = 20;

/// A body in pieces, with pauses between them.
#[derive(Debug)]
pub(super) struct Throttled {
    body: Body,
    /// What waits to go out.
    waiting: Bytes,
    bytes_per_piece: usize,
    pause: Option<Pin<Box<Sleep>>>,
    next: Instant,
}

impl Throttled {
    /// At most so many KiB a second.
    pub(super) fn new(body: Body, kib: u64) -> Self {
        let bytes = kib.saturating_mul(1024) / PIECES;
        Self {
            body,
            waiting: Bytes::new(),
            bytes_per_piece: usize::try_from(bytes).unwrap_or(usize::MAX).max(1),
            pause: None,
            next: Instant::now(),
        }
    }

    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        if now < self.next {
            let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(now)));
            if pause.deadline() != self.next {
                pause.as_mut().reset(self.next);
            }
            ready!(pause.as_mut().poll(context));
        }
        Poll::Ready(())
    }
}

impl http_body::Body for Throttled {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.waiting.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.waiting = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
            }
        }
        ready!(this.poll_pause(context));
        let piece = this.waiting.split_to(this.waiting.len().min(this.bytes_per_piece));
        let whole = Duration::from_secs(1) / u32::try_from(PIECES).unwrap_or(1);
        this.next = Instant::now() + whole;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.waiting.is_empty() { self.body.size_hint() } else { SizeHint::new() }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_takes_what_was_allowed() {
        let started = Instant::now();
        let body = Body::full(vec![0_u8; 10 * 1024]);
        let sent = Throttled::new(body, 4).collect().await.unwrap().to_bytes();
        assert_eq!(sent.len(), 10 * 1024);
        let took = started.elapsed().as_millis();
        assert!((2400..2600).contains(&took), "{took}");
    }
}
