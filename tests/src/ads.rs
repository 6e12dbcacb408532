//! A management server that shares no code with ours: Python, with grpcio's own classes of Envoy's messages.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};
use http::Method;
use serde_json::{Value, json};

use crate::client;
use crate::gateway::LIMIT;
use crate::process::Process;
use crate::{ports, tools, wait};

/// A running `ads/server.py`.
#[derive(Debug)]
pub struct Ads {
    pub xds: SocketAddr,
    admin: SocketAddr,
    process: Process,
}

impl Ads {
    /// Starts one on free ports.
    pub async fn start() -> Self {
        let (xds, admin) = (ports::address(), ports::address());
        let this = Self { xds, admin, process: run(xds, admin).await };
        this.call(Method::POST, "/serve/-", Value::Null).await;
        this
    }

    /// Kills it as a crash would: it forgets everything.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after [`Self::kill`] at the same addresses, with `groups` from the start.
    pub async fn restart_with(&mut self, groups: &[(&str, Vec<Value>)]) {
        self.process = run(self.xds, self.admin).await;
        for (group, resources) in groups {
            self.put_group(group, resources).await;
        }
        self.call(Method::POST, "/serve/-", Value::Null).await;
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let answer =
            client::call(method, self.admin, path, "application/json", body.to_string()).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// Replaces what a node, or the nodes of a cluster, are given; gives the revision.
    pub async fn put_group(&self, group: &str, resources: &[Value]) -> u64 {
        self.try_put_group(group, resources).await.unwrap()
    }

    /// As [`Self::put_group`]; an error where grpcio's messages have no words for it, as they are older than Envoy.
    pub async fn try_put_group(&self, group: &str, resources: &[Value]) -> Result<u64> {
        let (path, body) = (format!("/groups/{group}"), json!({"resources": resources}));
        let answer =
            client::call(Method::PUT, self.admin, &path, "application/json", body.to_string())
                .await?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(answer.json()["revision"].as_u64().unwrap())
    }

    /// Sets or deletes single resources; gives the revision.
    pub async fn patch_group(&self, group: &str, set: &[Value], delete: &[(&str, &str)]) -> u64 {
        let (path, body) = (format!("/groups/{group}"), json!({"set": set, "delete": delete}));
        self.call(Method::PATCH, &path, body).await["revision"].as_u64().unwrap()
    }

    /// Does something on purpose that a good server does not.
    pub async fn fault(&self, group: &str, fault: Value) {
        self.call(Method::POST, &format!("/faults/{group}"), fault).await;
    }

    /// Whether a node has all that it asked for, and what it refused.
    pub async fn node(&self, id: &str) -> Result<Value> {
        client::json(self.admin, &format!("/nodes/{id}")).await
    }

    /// Waits until a node is in `state`.
    pub async fn node_is(&self, id: &str, state: &str) -> Value {
        wait::until(&format!("node {id} to be {state}"), LIMIT, || async {
            let node = self.node(id).await?;
            ensure!(node["state"] == state, "{node}");
            Ok(node)
        })
        .await
    }

    /// Every acknowledgement and refusal of a node.
    pub async fn log(&self, id: &str) -> Vec<Value> {
        let log = client::json(self.admin, &format!("/log/{id}")).await.unwrap();
        log.as_array().cloned().unwrap_or_default()
    }
}

async fn run(xds: SocketAddr, admin: SocketAddr) -> Process {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ads/server.py");
    let mut command = Command::new(tools::python());
    command.arg(program).args([xds.port().to_string(), admin.port().to_string()]);
    let mut process = Process::start("ads", &mut command);
    process.printed("ready").await;
    process
}
