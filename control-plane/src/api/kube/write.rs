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
        self.stored(name)?;
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
        let patch = self.patch_document()?;
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

    fn patch_document(&self) -> Result<Parsed, Refusal> {
        let kind = media_type(self.headers);
        // kubectl sends these for the core kinds. Without lists and directives both mean the same.
        let is_strategic =
            kind == "application/strategic-merge-patch+json" && self.target.kind.group.is_empty();
        if kind != "application/merge-patch+json" && !is_strategic {
            return Err(Refusal::media_type(format!(
                "patches of type {kind:?} are not taken, only application/merge-patch+json"
            )));
        }
        let patch = body::from_json(&self.body).map_err(Refusal::bad_request)?;
        if is_strategic && !is_plain(&patch.value) {
            return Err(Refusal::media_type(
                "strategic merge patches with lists or directives are not taken, only those that \
                 mean the same as application/merge-patch+json",
            ));
        }
        Ok(patch)
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
        let look = move |_: &State, state: &State| {
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
        let translated = self.api.translated(state).await;
        let own = translated.findings.iter().filter(|finding| finding.object == object);
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
            (Some((kind, name)), StatusCode::CONFLICT) if refusal.code == codes::CONFLICT => {
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

/// Whether a strategic merge patch has nothing that is strategic.
fn is_plain(patch: &Value) -> bool {
    match patch {
        Value::Object(fields) => {
            fields.iter().all(|(name, part)| !name.starts_with('$') && is_plain(part))
        }
        Value::Array(_) => false,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{ROUTES, Server, route};

    fn a() -> String {
        format!("{ROUTES}/a")
    }

    #[tokio::test]
    async fn an_object_lives_from_create_to_delete() {
        let server = Server::start().await;
        let created = server.call("POST", ROUTES, route("a", "/x")).await;
        assert_eq!(created.status, 201);
        assert_eq!(created.text("/metadata/namespace"), "shop");
        assert_eq!(created.text("/metadata/resourceVersion"), "1");
        assert_eq!(created.body["metadata"]["generation"], 1);
        // Defaults are filled in, as the Gateway API does.
        assert_eq!(created.text("/spec/rules/0/matches/0/path/type"), "PathPrefix");
        let read = server.get(&a()).await;
        assert_eq!((read.status, &read.body), (200, &created.body));
        assert_eq!(read.headers["weighlock-revision"], "r1");
        let beta = server.get(&a().replace("/v1/", "/v1beta1/")).await;
        assert_eq!(beta.text("/apiVersion"), "gateway.networking.k8s.io/v1beta1");
        let gone = server.call("DELETE", &a(), json!({"propagationPolicy": "Background"})).await;
        assert_eq!((gone.status, gone.text("/status")), (200, "Success"));
        let missing = server.get(&a()).await;
        assert_eq!(missing.status, 404);
        assert_eq!(missing.text("/reason"), "NotFound");
        assert_eq!(missing.body["details"]["kind"], "httproutes");
        let message = "WL0404 httproutes.gateway.networking.k8s.io \"a\" not found";
        assert_eq!(missing.text("/message"), message);
        assert_eq!(server.call("DELETE", &a(), Value::Null).await.status, 404);
    }

    #[tokio::test]
    async fn conflicts_are_409_and_a_replacement_needs_a_version() {
        let server = Server::start().await;
        let created = server.call("POST", ROUTES, route("a", "/x")).await.body;
        let again = server.call("POST", ROUTES, route("a", "/y")).await;
        assert_eq!((again.status, again.text("/reason")), (409, "AlreadyExists"));
        let blind = server.call("PUT", &a(), route("a", "/y")).await;
        assert_eq!(blind.status, 422);
        assert_eq!(blind.text("/details/causes/0/field"), "metadata.resourceVersion");
        let mut next = created.clone();
        next["spec"]["rules"][0]["matches"][0]["path"]["value"] = "/y".into();
        let replaced = server.call("PUT", &a(), next.clone()).await;
        assert_eq!((replaced.status, replaced.text("/metadata/resourceVersion")), (200, "2"));
        assert_eq!(replaced.body["metadata"]["generation"], 2);
        let stale = server.call("PUT", &a(), next).await;
        assert_eq!((stale.status, stale.text("/reason")), (409, "Conflict"));
        assert!(stale.text("/message").starts_with("WL0409 Operation cannot be fulfilled"));
        let patch = json!({"metadata": {"resourceVersion": "1", "labels": {"a": "b"}}});
        assert_eq!(server.merge(&a(), patch).await.status, 409);
        let absent = server.call("PUT", &format!("{ROUTES}/b"), created.clone()).await;
        assert_eq!(absent.status, 404);
        let mut renamed = created;
        renamed["metadata"]["name"] = "b".into();
        assert_eq!(server.call("PUT", &a(), renamed).await.status, 400);
        let options = json!({"preconditions": {"uid": "other"}});
        assert_eq!(server.call("DELETE", &a(), options).await.status, 409);
    }

    #[tokio::test]
    async fn a_patch_merges_and_one_that_changes_nothing_keeps_the_version() {
        let server = Server::start().await;
        server.call("POST", ROUTES, route("a", "/x")).await;
        let patch = json!({"metadata": {"labels": {"team": "shop"}}});
        let patched = server.merge(&a(), patch.clone()).await;
        assert_eq!(patched.text("/metadata/labels/team"), "shop");
        assert_eq!(patched.body["metadata"]["generation"], 1);
        assert_eq!(server.merge(&a(), patch).await.body, patched.body);
        assert_eq!(server.api.store.state().revision, 2);
        assert_eq!(server.merge(&format!("{ROUTES}/b"), json!({})).await.status, 404);
        for other in ["application/json-patch+json", "application/apply-patch+yaml", "text/plain"] {
            let refused = server.send("PATCH", &a(), other, "[]").await;
            assert_eq!((refused.status, refused.text("/reason")), (415, "UnsupportedMediaType"));
        }
        let renamed = server.merge(&a(), json!({"metadata": {"name": "b"}})).await;
        assert_eq!(renamed.status, 400);
    }

    #[tokio::test]
    async fn kubectl_can_change_a_secret() {
        let server = Server::start().await;
        let secrets = "/api/v1/namespaces/shop/secrets";
        server.call("POST", secrets, json!({"metadata": {"name": "s"}})).await;
        let patch = |body: &'static str| {
            let kind = "application/strategic-merge-patch+json";
            server.send("PATCH", "/api/v1/namespaces/shop/secrets/s", kind, body)
        };
        assert_eq!(patch(r#"{"stringData": {"a": "b"}}"#).await.status, 200);
        assert_eq!(patch(r#"{"data": {"$patch": "replace"}}"#).await.status, 415);
        assert_eq!(patch(r#"{"metadata": {"finalizers": ["x"]}}"#).await.status, 415);
    }

    #[tokio::test]
    async fn a_dry_run_stores_nothing() {
        let server = Server::start().await;
        let query = format!("{ROUTES}?dryRun=All");
        let created = server.call("POST", &query, route("a", "/x")).await;
        assert_eq!((created.status, created.text("/metadata/name")), (201, "a"));
        assert!(!created.text("/metadata/uid").is_empty());
        assert_eq!(server.get(&a()).await.status, 404);
        let wrong = server.call("POST", &format!("{ROUTES}?dryRun=Some"), route("a", "/x")).await;
        assert_eq!(wrong.status, 422);
        server.call("POST", ROUTES, route("a", "/x")).await;
        // kubectl says it in the body, and a server that looks at the query only deletes for real.
        let deleted = server.call("DELETE", &a(), json!({"dryRun": ["All"]})).await;
        assert_eq!(deleted.status, 200);
        assert_eq!(server.call("DELETE", &a(), json!({"dryRun": ["None"]})).await.status, 422);
        let patch = format!("{}?dryRun=All", a());
        server.merge(&patch, json!({"metadata": {"labels": {"a": "b"}}})).await;
        assert!(server.get(&a()).await.body["metadata"]["labels"].is_null());
        assert_eq!(server.api.store.state().revision, 1);
    }

    #[tokio::test]
    async fn unknown_and_duplicate_fields_are_never_dropped_in_silence() {
        let server = Server::start().await;
        let mut typo = route("a", "/x");
        typo["spec"]["ruels"] = json!([]);
        let strict = server.call("POST", ROUTES, typo.clone()).await;
        assert_eq!((strict.status, strict.text("/reason")), (400, "BadRequest"));
        let message = strict.text("/message");
        let expected = "WL0002 strict decoding error: unknown field \"spec.ruels\"";
        assert!(message.starts_with(expected), "{message}");
        let twice = r#"{"metadata": {"name": "a", "name": "a"}, "spec": {}}"#;
        let strict = server.send("POST", ROUTES, "application/json", twice).await;
        assert!(strict.text("/message").contains("duplicate field \"metadata.name\""));
        for how in ["Warn", "Ignore"] {
            let query = format!("{ROUTES}?dryRun=All&fieldValidation={how}");
            let dropped = server.call("POST", &query, typo.clone()).await;
            assert_eq!(dropped.status, 201);
            assert!(dropped.body["spec"]["ruels"].is_null());
            let warnings = dropped.warnings();
            let warned = warnings.iter().any(|w| w.contains("unknown field \\\"spec.ruels\\\""));
            assert!(warned, "{warnings:?}");
        }
        assert_eq!(server.api.store.state().revision, 0);
    }

    #[tokio::test]
    async fn what_is_wrong_inside_is_422_with_a_cause_per_field() {
        let server = Server::start().await;
        let mut wrong = route("a", "/x");
        wrong["spec"]["rules"][0]["matches"][0]["path"] =
            json!({"type": "RegularExpression", "value": "(?!x)"});
        let refused = server.call("POST", ROUTES, wrong).await;
        assert_eq!((refused.status, refused.text("/reason")), (422, "Invalid"));
        let field = "spec.rules[0].matches[0].path.value";
        assert_eq!(refused.text("/details/causes/0/field"), field);
        assert!(refused.text("/details/causes/0/message").starts_with("WL0045 "));
        assert_eq!(server.get(&a()).await.status, 404);
    }

    #[tokio::test]
    async fn what_is_wrong_between_objects_is_a_warning() {
        let server = Server::start().await;
        let mut dangling = route("a", "/x");
        dangling["spec"]["rules"][0]["backendRefs"] =
            json!([{"group": "weighlock.dev", "kind": "Backend", "name": "nowhere"}]);
        for query in ["?dryRun=All", ""] {
            let created = server.call("POST", &format!("{ROUTES}{query}"), dangling.clone()).await;
            assert_eq!(created.status, 201);
            let warnings = created.warnings();
            assert!(warnings.iter().any(|w| w.starts_with("299 - \"WL0031 ")), "{warnings:?}");
        }
    }

    #[tokio::test]
    async fn a_status_is_written_apart() {
        let server = Server::start().await;
        server.call("POST", ROUTES, route("a", "/x")).await;
        let status = format!("{}/status", a());
        let body = json!({"status": {"parents": []}, "spec": "ignored"});
        let written = server.merge(&status, body).await;
        assert_eq!(written.body["status"], json!({"parents": []}));
        let mut main = written.body.clone();
        main["status"] = json!({"mine": true});
        let replaced = server.call("PUT", &a(), main).await;
        assert_eq!(replaced.body, written.body);
        assert_eq!(server.api.store.state().revision, 1);
        let kindless =
            "/apis/gateway.networking.k8s.io/v1/namespaces/shop/referencegrants/x/status";
        assert_eq!(server.get(kindless).await.status, 404);
    }

    #[tokio::test]
    async fn a_body_must_be_what_the_path_says() {
        let server = Server::start().await;
        let mut elsewhere = route("a", "/x");
        elsewhere["metadata"]["namespace"] = "other".into();
        assert_eq!(server.call("POST", ROUTES, elsewhere).await.status, 400);
        let mut gateway = route("a", "/x");
        gateway["kind"] = "Gateway".into();
        assert_eq!(server.call("POST", ROUTES, gateway).await.status, 400);
        assert_eq!(server.call("POST", ROUTES, json!([1])).await.status, 400);
        assert_eq!(server.send("POST", ROUTES, "application/json", "{").await.status, 400);
        let protobuf = "application/vnd.kubernetes.protobuf";
        assert_eq!(server.send("POST", ROUTES, protobuf, "k8s").await.status, 415);
        let yaml = "metadata: {generateName: a-}\nspec: {}\n";
        let created = server.send("POST", ROUTES, "application/yaml", yaml).await;
        assert_eq!(created.status, 201);
        assert_eq!(created.text("/metadata/name").len(), 7);
        assert_eq!(server.call("PUT", ROUTES, json!({})).await.status, 405);
        let mut large = route("a", "/x");
        large["metadata"]["annotations"] =
            (0..5).map(|n| (n.to_string(), json!("x".repeat(250_000)))).collect();
        assert_eq!(server.call("POST", ROUTES, large).await.status, 413);
        let huge = " ".repeat(9 << 20);
        assert_eq!(server.send("POST", ROUTES, "application/json", &huge).await.status, 413);
    }

    #[tokio::test]
    async fn secrets_are_in_no_answer_and_marks_keep_them() {
        let server = Server::start().await;
        let secrets = "/api/v1/namespaces/shop/secrets";
        let secret = json!({
            "metadata": {"name": "s"}, "stringData": {"password": "hush"},
        });
        let created = server.call("POST", secrets, secret).await;
        assert_eq!(created.status, 201, "{:?}", created.body);
        let hush = "aHVzaA==";
        let path = format!("{secrets}/s");
        let patch = json!({"data": {"other": "b3RoZXI="}});
        let mut answers = vec![created, server.merge(&path, patch).await];
        for read in [secrets, &path, "/v1/revisions", "/v1/revisions/r1"] {
            answers.push(server.get(read).await);
        }
        let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
        answers.push(server.get_as(&format!("{secrets}?includeObject=Object"), table).await);
        for answer in &answers {
            let text = answer.body.to_string();
            assert!(!text.contains(hush) && !text.contains("hush"), "{text}");
        }
        let mut watch = server.lines(&format!("{secrets}?watch=1")).await;
        assert!(!watch.next().await.unwrap().contains(hush));
        let state = server.api.store.state();
        let stored = state.objects.iter().next().unwrap();
        assert_eq!(stored.value["data"], json!({"password": hush, "other": "b3RoZXI="}));
        let mut stolen = answers[3].body.clone();
        stolen["data"]["copy"] = stolen["data"]["password"].clone();
        let refused = server.call("PUT", &path, stolen).await;
        assert_eq!(
            (refused.status, refused.text("/details/causes/0/field")),
            (422, "data[\"copy\"]")
        );
    }
}
