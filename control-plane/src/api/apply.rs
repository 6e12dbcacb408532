//! `/v1/apply`: a bundle of documents, all or nothing, as one revision.
//!
//! The documents replace what is stored of spec, labels and annotations; uid, age and status stay.
//! `delete=true` takes the named documents away instead, also as one revision.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State as Shared};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::bundle::Bundle;
use crate::api::fleet::attribute;
use crate::api::refusal::{Located, Refusal, finding_json, plural};
use crate::api::revisions::number;
use crate::api::v1::or_problem;
use crate::api::{Api, OBJECT_BYTES_MAX, who, whole};
use crate::finding::{Finding, Severity, codes};
use crate::fleet::status::{Laggard, NodeState, NodeStatus};
use crate::pipeline::judge::judge;
use crate::pipeline::translator::Translator;
use crate::store::change::{
    Action, Change, Committed, Effect, Expected, Origin, StoreError, Write,
};
use crate::store::state::{ObjectKey, State};

const OWNER: &str = "weighlock.dev/owner";
/// What a wait lasts when the request does not say.
const WAIT: Duration = Duration::from_secs(10);
const WAIT_MAX: Duration = Duration::from_secs(600);
/// What is missing may come later.
const UNRESOLVED: [&str; 3] =
    [codes::BACKEND_MISSING, codes::LISTENER_MISSING, codes::SECRET_MISSING];

/// How to apply.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct How {
    /// Nothing is stored.
    dry_run: String,
    /// Objects of the owner that the bundle lacks go.
    prune: String,
    /// Labels each object.
    owner: Option<String>,
    /// The revision that must still be the newest.
    if_revision: Option<String>,
    /// Missing references are warnings.
    allow_unresolved: String,
    /// `acked`: answers when the fleet is in sync.
    wait: String,
    /// How long, as `10s`.
    timeout: Option<String>,
    /// Goes into the revision.
    reason: Option<String>,
    /// Who writes.
    field_manager: Option<String>,
    /// The named documents go.
    delete: String,
    /// With `delete`: what is not there is passed over.
    ignore_missing: String,
    /// The namespace of documents that name none.
    namespace: String,
    /// What the text is called, when it is no form.
    file: String,
}

impl How {
    /// How long to wait for the fleet; not at all without.
    fn wait(&self) -> Result<Option<Duration>, Refusal> {
        let timeout = match &self.timeout {
            None => WAIT,
            Some(text) => crate::model::duration::parse(text)
                .ok_or_else(|| Refusal::bad_request(format!("timeout: {text:?} is no duration")))?
                .min(WAIT_MAX),
        };
        match self.wait.as_str() {
            "" | "none" => Ok(None),
            "acked" => Ok(Some(timeout)),
            other => Err(Refusal::bad_request(format!("wait: {other:?} must be acked"))),
        }
    }
}

type Asked = Result<Query<How>, QueryRejection>;
type Body = Result<Bytes, BytesRejection>;

/// `POST /v1/apply`.
pub async fn apply(
    Shared(api): Shared<Arc<Api>>,
    how: Asked,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let Query(how) = how.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
        let wait = how.wait()?;
        let bundle = Bundle::read(&headers, &how.file, &whole(body)?)?;
        let (committed, warnings) = store(&api, &how, &headers, bundle).await?;
        let mut answer = json!({
            "revision": format!("r{}", committed.revision),
            "changed": changed(&committed),
            "warnings": warnings.iter().map(finding_json).collect::<Vec<_>>(),
        });
        let is_dry_run = is_true(&how.dry_run);
        let extra = if is_dry_run {
            ("dryRun", Value::Bool(true))
        } else {
            ("rollout", rollout(&api, wait, &committed).await?)
        };
        if let Some(answer) = answer.as_object_mut() {
            answer.insert(extra.0.into(), extra.1);
        }
        Ok(Json(answer).into_response())
    };
    or_problem(&uri, answer.await)
}

