//! Bounds what waits in the codec of an HTTP/1 connection, in both directions.

use std::io;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

use super::{Body, BodyError};

/// Bytes of one read, and so of one piece of a body, while it is not known to be large.
const PIECE_BYTES: usize = 16 * 1024 - 1;

/// Bytes of a piece of a large body: as many of them as are under way share the budget. Fewer reads
/// cost less, and each client that stops reading holds a piece. One less than a size at which
/// hyper's buffer would grow.
const LARGE_PIECE_BYTES: RangeInclusive<usize> = 16 * 1024 - 1..=64 * 1024 - 1;
const LARGE_PIECES_BYTES: usize = 512 * 1024;

/// From here on a body is large.
const LARGE_BYTES: u64 = 64 * 1024;
const LARGE_STREAM_BYTES: u64 = 256 * 1024;

/// Bytes of a piece that goes to one stream of many on a connection, where the codec holds three.
const STREAM_PIECE_BYTES: usize = 8 * 1024 - 1;
const LARGE_STREAM_PIECE_BYTES: RangeInclusive<usize> = 8 * 1024 - 1..=16 * 1024 - 1;

/// Small pieces that are taken before the first of them is written, so that they go together.
const TOGETHER_BYTES: u64 = 4 * 1024;

/// How many large bodies are under way in a worker.
#[derive(Debug, Clone, Default)]
pub struct LargeBodies(Arc<AtomicUsize>);

/// What an HTTP/1 connection has written, and how it is to be read.
///
/// Shared within one thread; atomic since hyper wants streams that could move between threads.
#[derive(Debug)]
pub struct Flow {
    written: AtomicU64,
    /// Where the writing has to be for more of the body to be taken.
    awaited: AtomicU64,
    is_waited_for: AtomicBool,
    waiting: AtomicWaker,
    /// Where the body comes from that is written.
    source: ArcSwapOption<Self>,
    /// Bytes that were read of the message under way.
    read: AtomicU64,
    read_max: usize,
    feeds_stream: AtomicBool,
    is_large: AtomicBool,
    is_tunnel: AtomicBool,
    large: LargeBodies,
    is_paused: AtomicBool,
    paused: AtomicWaker,
}

impl Flow {
    /// A connection that nothing was written to. One read takes at most `read_max` bytes.
    pub fn new(read_max: usize, large: LargeBodies) -> Arc<Self> {
        Arc::new(Self {
            written: AtomicU64::new(0),
            awaited: AtomicU64::new(0),
            is_waited_for: AtomicBool::new(false),
            waiting: AtomicWaker::new(),
            source: ArcSwapOption::empty(),
            read: AtomicU64::new(0),
            read_max,
            feeds_stream: AtomicBool::new(false),
            is_large: AtomicBool::new(false),
            is_tunnel: AtomicBool::new(false),
            large,
            is_paused: AtomicBool::new(false),
            paused: AtomicWaker::new(),
        })
    }

    /// What is read from here on is another message; `feeds_stream`: its body goes to one stream of
    /// many on a connection.
    pub fn begin(&self, feeds_stream: bool) {
        self.read.store(0, Relaxed);
        self.feeds_stream.store(feeds_stream, Relaxed);
        self.end_large();
        self.resume();
    }

    /// The message has been read.
    pub fn end(&self) {
        self.end_large();
        self.resume();
    }

    /// What is read from here on is no message, and is read in small pieces.
    pub fn become_tunnel(&self) {
        self.is_tunnel.store(true, Relaxed);
        self.end();
    }

    fn end_large(&self) {
        if self.is_large.swap(false, Relaxed) {
            self.large.0.fetch_sub(1, Relaxed);
        }
    }

    fn wrote(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(0);
        let written = self.written.fetch_add(bytes, Relaxed) + bytes;
        if !self.is_waited_for.load(Relaxed) {
            return;
        }
        if written >= self.awaited.load(Relaxed) {
            self.is_waited_for.store(false, Relaxed);
            if let Some(source) = &*self.source.load() {
                source.resume();
            }
        }
        self.waiting.wake();
    }

    /// How much the next read may take.
    fn piece_bytes(&self) -> usize {
        let read = self.read.load(Relaxed);
        let bytes = match self.feeds_stream.load(Relaxed) {
            _ if self.is_tunnel.load(Relaxed) => PIECE_BYTES,
            true if read < LARGE_STREAM_BYTES => STREAM_PIECE_BYTES,
            true => self.share(LARGE_STREAM_PIECE_BYTES),
            false if read < LARGE_BYTES => PIECE_BYTES,
            false => self.share(LARGE_PIECE_BYTES),
        };
        bytes.min(self.read_max)
    }

