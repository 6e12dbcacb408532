//! A client's HTTP/1 stream, judged before the codec reads it.
//!
//! What is in order passes as it comes, without a copy; only a head that comes in pieces is held until
//! it is whole. In place of a head that is not in order the codec gets one of ours, and the service is
//! told which request that is; a body that is not in order ends with an error.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::gate::{Answer, Broken, Gate};
use super::io::Io;
use crate::delegate::write_to;
use crate::framing::request::Requests;
use crate::framing::{Progress, Rules, Stop, Violation};

/// Stands in for a head that was not in order. The service tells it by its place, not by what it says.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n";

/// Bytes that are read at a time while a head comes in pieces.
const PIECE_BYTES: usize = 4096;

/// Bytes that are held while it is open what they are.
const AHEAD_BYTES_MAX: usize = 16 * 1024;

/// A client's stream with a guard in front.
#[derive(Debug)]
pub(super) struct Guarded {
    io: Io,
    requests: Requests,
    gate: Arc<Gate>,
    /// What came and did not pass.
    held: BytesMut,
    /// So much of it may pass.
    passable: usize,
    state: State,
    lingering: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// It is open what the bytes held are.
    Waits,
    /// Once what may pass has passed, a head of ours stands in for a bad one.
    BadHead(Violation),
    /// Once what may pass has passed, the body ends with an error.
    BadBody(Violation),
    /// There is nothing more to read.
    Over,
}

impl Guarded {
    pub(super) fn new(io: Io, rules: Rules, gate: Arc<Gate>) -> Self {
        Self {
            io,
            requests: Requests::new(rules),
            gate,
            held: BytesMut::new(),
            passable: 0,
            state: State::Open,
            lingering: None,
        }
    }

    /// Notes how far bytes may go.
    fn note(&mut self, progress: Progress) {
        self.state = match progress.stop {
            Stop::End | Stop::Head => State::Open,
            Stop::Answer => State::Waits,
            Stop::BadHead(violation) => State::BadHead(violation),
            Stop::BadBody(violation) => State::BadBody(violation),
        };
        if progress.stop == Stop::Head {
            self.gate.clock().head_begins();
        } else {
            self.gate.clock().head_ends();
        }
    }

    /// Looks at what is held.
    fn judge_held(&mut self) {
        let progress = self.requests.follow(&self.held);
        self.passable = progress.pass;
        self.note(progress);
    }

    /// Gives what may pass of what is held.
    fn give_held(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.passable.min(buffer.remaining());
        buffer.put_slice(&self.held[..length]);
        self.held.advance(length);
        self.passable -= length;
        if self.held.is_empty() {
            // Gives the memory back.
            self.held = BytesMut::new();
        }
    }

    /// Reads into what is held. Gives whether something came.
    fn poll_hold(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut piece = [0; PIECE_BYTES];
        let mut piece = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.io).poll_read(context, &mut piece))?;
        self.held.extend_from_slice(piece.filled());
        if !piece.filled().is_empty() {
            self.gate.clock().bytes_came();
        }
        Poll::Ready(Ok(!piece.filled().is_empty()))
    }

    /// Reads what passes straight into the codec's buffer.
    fn poll_pass(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let new = &buffer.filled()[before..];
        let length = new.len();
        if length > 0 {
            self.gate.clock().bytes_came();
            let progress = self.requests.follow(new);
            self.held.extend_from_slice(&new[progress.pass..]);
            self.note(progress);
            buffer.set_filled(before + progress.pass);
        }
        Poll::Ready(Ok(length))
    }

    /// Waits for the answer to the last request; the client may go away meanwhile.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.gate.wait(context.waker());
            match self.gate.answer(self.requests.heads()) {
                Answer::Given => self.requests.answered(),
                Answer::Switched => self.requests.switched(),
                Answer::Open if self.held.len() >= AHEAD_BYTES_MAX => return Poll::Pending,
                Answer::Open => {
                    if ready!(self.poll_hold(context))? {
                        continue;
                    }
                    self.state = State::Over;
                    return Poll::Ready(Ok(()));
                }
            }
            self.judge_held();
            return Poll::Ready(Ok(()));
        }
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
                this.give_held(buffer);
            }
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            match this.state {
                State::Open => {}
                State::Waits => {
                    ready!(this.poll_answer(context))?;
                    if this.state == State::Over {
                        return Poll::Ready(Ok(()));
                    }
                    continue;
                }
                State::BadHead(violation) => {
                    let head = Some(this.requests.heads());
                    this.gate.break_off(Broken { head, violation });
                    this.held = BytesMut::from(STAND_IN);
                    this.passable = this.held.len();
                    this.state = State::Over;
                    continue;
                }
                State::BadBody(violation) => {
                    this.gate.break_off(Broken { head: None, violation });
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
                }
                // The codec would take an end for the client's, and answer nobody.
                State::Over => return Poll::Pending,
            }
            if this.held.is_empty() {
                if ready!(this.poll_pass(context, buffer))? == 0 {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if this.gate.take_late() {
                this.state = State::BadHead(Violation::Timeout);
                continue;
            }
            this.gate.wait(context.waker());
            if !ready!(this.poll_hold(context))? {
                return Poll::Ready(Ok(()));
            }
            this.judge_held();
        }
    }
}

impl AsyncWrite for Guarded {
    write_to!(io);

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let lingering = match &mut this.lingering {
            Some(lingering) => lingering,
            None => {
                ready!(Pin::new(&mut this.io).poll_shutdown(context))?;
                let Some(limit) = this.gate.linger() else { return Poll::Ready(Ok(())) };
                if !this.requests.is_within() && this.held.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                this.lingering.insert(Box::pin(tokio::time::sleep(limit)))
            }
        };
        let mut discarded = [0; PIECE_BYTES];
        while lingering.as_mut().poll(context).is_pending() {
            let mut piece = ReadBuf::new(&mut discarded);
            let read = ready!(Pin::new(&mut this.io).poll_read(context, &mut piece));
            if read.is_err() || piece.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
