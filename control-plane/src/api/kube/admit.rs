//! A document on its way in: is it what the path says, is everything inside it right.

use serde_json::Value;

use crate::api::body::Parsed;
use crate::api::kube::query::{FieldValidation, invalid};
use crate::api::kube::target::Target;
use crate::api::refusal::{Located, Refusal, sentence};
use crate::finding::{Finding, codes, segments};

/// What `generateName` is completed with.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A document that is fit to store, and what was dropped from it.
#[derive(Debug)]
pub struct Admitted {
    /// The document, with defaults.
    pub value: Value,
    /// Its name.
    pub name: String,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

/// Checks a document against the path that it came by.
///
/// # Errors
/// 400 where it does not belong there or has unknown fields, 422 for what is wrong inside it.
pub fn admit(
    target: &Target,
    parsed: Parsed,
    validation: FieldValidation,
) -> Result<Admitted, Refusal> {
    let Parsed { mut value, duplicates } = parsed;
    let mut warnings = Vec::new();
    let strict = duplicates.iter().map(|field| format!("duplicate field {field:?}"));
    let mut strict: Vec<String> = strict.collect();
    belongs(target, &mut value)?;
    let name = settle_name(target, &mut value)?;
    let mut findings = target.kind.check(&mut value);
    // Each round drops fields that the next one does not see.
    for _ in 0..64 {
        let unknown: Vec<Finding> = findings
            .iter()
            .filter(|finding| finding.code == codes::UNKNOWN_FIELD)
            .cloned()
            .collect();
        if unknown.is_empty() {
            break;
        }
        for finding in &unknown {
            let help = finding.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
            strict.push(format!("unknown field {:?}{help}", finding.field));
            remove(&mut value, &finding.field);
        }
        if validation == FieldValidation::Strict {
            break;
        }
        findings = target.kind.check(&mut value);
    }
    if !strict.is_empty() && validation == FieldValidation::Strict {
        let detail = format!("strict decoding error: {}", strict.join(", "));
        let code = if duplicates.is_empty() { codes::UNKNOWN_FIELD } else { codes::DUPLICATE };
        return Err(Refusal { code, ..Refusal::bad_request(detail) }.about(target.kind, &name));
    }
    warnings.append(&mut strict);
    let (errors, others): (Vec<Finding>, Vec<Finding>) =
        findings.into_iter().partition(Finding::is_error);
    if !errors.is_empty() {
        let located = errors.into_iter().map(Located::from).collect();
        return Err(Refusal::invalid(located).about(target.kind, &name));
    }
    warnings.extend(others.iter().map(|finding| format!("{} {}", finding.code, sentence(finding))));
    Ok(Admitted { value, name, warnings })
}

/// Whether kind, version and namespace are those of the path; left out, they become those.
fn belongs(target: &Target, value: &mut Value) -> Result<(), Refusal> {
    let kind = target.kind;
    let object = value.as_object_mut().ok_or_else(|| Refusal::bad_request("no object"))?;
    let said = |object: &serde_json::Map<String, Value>, field: &str| {
        object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (api_version, said_kind) = (said(object, "apiVersion"), said(object, "kind"));
    let version = api_version.rsplit('/').next().unwrap_or_default();
    let fits_version = api_version.is_empty()
        || (kind.serves_version(version) && kind.api_version_of(version) == api_version);
    if !fits_version || (!said_kind.is_empty() && said_kind != kind.kind) {
        return Err(Refusal::bad_request(format!(
            "the body is a {api_version} {said_kind}, the path is of {} {}",
            target.api_version(),
            kind.kind,
        )));
    }
    object.insert("apiVersion".into(), kind.api_version().into());
    object.insert("kind".into(), kind.kind.into());
    let metadata = object.entry("metadata").or_insert_with(|| serde_json::json!({}));
    let metadata =
        metadata.as_object_mut().ok_or_else(|| Refusal::bad_request("metadata: no object"))?;
    let said = said(metadata, "namespace");
    match &target.namespace {
        Some(namespace) if !said.is_empty() && said != *namespace => Err(Refusal::bad_request(
            format!("the namespace of the body ({said}) is not that of the path ({namespace})"),
        )),
        Some(namespace) => {
            metadata.insert("namespace".into(), namespace.as_str().into());
            Ok(())
        }
        None if kind.namespaced => Err(Refusal::bad_request("the path names no namespace")),
        None if !said.is_empty() => {
            Err(invalid("metadata.namespace", &said, "must be empty for this kind"))
        }
        None => Ok(()),
    }
}

fn settle_name(target: &Target, value: &mut Value) -> Result<String, Refusal> {
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    let metadata = metadata.ok_or_else(|| Refusal::bad_request("metadata: required"))?;
    let text = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or_default();
    let name = match (text("name"), text("generateName"), &target.name) {
        ("", _, Some(path)) => path.clone(),
        (name, _, Some(path)) if name != path => {
            return Err(Refusal::bad_request(format!(
                "the name of the body ({name}) is not that of the path ({path})"
            )));
        }
        ("", "", None) => return Ok(String::new()),
        ("", stem, None) => {
            let mut name = stem.to_owned();
            for _ in 0..5 {
                let letter = ALPHABET.get(fastrand::usize(..ALPHABET.len())).copied();
                name.push(char::from(letter.unwrap_or(b'x')));
            }
            name
        }
        (name, _, _) => name.to_owned(),
    };
    metadata.insert("name".into(), name.as_str().into());
    Ok(name)
}

/// Takes the field at a path away.
fn remove(value: &mut Value, path: &str) {
    let mut steps = segments(path);
    let Some(last) = steps.pop() else { return };
    let mut place = value;
    for step in steps {
        let next = match place {
            Value::Array(items) => step.parse().ok().and_then(|index: usize| items.get_mut(index)),
            Value::Object(fields) => fields.get_mut(&step),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        };
        let Some(next) = next else { return };
        place = next;
    }
    if let Some(fields) = place.as_object_mut() {
        fields.shift_remove(&last);
    }
}
