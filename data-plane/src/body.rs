//! A message body on its way through the proxy: counted, and given up when nothing moves.

pub mod kept;
pub mod flow;
pub mod stall;
pub mod tee;
mod trailers;

use std::cell::{Cell, OnceCell};
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use self::flow::Flow;

/// What a body sends before it ends early.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a body ended before its last byte.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The peer that sends it closed or reset.
    #[error("the sender of the body broke off")]
    Sender(#[source] hyper::Error),
    /// A deadline passed while it was under way.
    #[error("{0} while the body was under way")]
    Deadline(DeadlineKind),
    /// A filter that reads the body broke off.
    #[error("a filter broke off the body")]
    Filter(#[source] BoxError),
}

/// Which deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeadlineKind {
    /// Nothing moved in either direction for too long.
    #[error("idle for too long")]
    Idle,
    /// The whole exchange took too long.
    #[error("timeout")]
    Overall,
}

/// The connection that a body streams in from. Dropped before the body ended, it breaks the
/// exchange off.
pub trait Lease {
    /// The last byte has been read: the connection may serve others.
    fn complete(self: Box<Self>);

    /// How the connection is read, where it carries nothing else.
    fn flow(&self) -> Option<&Arc<Flow>> {
        None
    }
}

/// A request or response body.
#[derive(Debug, Default)]
pub struct Body {
    source: Source,
    watch: Option<Watch>,
    held: Held,
    trailers: Trailers,
}

/// What becomes of the trailers of a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Trailers {
    /// They pass.
    #[default]
    Pass,
    /// They are noted, and sent to nobody.
    Unsent,
    /// They might as well not have come.
    Ignored,
}

/// What a body keeps busy until it ends.
#[derive(Default)]
struct Held(Option<Box<dyn Lease>>);

impl Held {
    fn complete(&mut self) {
        if let Some(lease) = self.0.take() {
            lease.complete();
        }
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Held" } else { "Free" })
    }
}

#[derive(Default)]
enum Source {
    #[default]
    Empty,
    Full(Bytes),
    Incoming(Incoming),
    Filtered(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError>>>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Incoming(_) => "Incoming",
            Self::Filtered(_) => "Filtered",
        })
    }
}

impl Body {
    /// A body without a byte.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A body that is known as a whole.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let source = if bytes.is_empty() { Source::Empty } else { Source::Full(bytes) };
        Self { source, ..Self::default() }
    }

    /// A body that streams in from a connection.
    pub fn incoming(incoming: Incoming) -> Self {
        let source =
            if incoming.is_end_stream() { Source::Empty } else { Source::Incoming(incoming) };
        Self { source, ..Self::default() }
    }

    /// A body that streams in from a connection which it keeps busy until it ends.
    pub fn leased(incoming: Incoming, lease: Box<dyn Lease>) -> Self {
        let mut body = Self::incoming(incoming);
        body.held = Held(Some(lease));
        if body.is_empty() {
            body.held.complete();
        }
        body
    }

    /// No body, and what is held until it is dropped: the tunnel that begins in its place.
    pub fn in_place_of(tunnel: Box<dyn Lease>) -> Self {
        Self { held: Held(Some(tunnel)), ..Self::default() }
    }

    /// A body that a filter reads or makes.
    pub fn filtered<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = BoxError> + 'static,
    {
        let source = Source::Filtered(Box::pin(body));
        Self { source, ..Self::default() }
    }

    /// The body that `wrap` makes of this one. What watches it watches what comes out.
    #[must_use]
    pub fn wrapped<B>(mut self, wrap: impl FnOnce(Self) -> B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = BoxError> + 'static,
    {
        let (watch, held) = (self.watch.take(), std::mem::take(&mut self.held));
        Self { watch, held, ..Self::filtered(wrap(self)) }
    }

    /// Counts this body in `meter`, and breaks it off when one of its deadlines passes.
    #[must_use]
    pub fn watched(mut self, meter: Rc<Meter>, deadlines: Deadlines) -> Self {
        self.watch = Some(Watch { meter, deadlines, sleep: None });
        self
    }

    /// This body; its trailers are not sent.
    #[must_use]
    pub fn without_trailers(mut self) -> Self {
        if self.trailers == Trailers::Pass {
            self.trailers = Trailers::Unsent;
        }
        self
    }

    /// This body as if it had no trailers.
    #[must_use]
    pub fn ignoring_trailers(mut self) -> Self {
        self.trailers = Trailers::Ignored;
        self
    }

    /// How the connection is read that it comes from, where that carries nothing else.
    fn flow(&self) -> Option<Arc<Flow>> {
        self.held.0.as_ref().and_then(|lease| lease.flow()).map(Arc::clone)
    }

    /// When it is given up.
    pub fn deadlines(&self) -> Deadlines {
        self.watch.as_ref().map(|watch| watch.deadlines).unwrap_or_default()
    }

    /// All of it, where it is known as a whole and nothing of it was sent.
    pub fn known(&self) -> Option<&Bytes> {
        static NONE: Bytes = Bytes::new();
        match &self.source {
            Source::Empty => Some(&NONE),
            Source::Full(bytes) => Some(bytes),
            Source::Incoming(_) | Source::Filtered(_) => None,
        }
    }

    /// Whether there is nothing to send: such a request can be sent once more.
    pub fn is_empty(&self) -> bool {
        matches!(self.source, Source::Empty)
    }
}

