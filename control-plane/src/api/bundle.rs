//! The documents of one request: from YAML, JSON or a form with one part per file.

use std::collections::{BTreeMap, HashSet};

use http::{HeaderMap, header};
use serde_json::{Value, json};

use crate::api::refusal::{Located, Refusal};
use crate::api::{body, media_type, multipart};
use crate::finding::{Finding, Severity, codes};
use crate::model::kind::{kind_of, name_of};
use crate::source::documents::{self, Document, DocumentError};
use crate::source::places::find;
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
