//! Filters that take in or change bodies: buffer and compressor.

use http::Method;
use serde_json::{Value, json};

use super::{case, filter, get, plain, post, route, typed};
use crate::differential::Case;

pub(super) fn all() -> Vec<Case> {
    let mut all = usual();
    all.extend(corners());
    all
}

fn usual() -> Vec<Case> {
    let buffer = |config: Value| json!({"b": typed("buffer.v3.BufferPerRoute", config)});
    let library = |kind: &str| json!({"name": "x", "typed_config": {"@type": format!("type.googleapis.com/envoy.extensions.compression.{kind}")}});
    let compressor = |name: &str, kind: &str, direction: Value| {
        let config =
            json!({"compressor_library": library(kind), "response_direction_config": direction});
        filter(name, "compressor.v3.Compressor", config)
    };
    let accept = |path: &str, accepted: &str| get(path).header("accept-encoding", accepted);
    let off = json!({"gz": typed("compressor.v3.CompressorPerRoute", json!({"disabled": true}))});
    vec![
        case(
            "buffer",
            &[filter("b", "buffer.v3.Buffer", json!({"max_request_bytes": 10}))],
            json!([
                route("/more", buffer(json!({"buffer": {"max_request_bytes": 20}}))),
                route("/off", buffer(json!({"disabled": true}))),
                plain("/")
            ]),
            vec![
                get("/"),
                post("/", "0123456789"),
                post("/", "0123456789a"),
                post("/more", "0123456789a"),
                post("/off", &"0123456789".repeat(10)),
            ],
        ),
        case(
            "compression",
            &[
                compressor("gz", "gzip.compressor.v3.Gzip", json!({})),
                compressor("br", "brotli.compressor.v3.Brotli", json!({})),
                compressor("zs", "zstd.compressor.v3.Zstd", json!({})),
            ],
            json!([
                route("/nogzip", off),
                {"match": {"path": "/short"}, "direct_response": {"status": 200, "body": {"inline_string": "short"}}},
                plain("/")
            ]),
            vec![
                get("/"),
                accept("/", "gzip"),
                accept("/", "br"),
                accept("/", "zstd"),
                accept("/", "gzip;q=0.5, br;q=0.9"),
                accept("/", "br, gzip"),
                accept("/", "gzip, br"),
                accept("/", "*"),
                accept("/", "deflate"),
                accept("/", "identity"),
                accept("/", "gzip;q=0"),
                accept("/", "identity, gzip;q=0.5"),
                accept("/short", "gzip"),
                accept("/nogzip", "gzip"),
                accept("/nogzip", "gzip, br"),
                accept("/", "gzip").method(Method::HEAD),
                accept("/status/404", "gzip"),
            ],
        ),
        case(
            "what is compressed",
            &[compressor(
                "gz",
                "gzip.compressor.v3.Gzip",
                json!({"common_config": {"content_type": ["text/plain"]}, "remove_accept_encoding_header": true}),
            )],
            json!([plain("/")]),
            vec![accept("/", "gzip")],
        ),
    ]
}

