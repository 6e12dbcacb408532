//! A service that is asked by gRPC (`envoy.service.auth.v3.Authorization`).

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, TE};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use prost::Message;
use xds_proto::convert::to_address;
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_proto::envoy::service::auth::v3 as auth;
use xds_proto::envoy::service::auth::v3::attribute_context as context;
use xds_proto::envoy::service::auth::v3::check_response::HttpResponse;
use xds_proto::google::protobuf;

use super::answer::{Allowed, Answer, How, Name, Refusal};
use super::{ExtAuthz, SeenBody};
use crate::body::Body;
use crate::filtering::collect::{Collected, collect};
use crate::filtering::stage::{Stage, path};
use crate::format::mutation::{HeaderMutations, Side};

const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";
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
        (asked, timeout): (&Request<Body>, Duration),
        body: &SeenBody,
        stage: &Stage<'_>,
    ) -> Request<Body> {
        let check = check(filter, asked, body, stage);
        let length = check.encoded_len();
        let mut message = BytesMut::with_capacity(PREFIX + length);
        message.put_u8(0);
        message.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        // There is room for it.
        check.encode(&mut message).unwrap_or_default();
        let mut request = Request::new(Body::full(message.freeze()));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_static(METHOD);
        let headers = request.headers_mut();
        headers.insert(HOST, self.authority.clone());
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("x-envoy-internal", HeaderValue::from_static("true"));
        let timeout = format!("{}m", timeout.as_millis().min(99_999_999));
        if let Ok(timeout) = HeaderValue::try_from(timeout) {
            headers.insert("grpc-timeout", timeout);
        }
        self.metadata.apply(headers, Side::Request, &stage.context());
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
    let facts = &stage.context();
    let peer = |address: Option<SocketAddr>| context::Peer {
        address: address.map(|address| to_address(&address.ip().to_string(), address.port())),
        ..context::Peer::default()
    };
    let mut source = peer(facts.remote);
    let service = asked.headers().get("x-envoy-downstream-service-cluster");
    source.service = service.and_then(|name| name.to_str().ok()).unwrap_or_default().to_owned();
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
    let (headers, header_map) = headers(filter, asked, body, stage);
    let (seen, raw_body) = if body.is_raw {
        (String::new(), body.data.to_vec())
    } else {
        (String::from_utf8_lossy(&body.data).into_owned(), Vec::new())
    };
    context::HttpRequest {
        id: text("x-request-id"),
        method: asked.method().to_string(),
        headers,
        header_map,
        path: path(asked).to_owned(),
        host: text("host"),
        scheme: stage.facts.scheme.to_owned(),
        // What has come of the body, as Envoy has it; not what is announced.
        size: i64::try_from(body.received).unwrap_or(i64::MAX),
        protocol: protocol(stage.facts.protocol).to_owned(),
        body: seen,
        raw_body,
        ..context::HttpRequest::default()
    }
}

/// The headers that the service sees: by name, or as they came.
fn headers(
    filter: &ExtAuthz,
    asked: &Request<Body>,
    body: &SeenBody,
    stage: &Stage<'_>,
) -> (HashMap<String, String>, Option<core::HeaderMap>) {
    let settings = &filter.settings;
    let host = asked.headers().get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let pseudo = [
        (":method", asked.method().as_str().as_bytes()),
        (":path", path(asked).as_bytes()),
        (":authority", host),
        (":scheme", stage.facts.scheme.as_bytes()),
    ];
    let lines = asked.headers().iter().filter(|(name, _)| **name != HOST);
    let lines = lines.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let shown = pseudo.into_iter().chain(lines);
    let shown = shown.filter(|(name, _)| settings.shows(name, settings.allowed.is_none()));
    let partial = body.is_partial.map(|is_partial| (PARTIAL_BODY, is_partial.to_string()));
    if settings.is_raw {
        let header = |(key, value): (&str, Vec<u8>)| core::HeaderValue {
            key: key.to_owned(),
            raw_value: value,
            ..core::HeaderValue::default()
        };
        let shown = shown.map(|(name, value)| (name, value.to_vec()));
        let partial = partial.map(|(name, value)| (name, value.into_bytes()));
        let headers = shown.chain(partial).map(header).collect();
        return (HashMap::new(), Some(core::HeaderMap { headers }));
    }
    let mut headers: HashMap<String, String> = HashMap::new();
    for (name, value) in shown {
        let value = String::from_utf8_lossy(value).replace(char::REPLACEMENT_CHARACTER, "!");
        match headers.get_mut(name) {
            Some(known) => {
                known.push(',');
                known.push_str(&value);
            }
            None => drop(headers.insert(name.to_owned(), value)),
        }
    }
    headers.extend(partial.map(|(name, value)| (name.to_owned(), value)));
    (headers, None)
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

/// What the answer of the service means. `is_strict`: changes that no message may have are an
/// error; else they are left out.
pub(super) async fn read(response: Response<Body>, is_strict: bool) -> Answer {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Answer::Failed(None);
    }
    let Ok(Collected::Whole { data, trailers }) = collect(body, ANSWER_BYTES_MAX).await else {
        return Answer::Failed(None);
    };
    let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    let is_ok = status.or_else(|| head.headers.get("grpc-status")).is_some_and(|code| code == "0");
    let message = data.get(PREFIX..).filter(|_| is_ok && data.first() == Some(&0));
    match message.map(auth::CheckResponse::decode) {
        Some(Ok(response)) if is_strict && !is_valid(&response) => Answer::Invalid,
        Some(Ok(response)) => answer(response),
        Some(Err(_)) | None => Answer::Failed(None),
    }
}

