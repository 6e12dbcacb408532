//! The stream of an HTTP/2 connection to an endpoint, its frames counted before the codec reads them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::cluster::connect::Stream;
use crate::delegate::write_all_to;
use crate::framing::http2::answers::Answers;

/// A stream whose frames are counted.
#[derive(Debug)]
pub(super) struct Framed {
    stream: Stream,
    answers: Answers,
    made_at: Instant,
}

impl Framed {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, answers: Answers::default(), made_at: Instant::now() }
    }
}

impl AsyncRead for Framed {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let made_at = this.made_at;
        let counted =
            this.answers.received(&buffer.filled()[before..], || made_at.elapsed().as_secs());
        Poll::Ready(counted.map_err(|violation| {
            tracing::info!(reason = %violation, "upstream connection given up");
            io::Error::new(io::ErrorKind::InvalidData, violation)
        }))
    }
}

impl AsyncWrite for Framed {
    write_all_to!(stream);
}
