//! Why a request is refused, once; and its two faces: a Kubernetes `Status` and an RFC 9457 problem.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::finding::{Finding, codes};
use crate::model::kind::Kind;
use crate::store::change::{Expired, StoreError};

/// Why a request is refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// `WL0409`.
    pub code: &'static str,
    /// What it is about here, in one sentence.
    pub detail: String,
    /// What is wrong with documents.
    pub findings: Vec<Located>,
    /// Facts of this code: `yours`, `current`, …
    pub facts: Box<Map<String, Value>>,
    /// Kubernetes' word, where the status has several.
    pub reason: Option<&'static str>,
    /// The object that it is about.
    pub about: Option<Box<(&'static Kind, String)>>,
}

/// A finding, and where it stands in a file.
#[derive(Debug, Clone)]
pub struct Located {
    /// What is wrong.
    pub finding: Finding,
    /// `{file, line, column}`, where the writer sent text.
    pub source: Option<Value>,
}

impl From<Finding> for Located {
    fn from(finding: Finding) -> Self {
        Self { finding, source: None }
    }
}

impl Refusal {
    /// With this status, code and sentence.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            findings: Vec::new(),
            facts: Box::default(),
            reason: None,
            about: None,
        }
    }

    /// 400.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, codes::BAD_REQUEST, detail)
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, codes::NOT_FOUND, detail)
    }

    /// 405.
    pub fn no_such_verb(verb: &http::Method) -> Self {
        let detail = format!("{verb} is not taken here");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, codes::NO_SUCH_VERB, detail)
    }

    /// 415.
    pub fn media_type(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, codes::MEDIA_TYPE, detail)
    }

    /// 422 for what is wrong with documents.
    pub fn invalid(findings: Vec<Located>) -> Self {
        let errors = findings.iter().filter(|located| located.finding.is_error()).count();
        let warnings = findings.len() - errors;
        let first = findings.iter().find(|located| located.finding.is_error());
        let code = first.map_or(codes::BAD_REQUEST, |located| located.finding.code);
        let detail = format!("{}, {}", plural(errors, "error"), plural(warnings, "warning"));
        Self { findings, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail) }
    }

    /// Names the object that it is about.
    #[must_use]
    pub fn about(mut self, kind: &'static Kind, name: &str) -> Self {
        self.about = Some(Box::new((kind, name.to_owned())));
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    /// As a `Status` object.
    pub fn as_status(&self) -> Value {
        let mut details = Map::new();
        if let Some((kind, name)) = self.about.as_deref() {
            details.insert("name".into(), name.as_str().into());
            details.insert("group".into(), kind.group.into());
            // The plural: that is what Kubernetes writes here.
            details.insert("kind".into(), kind.plural.into());
        }
        let causes: Vec<Value> =
            self.findings.iter().map(|located| cause(&located.finding)).collect();
        if !causes.is_empty() {
            details.insert("causes".into(), causes.into());
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message(), "reason": self.kubernetes_reason(),
        });
        if let Some(object) = status.as_object_mut() {
            if !details.is_empty() {
                object.insert("details".into(), details.into());
            }
            object.insert("code".into(), self.status.as_u16().into());
        }
        status
    }

    /// As a `Status` answer.
    pub fn status_response(&self) -> Response {
        (self.status, Json(self.as_status())).into_response()
    }

    /// As an RFC 9457 answer.
    pub fn problem_response(&self, instance: &str, request_id: &str) -> Response {
        let title = codes::code(self.code).map_or("refused", |code| code.title);
        let mut problem = json!({
            "type": format!("https://weighlock.dev/e/{}", self.code),
            "code": self.code, "title": title, "status": self.status.as_u16(),
            "detail": self.detail, "instance": instance, "requestId": request_id,
        });
        if let Some(object) = problem.as_object_mut() {
            object.extend(Map::clone(&self.facts));
            let errors: Vec<Value> = self.findings.iter().map(finding_json).collect();
            object.insert("errors".into(), errors.into());
        }
        let mut response = (self.status, Json(problem)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    fn message(&self) -> String {
        let mut message = format!("{} {}", self.code, self.detail);
        if self.status == StatusCode::UNPROCESSABLE_ENTITY {
            let errors = self.findings.iter().filter(|located| located.finding.is_error());
            let texts: Vec<String> = errors.map(|located| sentence(&located.finding)).collect();
            if let Some((kind, name)) = self.about.as_deref().filter(|_| !texts.is_empty()) {
                message = format!(
                    "{} {} {name:?} is invalid: {}",
                    self.code,
                    kind.kind,
                    texts.join("; ")
                );
            }
        }
        message
    }

    fn kubernetes_reason(&self) -> &'static str {
        self.reason.unwrap_or(match self.status.as_u16() {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            405 => "MethodNotAllowed",
            409 => "Conflict",
            410 => "Expired",
            413 => "RequestEntityTooLarge",
            415 => "UnsupportedMediaType",
            422 => "Invalid",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        })
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::Conflict { key, yours, current, changed_by, revision } => {
                Self::new(StatusCode::CONFLICT, codes::CONFLICT, text)
                    .about(key.kind, &key.name)
                    .fact("object", key.to_string())
                    .fact("yours", yours)
                    .fact("current", current.to_string())
                    .fact("changedBy", &*changed_by)
                    .fact("revision", format!("r{revision}"))
            }
            StoreError::RevisionConflict { yours, current, changed_by } => {
                Self::new(StatusCode::CONFLICT, codes::CONFLICT, text)
                    .fact("yours", format!("r{yours}"))
                    .fact("current", format!("r{current}"))
                    .fact("changedBy", changed_by)
            }
            StoreError::AlreadyExists(key) => Self {
                reason: Some("AlreadyExists"),
                ..Self::new(StatusCode::CONFLICT, codes::EXISTS, text).about(key.kind, &key.name)
            },
            StoreError::NotFound(key) => Self::not_found(text).about(key.kind, &key.name),
            StoreError::NoSuchGroup(_) | StoreError::NoSuchRevision(_) => Self::not_found(text),
            StoreError::NamespaceInUse(name) => {
                Self::new(StatusCode::CONFLICT, codes::NAMESPACE_IN_USE, text).fact("object", name)
            }
            StoreError::Redacted { key, field } => {
                let finding = Finding {
                    code: codes::REDACTED,
                    severity: crate::finding::Severity::Error,
                    object: key.to_string(),
                    field,
                    message: "stands for a stored value that is another or not there".into(),
                    help: Some("write the value itself".into()),
                };
                Self::invalid(vec![finding.into()]).about(key.kind, &key.name)
            }
            StoreError::TooMany(_) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, codes::TOO_LARGE, text)
            }
            StoreError::Refused(findings) => {
                Self::invalid(findings.into_iter().map(Located::from).collect())
            }
            StoreError::Locked(_) | StoreError::Backend(_) => {
                tracing::error!(error = text, "the store cannot be written");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, codes::STORE_AWAY, text)
            }
        }
    }
}