    /// The piece of a large body, given how many are under way.
    fn share(&self, bounds: RangeInclusive<usize>) -> usize {
        if !self.is_large.swap(true, Relaxed) {
            self.large.0.fetch_add(1, Relaxed);
        }
        let share = LARGE_PIECES_BYTES / self.large.0.load(Relaxed).max(1);
        let piece = (share + 1).next_power_of_two() / 2 - 1;
        piece.clamp(*bounds.start(), *bounds.end())
    }

    fn pause(&self) {
        self.is_paused.store(true, Relaxed);
    }

    fn resume(&self) {
        if self.is_paused.swap(false, Relaxed) {
            self.paused.wake();
        }
    }

    /// Waits until what was read has been written elsewhere.
    fn poll_read(&self, context: &Context<'_>) -> Poll<()> {
        if !self.is_paused.load(Relaxed) {
            return Poll::Ready(());
        }
        self.paused.register(context.waker());
        Poll::Pending
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.end_large();
    }
}

/// A body on its way to an HTTP/1 connection: held back while what was taken of it before waits to
/// be written.
#[derive(Debug)]
pub struct Outgoing {
    body: Body,
    throttle: Option<Throttle>,
    go: Option<Arc<Go>>,
}

/// The word that a body waits for before it begins.
#[derive(Debug, Default)]
pub struct Go {
    is_given: AtomicBool,
    waiting: AtomicWaker,
}

