//! OpenAPI v3 of the kinds, made from the tables that documents are checked against.
//!
//! kubectl reads it before it writes: that PATCH takes `fieldValidation` tells it to leave the
//! checking to us.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde_json::{Map, Value, json};
use xds_proto::version::Version;

use crate::api::kube::discovery::{group_names, of_version, versions};
use crate::api::refusal::Refusal;
use crate::model::kind::Kind;
use crate::model::schema::{Presence, Schema};

/// `GET /openapi/v3`: where the document of each group and version is.
pub fn index() -> Value {
    let groups = std::iter::once("").chain(group_names());
    let paths = groups.flat_map(|group| {
        versions(group).into_iter().map(move |version| {
            let place = place(group, version);
            let hash = Version::of_bytes(document(group, version).to_string().as_bytes());
            let url = format!("/openapi/v3/{place}?hash={}", hash.as_str());
            (place, json!({"serverRelativeURL": url}))
        })
    });
    json!({"paths": paths.collect::<Map<_, _>>()})
}

/// `GET /openapi/v3/api/v1`, `/openapi/v3/apis/{group}/{version}`. With a hash it never changes.
///
/// # Errors
/// 404.
pub fn one(path: &str, has_hash: bool) -> Result<Response, Refusal> {
    let missing = || Refusal::not_found(format!("there is no OpenAPI document of {path:?}"));
    let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return Err(missing()),
    };
    if of_version(group, version).next().is_none() {
        return Err(missing());
    }
    let mut response = Json(document(group, version)).into_response();
    if has_hash {
        let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    Ok(response)
}

fn place(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn document(group: &str, version: &str) -> Value {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for kind in of_version(group, version) {
        let mut schema = self::schema(&kind.schema);
        schema["x-kubernetes-group-version-kind"] = json!([named(kind, version)]);
        schemas.insert(schema_name(kind, version), schema);
        let namespaces = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let list = format!("/{}{namespaces}/{}", place(group, version), kind.plural);
        let one = format!("{list}/{{name}}");
        if kind.has_status {
            let status = operations(kind, version, &[("get", "get"), ("put", "put")]);
            paths.insert(format!("{one}/status"), with_patch(kind, version, status));
        }
        let on_one = [("get", "get"), ("put", "put"), ("delete", "delete")];
        paths.insert(list, operations(kind, version, &[("get", "list"), ("post", "post")]));
        paths.insert(one, with_patch(kind, version, operations(kind, version, &on_one)));
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Weighlock", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn named(kind: &Kind, version: &str) -> Value {
    json!({"group": kind.group, "version": version, "kind": kind.kind})
}

fn schema_name(kind: &Kind, version: &str) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group };
    format!("{group}.{version}.{}", kind.kind)
}

fn operations(kind: &Kind, version: &str, verbs: &[(&str, &str)]) -> Value {
    let all = verbs.iter().map(|(verb, action)| {
        let is_write = matches!(*verb, "put" | "post");
        let mut operation = operation(kind, version, action);
        if is_write {
            operation["parameters"] = parameters(&["dryRun", "fieldManager", "fieldValidation"]);
            operation["requestBody"] =
                body(kind, version, &["application/json", "application/yaml"]);
        }
        ((*verb).to_owned(), operation)
    });
    Value::Object(all.collect())
}

fn with_patch(kind: &Kind, version: &str, mut operations: Value) -> Value {
    let mut patch = operation(kind, version, "patch");
    patch["parameters"] = parameters(&["dryRun", "fieldManager", "fieldValidation", "force"]);
    let strategic = kind.group.is_empty().then_some("application/strategic-merge-patch+json");
    let types: Vec<&str> =
        std::iter::once("application/merge-patch+json").chain(strategic).collect();
    patch["requestBody"] = body(kind, version, &types);
    operations["patch"] = patch;
    operations
}

fn operation(kind: &Kind, version: &str, action: &str) -> Value {
    json!({
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": named(kind, version),
        "responses": {"200": {"description": "OK"}},
    })
}

fn parameters(names: &[&str]) -> Value {
    let one = |name: &&str| {
        let kind = if *name == "force" { "boolean" } else { "string" };
        json!({"name": name, "in": "query", "schema": {"type": kind}})
    };
    names.iter().map(one).collect()
}

fn body(kind: &Kind, version: &str, types: &[&str]) -> Value {
    let reference = format!("#/components/schemas/{}", schema_name(kind, version));
    let one =
        |media_type: &&str| ((*media_type).to_owned(), json!({"schema": {"$ref": reference}}));
    json!({"content": types.iter().map(one).collect::<Map<_, _>>()})
}

/// A schema in OpenAPI's words.
fn schema(schema: &Schema) -> Value {
    match schema {
        Schema::Object(object) => {
            let fields = object.fields.iter();
            let is_required = |presence| matches!(presence, Presence::Required);
            let required: Vec<&str> =
                fields.clone().filter(|f| is_required(f.presence)).map(|f| f.name).collect();
            let properties = fields.map(|field| {
                let mut property = self::schema(&field.schema);
                if let Presence::Default(default) = field.presence {
                    property["default"] = serde_json::from_str(default).unwrap_or_default();
                }
                (field.name.to_owned(), property)
            });
            let properties: Map<_, _> = properties.collect();
            let mut object = json!({"type": "object", "properties": properties});
            if !required.is_empty() {
                object["required"] = required.into();
            }
            object
        }
        Schema::Map { value, max } => json!({
            "type": "object", "additionalProperties": self::schema(value), "maxProperties": max,
        }),
        Schema::List { item, min, max, .. } => json!({
            "type": "array", "items": self::schema(item), "minItems": min, "maxItems": max,
        }),
        Schema::Text(_) => json!({"type": "string"}),
        Schema::Enum(words) => json!({"type": "string", "enum": words}),
        Schema::Integer { min, max } => {
            json!({"type": "integer", "format": "int64", "minimum": min, "maximum": max})
        }
        Schema::Number(numbers) => json!({"type": "integer", "format": "int64", "enum": numbers}),
        Schema::Boolean => json!({"type": "boolean"}),
        Schema::Any => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
    }
}

#[cfg(test)]
mod tests {
    use crate::api::testing::Server;

    #[tokio::test]
    async fn every_kind_has_a_schema_and_patches_are_checked_here() {
        let server = Server::start().await;
        let index = server.get("/openapi/v3").await.body;
        let url = |place: &str| index["paths"][place]["serverRelativeURL"].as_str().unwrap();
        let answer = server.get(url("apis/gateway.networking.k8s.io/v1")).await;
        assert!(answer.headers["cache-control"].to_str().unwrap().contains("immutable"));
        let one = "/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{name}";
        let patch = &answer.body["paths"][one]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "HTTPRoute");
        assert_eq!(patch["parameters"][2]["name"], "fieldValidation");
        let route = &answer.body["components"]["schemas"]["gateway.networking.k8s.io.v1.HTTPRoute"];
        let hostnames = &route["properties"]["spec"]["properties"]["hostnames"];
        assert_eq!(hostnames["type"], "array");
        let core = server.get(url("api/v1")).await.body;
        assert!(core["paths"]["/api/v1/namespaces/{name}"]["delete"].is_object());
        assert_eq!(server.get("/openapi/v3/apis/none/v1").await.status, 404);
        assert_eq!(server.get("/openapi/v2").await.status, 404);
    }
}