fn corners() -> Vec<Case> {
    let library = |kind: &str| json!({"name": "x", "typed_config": {"@type": format!("type.googleapis.com/envoy.extensions.compression.{kind}")}});
    let compressor = |name: &str, kind: &str, config: Value| {
        let mut config = config;
        config["compressor_library"] = library(kind);
        filter(name, "compressor.v3.Compressor", config)
    };
    let gzip = |name: &str, config: Value| compressor(name, "gzip.compressor.v3.Gzip", config);
    let br = |name: &str, config: Value| compressor(name, "brotli.compressor.v3.Brotli", config);
    let response = |config: Value| json!({"response_direction_config": config});
    let accept = |accepted: &str| get("/").header("accept-encoding", accepted);
    let zipped = |name: &str, value: &str| accept("gzip").header(&format!("reply-{name}"), value);
    let per_route =
        |config: Value| json!({"gz": typed("compressor.v3.CompressorPerRoute", config)});
    let overrides = |config: Value| per_route(json!({"overrides": config}));
    vec![
        case(
            "what may be compressed",
            &[gzip("gz", response(json!({})))],
            json!([plain("/")]),
            vec![
                zipped("cache-control", "no-transform"),
                zipped("cache-control", "public, No-Transform"),
                zipped("cache-control", "private"),
                zipped("etag", "\"1\""),
                zipped("etag", "W/\"1\""),
                zipped("etag", "w/\"1\""),
                zipped("etag", "x"),
                zipped("content-encoding", "identity"),
                zipped("vary", "Accept-Encoding"),
                zipped("vary", "Origin"),
                zipped("vary", "Origin").header("reply-vary", "Cookie"),
                zipped("vary", "Origin, Accept-Encoding"),
                zipped("content-type", "TEXT/HTML"),
                zipped("content-type", "text/html ; charset=utf-8"),
                zipped("content-type", "image/png"),
                zipped("content-type", "text/event-stream"),
                zipped("content-type", "application/grpc"),
                zipped("content-type", "application/wasm"),
                zipped("content-type", ""),
                get("/status/204").header("accept-encoding", "gzip"),
                get("/status/304").header("accept-encoding", "gzip"),
                get("/status/500").header("accept-encoding", "gzip"),
                accept("x-gzip"),
                accept("gzip; Q=0"),
                accept("gzip;q=.5"),
                accept("gzip;q=1.5"),
                accept("gzip;q=x"),
                accept("gzip;level=1"),
                accept(""),
                accept("gzip").header("accept-encoding", "br"),
                accept("br").header("accept-encoding", "gzip"),
                accept("gzip").method(Method::HEAD),
                accept("gzip").header("content-type", "application/grpc"),
                accept("gzip").header("reply-trailer", "x"),
            ],
        ),
        case(
            "two compressors",
            &[gzip("gz", response(json!({}))), br("br", response(json!({})))],
            json!([
                route(
                    "/nobr",
                    json!({"br": typed("compressor.v3.CompressorPerRoute", json!({"disabled": true}))})
                ),
                plain("/")
            ]),
            vec![
                accept("gzip;q=0.5, *"),
                accept("gzip;q=0, *"),
                accept("br;q=0, *"),
                accept("*;q=0.5, gzip;q=0.4"),
                accept("br;q=0.9, gzip"),
                accept("deflate, br;q=0.1"),
                accept("identity;q=0, br"),
                accept("identity;q=1, br;q=1"),
                accept("br, identity"),
                accept("br;q=0, gzip;q=0"),
                get("/nobr").header("accept-encoding", "br"),
                get("/nobr").header("accept-encoding", "*"),
            ],
        ),
        case(
            "two compressors, the first chosen",
            &[
                gzip("gz", json!({"choose_first": true, "response_direction_config": {}})),
                br("br", json!({"choose_first": true, "response_direction_config": {}})),
            ],
            json!([plain("/")]),
            vec![
                accept("br, gzip"),
                accept("br;q=0.9, gzip;q=0.9"),
                accept("br, gzip;q=0.9"),
                accept("gzip, br"),
                accept("br, *"),
            ],
        ),
        case(
            "compressors for types of their own",
            &[
                gzip("gz", response(json!({"common_config": {"content_type": ["text/html"]}}))),
                br(
                    "br",
                    response(json!({"common_config": {"content_type": ["application/json"]}})),
                ),
            ],
            json!([plain("/")]),
            vec![
                accept("gzip, br;q=0.5"),
                accept("gzip, br;q=0.5").header("reply-content-type", "text/html"),
                accept("br, gzip;q=0.5").header("reply-content-type", "text/html"),
                accept("br, gzip").header("reply-content-type", "text/plain"),
                accept("gzip").header("reply-content-type", "application/json; charset=utf-8"),
            ],
        ),
        case(
            "compressors that hide what clients accept",
            &[
                gzip("gz", response(json!({"remove_accept_encoding_header": true}))),
                br("br", response(json!({"remove_accept_encoding_header": true}))),
            ],
            json!([plain("/")]),
            vec![accept("gzip"), accept("br"), accept("gzip, br"), accept("br, gzip")],
        ),
        case(
            "etags when compressed",
            &[gzip(
                "gz",
                response(
                    json!({"weaken_etag_on_compress": true, "uncompressible_response_codes": [404, 500], "common_config": {"min_content_length": 100_000}}),
                ),
            )],
            json!([
                route(
                    "/any",
                    overrides(
                        json!({"response_direction_config": {"remove_accept_encoding_header": true}})
                    )
                ),
                plain("/")
            ]),
            vec![
                zipped("etag", "\"1\""),
                accept("gzip"),
                get("/any").header("accept-encoding", "gzip"),
            ],
        ),
        case(
            "etags when compressed, weakened",
            &[gzip(
                "gz",
                response(
                    json!({"weaken_etag_on_compress": true, "uncompressible_response_codes": [404, 500]}),
                ),
            )],
            json!([plain("/")]),
            vec![
                zipped("etag", "\"1\""),
                zipped("etag", "W/\"1\""),
                zipped("etag", "x"),
                get("/status/404").header("accept-encoding", "gzip"),
                get("/status/201").header("accept-encoding", "gzip"),
            ],
        ),
        case(
            "etags forbid compression",
            &[gzip("gz", response(json!({"disable_on_etag_header": true})))],
            json!([plain("/")]),
            vec![zipped("etag", "\"1\""), zipped("etag", "W/\"1\""), accept("gzip")],
        ),
        case(
            "compressors that routes turn on",
            &[gzip(
                "gz",
                response(
                    json!({"common_config": {"enabled": {"default_value": false, "runtime_key": "x"}}}),
                ),
            )],
            json!([
                route("/on", overrides(json!({"response_direction_config": {}}))),
                route(
                    "/hide",
                    overrides(
                        json!({"response_direction_config": {"remove_accept_encoding_header": true}})
                    )
                ),
                route("/empty", overrides(json!({}))),
                plain("/")
            ]),
            ["/", "/on", "/hide", "/empty"]
                .map(|path| get(path).header("accept-encoding", "gzip"))
                .to_vec(),
        ),
        case(
            "compressors in their old form",
            &[gzip(
                "gz",
                json!({"content_length": 10, "content_type": ["application/json"], "remove_accept_encoding_header": true}),
            )],
            json!([plain("/")]),
            vec![accept("gzip"), zipped("content-type", "text/html")],
        ),
        case(
            "requests are compressed",
            &[gzip(
                "gz",
                json!({"request_direction_config": {"common_config": {"enabled": {"default_value": true, "runtime_key": "x"}}}}),
            )],
            json!([plain("/")]),
            vec![
                post("/", &"same ".repeat(20)).header("content-type", "text/plain"),
                post("/", "short").header("content-type", "text/plain"),
                post("/", &"same ".repeat(20)).header("content-type", "image/png"),
                post("/", &"same ".repeat(20)).header("content-encoding", "br"),
                post("/", &"same ".repeat(20)),
                accept("gzip"),
            ],
        ),
    ]
}
