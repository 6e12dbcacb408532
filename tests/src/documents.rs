//! Gateway API documents and raw Envoy resources that many tests use.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// A Gateway of `fleet` with one HTTP listener.
pub fn gateway(name: &str, fleet: &str, port: u16) -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, annotations: {{weighlock.dev/fleet: {fleet}}}}}
spec:
  gatewayClassName: weighlock
  listeners: [{{name: http, port: {port}, protocol: HTTP}}]
---
"#
    )
}

/// A Backend with one endpoint.
pub fn backend(name: &str, address: SocketAddr) -> String {
    format!(
        r#"
apiVersion: weighlock.dev/v1alpha1
kind: Backend
metadata: {{name: {name}}}
spec: {{endpoints: [{{ip: {}, port: {}}}]}}
---
"#,
        address.ip(),
        address.port()
    )
}

/// An HTTPRoute with one rule that splits by weight.
pub fn route(name: &str, gateways: &[&str], weights: &[(&str, u32)]) -> String {
    let parents: Vec<String> =
        gateways.iter().map(|gateway| format!("{{name: {gateway}}}")).collect();
    let backends: Vec<String> = weights
        .iter()
        .map(|(backend, weight)| {
            format!("{{group: weighlock.dev, kind: Backend, name: {backend}, weight: {weight}}}")
        })
        .collect();
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{}]
  rules: [{{name: main, backendRefs: [{}]}}]
---
"#,
        parents.join(", "),
        backends.join(", ")
    )
}

const T: &str = "type.googleapis.com/envoy.";

/// A raw Listener with one HTTP connection manager that takes its routes by RDS.
pub fn raw_listener(name: &str, port: u16, routes: &str, filters: &[Value]) -> Value {
    let mut filters = filters.to_vec();
    filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {
        "@type": format!("{T}extensions.filters.http.router.v3.Router")}}));
    json!({
        "@type": format!("{T}config.listener.v3.Listener"), "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
            "@type": format!("{T}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": name, "http_filters": filters,
            "rds": {"route_config_name": routes, "config_source": {"ads": {}, "resource_api_version": "V3"}},
        }}]}],
    })
}

/// A raw RouteConfiguration with one virtual host for every host.
pub fn raw_routes(name: &str, routes: &Value) -> Value {
    json!({
        "@type": format!("{T}config.route.v3.RouteConfiguration"), "name": name,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
    })
}

/// A raw EDS cluster and its endpoints.
pub fn raw_cluster(name: &str, address: SocketAddr) -> [Value; 2] {
    let endpoint = json!({"endpoint": {"address": {"socket_address": {
        "address": address.ip().to_string(), "port_value": address.port()}}}});
    [
        json!({
            "@type": format!("{T}config.cluster.v3.Cluster"), "name": name, "type": "EDS", "connect_timeout": "1s",
            "lb_policy": "ROUND_ROBIN",
            "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        }),
        json!({
            "@type": format!("{T}config.endpoint.v3.ClusterLoadAssignment"), "cluster_name": name,
            "endpoints": [{"locality": {"region": "r"}, "load_balancing_weight": 1, "lb_endpoints": [endpoint]}],
        }),
    ]
}

/// A filter that adds a response header.
pub fn response_header(name: &str, value: &str) -> Value {
    json!({"name": "envoy.filters.http.header_mutation", "typed_config": {
        "@type": format!("{T}extensions.filters.http.header_mutation.v3.HeaderMutation"),
        "mutations": {"response_mutations": [{"append": {"header": {"key": name, "value": value}}}]}}})
}

/// A TLS transport socket whose certificate comes by SDS.
pub fn raw_tls(secret: &str) -> Value {
    json!({"name": "envoy.transport_sockets.tls", "typed_config": {
    "@type": format!("{T}extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
    "common_tls_context": {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [{"name": secret, "sds_config": {"ads": {}, "resource_api_version": "V3"}}],
    }}})
}

/// A certificate and its key, as SDS sends them.
pub fn raw_secret(name: &str, certificate: &str, key: &str) -> Value {
    json!({"@type": format!("{T}extensions.transport_sockets.tls.v3.Secret"), "name": name,
        "tls_certificate": {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}}})
}
