//! When endpoints are left out for how they answer.

use std::time::Duration;

use xds_proto::convert::optional_duration;
use xds_proto::envoy::config::cluster::v3::OutlierDetection;
use xds_proto::field::{At, FieldError};
use xds_proto::fields;
use xds_proto::google::protobuf::{self, BoolValue, UInt32Value};

use crate::cluster::outlier::{Consecutive, FailurePercentage, OutlierConfig, SuccessRate};

pub(super) fn compile(message: OutlierDetection) -> Result<OutlierConfig, FieldError> {
    fields!(message: OutlierDetection,
    read: [
        consecutive_5xx, interval, base_ejection_time, max_ejection_percent,
        enforcing_consecutive_5xx, enforcing_success_rate, success_rate_minimum_hosts,
        success_rate_request_volume, success_rate_stdev_factor, consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure, split_external_local_origin_errors,
        consecutive_local_origin_failure, enforcing_consecutive_local_origin_failure,
        enforcing_local_origin_success_rate, failure_percentage_threshold,
        enforcing_failure_percentage, enforcing_failure_percentage_local_origin,
        failure_percentage_minimum_hosts, failure_percentage_request_volume, max_ejection_time,
        max_ejection_time_jitter, successful_active_health_check_uneject_host,
        always_eject_one_host,
    ],
    ignore: [],
    refuse: [monitors, detect_degraded_hosts]);
    let base = OutlierConfig::default();
    let (ejection_base, ejection_max) =
        times(base_ejection_time.as_ref(), max_ejection_time.as_ref())?;
    let jitter = optional_duration(max_ejection_time_jitter.as_ref(), "max_ejection_time_jitter")?;
    let flag = |value: Option<BoolValue>, default| value.map_or(default, |flag| flag.value);
    Ok(OutlierConfig {
        interval: positive(interval.as_ref(), "interval")?.unwrap_or(base.interval),
        ejection_base,
        ejection_max,
        ejection_jitter: jitter.unwrap_or(base.ejection_jitter),
        ejected_percent_max: percent(
            (max_ejection_percent, "max_ejection_percent"),
            base.ejected_percent_max,
        )?,
        always_ejects_one: flag(always_eject_one_host, base.always_ejects_one),
        check_ends_ejection: flag(
            successful_active_health_check_uneject_host,
            base.check_ends_ejection,
        ),
        splits_local: split_external_local_origin_errors,
        server_errors: consecutive(
            consecutive_5xx,
            (enforcing_consecutive_5xx, "enforcing_consecutive_5xx"),
            base.server_errors,
        )?,
        gateway_errors: consecutive(
            consecutive_gateway_failure,
            (enforcing_consecutive_gateway_failure, "enforcing_consecutive_gateway_failure"),
            base.gateway_errors,
        )?,
        local_errors: consecutive(
            consecutive_local_origin_failure,
            (
                enforcing_consecutive_local_origin_failure,
                "enforcing_consecutive_local_origin_failure",
            ),
            base.local_errors,
        )?,
        success_rate: success_rate(
            (success_rate_minimum_hosts, success_rate_request_volume, success_rate_stdev_factor),
            (enforcing_success_rate, enforcing_local_origin_success_rate),
        )?,
        failure_percentage: failure_percentage(
            failure_percentage_threshold,
            (failure_percentage_minimum_hosts, failure_percentage_request_volume),
            (enforcing_failure_percentage, enforcing_failure_percentage_local_origin),
        )?,
    })
}

/// How long ejections last: the first, and the longest.
fn times(
    first: Option<&protobuf::Duration>,
    max: Option<&protobuf::Duration>,
) -> Result<(Duration, Duration), FieldError> {
    let base = OutlierConfig::default();
    let first = positive(first, "base_ejection_time")?.unwrap_or(base.ejection_base);
    let max = positive(max, "max_ejection_time")?.unwrap_or(base.ejection_max.max(first));
    if max < first {
        return Err(FieldError::invalid("is less than base_ejection_time")).at("max_ejection_time");
    }
    Ok((first, max))
}

type Count = Option<UInt32Value>;

