//! The documents of one request: from YAML, JSON or a form with one part per file.

use std::collections::{BTreeMap, HashSet};

use http::{HeaderMap, header};
use serde_json::{Value, json};

use crate::api::refusal::{Located, Refusal};
use crate::api::{body, media_type, multipart};
use crate::finding::{Finding, Severity, codes, segments};
use crate::model::kind::{kind_of, name_of};
use crate::source::documents::{self, Document, DocumentError};
use crate::store::change::Source;
use crate::store::state::ObjectKey;

/// Documents with the text that they come from.
#[derive(Debug, Default)]
pub struct Bundle {
    /// The documents, checked and with defaults after [`Bundle::check`].
    pub documents: Vec<Item>,
    texts: BTreeMap<String, String>,
}

/// A document and what it is.
#[derive(Debug)]
pub struct Item {
    /// Its name; `None` when its kind is not served.
    pub key: Option<ObjectKey>,
    /// Its content.
    pub value: Value,
    /// Where it begins.
    pub source: Option<Source>,
}

impl Bundle {
    /// Reads a body. `file` is what the text is called when the body does not say.
    ///
    /// # Errors
    /// 400 where a text does not parse, 415 for another media type.
    pub fn read(headers: &HeaderMap, file: &str, body: &[u8]) -> Result<Self, Refusal> {
        let mut bundle = Self::default();
        match media_type(headers) {
            "application/json" => {
                let parsed = body::from_json(body).map_err(|reason| Refusal {
                    code: codes::NOT_YAML,
                    ..Refusal::bad_request(reason)
                })?;
                if let Some(field) = parsed.duplicates.first() {
                    let detail = format!("{field}: given twice");
                    return Err(Refusal { code: codes::DUPLICATE, ..Refusal::bad_request(detail) });
                }
                bundle.take(parsed.value)?;
            }
            "multipart/form-data" => {
                let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                let parts = multipart::parse(kind.unwrap_or_default(), body);
                for part in parts.map_err(Refusal::bad_request)? {
                    bundle.add_text(&part.name, part.content)?;
                }
            }
            "application/yaml" | "application/x-yaml" | "text/yaml" | "" => {
                bundle.add_text(file, body)?;
            }
            other => {
                return Err(Refusal::media_type(format!(
                    "bodies of type {other:?} are not taken, only application/yaml, \
                     application/json and multipart/form-data"
                )));
            }
        }
        Ok(bundle)
    }

    fn add_text(&mut self, file: &str, text: &[u8]) -> Result<(), Refusal> {
        let text = std::str::from_utf8(text)
            .map_err(|error| Refusal::bad_request(format!("{file}: {error}")))?;
        for Document { value, file, line } in documents::parse(file, text).map_err(syntax)? {
            let source = Some(Source { file, line, column: 1 });
            self.documents.push(Item { key: None, value, source });
        }
        self.texts.insert(file.to_owned(), text.to_owned());
        Ok(())
    }

