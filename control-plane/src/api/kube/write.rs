//! Create, replace, patch and delete.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::body::{self, Parsed};
use crate::api::kube::Written;
use crate::api::kube::admit::{Admitted, admit};
use crate::api::kube::merge::merge;
use crate::api::kube::query::{Query, dry_run, invalid};
use crate::api::kube::target::Target;
use crate::api::refusal::{Refusal, sentence};
use crate::api::{Api, OBJECT_BYTES_MAX, media_type, who};
use crate::finding::codes;
use crate::store::change::{Action, Change, Committed, Effect, Expected, Origin, Write};
use crate::store::state::{Object, State};

/// How often a patch without a version is tried again when someone else writes at the same time.
const TRIES: usize = 16;

/// A write as it came in.
#[derive(Debug)]
pub struct Call<'a> {
    /// The API.
    pub api: &'a Arc<Api>,
    /// What it is about.
    pub target: &'a Target,
    /// How.
    pub query: &'a Query,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body.
    pub body: Bytes,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeleteOptions {
    dry_run: Vec<String>,
    preconditions: Preconditions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl Call<'_> {
    /// `POST`.
    pub async fn create(&self) -> Result<Written, Refusal> {
        let admitted = self.admit(self.document()?)?;
        let write = self.put(&admitted, Expected::Absent);
        let committed = self.commit(write).await?;
        Ok(self.written(StatusCode::CREATED, &committed, admitted.warnings))
    }

    /// `PUT`, also of a status.
    pub async fn replace(&self, name: &str) -> Result<Written, Refusal> {
        let parsed = self.document()?;
        let expected = precondition(&parsed.value)?;
        if self.target.is_status {
            return self.write_status(name, &parsed.value, expected).await;
        }
        let Expected::Exactly { resource_version: Some(_), .. } = expected else {
            let missing =
                invalid("metadata.resourceVersion", "", "must be that of what is replaced");
            return Err(missing.about(self.target.kind, name));
        };
        let admitted = self.admit(parsed)?;
        let committed = self.commit(self.put(&admitted, expected)).await?;
        Ok(self.written(StatusCode::OK, &committed, admitted.warnings))
    }

    /// `PATCH`, also of a status.
    pub async fn patch(&self, name: &str) -> Result<Written, Refusal> {
        match media_type(self.headers) {
            "application/merge-patch+json" => {}
            other => {
                return Err(Refusal::media_type(format!(
                    "patches of type {other:?} are not taken, only application/merge-patch+json; \
                     wlctl apply and kubectl apply (client side) work"
                )));
            }
        }
        let patch = body::from_json(&self.body).map_err(Refusal::bad_request)?;
        let asked = precondition(&patch.value)?;
        for _ in 0..TRIES {
            let stored = self.stored(name)?;
            let expected = match &asked {
                Expected::Exactly { .. } => asked.clone(),
                Expected::Any | Expected::Absent | Expected::Present => {
                    Expected::Exactly { resource_version: Some(stored.resource_version), uid: None }
                }
            };
            let mut value = self.api.store.visible(&stored);
            merge(&mut value, &patch.value);
            let outcome = if self.target.is_status {
                self.write_status(name, &value, expected).await
            } else {
                self.write_patched(Parsed { value, ..patch.clone() }, expected).await
            };
            match outcome {
                Err(refusal) if refusal.code == codes::CONFLICT && asked == Expected::Any => {}
                outcome => return outcome,
            }
        }
        Err(Refusal::new(StatusCode::CONFLICT, codes::CONFLICT, "others write it all the time"))
    }

    async fn write_patched(&self, value: Parsed, expected: Expected) -> Result<Written, Refusal> {
        let admitted = self.admit(value)?;
        let committed = self.commit(self.put(&admitted, expected)).await?;
        Ok(self.written(StatusCode::OK, &committed, admitted.warnings))
    }

    /// `DELETE`.
    pub async fn delete(&self, name: &str) -> Result<Written, Refusal> {
        let options: DeleteOptions = if self.body.iter().all(u8::is_ascii_whitespace) {
            DeleteOptions::default()
        } else {
            let parsed = self.document()?;
            serde_json::from_value(parsed.value)
                .map_err(|error| Refusal::bad_request(format!("DeleteOptions: {error}")))?
        };
        let version = options.preconditions.resource_version.as_deref();
        let resource_version = version.map(number).transpose()?;
        let uid = options.preconditions.uid;
        let expected = match (&resource_version, &uid) {
            (None, None) => Expected::Any,
            _ => Expected::Exactly { resource_version, uid },
        };
        let is_dry_run = dry_run(&options.dry_run)? || self.query.is_dry_run()?;
        let key = self.target.key(name);
        let write = Write { key, action: Action::Delete, expected, source: None };
        let change = Change { dry_run: is_dry_run, ..self.change(write) };
        let (committed, warnings) = self.commit_change(change).await?;
        let outcome = committed.outcomes.first();
        let is_gone = outcome.is_some_and(|outcome| outcome.effect == Effect::Deleted);
        Ok(Written { is_gone, ..self.written(StatusCode::OK, &(committed, warnings), Vec::new()) })
    }

    async fn write_status(
        &self,
        name: &str,
        value: &Value,
        expected: Expected,
    ) -> Result<Written, Refusal> {
        let status = value.get("status").cloned().unwrap_or_else(|| json!({}));
        let (key, action) = (self.target.key(name), Action::Status(status));
        let committed = self.commit(Write { key, action, expected, source: None }).await?;
        Ok(self.written(StatusCode::OK, &committed, Vec::new()))
    }

    fn document(&self) -> Result<Parsed, Refusal> {
        let parsed = match media_type(self.headers) {
            // curl says the second unless told otherwise.
            "application/json" | "" => body::from_json(&self.body),
            "application/yaml" | "application/x-yaml" | "text/yaml" => body::from_yaml(&self.body),
            other => {
                return Err(Refusal::media_type(format!(
                    "bodies of type {other:?} are not taken, only application/json and \
                     application/yaml"
                )));
            }
        };
        parsed.map_err(|reason| Refusal { code: codes::NOT_YAML, ..Refusal::bad_request(reason) })
    }

    fn admit(&self, parsed: Parsed) -> Result<Admitted, Refusal> {
        let admitted = admit(self.target, parsed, self.query.field_validation()?)?;
        let size = serde_json::to_vec(&admitted.value).map_or(0, |bytes| bytes.len());
        if size > OBJECT_BYTES_MAX {
            let detail = format!("an object has at most {OBJECT_BYTES_MAX} bytes, this has {size}");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, codes::TOO_LARGE, detail));
        }
        Ok(admitted)
    }

    fn put(&self, admitted: &Admitted, expected: Expected) -> Write {
        let key = self.target.key(&admitted.name);
        Write { key, action: Action::Put(admitted.value.clone()), expected, source: None }
    }

    fn stored(&self, name: &str) -> Result<Arc<Object>, Refusal> {
        let state = self.api.store.state();
        let stored = state.objects.get(&self.target.key(name)).cloned();
        stored.ok_or_else(|| missing(self.target, name))
    }

    fn change(&self, write: Write) -> Change {
        Change {
            writes: vec![write],
            who: who(self.query.field_manager.as_deref(), self.headers),
            origin: Origin::Api,
            ..Change::default()
        }
    }

    async fn commit(&self, write: Write) -> Result<(Committed, Vec<String>), Refusal> {
        let dry_run = self.query.is_dry_run()?;
        self.commit_change(Change { dry_run, ..self.change(write) }).await
    }

    /// Stores it, and looks at what is wrong between this object and others: that is a warning
    /// here, since kubectl sends documents one by one and order must not matter.
    async fn commit_change(&self, change: Change) -> Result<(Committed, Vec<String>), Refusal> {
        let is_status = change.writes.iter().any(|write| matches!(write.action, Action::Status(_)));
        let object = change.writes.first().map(|write| write.key.to_string()).unwrap_or_default();
        // A dry run shows the state that it would make to nobody but the check.
        let shown = Arc::new(Mutex::new(None));
        let keep = shown.clone();
        let is_dry_run = change.dry_run;
        let look = move |state: &State| {
            if is_dry_run {
                *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(state.clone());
            }
            Ok(())
        };
        let committed = self.api.commit_checked(change, look).await;
        let committed = committed.map_err(|refusal| self.named(refusal))?;
        if is_status {
            return Ok((committed, Vec::new()));
        }
        let planned = shown.lock().unwrap_or_else(PoisonError::into_inner).take();
        let state = planned.map_or_else(|| committed.state.clone(), Arc::new);
        let findings = self.api.findings(state).await;
        let own = findings.iter().filter(|finding| finding.object == object);
        let texts = own.map(|finding| format!("{} {}", finding.code, sentence(finding))).collect();
        Ok((committed, texts))
    }

    /// Kubernetes' words for what is not there, with the object that it is about.
    fn named(&self, refusal: Refusal) -> Refusal {
        match (refusal.about.as_deref(), refusal.status) {
            (Some((_, name)), StatusCode::NOT_FOUND) => missing(self.target, name),
            (Some((kind, name)), StatusCode::CONFLICT) if refusal.code == codes::EXISTS => {
                let detail = format!("{} {name:?} already exists", resource(kind));
                Refusal { detail, ..refusal.clone() }
            }
            (Some((kind, name)), StatusCode::CONFLICT) => {
                let detail = format!(
                    "Operation cannot be fulfilled on {} {name:?}: the object has been modified; \
                     please apply your changes to the latest version and try again ({})",
                    resource(kind),
                    refusal.detail,
                );
                Refusal { detail, ..refusal.clone() }
            }
            _ => refusal,
        }
    }

    fn written(
        &self,
        status: StatusCode,
        committed: &(Committed, Vec<String>),
        mut warnings: Vec<String>,
    ) -> Written {
        let (committed, between) = committed;
        warnings.extend(between.iter().cloned());
        let object = committed.outcomes.first().map(|outcome| outcome.object.clone());
        let object = object.unwrap_or_else(|| {
            let key = self.target.key("");
            let (value, who) = (Value::Null, "".into());
            Arc::new(Object { key, value, resource_version: 0, revision: 0, who })
        });
        Written { status, object, is_gone: false, warnings }
    }
}

/// 404 about an object.
pub fn missing(target: &Target, name: &str) -> Refusal {
    Refusal::not_found(format!("{} {name:?} not found", resource(target.kind)))
        .about(target.kind, name)
}

fn resource(kind: &crate::model::kind::Kind) -> String {
    if kind.group.is_empty() {
        kind.plural.to_owned()
    } else {
        format!("{}.{}", kind.plural, kind.group)
    }
}

/// What the metadata of a body demands of what is stored.
fn precondition(value: &Value) -> Result<Expected, Refusal> {
    let text = |field: &str| {
        let text = value.get("metadata").and_then(|metadata| metadata.get(field))?.as_str()?;
        (!text.is_empty()).then_some(text)
    };
    let resource_version = text("resourceVersion").map(number).transpose()?;
    let uid = text("uid").map(str::to_owned);
    Ok(match (&resource_version, &uid) {
        (None, None) => Expected::Any,
        _ => Expected::Exactly { resource_version, uid },
    })
}

fn number(text: &str) -> Result<u64, Refusal> {
    text.parse().map_err(|_| invalid("metadata.resourceVersion", text, "must be a number"))
}
