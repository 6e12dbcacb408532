//! Compiles `RetryPolicy`.

use http::StatusCode;
use xds_proto::convert::{duration, optional_duration};
use xds_proto::envoy::config::route::v3 as route;
use xds_proto::envoy::config::route::v3::retry_policy::RetryHostPredicate;
use xds_proto::envoy::config::route::v3::retry_policy::retry_host_predicate::ConfigType;
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;

use crate::matcher::compile as matcher;
use crate::retry::{BackOff, RetryOn, RetryPolicy};

const PREVIOUS_HOSTS: &str =
    "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";

/// Compiles a retry policy.
pub(super) fn compile(message: route::RetryPolicy) -> Result<RetryPolicy, FieldError> {
    fields!(message: route::RetryPolicy,
        read: [
            retry_on, num_retries, per_try_timeout, per_try_idle_timeout, retry_host_predicate,
            retriable_status_codes, retry_back_off, retriable_headers, retriable_request_headers,
        ],
        // host_selection_retry_max_attempts: endpoints already tried are left out, not drawn again.
        // refresh_cluster_on_retry: matters only with cluster specifier plugins.
        ignore: [host_selection_retry_max_attempts, refresh_cluster_on_retry],
        refuse: [retry_priority, retry_options_predicates, rate_limited_retry_back_off]);
    let on = RetryOn::parse(&retry_on).at("retry_on")?;
    each(retry_host_predicate.iter(), "retry_host_predicate", host_predicate)?;
    let status_codes = each(retriable_status_codes, "retriable_status_codes", |code| {
        u16::try_from(code)
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or_else(|| FieldError::invalid("not a status code"))
    })?;
    let positive = |limit: std::time::Duration| (!limit.is_zero()).then_some(limit);
    Ok(RetryPolicy {
        on,
        retries: num_retries.map_or(1, |number| number.value),
        per_try_timeout: optional_duration(per_try_timeout.as_ref(), "per_try_timeout")?
            .and_then(positive),
        per_try_idle_timeout: optional_duration(
            per_try_idle_timeout.as_ref(),
            "per_try_idle_timeout",
        )?
        .and_then(positive),
        status_codes: status_codes.into(),
        headers: each(retriable_headers, "retriable_headers", matcher::header)?.into(),
        request_headers: each(
            retriable_request_headers,
            "retriable_request_headers",
            matcher::header,
        )?
        .into(),
        back_off: retry_back_off
            .map(back_off)
            .transpose()
            .at("retry_back_off")?
            .unwrap_or_default(),
        avoids_previous_endpoints: !retry_host_predicate.is_empty(),
    })
}

/// The one predicate there is: not an endpoint that was tried.
fn host_predicate(message: &RetryHostPredicate) -> Result<(), FieldError> {
    match &message.config_type {
        Some(ConfigType::TypedConfig(config)) if config.type_url == PREVIOUS_HOSTS => Ok(()),
        Some(ConfigType::TypedConfig(_)) => Err(FieldError::unsupported()).at("typed_config"),
        None => Err(FieldError::required()).at("typed_config"),
    }
}

fn back_off(message: route::retry_policy::RetryBackOff) -> Result<BackOff, FieldError> {
    fields!(message: route::retry_policy::RetryBackOff,
        read: [base_interval, max_interval], ignore: [], refuse: []);
    let base = duration(&required(base_interval, "base_interval")?).at("base_interval")?;
    BackOff::new(base, optional_duration(max_interval.as_ref(), "max_interval")?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use xds_proto::json;

    use super::*;

    fn compiled(yaml: &str) -> Result<RetryPolicy, String> {
        compile(json::from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn unset_fields_mean_what_envoy_says() {
        let policy = compiled("{retry_on: '5xx, reset'}").unwrap();
        assert!(policy.on.server_error && policy.on.reset && !policy.on.connect_failure);
        assert_eq!(policy.retries, 1);
        assert_eq!(policy.per_try_timeout, None);
        assert_eq!(policy.back_off, BackOff::default());
        assert!(!policy.avoids_previous_endpoints);
    }

    #[test]
    fn the_back_off_grows_to_ten_times_its_base() {
        let policy = compiled("{retry_back_off: {base_interval: 0.005s}}").unwrap();
        let (base, max) = (Duration::from_millis(5), Duration::from_millis(50));
        assert_eq!(policy.back_off, BackOff { base, max });
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (yaml, want) in [
            ("{retry_on: often}", "retry_on: unknown condition \"often\""),
            ("{retry_back_off: {}}", "retry_back_off.base_interval: required"),
            (
                "{retry_back_off: {base_interval: 2s, max_interval: 1s}}",
                "retry_back_off.max_interval: must be at least base_interval",
            ),
            ("{retriable_status_codes: [429, 9]}", "retriable_status_codes[1]: not a status code"),
            ("{retry_priority: {name: x}}", "retry_priority: not supported"),
        ] {
            assert_eq!(compiled(yaml).unwrap_err(), want);
        }
    }
}
