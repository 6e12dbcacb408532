//! A service that is asked by gRPC (`envoy.service.auth.v3.Authorization`).

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, TE};
use http::{Method, Request, Response, StatusCode, Version};
use prost::Message;
use xds_proto::convert::to_address;
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_proto::envoy::service::auth::v3 as auth;
use xds_proto::envoy::service::auth::v3::attribute_context as context;
use xds_proto::envoy::service::auth::v3::check_response::HttpResponse;
use xds_proto::google::protobuf;

use super::answer::{Allowed, Answer, How, Name};
use super::{ExtAuthz, SeenBody};
use crate::body::Body;
use crate::filtering::collect::{Collected, collect};
use crate::filtering::stage::{Stage, path};
use crate::format::mutation::{HeaderMutations, Side};

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
/// An answer that is longer is none.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Length of what stands before a gRPC message.
const PREFIX: usize = 5;

/// How the service is asked.
#[derive(Debug)]
pub(super) struct GrpcService {
    pub(super) authority: HeaderValue,
    pub(super) metadata: HeaderMutations,
}

impl GrpcService {
    /// The request to the service.
    pub(super) fn request(
        &self,
        filter: &ExtAuthz,
        asked: &Request<Body>,
        body: &SeenBody,
        stage: &Stage<'_>,
    ) -> Request<Body> {
        let check = check(filter, asked, body, stage);
        let length = check.encoded_len();
        let mut message = BytesMut::with_capacity(PREFIX + length);
        message.put_u8(0);
        message.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        message.extend_from_slice(&check.encode_to_vec());
        let mut request = Request::new(Body::full(message.freeze()));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = METHOD.parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(HOST, self.authority.clone());
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("x-envoy-internal", HeaderValue::from_static("true"));
        let timeout = format!("{}m", filter.service.timeout.as_millis().min(99_999_999));
        if let Ok(timeout) = HeaderValue::try_from(timeout) {
            headers.insert("grpc-timeout", timeout);
        }
        self.metadata.apply(headers, Side::Request, &stage.context);
        request
    }
}

fn check(
    filter: &ExtAuthz,
    asked: &Request<Body>,
    body: &SeenBody,
    stage: &Stage<'_>,
) -> auth::CheckRequest {
    let settings = &filter.settings;
    let facts = &stage.context;
    let peer = |address: Option<SocketAddr>| context::Peer {
        address: address.map(|address| to_address(&address.ip().to_string(), address.port())),
        ..context::Peer::default()
    };
    let mut source = peer(facts.remote);
    if let Some(client) = stage.client {
        let names = client.uris.iter().chain(&client.dns_names).map(|name| &**name);
        let name = names.chain([&*client.subject]).next();
        source.principal = name.unwrap_or_default().to_owned();
        if settings.says_certificate {
            source.certificate = client.encoded_certificate();
        }
    }
    let start = facts.start.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let time = start.unwrap_or_default();
    let attributes = auth::AttributeContext {
        source: Some(source),
        destination: Some(peer(facts.local)),
        request: Some(context::Request {
            time: Some(protobuf::Timestamp {
                seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
            }),
            http: Some(http_request(filter, asked, body, stage)),
        }),
        context_extensions: filter.extensions.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        metadata_context: Some(metadata(filter, stage)),
        route_metadata_context: None,
        tls_session: settings
            .says_tls
            .then(|| context::TlsSession { sni: facts.server_name.to_owned() }),
    };
    auth::CheckRequest { attributes: Some(attributes) }
}

