//! How long a request may take by its route, and what upstream is told of it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::deadline::Limits;
use super::forward::Plan;
use crate::filtering::is_grpc;
use crate::route::action::GrpcTimeout;

const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The limits of the route and its listener on a request.
pub(super) fn limits(plan: &Plan<'_>, headers: &HeaderMap) -> Limits {
    let timeouts = &plan.chain.config.http.options.timeouts;
    let asked = plan.forward.grpc_timeout.filter(|_| is_grpc(headers)).and_then(|rule| {
        let said = headers.get(GRPC_TIMEOUT).and_then(grpc_timeout);
        Some((asked_for(rule, said)?, rule.is_of_stream))
    });
    let asked_of = |stream| asked.filter(|(_, is)| *is == stream).map(|(limit, _)| limit);
    let response = asked_of(false).or(plan.forward.timeout).filter(|limit| !limit.is_zero());
    let stream = plan.forward.max_stream_duration.or(timeouts.stream_age_max);
    Limits {
        response,
        per_try: plan.retry.and_then(|retry| retry.per_try_timeout),
        idle: plan.forward.idle_timeout.or(timeouts.stream_idle),
        request: timeouts.request,
        stream: asked_of(true).or(stream),
    }
}

/// What a gRPC client may have, given what it `said`; in place of the timeout, zero is for ever.
fn asked_for(rule: GrpcTimeout, said: Option<Duration>) -> Option<Duration> {
    if rule.is_of_stream {
        let capped = rule.max.map_or(said?, |max| max.min(said.unwrap_or_default()));
        return Some(capped.saturating_sub(rule.offset));
    }
    let said = said.filter(|said| !said.is_zero()).map(|said| {
        // An offset that would leave nothing is none.
        if rule.offset < said { said - rule.offset } else { said }
    });
    let least = said.into_iter().chain(rule.max).min();
    Some(least.unwrap_or_default())
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2).
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok().filter(|_| number.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Tells upstream how long it has, `elapsed` after the whole request was there.
pub(super) fn say_timeout(
    plan: &Plan<'_>,
    headers: &mut HeaderMap,
    limits: &Limits,
    elapsed: Duration,
) {
    let left = limits.response.map(|limit| limit.saturating_sub(elapsed));
    let Some(expected) = limits.per_try.into_iter().chain(left).min() else { return };
    // Zero would be for ever.
    let ms = milliseconds(expected).max(1);
    if plan.adds_envoy_headers() {
        headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(ms));
    }
    let is_said = plan.forward.grpc_timeout.is_some_and(|rule| !rule.is_of_stream);
    if is_said && is_grpc(headers) {
        headers.insert(GRPC_TIMEOUT, grpc_timeout_text(ms));
    }
}

/// Whole milliseconds.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Tells a gRPC server how long its stream may last.
pub(super) fn say_stream_limit(headers: &mut HeaderMap, limits: &Limits) {
    if let Some(limit) = limits.stream.filter(|_| is_grpc(headers)) {
        headers.insert(GRPC_TIMEOUT, grpc_timeout_text(milliseconds(limit)));
    }
}

/// As [`grpc_timeout`] reads it: rounded up to what eight digits can say.
fn grpc_timeout_text(ms: u64) -> HeaderValue {
    const DIGITS_MAX: u64 = 99_999_999;
    let mut amount = ms;
    let mut text = |per: u64, unit: &str| {
        amount = amount.div_ceil(per);
        (amount <= DIGITS_MAX).then(|| format!("{amount}{unit}"))
    };
    let text = text(1, "m")
        .or_else(|| text(1000, "S"))
        .or_else(|| text(60, "M"))
        .or_else(|| text(60, "H"));
    text.and_then(|text| HeaderValue::try_from(text).ok())
        .unwrap_or(HeaderValue::from_static("99999999H"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_client_gets_what_it_asks_for_within_bounds() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let rule = |max, offset, is_of_stream| GrpcTimeout {
            max,
            offset: Duration::from_millis(offset),
            is_of_stream,
        };
        for (rule, said, want) in [
            (rule(ms(3000), 500, false), ms(5000), ms(3000)),
            (rule(ms(3000), 500, false), ms(50), ms(50)),
            (rule(ms(3000), 0, false), None, ms(3000)),
            (rule(ms(3000), 0, false), ms(0), ms(3000)),
            (rule(None, 0, false), None, ms(0)),
            (rule(None, 0, false), ms(5000), ms(5000)),
            (rule(ms(3000), 500, true), ms(5000), ms(2500)),
            (rule(ms(3000), 500, true), ms(300), ms(0)),
            (rule(None, 500, true), ms(5000), ms(4500)),
            (rule(ms(3000), 0, true), None, None),
        ] {
            assert_eq!(asked_for(rule, said), want, "{rule:?} {said:?}");
        }
    }

    #[test]
    fn a_grpc_timeout_is_rounded_up_to_eight_digits() {
        for (ms, want) in [
            (1, "1m"),
            (99_999_999, "99999999m"),
            (100_000_000, "100000S"),
            (100_000_000_001, "1666667M"),
            (u64::MAX, "99999999H"),
        ] {
            assert_eq!(grpc_timeout_text(ms), want);
        }
    }

    #[test]
    fn grpc_timeouts_are_digits_and_a_unit() {
        for (text, timeout) in [
            ("1S", Some(Duration::from_secs(1))),
            ("100m", Some(Duration::from_millis(100))),
            ("2H", Some(Duration::from_secs(7200))),
            ("5u", Some(Duration::from_micros(5))),
            ("123456789S", None),
            ("1", None),
            ("S", None),
            ("", None),
            ("1é", None),
        ] {
            let value = HeaderValue::from_str(text).ok();
            assert_eq!(value.as_ref().and_then(grpc_timeout), timeout, "{text}");
        }
    }
}
