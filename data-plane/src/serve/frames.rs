//! A client's HTTP/2 stream, its frames counted as they pass.
//!
//! What is too much ends the connection at once: the codec gets an error, and the client a word of
//! farewell, where there is room for one.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::gate::HeadClock;
use super::io::Io;
use crate::framing::http2::{self, Frames};
use crate::proxy::connection::Connection;
use crate::telemetry::stats::Fault;

/// Reads of what the client still sends, which nobody looks at: a socket closed with bytes unread is
/// reset, and the word of farewell lost.
const LAST_READS: usize = 64;
const LAST_READ_BYTES: usize = 8 * 1024;

/// How long the word of farewell may take where nobody says.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// A client's stream whose frames are counted.
#[derive(Debug)]
pub(super) struct Framed {
    /// None once it was given up.
    io: Option<Io>,
    frames: Frames,
    clock: Rc<HeadClock>,
    connection: Rc<Connection>,
}

impl Framed {
    pub(super) fn new(
        io: Io,
        frames: Frames,
        clock: &Rc<HeadClock>,
        connection: &Rc<Connection>,
    ) -> Self {
        let (clock, connection) = (Rc::clone(clock), Rc::clone(connection));
        Self { io: Some(io), frames, clock, connection }
    }

    /// The stream, unless it is or was given up.
    fn io(&mut self) -> io::Result<&mut Io> {
        if let Some(fault) = self.connection.fault() {
            self.give_up(fault);
        }
        self.io.as_mut().ok_or_else(over)
    }

    fn give_up(&mut self, fault: Fault) {
        self.connection.give_up(fault);
        let Some(io) = self.io.take() else { return };
        let last = self.frames.may_say_farewell();
        let word = last.map(|last| http2::go_away(last, fault)).unwrap_or_default();
        let linger = self.connection.linger();
        self.connection.worker().tasks.spawn_local(farewell(io, word, linger));
    }

    /// The client took bytes.
    fn note_sent(&mut self, context: &Context<'_>, counted: Result<(), Fault>) {
        if let Err(fault) = counted {
            self.give_up(fault);
            // The codec finds out when it reads.
            context.waker().wake_by_ref();
        }
    }
}

fn over() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionAborted)
}

/// Says the last word, and waits a little until the client has read it.
async fn farewell(mut io: Io, word: Vec<u8>, linger: Option<Duration>) {
    let mut ends = async || -> io::Result<()> {
        io.write_all(&word).await?;
        io.shutdown().await?;
        let mut unread = vec![0; LAST_READ_BYTES];
        let reads = if linger.is_some() { LAST_READS } else { 0 };
        for _ in 0..reads {
            if io.read(&mut unread).await? == 0 {
                break;
            }
        }
        Ok(())
    };
    // Whether it was heard makes no difference.
    let _heard = tokio::time::timeout(linger.unwrap_or(FAREWELL_MAX), ends()).await;
}

impl AsyncRead for Framed {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(this.io()?).poll_read(context, buffer))?;
        let new = &buffer.filled()[before..];
        if new.is_empty() {
            return Poll::Ready(Ok(()));
        }
        this.clock.bytes_came();
        let base = this.clock.base();
        if let Err(fault) = this.frames.received(new, || base.elapsed().as_secs()) {
            this.give_up(fault);
            buffer.set_filled(before);
            return Poll::Ready(Err(over()));
        }
        if this.frames.is_in_block() {
            this.clock.head_begins();
        } else {
            this.clock.head_ends();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Framed {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(this.io()?).poll_write(context, bytes);
        if polled.is_pending() {
            this.frames.is_blocked();
        }
        let written = ready!(polled)?;
        let counted = this.frames.sent(&bytes[..written]);
        this.note_sent(context, counted);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(this.io()?).poll_write_vectored(context, parts);
        if polled.is_pending() {
            this.frames.is_blocked();
        }
        let written = ready!(polled)?;
        let mut left = written;
        for part in parts {
            let length = part.len().min(left);
            let counted = this.frames.sent(&part[..length]);
            this.note_sent(context, counted);
            left -= length;
            if left == 0 {
                break;
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().io()?).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().io()?).poll_shutdown(context)
    }
}
