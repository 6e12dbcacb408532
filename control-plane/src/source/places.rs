//! Where the fields of a document stand in the text that it comes from.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::finding::segments;

/// Line and column of a field in the document that begins at `first_line`; of the nearest field
/// around it when the text does not hold it.
pub fn find(text: &str, first_line: u32, field: &str) -> Option<(u32, u32)> {
    let skip = usize::try_from(first_line.saturating_sub(1)).ok()?;
    let mut lines = text.split_inclusive('\n').skip(skip);
    let mut document = lines.next()?.to_owned();
    document.extend(lines.take_while(|line| !line.starts_with("---")));
    let root: Spanned = serde_saphyr::from_str(&document).ok()?;
    let mut place = (root.line, root.column);
    let mut node = &root;
    for step in segments(field) {
        let next = match &node.part {
            Part::Map(fields) => fields.iter().find(|(name, _)| *name == step).map(|(_, n)| n),
            Part::List(items) => step.parse().ok().and_then(|index: usize| items.get(index)),
            Part::Scalar => None,
        };
        let Some(next) = next else { break };
        place = (next.line, next.column);
        node = next;
    }
    Some((place.0 + first_line - 1, place.1))
}

/// YAML with the place of each value.
#[derive(Debug)]
struct Spanned {
    line: u32,
    column: u32,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Map(Vec<(String, Spanned)>),
    List(Vec<Spanned>),
    Scalar,
}

impl<'de> Deserialize<'de> for Spanned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<Part>::deserialize(deserializer)?;
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let place = spanned.referenced;
        let (line, column) = (number(place.line()), number(place.column()));
        Ok(Self { line, column, part: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

struct PartVisitor;

impl<'de> Visitor<'de> for PartVisitor {
    type Value = Part;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }
    fn visit_unit<E>(self) -> Result<Part, E> {
        Ok(Part::Scalar)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Part, E> {
        Ok(Part::Scalar)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Part, E> {
        Ok(Part::Scalar)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Part, E> {
        Ok(Part::Scalar)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Part, E> {
        Ok(Part::Scalar)
    }
    fn visit_str<E>(self, _: &str) -> Result<Part, E> {
        Ok(Part::Scalar)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Part, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Part::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Part, A::Error> {
        let mut map = Vec::new();
        while let Some(field) = fields.next_entry()? {
            map.push(field);
        }
        Ok(Part::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_in_its_document() {
        let text = "a: 1\n---\n# note\nspec:\n  rules:\n  - name: x\n    weight: 0\n  - {name: y}\n---\nb: 2\n";
        assert_eq!(find(text, 4, "spec.rules[0].weight"), Some((7, 13)));
        assert_eq!(find(text, 4, "spec.rules[1].name"), Some((8, 12)));
        assert_eq!(find(text, 4, "spec.rules[1].missing"), Some((8, 5)));
        assert_eq!(find(text, 10, "b"), Some((10, 4)));
        assert_eq!(find(text, 99, "b"), None);
    }
}
