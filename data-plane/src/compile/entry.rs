//! The network filters of a chain that come before its last one.

use prost::Name;
use xds_proto::convert::optional_duration;
use xds_proto::envoy::config::core::v3::RuntimeFeatureFlag;
use xds_proto::envoy::config::listener::v3 as api;
use xds_proto::envoy::config::listener::v3::filter::ConfigType;
use xds_proto::envoy::extensions::filters::network::connection_limit::v3 as limit;
use xds_proto::envoy::extensions::filters::network::rbac::v3::Rbac;
use xds_proto::field::{At, FieldError, required, required_text};
use xds_proto::fields;

use crate::filter::rbac::network::ConnectionRbac;
use crate::listener::entry::{ConnectionLimit, EntryFilter};

/// Compiles such a filter; none where it is off, or where it is no such filter but one that would
/// have to be the last.
pub(super) fn compile(message: api::Filter) -> Result<Option<EntryFilter>, FieldError> {
    let config = match required(message.config_type, "typed_config")? {
        ConfigType::TypedConfig(config) => config,
        ConfigType::ConfigDiscovery(_) => {
            return Err(FieldError::unsupported()).at("config_discovery");
        }
    };
    let filter = if config.type_url == limit::ConnectionLimit::type_url() {
        let limit = super::unpack(&config).and_then(connection_limit);
        limit.map(|limit| limit.map(EntryFilter::Limit))
    } else if config.type_url == Rbac::type_url() {
        let rules = super::unpack::<Rbac>(&config).and_then(ConnectionRbac::compile);
        rules.map(|rules| Some(EntryFilter::Rbac(rules)))
    } else {
        super::listener::unknown_extension("network filter before the last", &config)
    };
    filter.at("typed_config")
}

fn connection_limit(
    message: limit::ConnectionLimit,
) -> Result<Option<ConnectionLimit>, FieldError> {
    fields!(message: limit::ConnectionLimit,
        read: [stat_prefix, max_connections, delay, runtime_enabled], ignore: [], refuse: []);
    required_text(stat_prefix, "stat_prefix")?;
    let max = required(max_connections, "max_connections")?.value;
    if max == 0 {
        return Err(FieldError::invalid("must be above 0")).at("max_connections");
    }
    let delay = optional_duration(delay.as_ref(), "delay")?;
    let is_on = |flag: RuntimeFeatureFlag| flag.default_value.is_none_or(|on| on.value);
    let is_on = runtime_enabled.is_none_or(is_on);
    Ok(is_on.then_some(ConnectionLimit { max, delay: delay.filter(|delay| !delay.is_zero()) }))
}
