//! Tests of the external authorization.

use xds_proto::json::from_yaml;

use super::answer::{How, Name};
use super::*;
use crate::filtering::keep::testing::alone;
use crate::filtering::stage::testing::Scene;

const HTTP: &str = "http_service: {server_uri: {uri: x, cluster: c, timeout: 1s}, path_prefix: /authz,
    authorization_request: {allowed_headers: {patterns: [{exact: x-user}]}, headers_to_add: [{key: x-add, value: '1'}]},
    authorization_response: {allowed_upstream_headers: {patterns: [{exact: x-up}]},
      allowed_client_headers: {patterns: [{exact: x-why}]}, allowed_client_headers_on_success: {patterns: [{exact: x-ok}]}}}";

fn filter(text: &str) -> ExtAuthz {
    ExtAuthz::compile(from_yaml(&format!("{{{text}}}")).unwrap()).unwrap()
}

fn request() -> Request<Body> {
    Request::put("/a?b=1")
        .header("host", "h.test")
        .header("x-user", "ann")
        .header("x-secret", "s")
        .header("authorization", "Basic x")
        .body(Body::full("0123456789"))
        .unwrap()
}

fn http(filter: &ExtAuthz) -> &HttpService {
    match &filter.service.as_ref().unwrap().kind {
        ServiceKind::Http(service) => service,
        ServiceKind::Grpc(_) => unreachable!("not HTTP"),
    }
}

#[tokio::test]
async fn an_http_service_sees_the_head_and_the_headers_allowed() {
    let filter = filter(HTTP);
    let mut scene = Scene::default();
    let sent = request();
    let asked = (&sent, Duration::from_secs(1));
    let asked = http(&filter).request(&filter, asked, &SeenBody::default(), &scene.stage());
    assert_eq!((asked.method().as_str(), asked.uri().to_string()), ("PUT", "/authz/a?b=1".into()));
    let mut names: Vec<_> = asked.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "authorization",
            "content-length",
            "host",
            "x-add",
            "x-envoy-expected-rq-timeout-ms",
            "x-envoy-internal",
            "x-user"
        ]
    );
}

fn response(status: u16) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("x-up", "1")
        .header("x-why", "no")
        .header("x-ok", "yes")
        .header("x-envoy-auth-headers-to-remove", "x-secret, x-gone")
        .body(Body::full("sorry"))
        .unwrap()
}

#[tokio::test]
async fn what_an_http_service_answers_changes_the_request_or_ends_it() {
    let filter = filter(HTTP);
    let Answer::Allowed(allowed) = http(&filter).read(response(200)).await else { unreachable!() };
    let header = Name::Header("x-up".parse().unwrap());
    assert_eq!(allowed.request, [(header, "1".parse().unwrap(), How::Set)]);
    assert_eq!(allowed.remove, ["x-secret", "x-gone"]);
    assert_eq!(allowed.response.len(), 1);
    let answer = http(&filter).read(response(401)).await;
    let mut scene = Scene::default();
    let Verdict::Reply(reply) = filter.follow(answer, &mut request(), &mut scene.stage()) else {
        unreachable!()
    };
    let (why, reply) = (reply.why, reply.response);
    assert_eq!((why, reply.status().as_u16()), (Why::AuthorizationDenied, 401));
    assert_eq!(reply.headers()["x-why"], "no");
    assert!(!reply.headers().contains_key("x-up"));
    assert!(matches!(http(&filter).read(response(503)).await, Answer::Failed(None)));
}

#[tokio::test]
async fn a_service_that_says_nothing_lets_pass_only_where_that_is_wanted() {
    for (more, want) in [
        ("", Some(403)),
        (", status_on_error: {code: ServiceUnavailable}", Some(503)),
        (", failure_mode_allow: true, failure_mode_allow_header_add: true", None),
    ] {
        let base = filter(&format!("{HTTP}{more}"));
        let filter = alone(|linker| base.link(&[], linker)).made().unwrap();
        let (mut scene, mut request) = (Scene::default(), request());
        let status = match filter.on_request(&mut request, &mut scene.stage()).await {
            Verdict::Continue => None,
            Verdict::Reply(reply) => Some(reply.response.status().as_u16()),
        };
        assert_eq!(status, want, "{more}");
        let marked = request.headers().contains_key("x-envoy-auth-failure-mode-allowed");
        assert_eq!(marked, want.is_none());
    }
}

#[tokio::test]
async fn the_service_sees_as_much_of_the_body_as_it_may() {
    for (more, want) in [
        ("max_request_bytes: 20", Ok(("0123456789", Some(false)))),
        ("max_request_bytes: 4, allow_partial_message: true", Ok(("0123", Some(true)))),
        ("max_request_bytes: 4", Err(Why::PayloadTooLarge)),
    ] {
        let filter = filter(&format!("{HTTP}, with_request_body: {{{more}}}"));
        let mut request = request();
        let seen = filter.take_in(&mut request).await;
        let seen =
            seen.map(|seen| (String::from_utf8(seen.data.to_vec()).unwrap(), seen.is_partial));
        assert_eq!(seen, want.map(|(data, partial)| (data.to_owned(), partial)), "{more}");
        if want.is_ok() {
            use http_body_util::BodyExt;
            let whole = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(whole, "0123456789");
        }
    }
}

#[tokio::test]
async fn a_route_may_say_more_ask_another_or_nobody() {
    let base = filter(&format!("{HTTP}, with_request_body: {{max_request_bytes: 4}}"));
    let route = |text: &str| ExtAuthz::compile_route(from_yaml(text).unwrap()).unwrap();
    let host = route("{check_settings: {context_extensions: {a: '1', b: '2'}}}");
    let other = route(
        "{check_settings: {context_extensions: {b: '3'}, disable_request_body_buffering: true,
           grpc_service: {envoy_grpc: {cluster_name: d}}}}",
    );
    let linked = alone(|linker| base.link(&[&host, &other], linker)).made().unwrap();
    assert_eq!(
        *linked.extensions,
        BTreeMap::from([("a".into(), "1".into()), ("b".into(), "3".into())])
    );
    assert!(linked.body.is_none());
    let service = linked.service.unwrap();
    assert_eq!((&*service.cluster, service.timeout), ("d", Duration::from_millis(200)));
    let linked = alone(|linker| base.link(&[&other, &host], linker)).made().unwrap();
    assert!(linked.body.is_some() && &*linked.service.unwrap().cluster == "c");
    assert_eq!(ExtAuthz::route_clusters(&other), ["d".into()]);
    let off = route("{disabled: true}");
    assert!(matches!(alone(|linker| base.link(&[&off], linker)), Linked::Off));
}

#[test]
fn what_is_wrong_is_named() {
    for (text, want) in [
        (
            "grpc_service: {google_grpc: {target_uri: x, stat_prefix: x}}",
            "grpc_service.google_grpc: not supported",
        ),
        (
            "http_service: {server_uri: {uri: x, timeout: 1s}}",
            "http_service.server_uri.http_upstream_type: required",
        ),
        (&format!("{HTTP}, shadow_mode: true"), "shadow_mode: not supported"),
    ] {
        let error = ExtAuthz::compile(from_yaml(&format!("{{{text}}}")).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), want);
    }
}
