//! The runtime values of a bootstrap that are listened to.

use std::collections::HashMap;

use xds_proto::field::{At, FieldError};
use xds_proto::google::protobuf::Struct;
use xds_proto::google::protobuf::value::Kind;

use super::{RuntimeLayer, RuntimeSource};
use crate::overload::plan::Limits;

/// How many connections there may be in all, and by listener.
const CONNECTIONS: &str = "overload.global_downstream_max_connections";
const LISTENER_CONNECTIONS: (&str, &str) = ("envoy.resource_limits.listener.", ".connection_limit");
const RESET_STREAMS: &str = "overload.premature_reset_total_stream_count";
const RESET_SECONDS: &str = "overload.premature_reset_min_stream_lifetime_seconds";

/// How many streams of an HTTP/2 connection may be given up early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetLimits {
    /// From so many streams on at most half of them; before that, half of this number.
    pub streams: u64,
    /// A stream that was given up later than that was not given up early.
    pub seconds: u64,
}

impl Default for ResetLimits {
    /// Those of Envoy.
    fn default() -> Self {
        Self { streams: 500, seconds: 1 }
    }
}

impl ResetLimits {
    /// Whether `early` of `all` streams are too many.
    pub fn are_exceeded(self, early: u64, all: u64) -> bool {
        all > 0 && early.saturating_mul(2) >= all.max(self.streams)
    }
}

/// The values of all layers by their full keys: a tree means the same as keys with dots, and the last layer
/// that has a value counts. Those that come by xDS are not read.
#[derive(Debug)]
pub(super) struct Values<'a>(HashMap<String, Value<'a>>);

#[derive(Debug)]
struct Value<'a> {
    layer: usize,
    kind: &'a Kind,
}

impl<'a> Values<'a> {
    pub(super) fn of(layers: &'a [RuntimeLayer]) -> Self {
        let mut values = Self(HashMap::new());
        for (index, layer) in layers.iter().enumerate() {
            if let RuntimeSource::Static(layer) = &layer.source {
                values.add(index, "", layer);
            }
        }
        values
    }

    fn add(&mut self, layer: usize, prefix: &str, tree: &'a Struct) {
        for (key, value) in &tree.fields {
            let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match &value.kind {
                Some(Kind::StructValue(inner)) => self.add(layer, &key, inner),
                Some(kind) => {
                    self.0.insert(key, Value { layer, kind });
                }
                None => {}
            }
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// A value that has to be a whole number.
    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, FieldError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let number = whole(value.kind).ok_or_else(|| {
            FieldError::invalid(format!("must be a whole number between 0 and {}", u32::MAX))
        });
        let at = number.at(key.to_owned()).at("static_layer").at_index(value.layer);
        at.at("layers").map(Some)
    }
}

/// What the values say of streams that are given up.
pub(super) fn resets(values: &Values<'_>) -> Result<ResetLimits, FieldError> {
    let defaults = ResetLimits::default();
    Ok(ResetLimits {
        streams: values.number(RESET_STREAMS)?.unwrap_or(defaults.streams),
        seconds: values.number(RESET_SECONDS)?.unwrap_or(defaults.seconds),
    })
}

/// What the values say of connections.
pub(super) fn connections(values: &Values<'_>, limits: &mut Limits) -> Result<(), FieldError> {
    // As in Envoy the monitor, where there is one, counts more.
    if limits.closes_beyond == u64::MAX
        && let Some(number) = values.number(CONNECTIONS)?
    {
        limits.closes_beyond = number;
    }
    for key in values.keys() {
        let (before, after) = LISTENER_CONNECTIONS;
        let name = key.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        if let Some((name, number)) = name.zip(values.number(key)?) {
            limits.listeners.insert(name.to_owned(), number);
        }
    }
    Ok(())
}

fn whole(value: &Kind) -> Option<u64> {
    let text = match value {
        Kind::NumberValue(number) => number.to_string(),
        Kind::StringValue(text) => text.clone(),
        _ => return None,
    };
    text.parse::<u32>().ok().map(u64::from)
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    fn layers(texts: &[&str]) -> Vec<RuntimeLayer> {
        let layer = |text: &&str| RuntimeLayer {
            name: "l".into(),
            source: RuntimeSource::Static(from_yaml(text).unwrap()),
        };
        texts.iter().map(layer).collect()
    }

    fn told(layers: &[RuntimeLayer]) -> Result<ResetLimits, FieldError> {
        resets(&Values::of(layers))
    }

    #[test]
    fn connections_are_limited_in_all_and_by_listener() {
        let layers = layers(&[
            "{envoy: {resource_limits: {listener: {a.b: {connection_limit: 5}}}}}",
            "{envoy.resource_limits.listener.web.connection_limit: 7, overload.global_downstream_max_connections: '9'}",
            "{envoy.resource_limits.listener.a.b.connection_limit: 6}",
        ]);
        let mut limits = Limits::default();
        connections(&Values::of(&layers), &mut limits).unwrap();
        assert_eq!(limits.listeners, [("a.b".to_owned(), 6), ("web".to_owned(), 7)].into());
        assert_eq!(limits.closes_beyond, 9);
        let layers = self::layers(&["envoy.resource_limits.listener.web.connection_limit: many"]);
        let error = connections(&Values::of(&layers), &mut limits).unwrap_err();
        assert_eq!(
            error.to_string(),
            "layers[0].static_layer.envoy.resource_limits.listener.web.connection_limit: must be a whole number between 0 and 4294967295",
        );
    }

    #[test]
    fn the_last_layer_that_says_something_counts() {
        assert_eq!(told(&[]), Ok(ResetLimits { streams: 500, seconds: 1 }));
        let flat = "overload.premature_reset_total_stream_count: 7";
        let deep = "overload: {premature_reset_total_stream_count: '9', premature_reset_min_stream_lifetime_seconds: 3}";
        assert_eq!(told(&layers(&[flat])), Ok(ResetLimits { streams: 7, seconds: 1 }));
        assert_eq!(told(&layers(&[flat, deep])), Ok(ResetLimits { streams: 9, seconds: 3 }));
        assert_eq!(told(&layers(&[deep, flat])), Ok(ResetLimits { streams: 7, seconds: 3 }));
    }

    #[test]
    fn what_is_no_number_is_named() {
        for value in ["-1", "1.5", "many", "true", "5000000000"] {
            let layer = format!("overload.premature_reset_total_stream_count: {value}");
            let error = told(&layers(&["a: 1", &layer])).unwrap_err();
            assert_eq!(
                error.to_string(),
                "layers[1].static_layer.overload.premature_reset_total_stream_count: must be a whole number between 0 and 4294967295",
            );
        }
    }

    #[test]
    fn half_of_the_streams_may_be_given_up_early() {
        let limits = ResetLimits::default();
        for (early, all, are_exceeded) in [
            (0, 0, false),
            (249, 249, false),
            (250, 250, true),
            (250, 501, false),
            (600, 1200, true),
        ] {
            assert_eq!(limits.are_exceeded(early, all), are_exceeded, "{early} of {all}");
        }
    }
}
