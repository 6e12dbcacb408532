//! The HTTP filters of a connection manager, the router last.

use std::sync::Arc;

use prost::{Message, Name};
use xds_proto::envoy::config::core::v3::ExtensionConfigSource;
use xds_proto::envoy::extensions::filters::http::router::v3 as router_api;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter::ConfigType,
};
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;
use xds_proto::google::protobuf::Any;

use crate::chain::{self, ChainConfig, Discovered, FilterConfig, FilterSource, Made};
use crate::compile::extension::{is_router, type_name};
use crate::compile::source::reference;
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
        Some(ConfigType::ConfigDiscovery(message)) => {
            let name: Arc<str> = name.into();
            let source = discovered(&name, message, is_optional).at("config_discovery")?;
            let source = source.map(FilterSource::Discovered);
            let filter = source.map(|source| FilterConfig { name, is_disabled: disabled, source });
            return Ok(filter.map_or(Compiled::Skipped, Compiled::Filter));
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
    let source = FilterSource::Own(made(&config).at("typed_config")?);
    Ok(Compiled::Filter(FilterConfig { name: name.into(), is_disabled: disabled, source }))
}

fn made(config: &Any) -> Result<Made, FieldError> {
    let filter = filter::compile(config)?;
    Ok(Made { filter: Arc::new(filter), hash: chain::hash(config) })
}

/// A filter whose configuration comes by itself; none where it need not be known.
fn discovered(
    name: &Arc<str>,
    message: ExtensionConfigSource,
    is_optional: bool,
) -> Result<Option<Discovered>, FieldError> {
    fields!(message: ExtensionConfigSource,
        read: [config_source, default_config, apply_default_config_without_warming, type_urls],
        ignore: [],
        refuse: [],
    );
    if type_urls.is_empty() {
        return Err(FieldError::required()).at("type_urls");
    }
    let types = each(type_urls, "type_urls", |type_url| {
        let name = type_name(&type_url);
        if is_router(name) {
            return Err(FieldError::unsupported());
        }
        let type_url = format!("type.googleapis.com/{name}");
        let is_known = filter::is_known(&type_url);
        Ok((Box::<str>::from(name), is_known))
    })?;
    if let Some(unknown) = types.iter().position(|(_, is_known)| !is_known) {
        let reason = format!("unknown filter {:?}", types[unknown].0);
        let error = FieldError::invalid(reason).at_index(unknown).at("type_urls");
        return if is_optional { Ok(None) } else { Err(error) };
    }
    let types: Box<[_]> = types.into_iter().map(|(name, _)| name).collect();
    let source = required(config_source, "config_source")?;
    let resource = reference(Arc::clone(name), source).at("config_source")?;
    if apply_default_config_without_warming && default_config.is_none() {
        return Err(FieldError::required()).at("default_config");
    }
    let default = default_config.map(|config| {
        if types.iter().any(|known| **known == *type_name(&config.type_url)) {
            return made(&config);
        }
        Err(FieldError::invalid("is not one of type_urls")).at("type_url")
    });
    let default = default.transpose().at("default_config")?;
    let needs_no_warming = apply_default_config_without_warming;
    Ok(Some(Discovered { resource, default, needs_no_warming, types }))
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
        let tap =
            "typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.tap.v3.Tap}";
        let optional = format!("{{name: t, is_optional: true, {tap}}}");
        assert!(compiled(&[&optional, ROUTER]).unwrap().filters.is_empty());
        assert_eq!(
            compiled(&[&format!("{{name: t, {tap}}}"), ROUTER]).unwrap_err(),
            "http_filters[0].typed_config.type_url: unknown filter \"envoy.extensions.filters.http.tap.v3.Tap\""
        );
        let off = FAULT.replace("name: f", "name: f, disabled: true");
        assert!(compiled(&[&off, ROUTER]).unwrap().filters[0].is_disabled);
    }

    #[test]
    fn the_configuration_of_a_filter_may_come_by_itself() {
        let fault = "envoy.extensions.filters.http.fault.v3.HTTPFault";
        let filter = |more: &str, types: &str| {
            let source = "config_source: {ads: {}, initial_fetch_timeout: 1s}";
            format!("{{name: f, config_discovery: {{{source}, type_urls: [{types}]{more}}}}}")
        };
        let chain = compiled(&[&filter("", fault), ROUTER]).unwrap();
        let discovered = chain.discovered().next().unwrap();
        assert_eq!(&*discovered.resource.name, "f");
        assert_eq!(discovered.resource.fetch_timeout, Some(std::time::Duration::from_secs(1)));
        assert!(discovered.takes(fault) && discovered.default.is_none());
        let url = format!("type.googleapis.com/{fault}");
        let default = format!(", default_config: {{'@type': {url}}}");
        let chain = compiled(&[&filter(&default, &url), ROUTER]).unwrap();
        assert!(chain.discovered().next().unwrap().default.is_some());
        let at = "http_filters[0].config_discovery";
        let buffer = "envoy.extensions.filters.http.buffer.v3.Buffer";
        for (more, types, want) in [
            ("", "", "type_urls: required".to_owned()),
            ("", "x.Y", "type_urls[0]: unknown filter \"x.Y\"".to_owned()),
            (
                "",
                "envoy.extensions.filters.http.router.v3.Router",
                "type_urls[0]: not supported".to_owned(),
            ),
            (
                ", apply_default_config_without_warming: true",
                fault,
                "default_config: required".to_owned(),
            ),
            (&*default, buffer, "default_config.type_url: is not one of type_urls".to_owned()),
        ] {
            assert_eq!(
                compiled(&[&filter(more, types), ROUTER]).unwrap_err(),
                format!("{at}.{want}")
            );
        }
        let last = compiled(&[&filter("", fault)]).unwrap_err();
        assert!(last.contains("it must be the router"), "{last}");
    }
}