fn number(value: Count, default: u32) -> u32 {
    value.map_or(default, |value| value.value)
}

fn consecutive(
    count: Count,
    enforcing: (Count, &'static str),
    default: Consecutive,
) -> Result<Consecutive, FieldError> {
    let enforcing = percent(enforcing, default.enforcing)?;
    Ok(Consecutive { count: number(count, default.count), enforcing })
}

fn success_rate(
    (endpoints, requests, deviations): (Count, Count, Count),
    (enforcing, enforcing_local): (Count, Count),
) -> Result<SuccessRate, FieldError> {
    let default = OutlierConfig::default().success_rate;
    let deviations = deviations.map(|factor| f64::from(factor.value) / 1000.0);
    Ok(SuccessRate {
        endpoints_min: endpoints.map_or(default.endpoints_min, |min| min.value as usize),
        requests_min: requests.map_or(default.requests_min, |min| min.value.into()),
        deviations: deviations.unwrap_or(default.deviations),
        enforcing: percent((enforcing, "enforcing_success_rate"), default.enforcing)?,
        enforcing_local: percent(
            (enforcing_local, "enforcing_local_origin_success_rate"),
            default.enforcing_local,
        )?,
    })
}

fn failure_percentage(
    threshold: Count,
    (endpoints, requests): (Count, Count),
    (enforcing, enforcing_local): (Count, Count),
) -> Result<FailurePercentage, FieldError> {
    let default = OutlierConfig::default().failure_percentage;
    Ok(FailurePercentage {
        threshold: percent((threshold, "failure_percentage_threshold"), default.threshold)?,
        endpoints_min: endpoints.map_or(default.endpoints_min, |min| min.value as usize),
        requests_min: requests.map_or(default.requests_min, |min| min.value.into()),
        enforcing: percent((enforcing, "enforcing_failure_percentage"), default.enforcing)?,
        enforcing_local: percent(
            (enforcing_local, "enforcing_failure_percentage_local_origin"),
            default.enforcing_local,
        )?,
    })
}

/// A percentage of 0 to 100.
fn percent((value, field): (Count, &'static str), default: u32) -> Result<u32, FieldError> {
    match number(value, default) {
        percent @ 0..=100 => Ok(percent),
        _ => Err(FieldError::invalid("must be at most 100")).at(field),
    }
}

fn positive(
    value: Option<&protobuf::Duration>,
    field: &'static str,
) -> Result<Option<Duration>, FieldError> {
    match optional_duration(value, field)? {
        Some(Duration::ZERO) => Err(FieldError::invalid("must be more than 0")).at(field),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    fn compiled(yaml: &str) -> Result<OutlierConfig, String> {
        compile(from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_unset_means_what_it_means_to_envoy() {
        assert_eq!(compiled("{}").unwrap(), OutlierConfig::default());
        let long = compiled("{base_ejection_time: 600s}").unwrap();
        assert_eq!(long.ejection_max, Duration::from_secs(600));
    }

    #[test]
    fn what_is_set_is_taken() {
        let config = compiled(
            "{consecutive_5xx: 3, interval: 0.2s, max_ejection_percent: 100,
              split_external_local_origin_errors: true, success_rate_stdev_factor: 500,
              enforcing_failure_percentage: 7}",
        );
        let config = config.unwrap();
        assert_eq!(config.server_errors, Consecutive { count: 3, enforcing: 100 });
        assert_eq!(config.interval, Duration::from_millis(200));
        assert!(config.splits_local && config.success_rate.deviations == 0.5);
        assert_eq!((config.ejected_percent_max, config.failure_percentage.enforcing), (100, 7));
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        for (yaml, error) in [
            ("{interval: 0s}", "interval: must be more than 0"),
            ("{max_ejection_percent: 101}", "max_ejection_percent: must be at most 100"),
            ("{max_ejection_time: 1s}", "max_ejection_time: is less than base_ejection_time"),
            ("{detect_degraded_hosts: true}", "detect_degraded_hosts: not supported"),
        ] {
            assert_eq!(compiled(yaml).unwrap_err(), error);
        }
    }
}
