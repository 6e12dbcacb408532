//! A client's socket, with what was read ahead put back in front.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::delegate::write_all_to;

/// Bytes to read ahead at a time: a hello mostly fits.
const READ_BYTES: usize = 2048;

/// A socket.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    ahead: BytesMut,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, ahead: BytesMut::new() }
    }

    /// The stream below.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// What was read ahead.
    pub(super) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Reads ahead; gives how many bytes more there are, 0 at the end of the stream.
    ///
    /// # Errors
    /// When reading fails.
    pub(super) async fn read_ahead(&mut self) -> io::Result<usize> {
        self.ahead.reserve(READ_BYTES);
        self.stream.read_buf(&mut self.ahead).await
    }

    /// Drops bytes from the front of what was read ahead.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.ahead.advance(bytes.min(self.ahead.len()));
    }

    /// The first byte that comes; none at the end of the stream.
    ///
    /// # Errors
    /// When reading fails.
    pub(super) async fn first_byte(&mut self) -> io::Result<Option<u8>> {
        if self.ahead.is_empty() {
            self.read_ahead().await?;
        }
        Ok(self.ahead.first().copied())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let length = this.ahead.len().min(buffer.remaining());
        buffer.put_slice(&this.ahead.split_to(length));
        if this.ahead.is_empty() {
            // Gives the memory back.
            this.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    write_all_to!(stream);
}
