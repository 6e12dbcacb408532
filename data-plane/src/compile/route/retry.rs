//! Compiles `RetryPolicy`.

use std::num::NonZeroU32;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use prost::Name;
use xds_proto::convert::{duration, optional_duration};
use xds_proto::envoy::config::route::v3 as route;
use xds_proto::envoy::config::route::v3::retry_policy::retry_host_predicate::ConfigType as HostConfig;
use xds_proto::envoy::config::route::v3::retry_policy::retry_priority::ConfigType as PriorityConfig;
use xds_proto::envoy::config::route::v3::retry_policy::{
    RateLimitedRetryBackOff, ResetHeader, ResetHeaderFormat, RetryBackOff, RetryHostPredicate,
    RetryPriority,
};
use xds_proto::envoy::extensions::retry::host::omit_canary_hosts::v3::OmitCanaryHostsPredicate;
use xds_proto::envoy::extensions::retry::host::omit_host_metadata::v3::OmitHostMetadataConfig;
use xds_proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use xds_proto::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;

use crate::compile::labels::of_metadata;
use crate::compile::unpack;
use crate::labels::{Label, Labels};
use crate::matcher::compile as matcher;
use crate::retry::{
    BackOff, Elsewhere, PreviousPriorities, RetryOn, RetryPolicy, ToldBackOff, Unit,
};

/// Compiles a retry policy.
pub(super) fn compile(message: route::RetryPolicy) -> Result<RetryPolicy, FieldError> {
    fields!(message: route::RetryPolicy,
        read: [
            retry_on, num_retries, per_try_timeout, per_try_idle_timeout, retry_host_predicate,
            retriable_status_codes, retry_back_off, retriable_headers, retriable_request_headers,
            host_selection_retry_max_attempts, retry_priority, rate_limited_retry_back_off,
        ],
        // Matters only with cluster specifier plugins.
        ignore: [refresh_cluster_on_retry],
        refuse: [retry_options_predicates]);
    let on = RetryOn::parse(&retry_on).at("retry_on")?;
    let mut elsewhere = Elsewhere {
        // Unset is 1. A request must not draw for ever.
        draws: u32::try_from(host_selection_retry_max_attempts).unwrap_or(0).clamp(1, DRAWS_MAX),
        priorities: retry_priority.map(priority).transpose().at("retry_priority")?,
        ..Elsewhere::default()
    };
    each(retry_host_predicate, "retry_host_predicate", |one| host_predicate(one, &mut elsewhere))?;
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
        told: rate_limited_retry_back_off
            .map(told)
            .transpose()
            .at("rate_limited_retry_back_off")?,
        elsewhere,
    })
}

/// Drawing an endpoint more often than this for one try would help nobody.
const DRAWS_MAX: u32 = 1000;

fn host_predicate(
    message: RetryHostPredicate,
    elsewhere: &mut Elsewhere,
) -> Result<(), FieldError> {
    fields!(message: RetryHostPredicate,
        read: [name, config_type], ignore: [], refuse: []);
    let HostConfig::TypedConfig(config) = required(config_type, "typed_config")?;
    let not = if config.type_url == PreviousHostsPredicate::type_url() {
        elsewhere.not_tried = true;
        return Ok(());
    } else if config.type_url == OmitCanaryHostsPredicate::type_url() {
        Labels::new([("canary".into(), Label::new("true"))].into(), None)
    } else if config.type_url == OmitHostMetadataConfig::type_url() {
        unpack(&config).map(not_labelled).at("typed_config")?
    } else {
        return Err(FieldError::invalid(format!("{name} is not supported"))).at("name");
    };
    // What asks for nothing leaves nobody out.
    if !not.is_empty() {
        let mut all = std::mem::take(&mut elsewhere.not_labelled).into_vec();
        all.push(not);
        elsewhere.not_labelled = all.into();
    }
    Ok(())
}

fn not_labelled(message: OmitHostMetadataConfig) -> Labels {
    fields!(message: OmitHostMetadataConfig,
        read: [metadata_match], ignore: [], refuse: []);
    metadata_match.map(of_metadata).unwrap_or_default()
}

fn priority(message: RetryPriority) -> Result<PreviousPriorities, FieldError> {
    fields!(message: RetryPriority,
        read: [name, config_type], ignore: [], refuse: []);
    let PriorityConfig::TypedConfig(config) = required(config_type, "typed_config")?;
    if config.type_url != PreviousPrioritiesConfig::type_url() {
        return Err(FieldError::invalid(format!("{name} is not supported"))).at("name");
    }
    unpack(&config).and_then(previous_priorities).at("typed_config")
}

fn previous_priorities(
    message: PreviousPrioritiesConfig,
) -> Result<PreviousPriorities, FieldError> {
    fields!(message: PreviousPrioritiesConfig,
        read: [update_frequency], ignore: [], refuse: []);
    let every = u32::try_from(update_frequency).ok().and_then(NonZeroU32::new);
    let positive = || FieldError::invalid("must be more than 0");
    Ok(PreviousPriorities { every: every.ok_or_else(positive).at("update_frequency")? })
}