/// What has gone through a body so far; both bodies of an exchange and its log share them.
#[derive(Debug)]
pub struct Meter {
    bytes: Cell<u64>,
    ended: Cell<Option<Ended>>,
    ended_at: Cell<Option<Instant>>,
    keeps_trailers: Cell<bool>,
    trailers: OnceCell<HeaderMap>,
    activity: Rc<Activity>,
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With its last byte.
    Complete,
    /// Its sender broke off.
    Sender(Break),
    /// A deadline passed.
    Deadline(DeadlineKind),
}

/// How the sender of a body broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// It reset the stream.
    Reset,
    /// It closed the connection.
    Closed,
    /// It closed the connection before what it had said of the length was there.
    Truncated,
    /// What it sent is no body.
    Malformed,
}

impl BodyError {
    fn kind(&self) -> Break {
        let Self::Sender(error) = self else { return Break::Malformed };
        let source = std::error::Error::source(error);
        if let Some(error) = source.and_then(|source| source.downcast_ref::<h2::Error>()) {
            return match error {
                error if error.is_io() || error.is_go_away() => Break::Closed,
                error if error.is_remote() => Break::Reset,
                _ => Break::Malformed,
            };
        }
        let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
        match io.map(std::io::Error::kind) {
            Some(ErrorKind::InvalidInput | ErrorKind::InvalidData) => Break::Malformed,
            Some(_) => Break::Truncated,
            None => Break::Closed,
        }
    }
}

/// When something last moved in an exchange, in either direction.
#[derive(Debug)]
pub struct Activity(Cell<Instant>);

impl Activity {
    /// Something moved now.
    pub fn new() -> Rc<Self> {
        Rc::new(Self(Cell::new(Instant::now())))
    }

    /// Notes that something moved.
    pub fn touch(&self) {
        self.0.set(Instant::now());
    }

    /// When something last moved.
    pub fn last(&self) -> Instant {
        self.0.get()
    }
}

impl Meter {
    /// A meter at zero.
    pub fn new(activity: Rc<Activity>) -> Rc<Self> {
        Rc::new(Self {
            bytes: Cell::new(0),
            ended: Cell::new(None),
            ended_at: Cell::new(None),
            keeps_trailers: Cell::new(false),
            trailers: OnceCell::new(),
            activity,
        })
    }

    /// Notes bytes that passed outside a body: after a switch of protocols.
    pub fn add(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        self.activity.touch();
    }

    /// Bytes of the body that have passed.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// How the body ended; `None` while it is under way, or when its reader gave up.
    pub fn ended(&self) -> Option<Ended> {
        self.ended.get()
    }

    /// When the last byte passed.
    pub fn completed_at(&self) -> Option<Instant> {
        self.ended_at.get()
    }

    /// Keeps trailers that come.
    pub fn keep_trailers(&self) {
        self.keeps_trailers.set(true);
    }

    /// The trailers that came, where they are kept.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.get()
    }

    /// Notes what the source of a body gave, and whether that was the last of it.
    fn note(&self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>, is_end: bool) {
        match polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    self.bytes.set(self.bytes.get().saturating_add(length));
                } else if self.keeps_trailers.get()
                    && let Some(trailers) = frame.trailers_ref()
                {
                    // A body has trailers once.
                    let _is_first = self.trailers.set(trailers.clone());
                }
                self.activity.touch();
                // Who has the last byte asks no more.
                if is_end {
                    self.complete_at(self.activity.last());
                }
            }
            Poll::Ready(Some(Err(error))) => self.ended.set(Some(Ended::Sender(error.kind()))),
            Poll::Ready(None) if self.ended_at.get().is_some() => {}
            Poll::Ready(None) => self.complete(),
        }
    }

    /// Notes that nothing more is to come.
    pub fn complete(&self) {
        self.complete_at(Instant::now());
    }

    /// Notes that nothing more has come since `at`.
    pub fn complete_at(&self, at: Instant) {
        self.ended.set(Some(Ended::Complete));
        if self.ended_at.get().is_none() {
            self.ended_at.set(Some(at));
        }
    }
}

/// When to give up on a body.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deadlines {
    /// The longest time without anything moving in either direction.
    pub idle: Option<Duration>,
    /// When the body must have ended.
    pub end: Option<Instant>,
}

