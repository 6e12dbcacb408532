//! Replies that the proxy makes itself, as Envoy makes them.

use std::rc::Rc;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

use super::exchange::Exchange;
use super::forward::ATTEMPT_COUNT;
use crate::body::{Body, Deadlines};
use crate::filtering::{Reply, grpc_status, percent_encode, text};
use crate::format::Context;
use crate::guard::Refused;
use crate::listener::local_reply::Draft;
use crate::route::Found;
use crate::route::action::WeightedCluster;
use crate::telemetry::why::Why;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// Why the proxy answers by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Local {
    /// Why.
    pub(super) why: Why,
    /// Its status, where it is not that of the reason.
    pub(super) status: Option<StatusCode>,
    /// Its body, where it is not that of the reason.
    pub(super) body: Option<&'static str>,
    /// Whether earlier tries failed too.
    pub(super) was_retried: bool,
    /// How many tries there were, where the client is to be told.
    pub(super) attempts: Option<u32>,
}

impl Local {
    /// A reply as the reason has it.
    pub(super) fn new(why: Why) -> Self {
        Self { why, status: None, body: None, was_retried: false, attempts: None }
    }

    /// A reply with another status.
    pub(super) fn with_status(why: Why, status: StatusCode) -> Self {
        Self { status: Some(status), ..Self::new(why) }
    }

    /// The response, before it is [shaped](shape).
    pub(super) fn respond(&self) -> Response<Body> {
        let facts = self.why.facts();
        let status = self.status.or(facts.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = match self.body.unwrap_or(facts.body) {
            _ if status == StatusCode::NO_CONTENT => String::new(),
            body if self.was_retried => {
                body.replace("headers. reset", "headers. retried and the latest reset")
            }
            body => body.to_owned(),
        };
        let mut response = text(status, body);
        if let Some(attempts) = self.attempts {
            response.headers_mut().insert(ATTEMPT_COUNT, HeaderValue::from(attempts));
        }
        if self.why == Why::UpstreamOverflow {
            response.headers_mut().insert(OVERLOADED, HeaderValue::from_static("true"));
        }
        response
    }
}

impl From<Local> for Reply {
    fn from(local: Local) -> Self {
        Self::new(local.why, local.respond())
    }
}

/// The route that a request took, and its place among several clusters.
pub(super) type Taken<'a> = Option<(&'a Found<'a>, Option<&'a WeightedCluster>)>;

/// A reply of our own: noted, with what the route adds to its responses, and in its final shape.
pub(super) fn local(
    exchange: &mut Exchange,
    taken: Taken<'_>,
    why: Why,
    mut response: Response<Body>,
) -> Response<Body> {
    note(exchange, why);
    if let Some((found, picked)) = taken {
        decorate(exchange, (found, picked), &mut response);
    }
    let rules = exchange.view.chain().map(|chain| &chain.config.http.local_replies);
    let rules = rules.filter(|rules| !rules.is_empty());
    let response = shape(response, why, exchange.is_grpc, |draft| {
        if let Some(rules) = rules {
            let duration = Some(exchange.started.elapsed());
            let context = Context { duration, ..exchange.context() };
            rules.rewrite(draft, &context);
        }
    });
    watched(exchange, response)
}

/// A reply of our own that goes out as it is.
pub(super) fn last(exchange: &mut Exchange, why: Why, response: Response<Body>) -> Response<Body> {
    note(exchange, why);
    watched(exchange, response)
}

fn note(exchange: &mut Exchange, why: Why) {
    exchange.why = Some(why);
    // Who counted on an upgrade may have sent what is no request.
    exchange.ends_connection |= why == Why::UpgradeRefused;
    exchange.count_local_reply(why);
}

fn watched(exchange: &Exchange, response: Response<Body>) -> Response<Body> {
    let meter = Rc::clone(&exchange.response);
    // Who does not even read what we say ourselves is given up like others.
    let idle =
        exchange.view.chain().and_then(|chain| chain.config.http.options.timeouts.stream_idle);
    response.map(|body| body.watched(meter, Deadlines { idle, end: None }))
}

