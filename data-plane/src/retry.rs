//! When a request is sent again (`RetryPolicy`): a plain table, and the question it answers.

mod elsewhere;
mod told;

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use xds_proto::field::{At, FieldError};

use crate::matcher::header::HeaderMatcher;
pub use crate::retry::elsewhere::{Elsewhere, PreviousPriorities};
pub use crate::retry::told::{ToldBackOff, Unit, jittered};

/// What to do about answers and failures of an upstream.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Which outcomes are tried again (`retry_on`).
    pub on: RetryOn,
    /// How often, beyond the first try (`num_retries`, 1 when unset).
    pub retries: u32,
    /// How long one try may take (`per_try_timeout`).
    pub per_try_timeout: Option<Duration>,
    /// How long one try may be idle (`per_try_idle_timeout`).
    pub per_try_idle_timeout: Option<Duration>,
    /// Answers with one of these are tried again (`retriable_status_codes`).
    pub status_codes: Box<[StatusCode]>,
    /// Answers with one of these headers are tried again (`retriable_headers`).
    pub headers: Box<[HeaderMatcher]>,
    /// Requests without one of these headers are not (`retriable_request_headers`); none is all.
    pub request_headers: Box<[HeaderMatcher]>,
    /// How long to wait before each.
    pub back_off: BackOff,
    /// How long to wait after an answer that says so itself (`rate_limited_retry_back_off`).
    pub told: Option<ToldBackOff>,
    /// Which endpoints it does without.
    pub elsewhere: Elsewhere,
}

/// Retries nothing, until a condition is added.
impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            on: RetryOn::default(),
            retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            status_codes: Box::default(),
            headers: Box::default(),
            request_headers: Box::default(),
            back_off: BackOff::default(),
            told: None,
            elsewhere: Elsewhere::default(),
        }
    }
}

/// The conditions of `retry_on`, by their Envoy names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent conditions, as the API has them")]
pub struct RetryOn {
    /// `5xx`: any 5xx answer, or none at all.
    pub server_error: bool,
    /// `gateway-error`: 502, 503, 504, or no answer.
    pub gateway_error: bool,
    /// `reset`: no answer.
    pub reset: bool,
    /// `reset-before-request`: no answer, and the request was not yet sent.
    pub reset_before_request: bool,
    /// `connect-failure`.
    pub connect_failure: bool,
    /// `refused-stream`.
    pub refused_stream: bool,
    /// `envoy-ratelimited`: an answer with `x-envoy-ratelimited`, else never tried again.
    pub rate_limited: bool,
    /// `retriable-4xx`: 409.
    pub retriable_4xx: bool,
    /// `retriable-status-codes`.
    pub status_codes: bool,
    /// `retriable-headers`.
    pub headers: bool,
    /// The `grpc-status` codes of `cancelled`, `deadline-exceeded`, … as bits.
    pub grpc_statuses: u32,
}

impl RetryOn {
    /// The conditions of a list, by their names.
    ///
    /// # Errors
    /// One that is not known.
    pub fn parse(names: &str) -> Result<Self, FieldError> {
        let mut on = Self::default();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if !on.add(name) {
                return Err(FieldError::invalid(format!("unknown condition {name:?}")));
            }
        }
        Ok(on)
    }

    /// Adds the condition of this name; says whether there is one.
    pub fn add(&mut self, name: &str) -> bool {
        match name {
            "5xx" => self.server_error = true,
            "gateway-error" => self.gateway_error = true,
            "reset" => self.reset = true,
            "reset-before-request" => self.reset_before_request = true,
            "connect-failure" => self.connect_failure = true,
            "refused-stream" => self.refused_stream = true,
            "envoy-ratelimited" => self.rate_limited = true,
            "retriable-4xx" => self.retriable_4xx = true,
            "retriable-status-codes" => self.status_codes = true,
            "retriable-headers" => self.headers = true,
            "cancelled" => self.grpc_statuses |= 1 << 1,
            "deadline-exceeded" => self.grpc_statuses |= 1 << 4,
            "resource-exhausted" => self.grpc_statuses |= 1 << 8,
            "internal" => self.grpc_statuses |= 1 << 13,
            "unavailable" => self.grpc_statuses |= 1 << 14,
            // There is no upstream HTTP/3, so there is nothing to retry.
            "http3-post-connect-failure" => {}
            _ => return false,
        }
        true
    }
}

