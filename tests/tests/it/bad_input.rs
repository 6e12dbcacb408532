//! Wrong documents and wrong resources: a clear refusal, and nothing changes.

use std::net::SocketAddr;

use gateway_tests::backend::Backend;
use gateway_tests::client::{call, get};
use gateway_tests::gateway::{ControlPlane, Proxy, folder};
use gateway_tests::{documents, ports};
use http::Method;
use serde_json::json;

fn route_with(rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{name: web}}]\n  rules:\n  - {rule}\n"
    )
}

const BACKEND_A: &str = "{group: weighlock.dev, kind: Backend, name: a}";

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_document_is_refused_with_path_and_reason() {
    let (data, backend) = (folder(), Backend::start("a").await);
    let control = ControlPlane::start(data.path()).await;
    let port = ports::free();
    control.apply(&documents::backend("a", backend.address));
    control.apply(&documents::gateway("web", "default", port));
    control.apply(&documents::route("r", &["web"], &[("a", 1)]));
    let _proxy = Proxy::start(control.xds, "n1", "default").await;
    let before = control.node_is("n1", "synced").await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));

    let zero = "{group: weighlock.dev, kind: Backend, name: a, weight: 0}";
    let cases = [
        (
            format!("backendRefs: [{BACKEND_A}]\n    matchess: []"),
            400,
            "spec.rules[0].matchess",
            "unknown field",
        ),
        (
            "backendRefs: [{group: weighlock.dev, kind: Backend, name: aa}]".into(),
            422,
            "spec.rules[0].backendRefs[0].name",
            "a",
        ),
        (
            format!(
                "backendRefs: [{BACKEND_A}]\n    matches: [{{path: {{type: RegularExpression, value: '(['}}}}]"
            ),
            422,
            "spec.rules[0].matches[0].path.value",
            "regex",
        ),
        (format!("backendRefs: [{zero}]"), 422, "spec.rules[0].backendRefs", "weight"),
    ];
    for (rule, status, path, reason) in cases {
        let document = route_with(&rule);
        let answer =
            call(Method::POST, control.api, "/v1/apply", "application/yaml", document.clone())
                .await
                .unwrap();
        assert!(
            answer.status.as_u16() == status || answer.status.is_client_error(),
            "{}",
            answer.status
        );
        let errors = answer.json();
        let text = errors.to_string();
        let pointer = format!("/{}", path.replace('[', "/").replace(']', "").replace('.', "/"));
        assert!(text.contains(path) || text.contains(&pointer), "{path} is not named in {text}");
        assert!(text.contains(reason), "{reason} is not named in {text}");

        let (code, printed) = control.try_apply(&document);
        assert_eq!(code, Some(2), "{printed}");
        assert!(printed.contains(path), "{path} is not named in:\n{printed}");
        assert!(printed.contains("WL0"), "no code in:\n{printed}");

        assert_eq!(get(address, "x.test", "/").await.unwrap().backend(), "a");
    }
    let after = control.node_is("n1", "synced").await;
    assert_eq!(before["types"], after["types"], "nothing was pushed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_write_with_a_dangling_reference_is_a_warning() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r"},
        "spec": {"parentRefs": [{"name": "web"}], "rules": [{"backendRefs": [{"group": "weighlock.dev", "kind": "Backend", "name": "nobody"}]}]},
    });
    let path = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes";
    let answer = control.call(Method::POST, path, &route).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let warnings: Vec<_> =
        answer.headers.get_all("warning").iter().map(|w| w.to_str().unwrap()).collect();
    let names = |name: &str| warnings.iter().any(|w| w.starts_with("299 - ") && w.contains(name));
    assert!(names("Backend default/nobody") && names("Gateway default/web"), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_raw_resource_is_shown_and_changes_nothing() {
    let (data, backend) = (folder(), Backend::start("a").await);
    let control = ControlPlane::start(data.path()).await;
    let port = ports::free();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let routes = |regex: &str| {
        documents::raw_routes(
            "routes",
            &json!([{"match": {"safe_regex": {"regex": regex}}, "route": {"cluster": "a"}}]),
        )
    };
    let mut resources = vec![documents::raw_listener("web", port, "routes", &[]), routes("/.*")];
    resources.extend(documents::raw_cluster("a", backend.address));
    control.put_group("n1", &resources).await;
    let _proxy = Proxy::start(control.xds, "n1", "default").await;
    control.node_is("n1", "synced").await;
    assert_eq!(control.wlctl(&["status"]).status.code(), Some(0));

    control.patch_group("n1", &[routes("([")], &[]).await;
    let node = control.node_is("n1", "NACK").await;
    let text = node["nack"].to_string();
    assert!(text.contains("virtual_hosts[0].routes[0].match.safe_regex"), "{text}");
    let status = control.wlctl(&["status"]);
    assert_eq!(status.status.code(), Some(1), "a NACK is a problem");
    let printed = String::from_utf8(status.stdout).unwrap();
    for part in ["n1", "✗ NACK", "refused RDS \"routes\"", "regex"] {
        assert!(printed.contains(part), "{part:?} is not in:\n{printed}");
    }
    assert_eq!(
        get(address, "x.test", "/p").await.unwrap().backend(),
        "a",
        "the last good routes serve"
    );

    control.patch_group("n1", &[routes("/good.*")], &[]).await;
    control.node_is("n1", "synced").await;
    assert_eq!(get(address, "x.test", "/p").await.unwrap().status, 404);
    assert_eq!(get(address, "x.test", "/good").await.unwrap().backend(), "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_resource_that_does_not_parse_is_422_with_its_path() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let bad = json!({"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": "r",
        "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": 7}, "route": {"cluster": "a"}}]}]});
    let answer = control
        .call(Method::PUT, "/v1/xds/groups/g", &json!({"version": "v", "resources": [bad]}))
        .await;
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("virtual_hosts[0].routes[0].match.prefix"), "{}", answer.text());
    let answer = control.call(Method::GET, "/v1/xds/groups/g", &serde_json::Value::Null).await;
    assert_eq!(answer.status, 404, "nothing was stored");
}