fn http_request(
    filter: &ExtAuthz,
    asked: &Request<Body>,
    body: &SeenBody,
    stage: &Stage<'_>,
) -> context::HttpRequest {
    let text = |name: &str| {
        let value = asked.headers().get(name).map(|value| value.as_bytes());
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    let settings = &filter.settings;
    let mut headers: HashMap<String, String> = HashMap::new();
    let pseudo = [
        (":method", asked.method().to_string()),
        (":path", path(asked).to_owned()),
        (":authority", text("host")),
        (":scheme", stage.context.scheme.to_owned()),
    ];
    let lines = asked.headers().iter().filter(|(name, _)| **name != HOST);
    let lines = lines.map(|(name, value)| {
        (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    for (name, value) in pseudo.into_iter().chain(lines) {
        if !settings.shows(name, settings.allowed.is_none()) {
            continue;
        }
        match headers.get_mut(name) {
            Some(known) => {
                known.push(',');
                known.push_str(&value);
            }
            None => drop(headers.insert(name.to_owned(), value)),
        }
    }
    if let Some(is_partial) = body.is_partial {
        headers.insert("x-envoy-auth-partial-body".into(), is_partial.to_string());
    }
    let (seen, raw_body) = if body.is_raw {
        (String::new(), body.data.to_vec())
    } else {
        (String::from_utf8_lossy(&body.data).into_owned(), Vec::new())
    };
    context::HttpRequest {
        id: text("x-request-id"),
        method: asked.method().to_string(),
        headers,
        path: path(asked).to_owned(),
        host: text("host"),
        scheme: stage.context.scheme.to_owned(),
        // What has come of the body, as Envoy has it; not what is announced.
        size: i64::try_from(body.data.len()).unwrap_or(i64::MAX),
        protocol: protocol(stage.context.protocol).to_owned(),
        body: seen,
        raw_body,
        ..context::HttpRequest::default()
    }
}

fn protocol(version: Option<Version>) -> &'static str {
    match version {
        Some(Version::HTTP_2) => "HTTP/2",
        Some(Version::HTTP_10) => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn metadata(filter: &ExtAuthz, stage: &Stage<'_>) -> core::Metadata {
    let namespaces = filter.settings.namespaces.iter().filter_map(|name| {
        let values = stage.notes.metadata.namespace(name)?;
        Some((name.to_string(), to_struct(values)))
    });
    core::Metadata { filter_metadata: namespaces.collect(), ..core::Metadata::default() }
}

/// What the answer of the service means.
pub(super) async fn read(response: Response<Body>) -> Answer {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Answer::Failed;
    }
    let Ok(Collected::Whole { data, trailers }) = collect(body, ANSWER_BYTES_MAX).await else {
        return Answer::Failed;
    };
    let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    let is_ok = status.or_else(|| head.headers.get("grpc-status")).is_some_and(|code| code == "0");
    let message = data.get(PREFIX..).filter(|_| is_ok && data.first() == Some(&0));
    match message.map(auth::CheckResponse::decode) {
        Some(Ok(response)) => answer(response),
        Some(Err(_)) | None => Answer::Failed,
    }
}

fn answer(response: auth::CheckResponse) -> Answer {
    let metadata = response.dynamic_metadata.map(from_struct);
    let code = response.status.map_or(0, |status| status.code);
    match (code, response.http_response) {
        (0, Some(HttpResponse::OkResponse(ok))) => Answer::Allowed(Box::new(allowed(ok, metadata))),
        (0, _) => Answer::Allowed(Box::new(Allowed { metadata, ..Allowed::default() })),
        (_, Some(HttpResponse::DeniedResponse(denied))) => {
            let code = denied.status.map_or(0, |status| status.code);
            let status = u16::try_from(code).ok().filter(|code| *code != 0);
            Answer::Denied {
                status: status
                    .and_then(|code| StatusCode::from_u16(code).ok())
                    .unwrap_or(StatusCode::FORBIDDEN),
                headers: denied_headers(denied.headers),
                body: denied.body.into(),
                metadata,
            }
        }
        (_, Some(HttpResponse::ErrorResponse(_))) => Answer::Failed,
        (_, Some(HttpResponse::OkResponse(_)) | None) => Answer::Denied {
            status: StatusCode::FORBIDDEN,
            headers: HeaderMap::new(),
            body: bytes::Bytes::new(),
            metadata,
        },
    }
}

#[expect(deprecated, reason = "services still say `append`, which here means what it says")]
fn how(option: &core::HeaderValueOption) -> How {
    match &option.append {
        Some(append) if append.value => How::Append,
        Some(_) => How::Set,
        None => match HeaderAppendAction::try_from(option.append_action) {
            Ok(HeaderAppendAction::AddIfAbsent) => How::IfAbsent,
            Ok(HeaderAppendAction::OverwriteIfExists) => How::IfPresent,
            _ => How::Set,
        },
    }
}

fn value(header: &core::HeaderValue) -> Option<HeaderValue> {
    let raw = header.raw_value.as_slice();
    HeaderValue::from_bytes(if raw.is_empty() { header.value.as_bytes() } else { raw }).ok()
}

#[expect(deprecated, reason = "what the whole answer says counts before what this part says")]
fn allowed(
    ok: auth::OkHttpResponse,
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
) -> Allowed {
    let request = ok.headers.iter().filter_map(|option| {
        let header = option.header.as_ref()?;
        Some((Name::parse(&header.key)?, value(header)?, how(option)))
    });
    let response = ok.response_headers_to_add.iter().filter_map(|option| {
        let header = option.header.as_ref()?;
        let how = match how(option) {
            // Here lines are added unless it says otherwise.
            How::Set if option.append.is_none() && option.append_action == 0 => How::Add,
            How::Append => How::Add,
            how => how,
        };
        Some((header.key.parse().ok()?, value(header)?, how))
    });
    Allowed {
        request: request.collect(),
        remove: ok.headers_to_remove.iter().filter_map(|name| name.parse().ok()).collect(),
        query_set: ok.query_parameters_to_set.into_iter().map(|q| (q.key, q.value)).collect(),
        query_remove: ok.query_parameters_to_remove,
        response: response.collect(),
        metadata: metadata.or(ok.dynamic_metadata.map(from_struct)),
    }
}

fn denied_headers(options: Vec<core::HeaderValueOption>) -> HeaderMap {
    let headers = options.iter().filter_map(|option| option.header.as_ref());
    headers
        .filter_map(|header| Some((header.key.parse().ok()?, value(header)?)))
        .collect::<Vec<(http::HeaderName, HeaderValue)>>()
        .into_iter()
        .collect()
}

fn to_struct(values: &serde_json::Map<String, serde_json::Value>) -> protobuf::Struct {
    let fields = values.iter().map(|(key, value)| (key.clone(), to_value(value)));
    protobuf::Struct { fields: fields.collect() }
}

fn to_value(value: &serde_json::Value) -> protobuf::Value {
    use protobuf::value::Kind;
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(*value),
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        serde_json::Value::String(value) => Kind::StringValue(value.clone()),
        serde_json::Value::Array(values) => {
            Kind::ListValue(protobuf::ListValue { values: values.iter().map(to_value).collect() })
        }
        serde_json::Value::Object(values) => Kind::StructValue(to_struct(values)),
    };
    protobuf::Value { kind: Some(kind) }
}

fn from_struct(values: protobuf::Struct) -> serde_json::Map<String, serde_json::Value> {
    // In order, so that what is made of it is the same each time.
    let fields: BTreeMap<_, _> = values.fields.into_iter().collect();
    fields.into_iter().map(|(key, value)| (key, from_value(value))).collect()
}

fn from_value(value: protobuf::Value) -> serde_json::Value {
    use protobuf::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::NumberValue(value)) => value.into(),
        Some(Kind::StringValue(value)) => value.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(from_value).collect(),
        Some(Kind::StructValue(values)) => from_struct(values).into(),
    }
}
