//! Watches: one JSON event a line, in the order of their versions, each once.
//!
//! A watcher reads from the store's window when its client is ready for more, so a slow one costs
//! no memory. One that falls out of the window is told to list again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::api::Api;
use crate::api::kube::form::{Form, Presenter};
use crate::api::kube::query::{Query, invalid};
use crate::api::kube::selector::Selector;
use crate::api::kube::target::Target;
use crate::api::refusal::Refusal;
use crate::store::change::{Effect, Event};
use crate::store::state::Object;

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
const LASTS_AT_LEAST: u64 = 30 * 60;

/// From where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// What is there, then changes.
    Present { bookmark: bool },
    /// Changes after this version.
    After(u64),
    /// Changes from this moment on.
    Now,
}

/// Answers a watch.
///
/// # Errors
/// 400 or 422 for a wrong parameter, 410 when the version is no longer known.
pub fn watch(
    api: &Arc<Api>,
    target: Target,
    query: &Query,
    form: Form,
) -> Result<Response, Refusal> {
    let selector = query.selector()?;
    let start = start(query)?;
    let lasts = query
        .timeout_seconds()?
        .unwrap_or_else(|| fastrand::u64(LASTS_AT_LEAST..=2 * LASTS_AT_LEAST));
    let changed = api.store.changed();
    let mut watcher = Watcher {
        api: api.clone(),
        target,
        selector,
        form,
        changed,
        version: 0,
        lines: VecDeque::new(),
        is_first: true,
        is_over: false,
        bookmarks: query.allow_watch_bookmarks(),
        next_bookmark: Instant::now() + BOOKMARK_EVERY,
        ends: Instant::now() + Duration::from_secs(lasts),
    };
    watcher.begin(start)?;
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), watcher))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

fn start(query: &Query) -> Result<Start, Refusal> {
    let version = query.resource_version.as_str();
    let number = version.parse::<u64>().ok();
    if !version.is_empty() && number.is_none() {
        return Err(invalid("resourceVersion", version, "must be a number"));
    }
    match query.send_initial_events() {
        Some(true) if query.resource_version_match != "NotOlderThan" => {
            let got = query.resource_version_match.as_str();
            Err(invalid("resourceVersionMatch", got, "must be NotOlderThan"))
        }
        Some(true) => Ok(Start::Present { bookmark: query.allow_watch_bookmarks() }),
        Some(false) if number.unwrap_or(0) == 0 => Ok(Start::Now),
        Some(false) | None => Ok(match number.unwrap_or(0) {
            0 => Start::Present { bookmark: false },
            version => Start::After(version),
        }),
    }
}

struct Watcher {
    api: Arc<Api>,
    target: Target,
    selector: Selector,
    form: Form,
    changed: watch::Receiver<u64>,
    /// Everything up to here has been sent.
    version: u64,
    lines: VecDeque<Bytes>,
    is_first: bool,
    is_over: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    ends: Instant,
}

impl Watcher {
    fn begin(&mut self, start: Start) -> Result<(), Refusal> {
        let state = self.api.store.state();
        match start {
            Start::Now => self.version = state.resource_version,
            Start::After(version) => {
                self.version = version;
                self.api.store.events_after(version)?;
            }
            Start::Present { bookmark } => {
                self.version = state.resource_version;
                for object in state.objects.of_kind(self.target.kind) {
                    if self.wants(object) {
                        let plain = self.plain(object);
                        self.push("ADDED", &plain);
                    }
                }
                if bookmark {
                    self.push_bookmark(json!({"k8s.io/initial-events-end": "true"}));
                }
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.is_over {
                return None;
            }
            self.changed.mark_unchanged();
            match self.api.store.events_after(self.version) {
                Ok(events) => events.iter().for_each(|event| self.take(event)),
                Err(expired) => {
                    self.is_over = true;
                    self.push_line("ERROR", &Refusal::from(expired).as_status());
                }
            }
            if !self.lines.is_empty() {
                continue;
            }
            tokio::select! {
                changed = self.changed.changed() => self.is_over = changed.is_err(),
                () = sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.push_bookmark(Value::Null);
                }
                () = sleep_until(self.ends) => self.is_over = true,
                () = self.api.shutdown.cancelled() => self.is_over = true,
            }
        }
    }

    fn take(&mut self, event: &Event) {
        self.version = event.resource_version;
        let was = event.previous.as_ref().filter(|object| self.wants(object));
        let is = Some(&event.object)
            .filter(|object| event.effect != Effect::Deleted && self.wants(object));
        let (what, object) = match (was, is) {
            (None, None) => return,
            (None, Some(object)) => ("ADDED", object),
            (Some(_), Some(object)) => ("MODIFIED", object),
            (Some(object), None) => ("DELETED", object),
        };
        let mut plain = self.plain(object);
        // What went is shown as it was, with the version at which it went.
        if let Some(version) = plain.pointer_mut("/metadata/resourceVersion") {
            *version = event.resource_version.to_string().into();
        }
        self.push(what, &plain);
    }

    fn wants(&self, object: &Object) -> bool {
        let (key, target) = (&object.key, &self.target);
        key.kind.group == target.kind.group
            && key.kind.kind == target.kind.kind
            && target.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && self.selector.matches(&object.value)
    }

    fn presenter(&self) -> Presenter<'_> {
        Presenter { api: &self.api, target: &self.target, form: self.form, now: SystemTime::now() }
    }

    fn plain(&self, object: &Object) -> Value {
        self.presenter().plain(object)
    }

    fn push(&mut self, what: &str, plain: &Value) {
        let shown = self.presenter().watched(plain, self.is_first);
        self.is_first = false;
        self.push_line(what, &shown);
    }

    fn push_bookmark(&mut self, annotations: Value) {
        self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if let (Some(metadata), true) = (metadata.as_object_mut(), annotations.is_object()) {
            metadata.insert("annotations".into(), annotations);
        }
        let plain = json!({
            "kind": self.target.kind.kind, "apiVersion": self.target.api_version(),
            "metadata": metadata,
        });
        self.push("BOOKMARK", &plain);
    }

    fn push_line(&mut self, what: &str, object: &Value) {
        let mut line = json!({"type": what, "object": object}).to_string();
        line.push('\n');
        self.lines.push_back(line.into());
    }
}