    fn take(&mut self, mut value: Value) -> Result<(), Refusal> {
        if !value.is_object() {
            return Err(Refusal::bad_request("a document must be a map with apiVersion and kind"));
        }
        let is_list = value.get("kind").and_then(Value::as_str) == Some("List");
        match value.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) if is_list => {
                items.into_iter().try_for_each(|v| self.take(v))
            }
            items => {
                if let (Some(items), Some(place)) = (items, value.get_mut("items")) {
                    *place = items;
                }
                self.documents.push(Item { key: None, value, source: None });
                Ok(())
            }
        }
    }

    /// Puts documents that name no namespace into this one; no namespace leaves them in `default`.
    pub fn place_in(&mut self, namespace: &str) {
        if namespace.is_empty() {
            return;
        }
        for item in &mut self.documents {
            let is_namespaced = kind_of(&item.value).is_ok_and(|kind| kind.namespaced);
            let metadata = item.value.get_mut("metadata").and_then(Value::as_object_mut);
            if let Some(metadata) = metadata.filter(|_| is_namespaced) {
                metadata.entry("namespace").or_insert_with(|| namespace.into());
            }
        }
    }

    /// Finds out what each document is, and whether none is there twice. With `strictly`,
    /// everything inside them is checked and defaults are filled in.
    pub fn check(&mut self, strictly: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut seen = HashSet::new();
        for item in &mut self.documents {
            let kind = match kind_of(&item.value) {
                Ok(kind) => kind,
                Err(finding) => {
                    findings.push(*finding);
                    continue;
                }
            };
            if strictly {
                findings.extend(kind.check(&mut item.value));
            }
            let text = |field: &str| {
                let metadata = item.value.get("metadata");
                let text = metadata.and_then(|metadata| metadata.get(field)?.as_str());
                text.unwrap_or_default().to_owned()
            };
            let namespace = match (kind.namespaced, text("namespace")) {
                (false, _) => String::new(),
                (true, namespace) if namespace.is_empty() => "default".to_owned(),
                (true, namespace) => namespace,
            };
            let key = ObjectKey { kind, namespace, name: text("name") };
            let (object, field) = (key.to_string(), "metadata.name".to_owned());
            let problem = if key.name.is_empty() {
                (codes::REQUIRED, "required: a document of a bundle has a name")
            } else if seen.insert(object.clone()) {
                item.key = Some(key);
                continue;
            } else {
                (codes::SAME_OBJECT, "another document of this bundle is the same object")
            };
            let (code, message) = problem;
            let (severity, message) = (Severity::Error, message.to_owned());
            findings.push(Finding { code, severity, object, field, message, help: None });
        }
        findings
    }

    /// Says of each finding where it stands in the texts.
    pub fn locate(&self, findings: Vec<Finding>) -> Vec<Located> {
        findings
            .into_iter()
            .map(|finding| {
                let mut called =
                    self.documents.iter().filter(|item| item.is_called(&finding.object));
                // The later of two is the one too many.
                let item = match finding.code {
                    codes::SAME_OBJECT => called.next_back(),
                    _ => called.next(),
                };
                let source = item.and_then(|item| item.source.as_ref());
                let source = source.map(|source| self.place(source, &finding.field));
                Located { finding, source }
            })
            .collect()
    }

    fn place(&self, source: &Source, field: &str) -> Value {
        let Source { file, line, column } = source;
        let text = self.texts.get(file).map(String::as_str).unwrap_or_default();
        let (row, column) = find(text, *line, field).unwrap_or((*line, *column));
        json!({"file": file, "line": row, "column": column})
    }
}

impl Item {
    fn is_called(&self, object: &str) -> bool {
        match &self.key {
            Some(key) => {
                let by_its_words = || format!("{} {}", key.kind.kind, name_of(&self.value));
                key.to_string() == object || by_its_words() == object
            }
            None => {
                let kind = self.value.get("kind").and_then(Value::as_str).unwrap_or_default();
                let name = name_of(&self.value);
                object.strip_prefix(kind).is_some_and(|rest| {
                    // What is not fully checked may lack its namespace.
                    rest.trim() == name || rest.trim() == format!("default/{name}")
                })
            }
        }
    }
}

fn syntax(error: DocumentError) -> Refusal {
    let DocumentError { file, line, column, reason } = error;
    let finding = Finding {
        code: codes::NOT_YAML,
        severity: Severity::Error,
        object: String::new(),
        field: String::new(),
        message: reason.clone(),
        help: None,
    };
    let source = Some(json!({"file": file, "line": line, "column": column}));
    Refusal {
        code: codes::NOT_YAML,
        findings: vec![Located { finding, source }],
        ..Refusal::bad_request(format!("{file}:{line}:{column}: {reason}"))
    }
}

/// Line and column of a field in the document that begins at `first_line`; of the nearest field
/// around it when the text does not hold it.
fn find(text: &str, first_line: u32, field: &str) -> Option<(u32, u32)> {
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

impl<'de> serde::Deserialize<'de> for Spanned {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<Part>::deserialize(deserializer)?;
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let place = spanned.referenced;
        let (line, column) = (number(place.line()), number(place.column()));
        Ok(Self { line, column, part: spanned.value })
    }
}

impl<'de> serde::Deserialize<'de> for Part {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

struct PartVisitor;

impl<'de> serde::de::Visitor<'de> for PartVisitor {
    type Value = Part;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Part, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Part::List(list))
    }
    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut fields: A) -> Result<Part, A::Error> {
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
