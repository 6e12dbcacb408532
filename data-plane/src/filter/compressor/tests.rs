//! Tests of the compressor.

use std::io::Read;

use http_body_util::BodyExt;
use xds_proto::json::from_yaml;

use super::*;
use crate::filtering::collect::testing::frames;
use crate::filtering::keep::testing::alone;
use crate::filtering::stage::testing::Scene;

const TEXT: &str = "the same again and again, the same again and again, the same again";

fn filter(library: &str, direction: &str) -> Compressor {
    let (kind, name) = match library {
        "gzip" => ("gzip", "Gzip"),
        "br" => ("brotli", "Brotli"),
        _ => ("zstd", "Zstd"),
    };
    let text = format!(
        "{{compressor_library: {{name: x, typed_config: {{'@type': type.googleapis.com/envoy.extensions.compression.{kind}.compressor.v3.{name}}}}},
           response_direction_config: {{{direction}}}}}"
    );
    Compressor::compile(from_yaml(&text).unwrap()).unwrap()
}

fn answer(lines: &[(&'static str, &'static str)]) -> Response<Body> {
    let mut response = Response::new(Body::full(TEXT));
    for (name, value) in lines {
        response.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    response
}

/// Sends a response through a chain of filters.
async fn pass(
    filters: &[Compressor],
    accept: &str,
    mut response: Response<Body>,
) -> Response<Body> {
    let mut request = Request::get("/").body(Body::empty()).unwrap();
    request.headers_mut().insert(ACCEPT_ENCODING, accept.parse().unwrap());
    let mut scene = Scene::default();
    for (slot, filter) in filters.iter().enumerate() {
        filter.on_request(&mut request, &mut scene.stage_of(slot)).await;
    }
    for (slot, filter) in filters.iter().enumerate().rev() {
        filter.on_response(&mut response, &mut scene.stage_of(slot)).await;
    }
    response
}

async fn decoded(response: Response<Body>) -> (String, String) {
    let encoding = response.headers().get(CONTENT_ENCODING).cloned();
    let encoding = encoding.map_or(String::new(), |value| value.to_str().unwrap().to_owned());
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let mut text = String::new();
    match encoding.as_str() {
        "gzip" => {
            flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        }
        "br" => {
            brotli::Decompressor::new(&bytes[..], 4096).read_to_string(&mut text).unwrap();
        }
        "zstd" => text = String::from_utf8(zstd::decode_all(&bytes[..]).unwrap()).unwrap(),
        _ => text = String::from_utf8(bytes.to_vec()).unwrap(),
    }
    (encoding, text)
}

#[tokio::test]
async fn each_client_gets_the_encoding_it_likes_best() {
    let chain = [filter("gzip", ""), filter("br", ""), filter("zstd", "")];
    for (accept, want) in [
        ("gzip", "gzip"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("gzip;q=0.5, br", "br"),
        ("deflate", ""),
    ] {
        let response = pass(&chain, accept, answer(&[("content-length", "66")])).await;
        assert_eq!(response.headers()[VARY], "Accept-Encoding");
        assert_eq!(response.headers().contains_key(CONTENT_LENGTH), want.is_empty());
        assert_eq!(decoded(response).await, (want.to_owned(), TEXT.to_owned()), "{accept}");
    }
}

#[tokio::test]
async fn pieces_are_not_held_back_and_trailers_follow() {
    let response = Response::new(frames(&["one ", "two"], &[("x", "1")]));
    let short = "common_config: {min_content_length: 1}";
    let response = pass(&[filter("gzip", short)], "gzip", response).await;
    let mut body = response.into_body();
    let mut sent = Vec::new();
    for want in ["one ", "one two"] {
        sent.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
        let mut text = vec![0; want.len()];
        flate2::read::GzDecoder::new(&sent[..]).read_exact(&mut text).unwrap();
        assert_eq!(text, want.as_bytes());
    }
    let rest = body.collect().await.unwrap();
    assert!(rest.trailers().is_some());
}

#[tokio::test]
async fn what_would_not_gain_or_may_not_change_is_left_alone() {
    let plain = "common_config: {content_type: [text/plain], min_content_length: 60}, uncompressible_response_codes: [418]";
    for (lines, direction, want) in [
        (&[("content-type", "text/plain; charset=utf-8")][..], plain, "gzip"),
        (&[("content-type", "image/png")], plain, ""),
        (&[("content-type", "image/png")], "", ""),
        (&[("content-length", "59")], plain, ""),
        (&[("content-encoding", "br")], plain, "br"),
        (&[("cache-control", "public, no-transform")], plain, ""),
        (&[("etag", "\"1\"")], "disable_on_etag_header: true", ""),
        (&[], "common_config: {enabled: {default_value: false, runtime_key: x}}", ""),
    ] {
        let response = pass(&[filter("gzip", direction)], "gzip", answer(lines)).await;
        let encoding = response.headers().get(CONTENT_ENCODING);
        let encoding = encoding.map_or("", |value| value.to_str().unwrap());
        assert_eq!(encoding, want, "{lines:?} {direction}");
    }
    let mut response = answer(&[]);
    *response.status_mut() = StatusCode::IM_A_TEAPOT;
    let response = pass(&[filter("gzip", plain)], "gzip", response).await;
    assert!(!response.headers().contains_key(CONTENT_ENCODING));
}

#[tokio::test]
async fn a_strong_tag_does_not_outlive_compression() {
    for (direction, tag, want) in [
        ("", "\"1\"", None),
        ("", "W/\"1\"", Some("W/\"1\"")),
        ("weaken_etag_on_compress: true", "\"1\"", Some("W/\"1\"")),
    ] {
        let response = pass(&[filter("gzip", direction)], "gzip", answer(&[("etag", tag)])).await;
        assert_eq!(response.headers().get(ETAG).map(|tag| tag.to_str().unwrap()), want);
    }
}

#[tokio::test]
async fn a_route_may_turn_it_off_or_do_it_otherwise() {
    let route = |text: &str| Compressor::compile_route(from_yaml(text).unwrap()).unwrap();
    let link = |route: &RouteCompressor| {
        let base = filter("gzip", "");
        alone(|linker| base.link(&[route], linker))
    };
    assert!(!link(&route("{disabled: true}")).made().unwrap().is_enabled);
    let other = route(
        "{overrides: {response_direction_config: {remove_accept_encoding_header: true}, compressor_library: {name: x,
           typed_config: {'@type': type.googleapis.com/envoy.extensions.compression.zstd.compressor.v3.Zstd, compression_level: 5}}}}",
    );
    let linked = link(&other).made().unwrap();
    assert_eq!(linked.library, Library::Zstd { level: 5, has_checksum: false });
    assert!(linked.removes_accept_encoding);
    let chain = [linked];
    for (accept, want) in [("gzip", ""), ("zstd", "zstd"), ("gzip, zstd", "zstd")] {
        let response = pass(&chain, accept, answer(&[])).await;
        assert_eq!(decoded(response).await, (want.to_owned(), TEXT.to_owned()), "{accept}");
    }
}
