//! The Kubernetes part: discovery, and the verbs on objects, all derived from the table of kinds.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query as UrlQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::api::kube::form::{Form, Presenter};
use crate::api::kube::query::Query;
use crate::api::kube::target::{Path as KubePath, Target};
use crate::api::refusal::Refusal;
use crate::api::{Api, whole};
use crate::store::state::Object;

pub mod admit;
pub mod discovery;
pub mod form;
pub mod list;
pub mod merge;
pub mod openapi;
pub mod query;
pub mod selector;
pub mod target;
pub mod watch;
pub mod write;

/// At most so many warnings go with one answer.
const WARNINGS_MAX: usize = 20;

type Body = Result<Bytes, BytesRejection>;
type RawQuery = Result<UrlQuery<Query>, QueryRejection>;

/// `GET /version`.
pub async fn version() -> Json<Value> {
    Json(discovery::version())
}

/// `GET /api`.
pub async fn core(headers: HeaderMap) -> Response {
    discovery::core(&headers)
}

/// `GET /apis`.
pub async fn groups(headers: HeaderMap) -> Response {
    discovery::groups(&headers)
}

/// `GET /apis/{group}`.
pub async fn one_group(Path(group): Path<String>) -> Response {
    match discovery::one_group(&group) {
        Ok(group) => Json(group).into_response(),
        Err(refusal) => refusal.status_response(),
    }
}

/// `GET /openapi/v3`.
pub async fn openapi_index() -> Json<Value> {
    Json(openapi::index())
}

/// `GET /openapi/v3/{group and version}`.
pub async fn openapi_document(Path(path): Path<String>, uri: http::Uri) -> Response {
    let has_hash = uri.query().is_some_and(|query| query.contains("hash="));
    openapi::one(&path, has_hash).unwrap_or_else(|refusal| refusal.status_response())
}

/// Everything under `/api/`.
pub async fn core_objects(
    State(api): State<Arc<Api>>,
    Path(rest): Path<String>,
    query: RawQuery,
    request: Asked,
) -> Response {
    objects(&api, "", &rest, query, request).await
}

/// Everything under `/apis/{group}/`.
pub async fn group_objects(
    State(api): State<Arc<Api>>,
    Path((group, rest)): Path<(String, String)>,
    query: RawQuery,
    request: Asked,
) -> Response {
    objects(&api, &group, &rest, query, request).await
}

/// Method, headers and body of a request.
#[derive(Debug)]
pub struct Asked {
    method: Method,
    headers: HeaderMap,
    body: Body,
}

impl<S: Send + Sync> axum::extract::FromRequest<S> for Asked {
    type Rejection = std::convert::Infallible;

    async fn from_request(
        request: axum::extract::Request,
        state: &S,
    ) -> Result<Self, Self::Rejection> {
        let (method, headers) = (request.method().clone(), request.headers().clone());
        Ok(Self { method, headers, body: Bytes::from_request(request, state).await })
    }
}

async fn objects(
    api: &Arc<Api>,
    group: &str,
    rest: &str,
    query: RawQuery,
    asked: Asked,
) -> Response {
    let answer = async {
        let UrlQuery(query) =
            query.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
        match target::parse(group, rest)? {
            KubePath::Resources { group, version } if asked.method == Method::GET => {
                Ok(Json(discovery::resources(&group, &version)).into_response())
            }
            KubePath::Resources { .. } => Err(Refusal::no_such_verb(&asked.method)),
            KubePath::Objects(target) => verb(api, target, &query, asked).await,
        }
    };
    answer.await.unwrap_or_else(|refusal: Refusal| refusal.status_response())
}

async fn verb(
    api: &Arc<Api>,
    target: Target,
    query: &Query,
    asked: Asked,
) -> Result<Response, Refusal> {
    let Asked { method, headers, body } = asked;
    let form = Form::asked(&headers, query);
    if method == Method::GET {
        return read(api, target, query, form);
    }
    let name = target.name.clone();
    let call = write::Call { api, target: &target, query, headers: &headers, body: whole(body)? };
    let written = match (method.as_str(), name, target.is_status) {
        ("POST", None, false) => call.create().await,
        ("PUT", Some(name), _) => call.replace(&name).await,
        ("PATCH", Some(name), _) => call.patch(&name).await,
        ("DELETE", Some(name), false) => call.delete(&name).await,
        _ => Err(Refusal::no_such_verb(&method)),
    }?;
    let presenter = Presenter { api, target: &target, form, now: SystemTime::now() };
    Ok(written.answer(&presenter))
}

fn read(api: &Arc<Api>, target: Target, query: &Query, form: Form) -> Result<Response, Refusal> {
    if query.is_watch() && target.name.is_none() {
        return watch::watch(api, target, query, form);
    }
    let presenter = Presenter { api, target: &target, form, now: SystemTime::now() };
    let value = match &target.name {
        None => list::list(&presenter, query)?,
        Some(name) => {
            let state = api.store.state();
            match state.objects.get(&target.key(name)) {
                Some(object) => presenter.object(object),
                None => implied_namespace(&target, &state, name)
                    .map(|object| presenter.object(&object))
                    .ok_or_else(|| write::missing(&target, name))?,
            }
        }
    };
    let mut response = Json(value).into_response();
    let revision = format!("r{}", api.store.state().revision);
    if let Ok(revision) = HeaderValue::from_str(&revision) {
        response.headers_mut().insert("weighlock-revision", revision);
    }
    Ok(response)
}

/// A namespace that holds an object exists, and `default` always does; lists and watches show only
/// those that have a document.
fn implied_namespace(
    target: &Target,
    state: &crate::store::state::State,
    name: &str,
) -> Option<Object> {
    let is_namespace = target.kind.group.is_empty() && target.kind.kind == "Namespace";
    let exists =
        || name == "default" || state.objects.iter().any(|object| object.key.namespace == name);
    (is_namespace && exists()).then(|| Object {
        key: target.key(name),
        value: json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
            "status": {"phase": "Active"},
        }),
        resource_version: 0,
        revision: 0,
        who: "weighlock".into(),
    })
}

/// `Warning` headers.
fn warn(headers: &mut HeaderMap, texts: &[String]) {
    for text in texts.iter().take(WARNINGS_MAX) {
        let text: String = text
            .chars()
            .map(|c| if c.is_ascii() && !c.is_ascii_control() { c } else { '?' })
            .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
            .take(1000)
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            headers.append(header::WARNING, value);
        }
    }
}

/// What a write came to.
#[derive(Debug)]
pub struct Written {
    status: StatusCode,
    object: Arc<Object>,
    /// A `Status` instead of the object.
    is_gone: bool,
    warnings: Vec<String>,
}

impl Written {
    fn answer(&self, presenter: &Presenter<'_>) -> Response {
        let value = if self.is_gone {
            let key = &self.object.key;
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {
                    "name": key.name, "group": key.kind.group, "kind": key.kind.plural,
                    "uid": self.object.uid(),
                },
            })
        } else {
            presenter.object(&self.object)
        };
        let mut response = (self.status, Json(value)).into_response();
        warn(response.headers_mut(), &self.warnings);
        response
    }
}
