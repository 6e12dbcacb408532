//! Reading a body into memory, up to a limit, and sending on what was read.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use crate::body::{Body, BodyError, BoxError};

/// What was read of a body.
#[derive(Debug)]
pub enum Collected {
    /// All of it.
    Whole {
        /// Its bytes.
        data: Bytes,
        /// Its trailers.
        trailers: Option<HeaderMap>,
    },
    /// It is longer than the limit.
    Start {
        /// What was read: the limit, and the rest of a chunk.
        data: Bytes,
        /// What was not.
        rest: Body,
    },
}

/// Reads a body until its end, or until there is more than `max`.
///
/// # Errors
/// When its sender breaks off.
pub async fn collect(mut body: Body, max: usize) -> Result<Collected, BodyError> {
    let mut data = Bytes::new();
    let mut joined = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            // Most bodies come in one piece, which needs no copy.
            Ok(chunk) if data.is_empty() && joined.is_empty() => data = chunk,
            Ok(chunk) => {
                joined.extend_from_slice(&std::mem::take(&mut data));
                joined.extend_from_slice(&chunk);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if data.len() + joined.len() > max {
            let data = if joined.is_empty() { data } else { joined.freeze() };
            return Ok(Collected::Start { data, rest: body });
        }
    }
    let data = if joined.is_empty() { data } else { joined.freeze() };
    Ok(Collected::Whole { data, trailers })
}

impl Collected {
    /// What was read.
    pub fn data(&self) -> &Bytes {
        match self {
            Self::Whole { data, .. } | Self::Start { data, .. } => data,
        }
    }

    /// The body, as if nothing of it had been read.
    pub fn into_body(self) -> Body {
        match self {
            Self::Whole { data, trailers: None } => Body::full(data),
            Self::Whole { data, trailers: Some(trailers) } => {
                Body::filtered(Replay::new(data, Some(trailers), None))
            }
            Self::Start { data, rest } => Body::filtered(Replay::new(data, None, Some(rest))),
        }
    }
}

/// What was read, and then what was not.
#[derive(Debug)]
struct Replay {
    frames: VecDeque<Frame<Bytes>>,
    rest: Option<Body>,
}

impl Replay {
    fn new(data: Bytes, trailers: Option<HeaderMap>, rest: Option<Body>) -> Self {
        let data = (!data.is_empty()).then(|| Frame::data(data));
        Self { frames: data.into_iter().chain(trailers.map(Frame::trailers)).collect(), rest }
    }
}

impl http_body::Body for Replay {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(frame) = this.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match &mut this.rest {
            None => Poll::Ready(None),
            Some(rest) => Pin::new(rest)
                .poll_frame(context)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.frames.iter().filter_map(Frame::data_ref).map(Bytes::len).sum::<usize>();
        let read = u64::try_from(read).unwrap_or(u64::MAX);
        let rest = self.rest.as_ref().map_or(SizeHint::with_exact(0), http_body::Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(read.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper() {
            hint.set_upper(read.saturating_add(upper));
        }
        hint
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A body of these frames.
    pub(crate) fn frames(chunks: &[&'static str], trailers: &[(&str, &str)]) -> Body {
        let data = chunks.iter().map(|chunk| Frame::data(Bytes::from_static(chunk.as_bytes())));
        let trailers = (!trailers.is_empty()).then(|| {
            let line = |(name, value): &(&str, &str)| {
                (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())
            };
            Frame::trailers(trailers.iter().map(line).collect::<HeaderMap>())
        });
        Body::filtered(Replay { frames: data.chain(trailers).collect(), rest: None })
    }
}

#[cfg(test)]
mod tests {
    use super::testing::frames;
    use super::*;

    async fn sent(body: Body) -> (String, bool) {
        let sent = body.collect().await.unwrap();
        let has_trailers = sent.trailers().is_some();
        (String::from_utf8(sent.to_bytes().to_vec()).unwrap(), has_trailers)
    }

    #[tokio::test]
    async fn what_was_read_is_sent_on_whole() {
        let read = collect(frames(&["ab", "cd"], &[("x", "1")]), 4).await.unwrap();
        assert_eq!(&read.data()[..], b"abcd");
        let body = read.into_body();
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(4));
        assert_eq!(sent(body).await, ("abcd".into(), true));
        let read = collect(Body::full("abc"), 10).await.unwrap();
        assert_eq!(sent(read.into_body()).await, ("abc".into(), false));
        assert!(collect(Body::empty(), 0).await.unwrap().into_body().is_empty());
    }

    #[tokio::test]
    async fn reading_ends_at_the_limit() {
        let read = collect(frames(&["ab", "cd", "ef"], &[("x", "1")]), 3).await.unwrap();
        assert!(matches!(&read, Collected::Start { data, .. } if &data[..] == b"abcd"));
        assert_eq!(sent(read.into_body()).await, ("abcdef".into(), true));
    }
}