#[derive(Debug)]
struct Watch {
    meter: Rc<Meter>,
    deadlines: Deadlines,
    // Made at the first wait: most bodies are there at once, and a timer costs.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    fn poll_deadlines(&mut self, context: &mut Context<'_>) -> Poll<DeadlineKind> {
        loop {
            let idle = self.deadlines.idle.map(|idle| self.meter.activity.last() + idle);
            let (at, kind) = match (idle, self.deadlines.end) {
                (None, None) => return Poll::Pending,
                (Some(idle), None) => (idle, DeadlineKind::Idle),
                (Some(idle), Some(end)) if idle < end => (idle, DeadlineKind::Idle),
                (_, Some(end)) => (end, DeadlineKind::Overall),
            };
            let sleep = match &mut self.sleep {
                Some(sleep) => {
                    if sleep.deadline() > at {
                        sleep.as_mut().reset(at);
                    }
                    sleep
                }
                None => self.sleep.insert(Box::pin(tokio::time::sleep_until(at))),
            };
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            // The timer may have been set before something moved.
            if Instant::now() >= at {
                return Poll::Ready(kind);
            }
            sleep.as_mut().reset(at);
        }
    }
}

impl Source {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(context).map(|frame| {
                frame.map(|frame| frame.map(trailers::stripped).map_err(BodyError::Sender))
            }),
            Self::Filtered(body) => body
                .as_mut()
                .poll_frame(context)
                .map(|frame| frame.map(|frame| frame.map_err(BodyError::Filter))),
        }
    }
}

impl Body {
    /// Gives the body up once it is too late; it did not move now.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        let Some(watch) = &mut self.watch else { return Poll::Pending };
        let Poll::Ready(kind) = watch.poll_deadlines(context) else { return Poll::Pending };
        watch.meter.ended.set(Some(Ended::Deadline(kind)));
        self.source = Source::Empty;
        self.held = Held::default();
        Poll::Ready(BodyError::Deadline(kind))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut polled = this.source.poll_frame(context);
        if matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_trailers()) {
            // They are the end, whether anybody asks for more or not.
            this.source = Source::Empty;
            if this.trailers == Trailers::Ignored {
                polled = Poll::Ready(None);
            }
        }
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(_))) if !this.source.is_end_stream() => {}
            Poll::Ready(None | Some(Ok(_))) => this.held.complete(),
            Poll::Ready(Some(Err(_))) => this.held = Held::default(),
        }
        if polled.is_pending() {
            return this.poll_late(context).map(|late| Some(Err(late)));
        }
        if let Some(watch) = &this.watch {
            watch.meter.note(&polled, this.source.is_end_stream());
        }
        match &polled {
            Poll::Ready(Some(Ok(frame)))
                if frame.is_trailers() && this.trailers == Trailers::Unsent =>
            {
                Poll::Ready(None)
            }
            _ => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) => {
                SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
            }
            Source::Incoming(incoming) => incoming.size_hint(),
            Source::Filtered(body) => body.size_hint(),
        }
    }
}

impl Source {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Incoming(incoming) => incoming.is_end_stream(),
            Self::Filtered(body) => body.is_end_stream(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    struct Never;

    impl http_body::Body for Never {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_body_is_counted_and_its_end_noted() {
        let meter = Meter::new(Activity::new());
        let body = Body::full("hello").watched(Rc::clone(&meter), Deadlines::default());
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
        assert_eq!(meter.bytes(), 5);
        assert_eq!(meter.ended(), Some(Ended::Complete));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_is_given_up() {
        let meter = Meter::new(Activity::new());
        let deadlines = Deadlines {
            idle: Some(Duration::from_secs(5)),
            end: Some(Instant::now() + Duration::from_secs(60)),
        };
        let body = Body::filtered(Never).watched(Rc::clone(&meter), deadlines);
        let started = Instant::now();
        assert!(body.collect().await.is_err());
        assert_eq!(meter.ended(), Some(Ended::Deadline(DeadlineKind::Idle)));
        assert_eq!(started.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn activity_elsewhere_keeps_a_body_alive_until_the_overall_deadline() {
        let activity = Activity::new();
        let meter = Meter::new(Rc::clone(&activity));
        let deadlines = Deadlines {
            idle: Some(Duration::from_secs(5)),
            end: Some(Instant::now() + Duration::from_secs(8)),
        };
        let body = Body::filtered(Never).watched(Rc::clone(&meter), deadlines);
        let started = Instant::now();
        let other = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            activity.touch();
        };
        let (body, ()) = tokio::join!(body.collect(), other);
        assert!(body.is_err());
        assert_eq!(meter.ended(), Some(Ended::Deadline(DeadlineKind::Overall)));
        assert_eq!(started.elapsed().as_secs(), 8);
    }
}
