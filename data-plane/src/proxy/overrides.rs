//! What a request itself asks of the router, in `x-envoy-` headers that only requests from inside
//! still have here (Envoy's "HTTP headers consumed" of the router filter).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::deadline::Limits;
use crate::matcher::header::{HeaderMatcher, HeaderTest, MatchedName};
use crate::retry::{RetryOn, RetryPolicy};

const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const STREAM_DURATION: HeaderName = HeaderName::from_static("x-envoy-upstream-stream-duration-ms");
const ALT_RESPONSE: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response");
const HEDGE: HeaderName = HeaderName::from_static("x-envoy-hedge-on-per-try-timeout");
const ALT_STAT_NAME: HeaderName = HeaderName::from_static("x-envoy-upstream-alt-stat-name");
const RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
const RETRY_GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
const MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const STATUS_CODES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
const HEADER_NAMES: HeaderName = HeaderName::from_static("x-envoy-retriable-header-names");

/// What a request asks for.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    /// Instead of the route's timeout; zero is none.
    timeout: Option<Duration>,
    /// Instead of that of the retry policy.
    per_try: Option<Duration>,
    /// Instead of the route's longest stream; zero is none.
    stream: Option<Duration>,
    /// A timeout is answered with 204, and no body.
    pub(super) answers_timeout_with_nothing: bool,
    /// The retry policy, where the request changes the route's or has one of its own.
    pub(super) retry: Option<Box<RetryPolicy>>,
}

impl Overrides {
    /// Takes what the request asks for off its headers; `route` is the route's policy.
    pub(super) fn take(headers: &mut HeaderMap, route: Option<&RetryPolicy>) -> Self {
        // Nearly always there is none: one pass instead of a look-up for each.
        if !headers.keys().any(|name| name.as_str().starts_with("x-envoy-")) {
            return Self::default();
        }
        headers.remove(HEDGE);
        headers.remove(ALT_STAT_NAME);
        Self {
            timeout: milliseconds(headers.remove(TIMEOUT)),
            per_try: milliseconds(headers.remove(PER_TRY_TIMEOUT)),
            stream: milliseconds(headers.remove(STREAM_DURATION)),
            answers_timeout_with_nothing: headers
                .remove(ALT_RESPONSE)
                .and_then(|value| StatusCode::from_bytes(value.as_bytes()).ok())
                == Some(StatusCode::NO_CONTENT),
            retry: retry(headers, route),
        }
    }

    /// The limits as the request wants them.
    pub(super) fn apply(&self, limits: Limits) -> Limits {
        let or = |asked: Option<Duration>, limit| match asked {
            None => limit,
            Some(asked) => (!asked.is_zero()).then_some(asked),
        };
        let response = or(self.timeout, limits.response);
        // One that could not come before the other is none.
        let per_try = or(self.per_try, limits.per_try)
            .filter(|per_try| response.is_none_or(|response| *per_try < response));
        Limits { response, per_try, stream: or(self.stream, limits.stream), ..limits }
    }
}

fn milliseconds(value: Option<HeaderValue>) -> Option<Duration> {
    value?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

/// The parts of a list.
fn list(value: Option<&HeaderValue>) -> impl Iterator<Item = &str> {
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn retry(headers: &mut HeaderMap, route: Option<&RetryPolicy>) -> Option<Box<RetryPolicy>> {
    let taken = [&RETRY_ON, &RETRY_GRPC_ON, &MAX_RETRIES, &STATUS_CODES, &HEADER_NAMES]
        .map(|name| headers.remove(name));
    if taken.iter().all(Option::is_none) {
        return None;
    }
    let [on, grpc_on, max, codes, names] = taken.each_ref().map(Option::as_ref);
    let mut policy = Box::new(route.cloned().unwrap_or_default());
    // What is not known is not asked for.
    for name in list(on).chain(list(grpc_on)) {
        let _is_known = policy.on.add(name);
    }
    if policy.on == RetryOn::default() {
        return None;
    }
    if let Some(max) = max.and_then(|value| value.to_str().ok()?.parse().ok()) {
        policy.retries = max;
    }
    let codes = list(codes).filter_map(|code| code.parse().ok());
    policy.status_codes = policy.status_codes.iter().copied().chain(codes).collect();
    let names = list(names).filter_map(MatchedName::parse);
    let names = names.map(|name| HeaderMatcher::new(name, HeaderTest::Present(true), false, false));
    policy.headers = policy.headers.iter().cloned().chain(names).collect();
    Some(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    fn limits(pairs: &[(&'static str, &'static str)]) -> [Option<u64>; 2] {
        let mut headers = headers(pairs);
        let route = Limits { response: Some(Duration::from_secs(15)), ..Limits::default() };
        let limits = Overrides::take(&mut headers, None).apply(route);
        assert!(headers.is_empty());
        [limits.response, limits.per_try]
            .map(|limit| limit.map(|limit| u64::try_from(limit.as_millis()).unwrap()))
    }

    #[test]
    fn timeouts_replace_those_of_the_route() {
        let (all, each) =
            ("x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms");
        assert_eq!(limits(&[]), [Some(15_000), None]);
        assert_eq!(limits(&[(all, "100")]), [Some(100), None]);
        assert_eq!(limits(&[(all, "0"), (each, "5")]), [None, Some(5)]);
        assert_eq!(limits(&[(all, "junk"), (each, "5")]), [Some(15_000), Some(5)]);
        assert_eq!(limits(&[(all, "100"), (each, "100")]), [Some(100), None]);
    }

    #[test]
    fn retries_add_to_those_of_the_route() {
        let policy = |pairs: &[_], route: Option<&RetryPolicy>| {
            Overrides::take(&mut headers(pairs), route).retry
        };
        let own = policy(&[("x-envoy-retry-on", "5xx, bogus")], None).unwrap();
        assert!(own.on.server_error && own.retries == 1);
        let route = RetryPolicy { retries: 5, ..RetryPolicy::default() };
        let both = policy(
            &[
                ("x-envoy-retry-on", "retriable-status-codes"),
                ("x-envoy-retry-grpc-on", "unavailable"),
                ("x-envoy-max-retries", "2"),
                ("x-envoy-retriable-status-codes", "429,x"),
                ("x-envoy-retriable-header-names", "x-again"),
            ],
            Some(&route),
        )
        .unwrap();
        assert!(both.on.status_codes && both.on.grpc_statuses != 0 && !both.on.server_error);
        assert_eq!((both.retries, both.status_codes.len(), both.headers.len()), (2, 1, 1));
        assert!(policy(&[("x-envoy-max-retries", "2")], None).is_none());
        assert!(policy(&[("x-envoy-retry-on", "bogus")], None).is_none());
    }
}
