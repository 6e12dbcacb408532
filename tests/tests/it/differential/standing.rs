//! Programs that serve what a bootstrap says, without a control plane: a real Envoy and our proxy.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use gateway_tests::gateway::{Envoy, Proxy, folder};
use gateway_tests::process::{Process, program};
use gateway_tests::{documents, ports, tools};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A running program.
#[derive(Debug)]
pub(super) struct Standing {
    /// Where it listens.
    pub(super) address: SocketAddr,
    _program: Program,
}

#[derive(Debug)]
#[expect(dead_code, reason = "they are kept so that they run on")]
enum Program {
    Envoy(Envoy),
    Ours(Proxy, TempDir),
}

/// The programs to compare: without Envoy where tests must not need the network.
pub(super) fn sides(test: &str) -> Vec<&'static str> {
    if tools::offline(test) { vec!["ours"] } else { vec!["ours", "envoy"] }
}

impl Standing {
    /// Starts one from a bootstrap that [`bootstrap`] made, with more fields.
    pub(super) async fn start(side: &str, mut bootstrap: Value, more: Value) -> Self {
        for (key, value) in more.as_object().into_iter().flatten() {
            bootstrap[key] = value.clone();
        }
        let program = if side == "envoy" { tools::envoy() } else { program("weighlock-proxy") };
        Self::start_by(side, bootstrap, Command::new(program)).await
    }

    /// Starts one by a command.
    pub(super) async fn start_by(side: &str, mut bootstrap: Value, mut command: Command) -> Self {
        let (port, admin) = (ports::free(), ports::address());
        bootstrap["admin"] = json!({"address": place(admin)});
        let listener = &mut bootstrap["static_resources"]["listeners"][0];
        listener["address"]["socket_address"]["port_value"] = port.into();
        let text = bootstrap.to_string();
        let program = if side == "envoy" {
            Program::Envoy(Envoy::from_bootstrap(&text, admin, command).await)
        } else {
            let folder = folder();
            let file = folder.path().join("bootstrap.yaml");
            fs::write(&file, text).unwrap();
            command.arg("-c").arg(&file).args(["--concurrency", "1"]);
            let mut proxy = Proxy { admin, process: Process::start("proxy", &mut command) };
            proxy.ready().await;
            Program::Ours(proxy, folder)
        };
        Self { address: ([127, 0, 0, 1], port).into(), _program: program }
    }
}

/// An address as Envoy has it.
pub(super) fn place(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// Routes that lead `/name/` to the cluster of that name.
pub(super) fn by_name(clusters: &[Value]) -> Vec<Value> {
    let route = |cluster: &Value| {
        let prefix = format!("/{}/", cluster["name"].as_str().unwrap());
        json!({"match": {"prefix": prefix}, "route": {"cluster": cluster["name"]}})
    };
    clusters.iter().map(route).collect()
}

/// A bootstrap with these clusters and one listener with these routes.
pub(super) fn bootstrap(clusters: &[Value], routes: &[Value]) -> Value {
    let mut listener = documents::raw_listener("web", 1, "unused", &[]);
    listener.as_object_mut().unwrap().remove("@type");
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager.as_object_mut().unwrap().remove("rds");
    manager["route_config"] = json!({"name": "inline", "virtual_hosts": [
        {"name": "v", "domains": ["*"], "routes": routes}]});
    json!({
        "node": {"id": "n", "cluster": "none"},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    })
}
