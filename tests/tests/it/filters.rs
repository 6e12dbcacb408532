//! What filters keep from one request to the next: sessions, and tokens that survive pushes.

use std::net::SocketAddr;

use gateway_tests::backend::Backend;
use gateway_tests::client::{Answer, Ask, ask};
use gateway_tests::gateway::{ControlPlane, Proxy, folder};
use gateway_tests::{documents, ports};
use serde_json::{Value, json};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.http.";

fn filter(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("{FILTERS}{kind}").into();
    json!({"name": name, "typed_config": config})
}

/// A cluster of all these backends.
fn cluster(name: &str, backends: &[&Backend]) -> [Value; 2] {
    let [cluster, mut endpoints] = documents::raw_cluster(name, backends[0].address);
    let all: Vec<Value> = backends
        .iter()
        .map(|backend| {
            documents::raw_cluster(name, backend.address)[1]["endpoints"][0]["lb_endpoints"][0]
                .clone()
        })
        .collect();
    endpoints["endpoints"][0]["lb_endpoints"] = all.into();
    [cluster, endpoints]
}

async fn get(address: SocketAddr, path: &str, header: Option<(&str, &str)>) -> Answer {
    let mut request = Ask::get("h.test", path);
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    ask(address, &request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_stays_with_its_endpoint_while_that_is_there() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let (a, b, c) =
        (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    let state = json!({"name": "envoy.http.stateful_session.cookie", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
        "cookie": {"name": "session", "path": "/"}}});
    let strict = json!({"stateful_session": {"session_state": state, "strict": true}});
    let mut per_route =
        filter("x", "stateful_session.v3.StatefulSessionPerRoute", strict)["typed_config"].take();
    let routes = json!([
        {"match": {"prefix": "/strict"}, "route": {"cluster": "all"}, "typed_per_filter_config": {"s": per_route.take()}},
        {"match": {"prefix": "/"}, "route": {"cluster": "all"}},
    ]);
    let port = ports::free();
    let session =
        filter("s", "stateful_session.v3.StatefulSession", json!({"session_state": state}));
    let mut resources = vec![
        documents::raw_listener("l", port, "r", &[session]),
        documents::raw_routes("r", &routes),
    ];
    resources.extend(cluster("all", &[&a, &b, &c]));
    let revision = control.put_group("p", &resources).await;
    let _proxy = Proxy::start(control.xds, "p", "x").await;
    control.node_has("p", revision).await;

    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let first = get(address, "/", None).await;
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    for path in ["/", "/strict"].repeat(6) {
        let again = get(address, path, Some(("cookie", &cookie))).await;
        assert_eq!((again.backend(), again.header("set-cookie")), (first.backend(), None));
    }
    let left: Vec<&Backend> = [("a", &a), ("b", &b), ("c", &c)]
        .into_iter()
        .filter(|(name, _)| *name != first.backend())
        .map(|(_, backend)| backend)
        .collect();
    let revision = control.patch_group("p", &cluster("all", &left), &[]).await;
    control.node_has("p", revision).await;
    let lost = get(address, "/strict", Some(("cookie", &cookie))).await;
    assert_eq!(lost.status.as_u16(), 503);
    let moved = get(address, "/", Some(("cookie", &cookie))).await;
    assert_eq!(moved.status.as_u16(), 200);
    assert_ne!(moved.backend(), first.backend());
    assert!(moved.header("set-cookie").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_survive_pushes_that_do_not_concern_them() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let a = Backend::start("a").await;
    let always = json!({"default_value": {"numerator": 100}});
    let limit = |tokens: u32| {
        filter(
            "x",
            "local_ratelimit.v3.LocalRateLimit",
            json!({"stat_prefix": "x", "filter_enabled": always, "filter_enforced": always,
            "token_bucket": {"max_tokens": tokens, "fill_interval": "3600s"}}),
        )["typed_config"]
            .take()
    };
    let routes = |tokens: u32, answer: &str| {
        let routes = json!([
            {"match": {"path": "/version"}, "direct_response": {"status": 200, "body": {"inline_string": answer}}},
            {"name": "limited", "match": {"prefix": "/"}, "route": {"cluster": "a"}, "typed_per_filter_config": {"l": limit(tokens)}},
        ]);
        documents::raw_routes("r", &routes)
    };
    let port = ports::free();
    let base = filter("l", "local_ratelimit.v3.LocalRateLimit", json!({"stat_prefix": "x"}));
    let mut resources = vec![documents::raw_listener("l", port, "r", &[base]), routes(4, "1")];
    resources.extend(documents::raw_cluster("a", a.address));
    let revision = control.put_group("p", &resources).await;
    let _proxy = Proxy::start(control.xds, "p", "x").await;
    control.node_has("p", revision).await;

    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut statuses = Vec::new();
    for push in 2..8 {
        statuses.push(get(address, "/", None).await.status.as_u16());
        let answer = push.to_string();
        let revision = control.patch_group("p", &[routes(4, &answer)], &[]).await;
        control.node_has("p", revision).await;
        assert_eq!(get(address, "/version", None).await.text(), answer);
    }
    assert_eq!(statuses, [200, 200, 200, 200, 429, 429]);
    let revision = control.patch_group("p", &[routes(5, "more")], &[]).await;
    control.node_has("p", revision).await;
    assert_eq!(get(address, "/", None).await.status.as_u16(), 200);
}
