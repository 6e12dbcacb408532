//! A gRPC response with its trailers in the body, as browsers can read them.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;

use crate::body::{Body, BoxError};

/// Marks a frame of trailers.
const TRAILERS: u8 = 0x80;

/// The response, perhaps as base64 text.
#[derive(Debug)]
pub(super) struct Framed {
    body: Body,
    is_text: bool,
}

impl Framed {
    pub(super) fn new(body: Body, is_text: bool) -> Self {
        Self { body, is_text }
    }

    fn encode(&self, bytes: Bytes) -> Frame<Bytes> {
        // Each piece is padded, so that none waits for the next.
        Frame::data(if self.is_text { STANDARD.encode(&bytes).into() } else { bytes })
    }
}

impl http_body::Body for Framed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => frame,
        };
        let bytes = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => trailer_frame(&trailers),
                Err(other) => return Poll::Ready(Some(Ok(other))),
            },
        };
        Poll::Ready(Some(Ok(this.encode(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Trailers as a frame of their own: lines as in HTTP/1.
fn trailer_frame(trailers: &HeaderMap) -> Bytes {
    let mut lines = BytesMut::new();
    for (name, value) in trailers {
        lines.put_slice(name.as_str().as_bytes());
        lines.put_u8(b':');
        lines.put_slice(value.as_bytes());
        lines.put_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(lines.len() + 5);
    frame.put_u8(TRAILERS);
    frame.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    frame.put(lines);
    frame.freeze()
}