/// Adds what the route adds to its responses. What the reply has of its own counts more.
fn decorate(
    exchange: &Exchange,
    (found, picked): (&Found<'_>, Option<&WeightedCluster>),
    response: &mut Response<Body>,
) {
    let mut headers = HeaderMap::new();
    // In Envoy, too, there is no status yet.
    found.mutate_response(&mut headers, picked, &exchange.context());
    for (name, value) in std::mem::take(response.headers_mut()).iter() {
        if *name == CONTENT_TYPE {
            headers.entry(name).or_insert_with(|| value.clone());
        } else {
            headers.append(name, value.clone());
        }
    }
    *response.headers_mut() = headers;
}

/// A reply of our own as the listener wants it (`rules`), and then as the client's protocol has
/// it: for gRPC of trailers alone (gRPC over HTTP/2, "Trailers-Only").
pub(super) fn shape(
    response: Response<Body>,
    why: Why,
    is_grpc: bool,
    rewrite: impl FnOnce(&mut Draft<'_>),
) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    let Some(text) = body.known() else { return Response::from_parts(head, body) };
    let before = head.status;
    let text = String::from_utf8_lossy(text).into_owned();
    let mut draft = Draft { status: before, headers: &mut head.headers, body: text };
    rewrite(&mut draft);
    let (status, text) = (draft.status, draft.body);
    if !is_grpc {
        head.status = status;
        if text.is_empty() {
            head.headers.remove(CONTENT_TYPE);
        }
        return Response::from_parts(head, Body::full(text));
    }
    if head.headers.contains_key(GRPC_STATUS) {
        return Response::from_parts(head, body);
    }
    let facts = why.facts();
    let is_as_meant = status == before && facts.status.is_none_or(|meant| meant == status);
    let code = match facts.grpc_status {
        code if is_as_meant && !code.is_empty() => code,
        _ => grpc_status(status),
    };
    head.status = StatusCode::OK;
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers.insert(GRPC_STATUS, HeaderValue::from_static(code));
    // The line end of a JSON body is no part of a message.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    if !text.is_empty()
        && let Ok(message) = HeaderValue::try_from(percent_encode(text))
    {
        head.headers.insert(GRPC_MESSAGE, message);
    }
    Response::from_parts(head, Body::empty())
}

/// The answer to a request that the guard refuses, and more details than the reason has.
pub(super) fn refused(refused: Refused) -> (Why, Option<&'static str>, Response<Body>) {
    match refused {
        Refused::Why(why) => (why, None, Local::new(why).respond()),
        Refused::Detail(why, details) => (why, Some(details), Local::new(why).respond()),
        Refused::Status(status, details) => {
            (Why::Unacceptable, Some(details), text(status, String::new()))
        }
        Refused::NoClient(status) => (Why::ClientUnknown, None, text(status, String::new())),
        Refused::Redirect(location) => {
            let mut response = text(StatusCode::TEMPORARY_REDIRECT, String::new());
            response.headers_mut().insert(http::header::LOCATION, location);
            (Why::DirectResponse, None, response)
        }
    }
}

/// Takes off the body where the client expects none: the codec of HTTP/2 would send it.
pub(super) fn fit_body(response: &mut Response<Body>, method: &Method) {
    let status = response.status();
    let has_none = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if method != Method::HEAD && !has_none {
        return;
    }
    let length = http_body::Body::size_hint(response.body()).exact();
    *response.body_mut() = Body::empty();
    if status == StatusCode::NO_CONTENT {
        response.headers_mut().remove(CONTENT_LENGTH);
    } else if let Some(length) = length.filter(|length| *length > 0) {
        let length = HeaderValue::from(length);
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(length);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text(local: &Local) -> (u16, Option<String>, String) {
        let response = local.respond();
        let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap().into());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn replies_read_as_envoys_do() {
        let plain = Some("text/plain".to_owned());
        assert_eq!(text(&Local::new(Why::NoRoute)).await, (404, None, String::new()));
        assert_eq!(
            text(&Local::new(Why::NoHealthyEndpoint)).await,
            (503, plain.clone(), "no healthy upstream".into())
        );
        assert_eq!(
            text(&Local { was_retried: true, ..Local::new(Why::UpstreamReset) }).await,
            (
                503,
                plain.clone(),
                "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote reset".into()
            )
        );
        assert_eq!(
            text(&Local::new(Why::UpstreamTimeout)).await,
            (504, plain, "upstream request timeout".into())
        );
        let overflow = Local::new(Why::UpstreamOverflow).respond();
        assert_eq!(overflow.headers()["x-envoy-overloaded"], "true");
    }

    #[test]
    fn grpc_clients_get_their_own_status_by_meaning() {
        let shaped = |why, change: &dyn Fn(&mut Draft<'_>)| {
            let response = shape(Local::new(why).respond(), why, true, change);
            assert_eq!((response.status(), response.body().is_empty()), (StatusCode::OK, true));
            let text = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
            format!("{} {}", text("grpc-status"), text("grpc-message"))
        };
        assert_eq!(shaped(Why::UpstreamTimeout, &|_| {}), "14 upstream request timeout");
        let late = Local::with_status(Why::StreamTimeout, StatusCode::GATEWAY_TIMEOUT).respond();
        let late = shape(late, Why::StreamTimeout, true, |_| {});
        assert_eq!(late.headers()[GRPC_STATUS], "4");
        let idle = Local::with_status(Why::IdleTimeout, StatusCode::GATEWAY_TIMEOUT).respond();
        let idle = shape(idle, Why::IdleTimeout, true, |_| {});
        assert_eq!(idle.headers()[GRPC_STATUS], "14");
        let mapped = |draft: &mut Draft<'_>| {
            draft.status = StatusCode::UNAUTHORIZED;
            draft.body = "who?".into();
        };
        assert_eq!(shaped(Why::UpstreamTimeout, &mapped), "16 who?");
    }

    #[test]
    fn a_head_request_gets_the_length_and_not_the_body() {
        let mut response = Response::new(Body::full("hello"));
        fit_body(&mut response, &Method::HEAD);
        assert_eq!(response.headers()[CONTENT_LENGTH], "5");
        assert!(response.body().is_empty());
    }
}