fn told(message: RateLimitedRetryBackOff) -> Result<ToldBackOff, FieldError> {
    fields!(message: RateLimitedRetryBackOff,
        read: [reset_headers, max_interval], ignore: [], refuse: []);
    if reset_headers.is_empty() {
        return Err(FieldError::required()).at("reset_headers");
    }
    let max = match optional_duration(max_interval.as_ref(), "max_interval")? {
        Some(zero) if zero.is_zero() => {
            return Err(FieldError::invalid("must be more than 0")).at("max_interval");
        }
        max => max.unwrap_or(TOLD_MAX),
    };
    Ok(ToldBackOff { headers: each(reset_headers, "reset_headers", reset_header)?.into(), max })
}

/// Envoy's default.
const TOLD_MAX: Duration = Duration::from_secs(300);

fn reset_header(message: ResetHeader) -> Result<(HeaderName, Unit), FieldError> {
    fields!(message: ResetHeader, read: [name, format], ignore: [], refuse: []);
    let name = HeaderName::try_from(name);
    let name = name.map_err(|_| FieldError::invalid("is no header name")).at("name")?;
    let unit = match ResetHeaderFormat::try_from(format) {
        Ok(ResetHeaderFormat::Seconds) => Unit::Seconds,
        Ok(ResetHeaderFormat::UnixTimestamp) => Unit::UnixTime,
        Err(_) => return Err(FieldError::invalid("unknown value")).at("format"),
    };
    Ok((name, unit))
}

fn back_off(message: RetryBackOff) -> Result<BackOff, FieldError> {
    fields!(message: RetryBackOff,
        read: [base_interval, max_interval], ignore: [], refuse: []);
    let base = duration(&required(base_interval, "base_interval")?).at("base_interval")?;
    BackOff::new(base, optional_duration(max_interval.as_ref(), "max_interval")?)
}

#[cfg(test)]
mod tests {
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
        assert!(policy.elsewhere.is_anywhere() && policy.elsewhere.draws == 1);
        assert_eq!(policy.told, None);
    }

    #[test]
    fn the_back_off_grows_to_ten_times_its_base() {
        let policy = compiled("{retry_back_off: {base_interval: 0.005s}}").unwrap();
        let (base, max) = (Duration::from_millis(5), Duration::from_millis(50));
        assert_eq!(policy.back_off, BackOff { base, max });
    }

    fn wish(field: &str, config: &str) -> String {
        format!(
            "{{{field}: {{name: n, typed_config: {{'@type': \
             type.googleapis.com/envoy.extensions.retry.{config}}}}}}}"
        )
    }

    #[test]
    fn what_a_retry_asks_of_its_endpoint_adds_up() {
        let extension = "'@type': type.googleapis.com/envoy.extensions.retry";
        let policy = compiled(&format!(
            "{{retry_host_predicate: [
               {{name: a, typed_config: {{{extension}.host.previous_hosts.v3.PreviousHostsPredicate}}}},
               {{name: b, typed_config: {{{extension}.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate}}}},
               {{name: c, typed_config: {{{extension}.host.omit_host_metadata.v3.OmitHostMetadataConfig,
                 metadata_match: {{filter_metadata: {{envoy.lb: {{stage: old}}}}}}}}}},
               {{name: d, typed_config: {{{extension}.host.omit_host_metadata.v3.OmitHostMetadataConfig}}}}],
              host_selection_retry_max_attempts: 7, retry_priority: {{name: e, typed_config:
              {{{extension}.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 2}}}}}}"
        ));
        let elsewhere = policy.unwrap().elsewhere;
        assert!(elsewhere.not_tried);
        assert_eq!(elsewhere.draws, 7);
        assert_eq!(elsewhere.not_labelled.len(), 2);
        assert_eq!(elsewhere.priorities.unwrap().every.get(), 2);
    }

    #[test]
    fn headers_may_tell_how_long_to_wait() {
        let policy = compiled(
            "{rate_limited_retry_back_off: {reset_headers: [{name: Retry-After},
             {name: x-reset, format: UNIX_TIMESTAMP}]}}",
        );
        let expected = ToldBackOff {
            headers: [
                (HeaderName::from_static("retry-after"), Unit::Seconds),
                (HeaderName::from_static("x-reset"), Unit::UnixTime),
            ]
            .into(),
            max: Duration::from_secs(300),
        };
        assert_eq!(policy.unwrap().told, Some(expected));
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
            ("{retry_priority: {name: x}}", "retry_priority.typed_config: required"),
            (
                &wish("retry_priority", "priority.previous_priorities.v3.PreviousPrioritiesConfig"),
                "retry_priority.typed_config.update_frequency: must be more than 0",
            ),
            (
                "{retry_host_predicate: [{name: p, typed_config: {'@type': \
                 type.googleapis.com/google.protobuf.Empty, value: {}}}]}",
                "retry_host_predicate[0].name: p is not supported",
            ),
            (
                "{rate_limited_retry_back_off: {}}",
                "rate_limited_retry_back_off.reset_headers: required",
            ),
            (
                "{rate_limited_retry_back_off: {reset_headers: [{name: 'a b'}]}}",
                "rate_limited_retry_back_off.reset_headers[0].name: is no header name",
            ),
        ] {
            assert_eq!(compiled(yaml).unwrap_err(), want);
        }
    }
}
