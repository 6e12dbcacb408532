//! `/v1/xds/groups/{group}`: raw Envoy resources, kept and served byte for byte.
//!
//! A write is answered when the group is published.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use xds_proto::json::{any_from_json, any_to_json};
use xds_proto::resource::{Resource, ResourceType};

use crate::api::refusal::{Located, Refusal};
use crate::api::v1::or_problem;
use crate::api::{Api, body, who, whole};
use crate::finding::{Finding, Severity, codes};
use crate::store::change::{Change, GroupAction, GroupWrite, Origin};
use crate::store::state::RawGroup;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replace {
    #[serde(default)]
    version: String,
    #[serde(default)]
    resources: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    #[serde(default)]
    version: String,
    #[serde(default)]
    set: Vec<Value>,
    #[serde(default)]
    delete: Vec<Gone>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gone {
    r#type: String,
    name: String,
}

type Body = Result<Bytes, BytesRejection>;

/// `PUT`: these resources and no others.
pub async fn replace(
    State(api): State<Arc<Api>>,
    Path(group): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let Replace { version, resources } = read_body(&whole(body)?)?;
        let resources = parse("resources", resources).await?;
        write(&api, group, &headers, GroupAction::Replace { label: version, resources }).await
    };
    or_problem(&uri, answer.await)
}

