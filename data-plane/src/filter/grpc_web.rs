//! Lets browsers call gRPC services: gRPC-Web on their side, gRPC on the side of the endpoints.
//!
//! API: `envoy.extensions.filters.http.grpc_web.v3.GrpcWeb`. Protocol: gRPC's `PROTOCOL-WEB.md`.

mod request;
mod response;

use std::convert::Infallible;

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::{Request, Response, StatusCode};
use xds_proto::envoy::extensions::filters::http::grpc_web::v3 as api;
use xds_proto::field::FieldError;

use self::request::Decoded;
use self::response::Framed;
use super::HttpFilter;
use crate::body::Body;
use crate::filtering::collect::collect;
use crate::filtering::stage::Stage;
use crate::filtering::{Verdict, grpc_status, is_grpc, percent_encode};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const WEB: HeaderValue = HeaderValue::from_static("application/grpc-web+proto");
const WEB_TEXT: HeaderValue = HeaderValue::from_static("application/grpc-web-text+proto");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const ENCODINGS: HeaderValue = HeaderValue::from_static("identity,deflate,gzip");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How much of a text that is not gRPC becomes a message, as in Envoy.
const EXPLANATION_BYTES_MAX: usize = 16 * 1024;

/// Translates gRPC-Web.
#[derive(Debug)]
pub struct GrpcWeb;

/// The request is gRPC-Web.
#[derive(Debug, Clone, Copy)]
struct IsWeb {
    /// Whether the response is to be base64 text.
    wants_text: bool,
}

impl HttpFilter for GrpcWeb {
    type Config = api::GrpcWeb;
    type RouteConfig = Self::Config;
    type Route = Infallible;
    const IS_FOR_ROUTES: bool = false;

    fn compile(_: Self::Config) -> Result<Self, FieldError> {
        Ok(Self)
    }

    async fn on_request(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        let headers = request.headers();
        let Some(is_text) = headers.get(CONTENT_TYPE).and_then(is_text) else {
            return Verdict::Continue;
        };
        let wants_text = headers.get(ACCEPT).and_then(self::is_text) == Some(true);
        stage.remember(IsWeb { wants_text });
        let headers = request.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_TYPE, GRPC);
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(GRPC_ACCEPT_ENCODING, ENCODINGS);
        if is_text {
            let body = std::mem::take(request.body_mut());
            let objection = stage.objection();
            *request.body_mut() = body.wrapped(|body| Decoded::new(body, objection));
        }
        Verdict::Continue
    }

    async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
        let Some(IsWeb { wants_text }) = stage.recall().copied() else { return };
        let is_answer = response.status() == StatusCode::OK && is_grpc(response.headers());
        if !is_answer && !response.body().is_empty() {
            return explain(response).await;
        }
        let headers = response.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_TYPE, if wants_text { WEB_TEXT } else { WEB });
        if !response.body().is_empty() {
            let body = std::mem::take(response.body_mut());
            *response.body_mut() = body.wrapped(|body| Framed::new(body, wants_text));
        }
    }
}

/// A response that is not gRPC, as an error that a client can read: its text is the message.
async fn explain(response: &mut Response<Body>) {
    let text = collect(std::mem::take(response.body_mut()), EXPLANATION_BYTES_MAX).await;
    let status = grpc_status(response.status());
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, WEB);
    headers.entry(GRPC_STATUS).or_insert(HeaderValue::from_static(status));
    let Ok(text) = text else { return };
    let bytes = text.data();
    let bytes = bytes.get(..EXPLANATION_BYTES_MAX).unwrap_or(bytes);
    let message = percent_encode(&String::from_utf8_lossy(bytes));
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert(GRPC_MESSAGE, message);
    }
}

/// Whether gRPC-Web is sent as base64 text; none where it is not gRPC-Web.
fn is_text(kind: &HeaderValue) -> Option<bool> {
    match kind.as_bytes() {
        b"application/grpc-web" | b"application/grpc-web+proto" => Some(false),
        b"application/grpc-web-text" | b"application/grpc-web-text+proto" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use http_body_util::BodyExt;

    use super::*;
    use crate::filtering::collect::testing::frames;
    use crate::filtering::stage::testing::Scene;

    async fn bytes(body: Body) -> Vec<u8> {
        body.collect().await.unwrap().to_bytes().to_vec()
    }

    /// What goes upstream, and what comes back of a response with trailers.
    async fn call(kind: &str, accept: &str, body: Body) -> (Request<Body>, Response<Body>) {
        let mut request = Request::post("/s/m")
            .header("content-type", kind)
            .header("accept", accept)
            .body(body)
            .unwrap();
        let mut scene = Scene::default();
        let verdict = GrpcWeb.on_request(&mut request, &mut scene.stage()).await;
        assert!(matches!(verdict, Verdict::Continue));
        let mut response = Response::new(frames(&["\0\0\0\0\x02hi"], &[("grpc-status", "0")]));
        response.headers_mut().insert(CONTENT_TYPE, GRPC);
        GrpcWeb.on_response(&mut response, &mut scene.stage()).await;
        (request, response)
    }

    const ANSWER: &[u8] = b"\0\0\0\0\x02hi\x80\0\0\0\x0fgrpc-status:0\r\n";

    #[tokio::test]
    async fn binary_calls_differ_in_their_trailers_only() {
        let (request, response) =
            call("application/grpc-web+proto", "*/*", Body::full("abc")).await;
        assert_eq!(request.headers()[CONTENT_TYPE], "application/grpc");
        assert_eq!(request.headers()[TE], "trailers");
        assert_eq!(bytes(request.into_body()).await, b"abc");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc-web+proto");
        assert_eq!(bytes(response.into_body()).await, ANSWER);
    }

    #[tokio::test]
    async fn text_calls_are_decoded_and_encoded() {
        // Clients may encode piece by piece, each with its padding.
        let sent = frames(&["YQ", "==Ym", "M=", "ZGU=", "\n"], &[]);
        let text = "application/grpc-web-text";
        let (request, response) = call(text, text, sent).await;
        assert_eq!(bytes(request.into_body()).await, b"abcde");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc-web-text+proto");
        let answer = bytes(response.into_body()).await;
        let pieces = String::from_utf8(answer).unwrap();
        let decoded: Vec<u8> =
            pieces.as_bytes().chunks(4).flat_map(|piece| STANDARD.decode(piece).unwrap()).collect();
        assert_eq!(decoded, ANSWER);
    }

    #[tokio::test]
    async fn text_that_is_not_base64_is_broken_off() {
        let text = "application/grpc-web-text";
        let (request, _) = call(text, text, Body::full("&&&&")).await;
        assert!(request.into_body().collect().await.is_err());
    }

    #[tokio::test]
    async fn a_response_that_is_not_grpc_becomes_an_error_of_its_text() {
        let mut scene = Scene::default();
        let mut request = Request::new(Body::empty());
        request.headers_mut().insert(CONTENT_TYPE, WEB);
        GrpcWeb.on_request(&mut request, &mut scene.stage()).await;
        let mut response = crate::filtering::text(StatusCode::FORBIDDEN, "no entry\n");
        GrpcWeb.on_response(&mut response, &mut scene.stage()).await;
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["grpc-message"], "no entry%0A");
        assert!(response.body().is_empty());
    }

    #[tokio::test]
    async fn other_requests_are_left_alone() {
        let (request, response) = call("application/json", "*/*", Body::full("abc")).await;
        assert_eq!(request.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
    }
}
