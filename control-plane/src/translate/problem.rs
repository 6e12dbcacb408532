//! What is wrong between objects: a reason for a status and a finding for a person, in one.

use crate::finding::{Finding, Severity};
use crate::translate::draft::ObjectRef;

/// Something wrong with a field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// The reason that a condition gives.
    pub(super) reason: &'static str,
    /// The code of the finding.
    pub(super) code: &'static str,
    /// The field.
    pub(super) field: String,
    /// The sentence.
    pub(super) message: String,
    /// What would help.
    pub(super) help: Option<String>,
}

impl Problem {
    /// A problem without help.
    pub(super) fn new(
        reason: &'static str,
        code: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { reason, code, field: field.into(), message: message.into(), help: None }
    }

    /// With what would help.
    pub(super) fn with_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }

    /// The sentence with its field: what a condition says.
    pub(super) fn text(&self) -> String {
        format!("{}: {}", self.field, self.message)
    }

    /// As a finding about this object.
    pub(super) fn finding(&self, object: &ObjectRef) -> Finding {
        Finding {
            code: self.code,
            severity: Severity::Error,
            object: object.to_string(),
            field: self.field.clone(),
            message: self.message.clone(),
            help: self.help.clone(),
        }
    }
}

/// The reason of the first and the texts of all, for one condition.
pub(super) fn summary(problems: &[Problem]) -> Option<(&'static str, String)> {
    let first = problems.first()?;
    Some((first.reason, problems.iter().map(Problem::text).collect::<Vec<_>>().join("; ")))
}
