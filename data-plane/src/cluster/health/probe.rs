//! Asks an endpoint how it is, once.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::task::TaskTracker;

use super::{CheckConfig, Found, GrpcQuestion, HttpQuestion, Question, TcpQuestion};
use crate::cluster::connect::{Connector, Stream};
use crate::cluster::purpose::Purpose;
use crate::format::Context;
use crate::format::mutation::Side;
use crate::tls::client::Offer;

const DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");
const FAIL: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");
const SERVES: HeaderName = HeaderName::from_static("x-envoy-upstream-healthchecked-cluster");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const AGENT: HeaderValue = HeaderValue::from_static("Envoy/HC");
/// `grpc.health.v1.HealthCheckResponse.SERVING`, as the whole message.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
/// The most that a gRPC answer is read of.
const GRPC_BODY_MAX: usize = 1024;

/// Asks one endpoint, over one connection if it lasts.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) connector: Arc<Connector>,
    /// What to call it, whatever the question says.
    pub(crate) own_host: Option<Arc<str>>,
    /// What to call it, where nobody says.
    pub(crate) cluster: Arc<str>,
    /// Drives the connection.
    pub(crate) tasks: TaskTracker,
    pub(crate) sender: Option<Sender>,
}

/// A connection for checks.
#[derive(Debug)]
pub(crate) enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Probe {
    /// Asks, and judges the answer.
    pub(crate) async fn ask(&mut self, check: &CheckConfig) -> Found {
        let asked = tokio::time::timeout(check.timeout, self.try_ask(check)).await;
        // What is half said is no use to the next check.
        let found = asked.unwrap_or_else(|_| {
            self.sender = None;
            None
        });
        if !check.reuses {
            self.sender = None;
        }
        found.unwrap_or(Found::Failed)
    }

    async fn try_ask(&mut self, check: &CheckConfig) -> Option<Found> {
        match &check.question {
            Question::Http(question) => self.ask_http(question).await,
            Question::Tcp(question) => {
                let mut stream =
                    self.connector.connect(Offer::Http1, &Purpose::default()).await.ok()?;
                exchange(&mut stream, question).await
            }
            Question::Grpc(question) => self.ask_grpc(question).await,
        }
    }

    async fn ask_http(&mut self, question: &HttpQuestion) -> Option<Found> {
        let offer = if question.is_http2 { Offer::Http2 } else { Offer::Http1 };
        let host = self.host(question.host.as_deref())?;
        let mut request = Request::new(Full::new(question.body.clone()));
        *request.method_mut() = question.method.clone();
        *request.uri_mut() = question.path.parse().ok()?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, AGENT);
        question.headers.apply(request.headers_mut(), Side::Request, &Context::default());
        let response = self.send(offer, request).await?;
        let (head, body) = response.into_parts();
        let is_good = question.receives.is_empty() || {
            let body = Limited::new(body, question.body_max).collect().await.ok()?.to_bytes();
            has_in_order(&body, &question.receives)
        };
        Some(judge(question, head.status.as_u16(), &head.headers, is_good))
    }

    async fn ask_grpc(&mut self, question: &GrpcQuestion) -> Option<Found> {
        let host = self.host(question.authority.as_deref())?;
        let mut message = BytesMut::new();
        // A frame that is not compressed, and in it the only field, a string.
        let name = question.service.as_bytes();
        let mut field = Vec::new();
        if !name.is_empty() {
            prost::encoding::bytes::encode(1, &name.to_vec(), &mut field);
        }
        message.put_u8(0);
        message.put_u32(u32::try_from(field.len()).ok()?);
        message.put_slice(&field);
        let mut request = Request::new(Full::new(message.freeze()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("/grpc.health.v1.Health/Check");
        let headers = request.headers_mut();
        question.metadata.apply(headers, Side::Request, &Context::default());
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, AGENT);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let response = self.send(Offer::Http2, request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, GRPC_BODY_MAX).collect().await.ok()?;
        let status = body.trailers().and_then(|trailers| trailers.get(GRPC_STATUS));
        let is_ok = status.or(head.headers.get(GRPC_STATUS)).is_some_and(|status| status == "0");
        let is_serving = is_ok && body.to_bytes() == SERVING;
        Some(if is_serving { Found::Healthy } else { Found::Refused })
    }

    fn host(&self, asked: Option<&str>) -> Option<HeaderValue> {
        let host = self.own_host.as_deref().or(asked).unwrap_or(&self.cluster);
        HeaderValue::from_str(host).ok()
    }

    async fn send(
        &mut self,
        offer: Offer,
        request: Request<Full<Bytes>>,
    ) -> Option<Response<Incoming>> {
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect(offer).await?,
        };
        let response = sender.send(request).await?;
        self.sender = Some(sender);
        Some(response)
    }

    async fn connect(&self, offer: Offer) -> Option<Sender> {
        let stream = TokioIo::new(self.connector.connect(offer, &Purpose::default()).await.ok()?);
        match offer {
            Offer::Http1 | Offer::Both => {
                let (sender, connection) = http1::handshake(stream).await.ok()?;
                // What ends a connection shows on the next check.
                self.tasks.spawn(async move { drop(connection.await) });
                Some(Sender::Http1(sender))
            }
            Offer::Http2 => {
                let executor = TokioExecutor::new();
                let mut builder = http2::Builder::new(executor);
                builder.timer(TokioTimer::new());
                let (sender, connection) = builder.handshake(stream).await.ok()?;
                self.tasks.spawn(async move { drop(connection.await) });
                Some(Sender::Http2(sender))
            }
        }
    }
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    async fn send(&mut self, mut request: Request<Full<Bytes>>) -> Option<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await.ok()?;
                sender.send_request(request).await.ok()
            }
            Self::Http2(sender) => {
                let host = request.headers_mut().remove(HOST)?;
                let path = request.uri().path_and_query()?.clone();
                let uri = Uri::builder().scheme("http").authority(host.as_bytes());
                *request.uri_mut() = uri.path_and_query(path).build().ok()?;
                *request.version_mut() = Version::HTTP_2;
                sender.ready().await.ok()?;
                sender.send_request(request).await.ok()
            }
        }
    }
}

