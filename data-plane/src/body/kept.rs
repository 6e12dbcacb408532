//! A body that is kept as it is sent, so that it can be sent again.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::{Body, BoxError};

/// Bytes that are kept of a request where nothing is configured. As Envoy's buffer has it.
pub const KEPT_BYTES_MAX: usize = 1 << 20;

/// What a body sent so far, and the rest of it.
pub struct Kept {
    shared: Rc<RefCell<Shared>>,
}

struct Shared {
    source: Body,
    size: SizeHint,
    frames: Vec<Frame<Bytes>>,
    bytes: usize,
    bytes_max: usize,
    /// All of it was read.
    is_complete: bool,
    /// It broke off, or was too long to be kept.
    is_lost: bool,
}

/// One sending of it.
struct Sending {
    shared: Rc<RefCell<Shared>>,
    next: usize,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

impl Kept {
    /// Gives the body as it was, and what is kept of it while it is sent. Dropped, nothing more is kept.
    ///
    /// A body of more than `bytes_max` can be sent only once.
    pub fn new(source: Body, bytes_max: usize) -> (Body, Self) {
        let shared = Rc::new(RefCell::new(Shared {
            size: source.size_hint(),
            source,
            frames: Vec::new(),
            bytes: 0,
            bytes_max,
            is_complete: false,
            is_lost: false,
        }));
        let sending = Sending { shared: Rc::clone(&shared), next: 0 };
        (Body::filtered(sending), Self { shared })
    }

    /// The body from its start, where all of it has come and it was not too long.
    pub fn again(&self) -> Option<Body> {
        let mut shared = self.shared.borrow_mut();
        let mut context = Context::from_waker(Waker::noop());
        while !shared.is_complete && !shared.is_lost {
            match shared.read(&mut context) {
                Poll::Ready(Some(Ok(frame))) => shared.keep(&frame),
                Poll::Ready(Some(Err(_))) | Poll::Pending => return None,
                Poll::Ready(None) => {}
            }
        }
        let sending = Sending { shared: Rc::clone(&self.shared), next: 0 };
        (!shared.is_lost).then(|| Body::filtered(sending))
    }
}

impl Shared {
    fn read(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.source).poll_frame(context);
        match &polled {
            Poll::Ready(None) => self.is_complete = true,
            Poll::Ready(Some(Ok(_))) => self.is_complete = self.source.is_end_stream(),
            Poll::Ready(Some(Err(_))) => self.is_lost = true,
            Poll::Pending => {}
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        self.bytes += frame.data_ref().map_or(0, Bytes::len);
        if self.bytes > self.bytes_max {
            self.lose();
        }
        if !self.is_lost {
            self.frames.extend(copy(frame));
        }
    }

    fn lose(&mut self) {
        self.is_lost = true;
        self.frames = Vec::new();
    }
}

fn copy(frame: &Frame<Bytes>) -> Option<Frame<Bytes>> {
    let trailers = || frame.trailers_ref().cloned().map(Frame::trailers);
    frame.data_ref().cloned().map(Frame::data).or_else(trailers)
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        // Who would send it again is gone.
        let is_last = Rc::strong_count(&this.shared) == 1;
        let mut shared = this.shared.borrow_mut();
        if let Some(frame) = shared.frames.get(this.next).and_then(copy) {
            this.next += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        if is_last && !shared.is_lost {
            shared.lose();
        }
        if shared.is_complete {
            return Poll::Ready(None);
        }
        let polled = shared.read(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            shared.keep(frame);
            this.next = shared.frames.len();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.borrow();
        shared.is_complete && self.next >= shared.frames.len()
    }

    fn size_hint(&self) -> SizeHint {
        self.shared.borrow().size
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http::HeaderMap;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn body(frames: Vec<Frame<Bytes>>) -> Body {
        let frames = frames.into_iter().map(Ok::<_, BoxError>);
        Body::filtered(StreamBody::new(stream::iter(frames)))
    }

    async fn text(body: Body) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn what_was_sent_in_part_or_whole_is_sent_again_with_its_trailers() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x", "y".parse().unwrap());
        let frames = vec![
            Frame::data("hel".into()),
            Frame::data("lo".into()),
            Frame::trailers(trailers.clone()),
        ];
        let (mut first, kept) = Kept::new(body(frames), 100);
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "hel");
        drop(first);
        for _ in 0..2 {
            let again = kept.again().unwrap().collect().await.unwrap();
            assert_eq!(again.trailers(), Some(&trailers));
            assert_eq!(again.to_bytes(), "hello");
        }
    }

    #[tokio::test]
    async fn what_has_not_come_is_not_sent_again() {
        let start = stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from("x")))]);
        let endless = Body::filtered(StreamBody::new(futures_util::StreamExt::chain(
            start,
            stream::pending::<Result<Frame<Bytes>, BoxError>>(),
        )));
        let (mut first, kept) = Kept::new(endless, 100);
        assert!(first.frame().await.is_some());
        assert!(kept.again().is_none());
    }

    #[tokio::test]
    async fn what_is_too_long_is_sent_once() {
        let chunk = || Frame::data(Bytes::from_static(b"abc"));
        let (first, kept) = Kept::new(body(vec![chunk(), chunk()]), 5);
        assert_eq!(text(first).await, "abcabc");
        assert!(kept.again().is_none());
        assert!(kept.shared.borrow().frames.is_empty());
    }

    #[tokio::test]
    async fn nothing_is_kept_for_nobody() {
        let (mut first, kept) =
            Kept::new(body(vec![Frame::data("a".into()), Frame::data("b".into())]), 100);
        assert!(first.frame().await.is_some());
        drop(kept);
        assert_eq!(text(first).await, "b");
    }
}
