//! What is known of a connection of HTTP/2 beside its requests: how its streams ended, and why it was
//! given up.

use std::cell::Cell;
use std::time::Duration;

use super::connection::Connection;
use crate::telemetry::stats::Fault;

/// The streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Whether it speaks HTTP/2, and has not ended.
    are_there: Cell<bool>,
    /// Streams that ended, and how many of them were given up early.
    ended: Cell<(u64, u64)>,
    fault: Cell<Option<Fault>>,
}

impl Connection {
    /// Notes whether it has streams of HTTP/2: one that breaks off is reset then, and not closed.
    pub fn set_streams(&self, has_streams: bool) {
        self.streams.are_there.set(has_streams);
    }

    /// Whether it has streams of HTTP/2.
    pub(super) fn has_streams(&self) -> bool {
        self.streams.are_there.get()
    }

    /// A stream ended that lasted so long; `is_unanswered` where the client gave it up before that had
    /// an answer. Too many of them end the connection.
    pub(super) fn stream_ended(&self, is_unanswered: bool, lasted: Duration) {
        let limits = self.worker().settings.resets;
        let (mut ended, mut early) = self.streams.ended.get();
        ended += 1;
        let is_early = is_unanswered && lasted.as_secs() <= limits.seconds;
        early += u64::from(is_early);
        self.streams.ended.set((ended, early));
        if is_early && limits.are_exceeded(early, ended) {
            self.give_up(Fault::Reset);
        }
    }

    /// Gives it up for what the client sent: the codec finds out when it reads or writes.
    pub fn give_up(&self, fault: Fault) {
        if self.streams.fault.get().is_some() {
            return;
        }
        self.streams.fault.set(Some(fault));
        self.stats().gave_up(fault);
        let (listener, client) = (&**self.listener_name(), self.facts.remote);
        tracing::info!(listener, %client, reason = fault.name(), "connection given up");
        self.changed.notify_one();
    }

    /// Why it was given up, if it was.
    pub fn fault(&self) -> Option<Fault> {
        self.streams.fault.get()
    }

    /// How long what the client still sends is read after the last answer (`delayed_close_timeout`).
    pub fn linger(&self) -> Option<Duration> {
        self.view().chain()?.config.http.options.timeouts.linger
    }
}
