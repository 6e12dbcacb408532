//! A service that authorizes requests by gRPC, as Envoy's `ext_authz` asks it.

use std::net::SocketAddr;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};
use xds_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use xds_proto::envoy::service::auth::v3 as auth;
use xds_proto::envoy::service::auth::v3::authorization_server::{
    Authorization, AuthorizationServer,
};
use xds_proto::envoy::service::auth::v3::check_response::HttpResponse;
use xds_proto::envoy::r#type::v3::HttpStatus;
use xds_proto::google::protobuf::BoolValue;
use xds_proto::google::rpc;

/// A running service.
#[derive(Debug)]
pub struct Authz {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Authz {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(async move {
                    let service = TowerToHyperService::new(AuthorizationServer::new(Judge));
                    let server = http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Authz {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Says no to `/deny`, nothing to `/fail`, and else yes, and what it saw.
#[derive(Debug)]
struct Judge;

#[tonic::async_trait]
impl Authorization for Judge {
    async fn check(
        &self,
        request: Request<auth::CheckRequest>,
    ) -> Result<Response<auth::CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let http = attributes.request.and_then(|request| request.http).unwrap_or_default();
        if http.path.starts_with("/fail") {
            return Err(Status::unavailable("not today"));
        }
        if http.path.starts_with("/deny") {
            let denied = auth::DeniedHttpResponse {
                status: Some(HttpStatus { code: 401 }),
                headers: vec![
                    header("x-why", "because", None),
                    header("www-authenticate", "Basic", None),
                ],
                body: "who are you?".into(),
            };
            return Ok(Response::new(answer(7, Some(HttpResponse::DeniedResponse(denied)))));
        }
        let mut extensions: Vec<_> = attributes.context_extensions.into_iter().collect();
        extensions.sort();
        let mut names: Vec<_> = http.headers.keys().map(String::as_str).collect();
        names.retain(|name| *name != "x-request-id");
        names.sort_unstable();
        let seen = format!(
            "{} {} {} {} {} {:?} {extensions:?} {names:?} {:?}",
            http.method, http.host, http.path, http.scheme, http.protocol, http.body, http.size,
        );
        let ok = auth::OkHttpResponse {
            headers: vec![
                header("x-seen", &seen, None),
                header("x-set", "new", None),
                header("x-append", "more", Some(true)),
                header("x-absent", "more", Some(true)),
            ],
            headers_to_remove: vec!["x-secret".into()],
            response_headers_to_add: vec![header("x-judged", "yes", None)],
            ..auth::OkHttpResponse::default()
        };
        Ok(Response::new(answer(0, Some(HttpResponse::OkResponse(ok)))))
    }
}

fn answer(code: i32, http_response: Option<HttpResponse>) -> auth::CheckResponse {
    let status = rpc::Status { code, ..rpc::Status::default() };
    auth::CheckResponse { status: Some(status), http_response, dynamic_metadata: None }
}

#[expect(deprecated, reason = "services say it, and Envoy reads it")]
fn header(key: &str, value: &str, append: Option<bool>) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.into(),
            value: value.into(),
            ..HeaderValue::default()
        }),
        append: append.map(|value| BoolValue { value }),
        ..HeaderValueOption::default()
    }
}
