//! A real Envoy and real gRPC clients, driven by our control plane.

use std::net::SocketAddr;
use std::process::Command;

use gateway_tests::backend::Backend;
use gateway_tests::client::get;
use gateway_tests::gateway::{ControlPlane, Envoy, LIMIT, Proxy, folder};
use gateway_tests::process;
use gateway_tests::{documents, ports, tools, wait};
use serde_json::json;

async fn answers(address: SocketAddr, backend: &str) {
    wait::until(&format!("{backend} to answer on {address}"), LIMIT, || async {
        let answer = get(address, "x.test", "/").await?;
        anyhow::ensure!(answer.backend() == backend, "{} {}", answer.status, answer.text());
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_pushed_with_wlctl_serves_through_envoy_and_our_proxy() {
    if tools::offline("a_route_pushed_with_wlctl_serves_through_envoy_and_our_proxy") {
        return;
    }
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let (v1, v2) = (Backend::start("v1").await, Backend::start("v2").await);
    let mut addresses = Vec::new();
    for fleet in ["ours", "sotw", "delta"] {
        let port = ports::free();
        control.apply(&documents::gateway(fleet, fleet, port));
        addresses.push(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    control.apply(&(documents::backend("v1", v1.address) + &documents::backend("v2", v2.address)));
    let gateways = ["ours", "sotw", "delta"];
    let _proxy = Proxy::start(control.xds, "proxy-1", "ours").await;
    let _sotw = Envoy::start(control.xds, "envoy-sotw", "sotw", "GRPC").await;
    let _delta = Envoy::start(control.xds, "envoy-delta", "delta", "DELTA_GRPC").await;

    control.apply(&documents::route("shop", &gateways, &[("v1", 1), ("v2", 0)]));
    for &address in &addresses {
        answers(address, "v1").await;
    }
    let printed = control.wlctl_ok(&["shift", "httproute/shop", "v1=0,v2=100", "--wait"]);
    assert!(printed.contains("3/3"), "{printed}");
    for &address in &addresses {
        answers(address, "v2").await;
    }
    for node in ["proxy-1", "envoy-sotw", "envoy-delta"] {
        let status = control.node_is(node, "synced").await;
        assert_eq!(status["kind"], if node == "proxy-1" { "weighlock" } else { "envoy" });
    }
    let route = control.wlctl_ok(&["get", "httproute", "shop", "-o", "json"]);
    let route: serde_json::Value = serde_json::from_str(&route).unwrap();
    let parents = route["status"]["parents"].as_array().unwrap();
    assert_eq!(parents.len(), 3, "{parents:?}");
    wait::until("Programmed=True on every parent", LIMIT, || async {
        let route = control.wlctl_ok(&["get", "httproute", "shop", "-o", "json"]);
        let route: serde_json::Value = serde_json::from_str(&route)?;
        for parent in route["status"]["parents"].as_array().unwrap() {
            for wanted in ["Accepted", "ResolvedRefs", "weighlock.dev/Programmed"] {
                let conditions = parent["conditions"].as_array().unwrap();
                let found = conditions.iter().find(|c| c["type"] == wanted);
                anyhow::ensure!(
                    found.is_some_and(|c| c["status"] == "True"),
                    "{wanted}: {found:?}"
                );
            }
        }
        Ok(())
    })
    .await;
}

const GRPC_BACKEND: &str = r#"
import sys, grpc
from concurrent import futures
class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/test.Echo/Say":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"hello " + request)
        if details.method == "/test.Echo/Count":
            return grpc.unary_stream_rpc_method_handler(lambda request, context: iter([b"1", b"2", b"3"]))
        if details.method == "/test.Echo/Fail":
            def fail(request, context): context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
            return grpc.unary_unary_rpc_method_handler(fail)
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Echo(),))
print("port", server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"#;

const GRPC_CLIENT: &str = r#"
import sys, grpc
channel = grpc.insecure_channel(sys.argv[1])
print(channel.unary_unary("/test.Echo/Say")(b"you", timeout=15, wait_for_ready=True).decode())
print(" ".join(m.decode() for m in channel.unary_stream("/test.Echo/Count")(b"", timeout=10)))
try: channel.unary_unary("/test.Echo/Fail")(b"", timeout=10)
except grpc.RpcError as error: print(error.code().name, error.details())
"#;

/// Runs the gRPC client against `target`.
fn grpc_client(target: &str, bootstrap: Option<&str>) -> String {
    let mut client = Command::new(tools::python());
    client.args(["-c", GRPC_CLIENT, target]);
    if let Some(bootstrap) = bootstrap {
        client.env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap);
    }
    let output = process::run(&mut client);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn grpc_backend() -> (process::Process, SocketAddr) {
    let mut server =
        process::Process::start("grpc", Command::new(tools::python()).args(["-c", GRPC_BACKEND]));
    server.printed("port ").await;
    let port = server.output().trim().trim_start_matches("port ").parse().unwrap();
    (server, SocketAddr::from(([127, 0, 0, 1], port)))
}

const GRPC_ANSWERS: &str = "hello you\n1 2 3\nNOT_FOUND no such thing\n";

#[tokio::test(flavor = "multi_thread")]
async fn grpc_calls_pass_an_http_route_through_envoy_and_our_proxy() {
    if tools::offline("grpc_calls_pass_an_http_route_through_envoy_and_our_proxy") {
        return;
    }
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let (_server, backend) = grpc_backend().await;
    let ports = [ports::free(), ports::free()];
    control.apply(
        &(documents::gateway("ours", "ours", ports[0])
            + &documents::gateway("envoy", "envoy", ports[1])
            + &documents::backend("g", backend)
                .replace("spec: {", "spec: {appProtocol: kubernetes.io/h2c, ")
            + &documents::route("g", &["ours", "envoy"], &[("g", 1)])),
    );
    let _proxy = Proxy::start(control.xds, "proxy-1", "ours").await;
    let _envoy = Envoy::start(control.xds, "envoy-1", "envoy", "DELTA_GRPC").await;
    for port in ports {
        assert_eq!(grpc_client(&format!("127.0.0.1:{port}"), None), GRPC_ANSWERS, "port {port}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxyless_grpc_client_is_driven_by_a_raw_group() {
    if tools::offline("a_proxyless_grpc_client_is_driven_by_a_raw_group") {
        return;
    }
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let (_server, backend) = grpc_backend().await;
    let web = documents::raw_listener("echo", 1, "echo-routes", &[]);
    let manager = web["filter_chains"][0]["filters"][0]["typed_config"].clone();
    let listener =
        json!({"@type": web["@type"], "name": "echo", "api_listener": {"api_listener": manager}});
    let routes = json!([{"match": {"prefix": ""}, "route": {"cluster": "g"}}]);
    let mut resources = vec![listener, documents::raw_routes("echo-routes", &routes)];
    resources.extend(documents::raw_cluster("g", backend));
    control.put_group("proxyless", &resources).await;
    let bootstrap = json!({
        "xds_servers": [{"server_uri": control.xds.to_string(), "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
        "node": {"id": "grpc-1", "cluster": "proxyless"},
    });
    assert_eq!(grpc_client("xds:///echo", Some(&bootstrap.to_string())), GRPC_ANSWERS);
}
