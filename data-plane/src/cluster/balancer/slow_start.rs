//! Gives an endpoint that just came up less traffic at first.

use std::time::Duration;

use tokio::time::Instant;

/// How the weight of an endpoint that came up grows to its full size (`SlowStartConfig`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// How long that takes.
    pub window: Duration,
    /// Above 1 it grows fast at first, below 1 slowly. Envoy's default is 1: evenly.
    pub aggression: f64,
    /// The part of its weight that it has at first. Envoy's default is a tenth.
    pub min_weight: f64,
}

/// Weights count in these parts while one of them grows.
pub(super) const PARTS: u32 = 1000;

impl SlowStart {
    /// The part of its weight that an endpoint has which came up at `since`.
    fn part(&self, since: Instant, now: Instant) -> f64 {
        let up = now.saturating_duration_since(since);
        if up >= self.window {
            return 1.0;
        }
        // Envoy counts in whole seconds, which makes steps of what is meant to be a slope.
        let time = (up.as_secs_f64() / self.window.as_secs_f64()).max(f64::MIN_POSITIVE);
        time.powf(1.0 / self.aggression).max(self.min_weight)
    }

    /// The weight of an endpoint, in thousandths of its own.
    pub(super) fn weight(&self, weight: u32, since: Instant, now: Instant) -> u32 {
        let full = f64::from(weight) * f64::from(PARTS);
        // As far as it fits; at least 1.
        (full * self.part(since, now)).clamp(1.0, f64::from(u32::MAX)) as u32
    }

    /// Whether the weight still grows.
    pub(super) fn is_under_way(&self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) < self.window
    }

    /// How long weights may be taken for constant.
    pub(super) fn step(&self) -> Duration {
        (self.window / 50).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_weight_grows_from_its_least_to_all() {
        let since = Instant::now();
        let at = |aggression, seconds| {
            let window = Duration::from_secs(100);
            let slow_start = SlowStart { window, aggression, min_weight: 0.1 };
            slow_start.weight(2, since, since + Duration::from_secs(seconds))
        };
        assert_eq!(
            [0, 10, 50, 99, 100, 500].map(|s| at(1.0, s)),
            [200, 200, 1000, 1980, 2000, 2000]
        );
        assert_eq!(at(2.0, 25), 1000);
        assert_eq!(at(0.5, 50), 500);
    }
}
