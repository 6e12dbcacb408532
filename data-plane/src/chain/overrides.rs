//! What virtual hosts, routes and their clusters say of filters (`typed_per_filter_config`).

use std::collections::HashMap;
use std::sync::Arc;

use prost::{Message, Name};
use xds_proto::envoy::config::route::v3::FilterConfig;
use xds_proto::field::{At, FieldError};
use xds_proto::fields;
use xds_proto::google::protobuf::Any;

use crate::filter::{self, RouteSetting};

/// What one level says of one filter.
#[derive(Debug)]
pub struct Level {
    /// Whether the filter is off there. A level that says anything else turns it on.
    pub is_disabled: bool,
    /// How it is configured there; none leaves it as it is.
    pub setting: Option<RouteSetting>,
    /// Which level it is.
    pub place: Arc<str>,
    /// A hash of what the level says.
    pub hash: u64,
}

/// What one level says of filters, by their names.
pub type Levels = Vec<(Arc<str>, Arc<Level>)>;

/// What levels say of a filter of this name, least specific first.
type Said = (Arc<str>, Box<[Arc<Level>]>);

/// What all levels say of the filters for a route, by the filters' names; least specific first.
#[derive(Debug, Clone, Default)]
pub struct OverrideSet(Box<[Said]>);

/// Which overrides a route has: a place in the [`OverrideTable`]. The default has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilterSet(u32);

/// All sets of overrides of a virtual host, or of a route table outside of them. The first is empty.
#[derive(Debug, Clone)]
pub struct OverrideTable(Vec<OverrideSet>);

/// Compiles what a level says.
///
/// # Errors
/// A filter that is not known, or the field of its configuration that is wrong.
pub fn compile(configs: HashMap<String, Any>, place: &Arc<str>) -> Result<Levels, FieldError> {
    let mut configs: Vec<_> = configs.into_iter().collect();
    configs.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut levels = Vec::with_capacity(configs.len());
    for (name, config) in configs {
        let level = level(&config, place).at_key(&name).at("typed_per_filter_config")?;
        levels.extend(level.map(|level| (name.into(), Arc::new(level))));
    }
    Ok(levels)
}

/// None where it is about a filter that need not be known, or not to routes.
fn level(config: &Any, place: &Arc<str>) -> Result<Option<Level>, FieldError> {
    let level = |is_disabled, setting| {
        let hash = super::hash(config);
        Some(Level { is_disabled, setting, place: Arc::clone(place), hash })
    };
    if config.type_url != FilterConfig::type_url() {
        return filter::compile_route(config).map(|setting| level(false, Some(setting)));
    }
    let message = FilterConfig::decode(config.value.as_slice())
        .map_err(|error| FieldError::invalid(error.to_string()))?;
    fields!(message: FilterConfig,
        read: [config, is_optional, disabled], ignore: [], refuse: []);
    if disabled {
        return Ok(level(true, None));
    }
    match config {
        None => Err(FieldError::required()).at("config"),
        // It is only turned on.
        Some(config) if config.type_url.is_empty() => Ok(level(false, None)),
        Some(config) if is_optional && !filter::is_known_to_routes(&config.type_url) => Ok(None),
        Some(config) => {
            filter::compile_route(&config).map(|setting| level(false, Some(setting))).at("config")
        }
    }
}

impl OverrideSet {
    /// What is said of a filter.
    pub fn levels(&self, filter: &str) -> &[Arc<Level>] {
        let said = self.0.iter().find(|(name, _)| **name == *filter);
        said.map_or(&[], |(_, levels)| levels)
    }

    fn with(&self, levels: Levels) -> Self {
        let mut said = self.0.to_vec();
        for (name, level) in levels {
            match said.iter_mut().find(|(known, _)| *known == name) {
                Some((_, levels)) => {
                    *levels = levels.iter().cloned().chain([level]).collect();
                }
                None => said.push((name, [level].into())),
            }
        }
        Self(said.into())
    }
}

impl FilterSet {
    /// Its place.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl Default for OverrideTable {
    fn default() -> Self {
        Self(vec![OverrideSet::default()])
    }
}

impl OverrideTable {
    /// All sets, by [`FilterSet`].
    pub fn sets(&self) -> &[OverrideSet] {
        &self.0
    }

