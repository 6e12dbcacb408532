//! Weighlock's own programs, and a real Envoy, started on free loopback ports.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{self, Answer};
use crate::process::{self, Process};
use crate::{ports, tools, wait};

/// How long programs may take to start, and a push to arrive.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A running `weighlock serve --open`.
#[derive(Debug)]
pub struct ControlPlane {
    pub api: SocketAddr,
    pub xds: SocketAddr,
    pub admin: SocketAddr,
    pub data: PathBuf,
    pub process: Process,
    arguments: Vec<String>,
}

impl ControlPlane {
    /// Starts one over the store in `data`.
    pub async fn start(data: &Path) -> Self {
        Self::start_with(data, &[]).await
    }

    /// Starts one with more arguments.
    pub async fn start_with(data: &Path, more: &[&str]) -> Self {
        let (api, xds, admin) = (ports::address(), ports::address(), ports::address());
        let mut arguments: Vec<String> = ["serve", "--open"].map(str::to_owned).to_vec();
        for (flag, value) in [
            ("--data-dir", data.display().to_string()),
            ("--api-address", api.to_string()),
            ("--xds-address", xds.to_string()),
            ("--admin-address", admin.to_string()),
        ] {
            arguments.extend([flag.to_owned(), value]);
        }
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        let process = Process::start(
            "weighlock",
            Command::new(process::program("weighlock")).args(&arguments),
        );
        let mut this = Self { api, xds, admin, data: data.to_owned(), process, arguments };
        this.ready().await;
        this
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after [`Self::kill`], with the same store and addresses.
    pub async fn restart(&mut self) {
        self.process = Process::start(
            "weighlock",
            Command::new(process::program("weighlock")).args(&self.arguments),
        );
        self.ready().await;
    }

    async fn ready(&mut self) {
        ready(self.admin, "/readyz", &mut self.process).await;
    }

    /// Runs `wlctl` against it.
    pub fn wlctl(&self, arguments: &[&str]) -> Output {
        process::run(&mut self.wlctl_command(arguments))
    }

    /// `wlctl` against it, not yet started.
    pub fn wlctl_command(&self, arguments: &[&str]) -> Command {
        let mut wlctl = Command::new(process::program("wlctl"));
        wlctl
            .args(arguments)
            .env("WLCTL_SERVER", format!("http://{}", self.api))
            .env("NO_COLOR", "1");
        wlctl
    }

    /// Runs `wlctl`, which must succeed; gives what it printed on stdout.
    pub fn wlctl_ok(&self, arguments: &[&str]) -> String {
        let output = self.wlctl(arguments);
        let (out, err) = texts(&output);
        assert!(
            output.status.success(),
            "wlctl {arguments:?}: {:?}\n{out}{err}",
            output.status.code()
        );
        out
    }

    /// Writes `documents` to a file and applies it with `wlctl apply -f`, which must succeed.
    pub fn apply(&self, documents: &str) -> String {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        fs::write(file.path(), documents).unwrap();
        self.wlctl_ok(&["apply", "-f", file.path().to_str().unwrap()])
    }

    /// Applies as [`Self::apply`] does, and gives exit code and all output.
    pub fn try_apply(&self, documents: &str) -> (Option<i32>, String) {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        fs::write(file.path(), documents).unwrap();
        let output = self.wlctl(&["apply", "-f", file.path().to_str().unwrap()]);
        let (out, err) = texts(&output);
        (output.status.code(), out + &err)
    }

    /// Calls the API.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        client::call(method, self.api, path, "application/json", body).await.unwrap()
    }

    /// Replaces a group of raw xDS resources; gives the revision.
    pub async fn put_group(&self, group: &str, resources: &[Value]) -> u64 {
        let path = format!("/v1/xds/groups/{}", group.replace('*', "%2A"));
        let answer = self
            .call(Method::PUT, &path, &json!({"version": "test", "resources": resources}))
            .await;
        assert!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
        revision(&answer.json()["revision"])
    }

    /// Sets or deletes single resources of a raw group; gives the revision.
    pub async fn patch_group(&self, group: &str, set: &[Value], delete: &[(&str, &str)]) -> u64 {
        let path = format!("/v1/xds/groups/{}", group.replace('*', "%2A"));
        let delete: Vec<Value> =
            delete.iter().map(|(kind, name)| json!({"type": kind, "name": name})).collect();
        let answer = self
            .call(Method::PATCH, &path, &json!({"version": "test", "set": set, "delete": delete}))
            .await;
        assert!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
        revision(&answer.json()["revision"])
    }

    /// What `/v1/fleet` says of a node.
    pub async fn node(&self, id: &str) -> Result<Value> {
        client::json(self.api, &format!("/v1/fleet/{id}")).await
    }

    /// Waits until a node has acknowledged `wanted` or a later revision.
    pub async fn node_has(&self, id: &str, wanted: u64) -> Value {
        wait::until(&format!("node {id} to have r{wanted}"), LIMIT, || async {
            let node = self.node(id).await?;
            ensure!(node["state"] == "synced" && revision(&node["revision"]) >= wanted, "{node}");
            Ok(node)
        })
        .await
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
}

/// A running `weighlock-proxy`.
#[derive(Debug)]
pub struct Proxy {
    pub admin: SocketAddr,
    pub process: Process,
}

impl Proxy {
    /// Starts one that follows `control_plane`, and waits until it is ready.
    pub async fn start(control_plane: SocketAddr, node: &str, fleet: &str) -> Self {
        let mut proxy = Self::start_with(control_plane, node, fleet, &[]);
        ready(proxy.admin, "/readyz", &mut proxy.process).await;
        proxy
    }

