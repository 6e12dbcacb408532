//! `/v1/fleet`: who runs what, who refused and why.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::Uri;
use serde_json::{Value, json};
use xds_proto::resource::ResourceType;

use crate::api::Api;
use crate::api::refusal::Refusal;
use crate::api::v1::or_problem;
use crate::fleet::count_states;
use crate::fleet::status::{NackStatus, NodeStatus};
use crate::model::kind::KINDS;
use crate::pipeline::blame::blame;
use crate::store::change::Source;
use crate::store::history::Target;
use crate::store::state::{ObjectKey, State as Stored};
use crate::translate::draft::ObjectRef;

/// More documents than these are counted, not listed.
const BLAMED_MAX: usize = 5;

/// `GET /v1/fleet`.
pub async fn all(State(api): State<Arc<Api>>) -> Json<Value> {
    let nodes = api.fleet.nodes();
    let counts = count_states(&nodes);
    Json(json!({
        "revision": newest(&api), "counts": counts,
        "nodes": nodes.iter().map(|status| node(&api, status)).collect::<Vec<_>>(),
    }))
}

/// `GET /v1/fleet/{node}`.
pub async fn one(State(api): State<Arc<Api>>, Path(name): Path<String>, uri: Uri) -> Response {
    let nodes = api.fleet.nodes();
    let found = nodes.iter().find(|status| *status.node == *name);
    let found = found.map(|status| node(&api, status));
    let answer = found.map(|found| Json(found).into_response()).ok_or_else(|| {
        Refusal::not_found(format!("node {name:?} has not connected"))
            .fact("help", "wlctl status lists the nodes")
    });
    or_problem(&uri, answer)
}

/// A node as people see it: revisions by their names, refusals with the documents behind them.
pub fn node(api: &Api, status: &NodeStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let (Some(object), Some(revision)) = (value.as_object_mut(), status.revision) {
        object.insert("revision".into(), format!("r{revision}").into());
    }
    if let (Some(refusal), Some(nack)) = (value.get_mut("nack"), &status.nack) {
        attribute(api, &status.fleet, nack, refusal);
    }
    value
}

/// Adds to a refusal which documents it is about, and where their writers have them.
pub fn attribute(api: &Api, fleet: &str, nack: &NackStatus, refusal: &mut Value) {
    let Some(refusal) = refusal.as_object_mut() else { return };
    let state = api.store.state();
    if state.raw_groups.contains_key(fleet) {
        refusal.insert("object".into(), format!("raw group {fleet}").into());
        return;
    }
    let Some(kind) = ResourceType::from_short_name(nack.r#type) else { return };
    let built = api.pipeline.published().borrow().built.clone();
    let blamed = blame(&built, fleet, (kind, &nack.resources), &nack.text);
    if let [only] = blamed.as_slice() {
        refusal.insert("object".into(), only.to_string().into());
        refusal.insert("source".into(), json!(source(api, &state, &only.object)));
    } else if !blamed.is_empty() {
        let objects: Vec<String> =
            blamed.iter().take(BLAMED_MAX).map(ToString::to_string).collect();
        refusal.insert("objects".into(), objects.into());
        refusal.insert("objectsInAll".into(), blamed.len().into());
    }
}

/// Where the writer of an object has it, as the revision that last changed it remembers.
fn source(api: &Api, state: &Stored, object: &ObjectRef) -> Option<Source> {
    let kind = KINDS.iter().copied().find(|kind| kind.kind == object.kind)?;
    let (namespace, name) = (object.place.namespace.clone(), object.place.name.clone());
    let key = ObjectKey { kind, namespace, name };
    let record = api.store.revision(state.objects.get(&key)?.revision).ok()?;
    let target = Target::object(&key);
    record.touched.into_iter().find(|touched| touched.target == target)?.source
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use xds_proto::version::Version;

    use super::*;
    use crate::api::testing::Server;
    use crate::fleet::identity::Identity;
    use crate::fleet::report::{Nack, Report, TypeReport};

    const DOCUMENTS: &str = "\
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: web, namespace: shop},
 spec: {gatewayClassName: weighlock, listeners: [{name: http, port: 80, protocol: HTTP}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: shop},
 spec: {parentRefs: [{name: web}], rules: [{name: old, filters: [{type: RequestRedirect,
  requestRedirect: {scheme: https}}]}]}}
";

    fn refusal(table: &str) -> Report {
        let nack = Nack {
            resources: vec![table.into()],
            version: Version::foreign("1"),
            text: format!("{table}: virtual_hosts[0].routes[0]: not today"),
            since: SystemTime::UNIX_EPOCH,
            tries: 1,
        };
        let report = TypeReport { nack: Some(nack), ..TypeReport::default() };
        let types = BTreeMap::from([(ResourceType::Route, report)]);
        Report { types, ..Report::default() }
    }

    #[tokio::test]
    async fn a_refusal_names_the_document_and_its_file() {
        let server = Server::start_with_pipeline().await;
        let path = "/v1/apply?file=shop.yaml&wait=acked";
        let applied = server.send("POST", path, "application/yaml", DOCUMENTS).await;
        assert_eq!(applied.status, 200, "{:?}", applied.body);
        let built = server.api.pipeline.published().borrow().built.clone();
        let (fleet, snapshot) = built.fleets.iter().next().unwrap();
        let table = snapshot.kind(ResourceType::Route).entries()[0].name.clone();
        let identity =
            Identity { node: "n".into(), cluster: (**fleet).into(), ..Identity::default() };
        let connection = server.api.fleet.connect(identity);
        connection.report(refusal(&table));
        let nack = server.get("/v1/fleet/n").await.body["nack"].take();
        assert_eq!(nack["object"], "HTTPRoute shop/r rule old");
        assert_eq!(nack["source"], json!({"file": "shop.yaml", "line": 4, "column": 1}));
        let group = json!({"set": [], "delete": []});
        let path = format!("/v1/xds/groups/{fleet}");
        server.send("PATCH", &path, "application/json", &group.to_string()).await;
        let nack = server.get("/v1/fleet").await.body["nodes"][0]["nack"].take();
        assert_eq!(nack["object"], format!("raw group {fleet}"));
    }
}
