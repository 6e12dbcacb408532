//! Compiles `HTTPFault`.

use http::StatusCode;
use xds_proto::convert::duration;
use xds_proto::envoy::extensions::filters::common::fault::v3 as common;
use xds_proto::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use xds_proto::envoy::extensions::filters::common::fault::v3::fault_rate_limit::LimitType;
use xds_proto::envoy::extensions::filters::http::fault::v3 as api;
use xds_proto::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use xds_proto::envoy::r#type::v3::FractionalPercent;
use xds_proto::envoy::r#type::v3::fractional_percent::DenominatorType;
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;

use super::{Abort, AbortKind, Chance, Delay, Settings, Throttle};
use crate::matcher::compile;

/// What Envoy says when nothing else is configured.
const BODY: &str = "fault filter abort";

pub(super) fn compile(config: api::HttpFault) -> Result<Settings, FieldError> {
    fields!(config: api::HttpFault,
        read: [
            delay, abort, upstream_cluster, headers, downstream_nodes, max_active_faults,
            response_rate_limit,
        ],
        // There is no runtime to look keys up in, and no statistic per downstream cluster.
        ignore: [
            delay_percent_runtime, abort_percent_runtime, delay_duration_runtime,
            abort_http_status_runtime, max_active_faults_runtime,
            response_rate_limit_percent_runtime, abort_grpc_status_runtime,
            disable_downstream_cluster_stats,
        ],
        refuse: [filter_metadata],
    );
    Ok(Settings {
        delay: delay.map(self::delay).transpose().at("delay")?,
        abort: abort.map(self::abort).transpose().at("abort")?,
        throttle: response_rate_limit.map(throttle).transpose().at("response_rate_limit")?,
        cluster: upstream_cluster.into(),
        headers: each(headers, "headers", compile::header)?.into(),
        nodes: downstream_nodes.into_iter().map(Into::into).collect(),
        active_max: max_active_faults.map(|max| max.value),
    })
}

fn delay(message: common::FaultDelay) -> Result<Delay, FieldError> {
    fields!(message: common::FaultDelay,
        read: [percentage, fault_delay_secifier], ignore: [], refuse: []);
    let time = match required(fault_delay_secifier, "fault_delay_secifier")? {
        FaultDelaySecifier::FixedDelay(time) => {
            let time = duration(&time).at("fixed_delay")?;
            if time.is_zero() {
                return Err(FieldError::invalid("must be above 0")).at("fixed_delay");
            }
            Some(time)
        }
        FaultDelaySecifier::HeaderDelay(_) => None,
    };
    Ok(Delay { time, chance: chance(percentage)? })
}

fn abort(message: api::FaultAbort) -> Result<Abort, FieldError> {
    fields!(message: api::FaultAbort,
        read: [percentage, response_body, error_type], ignore: [], refuse: []);
    let how = match required(error_type, "error_type")? {
        ErrorType::HttpStatus(status) => AbortKind::Http(
            u16::try_from(status)
                .ok()
                .filter(|status| (200..600).contains(status))
                .and_then(|status| StatusCode::from_u16(status).ok())
                .ok_or_else(|| FieldError::invalid("must be 200 to 599"))
                .at("http_status")?,
        ),
        ErrorType::GrpcStatus(code) if code <= 16 => AbortKind::Grpc(code),
        ErrorType::GrpcStatus(_) => {
            return Err(FieldError::invalid("must be at most 16")).at("grpc_status");
        }
        ErrorType::HeaderAbort(_) => AbortKind::Header,
    };
    let body = if response_body.is_empty() { BODY.into() } else { response_body.into() };
    Ok(Abort { how, chance: chance(percentage)?, body })
}

fn throttle(message: common::FaultRateLimit) -> Result<Throttle, FieldError> {
    fields!(message: common::FaultRateLimit,
        read: [percentage, limit_type], ignore: [], refuse: []);
    let kib = match required(limit_type, "limit_type")? {
        LimitType::FixedLimit(limit) if limit.limit_kbps == 0 => {
            return Err(FieldError::invalid("must be above 0")).at("limit_kbps").at("fixed_limit");
        }
        LimitType::FixedLimit(limit) => Some(limit.limit_kbps),
        LimitType::HeaderLimit(_) => None,
    };
    Ok(Throttle { kib, chance: chance(percentage)? })
}

/// Without a percentage it never happens, as in Envoy.
fn chance(message: Option<FractionalPercent>) -> Result<Chance, FieldError> {
    let message = message.unwrap_or_default();
    let whole = match DenominatorType::try_from(message.denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => {
            return Err(FieldError::invalid("unknown value")).at("denominator").at("percentage");
        }
    };
    Ok(Chance { part: message.numerator, whole })
}