/// How one try ended.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// With an answer.
    Answered {
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: &'a HeaderMap,
    },
    /// Without.
    Failed(Failure),
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection was made; nothing of the request was sent.
    Connect,
    /// The upstream refused the stream (HTTP/2 `REFUSED_STREAM`); it did nothing with it.
    RefusedStream,
    /// The connection broke before anything of the request was sent.
    ResetBeforeRequest,
    /// The connection broke, or one try took too long.
    Reset,
    /// A limit of the cluster was reached. Never tried again.
    Overflow,
}

impl RetryPolicy {
    /// Whether the outcome is one to try again after. How often is for the caller to count.
    pub fn should_retry(&self, outcome: &Outcome<'_>) -> bool {
        match outcome {
            Outcome::Answered { status, headers } => self.retries_answer(*status, headers),
            Outcome::Failed(failure) => self.on.retries_failure(*failure),
        }
    }

    /// Whether this request may be tried again at all, by its headers.
    pub fn covers(&self, request: &crate::matcher::header::HeaderView<'_>) -> bool {
        self.request_headers.is_empty()
            || self.request_headers.iter().any(|matcher| matcher.matches(request))
    }

    fn retries_answer(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        if headers.contains_key("x-envoy-ratelimited") {
            return self.on.rate_limited;
        }
        let grpc_status = || {
            headers
                .get("grpc-status")
                .and_then(|value| value.to_str().ok())
                .and_then(|text| text.parse().ok())
                .and_then(|code| 1_u32.checked_shl(code))
                .unwrap_or(0)
        };
        (self.on.server_error && status.is_server_error())
            || (self.on.gateway_error && matches!(status.as_u16(), 502..=504))
            || (self.on.retriable_4xx && status == StatusCode::CONFLICT)
            || (self.on.status_codes && self.status_codes.contains(&status))
            || (self.on.headers
                && self.headers.iter().any(|matcher| {
                    matcher.matches(&crate::matcher::header::HeaderView::response(headers))
                }))
            || (self.on.grpc_statuses != 0 && self.on.grpc_statuses & grpc_status() != 0)
    }
}

impl RetryOn {
    /// As Envoy's `RetryStateImpl::wouldRetryFromReset`: no answer counts as a 5xx.
    fn retries_failure(self, failure: Failure) -> bool {
        if failure == Failure::Overflow {
            return false;
        }
        let was_sent = match failure {
            Failure::Connect | Failure::ResetBeforeRequest => false,
            Failure::RefusedStream | Failure::Reset | Failure::Overflow => true,
        };
        self.reset
            || self.server_error
            || self.gateway_error
            || (self.reset_before_request && !was_sent)
            || (self.refused_stream && failure == Failure::RefusedStream)
            || (self.connect_failure && failure == Failure::Connect)
    }
}

/// Growing, jittered waits (`retry_back_off`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// The bound of the first wait (`base_interval`, 25 ms when unset).
    pub base: Duration,
    /// The bound of all (`max_interval`, ten times the base when unset).
    pub max: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

impl BackOff {
    /// Waits from `base` on, up to `max`, which is ten times as much where it is not given.
    ///
    /// # Errors
    /// When one is zero, or the bound below the base.
    pub fn new(base: Duration, max: Option<Duration>) -> Result<Self, FieldError> {
        let max = max.unwrap_or_else(|| base.saturating_mul(10));
        if base.is_zero() {
            return Err(FieldError::invalid("must be above zero")).at("base_interval");
        }
        if max < base {
            let error = FieldError::invalid("must be at least base_interval");
            return Err(error).at("max_interval");
        }
        Ok(Self { base, max })
    }