impl Go {
    /// It may begin.
    pub fn give(&self) {
        self.is_given.store(true, Relaxed);
        self.waiting.wake();
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        self.waiting.register(context.waker());
        if self.is_given.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Outgoing {
    /// A body that goes to a connection with this flow, if that is watched.
    pub fn new(body: Body, flow: Option<Arc<Flow>>) -> Self {
        // What fits into one piece is never held back.
        let is_small = body.size_hint().upper().is_some_and(|bytes| bytes <= TOGETHER_BYTES);
        let throttle = flow.filter(|_| !is_small).map(|flow| {
            flow.source.store(body.flow());
            Throttle::new(flow)
        });
        Self { body, throttle, go: None }
    }

    /// This body; it begins when it is told to.
    #[must_use]
    pub fn held_by(mut self, go: Option<Arc<Go>>) -> Self {
        self.go = go;
        self
    }

    /// The body itself.
    pub fn into_body(self) -> Body {
        self.body
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(go) = &this.go {
            if go.poll(context).is_pending() {
                return this.body.poll_late(context).map(|late| Some(Err(late)));
            }
            this.go = None;
        }
        let Some(throttle) = &mut this.throttle else {
            return Pin::new(&mut this.body).poll_frame(context);
        };
        if throttle.poll_room(context).is_pending() {
            // Whoever reads slowly reads all the same.
            if throttle.has_moved()
                && let Some(watch) = &this.body.watch
            {
                watch.meter.activity.touch();
            }
            return this.body.poll_late(context).map(|late| Some(Err(late)));
        }
        let polled = Pin::new(&mut this.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            // The connection that the last piece came from may serve others by now.
            && !this.body.is_end_stream()
        {
            throttle.take(u64::try_from(data.len()).unwrap_or(u64::MAX));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[derive(Debug)]
struct Throttle {
    flow: Arc<Flow>,
    /// Where the writing will be once all that was taken is written; heads and framing come on top.
    taken: u64,
    /// Where it was when nothing waited.
    began: u64,
    written: u64,
}

impl Throttle {
    fn new(flow: Arc<Flow>) -> Self {
        let written = flow.written.load(Relaxed);
        Self { flow, taken: written, began: written, written }
    }

    /// Waits until there is room.
    fn poll_room(&mut self, context: &Context<'_>) -> Poll<()> {
        let written = self.flow.written.load(Relaxed);
        if written >= self.taken {
            (self.taken, self.began) = (written, written);
        }
        if self.taken - self.began <= TOGETHER_BYTES {
            return Poll::Ready(());
        }
        self.flow.waiting.register(context.waker());
        self.flow.is_waited_for.store(true, Relaxed);
        Poll::Pending
    }

    /// Whether something was written since this was asked last.
    fn has_moved(&mut self) -> bool {
        let written = self.flow.written.load(Relaxed);
        std::mem::replace(&mut self.written, written) != written
    }

    fn take(&mut self, bytes: u64) {
        self.taken = self.taken.saturating_add(bytes);
        if self.taken - self.began > TOGETHER_BYTES {
            self.flow.awaited.store(self.taken, Relaxed);
            self.flow.is_waited_for.store(true, Relaxed);
            // What it reads meanwhile would only wait too.
            if let Some(source) = &*self.flow.source.load() {
                source.pause();
            }
        }
    }
}

/// A byte stream whose [`Flow`] is kept.
#[derive(Debug)]
pub struct Metered<S> {
    stream: Take<S>,
    flow: Arc<Flow>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Metered<S> {
    /// The stream, from here on.
    pub fn new(stream: S, flow: Arc<Flow>) -> Self {
        Self { stream: stream.take(0), flow }
    }

    fn inner(&mut self) -> Pin<&mut S> {
        Pin::new(self.stream.get_mut())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.flow.poll_read(context));
        let bytes = this.flow.piece_bytes();
        this.stream.set_limit(u64::try_from(bytes).unwrap_or(u64::MAX));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        this.flow.read.fetch_add(u64::try_from(read).unwrap_or(0), Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(this.inner().poll_write(context, bytes))?;
        this.flow.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(this.inner().poll_write_vectored(context, parts))?;
        this.flow.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn a_body_waits_for_what_was_taken_of_it() {
        let flow = Flow::new(usize::MAX, LargeBodies::default());
        flow.wrote(1_000_000);
        let mut throttle = Throttle::new(Arc::clone(&flow));
        let context = Context::from_waker(Waker::noop());
        throttle.take(TOGETHER_BYTES);
        assert!(throttle.poll_room(&context).is_ready());
        throttle.take(1);
        assert!(throttle.poll_room(&context).is_pending());
        flow.wrote(100);
        assert!(throttle.poll_room(&context).is_pending() && throttle.has_moved());
        // A head that was written meanwhile makes no room for what comes later.
        flow.wrote(usize::try_from(TOGETHER_BYTES).unwrap() + 500);
        assert!(throttle.poll_room(&context).is_ready());
        throttle.take(TOGETHER_BYTES + 1);
        assert!(throttle.poll_room(&context).is_pending());
    }

    #[test]
    fn large_bodies_share_a_budget_while_they_are_under_way() {
        let large = LargeBodies::default();
        let flows: Vec<_> = (0..40).map(|_| Flow::new(usize::MAX, large.clone())).collect();
        assert_eq!(flows[0].piece_bytes(), PIECE_BYTES);
        for flow in &flows {
            flow.read.store(LARGE_BYTES, Relaxed);
        }
        assert_eq!(flows[0].piece_bytes(), 64 * 1024 - 1);
        for flow in &flows {
            flow.piece_bytes();
        }
        assert_eq!(flows[0].piece_bytes(), 16 * 1024 - 1);
        flows[1].begin(true);
        assert_eq!((flows[1].piece_bytes(), large.0.load(Relaxed)), (STREAM_PIECE_BYTES, 39));
        flows[1].read.store(LARGE_STREAM_BYTES, Relaxed);
        assert_eq!(flows[1].piece_bytes(), 8 * 1024 - 1);
        assert_eq!(large.0.load(Relaxed), 40);
        flows[2..].iter().for_each(|flow| flow.end());
        assert_eq!(flows[1].piece_bytes(), 16 * 1024 - 1);
        drop(flows);
        assert_eq!(large.0.load(Relaxed), 0);
    }

    #[test]
    fn who_waits_to_be_written_keeps_its_source_from_reading() {
        let context = Context::from_waker(Waker::noop());
        let of = || Flow::new(usize::MAX, LargeBodies::default());
        let (client, upstream) = (of(), of());
        client.source.store(Some(Arc::clone(&upstream)));
        let mut throttle = Throttle::new(Arc::clone(&client));
        throttle.take(100_000);
        assert!(throttle.poll_room(&context).is_pending());
        assert!(upstream.poll_read(&context).is_pending());
        client.wrote(50_000);
        assert!(upstream.poll_read(&context).is_pending());
        assert!(throttle.poll_room(&context).is_pending());
        client.wrote(50_000);
        assert!(upstream.poll_read(&context).is_ready());
    }

    #[tokio::test]
    async fn a_read_takes_no_more_than_it_may() {
        let (near, mut far) = tokio::io::duplex(4096);
        let flow = Flow::new(7, LargeBodies::default());
        let mut near = Metered::new(near, Arc::clone(&flow));
        far.write_all(b"0123456789").await.unwrap();
        let mut buffer = Vec::with_capacity(100);
        assert_eq!(near.read_buf(&mut buffer).await.unwrap(), 7);
        assert_eq!(near.read_buf(&mut buffer).await.unwrap(), 3);
    }
}