impl From<Expired> for Refusal {
    fn from(error: Expired) -> Self {
        Self::new(StatusCode::GONE, codes::EXPIRED, error.to_string())
    }
}

/// A finding with pointer and place, as `/v1` shows it.
pub fn finding_json(located: &Located) -> Value {
    let finding = &located.finding;
    let mut value = json!({
        "code": finding.code, "severity": finding.severity, "object": finding.object,
        "field": finding.field, "pointer": finding.pointer(), "message": finding.message,
    });
    if let Some(object) = value.as_object_mut() {
        if let Some(source) = &located.source {
            object.insert("source".into(), source.clone());
        }
        if let Some(help) = &finding.help {
            object.insert("help".into(), help.as_str().into());
        }
    }
    value
}

/// A finding in one line, its field first, as Kubernetes writes causes.
pub fn sentence(finding: &Finding) -> String {
    let mut text = String::new();
    if !finding.field.is_empty() {
        text += &format!("{}: ", finding.field);
    }
    text += &finding.message;
    if let Some(help) = &finding.help {
        text += &format!(" ({help})");
    }
    text
}

fn cause(finding: &Finding) -> Value {
    let reason = match finding.code {
        codes::REQUIRED => "FieldValueRequired",
        codes::NOT_SUPPORTED => "FieldValueNotSupported",
        codes::DUPLICATE => "FieldValueDuplicate",
        codes::WRONG_TYPE => "FieldValueTypeInvalid",
        _ => "FieldValueInvalid",
    };
    let help = finding.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    json!({
        "reason": reason,
        "message": format!("{} {}{help}", finding.code, finding.message),
        "field": finding.field,
    })
}

/// `1 error`, `2 errors`.
pub fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