    /// The set of a level below that of `outer`: the same where the level says nothing.
    ///
    /// # Errors
    /// When there are more than 2^32.
    pub fn join(&mut self, outer: FilterSet, levels: Levels) -> Result<FilterSet, FieldError> {
        if levels.is_empty() {
            return Ok(outer);
        }
        let set = self.0.get(outer.index()).map(|outer| outer.with(levels)).unwrap_or_default();
        let index = u32::try_from(self.0.len())
            .map_err(|_| FieldError::invalid("too many levels"))
            .at("typed_per_filter_config")?;
        self.0.push(set);
        Ok(FilterSet(index))
    }
}

/// The clusters that what a level says has filters ask.
pub fn clusters(levels: &Levels) -> impl Iterator<Item = Arc<str>> + '_ {
    let settings = levels.iter().filter_map(|(_, level)| level.setting.as_ref());
    settings.flat_map(RouteSetting::clusters)
}

#[cfg(test)]
mod tests {
    use xds_proto::envoy::config::route::v3::VirtualHost;
    use xds_proto::json::from_yaml;

    use super::*;

    const FAULT: &str =
        "'@type': type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
    const CONFIG: &str = "'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig";

    fn levels(text: &str) -> Result<Levels, String> {
        let text = format!("{{typed_per_filter_config: {{{text}}}}}");
        let host: VirtualHost = from_yaml(&text).unwrap();
        compile(host.typed_per_filter_config, &"v".into()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_level_configures_a_filter_or_turns_it_on_or_off() {
        let mut said = levels(&format!(
            "a: {{{FAULT}}}, b: {{{CONFIG}, disabled: true}}, c: {{{CONFIG}, config: {{{FAULT}}}}}"
        ))
        .unwrap();
        // Our YAML has no words for a packed message of no type.
        let on = FilterConfig { config: Some(Any::default()), ..FilterConfig::default() };
        let on = xds_proto::json::pack(&on).unwrap();
        said.extend(compile(HashMap::from([("d".into(), on)]), &"v".into()).unwrap());
        let said: Vec<_> = said
            .iter()
            .map(|(name, level)| (&**name, level.is_disabled, level.setting.is_some()))
            .collect();
        let want =
            [("a", false, true), ("b", true, false), ("c", false, true), ("d", false, false)];
        assert_eq!(said, want);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let duration = "'@type': type.googleapis.com/google.protobuf.Duration, value: 1s";
        let buffer = "'@type': type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer";
        for (text, want) in [
            (
                format!("n: {{{duration}}}"),
                "typed_per_filter_config[\"n\"].type_url: unknown filter \"google.protobuf.Duration\"",
            ),
            (
                format!("n: {{{buffer}, max_request_bytes: 1}}"),
                "typed_per_filter_config[\"n\"].type_url: configures the filter of a listener, not that of a route",
            ),
            (
                format!("n: {{{FAULT}, abort: {{}}}}"),
                "typed_per_filter_config[\"n\"].abort.error_type: required",
            ),
            (format!("n: {{{CONFIG}}}"), "typed_per_filter_config[\"n\"].config: required"),
        ] {
            assert_eq!(levels(&text).unwrap_err(), want);
        }
        let optional = format!("n: {{{CONFIG}, is_optional: true, config: {{{duration}}}}}");
        assert!(levels(&optional).unwrap().is_empty());
    }

    #[test]
    fn levels_add_to_those_around_them_and_a_silent_one_costs_nothing() {
        let mut table = OverrideTable::default();
        let host = table.join(FilterSet::default(), levels(&format!("a: {{{FAULT}}}")).unwrap());
        let host = host.unwrap();
        let route = levels(&format!("a: {{{FAULT}}}, b: {{{FAULT}}}")).unwrap();
        let route = table.join(host, route).unwrap();
        assert_eq!(table.join(host, Vec::new()).unwrap(), host);
        let sizes = |set: FilterSet| {
            ["a", "b", "c"].map(|name| table.sets()[set.index()].levels(name).len())
        };
        assert_eq!(sizes(FilterSet::default()), [0, 0, 0]);
        assert_eq!(sizes(host), [1, 0, 0]);
        assert_eq!(sizes(route), [2, 1, 0]);
    }
}
