//! What the two sides of an HTTP/1 connection tell each other: the socket's, where bytes are judged
//! before the codec reads them, and the service's, which answers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use crate::framing::Violation;

/// Shared within one thread; atomic since hyper wants streams that could move between threads.
#[derive(Debug)]
pub(super) struct Gate {
    clock: HeadClock,
    is_late: AtomicBool,
    /// How long what the client still sends is read after the last answer, in milliseconds.
    linger_ms: AtomicU64,
    answered: AtomicU64,
    has_switched: AtomicBool,
    broken: OnceLock<Broken>,
    reader: AtomicWaker,
}

/// When the head began that is there in part.
#[derive(Debug)]
pub(super) struct HeadClock {
    base: Instant,
    /// Milliseconds after `base`, and one; 0 is none.
    head_began: AtomicU64,
    has_begun: AtomicBool,
}

impl HeadClock {
    /// A connection that comes about.
    pub(super) fn new() -> Self {
        Self {
            base: Instant::now(),
            head_began: AtomicU64::new(0),
            has_begun: AtomicBool::new(false),
        }
    }

    /// When the connection came about.
    pub(super) fn base(&self) -> Instant {
        self.base
    }

    /// Whether a byte ever came.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Relaxed)
    }

    /// When a head began that is not there as a whole.
    pub(super) fn head_began(&self) -> Option<Instant> {
        let after = self.head_began.load(Relaxed).checked_sub(1)?;
        Some(self.base + Duration::from_millis(after))
    }

    /// Bytes came.
    pub(super) fn bytes_came(&self) {
        if !self.has_begun() {
            self.has_begun.store(true, Relaxed);
        }
    }

    /// Part of a head is there.
    pub(super) fn head_begins(&self) {
        if self.head_began.load(Relaxed) == 0 {
            self.note_head();
        }
    }

    /// No head is there in part.
    pub(super) fn head_ends(&self) {
        self.head_began.store(0, Relaxed);
    }

    /// The head that is there in part, if any, is as if it began now.
    fn restart_head(&self) {
        if self.head_began.load(Relaxed) != 0 {
            self.note_head();
        }
    }

    fn note_head(&self) {
        let ms = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.head_began.store(ms + 1, Relaxed);
    }
}

/// What broke the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken {
    /// The place of the request whose head is at fault, from 0; none where it is a body.
    pub(super) head: Option<u64>,
    pub(super) violation: Violation,
}

/// What is known of the answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Open,
    Given,
    /// The protocol was switched.
    Switched,
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            clock: HeadClock::new(),
            is_late: AtomicBool::new(false),
            linger_ms: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            has_switched: AtomicBool::new(false),
            broken: OnceLock::new(),
            reader: AtomicWaker::new(),
        })
    }

    /// When heads began.
    pub(super) fn clock(&self) -> &HeadClock {
        &self.clock
    }

    /// Notes how long what the client still sends is thrown away after the last answer, so that it
    /// can read that: a socket closed with bytes unread is reset (`delayed_close_timeout`).
    pub(super) fn set_linger(&self, limit: Option<Duration>) {
        let ms = limit.map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        self.linger_ms.store(ms, Relaxed);
    }

    /// How long that is.
    pub(super) fn linger(&self) -> Option<Duration> {
        let ms = self.linger_ms.load(Relaxed);
        (ms > 0).then(|| Duration::from_millis(ms))
    }

    /// The head that is there in part took too long.
    pub(super) fn head_is_late(&self) {
        self.is_late.store(true, Relaxed);
        self.reader.wake();
    }

    /// Whether a head took too long. Asked once.
    pub(super) fn take_late(&self) -> bool {
        self.is_late.load(Relaxed) && self.is_late.swap(false, Relaxed)
    }

    /// Has the reader woken when an answer is given, or a head is late.
    pub(super) fn wait(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    /// How far the answers to `requests` are.
    pub(super) fn answer(&self, requests: u64) -> Answer {
        if self.answered.load(Relaxed) < requests {
            Answer::Open
        } else if self.has_switched.load(Relaxed) {
            Answer::Switched
        } else {
            Answer::Given
        }
    }

    /// A request was answered.
    pub(super) fn answered(&self, has_switched: bool) {
        self.answered.fetch_add(1, Relaxed);
        if has_switched {
            self.has_switched.store(true, Relaxed);
        }
        // It could not be served before, however early it came.
        self.clock.restart_head();
        self.reader.wake();
    }

    /// Nothing more is believed of what the client sends.
    pub(super) fn break_off(&self, broken: Broken) {
        // The first fault is the one that counts.
        let _is_first = self.broken.set(broken);
    }

    /// What broke the connection, if something did.
    pub(super) fn broken(&self) -> Option<Broken> {
        self.broken.get().copied()
    }
}
