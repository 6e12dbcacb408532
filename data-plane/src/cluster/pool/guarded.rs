//! An upstream's HTTP/1 stream, judged before the codec reads it.
//!
//! What is in order passes as it comes. What is not ends the connection, and is never taken for the
//! answer to the next request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::cluster::connect::Stream;
use crate::delegate::write_all_to;
use crate::framing::response::{Asked, Responses};
use crate::framing::{Progress, Rules, Stop, Violation};

/// Bytes that are read at a time while a head comes in pieces.
const PIECE_BYTES: usize = 4096;

/// What the two sides of a connection tell each other. Shared within one thread; atomic since hyper
/// wants streams that could move between threads.
#[derive(Debug, Default)]
pub(super) struct Gate {
    asked: AtomicU8,
    is_spoiled: AtomicBool,
}

const ASKED_BODY: u8 = 1;
const ASKED_HEAD: u8 = 2;

impl Gate {
    /// A request is about to be sent.
    pub(super) fn ask(&self, method: &http::Method) {
        let is_head = method == http::Method::HEAD;
        self.asked.store(if is_head { ASKED_HEAD } else { ASKED_BODY }, Relaxed);
    }

    /// Whether no more is believed of what comes.
    pub(super) fn is_spoiled(&self) -> bool {
        self.is_spoiled.load(Relaxed)
    }

    fn take_asked(&self) -> Option<Asked> {
        match self.asked.swap(0, Relaxed) {
            ASKED_BODY => Some(Asked::Body),
            ASKED_HEAD => Some(Asked::Head),
            _ => None,
        }
    }
}

/// An upstream's stream with a guard in front.
#[derive(Debug)]
pub(super) struct Guarded {
    stream: Stream,
    responses: Responses,
    gate: Arc<Gate>,
    /// What came and did not pass.
    held: BytesMut,
    /// So much of it may pass.
    passable: usize,
    wrong: Option<Violation>,
}

impl Guarded {
    pub(super) fn new(stream: Stream, rules: Rules, gate: Arc<Gate>) -> Self {
        let responses = Responses::new(rules);
        Self { stream, responses, gate, held: BytesMut::new(), passable: 0, wrong: None }
    }

    fn judge(&mut self, bytes: &[u8]) -> Progress {
        if self.responses.is_idle()
            && let Some(asked) = self.gate.take_asked()
        {
            self.responses.asked(asked);
        }
        let progress = self.responses.follow(bytes);
        if let Stop::BadHead(violation) | Stop::BadBody(violation) = progress.stop {
            self.wrong = Some(violation);
            self.gate.is_spoiled.store(true, Relaxed);
        }
        progress
    }

    /// Reads what passes straight into the codec's buffer. Gives whether something came.
    fn poll_pass(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let length = buffer.filled().len() - before;
        if length > 0 {
            let progress = self.judge(&buffer.filled()[before..]);
            self.held.extend_from_slice(&buffer.filled()[before + progress.pass..]);
            buffer.set_filled(before + progress.pass);
        }
        Poll::Ready(Ok(length > 0))
    }

    /// Reads more of a head that comes in pieces. Gives whether something came.
    fn poll_hold(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut piece = [0; PIECE_BYTES];
        let mut piece = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut piece))?;
        self.held.extend_from_slice(piece.filled());
        let held = std::mem::take(&mut self.held);
        self.passable = self.judge(&held).pass;
        self.held = held;
        Poll::Ready(Ok(!piece.filled().is_empty()))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        loop {
            if this.passable > 0 {
                let length = this.passable.min(buffer.remaining());
                buffer.put_slice(&this.held[..length]);
                this.held.advance(length);
                this.passable -= length;
            }
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if let Some(violation) = this.wrong {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
            }
            let came = if this.held.is_empty() {
                this.held = BytesMut::new();
                ready!(this.poll_pass(context, buffer))?
            } else {
                ready!(this.poll_hold(context))?
            };
            if !came && !this.held.is_empty() {
                // To the codec it would look as if nothing had come, and a request may be sent again.
                let cut_short = Violation::CutShort;
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, cut_short)));
            }
            if !came {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Guarded {
    write_all_to!(stream);
}
