//! A service that is asked by HTTP: it sees the head of the request, and answers with a status.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use serde_json::Map;

use super::answer::{Allowed, Answer, How, Name, Refusal};
use super::{ExtAuthz, SeenBody};
use crate::body::Body;
use crate::filtering::collect::{Collected, collect};
use crate::filtering::joined;
use crate::filtering::stage::{Stage, path};
use crate::format::Context;
use crate::format::mutation::{HeaderMutations, Side};
use crate::matcher::StringMatcher;

const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// An answer that is longer is cut off.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// How the service is asked, and what of its answer is passed on.
#[derive(Debug)]
pub(super) struct HttpService {
    pub(super) path_prefix: Box<str>,
    /// Asked instead of the request's own path.
    pub(super) path_override: Option<Box<str>>,
    /// Headers that it sees beside those of the filter.
    pub(super) shown: Option<Box<[StringMatcher]>>,
    pub(super) add: HeaderMutations,
    pub(super) upstream: Box<[StringMatcher]>,
    pub(super) upstream_append: Box<[StringMatcher]>,
    /// None: all but the host.
    pub(super) client_denied: Option<Box<[StringMatcher]>>,
    pub(super) client_allowed: Box<[StringMatcher]>,
    pub(super) metadata: Box<[StringMatcher]>,
}

fn is_in(list: &[StringMatcher], name: &HeaderName) -> bool {
    list.iter().any(|one| one.matches(name.as_str().as_bytes()))
}

impl HttpService {
    /// The request to the service.
    pub(super) fn request(
        &self,
        filter: &ExtAuthz,
        (asked, timeout): (&Request<Body>, Duration),
        body: &SeenBody,
        stage: &Stage<'_>,
    ) -> Request<Body> {
        let mut request = Request::new(Body::full(body.data.clone()));
        request.method_mut().clone_from(asked.method());
        let path = match &self.path_override {
            Some(path) => path.to_string(),
            None => format!("{}{}", self.path_prefix, path(asked)),
        };
        *request.uri_mut() = path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        for name in asked.headers().keys() {
            let is_usual = *name == HOST || *name == AUTHORIZATION;
            let is_shown = is_usual || self.shown.as_ref().is_some_and(|list| is_in(list, name));
            if *name == CONTENT_LENGTH || !filter.settings.shows(name.as_str(), is_shown) {
                continue;
            }
            if filter.settings.is_raw {
                let lines = asked.headers().get_all(name).iter().cloned();
                headers.extend(lines.map(|line| (name.clone(), line)));
            } else if let Some(line) = joined(asked.headers(), name) {
                headers.insert(name, line);
            }
        }
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.data.len()));
        if let Some(is_partial) = body.is_partial {
            let value = HeaderValue::from_static(if is_partial { "true" } else { "false" });
            headers.insert(PARTIAL_BODY, value);
        }
        let context = Context { request_headers: Some(asked.headers()), ..stage.context() };
        self.add.apply(headers, Side::Request, &context);
        headers.insert(INTERNAL, HeaderValue::from_static("true"));
        let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(milliseconds));
        request
    }

    /// What its answer means.
    pub(super) async fn read(&self, response: Response<Body>) -> Answer {
        let (head, body) = response.into_parts();
        if head.status.is_server_error() {
            return Answer::Failed(None);
        }
        let Ok(body) = collect(body, ANSWER_BYTES_MAX).await else { return Answer::Failed(None) };
        if head.status != StatusCode::OK {
            return self.denied(head.status, &head.headers, &body);
        }
        Answer::Allowed(Box::new(self.allowed(&head.headers)))
    }

    fn allowed(&self, headers: &HeaderMap) -> Allowed {
        let mut allowed = Allowed::default();
        let mut metadata = Map::new();
        for (name, value) in headers {
            let header = || Name::Header(name.clone());
            if is_in(&self.upstream, name) {
                allowed.request.push((header(), value.clone(), How::Set));
            }
            if is_in(&self.upstream_append, name) {
                allowed.request.push((header(), value.clone(), How::Add));
            }
            if is_in(&self.client_allowed, name) {
                allowed.response.push((name.clone(), value.clone(), How::Add));
            }
            if is_in(&self.metadata, name) {
                let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
                metadata.insert(name.as_str().to_owned(), text.into());
            }
        }
        let remove = headers.get_all(REMOVE).iter().filter_map(|line| line.to_str().ok());
        let names = remove.flat_map(|line| line.split(','));
        allowed.remove = names.filter_map(|name| name.trim().parse().ok()).collect();
        allowed.metadata = (!metadata.is_empty()).then_some(metadata);
        allowed
    }

    fn denied(&self, status: StatusCode, headers: &HeaderMap, body: &Collected) -> Answer {
        let is_passed = |name: &HeaderName| match &self.client_denied {
            None => !matches!(
                name.as_str(),
                "host" | "content-length" | "connection" | "date" | "transfer-encoding" | "server"
            ),
            Some(list) => {
                matches!(name.as_str(), "www-authenticate" | "location") || is_in(list, name)
            }
        };
        let passed = headers.iter().filter(|(name, _)| is_passed(name));
        Answer::Denied(Box::new(Refusal {
            status: Some(status),
            headers: passed.map(|(name, value)| (name.clone(), value.clone())).collect(),
            body: Bytes::clone(body.data()),
            metadata: None,
        }))
    }
}
