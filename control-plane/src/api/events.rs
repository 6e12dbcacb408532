//! `/v1/events`: what happens, as server-sent events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Uri, header};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::api::Api;
use crate::api::news::News;
use crate::api::refusal::Refusal;
use crate::api::v1::or_problem;

/// Keeps the connection, and everything on its way, awake.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

/// Which events.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Wanted {
    types: String,
    after: Option<u64>,
}

/// `GET /v1/events`: from this moment on, or after the event that the client saw last.
pub async fn stream(
    State(api): State<Arc<Api>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let answer = || {
        let Query(Wanted { types, after }) =
            wanted.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
        let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
        let types = types.split(',').map(str::trim).filter(|word| !word.is_empty());
        let reader = Reader {
            seen: last.or(after).unwrap_or_else(|| api.news.newest()),
            added: api.news.added(),
            types: types.map(str::to_owned).collect(),
            // Says that the stream has begun.
            lines: VecDeque::from([Bytes::from_static(b": weighlock\n\n")]),
            api,
        };
        let lines = stream::unfold(reader, |mut reader| async move {
            let line = reader.next().await?;
            Some((Ok::<_, std::convert::Infallible>(line), reader))
        });
        let mut response = Response::new(Body::from_stream(lines));
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("text/event-stream");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    };
    or_problem(&uri, answer())
}

struct Reader {
    api: Arc<Api>,
    seen: u64,
    added: watch::Receiver<u64>,
    types: Vec<String>,
    lines: VecDeque<Bytes>,
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            self.added.mark_unchanged();
            match self.api.news.after(self.seen) {
                Some(news) => news.iter().for_each(|news| self.take(news)),
                None => {
                    self.seen = self.api.news.newest();
                    let reset = format!("id: {}\nevent: reset\ndata: {{}}\n\n", self.seen);
                    self.lines.push_back(reset.into());
                }
            }
            if !self.lines.is_empty() {
                continue;
            }
            tokio::select! {
                added = self.added.changed() => if added.is_err() { return None },
                () = sleep(COMMENT_EVERY) => self.lines.push_back(Bytes::from_static(b":\n\n")),
                () = self.api.shutdown.cancelled() => return None,
            }
        }
    }

    fn take(&mut self, news: &News) {
        self.seen = news.id;
        if self.types.is_empty() || self.types.iter().any(|word| word == news.topic()) {
            let News { id, event, data } = news;
            self.lines.push_back(format!("id: {id}\nevent: {event}\ndata: {data}\n\n").into());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::api::testing::{Lines, ROUTES, Server, route};

    /// The next event as its name and data.
    async fn event(lines: &mut Lines) -> (u64, String, Value) {
        let (mut id, mut event) = (0, String::new());
        loop {
            let line = lines.next().await.unwrap();
            match line.split_once(": ") {
                Some(("id", text)) => id = text.parse().unwrap(),
                Some(("event", text)) => event = text.to_owned(),
                Some(("data", text)) => return (id, event, serde_json::from_str(text).unwrap()),
                _ => {}
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_comes_back_misses_nothing() {
        let server = Server::start().await;
        let mut lines = server.lines("/v1/events?types=revision").await;
        assert_eq!(lines.next().await.unwrap(), ": weighlock");
        for name in ["a", "b"] {
            server.call("POST", ROUTES, route(name, "/x")).await;
        }
        let (id, name, data) = event(&mut lines).await;
        assert_eq!(
            (&*name, &data["revision"], &data["summary"]),
            ("revision", &"r1".into(), &"+1 HTTPRoute".into())
        );
        drop(lines);
        let mut lines = server.lines(&format!("/v1/events?types=revision&after={id}")).await;
        assert_eq!(event(&mut lines).await.2["revision"], "r2");
        let mut lines = server.lines("/v1/events?after=1").await;
        assert_eq!(event(&mut lines).await.1, "reset");
    }
}
