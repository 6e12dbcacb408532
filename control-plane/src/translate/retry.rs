//! When requests are sent again.

use std::time::Duration;

use xds_proto::envoy::config::route::v3::RetryPolicy;
use xds_proto::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, retry_host_predicate,
};
use xds_proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;

use crate::model::rule::Retry;
use crate::translate::envoy::{any, duration, number};
use crate::translate::plan::RuleParts;

/// What no server can have acted on.
const BEFORE_REQUEST: &str = "connect-failure,refused-stream,reset-before-request";
/// Methods that may be repeated (RFC 9110 section 9.2.2).
const REPEATABLE: &[&str] = &["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
/// The first wait, from which on they double (Envoy's own default).
const BACKOFF: Duration = Duration::from_millis(25);
/// Waits grow to so many times the first.
const BACKOFF_GROWTH: u32 = 10;
/// How often an endpoint is drawn that was not tried yet.
const DRAWS: i64 = 5;

/// The retry policies of a rule.
#[derive(Debug)]
pub(super) enum Retries {
    /// That of the virtual host.
    Inherited,
    /// One for all methods.
    Same(Box<RetryPolicy>),
    /// One for methods that may be repeated after a server has seen them, one for all others.
    Apart {
        /// The methods.
        methods: &'static [&'static str],
        /// For these.
        repeatable: Box<RetryPolicy>,
        /// For all others.
        others: Box<RetryPolicy>,
    },
}

/// What holds where nothing is said: once more, if no server can have acted on the request.
pub(super) fn by_default() -> RetryPolicy {
    policy(1, BACKOFF)
}

/// The retry policies of a rule.
pub(super) fn of_rule(rule: RuleParts<'_>) -> Retries {
    let per_try = rule.timeouts.backend_request.filter(|per_try| !per_try.is_zero());
    let per_try_timeout = per_try.and_then(duration);
    match rule.retry {
        None if per_try.is_none() => Retries::Inherited,
        None => Retries::Same(Box::new(RetryPolicy { per_try_timeout, ..by_default() })),
        Some(Retry { attempts: Some(0), .. }) => {
            Retries::Same(Box::new(RetryPolicy { per_try_timeout, ..policy(0, BACKOFF) }))
        }
        Some(Retry { codes, attempts, backoff }) => {
            let others = RetryPolicy {
                per_try_timeout,
                ..policy(attempts.unwrap_or(1), backoff.unwrap_or(BACKOFF))
            };
            let by_codes = if codes.is_empty() { "" } else { ",retriable-status-codes" };
            let repeatable = RetryPolicy {
                retry_on: format!("{BEFORE_REQUEST},reset{by_codes}"),
                retriable_status_codes: codes.iter().map(|code| u32::from(*code)).collect(),
                ..others.clone()
            };
            let (repeatable, others) = (Box::new(repeatable), Box::new(others));
            Retries::Apart { methods: REPEATABLE, repeatable, others }
        }
    }
}

/// So many more tries, at another endpoint if there is one.
fn policy(attempts: u32, backoff: Duration) -> RetryPolicy {
    // Envoy takes no wait of zero.
    let backoff = backoff.max(Duration::from_millis(1));
    let untried = RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(
            &PreviousHostsPredicate::default(),
        ))),
    };
    RetryPolicy {
        retry_on: BEFORE_REQUEST.to_owned(),
        num_retries: number(attempts),
        retry_host_predicate: vec![untried],
        host_selection_retry_max_attempts: DRAWS,
        retry_back_off: Some(RetryBackOff {
            base_interval: duration(backoff),
            max_interval: duration(backoff.saturating_mul(BACKOFF_GROWTH)),
        }),
        ..Default::default()
    }
}
