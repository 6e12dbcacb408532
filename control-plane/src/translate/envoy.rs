//! Small parts of Envoy's messages.

use std::time::Duration;

use prost::{Message, Name};
use xds_proto::convert;
use xds_proto::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, config_source::ConfigSourceSpecifier,
};
use xds_proto::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use xds_proto::google::protobuf::{Any, UInt32Value};

/// From the stream that brought the resource that says so.
pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

/// A message inside `Any`.
pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// A number that is given.
#[expect(clippy::unnecessary_wraps, reason = "fields of messages are options")]
pub(super) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// A duration that is given.
#[expect(clippy::unnecessary_wraps, reason = "fields of messages are options")]
pub(super) fn duration(value: Duration) -> Option<xds_proto::google::protobuf::Duration> {
    Some(convert::to_duration(value))
}

/// A whole-value expression.
pub(super) fn regex(expression: impl Into<String>) -> RegexMatcher {
    RegexMatcher { regex: expression.into(), ..Default::default() }
}

/// A text that equals this one.
pub(super) fn exactly(value: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(MatchPattern::Exact(value.to_owned())),
        ..Default::default()
    }
}

/// A text all of which matches the expression.
pub(super) fn matching(expression: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(MatchPattern::SafeRegex(regex(expression))),
        ..Default::default()
    }
}
