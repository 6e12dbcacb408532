//! Bodies: JSON or YAML text into one document, with fields that are given twice.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::source::documents;

/// What a body says.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The content; of a field that is given twice, the later one.
    pub value: Value,
    /// Paths of fields that are given twice.
    pub duplicates: Vec<String>,
}

/// Reads JSON.
///
/// # Errors
/// Where it is none, in words.
pub fn from_json(text: &[u8]) -> Result<Parsed, String> {
    let mut duplicates = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let seed = Strict { path: String::new(), duplicates: &mut duplicates };
    let value = seed.deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(Parsed { value, duplicates })
}

/// Reads one YAML document. A field that is given twice is an error there.
///
/// # Errors
/// Where it is none, in words.
pub fn from_yaml(text: &[u8]) -> Result<Parsed, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    let value = documents::from_yaml(text).map_err(|error| error.to_string())?;
    Ok(Parsed { value, duplicates: Vec::new() })
}

struct Strict<'a> {
    path: String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, list.len());
            match items.next_element_seed(Strict { path, duplicates: self.duplicates })? {
                Some(item) => list.push(item),
                None => return Ok(list.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let dot = if self.path.is_empty() { "" } else { "." };
            let path = format!("{}{dot}{name}", self.path);
            if object.contains_key(&name) {
                self.duplicates.push(path.clone());
            }
            let value = fields.next_value_seed(Strict { path, duplicates: self.duplicates })?;
            object.insert(name, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_given_twice_are_named() {
        let parsed = from_json(br#"{"a": [{"b": 1, "b": 2}], "c": null, "a": 3.5}"#).unwrap();
        assert_eq!(parsed.value, json!({"a": 3.5, "c": null}));
        assert_eq!(parsed.duplicates, ["a[0].b", "a"]);
        assert!(from_json(b"{} x").is_err());
    }

    #[test]
    fn yaml_is_read_too() {
        assert_eq!(from_yaml(b"a: {b: 1}").unwrap().value, json!({"a": {"b": 1}}));
        assert!(from_yaml(b"a: 1\na: 2").is_err());
    }
}
