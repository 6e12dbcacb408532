//! What is served: versions, groups and kinds, in the old form and in the aggregated one.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};

use crate::api::refusal::Refusal;
use crate::model::kind::{KINDS, Kind};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const VERBS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

/// `GET /version`.
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "37",
        "gitVersion": format!("v1.37.0+weighlock.{}", env!("CARGO_PKG_VERSION")),
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// `GET /api`.
pub fn core(headers: &HeaderMap) -> Response {
    if wants_aggregated(headers) {
        return aggregated(&[""]);
    }
    Json(json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
    }))
    .into_response()
}

/// `GET /apis`.
pub fn groups(headers: &HeaderMap) -> Response {
    let names = group_names();
    if wants_aggregated(headers) {
        return aggregated(&names);
    }
    let groups: Vec<Value> = names.iter().map(|name| group(name)).collect();
    Json(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})).into_response()
}

/// `GET /apis/{group}`.
///
/// # Errors
/// 404.
pub fn one_group(name: &str) -> Result<Value, Refusal> {
    if !group_names().contains(&name) {
        return Err(Refusal::not_found(format!("there is no API group {name}")));
    }
    let mut group = group(name);
    if let Some(group) = group.as_object_mut() {
        group.insert("kind".into(), "APIGroup".into());
        group.insert("apiVersion".into(), "v1".into());
    }
    Ok(group)
}

/// `GET /api/v1`, `/apis/{group}/{version}`.
pub fn resources(group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for kind in of_version(group, version) {
        resources.push(json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": VERBS, "shortNames": kind.short_names,
            "categories": categories(kind),
        }));
        if kind.has_status {
            resources.push(json!({
                "name": format!("{}/status", kind.plural), "singularName": "",
                "namespaced": kind.namespaced, "kind": kind.kind, "verbs": STATUS_VERBS,
            }));
        }
    }
    let place = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": place,
        "resources": resources,
    })
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.unwrap_or_default().split(',').any(|range| {
        let has = |parameter: &str| range.split(';').any(|part| part.trim() == parameter);
        has("g=apidiscovery.k8s.io") && has("v=v2") && has("as=APIGroupDiscoveryList")
    })
}

fn aggregated(groups: &[&str]) -> Response {
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let versions: Vec<Value> = versions(group)
                .iter()
                .map(|version| {
                    let kinds = of_version(group, version);
                    let resources: Vec<Value> =
                        kinds.map(|kind| aggregated_kind(kind, version)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {}, "items": items,
    });
    let mut response = Json(list).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response
}

fn aggregated_kind(kind: &Kind, version: &str) -> Value {
    let response_kind = json!({"group": kind.group, "version": version, "kind": kind.kind});
    let status = json!([{
        "subresource": "status", "responseKind": response_kind, "verbs": STATUS_VERBS,
    }]);
    json!({
        "resource": kind.plural, "responseKind": response_kind,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular, "verbs": VERBS, "shortNames": kind.short_names,
        "categories": categories(kind),
        "subresources": if kind.has_status { status } else { json!([]) },
    })
}

fn group(name: &str) -> Value {
    let versions: Vec<Value> = versions(name)
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

/// All groups but the core one.
pub(super) fn group_names() -> Vec<&'static str> {
    let mut names = Vec::new();
    for kind in KINDS.iter().filter(|kind| !kind.group.is_empty()) {
        if !names.contains(&kind.group) {
            names.push(kind.group);
        }
    }
    names
}

/// The versions of a group, the preferred one first.
pub(super) fn versions(group: &str) -> Vec<&'static str> {
    let kinds = || KINDS.iter().filter(|kind| kind.group == group);
    let also = kinds().flat_map(|kind| kind.also_versions.iter().copied());
    let mut versions = Vec::new();
    for version in kinds().map(|kind| kind.version).chain(also) {
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions
}

/// The kinds of a group in a version.
pub(super) fn of_version<'a>(
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'static Kind> + 'a {
    KINDS.iter().copied().filter(move |kind| kind.group == group && kind.serves_version(version))
}

fn categories(kind: &Kind) -> Vec<&'static str> {
    match kind.group {
        "gateway.networking.k8s.io" => vec!["all", "gateway-api", "weighlock"],
        // Secrets and namespaces are not what `get all` is asked for.
        "" => Vec::new(),
        _ => vec!["all", "weighlock"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Server;

    #[tokio::test]
    async fn both_forms_of_discovery_name_the_same_kinds() {
        let server = Server::start().await;
        assert_eq!(server.get("/version").await.text("/minor"), "37");
        let groups = server.get("/apis").await;
        let plain: Vec<&str> = groups.body["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| group["preferredVersion"]["groupVersion"].as_str().unwrap())
            .collect();
        let known =
            ["gateway.networking.k8s.io/v1", "discovery.k8s.io/v1", "weighlock.dev/v1alpha1"];
        assert_eq!(plain, known);
        let kubectl = format!("{AGGREGATED},application/json");
        let aggregated = server.get_as("/apis", &kubectl).await;
        assert_eq!(aggregated.headers["content-type"], AGGREGATED);
        for group in aggregated.body["items"].as_array().unwrap() {
            let name = group["metadata"]["name"].as_str().unwrap();
            for version in group["versions"].as_array().unwrap() {
                let path = format!("/apis/{name}/{}", version["version"].as_str().unwrap());
                let list = server.get(&path).await;
                let listed = list.body["resources"].as_array().unwrap();
                for resource in version["resources"].as_array().unwrap() {
                    let found = listed.iter().find(|l| l["name"] == resource["resource"]).unwrap();
                    assert_eq!(found["kind"], resource["responseKind"]["kind"]);
                    assert_eq!(found["shortNames"], resource["shortNames"]);
                }
            }
        }
        let core = server.get_as("/api", &kubectl).await;
        assert_eq!(core.text("/items/0/metadata/name"), "");
        assert_eq!(server.get("/api").await.body["versions"], json!(["v1"]));
        let names = server.get("/api/v1").await.body["resources"].to_string();
        assert!(names.contains("\"secrets\"") && names.contains("\"namespaces\""), "{names}");
    }

    #[tokio::test]
    async fn a_namespace_that_holds_an_object_exists() {
        let server = Server::start().await;
        assert_eq!(server.get("/api/v1/namespaces/default").await.status, 200);
        assert_eq!(server.get("/api/v1/namespaces/shop").await.status, 404);
        use crate::api::testing::{ROUTES, route};
        server.call("POST", ROUTES, route("a", "/x")).await;
        assert_eq!(server.get("/api/v1/namespaces/shop").await.text("/status/phase"), "Active");
    }
}
