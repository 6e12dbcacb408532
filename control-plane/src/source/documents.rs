//! Text into documents: YAML or JSON, several in a file, each with the line where it begins.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A document, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The content.
    pub value: Value,
    /// The file, as its writer calls it.
    pub file: String,
    /// The line where it begins, from 1.
    pub line: u32,
}

/// A text that is no document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {reason}")]
pub struct DocumentError {
    /// The file, as its writer calls it.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
    /// What is wrong.
    pub reason: String,
}

/// Takes a text apart. Empty documents are left out, and a `List` is taken apart into its items.
///
/// # Errors
/// Where the text is no YAML, or a document is no map.
pub fn parse(file: &str, text: &str) -> Result<Vec<Document>, DocumentError> {
    let mut documents = Vec::new();
    for (first_line, part) in split(text) {
        if part.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            continue;
        }
        let blank = part
            .lines()
            .take_while(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
            .count();
        let line = first_line + u32::try_from(blank).unwrap_or_default();
        let value: Value = from_yaml(part).map_err(|error| {
            let (row, column) =
                error.location().map_or((1, 1), |location| (location.line(), location.column()));
            DocumentError {
                file: file.to_owned(),
                line: first_line + u32::try_from(row).unwrap_or(1).saturating_sub(1),
                column: u32::try_from(column).unwrap_or(1),
                reason: reason(&error),
            }
        })?;
        take(Document { value, file: file.to_owned(), line }, &mut documents)?;
    }
    Ok(documents)
}

fn take(document: Document, out: &mut Vec<Document>) -> Result<(), DocumentError> {
    let Document { mut value, file, line } = document;
    if !value.is_object() {
        let reason = "a document must be a map with apiVersion and kind".to_owned();
        return Err(DocumentError { file, line, column: 1, reason });
    }
    let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind == "List");
    match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) if is_list => {
            for value in items {
                take(Document { value, file: file.clone(), line }, out)?;
            }
        }
        items => {
            if let (Some(items), Some(place)) = (items, value.get_mut("items")) {
                *place = items;
            }
            out.push(Document { value, file, line });
        }
    }
    Ok(())
}

/// The texts between lines that begin with `---`, each with its first line.
fn split(text: &str) -> Vec<(u32, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut offset = 0;
    for (number, line) in (1u32..).zip(text.split_inclusive('\n')) {
        let is_marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if is_marker {
            parts.push((start_line, text.get(start..offset).unwrap_or_default()));
            // What follows the marker on its line belongs to the document.
            (start, start_line) = (offset + 3, number);
        }
        offset += line.len();
    }
    parts.push((start_line, text.get(start..).unwrap_or_default()));
    parts
}

/// Reads YAML 1.2: only `true` and `false` are booleans, so that a namespace may be called `n`, a
/// header `on` and a country `no`.
///
/// # Errors
/// Where it is none.
pub fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options)
}

/// The first sentence: the place is told apart from it, and the lines around it are at hand.
fn reason(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let end = text.find(" at line ").unwrap_or(text.len());
    let text = text.get(..end).unwrap_or(text);
    match text.strip_prefix("line ").and_then(|rest| rest.split_once(": ")) {
        Some((_, rest)) => rest.to_owned(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn several_documents_know_their_lines() {
        let text = "# first\na: 1\n---\n---\n\n# second\nb: 2\n--- \nc: |\n  x\n  --- y\n";
        let documents = parse("f.yaml", text).unwrap();
        let values: Vec<_> = documents.iter().map(|d| (d.line, d.value.clone())).collect();
        let expected =
            [(2, json!({"a": 1})), (7, json!({"b": 2})), (9, json!({"c": "x\n--- y\n"}))];
        assert_eq!(values, expected);
        assert!(parse("f.yaml", "").unwrap().is_empty());
    }

    #[test]
    fn json_and_lists_are_documents_too() {
        let text = r#"{"apiVersion": "v1", "kind": "List", "items": [{"a": 1}, {"kind": "List", "items": [{"b": 2}]}]}"#;
        let documents = parse("f.json", text).unwrap();
        let values: Vec<_> = documents.into_iter().map(|d| d.value).collect();
        assert_eq!(values, [json!({"a": 1}), json!({"b": 2})]);
        let kept = parse("f.yaml", "kind: X\nitems: [1]\n").unwrap();
        assert_eq!(kept[0].value, json!({"kind": "X", "items": [1]}));
    }

    #[test]
    fn only_true_and_false_are_booleans() {
        let documents = parse("f.yaml", "{a: n, b: yes, c: On, d: true}\n").unwrap();
        assert_eq!(documents[0].value, json!({"a": "n", "b": "yes", "c": "On", "d": true}));
    }

    #[test]
    fn an_error_says_file_line_and_column() {
        for (text, place) in [
            ("a: 1\n---\nb: 2\nc: [1\n", "f.yaml:4:4: "),
            ("a: 1\na: 2\n", "f.yaml:2:1: "),
            ("just text\n", "f.yaml:1:1: a document must be a map"),
            ("a: 1\n---\n- b\n", "f.yaml:3:1: a document must be a map"),
        ] {
            let error = parse("f.yaml", text).unwrap_err().to_string();
            assert!(error.starts_with(place), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
