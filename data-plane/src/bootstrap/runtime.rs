//! The runtime values of a bootstrap that are listened to.

use xds_proto::field::{At, FieldError};
use xds_proto::google::protobuf::Struct;
use xds_proto::google::protobuf::value::Kind;

use super::{RuntimeLayer, RuntimeSource};

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

/// What the layers say; the last that says something counts.
pub(super) fn resets(layers: &[RuntimeLayer]) -> Result<ResetLimits, FieldError> {
    let defaults = ResetLimits::default();
    Ok(ResetLimits {
        streams: number(layers, RESET_STREAMS)?.unwrap_or(defaults.streams),
        seconds: number(layers, RESET_SECONDS)?.unwrap_or(defaults.seconds),
    })
}

fn number(layers: &[RuntimeLayer], key: &'static str) -> Result<Option<u64>, FieldError> {
    let mut number = None;
    for (index, layer) in layers.iter().enumerate() {
        let RuntimeSource::Static(values) = &layer.source else { continue };
        let Some(value) = find(values, key) else { continue };
        let whole = whole(value).ok_or_else(|| {
            FieldError::invalid(format!("must be a whole number between 0 and {}", u32::MAX))
        });
        let whole = whole.at(key).at("static_layer").at_index(index).at("layers")?;
        number = Some(whole);
    }
    Ok(number)
}

/// A value by its key, whose parts may also be structures within each other.
fn find<'a>(values: &'a Struct, key: &str) -> Option<&'a Kind> {
    if let Some(value) = values.fields.get(key) {
        return value.kind.as_ref();
    }
    let dots = key.match_indices('.');
    let mut parts =
        dots.filter_map(|(dot, _)| match values.fields.get(&key[..dot])?.kind.as_ref()? {
            Kind::StructValue(inner) => find(inner, &key[dot + 1..]),
            _ => None,
        });
    parts.next()
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

    #[test]
    fn the_last_layer_that_says_something_counts() {
        assert_eq!(resets(&[]), Ok(ResetLimits { streams: 500, seconds: 1 }));
        let flat = "overload.premature_reset_total_stream_count: 7";
        let deep = "overload: {premature_reset_total_stream_count: '9', premature_reset_min_stream_lifetime_seconds: 3}";
        assert_eq!(resets(&layers(&[flat])), Ok(ResetLimits { streams: 7, seconds: 1 }));
        assert_eq!(resets(&layers(&[flat, deep])), Ok(ResetLimits { streams: 9, seconds: 3 }));
        assert_eq!(resets(&layers(&[deep, flat])), Ok(ResetLimits { streams: 7, seconds: 3 }));
    }

    #[test]
    fn what_is_no_number_is_named() {
        for value in ["-1", "1.5", "many", "true", "5000000000"] {
            let layer = format!("overload.premature_reset_total_stream_count: {value}");
            let error = resets(&layers(&["a: 1", &layer])).unwrap_err();
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