/// Whether all headers that are to be set are such.
fn is_valid(response: &auth::CheckResponse) -> bool {
    let all = |options: &[core::HeaderValueOption]| {
        options.iter().filter_map(|option| option.header.as_ref()).all(|header| {
            let name = header.key.strip_prefix(':').unwrap_or(&header.key);
            http::HeaderName::from_bytes(name.as_bytes()).is_ok() && value(header).is_some()
        })
    };
    match &response.http_response {
        Some(HttpResponse::OkResponse(ok)) => {
            let mut query = ok.query_parameters_to_set.iter();
            all(&ok.headers)
                && all(&ok.response_headers_to_add)
                && query.all(|query| is_plain(&query.key) && is_plain(&query.value))
        }
        Some(HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied)) => {
            all(&denied.headers)
        }
        None => true,
    }
}

/// Whether a text needs no encoding in a query; Envoy takes an encoded one for a text that does.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

fn answer(response: auth::CheckResponse) -> Answer {
    let metadata = response.dynamic_metadata.map(from_struct);
    let code = response.status.map_or(0, |status| status.code);
    match (code, response.http_response) {
        (0, Some(HttpResponse::OkResponse(ok))) => Answer::Allowed(Box::new(allowed(ok, metadata))),
        (0, _) => Answer::Allowed(Box::new(Allowed { metadata, ..Allowed::default() })),
        (_, Some(HttpResponse::ErrorResponse(denied))) => {
            Answer::Failed(Some(Box::new(refusal(denied, metadata))))
        }
        (_, Some(HttpResponse::DeniedResponse(denied))) => {
            let refusal = refusal(denied, metadata);
            let status = refusal.status.or(Some(StatusCode::FORBIDDEN));
            Answer::Denied(Box::new(Refusal { status, ..refusal }))
        }
        (_, Some(HttpResponse::OkResponse(_)) | None) => Answer::Denied(Box::new(Refusal {
            status: Some(StatusCode::FORBIDDEN),
            metadata,
            ..Refusal::default()
        })),
    }
}

fn refusal(
    denied: auth::DeniedHttpResponse,
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
) -> Refusal {
    let code = denied.status.map_or(0, |status| status.code);
    let status = u16::try_from(code).ok().filter(|code| *code != 0);
    Refusal {
        status: status.and_then(|code| StatusCode::from_u16(code).ok()),
        headers: denied_headers(denied.headers),
        body: denied.body.into(),
        metadata,
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

/// What a refusal says; headers that are to be appended are not for it.
#[expect(deprecated, reason = "services still say `append`, which here means what it says")]
fn denied_headers(options: Vec<core::HeaderValueOption>) -> HeaderMap {
    let appends = |option: &core::HeaderValueOption| option.append.is_some_and(|yes| yes.value);
    let headers = options.iter().filter(|option| !appends(option));
    let headers = headers.filter_map(|option| option.header.as_ref());
    let headers: Vec<(http::HeaderName, _)> =
        headers.filter_map(|header| Some((header.key.parse().ok()?, value(header)?))).collect();
    headers.into_iter().collect()
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
