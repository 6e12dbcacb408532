//! grpc_web.

use serde_json::json;

use super::{case, filter, get, plain, post};
use crate::differential::Case;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

pub(super) fn all() -> Vec<Case> {
    let web = |kind: &str, body: &str| post("/s/m", body).header("content-type", kind);
    let call = |kind: &str, body: &str| post(CHECK, body).header("content-type", kind);
    let empty = "\0\0\0\0\0";
    vec![
        case(
            "gRPC-Web requests",
            &[filter("g", "grpc_web.v3.GrpcWeb", json!({}))],
            json!([
                {"match": {"prefix": "/none"}, "route": {"cluster": "nowhere"}},
                {"match": {"prefix": "/envoy.service"}, "route": {"cluster": "authz"}},
                {"match": {"prefix": "/direct"}, "direct_response": {"status": 401, "body": {"inline_string": "who? 100%"}}},
                plain("/")]),
            vec![
                web("application/grpc-web-text", "AAAAAAJoaQ=="),
                web("application/grpc-web+proto", "x"),
                web("application/json", "{}"),
                call("application/grpc-web+proto", empty),
                call("application/grpc-web-text", "AAAAAAA=")
                    .header("accept", "application/grpc-web-text"),
                post("/envoy.service.auth.v3.Authorization/None", empty)
                    .header("content-type", "application/grpc-web"),
                post("/direct", "x").header("content-type", "application/grpc-web+proto"),
                post("/none", "x").header("content-type", "application/grpc-web+proto"),
                post("/none", "AAAA")
                    .header("content-type", "application/grpc-web-text")
                    .header("accept", "application/grpc-web-text"),
            ],
        ),
        case(
            "gRPC-Web calls",
            &chain(),
            json!([{"match": {"prefix": "/"}, "route": {"cluster": "authz"}}]),
            vec![
                call("application/grpc-web", empty),
                call("application/grpc-web-text", "AAAAAAA="),
                call("application/grpc-web+proto", empty)
                    .header("accept", "application/grpc-web-text"),
                call("application/grpc-web+proto", empty).header("accept", "*/*"),
                call("application/grpc-web+json", empty),
                call("application/grpc-web+proto; charset=utf-8", empty),
                call("APPLICATION/GRPC-WEB", empty),
                call("application/grpc", empty),
            ],
        ),
        case(
            "gRPC-Web calls of bad text",
            &chain(),
            json!([{"match": {"prefix": "/"}, "route": {"cluster": "authz"}}]),
            vec![
                call("application/grpc-web-text", "&&&&"),
                call("application/grpc-web-text", "AAA"),
            ],
        ),
        case(
            "gRPC-Web gets texts",
            &chain(),
            json!([
                {"match": {"prefix": "/long"}, "direct_response": {"status": 503, "body": {"inline_string": "0123456789".repeat(400)}}},
                {"match": {"prefix": "/empty"}, "direct_response": {"status": 429}},
                {"match": {"prefix": "/fine"}, "direct_response": {"status": 200, "body": {"inline_string": "fine"}}},
                plain("/")]),
            vec![
                post("/long", "x").header("content-type", "application/grpc-web+proto"),
                post("/empty", "x").header("content-type", "application/grpc-web+proto"),
                post("/fine", "x").header("content-type", "application/grpc-web+proto"),
                web("application/grpc-web+proto", "x").header("reply-content-type", "text/html"),
                post("/status/404", "x").header("content-type", "application/grpc-web+proto"),
                get("/s/m").header("content-type", "application/grpc-web+proto"),
            ],
        ),
    ]
}

fn chain() -> [serde_json::Value; 1] {
    [filter("g", "grpc_web.v3.GrpcWeb", json!({}))]
}
