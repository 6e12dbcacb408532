//! What the proxy is given, and what each second changes of it.

use std::net::SocketAddr;

use gateway_tests::gateway::ControlPlane;
use gateway_tests::{documents, ports};
use serde_json::{Value, json};

use crate::NODE;
use crate::backend::Mortal;
use crate::names::Names;

pub(crate) const HOST: &str = "soak.test";
const T: &str = "type.googleapis.com/envoy.config.";
const CERTIFICATES: usize = 5;

/// Everything that is pushed.
#[derive(Debug)]
pub(crate) struct Pushes {
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    backends: [SocketAddr; 3],
    /// The cluster of names.
    named: Value,
    certificates: Vec<(String, String)>,
}

impl Pushes {
    pub(crate) fn new(backends: &[Mortal; 3], names: &Names) -> Self {
        let certificate = |_| {
            let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
            (made.cert.pem(), made.signing_key.serialize_pem())
        };
        Self {
            plain: ports::address(),
            tls: ports::address(),
            backends: backends.each_ref().map(|backend| backend.address),
            named: names.cluster(),
            certificates: (0..CERTIFICATES).map(certificate).collect(),
        }
    }

    /// Sends push `n`, and waits until the proxy has it.
    pub(crate) async fn push(&self, control: &ControlPlane, n: u32) {
        let revision = control.patch_group(NODE, &self.resources(n), &[]).await;
        control.node_has(NODE, revision).await;
    }

    /// What push `n` leaves: one of five things changes each second.
    pub(crate) fn resources(&self, n: u32) -> Vec<Value> {
        // How often each of the five has changed.
        let [weights, routes, endpoints, certificate, options] =
            [0, 1, 2, 3, 4].map(|turn| (n + 4 - turn) / 5);
        let filters = [documents::response_header("x-options", &options.to_string())];
        let mut plain = documents::raw_listener("plain", self.plain.port(), "routes", &filters);
        let mut tls = documents::raw_listener("tls", self.tls.port(), "routes", &filters);
        for listener in [&mut plain, &mut tls] {
            let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
            manager["stream_idle_timeout"] = format!("{}s", 100 + options % 7).into();
            manager["http2_protocol_options"] =
                json!({"max_concurrent_streams": 100 + options % 3});
        }
        tls["filter_chains"][0]["transport_socket"] = documents::raw_tls("certificate");
        let (chain, key) = &self.certificates[certificate as usize % CERTIFICATES];
        vec![
            plain,
            tls,
            documents::raw_secret("certificate", chain, key),
            documents::raw_routes("routes", &routes_of(weights, routes)),
            cluster("main"),
            self.assignment("main", endpoints),
            cluster("side"),
            self.assignment("side", endpoints + 1),
            self.named.clone(),
        ]
    }

    /// All three, one of them with another weight each time.
    fn assignment(&self, cluster: &str, n: u32) -> Value {
        let endpoint = |(index, address): (usize, &SocketAddr)| {
            let weight = if n as usize % 3 == index { 3 } else { 2 };
            json!({"load_balancing_weight": weight, "endpoint": {"address": {"socket_address": {
                "address": address.ip().to_string(), "port_value": address.port()}}}})
        };
        let endpoints: Vec<Value> = self.backends.iter().enumerate().map(endpoint).collect();
        json!({"@type": format!("{T}endpoint.v3.ClusterLoadAssignment"), "cluster_name": cluster,
            "endpoints": [{"locality": {"region": "r"}, "load_balancing_weight": 1, "lb_endpoints": endpoints}]})
    }
}

/// Retries and health checks stand between a backend that dies and the client.
fn routes_of(weights: u32, routes: u32) -> Value {
    let retries = json!({"retry_on": "connect-failure,refused-stream,reset", "num_retries": 5,
        "retry_host_predicate": [{"name": "previous", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}],
        "host_selection_retry_max_attempts": 5});
    let weight = 10 + weights * 7 % 80;
    let mut all =
        vec![json!({"match": {"path": format!("/{routes}")}, "direct_response": {"status": 204}})];
    for n in 0..routes % 10 {
        all.push(json!({"match": {"prefix": format!("/more/{n}")}, "route": {"cluster": "side"}}));
    }
    all.push(json!({"match": {"prefix": "/main"}, "route": {"cluster": "main", "retry_policy": retries}}));
    all.push(json!({"match": {"prefix": "/named"}, "route": {"cluster": "named", "retry_policy": retries}}));
    all.push(json!({"match": {"prefix": "/"}, "route": {"retry_policy": retries, "weighted_clusters": {"clusters": [
        {"name": "main", "weight": weight}, {"name": "side", "weight": 100 - weight}]}}}));
    json!(all)
}

fn cluster(name: &str) -> Value {
    let mut cluster = json!({
        "@type": format!("{T}cluster.v3.Cluster"), "name": name, "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
    });
    guarded(&mut cluster);
    cluster
}

/// Active health checks, and limits that do not bind.
pub(crate) fn guarded(cluster: &mut Value) {
    cluster["connect_timeout"] = "1s".into();
    cluster["lb_policy"] = "LEAST_REQUEST".into();
    cluster["circuit_breakers"] = json!({"thresholds": [{"max_connections": 10000,
        "max_pending_requests": 10000, "max_requests": 10000, "max_retries": 10000}]});
    cluster["health_checks"] = json!([{"timeout": "1s", "interval": "0.3s", "no_traffic_interval": "0.3s",
        "unhealthy_threshold": 1, "healthy_threshold": 1, "http_health_check": {"path": "/"}}]);
}
