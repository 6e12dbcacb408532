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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{ROUTES, Server, route};

    async fn events(server: &Server, query: &str, count: usize) -> Vec<String> {
        let mut lines = server.lines(&format!("{ROUTES}?watch=true{query}")).await;
        let mut events = Vec::new();
        while events.len() < count
            && let Some(event) = lines.event().await
        {
            events.push(event);
        }
        events
    }

    async fn label(server: &Server, name: &str, label: Value) {
        let patch = json!({"metadata": {"labels": {"l": label}}});
        assert_eq!(server.merge(&format!("{ROUTES}/{name}"), patch).await.status, 200);
    }

    #[tokio::test]
    async fn a_watch_begins_where_it_was_asked_to() {
        let server = Server::start().await;
        for name in ["a", "b"] {
            server.call("POST", ROUTES, route(name, "/x")).await;
        }
        label(&server, "a", json!("1")).await;
        server.call("DELETE", &format!("{ROUTES}/b"), Value::Null).await;
        // The present state, never history.
        assert_eq!(events(&server, "&timeoutSeconds=1", 9).await, ["ADDED a@3"]);
        assert_eq!(events(&server, "&resourceVersion=0&timeoutSeconds=1", 9).await, ["ADDED a@3"]);
        let after = events(&server, "&resourceVersion=1", 3).await;
        assert_eq!(after, ["ADDED b@2", "MODIFIED a@3", "DELETED b@4"]);
        let initial = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                       &allowWatchBookmarks=true&timeoutSeconds=1";
        assert_eq!(events(&server, initial, 9).await, ["ADDED a@3", "BOOKMARK @4"]);
        let one = "&fieldSelector=metadata.name=z&resourceVersion=0&timeoutSeconds=1";
        assert!(events(&server, one, 9).await.is_empty());
    }

    #[tokio::test]
    async fn the_bookmark_after_the_initial_events_says_so() {
        let server = Server::start().await;
        let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                     &allowWatchBookmarks=true&timeoutSeconds=1";
        let line = server.lines(&format!("{ROUTES}?{query}")).await.next().await.unwrap();
        let bookmark: Value = serde_json::from_str(&line).unwrap();
        let annotations = &bookmark["object"]["metadata"]["annotations"];
        assert_eq!(annotations["k8s.io/initial-events-end"], "true");
        assert_eq!(bookmark["object"]["kind"], "HTTPRoute");
        let wrong = server.get(&format!("{ROUTES}?watch=1&sendInitialEvents=true")).await;
        assert_eq!(wrong.status, 422);
    }

    #[tokio::test]
    async fn changes_come_as_they_happen_and_a_selector_is_entered_and_left() {
        let server = Server::start().await;
        server.call("POST", ROUTES, route("a", "/x")).await;
        let mut lines = server.lines(&format!("{ROUTES}?watch=1&labelSelector=l=1")).await;
        for value in [json!("1"), json!("1"), json!("2"), json!("1")] {
            label(&server, "a", value).await;
        }
        server.merge(&format!("{ROUTES}/a"), json!({"spec": {"hostnames": ["x.test"]}})).await;
        server.call("DELETE", &format!("{ROUTES}/a"), Value::Null).await;
        let expected = ["ADDED a@2", "DELETED a@3", "ADDED a@4", "MODIFIED a@5", "DELETED a@6"];
        for expected in expected {
            assert_eq!(lines.event().await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn an_unknown_version_is_410() {
        let server = Server::start().await;
        let answer = server.get(&format!("{ROUTES}?watch=1&resourceVersion=99")).await;
        assert_eq!((answer.status, answer.text("/reason")), (410, "Expired"));
        assert_eq!(server.get(&format!("{ROUTES}?watch=1&resourceVersion=x")).await.status, 422);
    }

    #[tokio::test]
    async fn a_watcher_that_comes_and_goes_sees_each_change_once() {
        let server = Server::start().await;
        server.call("POST", ROUTES, route("a", "/x")).await;
        let (mut version, mut seen) = (1, Vec::new());
        for round in 0..5_u32 {
            for n in 0..3 {
                label(&server, "a", json!(format!("{round}-{n}"))).await;
            }
            let query = format!("&resourceVersion={version}");
            for event in events(&server, &query, 1 + round as usize % 3).await {
                version = event.rsplit('@').next().unwrap().parse().unwrap();
                seen.push(version);
            }
        }
        assert_eq!(seen, (2..2 + seen.len() as u64).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn in_a_table_only_the_first_event_says_the_columns() {
        let server = Server::start().await;
        for name in ["a", "b"] {
            server.call("POST", ROUTES, route(name, "/x")).await;
        }
        let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
        let path = format!("{ROUTES}?watch=1&timeoutSeconds=1");
        let text = server.get_as(&path, table).await.body;
        let events: Vec<Value> = text
            .as_str()
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(events[0]["object"]["columnDefinitions"][0]["name"], "Name");
        assert!(events[1]["object"]["columnDefinitions"].is_null());
        assert_eq!(events[1]["object"]["rows"][0]["cells"][0], "b");
    }
}
