//! Conditions on what filters leave for one another.

use serde_json::Value;

use super::StringMatcher;
use crate::metadata::Metadata;

/// A condition on a value of the metadata (`envoy.type.matcher.v3.MetadataMatcher`).
#[derive(Debug, Clone)]
pub struct MetadataMatcher {
    /// Whose values.
    pub namespace: Box<str>,
    /// Which value.
    pub path: Box<[Box<str>]>,
    /// What is asked of it.
    pub test: ValueMatcher,
    /// Whether it must not hold.
    pub invert: bool,
}

/// What is asked of a value (`envoy.type.matcher.v3.ValueMatcher`).
#[derive(Debug, Clone)]
pub enum ValueMatcher {
    /// It is null.
    Null,
    /// A number from `start` to below `end`.
    Range(f64, f64),
    /// This number.
    Number(f64),
    /// A text.
    Text(StringMatcher),
    /// This truth.
    Bool(bool),
    /// Whether there is one.
    Present(bool),
    /// One of a list passes.
    AnyItem(Box<Self>),
    /// One of these holds.
    Or(Box<[Self]>),
}

impl MetadataMatcher {
    /// Whether the condition holds.
    pub fn matches(&self, metadata: &Metadata) -> bool {
        self.test.matches(metadata.value(&self.namespace, &self.path)) != self.invert
    }
}

impl ValueMatcher {
    /// Whether the value passes.
    pub fn matches(&self, value: Option<&Value>) -> bool {
        let number = || value.and_then(Value::as_f64);
        match self {
            Self::Null => value.is_some_and(Value::is_null),
            Self::Range(start, end) => {
                number().is_some_and(|number| *start <= number && number < *end)
            }
            Self::Number(wanted) => number().is_some_and(|number| number.total_cmp(wanted).is_eq()),
            Self::Text(matcher) => {
                value.and_then(Value::as_str).is_some_and(|text| matcher.matches(text.as_bytes()))
            }
            Self::Bool(wanted) => value.and_then(Value::as_bool) == Some(*wanted),
            Self::Present(present) => value.is_some() == *present,
            Self::AnyItem(test) => value
                .and_then(Value::as_array)
                .is_some_and(|items| items.iter().any(|item| test.matches(Some(item)))),
            Self::Or(tests) => tests.iter().any(|test| test.matches(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::matcher::compile;

    fn metadata(values: Value) -> Metadata {
        let mut metadata = Metadata::default();
        if let Value::Object(values) = values {
            metadata.merge("f", values);
        }
        metadata
    }

    #[test]
    fn a_value_is_found_by_its_path_and_tested() {
        let metadata = metadata(json!({"a": {"b": "text", "n": 3, "l": ["x", "y"], "z": null}}));
        for (test, want) in [
            ("path: [{key: a}, {key: b}], value: {string_match: {prefix: te}}", true),
            ("path: [{key: a}, {key: b}], value: {string_match: {exact: te}}", false),
            ("path: [{key: a}, {key: n}], value: {double_match: {exact: 3}}", true),
            (
                "path: [{key: a}, {key: n}], value: {double_match: {range: {start: 1, end: 3}}}",
                false,
            ),
            (
                "path: [{key: a}, {key: l}], value: {list_match: {one_of: {string_match: {exact: y}}}}",
                true,
            ),
            ("path: [{key: a}, {key: z}], value: {null_match: {}}", true),
            ("path: [{key: a}, {key: q}], value: {present_match: true}", false),
            ("path: [{key: a}, {key: q}], value: {present_match: true}, invert: true", true),
            (
                "path: [{key: q}], value: {or_match: {value_matchers: [{bool_match: true}, {present_match: false}]}}",
                true,
            ),
        ] {
            let message = xds_proto::json::from_yaml(&format!("{{filter: f, {test}}}")).unwrap();
            assert_eq!(compile::metadata(message).unwrap().matches(&metadata), want, "{test}");
        }
    }
}
