//! The query parameters of a Kubernetes request.

use serde::Deserialize;

use crate::api::kube::selector::Selector;
use crate::api::refusal::Refusal;
use crate::finding::{Finding, Severity, codes};

/// What stands in the query; what is not named here is passed over, as in Kubernetes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Query {
    dry_run: Option<String>,
    field_validation: Option<String>,
    /// Who writes.
    pub field_manager: Option<String>,
    label_selector: String,
    field_selector: String,
    limit: String,
    /// Where a list goes on.
    pub r#continue: String,
    watch: String,
    /// Since when, or as of when.
    pub resource_version: String,
    /// How `resource_version` is meant.
    pub resource_version_match: String,
    send_initial_events: String,
    allow_watch_bookmarks: String,
    timeout_seconds: String,
    include_object: String,
}

/// What happens to unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are an error.
    Strict,
    /// They are dropped, and a warning says so.
    Drop,
}

/// How much of an object the rows of a table carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncludeObject {
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
    /// Nothing.
    None,
}

impl Query {
    /// Whether nothing is to be stored.
    ///
    /// # Errors
    /// 422 for any word but `All`.
    pub fn is_dry_run(&self) -> Result<bool, Refusal> {
        dry_run(self.dry_run.as_slice())
    }

    /// What happens to unknown and duplicate fields.
    ///
    /// # Errors
    /// 422 for an unknown word.
    pub fn field_validation(&self) -> Result<FieldValidation, Refusal> {
        match self.field_validation.as_deref() {
            None | Some("" | "Strict") => Ok(FieldValidation::Strict),
            // Ignoring in silence is how a typo reaches production.
            Some("Warn" | "Ignore") => Ok(FieldValidation::Drop),
            Some(word) => Err(invalid("fieldValidation", word, "must be Strict, Warn or Ignore")),
        }
    }

    /// Which objects.
    ///
    /// # Errors
    /// 400.
    pub fn selector(&self) -> Result<Selector, Refusal> {
        Selector::parse(&self.label_selector, &self.field_selector).map_err(Refusal::bad_request)
    }

    /// How many objects at most.
    ///
    /// # Errors
    /// 400.
    pub fn limit(&self) -> Result<Option<usize>, Refusal> {
        Ok(number("limit", &self.limit)?.filter(|limit| *limit > 0))
    }

    /// Whether it is a watch.
    pub fn is_watch(&self) -> bool {
        is_true(&self.watch)
    }

    /// Whether a watch begins with what is there.
    pub fn send_initial_events(&self) -> Option<bool> {
        (!self.send_initial_events.is_empty()).then(|| is_true(&self.send_initial_events))
    }

    /// Whether a watch may say where it stands.
    pub fn allow_watch_bookmarks(&self) -> bool {
        is_true(&self.allow_watch_bookmarks)
    }

    /// How long a watch lasts.
    ///
    /// # Errors
    /// 400.
    pub fn timeout_seconds(&self) -> Result<Option<u64>, Refusal> {
        Ok(number("timeoutSeconds", &self.timeout_seconds)?.filter(|seconds| *seconds > 0))
    }

    /// How much of an object the rows of a table carry.
    pub fn include_object(&self) -> IncludeObject {
        match self.include_object.as_str() {
            "Object" => IncludeObject::Object,
            "None" => IncludeObject::None,
            _ => IncludeObject::Metadata,
        }
    }
}

/// Whether these words say that nothing is to be stored.
///
/// # Errors
/// 422 for any word but `All`.
pub fn dry_run(words: &[String]) -> Result<bool, Refusal> {
    match words.iter().find(|word| !word.is_empty() && *word != "All") {
        Some(word) => Err(invalid("dryRun", word, "must be All")),
        None => Ok(words.iter().any(|word| word == "All")),
    }
}

fn is_true(text: &str) -> bool {
    matches!(text, "true" | "1" | "True" | "t")
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<Option<T>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let number =
        text.parse().map_err(|_| Refusal::bad_request(format!("{name}: {text:?} is no number")))?;
    Ok(Some(number))
}

/// 422 about one field of the request.
pub fn invalid(field: &str, got: &str, message: &str) -> Refusal {
    let finding = Finding {
        code: codes::BAD_REQUEST,
        severity: Severity::Error,
        object: String::new(),
        field: field.to_owned(),
        message: format!("{message}, not {got:?}"),
        help: None,
    };
    let detail = format!("{field}: {}", finding.message);
    Refusal { detail, ..Refusal::invalid(vec![finding.into()]) }
}
