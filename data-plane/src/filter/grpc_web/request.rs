//! A base64 body as the bytes that it stands for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body::Frame;

use crate::body::{Body, BoxError};
use crate::filtering::Reply;
use crate::filtering::stage::Objection;
use crate::telemetry::why::Why;

/// Bytes that four letters of base64 stand for at most.
const GROUP: usize = 4;

/// A body, decoded. It may have been encoded in pieces: padding may stand within.
#[derive(Debug)]
pub(super) struct Decoded {
    body: Body,
    objection: Objection,
    /// Letters of a group that is not complete.
    left: Vec<u8>,
}

impl Decoded {
    /// `objection` has the client told of text that is none.
    pub(super) fn new(body: Body, objection: Objection) -> Self {
        Self { body, objection, left: Vec::with_capacity(GROUP) }
    }

    fn object(&self, details: &'static str) -> BoxError {
        let reply = Reply::refusal(Why::GrpcWebMalformed);
        self.objection.raise(Reply { details: Some(details.into()), ..reply });
        "not base64".into()
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
            STANDARD
                .decode_vec(&rest[..end], &mut bytes)
                .map_err(|_| self.object("grpc_base_64_decode_failed"))?;
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
                    this.left.clear();
                    let error = this.object("grpc_base_64_decode_failed_bad_size");
                    return Poll::Ready(Some(Err(error)));
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
