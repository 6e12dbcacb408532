//! The HTTP filters of a connection manager, the router last.

use std::sync::Arc;

use prost::{Message, Name};
use xds_proto::envoy::extensions::filters::http::router::v3 as router_api;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter::ConfigType,
};
use xds_proto::field::{At, FieldError};
use xds_proto::fields;

use crate::chain::{self, ChainConfig, FilterConfig};
use crate::filter;
use crate::filter::router::{self, Router};

enum Compiled {
    Filter(FilterConfig),
    Router(Router),
    Skipped,
}

pub(super) fn compile(filters: Vec<HttpFilter>) -> Result<ChainConfig, FieldError> {
    let count = filters.len();
    let mut chain = Vec::with_capacity(count);
    let mut router = None;
    for (index, message) in filters.into_iter().enumerate() {
        let name = message.name.clone();
        let compiled = filter(message).at_index(index).at("http_filters")?;
        if router.is_some() {
            let error = FieldError::invalid("terminal filter must be the last filter");
            return Err(error).at_index(index - 1).at("http_filters");
        }
        match compiled {
            Compiled::Router(config) => router = Some(config),
            Compiled::Filter(filter) => chain.push(filter),
            Compiled::Skipped => {}
        }
        if index + 1 == count && router.is_none() {
            let reason = format!("{name:?} is the last filter; it must be the router");
            return Err(FieldError::invalid(reason)).at_index(index).at("http_filters");
        }
    }
    // As in Envoy a list may be empty; only one that ends otherwise is wrong.
    Ok(ChainConfig { filters: chain.into(), router })
}

fn filter(message: HttpFilter) -> Result<Compiled, FieldError> {
    fields!(message: HttpFilter,
        read: [name, is_optional, disabled, config_type],
        ignore: [],
        refuse: [],
    );
    let config = match config_type {
        Some(ConfigType::TypedConfig(config)) => config,
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(FieldError::unsupported()).at("config_discovery");
        }
        // Envoy finds filters by name no more; only the router has a default worth assuming.
        None if name == "envoy.filters.http.router" => {
            return Ok(Compiled::Router(Router::default()));
        }
        None => return Err(FieldError::required()).at("typed_config"),
    };
    if config.type_url == router_api::Router::type_url() {
        let config = router_api::Router::decode(config.value.as_slice())
            .map_err(|error| FieldError::invalid(error.to_string()))
            .at("typed_config")?;
        return router::compile(config).map(Compiled::Router).at("typed_config");
    }
    if is_optional && !filter::is_known(&config.type_url) {
        return Ok(Compiled::Skipped);
    }
    let filter = filter::compile(&config).at("typed_config")?;
    Ok(Compiled::Filter(FilterConfig {
        name: name.into(),
        filter: Arc::new(filter),
        is_disabled: disabled,
        hash: chain::hash(&config),
    }))
}

#[cfg(test)]
mod tests {
    use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
    use xds_proto::json::from_yaml;

    use super::*;

    const ROUTER: &str = "{name: r, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";
    const FAULT: &str = "{name: f, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault}}";

    fn compiled(filters: &[&str]) -> Result<ChainConfig, String> {
        let text = format!("{{http_filters: [{}]}}", filters.join(", "));
        let message: HttpConnectionManager = from_yaml(&text).unwrap();
        compile(message.http_filters).map_err(|error| error.to_string())
    }

    #[test]
    fn the_router_stands_last_where_there_are_filters() {
        assert!(compiled(&[FAULT, ROUTER]).unwrap().router.is_some());
        assert!(compiled(&[]).unwrap().router.is_none());
        assert_eq!(
            compiled(&[ROUTER, FAULT]).unwrap_err(),
            "http_filters[0]: terminal filter must be the last filter"
        );
        assert_eq!(
            compiled(&[FAULT]).unwrap_err(),
            "http_filters[0]: \"f\" is the last filter; it must be the router"
        );
    }

    #[test]
    fn a_filter_that_is_not_known_may_be_optional_and_one_may_be_off() {
        let lua =
            "typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}";
        let optional = format!("{{name: l, is_optional: true, {lua}}}");
        assert!(compiled(&[&optional, ROUTER]).unwrap().filters.is_empty());
        assert_eq!(
            compiled(&[&format!("{{name: l, {lua}}}"), ROUTER]).unwrap_err(),
            "http_filters[0].typed_config.type_url: unknown filter \"envoy.extensions.filters.http.lua.v3.Lua\""
        );
        let off = FAULT.replace("name: f", "name: f, disabled: true");
        assert!(compiled(&[&off, ROUTER]).unwrap().filters[0].is_disabled);
    }
}