fn judge(question: &HttpQuestion, status: u16, headers: &HeaderMap, has_body: bool) -> Found {
    let is_in = |ranges: &[std::ops::RangeInclusive<u16>]| {
        ranges.iter().any(|range| range.contains(&status))
    };
    if headers.contains_key(FAIL) {
        return Found::Refused;
    }
    if !is_in(&question.expected) {
        return if is_in(&question.retriable) { Found::Failed } else { Found::Refused };
    }
    let serves = || headers.get(SERVES).map_or(&b""[..], HeaderValue::as_bytes);
    let is_right = question.service.as_ref().is_none_or(|service| service.matches(serves()));
    match (is_right && has_body, headers.contains_key(DEGRADED)) {
        (false, _) => Found::Refused,
        (true, true) => Found::Degraded,
        (true, false) => Found::Healthy,
    }
}

/// Whether all parts are in the text, one after the other.
fn has_in_order(mut text: &[u8], parts: &[Bytes]) -> bool {
    parts.iter().all(|part| {
        let at = text.windows(part.len().max(1)).position(|window| window == &part[..]);
        let found = at.and_then(|at| text.get(at + part.len()..));
        text = found.unwrap_or_default();
        found.is_some()
    })
}

/// Sends what is to be sent, and waits for what must come.
async fn exchange(stream: &mut Stream, question: &TcpQuestion) -> Option<Found> {
    const ANSWER_MAX: usize = 64 * 1024;
    if !question.sends.is_empty() {
        stream.write_all(&question.sends).await.ok()?;
        stream.flush().await.ok()?;
    }
    let mut answer = BytesMut::new();
    while !has_in_order(&answer, &question.receives) {
        if answer.len() >= ANSWER_MAX || stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
    Some(Found::Healthy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_in_their_order() {
        let parts = [Bytes::from_static(b"ab"), Bytes::from_static(b"c")];
        assert!(has_in_order(b"xabyc", &parts));
        assert!(!has_in_order(b"cab", &parts));
        assert!(!has_in_order(b"", &parts));
        assert!(has_in_order(b"", &[]));
    }

    #[test]
    fn an_answer_is_judged_by_status_header_and_body() {
        let question = HttpQuestion {
            host: None,
            path: "/".into(),
            method: Method::GET,
            body: Bytes::new(),
            headers: Default::default(),
            is_http2: false,
            expected: Box::new([200..=200, 300..=399]),
            retriable: Box::new([503..=503]),
            receives: Box::default(),
            body_max: 0,
            service: None,
        };
        let judged = |status, header: Option<HeaderName>, has_body| {
            let headers = header.map(|name| (name, HeaderValue::from_static("true")));
            judge(&question, status, &headers.into_iter().collect(), has_body)
        };
        assert_eq!(judged(200, None, true), Found::Healthy);
        assert_eq!(judged(399, Some(DEGRADED), true), Found::Degraded);
        assert_eq!(judged(503, None, true), Found::Failed);
        assert_eq!(judged(500, None, true), Found::Refused);
        assert_eq!(judged(200, None, false), Found::Refused);
        assert_eq!(judged(200, Some(FAIL), true), Found::Refused);
    }

    #[tokio::test]
    async fn a_grpc_service_says_that_it_serves() {
        use crate::cluster::pool::testing::locally;
        use http_body::Frame;
        use http_body_util::StreamBody;

        locally(async {
            for (status, grpc_status, expected) in
                [(1, "0", Found::Healthy), (2, "0", Found::Refused), (1, "12", Found::Refused)]
            {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                let tasks = TaskTracker::new();
                tasks.spawn(async move {
                    let (stream, _) = listener.accept().await.unwrap();
                    let service =
                        hyper::service::service_fn(move |request: Request<Incoming>| async move {
                            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                            assert_eq!(request.uri().authority().unwrap(), "c");
                            let asked = request.into_body().collect().await.unwrap().to_bytes();
                            assert_eq!(&asked[..], b"\0\0\0\0\x05\x0a\x03shp");
                            let data = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
                            let mut trailers = HeaderMap::new();
                            trailers.insert(GRPC_STATUS, HeaderValue::from_static(grpc_status));
                            let frames = [
                                Ok::<_, std::convert::Infallible>(Frame::data(data)),
                                Ok(Frame::trailers(trailers)),
                            ];
                            let body = StreamBody::new(futures_util::stream::iter(frames));
                            Ok::<_, std::convert::Infallible>(Response::new(body))
                        });
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    drop(server.serve_connection(TokioIo::new(stream), service).await);
                });
                let question = GrpcQuestion {
                    service: "shp".into(),
                    authority: None,
                    metadata: Default::default(),
                };
                let check = CheckConfig {
                    question: Question::Grpc(question),
                    ..super::super::tests::check()
                };
                let mut probe = Probe {
                    connector: Arc::new(Connector {
                        address: xds_proto::convert::Address::Ip(address),
                        also: Box::default(),
                        config: Arc::default(),
                        tls: None,
                    }),
                    own_host: None,
                    cluster: "c".into(),
                    tasks,
                    sender: None,
                };
                for _ in 0..2 {
                    assert_eq!(probe.ask(&check).await, expected, "{status} {grpc_status}");
                }
            }
        })
        .await;
    }
}
