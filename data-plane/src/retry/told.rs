//! Waits that an answer itself asks for, as those who limit rates do (`rate_limited_retry_back_off`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName};

/// Which headers tell how long to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldBackOff {
    /// The first that says something counts.
    pub headers: Box<[(HeaderName, Unit)]>,
    /// What says more says nothing. Envoy's default is 300 s.
    pub max: Duration,
}

/// What the number in a header means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// So many seconds from the answer on.
    Seconds,
    /// Until so many seconds after 1970 began.
    UnixTime,
}

impl ToldBackOff {
    /// What an answer says at `now`; nothing where it says nothing, or that there is nothing to wait for.
    pub fn wait(&self, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
        let told = |(name, unit): &(HeaderName, Unit)| {
            let number = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
            let number = Duration::from_secs(number);
            let wait = match unit {
                Unit::Seconds => number,
                Unit::UnixTime => number.checked_sub(now.duration_since(UNIX_EPOCH).ok()?)?,
            };
            (wait <= self.max).then_some(wait)
        };
        self.headers.iter().find_map(told).filter(|wait| *wait > Duration::from_millis(1))
    }
}

/// A random time of `told` to half as much again: those who were told the same do not come at once.
pub fn jittered(told: Duration, random: u64) -> Duration {
    let half = u64::try_from(told.as_micros() / 2).unwrap_or(u64::MAX);
    told + Duration::from_micros(random.checked_rem(half).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pairs: &[(&'static str, &str)]) -> Option<u64> {
        let back_off = ToldBackOff {
            headers: [
                (HeaderName::from_static("retry-after"), Unit::Seconds),
                (HeaderName::from_static("x-reset"), Unit::UnixTime),
            ]
            .into(),
            max: Duration::from_secs(300),
        };
        let headers = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        back_off.wait(&headers.collect(), now).map(|wait| wait.as_secs())
    }

    #[test]
    fn the_first_header_that_says_something_counts() {
        assert_eq!(told(&[("retry-after", "7"), ("x-reset", "1005")]), Some(7));
        assert_eq!(told(&[("x-reset", "1005")]), Some(5));
        assert_eq!(told(&[("retry-after", "soon"), ("x-reset", "1005")]), Some(5));
        assert_eq!(told(&[("retry-after", "301"), ("x-reset", "1005")]), Some(5));
        assert_eq!(told(&[("retry-after", "300")]), Some(300));
    }

    #[test]
    fn what_is_over_or_no_number_says_nothing() {
        for value in ["999", "1000", "-5", "", "1e3", "99999999999999999999"] {
            assert_eq!(told(&[("x-reset", value)]), None, "{value}");
        }
        assert_eq!(told(&[("retry-after", "0")]), None);
        assert_eq!(told(&[]), None);
    }

    #[test]
    fn nobody_comes_before_they_were_told_to() {
        let told = Duration::from_secs(2);
        for random in [0, 1, 999_999, 1_000_000, u64::MAX] {
            let wait = jittered(told, random);
            assert!((told..Duration::from_secs(3)).contains(&wait), "{wait:?}");
        }
        assert_eq!(jittered(told, 999_999), Duration::from_micros(2_999_999));
    }
}
