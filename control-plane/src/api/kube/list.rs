//! Lists, whole or in pages that all show one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::kube::form::Presenter;
use crate::api::kube::query::{Query, invalid};
use crate::api::refusal::Refusal;
use crate::finding::codes;
use crate::model::kind::Kind;
use crate::store::Store;
use crate::store::state::{Object, ObjectKey};

/// Where a list goes on: after this object, as of this version.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    #[serde(rename = "v")]
    version: u64,
    #[serde(rename = "s")]
    namespace: String,
    #[serde(rename = "n")]
    name: String,
}

/// Answers a list.
///
/// # Errors
/// 400 for a wrong parameter, 410 when the moment is no longer known.
pub fn list(presenter: &Presenter<'_>, query: &Query) -> Result<Value, Refusal> {
    let (store, target) = (&presenter.api.store, presenter.target);
    let selector = query.selector()?;
    let page = page(query)?;
    let pinned = page.as_ref().map(|page| page.version).or(exact(query)?);
    let (version, objects) = objects_at(store, target.kind, pinned)?;
    let after = page.map(|page| ObjectKey {
        kind: target.kind,
        namespace: page.namespace,
        name: page.name,
    });
    let mut wanted = objects.iter().filter(|object| {
        target.namespace.as_ref().is_none_or(|namespace| *namespace == object.key.namespace)
            && after.as_ref().is_none_or(|after| object.key > *after)
            && selector.matches(&object.value)
    });
    let limit = query.limit()?.unwrap_or(usize::MAX);
    let found: Vec<&Arc<Object>> = wanted.by_ref().take(limit).collect();
    let rest = wanted.count();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let (Some(last), Some(metadata), true) = (found.last(), metadata.as_object_mut(), rest > 0) {
        metadata.insert("continue".into(), token(version, &last.key).into());
        metadata.insert("remainingItemCount".into(), rest.into());
    }
    let objects: Vec<Value> = found.into_iter().map(|object| presenter.plain(object)).collect();
    Ok(presenter.list(&objects, metadata))
}

/// The objects of a kind, at this moment or as of an earlier version.
fn objects_at(
    store: &Store,
    kind: &Kind,
    version: Option<u64>,
) -> Result<(u64, Vec<Arc<Object>>), Refusal> {
    let state = store.state();
    let present = || state.objects.of_kind(kind).cloned();
    let Some(version) = version.filter(|version| *version != state.resource_version) else {
        return Ok((state.resource_version, present().collect()));
    };
    let expired = |error: crate::store::change::Expired| Refusal {
        detail: format!("{error}; list again without continue"),
        ..Refusal::from(error)
    };
    let events = store.events_after(version).map_err(expired)?;
    let mut then: BTreeMap<ObjectKey, Arc<Object>> =
        present().map(|object| (object.key.clone(), object)).collect();
    // Backwards: what stood before the first change after that version stood then.
    for event in events.iter().rev() {
        let key = &event.object.key;
        if key.kind.group == kind.group && key.kind.kind == kind.kind {
            match &event.previous {
                Some(previous) => drop(then.insert(key.clone(), previous.clone())),
                None => drop(then.remove(key)),
            }
        }
    }
    Ok((version, then.into_values().collect()))
}

fn exact(query: &Query) -> Result<Option<u64>, Refusal> {
    let version = query.resource_version.as_str();
    if query.resource_version_match != "Exact" {
        return Ok(None);
    }
    version.parse().map(Some).map_err(|_| invalid("resourceVersion", version, "must be a number"))
}

fn page(query: &Query) -> Result<Option<Continue>, Refusal> {
    if query.r#continue.is_empty() {
        return Ok(None);
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(&query.r#continue).ok();
    let page = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    page.map(Some).ok_or_else(|| {
        Refusal::new(StatusCode::BAD_REQUEST, codes::BAD_REQUEST, "continue: no token of ours")
    })
}

fn token(version: u64, last: &ObjectKey) -> String {
    let (namespace, name) = (last.namespace.clone(), last.name.clone());
    let token = serde_json::to_vec(&Continue { version, namespace, name });
    BASE64_URL_SAFE_NO_PAD.encode(token.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{ROUTES, Server, route};

    fn names(answer: &crate::api::testing::Answer) -> Vec<&str> {
        let items = answer.body["items"].as_array().unwrap();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn pages_show_one_moment() {
        let server = Server::start().await;
        for name in ["a", "b", "c"] {
            server.call("POST", ROUTES, route(name, "/x")).await;
        }
        let first = server.get(&format!("{ROUTES}?limit=1")).await;
        assert_eq!(names(&first), ["a"]);
        assert_eq!(first.body["metadata"]["remainingItemCount"], 2);
        server.call("DELETE", &format!("{ROUTES}/b"), Value::Null).await;
        server.call("POST", ROUTES, route("bb", "/x")).await;
        let token = first.text("/metadata/continue");
        let rest = server.get(&format!("{ROUTES}?limit=5&continue={token}")).await;
        assert_eq!(names(&rest), ["b", "c"]);
        assert_eq!(rest.text("/metadata/resourceVersion"), "3");
        assert_eq!(names(&server.get(ROUTES).await), ["a", "bb", "c"]);
        assert_eq!(server.get(&format!("{ROUTES}?continue=x")).await.status, 400);
    }

    #[tokio::test]
    async fn lists_know_namespaces_selectors_and_forms() {
        let server = Server::start().await;
        let mut labelled = route("a", "/x");
        labelled["metadata"]["labels"] = json!({"l": "1"});
        server.call("POST", ROUTES, labelled).await;
        server.call("POST", &ROUTES.replace("shop", "other"), route("b", "/x")).await;
        let all = "/apis/gateway.networking.k8s.io/v1beta1/httproutes";
        let list = server.get(all).await;
        assert_eq!((names(&list), list.text("/kind")), (vec!["b", "a"], "HTTPRouteList"));
        assert_eq!(list.text("/items/0/apiVersion"), "gateway.networking.k8s.io/v1beta1");
        assert_eq!(names(&server.get(&format!("{all}?labelSelector=l%3D1")).await), ["a"]);
        let field = format!("{all}?fieldSelector=metadata.namespace%3Dother");
        assert_eq!(names(&server.get(&field).await), ["b"]);
        let wrong = server.get(&format!("{all}?fieldSelector=spec.x%3D1")).await;
        assert_eq!((wrong.status, wrong.text("/reason")), (400, "BadRequest"));
        let table = server.get_as(all, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
        assert_eq!(table.text("/kind"), "Table");
        assert_eq!(table.text("/rows/1/object/kind"), "PartialObjectMetadata");
        let columns = table.body["columnDefinitions"].as_array().unwrap();
        assert_eq!(columns.len(), table.body["rows"][0]["cells"].as_array().unwrap().len());
        assert_eq!(columns.last().unwrap()["name"], "Age");
    }
}
