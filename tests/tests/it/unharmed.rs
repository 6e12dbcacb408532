//! What the proxy does with traffic that is wrong, too much or too slow.

mod downgrade;
mod endpoints;
mod floods;
mod http2;
mod limits;
mod requests;
mod responses;
mod upstreams;
mod paths;
mod slow;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use gateway_tests::gateway::{Proxy, folder};
use gateway_tests::raw::{Raw, Recorder};
use gateway_tests::{client, documents, ports, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What each line of the access log says.
const LOG: &str =
    "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%";

/// Asked between cases: whatever came before, the proxy serves on.
const ALIVE: &str = "GET /alive HTTP/1.1\r\nhost: alive.test\r\n\r\n";

/// A proxy with one listener and one backend.
struct Rig {
    address: SocketAddr,
    backend: Recorder,
    proxy: Proxy,
    log: PathBuf,
    _folder: TempDir,
}

/// What differs from a plain proxy.
#[derive(Default)]
struct Change {
    /// Of the HTTP connection manager.
    manager: Value,
    /// Of the route to the backend.
    route: Value,
    /// Of the listener.
    listener: Value,
    /// Of its filter chain.
    chain: Value,
    /// Of the cluster.
    cluster: Value,
    /// More clusters.
    more_clusters: Vec<Value>,
    /// Of the bootstrap.
    bootstrap: Value,
    /// Arguments of the proxy.
    arguments: &'static [&'static str],
    /// How many files it may have open.
    files_max: Option<u32>,
}

impl Rig {
    async fn start(change: Change) -> Self {
        let (folder, backend) = (folder(), Recorder::start().await);
        let (port, admin, log) = (ports::free(), ports::address(), folder.path().join("log"));
        let bootstrap = bootstrap(&change, (port, admin.port()), backend.address, &log);
        let file = folder.path().join("bootstrap.yaml");
        fs::write(&file, bootstrap.to_string()).unwrap();
        let mut proxy =
            Proxy::from_bootstrap_with(&file, admin, change.arguments, change.files_max);
        proxy.ready().await;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Self { address, backend, proxy, log, _folder: folder }
    }

    /// Asserts that the proxy serves a well-behaved client.
    async fn is_alive(&self, after: &str) {
        let mut client = Raw::connect(self.address).await;
        client.send(ALIVE).await;
        let response = client.response(true).await;
        assert_eq!(response.map(|response| response.status), Some(200), "after {after}");
    }

    /// What the page of metrics says of one series.
    async fn metric(&self, series: &str) -> Option<f64> {
        let page = client::get(self.proxy.admin, "a", "/metrics").await.unwrap();
        let text = page.text();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// The access log but for what asked whether the proxy is alive, once it has `count` lines.
    async fn logged(&self, count: usize) -> Vec<String> {
        wait::until(&format!("{count} lines of log"), Duration::from_secs(20), || async {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            let lines = text.lines().filter(|line| !line.starts_with("GET /alive "));
            let lines: Vec<_> = lines.map(str::to_owned).collect();
            if lines.len() >= count { Ok(lines) } else { Err(lines) }
        })
        .await
    }
}

fn bootstrap(
    change: &Change,
    (port, admin): (u16, u16),
    backend: SocketAddr,
    log: &std::path::Path,
) -> Value {
    let endpoint = json!({"endpoint": {"address": {"socket_address": {
        "address": "127.0.0.1", "port_value": backend.port()}}}});
    let mut route = json!({"cluster": "a", "timeout": "10s"});
    merge(&mut route, &change.route);
    let mut listener = documents::raw_listener("web", port, "unused", &[]);
    listener.as_object_mut().unwrap().remove("@type");
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager.as_object_mut().unwrap().remove("rds");
    manager["route_config"] = json!({"name": "inline", "virtual_hosts": [{"name": "v", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": route}]}]});
    manager["access_log"] = json!([{"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": log.display().to_string(),
        "log_format": {"text_format_source": {"inline_string": format!("{LOG}\n")}}}}]);
    merge(manager, &change.manager);
    merge(&mut listener["filter_chains"][0], &change.chain);
    merge(&mut listener, &change.listener);
    let mut cluster = json!({"name": "a", "type": "STATIC", "connect_timeout": "2s",
        "load_assignment": {"cluster_name": "a", "endpoints": [{"lb_endpoints": [endpoint]}]}});
    merge(&mut cluster, &change.cluster);
    let mut clusters = vec![cluster];
    clusters.extend(change.more_clusters.iter().cloned());
    let mut bootstrap = json!({
        "node": {"id": "n", "cluster": "c"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    });
    merge(&mut bootstrap, &change.bootstrap);
    bootstrap
}

fn merge(into: &mut Value, change: &Value) {
    for (key, value) in change.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}
