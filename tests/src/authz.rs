//! A service that authorizes requests by gRPC, as Envoy's `ext_authz` asks it.

use std::net::SocketAddr;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};
use xds_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption, QueryParameter};
use xds_proto::envoy::service::auth::v3 as auth;
use xds_proto::envoy::service::auth::v3::authorization_server::{
    Authorization, AuthorizationServer,
};
use xds_proto::envoy::service::auth::v3::check_response::HttpResponse;
use xds_proto::envoy::r#type::v3::HttpStatus;
use xds_proto::google::protobuf::value::Kind;
use xds_proto::google::protobuf::{BoolValue, Struct, Value};
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

/// Says no to `/deny…`, nothing to `/fail`, and else yes: to `/plain` with what it saw, to others as their path asks.
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
        let path = http.path.split('?').next().unwrap_or_default().to_owned();
        if let Some(how) = path.strip_prefix("/deny") {
            return Ok(Response::new(denial(how)));
        }
        if let Some(how) = path.strip_prefix("/ok") {
            return Ok(Response::new(consent(how)));
        }
        let mut extensions: Vec<_> = attributes.context_extensions.into_iter().collect();
        extensions.sort();
        let mut names: Vec<_> = http.headers.keys().map(String::as_str).collect();
        names.retain(|name| *name != "x-request-id");
        names.sort_unstable();
        let raw = http.header_map.unwrap_or_default().headers.into_iter();
        let raw: Vec<_> = raw
            .filter(|header| header.key.starts_with("x-a"))
            .map(|header| (header.key, header.raw_value))
            .collect();
        let source = attributes.source.unwrap_or_default();
        let seen = format!(
            "{} {} {} {} {} {:?} {:?} {extensions:?} {names:?} {raw:?} {:?} {:?} {:?}",
            http.method,
            http.host,
            http.path,
            http.scheme,
            http.protocol,
            http.body,
            http.raw_body,
            http.size,
            http.headers.get("x-a"),
            source.service,
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

/// Ways to say no.
fn denial(how: &str) -> auth::CheckResponse {
    let mut denied = auth::DeniedHttpResponse {
        status: Some(HttpStatus { code: 401 }),
        headers: vec![header("x-why", "because", None), header("www-authenticate", "Basic", None)],
        body: "who are you?".into(),
    };
    match how {
        "/bare" => return answer(7, None),
        "/silent" => denied = auth::DeniedHttpResponse::default(),
        "/cookies" => {
            let cookie = |value| header("set-cookie", value, None);
            denied.headers =
                vec![cookie("a=1"), cookie("b=2"), header("content-type", "text/html", None)];
        }
        "/appends" => {
            denied.headers =
                vec![header("content-type", "x", Some(true)), header("x-why", "1", Some(true))]
        }
        "/ok-part" => {
            return answer(7, Some(HttpResponse::OkResponse(auth::OkHttpResponse::default())));
        }
        "/wrongly" => return answer(0, Some(HttpResponse::DeniedResponse(denied))),
        "/error" => return answer(13, Some(HttpResponse::ErrorResponse(denied))),
        "/error-silent" => {
            let denied = auth::DeniedHttpResponse { status: None, ..denied };
            return answer(13, Some(HttpResponse::ErrorResponse(denied)));
        }
        "/error-ok" => return answer(0, Some(HttpResponse::ErrorResponse(denied))),
        "/metadata" => {
            let mut said = answer(7, Some(HttpResponse::DeniedResponse(denied)));
            said.dynamic_metadata = Some(metadata());
            return said;
        }
        "/invalid" => {
            denied.headers = vec![header("bad name", "x", None), header("x-why", "a\nb", None)]
        }
        "/status" => denied.status = Some(HttpStatus { code: 200 }),
        _ => {}
    }
    answer(7, Some(HttpResponse::DeniedResponse(denied)))
}

/// Ways to say yes.
fn consent(how: &str) -> auth::CheckResponse {
    let actions = || {
        let names = ["x-one", "x-none"].into_iter();
        names.flat_map(|name| (0..4).map(move |action| option(name, &format!("{action}"), action)))
    };
    let mut ok = auth::OkHttpResponse::default();
    let query = |key: &str, value: &str| QueryParameter { key: key.into(), value: value.into() };
    if let Some(value) = how.strip_prefix("/value/") {
        ok.query_parameters_to_set = vec![query("a", value)];
    }
    match how {
        "/bare" => return answer(0, None),
        "/actions" => ok.headers = actions().collect(),
        "/response-actions" => ok.response_headers_to_add = actions().collect(),
        "/response-appends" => {
            let names = ["x-one", "x-none"].into_iter();
            ok.response_headers_to_add = names
                .flat_map(|name| [true, false].map(|append| header(name, "x", Some(append))))
                .collect();
        }
        "/query" => {
            ok.query_parameters_to_set = vec![query("a", "9"), query("new", "x%20y")];
            ok.query_parameters_to_remove = vec!["b".into(), "none".into()];
        }
        "/query-bad" => ok.query_parameters_to_set = vec![query("a", "x&y")],
        "/query-remove" => ok.query_parameters_to_remove = vec!["a".into(), "b".into(), "c".into()],
        "/removes" => {
            ok.headers_to_remove =
                ["host", ":path", ":method", "x-secret", "X-One", "x-none"].map(Into::into).into();
        }
        "/path" => {
            ok.headers = vec![header(":path", "/changed?x=1", None), header(":method", "PUT", None)]
        }
        "/host" => ok.headers = vec![header(":authority", "changed.test", None)],
        "/host-name" => ok.headers = vec![header("host", "changed.test", None)],
        "/route" => ok.headers = vec![header("x-route", "b", None)],
        "/metadata" => {
            let mut said = answer(0, Some(HttpResponse::OkResponse(ok)));
            said.dynamic_metadata = Some(metadata());
            return said;
        }
        "/envoy" => ok.headers = vec![header("x-envoy-own", "1", None), header("x-own", "1", None)],
        "/invalid-name" => {
            ok.headers = vec![header("bad name", "x", None), header("x-own", "1", None)]
        }
        "/invalid-value" => {
            ok.headers = vec![header("x-bad", "a\nb", None), header("x-own", "1", None)]
        }
        "/empty" => ok.headers = vec![header("x-one", "", None), header("x-none", "", None)],
        _ => {}
    }
    answer(0, Some(HttpResponse::OkResponse(ok)))
}

fn metadata() -> Struct {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    Struct { fields: [("who".to_owned(), text("ann"))].into() }
}

fn option(key: &str, value: &str, action: i32) -> HeaderValueOption {
    HeaderValueOption { append_action: action, ..header(key, value, None) }
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
