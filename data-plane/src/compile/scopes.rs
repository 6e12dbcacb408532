//! Scoped routes: of a connection manager (`ScopedRoutes`), and by themselves (SRDS).

use std::sync::Arc;

use xds_proto::envoy::config::route::v3::ScopedRouteConfiguration;
use xds_proto::envoy::config::route::v3::scoped_route_configuration::Key;
use xds_proto::envoy::config::route::v3::scoped_route_configuration::key::fragment::Type as KeyPart;
use xds_proto::envoy::config::route::v3::scoped_route_configuration::key::Fragment as KeyFragment;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::scope_key_builder::FragmentBuilder;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::scope_key_builder::fragment_builder::{
    HeaderValueExtractor, Type as Builder,
};
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::scope_key_builder::fragment_builder::header_value_extractor::{
    ExtractType, KvElement,
};
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::{
    ConfigSpecifier, ScopeKeyBuilder,
};
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;

use super::route;
use super::source::{fetch_timeout, reference};
use crate::listener::scopes::{
    Extract, Fragment, KeyBuilder, Scope, ScopeKey, ScopeRoutes, ScopeSource, ScopedConfig,
};

/// Compiles what a connection manager says of scopes.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub(super) fn of_manager(message: hcm::ScopedRoutes) -> Result<ScopedConfig, FieldError> {
    fields!(message: hcm::ScopedRoutes,
        read: [name, scope_key_builder, rds_config_source, config_specifier],
        ignore: [],
        refuse: [],
    );
    required_text(name, "name")?;
    let builder = required(scope_key_builder, "scope_key_builder")?;
    let key = Arc::new(key_builder(builder).at("scope_key_builder")?);
    let source = match required(config_specifier, "config_specifier")? {
        ConfigSpecifier::ScopedRouteConfigurationsList(list) => {
            inline(list).at("scoped_route_configurations_list")?
        }
        ConfigSpecifier::ScopedRds(message) => {
            fields!(message: hcm::ScopedRds,
                read: [scoped_rds_config_source], ignore: [], refuse: [srds_resources_locator]);
            let field = "scoped_rds_config_source";
            let source = required(scoped_rds_config_source, field).at("scoped_rds")?;
            let scopes = reference("*", source).at(field).at("scoped_rds")?;
            let routes = required(rds_config_source, "rds_config_source")?;
            let routes = fetch_timeout(routes).at("rds_config_source")?;
            ScopeSource::Discovered { scopes, routes }
        }
    };
    Ok(ScopedConfig { key, source })
}

fn inline(list: hcm::ScopedRouteConfigurationsList) -> Result<ScopeSource, FieldError> {
    fields!(list: hcm::ScopedRouteConfigurationsList,
        read: [scoped_route_configurations], ignore: [], refuse: []);
    if scoped_route_configurations.is_empty() {
        return Err(FieldError::required()).at("scoped_route_configurations");
    }
    let scopes = each(scoped_route_configurations, "scoped_route_configurations", |message| {
        let scope = compile(message)?;
        match scope.routes {
            ScopeRoutes::Inline(table) => Ok((scope.key, table)),
            // As in Envoy.
            ScopeRoutes::Named(_) => {
                let reason = "routes by RDS need scopes that come by SRDS";
                Err(FieldError::invalid(reason)).at("route_configuration_name")
            }
        }
    })?;
    Ok(ScopeSource::Inline(scopes.into()))
}

/// Compiles a scope.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub(super) fn compile(message: ScopedRouteConfiguration) -> Result<Scope, FieldError> {
    fields!(message: ScopedRouteConfiguration,
        read: [name, route_configuration_name, route_configuration, key],
        ignore: [],
        refuse: [on_demand],
    );
    required_text(name, "name")?;
    let key = self::key(required(key, "key")?).at("key")?;
    let routes = match (route_configuration_name.is_empty(), route_configuration) {
        (false, None) => ScopeRoutes::Named(route_configuration_name.into()),
        (true, Some(message)) => {
            ScopeRoutes::Inline(Arc::new(route::compile(message).at("route_configuration")?))
        }
        (true, None) => return Err(FieldError::required()).at("route_configuration_name"),
        (false, Some(_)) => {
            let reason = "only one of route_configuration_name and route_configuration may be set";
            return Err(FieldError::invalid(reason));
        }
    };
    Ok(Scope { key, routes })
}

