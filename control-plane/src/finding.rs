//! What is wrong with a document, where, and what would help.

use std::fmt;

use serde::Serialize;

pub mod codes;
pub mod suggest;

/// One thing that is wrong, or looks wrong, in one object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Finding {
    /// What it is about: a code of [`codes::CODES`].
    pub code: &'static str,
    /// Whether it stands in the way of a write.
    pub severity: Severity,
    /// The object, as `HTTPRoute payments/checkout`.
    pub object: String,
    /// The field, as `spec.rules[0].backendRefs[0].name`; empty when it is about the whole object.
    pub field: String,
    /// The sentence, lower case and without a full stop.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Whether a finding stands in the way of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The write is refused.
    Error,
    /// The write goes through and the finding is shown.
    Warning,
}

impl Finding {
    /// The field as a JSON pointer (RFC 6901): `/spec/rules/0/backendRefs/0/name`.
    pub fn pointer(&self) -> String {
        let mut pointer = String::new();
        for segment in segments(&self.field) {
            pointer.push('/');
            pointer.push_str(&segment.replace('~', "~0").replace('/', "~1"));
        }
        pointer
    }

    /// Whether it stands in the way of a write.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.code, self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, " ({help})"))
    }
}

/// The steps of a path: `a.b[0]["x.y"]` is `a`, `b`, `0`, `x.y`.
pub fn segments(path: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let end = quoted.find("\"]").unwrap_or(quoted.len());
            out.push(quoted.get(..end).unwrap_or_default().to_owned());
            rest = quoted.get(end + 2..).unwrap_or_default();
        } else if let Some(index) = rest.strip_prefix('[') {
            let end = index.find(']').unwrap_or(index.len());
            out.push(index.get(..end).unwrap_or_default().to_owned());
            rest = index.get(end + 1..).unwrap_or_default();
        } else {
            let name = rest.strip_prefix('.').unwrap_or(rest);
            let end = name.find(['.', '[']).unwrap_or(name.len());
            out.push(name.get(..end).unwrap_or_default().to_owned());
            rest = name.get(end..).unwrap_or_default();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(field: &str) -> Finding {
        Finding {
            code: codes::UNKNOWN_FIELD,
            severity: Severity::Error,
            object: "HTTPRoute payments/checkout".into(),
            field: field.into(),
            message: "unknown field".into(),
            help: Some("did you mean weight?".into()),
        }
    }

    #[test]
    fn a_field_path_is_a_json_pointer_too() {
        assert_eq!(
            at("spec.rules[0].backendRefs[12].wieght").pointer(),
            "/spec/rules/0/backendRefs/12/wieght"
        );
        assert_eq!(at("metadata.labels[\"a.b/c\"].x").pointer(), "/metadata/labels/a.b~1c/x");
        assert_eq!(at("").pointer(), "");
    }

    #[test]
    fn a_finding_reads_as_one_line() {
        assert_eq!(
            at("spec.wieght").to_string(),
            "WL0002 HTTPRoute payments/checkout: spec.wieght: unknown field (did you mean weight?)"
        );
    }
}
