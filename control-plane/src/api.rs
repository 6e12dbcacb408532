//! The HTTP API: a subset of the Kubernetes API for documents, and `/v1` beside it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{any, get};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri, header};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::refusal::Refusal;
use crate::finding::codes;
use crate::fleet::Fleet;
use crate::pipeline::translator::Translated;
use crate::pipeline::{Pipeline, Release};
use crate::source::directory::{FILE_ANNOTATION, file_of};
use crate::store::Store;
use crate::store::change::{Action, Change, Committed, StoreError, Write};
use crate::store::state::State;

pub mod apply;
pub mod body;
pub mod bundle;
pub mod events;
pub mod fleet;
pub mod groups;
pub mod guard;
pub mod kube;
pub mod meter;
pub mod multipart;
pub mod news;
pub mod refusal;
pub mod revisions;
#[cfg(test)]
mod testing;
pub mod v1;

/// The greatest body of a request.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// The greatest object, as JSON.
pub const OBJECT_BYTES_MAX: usize = 1 << 20;

/// How long a write of raw resources waits for their publication.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);

/// What the API is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Documents and raw groups.
    pub store: Arc<Store>,
    /// Who is connected.
    pub fleet: Arc<Fleet>,
    /// Publishes what is stored.
    pub pipeline: Pipeline,
    /// Ends watches and event streams.
    pub shutdown: CancellationToken,
}

/// The API.
#[derive(Debug)]
pub struct Api {
    /// Documents and raw groups.
    pub store: Arc<Store>,
    fleet: Arc<Fleet>,
    pipeline: Pipeline,
    news: news::Ring,
    shutdown: CancellationToken,
}

impl Api {
    /// Puts the API together.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { store, fleet, pipeline, shutdown } = parts;
        Arc::new(Self { store, fleet, pipeline, news: news::Ring::default(), shutdown })
    }

    /// Serves plain HTTP/1.1 and HTTP/2 until the shutdown token says otherwise; requests that are
    /// under way are answered.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let shutdown = self.shutdown.clone();
        axum::serve(listener, self.router())
            .with_graceful_shutdown(async move { shutdown.cancelled().await })
            .await
    }

    /// Turns what happens into events until the shutdown token says otherwise.
    pub async fn collect_events(&self) {
        news::collect(self).await;
    }

    /// All routes.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/version", get(kube::version))
            .route("/api", get(kube::core))
            .route("/apis", get(kube::groups))
            .route("/openapi/v3", get(kube::openapi_index))
            .route("/openapi/v3/{*place}", get(kube::openapi_document))
            .route("/api/{*rest}", any(kube::core_objects))
            .route("/apis/{group}", get(kube::one_group))
            .route("/apis/{group}/{*rest}", any(kube::group_objects))
            .merge(v1::router())
            .fallback(no_such_path)
            .method_not_allowed_fallback(no_such_method)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .layer(middleware::from_fn(guard::local_only))
            .layer(middleware::from_fn_with_state(self.clone(), meter::count))
            .with_state(self.clone())
    }

    /// Stores a change, on a thread that may wait for the disk.
    async fn commit(self: &Arc<Self>, change: Change) -> Result<Committed, Refusal> {
        self.commit_checked(change, |_, _| Ok(())).await
    }

    /// The same, if what would be stored passes the check.
    async fn commit_checked<F>(
        self: &Arc<Self>,
        change: Change,
        check: F,
    ) -> Result<Committed, Refusal>
    where
        F: Fn(&State, &State) -> Result<(), StoreError> + Send + 'static,
    {
        self.keep_files(&change)?;
        let (api, began) = (self.clone(), Instant::now());
        let written = spawn_blocking(move || api.store.commit_checked(&change, &check)).await;
        let answer = match written {
            Ok(committed) => committed.map_err(Refusal::from),
            Err(error) => {
                tracing::error!(%error, "a write ended early");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Err(Refusal::new(status, codes::INTERNAL, "a write ended early"))
            }
        };
        meter::count_write(self.pipeline.metrics(), began.elapsed(), answer.as_ref().err());
        answer
    }
}

impl Api {
    /// Refuses writes of objects that stand in files: the files would win again.
    fn keep_files(&self, change: &Change) -> Result<(), Refusal> {
        let state = self.store.state();
        for Write { key, action, .. } in &change.writes {
            let stored = state.objects.get(key).and_then(|object| file_of(&object.value));
            let file = match (action, stored) {
                (Action::Status(_), _) => continue,
                (_, Some(file)) => file,
                (Action::Put(value), None) => match file_of(value) {
                    Some(_) => {
                        let detail = format!("{key}: {FILE_ANNOTATION} is for the server to set");
                        return Err(Refusal::bad_request(detail).about(key.kind, &key.name));
                    }
                    None => continue,
                },
                (Action::Delete, None) => continue,
            };
            let detail = format!("{key} stands in {file}; change it there");
            return Err(Refusal::new(StatusCode::CONFLICT, codes::FILE_OWNED, detail)
                .about(key.kind, &key.name)
                .fact("object", key.to_string())
                .fact("file", file));
        }
        Ok(())
    }

    /// What documents amount to, worked out where it keeps nobody waiting.
    async fn translated(&self, state: Arc<State>) -> Arc<Translated> {
        let translator = self.pipeline.translator().clone();
        spawn_blocking(move || translator.translated(&state.objects)).await.unwrap_or_default()
    }

    /// Returns when a revision is published.
    async fn wait_published(&self, revision: u64) -> Result<(), Refusal> {
        let mut published = self.pipeline.published();
        let is_out = |release: &Release| release.revision.is_some_and(|out| out >= revision);
        match timeout(PUBLISH_TIMEOUT, published.wait_for(is_out)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                let detail = format!("r{revision} is stored, and not published in time");
                Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, codes::INTERNAL, detail))
            }
        }
    }
}

/// Who writes: the field manager, else the first word of the user agent.
fn who(field_manager: Option<&str>, headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    let agent = agent.and_then(|agent| agent.split(['/', ' ']).next());
    let who = field_manager.filter(|manager| !manager.is_empty()).or(agent);
    who.unwrap_or("anonymous").chars().filter(|c| !c.is_control()).take(128).collect()
}

/// The media type of a body, without parameters.
fn media_type(headers: &HeaderMap) -> &str {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    content_type.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim()
}

/// The bytes of a body, or why there are none.
fn whole(body: Result<Bytes, axum::extract::rejection::BytesRejection>) -> Result<Bytes, Refusal> {
    body.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let detail = format!("the body has more than {} MiB", BODY_BYTES_MAX >> 20);
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, codes::TOO_LARGE, detail)
        } else {
            Refusal::bad_request(rejection.body_text())
        }
    })
}

async fn no_such_path(uri: Uri) -> axum::response::Response {
    answer(&uri, &Refusal::not_found(format!("there is nothing at {}", uri.path())))
}

async fn no_such_method(method: http::Method, uri: Uri) -> axum::response::Response {
    answer(&uri, &Refusal::no_such_verb(&method))
}

fn answer(uri: &Uri, refusal: &Refusal) -> axum::response::Response {
    if uri.path().starts_with("/v1/") {
        v1::problem(uri.path(), refusal)
    } else {
        refusal.status_response()
    }
}
