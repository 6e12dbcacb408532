//! A bucket of tokens that many threads take from without waiting for one another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How a bucket fills.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fill {
    /// Tokens that it holds at most.
    pub(super) max: u32,
    /// Tokens that come in [`Self::interval`], evenly.
    pub(super) tokens: u32,
    /// In which time they come.
    pub(super) interval: Duration,
}

impl Fill {
    /// Tokens a second.
    pub(super) fn per_second(self) -> f64 {
        f64::from(self.tokens) / self.interval.as_secs_f64()
    }
}

/// A bucket. What it holds follows from one number: the time at which it was empty.
#[derive(Debug)]
pub(super) struct Bucket {
    fill: Fill,
    /// What times are counted from.
    origin: Instant,
    /// Seconds since the origin, as the bits of an `f64`; below zero for what is in from the start.
    empty_at: AtomicU64,
}

impl Bucket {
    /// A bucket with all its tokens.
    pub(super) fn full(fill: Fill, now: Instant) -> Self {
        let empty_at = -f64::from(fill.max) / fill.per_second();
        Self { fill, origin: now, empty_at: AtomicU64::new(empty_at.to_bits()) }
    }

    /// Tokens that it holds at most.
    pub(super) fn max(&self) -> u32 {
        self.fill.max
    }

    /// Takes so many tokens, if there are so many.
    pub(super) fn take(&self, tokens: u64, now: Instant) -> bool {
        let (now, rate) = (self.seconds(now), self.fill.per_second());
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^53, and more is never there")]
        let tokens = tokens as f64;
        let taken = self.empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |empty_at| {
            let left = self.tokens(f64::from_bits(empty_at), now) - tokens;
            (left >= 0.0).then(|| (now - left / rate).to_bits())
        });
        taken.is_ok()
    }

    /// Whole tokens in it.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between zero and the maximum, which is a u32"
    )]
    pub(super) fn remaining(&self, now: Instant) -> u32 {
        self.now(now) as u32
    }

    /// Whole seconds until there is a token; zero when there is one.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not below zero, and above is cut off"
    )]
    pub(super) fn reset_seconds(&self, now: Instant) -> u64 {
        let missing = (1.0 - self.now(now)).max(0.0);
        (missing / self.fill.per_second()).ceil() as u64
    }

    fn now(&self, now: Instant) -> f64 {
        self.tokens(f64::from_bits(self.empty_at.load(Ordering::Relaxed)), self.seconds(now))
    }

    fn tokens(&self, empty_at: f64, now: f64) -> f64 {
        ((now - empty_at) * self.fill.per_second()).min(f64::from(self.fill.max))
    }

    fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.origin).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_evenly_up_to_the_maximum() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let fill = Fill { max: 3, tokens: 3, interval: Duration::from_secs(60) };
        let bucket = Bucket::full(fill, start);
        assert_eq!((bucket.remaining(start), bucket.reset_seconds(start)), (3, 0));
        assert!((0..3).all(|_| bucket.take(1, start)));
        assert!(!bucket.take(1, after(1)));
        assert_eq!((bucket.remaining(after(1)), bucket.reset_seconds(after(1))), (0, 20));
        assert!(!bucket.take(1, after(19_000)));
        assert!(bucket.take(1, after(20_001)));
        assert_eq!(bucket.remaining(after(1_000_000)), 3);
    }

    #[test]
    fn several_tokens_are_taken_at_once_or_none() {
        let now = Instant::now();
        let fill = Fill { max: 5, tokens: 1, interval: Duration::from_secs(60) };
        let bucket = Bucket::full(fill, now);
        assert!(bucket.take(4, now) && !bucket.take(2, now) && bucket.take(0, now));
        assert_eq!(bucket.remaining(now), 1);
        let never = Bucket::full(Fill { max: 0, ..fill }, now);
        assert!(!never.take(1, now + Duration::from_secs(600)));
    }

    #[test]
    fn threads_do_not_take_a_token_twice() {
        let now = Instant::now();
        let fill = Fill { max: 1000, tokens: 1, interval: Duration::from_secs(3600) };
        let bucket = Bucket::full(fill, now);
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..500).filter(|_| bucket.take(1, now)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
