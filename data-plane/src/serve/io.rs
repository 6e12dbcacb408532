//! A client's byte stream, plain or TLS, with what was read ahead put back in front.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::socket::Socket;
use crate::delegate::{delegate, write_all_to};

/// How an HTTP/2 connection with prior knowledge begins (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The stream of a client.
#[derive(Debug)]
pub(super) enum Stream {
    /// As it comes.
    Plain(Socket),
    /// Decrypted.
    Tls(Box<TlsStream<Socket>>),
}

delegate!(Stream: Plain, Tls);

/// A client's stream with what was read ahead.
#[derive(Debug)]
pub(super) struct Io {
    stream: Stream,
    ahead: Bytes,
}

impl Io {
    /// The stream from here on.
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, ahead: Bytes::new() }
    }

    /// Whether the client speaks HTTP/2 with prior knowledge. Reads no more than it takes to know.
    ///
    /// # Errors
    /// When reading fails. A stream that ends is not HTTP/2.
    pub(super) async fn is_http2(&mut self) -> io::Result<bool> {
        let mut ahead = Vec::with_capacity(1024);
        loop {
            let known = ahead.len().min(PREFACE.len());
            let is_preface = ahead[..known] == PREFACE[..known];
            if !is_preface || known == PREFACE.len() || self.read_ahead(&mut ahead).await? == 0 {
                self.ahead = ahead.into();
                return Ok(is_preface && known == PREFACE.len());
            }
        }
    }

    async fn read_ahead(&mut self, ahead: &mut Vec<u8>) -> io::Result<usize> {
        self.stream.read_buf(ahead).await
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let length = this.ahead.len().min(buffer.remaining());
            buffer.put_slice(&this.ahead[..length]);
            this.ahead.advance(length);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Io {
    write_all_to!(stream);
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn sniff(parts: &[&[u8]]) -> (bool, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let send = async {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.set_nodelay(true).unwrap();
            for part in parts {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let receive = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut io = Io::new(Stream::Plain(Socket::new(stream)));
            let is_http2 = io.is_http2().await.unwrap();
            let mut all = Vec::new();
            io.read_to_end(&mut all).await.unwrap();
            (is_http2, all)
        };
        tokio::join!(send, receive).1
    }

    #[tokio::test]
    async fn the_preface_is_told_apart_and_nothing_is_lost() {
        let http2: [&[u8]; 2] = [b"PRI * HTTP/2.0\r\n", b"\r\nSM\r\n\r\nframes"];
        assert_eq!(sniff(&http2).await, (true, http2.concat()));
        let http1: [&[u8]; 2] = [b"PR", b"OPFIND / HTTP/1.1\r\n"];
        assert_eq!(sniff(&http1).await, (false, http1.concat()));
        assert_eq!(sniff(&[b"PRI"]).await, (false, b"PRI".to_vec()));
        assert_eq!(sniff(&[]).await, (false, vec![]));
    }
}