/// `POST /v1/validate`: what is wrong with these documents, together with what is stored.
pub async fn validate(
    Shared(api): Shared<Arc<Api>>,
    how: Asked,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let Query(how) = how.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
        let how = How { dry_run: "true".into(), ..how };
        let bundle = Bundle::read(&headers, &how.file, &whole(body)?)?;
        let findings = match store(&api, &how, &headers, bundle).await {
            Ok((_, warnings)) => warnings,
            Err(refusal) if !refusal.findings.is_empty() => refusal.findings,
            Err(refusal) => return Err(refusal),
        };
        let is_valid = !findings.iter().any(|located| located.finding.is_error());
        let findings: Vec<Value> = findings.iter().map(finding_json).collect();
        Ok(Json(json!({"valid": is_valid, "findings": findings})).into_response())
    };
    or_problem(&uri, answer.await)
}

/// Checks and stores a bundle; gives what it warns of.
async fn store(
    api: &Arc<Api>,
    how: &How,
    headers: &HeaderMap,
    mut bundle: Bundle,
) -> Result<(Committed, Vec<Located>), Refusal> {
    if is_true(&how.prune) && how.owner.as_deref().unwrap_or_default().is_empty() {
        return Err(Refusal::bad_request("prune needs an owner, whose other objects then go"));
    }
    let is_delete = is_true(&how.delete);
    bundle.place_in(&how.namespace);
    let mut findings = bundle.check(!is_delete);
    findings.extend(too_large(&bundle));
    if findings.iter().any(Finding::is_error) {
        return Err(Refusal::invalid(bundle.locate(findings)));
    }
    let state = api.store.state();
    let mut writes = if is_delete {
        deletions(&bundle, &state, is_true(&how.ignore_missing))
    } else {
        puts(&bundle, &state, how.owner.as_deref())
    };
    if is_true(&how.prune) {
        writes.extend(pruned(&bundle, &state, how.owner.as_deref().unwrap_or_default()));
    }
    let change = Change {
        writes,
        groups: Vec::new(),
        who: who(how.field_manager.as_deref(), headers),
        why: how.reason.clone().filter(|reason| !reason.is_empty()),
        origin: Origin::Apply,
        if_revision: how.if_revision.as_deref().map(number).transpose()?,
        dry_run: is_true(&how.dry_run),
    };
    let review = Review {
        translator: api.pipeline.translator().clone(),
        written: change.writes.iter().map(|write| write.key.clone()).collect(),
        allows_unresolved: is_true(&how.allow_unresolved),
        warnings: Arc::default(),
    };
    let warnings = review.warnings.clone();
    let committed =
        api.commit_checked(change, move |before, after| review.check(before, after)).await;
    let committed = committed.map_err(|mut refusal| {
        let found = std::mem::take(&mut refusal.findings);
        refusal.findings = bundle.locate(found.into_iter().map(|l| l.finding).collect());
        refusal
    })?;
    findings.append(&mut warnings.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((committed, bundle.locate(findings)))
}

/// Looks at the whole that a bundle would make.
struct Review {
    translator: Arc<Translator>,
    written: Vec<ObjectKey>,
    allows_unresolved: bool,
    warnings: Arc<Mutex<Vec<Finding>>>,
}

impl Review {
    fn check(&self, before: &State, after: &State) -> Result<(), StoreError> {
        let mut findings = judge(&self.translator, (before, after), &self.written);
        if self.allows_unresolved {
            for finding in &mut findings {
                if UNRESOLVED.contains(&finding.code) {
                    finding.severity = Severity::Warning;
                }
            }
        }
        if findings.iter().any(Finding::is_error) {
            return Err(StoreError::Refused(findings));
        }
        *self.warnings.lock().unwrap_or_else(PoisonError::into_inner) = findings;
        Ok(())
    }
}

fn too_large(bundle: &Bundle) -> Vec<Finding> {
    let sizes = bundle.documents.iter().filter_map(|item| {
        let size = serde_json::to_vec(&item.value).map_or(0, |bytes| bytes.len());
        (size > OBJECT_BYTES_MAX).then(|| Finding {
            code: codes::TOO_LARGE,
            severity: Severity::Error,
            object: item.key.as_ref().map(ToString::to_string).unwrap_or_default(),
            field: String::new(),
            message: format!("has {size} bytes, {OBJECT_BYTES_MAX} are the most"),
            help: None,
        })
    });
    sizes.collect()
}

fn puts(bundle: &Bundle, state: &State, owner: Option<&str>) -> Vec<Write> {
    let items = bundle.documents.iter().filter_map(|item| Some((item.key.clone()?, item)));
    items
        .map(|(key, item)| {
            let mut value = item.value.clone();
            if let Some(owner) = owner.filter(|owner| !owner.is_empty()) {
                set_owner(&mut value, owner);
            }
            let version = value.pointer("/metadata/resourceVersion").and_then(Value::as_str);
            let resource_version = version.and_then(|version| version.parse().ok());
            // A document that was read before and is gone since is made anew.
            let expected = match state.objects.get(&key) {
                Some(_) if resource_version.is_some() => {
                    Expected::Exactly { resource_version, uid: None }
                }
                _ => Expected::Any,
            };
            Write { key, action: Action::Put(value), expected, source: item.source.clone() }
        })
        .collect()
}

fn deletions(bundle: &Bundle, state: &State, ignore_missing: bool) -> Vec<Write> {
    let items = bundle.documents.iter().filter_map(|item| Some((item.key.clone()?, item)));
    items
        .filter(|(key, _)| !ignore_missing || state.objects.get(key).is_some())
        .map(|(key, item)| Write {
            key,
            action: Action::Delete,
            expected: Expected::Present,
            source: item.source.clone(),
        })
        .collect()
}

fn pruned(bundle: &Bundle, state: &State, owner: &str) -> Vec<Write> {
    let stays =
        |key: &ObjectKey| bundle.documents.iter().any(|item| item.key.as_ref() == Some(key));
    let owned = state.objects.iter().filter(|object| {
        let labels = object.value.pointer("/metadata/labels");
        labels.and_then(|labels| labels.get(OWNER)?.as_str()) == Some(owner)
    });
    owned
        .filter(|object| !stays(&object.key))
        .map(|object| Write::to(object.key.clone(), Action::Delete))
        .collect()
}

fn set_owner(value: &mut Value, owner: &str) {
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    let labels = metadata.map(|metadata| metadata.entry("labels").or_insert_with(|| json!({})));
    if let Some(labels) = labels.and_then(Value::as_object_mut) {
        labels.insert(OWNER.into(), owner.into());
    }
}

/// What became of each object that is not as it was.
pub fn changed(committed: &Committed) -> Value {
    let outcomes = committed.outcomes.iter().filter(|o| o.effect != Effect::Unchanged);
    let changed = outcomes.map(|outcome| {
        json!({
            "object": outcome.object.key.to_string(), "action": outcome.effect,
            "resourceVersion": outcome.object.resource_version.to_string(),
        })
    });
    changed.collect::<Vec<_>>().into()
}

/// How far the change has got: at once, or when the fleet has ACKed it.
async fn rollout(
    api: &Arc<Api>,
    wait: Option<Duration>,
    committed: &Committed,
) -> Result<Value, Refusal> {
    let Some(timeout) = wait else {
        let nodes = api.fleet.nodes();
        let connected = nodes.iter().filter(|node| node.state != NodeState::Lost).count();
        return Ok(json!({"state": "Sent", "nodes": connected}));
    };
    match api.pipeline.wait_acked(committed.revision, timeout).await {
        Ok(in_sync) => Ok(json!({
            "state": "Done", "nodes": in_sync.nodes,
            "lagMs": in_sync.lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
        })),
        Err(laggards) => Err(late(api, committed, &laggards)),
    }
}

fn late(api: &Api, committed: &Committed, laggards: &[Laggard]) -> Refusal {
    let nodes = api.fleet.nodes();
    let revision = format!("r{}", committed.revision);
    let refused = laggards.iter().filter(|laggard| laggard.state == NodeState::Nack).count();
    let refusal = if refused > 0 && refused == laggards.len() {
        let detail = format!("{revision} is stored; {} refused it", plural(refused, "node"));
        Refusal::new(StatusCode::CONFLICT, codes::NODE_REFUSED, detail)
    } else {
        let late = plural(laggards.len(), "node");
        let detail =
            format!("{revision} is stored; {late} of {} did not answer in time", nodes.len());
        Refusal::new(StatusCode::GATEWAY_TIMEOUT, codes::NODES_LATE, detail)
    };
    let laggards: Vec<Value> = laggards.iter().map(|l| tell(api, l, &nodes)).collect();
    refusal.fact("revision", revision).fact("changed", changed(committed)).fact("nodes", laggards)
}

/// A node that does not have it, with the documents that it refused.
fn tell(api: &Api, laggard: &Laggard, nodes: &[NodeStatus]) -> Value {
    let mut value = serde_json::to_value(laggard).unwrap_or_default();
    let status = nodes.iter().find(|status| status.node == laggard.node);
    if let (Some(refusal), Some(nack), Some(status)) =
        (value.get_mut("nack"), &laggard.nack, status)
    {
        attribute(api, &status.fleet, nack, refusal);
    }
    value
}

/// Whether a parameter says yes.
pub fn is_true(text: &str) -> bool {
    matches!(text, "true" | "1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{Answer, ROUTES, Server};

    const BACKEND: &str = "\
apiVersion: weighlock.dev/v1alpha1
kind: Backend
metadata: {name: one, namespace: shop}
spec: {endpoints: [{ip: 127.0.0.1, port: 9001}]}
";
    const GATEWAY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: shop}
spec:
  gatewayClassName: weighlock
  listeners: [{name: http, port: 8001, protocol: HTTP}]
";

    fn route(backend: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: shop}}
spec:
  parentRefs: [{{name: web}}]
  rules:
  - backendRefs:
    - {{group: weighlock.dev, kind: Backend, name: {backend}}}
"
        )
    }

    async fn apply(server: &Server, query: &str, documents: &[&str]) -> Answer {
        let body = documents.join("---\n");
        let path = format!("/v1/apply?file=all.yaml{query}");
        server.send("POST", &path, "application/yaml", &body).await
    }

    #[tokio::test]
    async fn a_bundle_is_one_revision_and_nothing_changes_twice() {
        let server = Server::start_with_pipeline().await;
        let documents = [GATEWAY, BACKEND, &route("one")];
        let applied = apply(&server, "&reason=first&fieldManager=ana", &documents).await;
        assert_eq!(applied.status, 200, "{:?}", applied.body);
        assert_eq!(applied.text("/revision"), "r1");
        let objects: Vec<&str> = applied.body["changed"]
            .as_array()
            .unwrap()
            .iter()
            .map(|changed| changed["object"].as_str().unwrap())
            .collect();
        assert_eq!(objects, ["Gateway shop/web", "Backend shop/one", "HTTPRoute shop/r"]);
        let again = apply(&server, "", &documents).await;
        assert_eq!((again.text("/revision"), &again.body["changed"]), ("r1", &json!([])));
        let revision = server.get("/v1/revisions/r1").await;
        assert_eq!(revision.text("/who"), "ana");
        assert_eq!(revision.text("/why"), "first");
        assert_eq!(revision.text("/summary"), "+1 Gateway +1 Backend +1 HTTPRoute");
        assert_eq!(revision.body["objects"][1]["source"]["line"], 8);
        let waited = apply(&server, "&wait=acked&timeout=5s", &documents).await;
        assert_eq!(waited.body["rollout"]["state"], "Done");
        let changed = documents[2].replace("name: r,", "name: two,");
        apply(&server, "&wait=acked&timeout=5s", &[&changed]).await;
        let route = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/two";
        let parent = "/status/parents/0/conditions/0/type";
        assert_eq!(server.get(route).await.text(parent), "Accepted", "statuses are told in time");
    }

    #[tokio::test]
    async fn one_error_anywhere_and_nothing_is_stored() {
        let server = Server::start().await;
        let dangling = route("two");
        let typo = route("one").replace("backendRefs", "backendRfs");
        let nowhere = route("one").replace("namespace: shop", "namespace: 7");
        let zero = route("one").replace("name: one}", "name: one, weight: -1}");
        let cases = [
            (422, "WL0031", "/spec/rules/0/backendRefs/0/name", 20, [GATEWAY, BACKEND, &dangling]),
            (422, "WL0002", "/spec/rules/0/backendRfs", 19, [GATEWAY, BACKEND, &typo]),
            (422, "WL0040", "/spec/rules/0/backendRefs/0/weight", 20, [GATEWAY, BACKEND, &zero]),
            (422, "WL0004", "/metadata/name", 15, [GATEWAY, BACKEND, BACKEND]),
            (422, "WL0003", "/metadata/namespace", 15, [GATEWAY, BACKEND, &nowhere]),
            (400, "WL0001", "", 13, [GATEWAY, BACKEND, "a: [\n"]),
        ];
        for (status, code, pointer, line, documents) in cases {
            let refused = apply(&server, "", &documents).await;
            assert_eq!(
                (refused.status, refused.text("/code")),
                (status, code),
                "{:?}",
                refused.body
            );
            assert_eq!(refused.headers["content-type"], "application/problem+json");
            let error = &refused.body["errors"][0];
            assert_eq!(error["pointer"], pointer);
            assert_eq!(error["source"]["file"], "all.yaml");
            let found = error["source"]["line"].as_u64().unwrap();
            assert!(found.abs_diff(line) <= 1, "{code}: line {found}");
        }
        assert_eq!(server.api.store.state().revision, 0);
        let allowed = apply(&server, "&allowUnresolved=true", &[GATEWAY, &dangling]).await;
        assert_eq!((allowed.status, allowed.text("/warnings/0/code")), (200, "WL0031"));
    }

    #[tokio::test]
    async fn what_others_left_wrong_does_not_stand_in_the_way() {
        let server = Server::start().await;
        let dangling = route("nowhere");
        apply(&server, "&allowUnresolved=true", &[GATEWAY, &dangling]).await;
        assert_eq!(apply(&server, "", &[BACKEND]).await.status, 200);
        apply(&server, "", &[&route("one")]).await;
        let broken = apply(&server, "&delete=true", &[BACKEND]).await;
        assert_eq!((broken.status, broken.text("/code")), (422, "WL0031"));
        assert_eq!(broken.text("/errors/0/object"), "HTTPRoute shop/r");
    }

    #[tokio::test]
    async fn preconditions_dry_runs_and_deletions() {
        let server = Server::start().await;
        let dry = apply(&server, "&dryRun=true", &[BACKEND]).await;
        assert_eq!((dry.body["dryRun"].clone(), dry.text("/revision")), (json!(true), "r0"));
        assert_eq!(dry.text("/changed/0/action"), "created");
        apply(&server, "", &[BACKEND]).await;
        let changed = BACKEND.replace("9001", "9002");
        let stale = apply(&server, "&ifRevision=r0", &[&changed]).await;
        assert_eq!((stale.status, stale.text("/code")), (409, "WL0409"));
        assert_eq!((stale.text("/yours"), stale.text("/current")), ("r0", "r1"));
        let missing = apply(&server, "&delete=true", &[&route("one")]).await;
        assert_eq!((missing.status, missing.text("/code")), (404, "WL0404"));
        let gone = apply(&server, "&delete=true", &[BACKEND]).await;
        assert_eq!(gone.text("/changed/0/action"), "deleted");
        let unknown = apply(&server, "&dryrun=true", &[BACKEND]).await;
        assert_eq!(unknown.status, 400, "a parameter that does not exist may be a typo");
        for wrong in ["&wait=ackd", "&wait=acked&timeout=soon"] {
            assert_eq!(apply(&server, wrong, &[BACKEND]).await.status, 400);
            assert_eq!(server.api.store.state().objects.len(), 0, "nothing is stored");
        }
    }

    #[tokio::test]
    async fn an_owner_prunes_only_what_is_its_own() {
        let server = Server::start().await;
        let (a, b) = (BACKEND.replace("one", "a"), BACKEND.replace("one", "b"));
        apply(&server, "", &[BACKEND]).await;
        apply(&server, "&owner=team", &[&a, &b]).await;
        let pruned = apply(&server, "&owner=team&prune=true", &[&a]).await;
        assert_eq!(pruned.text("/changed/0/object"), "Backend shop/b");
        assert_eq!(server.api.store.state().objects.len(), 2);
        assert_eq!(apply(&server, "&prune=true", &[&a]).await.status, 400);
    }

    #[tokio::test]
    async fn files_and_lists_are_bundles_too() {
        let server = Server::start().await;
        let part = |file: &str, text: &str| {
            format!(
                "--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{file}\"\r\n\r\n{text}\r\n"
            )
        };
        let broken = route("zwei");
        let body = part("a.yaml", GATEWAY) + &part("b/c.yaml", &broken) + "--x--\r\n";
        let kind = "multipart/form-data; boundary=x";
        let refused = server.send("POST", "/v1/apply", kind, &body).await;
        assert_eq!(refused.body["errors"][0]["source"]["file"], "b/c.yaml");
        let list = json!({"kind": "List", "apiVersion": "v1", "items": [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
        ]});
        let applied = server.call("POST", "/v1/apply", list).await;
        assert_eq!(applied.text("/changed/0/object"), "Namespace shop");
        assert_eq!(server.send("POST", "/v1/apply", "text/html", "").await.status, 415);
    }

    #[tokio::test]
    async fn an_apply_keeps_what_the_server_owns() {
        let server = Server::start().await;
        apply(&server, "", &[GATEWAY, BACKEND, &route("one")]).await;
        let path = format!("{ROUTES}/r");
        let status = json!({"status": {"parents": []}});
        let before = server.merge(&format!("{path}/status"), status).await.body;
        apply(&server, "&owner=team", &[&route("one")]).await;
        let after = server.get(&path).await.body;
        assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
        assert_eq!(after["metadata"]["generation"], 1);
        assert!(after["status"].is_object());
        assert_eq!(after["metadata"]["labels"][OWNER], "team");
    }

    #[tokio::test]
    async fn a_rollback_is_a_new_revision() {
        let server = Server::start().await;
        apply(&server, "", &[BACKEND]).await;
        apply(&server, "", &[&BACKEND.replace("9001", "9002")]).await;
        let back = server.call("POST", "/v1/revisions/r1:rollback", Value::Null).await;
        assert_eq!((back.status, back.text("/revision")), (200, "r3"));
        let list = server.get("/v1/revisions?limit=2").await;
        assert_eq!((list.text("/items/0/origin"), list.text("/next")), ("rollback", "r2"));
        let rest = server.get("/v1/revisions?limit=2&cursor=r2").await;
        assert_eq!(rest.text("/items/0/revision"), "r1");
        assert_eq!(server.call("POST", "/v1/revisions/r9:rollback", Value::Null).await.status, 404);
    }

    #[tokio::test]
    async fn validate_stores_nothing() {
        let server = Server::start().await;
        let kind = "application/yaml";
        let findings = server.send("POST", "/v1/validate", kind, &route("x")).await;
        assert_eq!((findings.status, &findings.body["valid"]), (200, &json!(false)));
        let fine = server.send("POST", "/v1/validate", kind, BACKEND).await;
        assert_eq!(fine.body["valid"], true);
        assert_eq!(server.api.store.state().revision, 0);
    }
}
