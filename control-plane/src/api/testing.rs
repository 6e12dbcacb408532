//! A server over a store that forgets, and a client for it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::api::{Api, Parts};
use crate::fleet::Fleet;
use crate::pipeline::Pipeline;
use crate::snapshot::Snapshots;
use crate::store::Store;

/// A server that ends with it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) api: Arc<Api>,
    pub(crate) snapshots: Arc<Snapshots>,
    authority: String,
    tasks: TaskTracker,
    _shutdown: DropGuard,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// The lines of an answer that does not end.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Server {
    /// Nothing writes but the test.
    pub(crate) async fn start() -> Self {
        Self::start_with(false).await
    }

    /// What is stored is published too, and gets statuses.
    pub(crate) async fn start_with_pipeline() -> Self {
        Self::start_with(true).await
    }

    async fn start_with(pipeline_runs: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let (store, shutdown) = (Arc::new(Store::in_memory().unwrap()), CancellationToken::new());
        let (fleet, snapshots) = (Arc::new(Fleet::default()), Arc::new(Snapshots::default()));
        let metrics = Arc::default();
        let pipeline = Pipeline::new(store.clone(), snapshots.clone(), fleet.clone(), metrics);
        let parts = Parts { store, fleet, pipeline: pipeline.clone(), shutdown: shutdown.clone() };
        let (api, tasks) = (Api::new(parts), TaskTracker::new());
        let token = shutdown.clone();
        if pipeline_runs {
            tasks.spawn(async move { pipeline.run(token).await.unwrap() });
        }
        let serving = api.clone();
        tasks.spawn(async move { serving.serve(listener).await.unwrap() });
        let collecting = api.clone();
        tasks.spawn(async move { collecting.collect_events().await });
        Self { api, snapshots, authority, tasks, _shutdown: shutdown.drop_guard() }
    }

    /// One request with a body of this type.
    pub(crate) async fn send(&self, verb: &str, path: &str, kind: &str, body: &str) -> Answer {
        let request = self.request(verb, path).header(header::CONTENT_TYPE, kind);
        self.ask(request.body(Bytes::copy_from_slice(body.as_bytes()).into()).unwrap()).await
    }

    /// One request with a JSON body; none where it is null.
    pub(crate) async fn call(&self, verb: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(verb, path, "application/json", &body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Value::Null).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        let request = self.request("GET", path).header(header::ACCEPT, accept);
        self.ask(request.body(Full::default()).unwrap()).await
    }

    pub(crate) async fn merge(&self, path: &str, body: Value) -> Answer {
        self.send("PATCH", path, "application/merge-patch+json", &body.to_string()).await
    }

    /// Begins to read an answer that does not end.
    pub(crate) async fn lines(&self, path: &str) -> Lines {
        let request = self.request("GET", path).body(Full::default()).unwrap();
        Lines { body: self.answer(request).await.into_body(), rest: Vec::new() }
    }

    pub(crate) async fn ask(&self, request: Request<Full<Bytes>>) -> Answer {
        let (head, body) = self.answer(request).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub(crate) fn request(&self, verb: &str, path: &str) -> http::request::Builder {
        Request::builder().method(verb).uri(path).header(header::HOST, &self.authority)
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> http::Response<Incoming> {
        let stream = TokioIo::new(TcpStream::connect(&self.authority).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        self.tasks.spawn(connection);
        sender.send_request(request).await.unwrap()
    }
}

impl Answer {
    pub(crate) fn warnings(&self) -> Vec<String> {
        let values = self.headers.get_all(header::WARNING).iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Lines {
    /// The next line; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let frame = self.body.frame().await?.unwrap();
            self.rest.extend(frame.into_data().unwrap());
        }
    }

    /// The next watch event as `ADDED name@version`.
    pub(crate) async fn event(&mut self) -> Option<String> {
        let event: Value = serde_json::from_str(&self.next().await?).unwrap();
        let metadata = &event["object"]["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (name, version) = (text(&metadata["name"]), text(&metadata["resourceVersion"]));
        let code = event["object"]["code"].as_u64().map(|code| code.to_string());
        let what = code.unwrap_or_else(|| format!("{name}@{version}"));
        Some(format!("{} {what}", text(&event["type"])))
    }
}

/// Where HTTPRoutes of a namespace are.
pub(crate) const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes";

/// A route that points nowhere.
pub(crate) fn route(name: &str, path: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name},
        "spec": {"rules": [{"matches": [{"path": {"value": path}}]}]},
    })
}
