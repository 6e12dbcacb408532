//! A proxy without any control plane: everything from an Envoy bootstrap.

use std::fs;
use std::net::SocketAddr;

use gateway_tests::backend::Backend;
use gateway_tests::client::get;
use gateway_tests::gateway::{Proxy, folder};
use gateway_tests::{documents, ports};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn static_listeners_and_clusters_serve_without_a_control_plane() {
    let (dir, backend) = (folder(), Backend::start("a").await);
    let (port, admin) = (ports::free(), ports::address());
    let mut listener = documents::raw_listener("web", port, "unused", &[]);
    listener.as_object_mut().unwrap().remove("@type");
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager.as_object_mut().unwrap().remove("rds");
    manager["route_config"] = json!({"name": "inline", "virtual_hosts": [{"name": "v", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]}]});
    let bootstrap = json!({
        "node": {"id": "static", "cluster": "none"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin.port()}}},
        "static_resources": {
            "listeners": [listener],
            "clusters": [{"name": "a", "type": "STRICT_DNS", "connect_timeout": "1s", "load_assignment": {
                "cluster_name": "a", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {
                    "address": "localhost", "port_value": backend.address.port()}}}}]}]}}],
        },
    });
    let file = dir.path().join("bootstrap.yaml");
    fs::write(&file, bootstrap.to_string()).unwrap();
    let mut proxy = Proxy::from_bootstrap(&file, admin);
    proxy.ready().await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(get(address, "x.test", "/").await.unwrap().backend(), "a");
    let clusters = get(proxy.admin, "x", "/clusters").await.unwrap().text();
    assert!(clusters.contains(&format!("127.0.0.1:{}", backend.address.port())), "{clusters}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_bootstrap_is_refused_with_line_and_reason() {
    let dir = folder();
    let file = dir.path().join("bootstrap.yaml");
    fs::write(
        &file,
        "node: {id: a}\nstatic_resources:\n  clusters:\n  - name: a\n    conect_timeout: 1s\n",
    )
    .unwrap();
    let mut proxy = Proxy::from_bootstrap(&file, ports::address());
    assert_ne!(proxy.process.ended().await, 0);
    let printed = proxy.process.output();
    assert!(printed.contains("conect_timeout") && printed.contains("bootstrap.yaml"), "{printed}");
}
