//! Compiles metadata that subsets go by.

use std::collections::BTreeMap;
use std::fmt::Write;

use xds_proto::envoy::config::core::v3::Metadata;
use xds_proto::google::protobuf::value::Kind;
use xds_proto::google::protobuf::{Struct, Value};

use crate::labels::{Label, Labels};

/// The only namespace that load balancing looks into.
const NAMESPACE: &str = "envoy.lb";
/// What an endpoint is hashed as.
const HASH_KEY: &str = "hash_key";

/// What metadata says to load balancing.
pub(crate) fn of_metadata(message: Metadata) -> Labels {
    let mut namespaces = message.filter_metadata;
    namespaces.remove(NAMESPACE).map(labels).unwrap_or_default()
}

/// What metadata says about the socket of an endpoint.
pub(crate) fn of_socket(message: &Metadata) -> Labels {
    let of_sockets = message.filter_metadata.get("envoy.transport_socket_match");
    of_sockets.cloned().map(labels).unwrap_or_default()
}

/// The values of a struct.
pub(crate) fn labels(message: Struct) -> Labels {
    let hash_key = match message.fields.get(HASH_KEY).and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) if !text.is_empty() => Some(text.as_str().into()),
        _ => None,
    };
    let by_name = message.fields.iter().map(|(name, value)| (name.as_str().into(), label(value)));
    Labels::new(by_name.collect(), hash_key)
}

fn label(value: &Value) -> Label {
    let text = canonical(value);
    match &value.kind {
        Some(Kind::ListValue(list)) => {
            let items = list.values.iter().map(|item| canonical(item).into());
            Label::list(text, items.collect())
        }
        _ => Label::new(text),
    }
}

/// A text that is equal for equal values, and only for them.
fn canonical(value: &Value) -> String {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => "null".to_owned(),
        Some(Kind::BoolValue(value)) => value.to_string(),
        Some(Kind::NumberValue(number)) => number.to_string(),
        Some(Kind::StringValue(text)) => format!("{text:?}"),
        Some(Kind::ListValue(list)) => {
            let items: Vec<_> = list.values.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Some(Kind::StructValue(message)) => {
            let sorted: BTreeMap<_, _> = message.fields.iter().collect();
            let mut text = String::from("{");
            for (name, value) in sorted {
                // Writing to a String does not fail.
                let _infallible = write!(text, "{name:?}:{},", canonical(value));
            }
            text.push('}');
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    fn compiled(yaml: &str) -> Labels {
        of_metadata(from_yaml(yaml).unwrap())
    }

    #[test]
    fn only_what_is_for_load_balancing_counts() {
        let given = "{filter_metadata: {envoy.lb: {v: '1', hash_key: k}, other: {w: 2}}}";
        let labels = compiled(given);
        assert_eq!(labels.hash_key(), Some("k"));
        assert!(labels.include(&compiled("{filter_metadata: {envoy.lb: {v: '1'}}}"), false));
        assert!(compiled("{filter_metadata: {other: {w: 2}}}").is_empty());
    }

    #[test]
    fn equal_values_are_those_of_one_type() {
        let with =
            |value: &str| compiled(&format!("{{filter_metadata: {{envoy.lb: {{v: {value}}}}}}}"));
        assert_eq!(with("1"), with("1.0"));
        assert_eq!(with("{a: 1, b: [x]}"), with("{b: [x], a: 1}"));
        for other in ["'1'", "true", "null", "[1]", "{a: 1}", "2"] {
            assert_ne!(with("1"), with(other), "{other}");
        }
    }
}
