//! Compiles `LocalRateLimit`.

use std::collections::HashMap;
use std::time::Duration;

use http::StatusCode;
use xds_proto::convert::duration;
use xds_proto::envoy::config::route::v3::RateLimit;
use xds_proto::envoy::extensions::common::ratelimit::v3 as common;
use xds_proto::envoy::extensions::common::ratelimit::v3::VhRateLimitsOptions;
use xds_proto::envoy::extensions::common::ratelimit::v3::XRateLimitHeadersRfcVersion as Headers;
use xds_proto::envoy::extensions::filters::http::local_ratelimit::v3 as api;
use xds_proto::envoy::r#type::v3::{HttpStatus, TokenBucket};
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;

use super::{Fill, Limited, Settings, VirtualHostRules};
use crate::filtering::rate_limit::{self, Entry};
use crate::format::compile::mutations;
use crate::matcher::compile::fraction;

/// Buckets for each descriptor with open values when nothing is said.
const DYNAMIC_MAX: u32 = 20;

/// Envoy fills no faster.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

pub(super) fn compile(config: api::LocalRateLimit) -> Result<Settings, FieldError> {
    fields!(config: api::LocalRateLimit,
        read: [
            status, token_bucket, filter_enabled, filter_enforced,
            request_headers_to_add_when_not_enforced, response_headers_to_add, descriptors, stage,
            local_rate_limit_per_downstream_connection, enable_x_ratelimit_headers,
            vh_rate_limits, always_consume_default_token_bucket,
            rate_limited_as_resource_exhausted, rate_limits, enable_retry_after_header,
            stat_prefix, max_dynamic_descriptors,
        ],
        ignore: [],
        refuse: [local_cluster_rate_limit],
    );
    if stage > 10 {
        return Err(FieldError::invalid("must be at most 10")).at("stage");
    }
    let dynamic_max = max_dynamic_descriptors.map_or(DYNAMIC_MAX, |max| max.value);
    if dynamic_max == 0 {
        return Err(FieldError::invalid("must be above 0")).at("max_dynamic_descriptors");
    }
    let descriptors = each(descriptors, "descriptors", limited)?;
    // Envoy wants it, though it only names counters.
    required_text(stat_prefix, "stat_prefix")?;
    let part = |message: Option<_>, field| match message {
        Some(message) => fraction(message).at(field),
        // As in Envoy: without these the filter does nothing.
        None => Ok(0),
    };
    let says_limits = match Headers::try_from(enable_x_ratelimit_headers) {
        Ok(Headers::Off) => false,
        Ok(Headers::DraftVersion03) => true,
        Err(_) => {
            return Err(FieldError::invalid("unknown value")).at("enable_x_ratelimit_headers");
        }
    };
    let virtual_host = match VhRateLimitsOptions::try_from(vh_rate_limits) {
        Ok(VhRateLimitsOptions::Override) => VirtualHostRules::IfRouteHasNone,
        Ok(VhRateLimitsOptions::Include) => VirtualHostRules::Always,
        Ok(VhRateLimitsOptions::Ignore) => VirtualHostRules::Never,
        Err(_) => return Err(FieldError::invalid("unknown value")).at("vh_rate_limits"),
    };
    let add_to_request = "request_headers_to_add_when_not_enforced";
    Ok(Settings {
        status: self::status(status)?,
        default: token_bucket.map(fill).transpose().at("token_bucket")?,
        exact: known(&descriptors)?,
        open: (0..descriptors.len()).filter(|at| descriptors[*at].is_open()).collect(),
        descriptors: descriptors.into(),
        dynamic_max: usize::try_from(dynamic_max).unwrap_or(usize::MAX),
        enabled: part(filter_enabled, "filter_enabled")?,
        enforced: part(filter_enforced, "filter_enforced")?,
        request: mutations(
            (request_headers_to_add_when_not_enforced, add_to_request),
            (Vec::new(), ""),
        )?,
        response: mutations(
            (response_headers_to_add, "response_headers_to_add"),
            (Vec::new(), ""),
        )?,
        stage,
        rules: each(rate_limits, "rate_limits", own_rule)?.into(),
        virtual_host,
        is_per_connection: local_rate_limit_per_downstream_connection,
        always_takes_default: always_consume_default_token_bucket.is_none_or(|flag| flag.value),
        says_limits,
        says_retry_after: enable_retry_after_header,
        is_exhausted: rate_limited_as_resource_exhausted,
    })
}

/// A rule of the filter's own: it is for this filter, so that there is no stage.
fn own_rule(message: RateLimit) -> Result<rate_limit::RateLimit, FieldError> {
    if message.stage.is_some() {
        return Err(FieldError::invalid("is for rules of routes")).at("stage");
    }
    if !message.disable_key.is_empty() {
        return Err(FieldError::invalid("is for rules of routes")).at("disable_key");
    }
    rate_limit::compile(message)
}

/// The places of the descriptors without open values.
fn known(descriptors: &[Limited]) -> Result<HashMap<Vec<Entry>, usize>, FieldError> {
    let mut known = HashMap::new();
    for (at, limited) in descriptors.iter().enumerate() {
        if known.insert(limited.entries.clone(), at).is_some() {
            let error = FieldError::invalid("is there twice").at_index(at);
            return Err(error.at("descriptors"));
        }
    }
    known.retain(|_, at| !descriptors[*at].is_open());
    Ok(known)
}

/// What is no error is the usual one, as in Envoy.
fn status(message: Option<HttpStatus>) -> Result<StatusCode, FieldError> {
    let code = message.map_or(0, |status| status.code);
    if code < 400 {
        return Ok(StatusCode::TOO_MANY_REQUESTS);
    }
    u16::try_from(code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| FieldError::invalid("unknown value"))
        .at("code")
        .at("status")
}

fn fill(message: TokenBucket) -> Result<Fill, FieldError> {
    fields!(message: TokenBucket,
        read: [max_tokens, tokens_per_fill, fill_interval], ignore: [], refuse: []);
    let tokens = tokens_per_fill.map_or(1, |tokens| tokens.value);
    if tokens == 0 {
        return Err(FieldError::invalid("must be above 0")).at("tokens_per_fill");
    }
    let interval = duration(&required(fill_interval, "fill_interval")?).at("fill_interval")?;
    if interval < INTERVAL_MIN {
        return Err(FieldError::invalid("must be at least 50 ms")).at("fill_interval");
    }
    Ok(Fill { max: max_tokens, tokens, interval })
}

fn limited(message: common::LocalRateLimitDescriptor) -> Result<Limited, FieldError> {
    fields!(message: common::LocalRateLimitDescriptor,
        read: [entries, token_bucket, shadow_mode], ignore: [], refuse: []);
    if entries.is_empty() {
        return Err(FieldError::required()).at("entries");
    }
    let entries = each(entries, "entries", |entry| {
        Ok(Entry { key: required_text(entry.key, "key")?.into(), value: entry.value })
    })?;
    Ok(Limited {
        entries,
        fill: fill(required(token_bucket, "token_bucket")?).at("token_bucket")?,
        is_shadow: shadow_mode,
    })
}
