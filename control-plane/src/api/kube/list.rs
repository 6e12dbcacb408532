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