/// `PATCH`: some more, some less.
pub async fn patch(
    State(api): State<Arc<Api>>,
    Path(group): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let Patch { version, set, delete } = read_body(&whole(body)?)?;
        let set = parse("set", set).await?;
        let delete = delete.iter().enumerate().map(|(index, gone)| {
            let kind = ResourceType::from_type_url(&gone.r#type)
                .or_else(|| ResourceType::from_short_name(&gone.r#type));
            let reason = || format!("{} is no resource type", gone.r#type);
            let kind = kind.ok_or_else(|| refuse(format!("delete[{index}].type"), reason()))?;
            Ok((kind, gone.name.as_str().into()))
        });
        let delete = delete.collect::<Result<_, Refusal>>()?;
        write(&api, group, &headers, GroupAction::Patch { label: version, set, delete }).await
    };
    or_problem(&uri, answer.await)
}

/// `DELETE`: its nodes get what documents give them.
pub async fn delete(
    State(api): State<Arc<Api>>,
    Path(group): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    or_problem(&uri, write(&api, group, &headers, GroupAction::Delete).await)
}

/// `GET`: as proto3 JSON.
pub async fn read(State(api): State<Arc<Api>>, Path(group): Path<String>, uri: Uri) -> Response {
    let answer = async {
        let state = api.store.state();
        let missing = || Refusal::not_found(format!("raw group {group:?} does not exist"));
        let stored = state.raw_groups.get(&group).cloned().ok_or_else(missing)?;
        let shown = spawn_blocking(move || show(&stored)).await;
        let shown = shown.map_err(|error| internal(error.to_string()))??;
        Ok(Json(shown).into_response())
    };
    or_problem(&uri, answer.await)
}

/// `GET /v1/xds/groups`: which groups there are.
pub async fn list(State(api): State<Arc<Api>>) -> Json<Value> {
    let state = api.store.state();
    let items: Vec<Value> = state
        .raw_groups
        .values()
        .map(|group| {
            json!({
                "group": group.name, "version": group.label,
                "revision": format!("r{}", group.revision), "resources": group.resources.len(),
            })
        })
        .collect();
    Json(json!({"items": items}))
}

/// A private key in a raw group is shown no more than one in a document.
fn show(group: &RawGroup) -> Result<Value, Refusal> {
    let mut resources = Vec::with_capacity(group.resources.len());
    for resource in group.resources.values() {
        let shown = if resource.kind == ResourceType::Secret {
            json!({
                "@type": resource.kind.type_url(), "name": &*resource.name,
                "redacted": resource.version.as_str(),
            })
        } else {
            any_to_json(resource.kind.type_url(), &resource.body)
                .map_err(|error| internal(error.to_string()))?
        };
        resources.push(shown);
    }
    Ok(json!({
        "group": group.name, "version": group.label, "revision": format!("r{}", group.revision),
        "resources": resources,
    }))
}

fn read_body<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, Refusal> {
    let parsed = body::from_json(bytes)
        .map_err(|reason| Refusal { code: codes::NOT_YAML, ..Refusal::bad_request(reason) })?;
    if let Some(field) = parsed.duplicates.first() {
        return Err(refuse(field.clone(), "given twice".into()));
    }
    serde_json::from_value(parsed.value).map_err(|error| Refusal::bad_request(error.to_string()))
}

/// Reads resources where it keeps nobody waiting: the first one decodes Envoy's descriptors.
async fn parse(field: &'static str, values: Vec<Value>) -> Result<Vec<Resource>, Refusal> {
    let parse = move || parse_all(field, values);
    spawn_blocking(parse).await.map_err(|error| internal(error.to_string()))?
}

fn parse_all(field: &str, values: Vec<Value>) -> Result<Vec<Resource>, Refusal> {
    let (mut resources, mut findings) = (Vec::with_capacity(values.len()), Vec::new());
    let mut names = HashSet::new();
    for (index, value) in values.into_iter().enumerate() {
        let place = format!("{field}[{index}]");
        match parse_one(value) {
            Ok(resource) if !names.insert((resource.kind, resource.name.clone())) => {
                let reason = format!("{} {:?} is given twice", resource.kind, resource.name);
                findings.push(finding(place, reason));
            }
            Ok(resource) => resources.push(resource),
            Err((path, reason)) => {
                let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
                findings.push(finding(format!("{place}{dot}{path}"), reason));
            }
        }
    }
    if findings.is_empty() { Ok(resources) } else { Err(Refusal::invalid(findings)) }
}

/// A resource, or the path within it and the reason.
fn parse_one(value: Value) -> Result<Resource, (String, String)> {
    let error = match any_from_json(value) {
        Ok((type_url, bytes)) => match Resource::from_bytes(&type_url, &bytes) {
            Ok(resource) => return Ok(resource),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    // Such errors begin with a path where one is known: `a.b[0]: reason`.
    match error.split_once(": ") {
        Some((path, reason)) if !path.contains(char::is_whitespace) => {
            Err((path.to_owned(), reason.to_owned()))
        }
        _ => Err((String::new(), error)),
    }
}

async fn write(
    api: &Arc<Api>,
    group: String,
    headers: &HeaderMap,
    action: GroupAction,
) -> Result<Response, Refusal> {
    if group.is_empty() || group.len() > 253 || group.chars().any(char::is_control) {
        let detail = "a group is named by 1 to 253 characters, none of them a control character";
        return Err(Refusal::bad_request(detail));
    }
    let change = Change {
        groups: vec![GroupWrite { name: group.clone(), action }],
        who: who(None, headers),
        origin: Origin::Xds,
        ..Change::default()
    };
    let committed = api.commit(change).await?;
    api.wait_published(committed.revision).await?;
    let stored = committed.state.raw_groups.get(&group);
    Ok(Json(json!({
        "group": group,
        "version": stored.map(|stored| stored.label.as_str()),
        "revision": format!("r{}", committed.revision),
        "changed": committed.is_new_revision,
        "resources": stored.map_or(0, |stored| stored.resources.len()),
    }))
    .into_response())
}

fn refuse(field: String, reason: String) -> Refusal {
    Refusal::invalid(vec![finding(field, reason)])
}

fn finding(field: String, message: String) -> Located {
    let (object, severity) = (String::new(), Severity::Error);
    Finding { code: codes::RAW_RESOURCE, severity, object, field, message, help: None }.into()
}

fn internal(detail: String) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, codes::INTERNAL, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Server;
    use crate::snapshot;

    const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    const ALL: &str = "/v1/xds/groups/*";

    fn cluster(name: &str, timeout: &str) -> Value {
        json!({"@type": CDS, "name": name, "connect_timeout": timeout})
    }

    #[tokio::test]
    async fn a_group_is_published_when_the_write_is_answered() {
        let server = Server::start_with_pipeline().await;
        let body = json!({"version": "v1", "resources": [cluster("a", "1s"), cluster("b", "1s")]});
        let put = server.call("PUT", ALL, body.clone()).await;
        assert_eq!((put.status, put.text("/revision")), (200, "r1"), "{:?}", put.body);
        let due = || server.snapshots.for_node("n", "c").unwrap();
        assert_eq!(due().origin, snapshot::Origin::Raw("*".into()));
        assert_eq!((due().snapshot.len(), due().stamp.revision), (2, 1));
        assert_eq!(server.call("PUT", ALL, body).await.body["changed"], false);
        let patch = json!({
            "version": "v2", "set": [cluster("b", "2s")], "delete": [{"type": CDS, "name": "a"}],
        });
        assert_eq!(server.call("PATCH", ALL, patch).await.text("/revision"), "r2");
        assert_eq!(due().snapshot.len(), 1);
        let read = server.get(ALL).await;
        assert_eq!(read.text("/version"), "v2");
        assert_eq!(read.text("/resources/0/connect_timeout"), "2s");
        assert_eq!(server.get("/v1/xds/groups").await.text("/items/0/group"), "*");
        assert_eq!(server.call("DELETE", ALL, Value::Null).await.status, 200);
        assert_eq!(due().origin, snapshot::Origin::Fleet("c".into()));
        assert_eq!(server.get(ALL).await.status, 404);
        assert_eq!(server.call("DELETE", ALL, Value::Null).await.status, 404);
    }

    #[tokio::test]
    async fn a_resource_that_does_not_parse_is_422_with_its_path() {
        let server = Server::start_with_pipeline().await;
        let bad = json!({"@type": CDS, "name": "b", "load_assignment": {"endpoints": [{"x": 1}]}});
        for (resources, field) in [
            (json!([cluster("a", "1s"), bad]), "resources[1].load_assignment.endpoints[0].x"),
            (json!([{"name": "a"}]), "resources[0].@type"),
            (json!([{"@type": CDS}]), "resources[0].name"),
            (json!([{"@type": "type.googleapis.com/acme.X", "value": ""}]), "resources[0]"),
            (json!([cluster("a", "1s"), cluster("a", "2s")]), "resources[1]"),
        ] {
            let refused = server.call("PUT", ALL, json!({"resources": resources})).await;
            assert_eq!((refused.status, refused.text("/code")), (422, "WL0430"));
            assert_eq!(refused.text("/errors/0/field"), field, "{:?}", refused.body);
        }
        let delete = json!({"delete": [{"type": "nonsense", "name": "a"}]});
        let refused = server.call("PATCH", ALL, delete).await;
        assert_eq!(refused.text("/errors/0/field"), "delete[0].type");
        assert_eq!(server.api.store.state().revision, 0);
    }

    #[tokio::test]
    async fn a_private_key_is_not_shown() {
        let server = Server::start_with_pipeline().await;
        let kind = ResourceType::Secret.type_url();
        let secret = json!({"@type": kind, "name": "s", "generic_secret":
            {"secret": {"inline_string": "hush"}}});
        server.call("PUT", "/v1/xds/groups/g", json!({"resources": [secret]})).await;
        let shown = server.get("/v1/xds/groups/g").await;
        assert_eq!(shown.text("/resources/0/name"), "s");
        assert!(!shown.body.to_string().contains("hush"));
    }
}
