//! What filters leave for one another, for the log and for headers (Envoy's dynamic metadata).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Values by namespace, which is the name of the filter that leaves them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(BTreeMap<Box<str>, Map<String, Value>>);

impl Metadata {
    /// Whether nobody left anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values of a namespace.
    pub fn namespace(&self, name: &str) -> Option<&Map<String, Value>> {
        self.0.get(name)
    }

    /// The value at a path of at least one key below a namespace.
    pub fn value(&self, namespace: &str, path: &[Box<str>]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let value = self.0.get(namespace)?.get(&**first)?;
        rest.iter().try_fold(value, |value, key| value.get(&**key))
    }

    /// Adds values to a namespace; those of the same keys are replaced.
    pub fn merge(&mut self, namespace: &str, values: Map<String, Value>) {
        self.0.entry(namespace.into()).or_default().extend(values);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn later_values_replace_those_of_the_same_keys() {
        let mut metadata = Metadata::default();
        metadata
            .merge("f", Map::from_iter([("a".to_owned(), json!(1)), ("b".to_owned(), json!(2))]));
        metadata.merge("f", Map::from_iter([("a".to_owned(), json!(3))]));
        assert_eq!(metadata.namespace("f").unwrap(), json!({"a": 3, "b": 2}).as_object().unwrap());
    }
}