fn key(message: Key) -> Result<ScopeKey, FieldError> {
    fields!(message: Key, read: [fragments], ignore: [], refuse: []);
    if fragments.is_empty() {
        return Err(FieldError::required()).at("fragments");
    }
    let fragment = |message: KeyFragment| {
        fields!(message: KeyFragment, read: [r#type], ignore: [], refuse: []);
        let KeyPart::StringKey(text) = required(r#type, "string_key")?;
        Ok(text.into())
    };
    each(fragments, "fragments", fragment).map(Into::into)
}

fn key_builder(message: ScopeKeyBuilder) -> Result<KeyBuilder, FieldError> {
    fields!(message: ScopeKeyBuilder, read: [fragments], ignore: [], refuse: []);
    if fragments.is_empty() {
        return Err(FieldError::required()).at("fragments");
    }
    let fragment = |message: FragmentBuilder| {
        fields!(message: FragmentBuilder, read: [r#type], ignore: [], refuse: []);
        let Builder::HeaderValueExtractor(message) = required(r#type, "header_value_extractor")?;
        extractor(message).at("header_value_extractor")
    };
    each(fragments, "fragments", fragment).map(|fragments| KeyBuilder(fragments.into()))
}

fn extractor(message: HeaderValueExtractor) -> Result<Fragment, FieldError> {
    fields!(message: HeaderValueExtractor,
        read: [name, element_separator, extract_type], ignore: [], refuse: []);
    let header = route::header_name(&required_text(name, "name")?).at("name")?;
    let extract = match required(extract_type, "extract_type")? {
        ExtractType::Index(index) if index > 0 && element_separator.is_empty() => {
            let reason = "must be 0 without element_separator";
            return Err(FieldError::invalid(reason)).at("index");
        }
        ExtractType::Index(index) => Extract::Index(usize::try_from(index).unwrap_or(usize::MAX)),
        ExtractType::Element(message) => {
            fields!(message: KvElement, read: [separator, key], ignore: [], refuse: []);
            let separator = required_text(separator, "separator").at("element")?.into();
            Extract::Element { key: required_text(key, "key").at("element")?.into(), separator }
        }
    };
    Ok(Fragment { header, separator: element_separator.into(), extract })
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    const BUILDER: &str = "scope_key_builder: {fragments: [{header_value_extractor: {name: x-scope, element_separator: ';', element: {separator: '=', key: vip}}}]}";

    fn scoped(yaml: &str) -> Result<ScopedConfig, String> {
        of_manager(from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    fn scope(yaml: &str) -> Result<Scope, String> {
        compile(from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn scopes_come_by_themselves_or_stand_in_the_listener() {
        let by_srds = scoped(&format!(
            "{{name: s, {BUILDER}, rds_config_source: {{ads: {{}}, initial_fetch_timeout: 0s}}, scoped_rds: {{scoped_rds_config_source: {{ads: {{}}}}}}}}"
        ));
        let source = by_srds.unwrap().source;
        assert!(matches!(source, ScopeSource::Discovered { routes: None, .. }));
        let inline = scoped(&format!(
            "{{name: s, {BUILDER}, scoped_route_configurations_list: {{scoped_route_configurations: [{{name: a, key: {{fragments: [{{string_key: v}}]}}, route_configuration: {{name: r}}}}]}}}}"
        ));
        let ScopeSource::Inline(all) = inline.unwrap().source else { unreachable!() };
        assert_eq!(all[0].0, ["v".into()].into());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let key = "key: {fragments: [{string_key: v}]}";
        for (yaml, want) in [
            (format!("{{name: a, {key}}}"), "route_configuration_name: required"),
            (
                format!("{{name: a, {key}, route_configuration_name: r, on_demand: true}}"),
                "on_demand: not supported",
            ),
            ("{name: a, route_configuration_name: r}".into(), "key: required"),
            ("{name: a, route_configuration_name: r, key: {}}".into(), "key.fragments: required"),
            (
                format!(
                    "{{name: a, {key}, route_configuration_name: r, route_configuration: {{}}}}"
                ),
                "only one of route_configuration_name and route_configuration may be set",
            ),
        ] {
            assert_eq!(scope(&yaml).unwrap_err(), want);
        }
        let extractor = |yaml: &str| {
            let yaml = format!(
                "{{name: s, scope_key_builder: {{fragments: [{{header_value_extractor: {{name: x, {yaml}}}}}]}}}}"
            );
            scoped(&yaml).unwrap_err()
        };
        let at = "scope_key_builder.fragments[0].header_value_extractor";
        assert_eq!(
            extractor("index: 1"),
            format!("{at}.index: must be 0 without element_separator")
        );
        assert_eq!(extractor("element_separator: ','"), format!("{at}.extract_type: required"));
        assert_eq!(extractor("index: 0"), "config_specifier: required");
        let named = format!(
            "{{name: s, {BUILDER}, scoped_route_configurations_list: {{scoped_route_configurations: [{{name: a, {key}, route_configuration_name: r}}]}}}}"
        );
        assert_eq!(
            scoped(&named).unwrap_err(),
            "scoped_route_configurations_list.scoped_route_configurations[0].route_configuration_name: routes by RDS need scopes that come by SRDS"
        );
    }
}
