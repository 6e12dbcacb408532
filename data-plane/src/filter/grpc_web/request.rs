//! A base64 body as the bytes that it stands for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body::Frame;

use crate::body::{Body, BoxError};

/// Bytes that four letters of base64 stand for at most.
const GROUP: usize = 4;

/// A body, decoded. It may have been encoded in pieces: padding may stand within.
#[derive(Debug)]
pub(super) struct Decoded {
    body: Body,
    /// Letters of a group that is not complete.
    left: Vec<u8>,
}

impl Decoded {
    pub(super) fn new(body: Body) -> Self {
        Self { body, left: Vec::with_capacity(GROUP) }
    }

    fn decode(&mut self, text: &[u8]) -> Result<Bytes, BoxError> {
        let mut letters = std::mem::take(&mut self.left);
        letters.extend(text.iter().filter(|letter| !letter.is_ascii_whitespace()));
        let whole = letters.len() - letters.len() % GROUP;
        self.left = letters.split_off(whole);
        let mut bytes = Vec::with_capacity(whole);
        let mut rest = letters.as_slice();
        while !rest.is_empty() {
            // Up to the padding, which ends a piece, and what is left of its group.
            let end = rest.iter().position(|letter| *letter == b'=').unwrap_or(rest.len());
            let end = end.next_multiple_of(GROUP).min(rest.len());
            STANDARD.decode_vec(&rest[..end], &mut bytes)?;
            rest = &rest[end..];
        }
        Ok(bytes.into())
    }
}

impl http_body::Body for Decoded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                None if this.left.is_empty() => return Poll::Ready(None),
                None => {
                    return Poll::Ready(Some(Err("the base64 text ends within a group".into())));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                Ok(text) => match this.decode(&text) {
                    Ok(bytes) if bytes.is_empty() => {}
                    bytes => return Poll::Ready(Some(bytes.map(Frame::data))),
                },
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.is_end_stream()
    }
}
