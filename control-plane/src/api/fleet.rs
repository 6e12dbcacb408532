//! `/v1/fleet`: who runs what, who refused and why.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::Uri;
use serde_json::{Value, json};

use crate::api::Api;
use crate::api::refusal::Refusal;
use crate::api::v1::or_problem;
use crate::fleet::count_states;
use crate::fleet::status::NodeStatus;

/// `GET /v1/fleet`.
pub async fn all(State(api): State<Arc<Api>>) -> Json<Value> {
    let nodes = api.fleet.nodes();
    let counts = count_states(&nodes);
    Json(json!({
        "revision": newest(&api), "counts": counts,
        "nodes": nodes.iter().map(node).collect::<Vec<_>>(),
    }))
}

/// `GET /v1/fleet/{node}`.
pub async fn one(State(api): State<Arc<Api>>, Path(name): Path<String>, uri: Uri) -> Response {
    let nodes = api.fleet.nodes();
    let found = nodes.iter().find(|status| *status.node == *name).map(node);
    let answer = found.map(|found| Json(found).into_response()).ok_or_else(|| {
        Refusal::not_found(format!("node {name:?} has not connected"))
            .fact("help", "wlctl status lists the nodes")
    });
    or_problem(&uri, answer)
}

/// A node as people see it: revisions by their names.
pub fn node(status: &NodeStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let (Some(object), Some(revision)) = (value.as_object_mut(), status.revision) {
        object.insert("revision".into(), format!("r{revision}").into());
    }
    value
}

/// The newest revision: who, when, why.
fn newest(api: &Api) -> Value {
    let number = api.store.state().revision;
    if number == 0 {
        return json!({"revision": "r0"});
    }
    match api.store.revision(number) {
        Ok(record) => super::revisions::brief(&record),
        Err(_) => json!({"revision": format!("r{number}")}),
    }
}
