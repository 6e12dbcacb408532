//! When a connection has to end that would go on by itself.

use std::time::Duration;

use tokio::time::Instant;

use super::gate::{Gate, HeadClock};
use crate::listener::http::{HttpOptions, Timeouts};
use crate::proxy::connection::Connection;

/// How long a client may say nothing at all.
pub(super) const FIRST_BYTE_MAX: Duration = Duration::from_secs(60);

/// What is to happen to a connection that would go on by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It ends with its last request.
    Drain,
    /// The head that is there in part took too long.
    Late,
    /// It is given up for what the client sent.
    GiveUp,
    /// It ends at once.
    Close,
}

/// Finds out when a connection has to end.
pub(super) struct End<'a> {
    connection: &'a Connection,
    clock: &'a HeadClock,
    gate: Option<&'a Gate>,
    began: Instant,
    timeouts: Timeouts,
    /// When a connection ends whose responses say so, over HTTP/1; none where that is left to them.
    says_close: Option<Option<Instant>>,
    is_draining: bool,
}

impl<'a> End<'a> {
    /// A connection of HTTP/1.
    pub(super) fn of_http1(connection: &'a Connection, gate: &'a Gate) -> Self {
        Self::new(connection, gate.clock(), Some(gate))
    }

    /// A connection of HTTP/2.
    pub(super) fn of_http2(connection: &'a Connection, clock: &'a HeadClock) -> Self {
        Self::new(connection, clock, None)
    }

    fn new(connection: &'a Connection, clock: &'a HeadClock, gate: Option<&'a Gate>) -> Self {
        let timeouts = HttpOptions::default().timeouts;
        let began = Instant::now();
        let says_close = None;
        let mut end =
            Self { connection, clock, gate, began, timeouts, says_close, is_draining: false };
        end.follow();
        end
    }

    /// Takes over what the present configuration says.
    fn follow(&mut self) {
        if let Some(chain) = self.connection.view().chain() {
            self.timeouts = chain.config.http.options.timeouts;
        }
        if let Some(gate) = self.gate {
            gate.set_linger(self.timeouts.linger);
        }
        if self.connection.is_left_behind() && self.says_close.is_none() {
            // Over HTTP/2 nothing can be said before the end: there they do not end all at once.
            let drain = self.timeouts.drain;
            let wait = if self.gate.is_some() { drain } else { drain.mul_f64(fastrand::f64()) };
            self.says_close = Some(Some(Instant::now() + wait));
        }
    }

    /// What is to happen next, and what finds out what comes after.
    pub(super) async fn next(mut self) -> (Next, Self) {
        (self.wait().await, self)
    }

    async fn wait(&mut self) -> Next {
        loop {
            let wake = self.wake();
            let wait = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.connection.cut_off() => return Next::Close,
                () = self.connection.drained(), if !self.is_draining => {
                    self.is_draining = true;
                    return Next::Drain;
                }
                () = self.connection.changed() => {
                    if self.connection.fault().is_some() {
                        return Next::GiveUp;
                    }
                    self.follow();
                    continue;
                }
                () = wait => {}
            }
            // The deadline may have moved on meanwhile.
            match self.deadline() {
                Some((at, Then::Next(next))) if at <= Instant::now() => {
                    self.is_draining |= next == Next::Drain;
                    return next;
                }
                Some((at, Then::SayClose { then })) if at <= Instant::now() => {
                    self.connection.say_close();
                    self.says_close = Some(then.map(|wait| at + wait));
                }
                _ => {}
            }
        }
    }

    /// When to look again: nobody tells when a head begins.
    fn wake(&self) -> Option<Instant> {
        let look = self.head_limit().map(|limit| Instant::now() + limit);
        [self.deadline().map(|(at, _)| at), look].into_iter().flatten().min()
    }

    fn head_limit(&self) -> Option<Duration> {
        self.timeouts.request_headers.or(self.timeouts.stream_idle)
    }

    /// When something is to happen next, as things stand.
    fn deadline(&self) -> Option<(Instant, Then)> {
        [self.head(), self.age(), self.idle()].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn head(&self) -> Option<(Instant, Then)> {
        if self.gate.is_some() {
            // What comes behind a request of HTTP/1 is not read before that has its answer.
            self.connection.idle_since()?;
        }
        if !self.clock.has_begun() {
            return Some((self.clock.base() + FIRST_BYTE_MAX, Then::Next(Next::Close)));
        }
        Some((self.clock.head_began()? + self.head_limit()?, Then::Next(Next::Late)))
    }

    fn age(&self) -> Option<(Instant, Then)> {
        if self.is_draining {
            return None;
        }
        if let Some(at) = self.says_close {
            return Some((at?, Then::Next(Next::Drain)));
        }
        let at = self.began + self.timeouts.connection_age_max?;
        Some((at, self.end(!self.timeouts.ends_with_answer)))
    }

    fn idle(&self) -> Option<(Instant, Then)> {
        if !self.is_draining && self.says_close.is_some_and(|at| at.is_some()) {
            return None;
        }
        // While there is a request, look again when it could be over for that long.
        let since = self.connection.idle_since().unwrap_or_else(Instant::now);
        let at = since + self.timeouts.connection_idle?;
        Some((at, if self.is_draining { Then::Next(Next::Close) } else { self.end(true) }))
    }

    /// How it begins to end: HTTP/2 can say so at any time, HTTP/1 only with an answer, for which there
    /// is some time.
    fn end(&self, ends_without: bool) -> Then {
        match self.gate {
            None => Then::Next(Next::Drain),
            Some(_) => Then::SayClose { then: ends_without.then_some(self.timeouts.drain) },
        }
    }
}

/// What is to happen then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Next(Next),
    /// Responses say that the connection ends, and so long after it does.
    SayClose {
        then: Option<Duration>,
    },
}