    /// Starts one with more arguments, and does not wait.
    pub fn start_with(control_plane: SocketAddr, node: &str, fleet: &str, more: &[&str]) -> Self {
        let admin = ports::address();
        let mut command = Command::new(process::program("weighlock-proxy"));
        command.args([
            "--control-plane",
            &control_plane.to_string(),
            "--node-id",
            node,
            "--node-cluster",
            fleet,
        ]);
        command.args(["--admin-address", &admin.to_string(), "--concurrency", "2"]).args(more);
        Self { admin, process: Process::start(&format!("proxy {node}"), &mut command) }
    }

    /// Starts one from a bootstrap of Envoy's, and waits until it is ready. `api` is `GRPC` or `DELTA_GRPC`.
    pub async fn start_by(control_plane: SocketAddr, node: &str, fleet: &str, api: &str) -> Self {
        let (admin, folder) = (ports::address(), folder());
        let file = folder.path().join("bootstrap.yaml");
        fs::write(&file, bootstrap(control_plane, admin, (node, fleet), api)).unwrap();
        let mut proxy = Self::from_bootstrap(&file, admin);
        proxy.ready().await;
        proxy
    }

    /// Starts one from a bootstrap file, and does not wait. `admin` is what the file says.
    pub fn from_bootstrap(file: &Path, admin: SocketAddr) -> Self {
        Self::from_bootstrap_with(file, admin, &[], None)
    }

    /// As [`Self::from_bootstrap`], with more arguments, and where it is said with so many open files
    /// at most.
    pub fn from_bootstrap_with(
        file: &Path,
        admin: SocketAddr,
        more: &[&str],
        files_max: Option<u32>,
    ) -> Self {
        let program = process::program("weighlock-proxy");
        let mut command = match files_max {
            None => Command::new(program),
            Some(max) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!(r#"ulimit -n {max}; exec "$0" "$@""#)]).arg(program);
                shell
            }
        };
        command.arg("-c").arg(file).args(["--concurrency", "1"]).args(more);
        Self { admin, process: Process::start("proxy", &mut command) }
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) {
        ready(self.admin, "/readyz", &mut self.process).await;
    }

    /// A number that it keeps, summed over the lines that have `label`.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let page = client::get(self.admin, &self.admin.to_string(), "/metrics").await.unwrap();
        page.text()
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

/// A running real Envoy.
#[derive(Debug)]
pub struct Envoy {
    pub admin: SocketAddr,
    pub process: Process,
    _folder: TempDir,
}

impl Envoy {
    /// Starts one that follows `control_plane`. `api` is `GRPC` or `DELTA_GRPC`.
    pub async fn start(control_plane: SocketAddr, node: &str, fleet: &str, api: &str) -> Self {
        let admin = ports::address();
        let bootstrap = bootstrap(control_plane, admin, (node, fleet), api);
        Self::from_bootstrap(&bootstrap, admin, Command::new(tools::envoy())).await
    }

    /// Starts one by a command from a bootstrap, and waits until it is ready. `admin` is what the bootstrap says.
    pub async fn from_bootstrap(bootstrap: &str, admin: SocketAddr, mut command: Command) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("bootstrap.yaml");
        fs::write(&file, bootstrap).unwrap();
        command.arg("-c").arg(&file).args([
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "--log-level",
            "warn",
            "--file-flush-interval-msec",
            "100",
        ]);
        let mut this =
            Self { admin, process: Process::start("envoy", &mut command), _folder: folder };
        ready(admin, "/ready", &mut this.process).await;
        this
    }
}

/// A bootstrap, for Envoy and for our proxy, that takes everything from `control_plane` over ADS.
pub fn bootstrap(
    control_plane: SocketAddr,
    admin: SocketAddr,
    (node, fleet): (&str, &str),
    api: &str,
) -> String {
    let address = |of: SocketAddr| {
        format!("{{socket_address: {{address: {}, port_value: {}}}}}", of.ip(), of.port())
    };
    format!(
        r#"
node: {{id: {node}, cluster: {fleet}}}
admin: {{address: {admin}}}
dynamic_resources:
  ads_config:
    api_type: {api}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{{envoy_grpc: {{cluster_name: control-plane}}}}]
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  clusters:
  - name: control-plane
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: control-plane
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {xds}}}}}]}}]
"#,
        admin = address(admin),
        xds = address(control_plane),
    )
}

/// Waits until `path` on an admin address answers 200; fails at once when the program has ended.
async fn ready(admin: SocketAddr, path: &str, process: &mut Process) {
    let process = std::sync::Mutex::new(process);
    wait::until(&format!("{admin}{path}"), LIMIT, || async {
        {
            let mut process = process.lock().unwrap();
            assert!(process.is_running(), "ended at start:\n{}", process.output());
        }
        let answer = client::get(admin, &admin.to_string(), path).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    })
    .await;
}

/// A revision as the API writes it: `r7`.
fn revision(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_default();
    text.trim_start_matches('r').parse().unwrap_or_default()
}

/// Standard output and standard error as text.
pub fn texts(output: &Output) -> (String, String) {
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// An empty folder for a store or state.
pub fn folder() -> TempDir {
    TempDir::new().unwrap()
}
