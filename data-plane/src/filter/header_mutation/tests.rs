//! Tests of header changes.

use xds_proto::json::from_yaml;

use super::*;
use crate::filtering::keep::testing::alone;
use crate::filtering::stage::testing::Scene;

fn compiled(text: &str) -> Result<HeaderMutation, String> {
    HeaderMutation::compile(from_yaml(text).unwrap()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn changes_are_made_in_order_both_ways() {
    let filter = compiled(
        "mutations:
  request_mutations:
  - append: {header: {key: x-a, value: '%REQ(x-b)%'}}
  - remove: x-b
  - append: {header: {key: x-a, value: two}, append_action: OVERWRITE_IF_EXISTS}
  response_mutations:
  - append: {header: {key: x-code, value: '%RESPONSE_CODE%'}}",
    )
    .unwrap();
    let mut request = Request::builder().header("x-b", "one").body(Body::empty()).unwrap();
    let mut scene = Scene::default();
    filter.on_request(&mut request, &mut scene.stage()).await;
    assert_eq!(request.headers()["x-a"], "two");
    assert_eq!(request.headers().len(), 1);
    let mut response = Response::new(Body::empty());
    scene.facts.response_code = Some(200);
    filter.on_response(&mut response, &mut scene.stage()).await;
    assert_eq!(response.headers()["x-code"], "200");
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    assert_eq!(
        compiled("mutations: {request_mutations: [{remove: x}, {remove: ':path'}]}").unwrap_err(),
        "mutations.request_mutations[1].remove[0]: :-prefixed or host headers may not be removed"
    );
}

#[tokio::test]
async fn levels_of_a_route_are_applied_in_envoys_order() {
    let level = |value: &str| {
        let text = format!(
            "mutations: {{request_mutations: [{{append: {{header: {{key: x, value: {value}}}}}}}]}}"
        );
        HeaderMutation::compile_route(from_yaml(&text).unwrap()).unwrap()
    };
    let (host, route) = (level("host"), level("route"));
    for (wins, want) in [(false, ["route", "host"]), (true, ["host", "route"])] {
        let filter = compiled(&format!("most_specific_header_mutations_wins: {wins}")).unwrap();
        let linked = alone(|linker| filter.link(&[&host, &route], linker));
        let filter = linked.made().unwrap();
        let mut request = Request::new(Body::empty());
        filter.on_request(&mut request, &mut Scene::default().stage()).await;
        let values: Vec<_> = request.headers().get_all("x").iter().collect();
        assert_eq!(values, want);
    }
}

#[tokio::test]
async fn query_parameters_change_after_headers() {
    let filter = compiled(
        "mutations:
  request_mutations: [{append: {header: {key: x-who, value: ann}}}]
  query_parameter_mutations:
  - append: {record: {key: who, value: '%REQ(x-who)%'}}
  - append: {record: {key: a, value: '2'}, action: ADD_IF_ABSENT}
  - append: {record: {key: b, value: '9'}, action: OVERWRITE_IF_EXISTS}
  - append: {record: {key: c, value: '9'}, action: OVERWRITE_IF_EXISTS_OR_ADD}
  - remove: gone",
    )
    .unwrap();
    let mut request = Request::get("/p?a=1&gone=1&c=1&c=2").body(Body::empty()).unwrap();
    filter.on_request(&mut request, &mut Scene::default().stage()).await;
    assert_eq!(request.uri(), "/p?a=1&c=9&who=ann");
}

#[tokio::test]
async fn trailers_change_and_headers_go_by_their_names() {
    use http_body_util::BodyExt;

    let filter = compiled(
        "mutations:
  response_mutations: [{remove_on_match: {key_matcher: {prefix: x-in}}}]
  response_trailers_mutations:
  - append: {header: {key: x-code, value: '%RESPONSE_CODE%'}}
  - remove: x-gone",
    )
    .unwrap();
    let body = crate::filtering::collect::testing::frames(&["a"], &[("x-gone", "1"), ("x", "1")]);
    let mut response = Response::new(body);
    for name in ["x-in", "x-inner", "x-out"] {
        response.headers_mut().insert(name, http::HeaderValue::from_static("1"));
    }
    let mut scene = Scene::default();
    scene.facts.response_code = Some(200);
    filter.on_response(&mut response, &mut scene.stage()).await;
    assert_eq!(response.headers().keys().collect::<Vec<_>>(), ["x-out"]);
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().unwrap();
    assert_eq!((trailers.len(), &trailers["x-code"]), (2, &http::HeaderValue::from_static("200")));
}