    /// How long to wait before retry `number` (1 is the first): a random time below a bound that
    /// doubles with each.
    pub fn wait(&self, number: u32, random: u64) -> Duration {
        let doubled = 1_u32.checked_shl(number.saturating_sub(1)).unwrap_or(u32::MAX);
        let bound = self.base.saturating_mul(doubled).min(self.max);
        let bound = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(random.checked_rem(bound).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(retry_on: &[&str]) -> RetryPolicy {
        let mut on = RetryOn::default();
        for name in retry_on {
            assert!(on.add(name), "{name}");
        }
        RetryPolicy {
            on,
            retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            status_codes: [StatusCode::TOO_MANY_REQUESTS].into(),
            headers: [].into(),
            request_headers: [].into(),
            back_off: BackOff::default(),
            told: None,
            elsewhere: Elsewhere::default(),
        }
    }

    #[test]
    fn answers_are_retried_by_status() {
        for (on, yes, no) in [
            ("5xx", &[500, 503, 599][..], &[499, 200][..]),
            ("gateway-error", &[502, 503, 504], &[500, 505]),
            ("retriable-4xx", &[409], &[408, 500]),
            ("retriable-status-codes", &[429], &[500]),
            ("reset", &[], &[500, 503]),
        ] {
            let retries = |status: &u16| {
                policy(&[on]).should_retry(&Outcome::Answered {
                    status: StatusCode::from_u16(*status).unwrap(),
                    headers: &HeaderMap::new(),
                })
            };
            assert!(yes.iter().all(retries), "{on}");
            assert!(!no.iter().any(retries), "{on}");
        }
    }

    #[test]
    fn failures_are_retried_by_kind_and_overflow_never() {
        use Failure::*;
        for (on, yes) in [
            ("5xx", &[Connect, RefusedStream, ResetBeforeRequest, Reset][..]),
            ("gateway-error", &[Connect, RefusedStream, ResetBeforeRequest, Reset]),
            ("reset", &[Connect, RefusedStream, ResetBeforeRequest, Reset]),
            ("reset-before-request", &[Connect, ResetBeforeRequest]),
            ("connect-failure", &[Connect]),
            ("refused-stream", &[RefusedStream]),
            ("retriable-4xx", &[]),
        ] {
            for failure in [Connect, RefusedStream, ResetBeforeRequest, Reset, Overflow] {
                let retries = policy(&[on]).should_retry(&Outcome::Failed(failure));
                assert_eq!(retries, yes.contains(&failure), "{on} {failure:?}");
            }
        }
    }

    #[test]
    fn a_rate_limited_answer_is_retried_only_when_asked_for() {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-envoy-ratelimited"),
            "true".parse().unwrap(),
        )]);
        let answer =
            Outcome::Answered { status: StatusCode::SERVICE_UNAVAILABLE, headers: &headers };
        assert!(!policy(&["5xx"]).should_retry(&answer));
        assert!(policy(&["5xx", "envoy-ratelimited"]).should_retry(&answer));
    }

    #[test]
    fn grpc_statuses_are_retried_by_name() {
        for (status, retried) in [("14", true), ("13", false), ("0", false), ("99", false)] {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                status.parse().unwrap(),
            )]);
            let answer = Outcome::Answered { status: StatusCode::OK, headers: &headers };
            assert_eq!(policy(&["unavailable"]).should_retry(&answer), retried, "{status}");
        }
    }

    #[test]
    fn waits_double_up_to_the_bound() {
        let back_off = BackOff::default();
        for (number, bound_ms) in [(1, 25), (2, 50), (3, 100), (5, 250), (40, 250)] {
            let bound = Duration::from_millis(bound_ms);
            assert!(back_off.wait(number, u64::MAX) < bound);
            assert_eq!(
                back_off.wait(number, 1_000 * bound_ms - 1),
                bound - Duration::from_micros(1)
            );
        }
    }

    #[test]
    fn an_unknown_condition_is_not_taken() {
        assert!(!RetryOn::default().add("often"));
    }
}
