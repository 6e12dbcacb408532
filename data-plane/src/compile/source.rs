//! Where a resource comes from that another one names (`ConfigSource`), and how long it may take.

use std::sync::Arc;
use std::time::Duration;

use xds_proto::convert::optional_duration;
use xds_proto::envoy::config::core::v3::ConfigSource;
use xds_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_proto::field::{At, FieldError, required};
use xds_proto::fields;

use crate::reference::{FETCH_TIMEOUT, Reference};

/// A resource that comes from there.
///
/// # Errors
/// When it does not come on the one stream that we have.
pub(crate) fn reference(
    name: impl Into<Arc<str>>,
    source: ConfigSource,
) -> Result<Reference, FieldError> {
    Ok(Reference { name: name.into(), fetch_timeout: fetch_timeout(source)? })
}

/// How long what comes from there may take; none is for ever.
///
/// # Errors
/// When it does not come on the one stream that we have.
pub(crate) fn fetch_timeout(message: ConfigSource) -> Result<Option<Duration>, FieldError> {
    fields!(message: ConfigSource,
        read: [config_source_specifier, initial_fetch_timeout],
        // One stream has one version.
        ignore: [resource_api_version],
        refuse: [authorities]);
    match required(config_source_specifier, "config_source_specifier")? {
        ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_) => {}
        ConfigSourceSpecifier::ApiConfigSource(_) => {
            return Err(FieldError::unsupported()).at("api_config_source");
        }
        ConfigSourceSpecifier::PathConfigSource(_) => {
            return Err(FieldError::unsupported()).at("path_config_source");
        }
        // The deprecated form of a path.
        _ => return Err(FieldError::unsupported()).at("path"),
    }
    let timeout = optional_duration(initial_fetch_timeout.as_ref(), "initial_fetch_timeout")?;
    Ok(Some(timeout.unwrap_or(FETCH_TIMEOUT)).filter(|timeout| !timeout.is_zero()))
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    fn timeout(yaml: &str) -> Result<Option<Duration>, String> {
        fetch_timeout(from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_source_says_how_long_it_may_take() {
        assert_eq!(timeout("{ads: {}}"), Ok(Some(FETCH_TIMEOUT)));
        let second = Some(Duration::from_secs(1));
        assert_eq!(timeout("{self: {}, initial_fetch_timeout: 1s}"), Ok(second));
        assert_eq!(timeout("{ads: {}, initial_fetch_timeout: 0s}"), Ok(None));
    }

    #[test]
    fn there_is_one_stream() {
        for (yaml, want) in [
            ("{}", "config_source_specifier: required"),
            ("{path: /x}", "path: not supported"),
            ("{path_config_source: {path: /x}}", "path_config_source: not supported"),
            ("{api_config_source: {api_type: GRPC}}", "api_config_source: not supported"),
        ] {
            assert_eq!(timeout(yaml).unwrap_err(), want);
        }
    }
}
