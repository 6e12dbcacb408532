//! A body that is read once and copied as it goes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::{Body, BoxError};

/// Bytes that may wait for the reader of a copy. One that lags behind further gets no more: who
/// reads the body itself never waits for it.
pub const LAG_BYTES_MAX: usize = 1 << 20;

/// Why a copy ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// Its reader was too slow.
    #[error("the reader of the copy lags behind")]
    Lags,
    /// The body itself was given up, or broke off.
    #[error("the body that is copied broke off")]
    BrokenOff,
}

/// The body, and copies of it. A copy gets what the reader of the body has read.
pub fn tee(body: Body, copies: usize) -> (Body, Vec<Body>) {
    let size = body.size_hint();
    let taps: Vec<_> = (0..copies).map(|_| Rc::new(RefCell::new(Tap::default()))).collect();
    let whole = Tee { body, taps: taps.iter().map(Rc::downgrade).collect() };
    let copies = taps.into_iter().map(|tap| Body::filtered(Copy { tap, size }));
    (Body::filtered(whole), copies.collect())
}

struct Tee {
    body: Body,
    /// A copy whose reader is gone is not kept.
    taps: Vec<Weak<RefCell<Tap>>>,
}

#[derive(Default)]
struct Tap {
    frames: VecDeque<Frame<Bytes>>,
    bytes: usize,
    end: Option<Result<(), CopyError>>,
    waker: Option<Waker>,
}

struct Copy {
    tap: Rc<RefCell<Tap>>,
    size: SizeHint,
}

impl Tap {
    fn end(&mut self, end: Result<(), CopyError>) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        if end.is_err() {
            self.frames.clear();
            self.bytes = 0;
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn push(&mut self, frame: &Frame<Bytes>) {
        if self.end.is_some() {
            return;
        }
        let copy = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => {
                self.bytes += data.len();
                Frame::data(data.clone())
            }
            (None, Some(trailers)) => Frame::trailers(trailers.clone()),
            (None, None) => return,
        };
        if self.bytes > LAG_BYTES_MAX {
            self.end(Err(CopyError::Lags));
            return;
        }
        self.frames.push_back(copy);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Tee {
    fn each(&self, mut what: impl FnMut(&mut Tap)) {
        for tap in self.taps.iter().filter_map(Weak::upgrade) {
            what(&mut tap.borrow_mut());
        }
    }
}

impl http_body::Body for Tee {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                self.each(|tap| tap.push(frame));
                if self.body.is_end_stream() {
                    self.each(|tap| tap.end(Ok(())));
                }
            }
            Poll::Ready(None) => self.each(|tap| tap.end(Ok(()))),
            Poll::Ready(Some(Err(_))) => self.each(|tap| tap.end(Err(CopyError::BrokenOff))),
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.each(|tap| tap.end(Err(CopyError::BrokenOff)));
    }
}

impl http_body::Body for Copy {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut tap = self.tap.borrow_mut();
        if let Some(frame) = tap.frames.pop_front() {
            tap.bytes -= frame.data_ref().map_or(0, Bytes::len);
            return Poll::Ready(Some(Ok(frame)));
        }
        match tap.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            None => {
                tap.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let tap = self.tap.borrow();
        tap.frames.is_empty() && tap.end == Some(Ok(()))
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;
    use futures_util::stream;

    async fn text(body: Body) -> Result<Bytes, String> {
        body.collect().await.map(|body| body.to_bytes()).map_err(|error| {
            let source = std::error::Error::source(&error);
            source.map_or_else(|| error.to_string(), ToString::to_string)
        })
    }

    #[tokio::test]
    async fn every_copy_gets_the_whole_body() {
        let (whole, copies) = tee(Body::full("hello"), 2);
        assert_eq!(whole.size_hint().exact(), Some(5));
        assert_eq!(text(whole).await.unwrap(), "hello");
        for copy in copies {
            assert_eq!(copy.size_hint().exact(), Some(5));
            assert_eq!(text(copy).await.unwrap(), "hello");
        }
    }

    #[tokio::test]
    async fn a_copy_that_is_read_too_late_ends_and_the_body_does_not() {
        let chunk = Bytes::from(vec![0; LAG_BYTES_MAX / 2]);
        let frames = (0..4).map(move |_| Ok::<_, BoxError>(Frame::data(chunk.clone())));
        let (whole, copies) = tee(Body::filtered(StreamBody::new(stream::iter(frames))), 1);
        assert_eq!(text(whole).await.unwrap().len(), 2 * LAG_BYTES_MAX);
        for copy in copies {
            assert_eq!(text(copy).await.unwrap_err(), CopyError::Lags.to_string());
        }
    }

    #[tokio::test]
    async fn a_body_that_is_given_up_gives_up_its_copies() {
        let full = Full::new(Bytes::from_static(b"x")).map_err(|never| match never {});
        let (whole, copies) = tee(Body::filtered(full), 1);
        drop(whole);
        for copy in copies {
            assert_eq!(text(copy).await.unwrap_err(), CopyError::BrokenOff.to_string());
        }
    }
}
