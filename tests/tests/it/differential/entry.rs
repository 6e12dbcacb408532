//! Who may connect, and what is logged of connections: a real Envoy and our proxy must do the same.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use gateway_tests::backend::Backend;
use gateway_tests::{documents, gateway, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bytes::both;

const T: &str = "type.googleapis.com/envoy.extensions";
const REQUEST: &[u8] = b"GET /path HTTP/1.1\r\nhost: h.test\r\n\r\n";

fn network_filter(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("{T}.filters.network.{name}.v3.{kind}").into();
    json!({"name": format!("envoy.filters.network.{name}"), "typed_config": config})
}

fn rbac(config: Value) -> Value {
    network_filter("rbac", "RBAC", config)
}

fn tcp(cluster: &str) -> Value {
    network_filter("tcp_proxy", "TcpProxy", json!({"stat_prefix": "t", "cluster": cluster}))
}

/// A listener for HTTP whose chain has a filter in front.
fn guarded(port: u16, filter: Value) -> Value {
    let mut listener = documents::raw_listener("l", port, "r", &[]);
    let filters = listener["filter_chains"][0]["filters"].as_array_mut().unwrap();
    filters.insert(0, filter);
    listener
}

fn with_backend(listener: Value, backend: SocketAddr) -> Vec<Value> {
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]);
    let mut all = vec![listener, documents::raw_routes("r", &routes)];
    all.extend(documents::raw_cluster("a", backend));
    all
}

/// Sends a request; whether it was answered, or the connection ended.
async fn ask(stream: &mut TcpStream) -> Result<&'static str> {
    // Who is refused may hear of it while it writes.
    let _ = stream.write_all(REQUEST).await;
    match tokio::time::timeout(Duration::from_secs(5), whole(stream)).await {
        Ok(Some(answer)) if answer.starts_with("HTTP/1.1 200") => Ok("answered"),
        Ok(Some(answer)) => bail!("{answer}"),
        Ok(None) => Ok("closed"),
        Err(_) => Ok("left waiting"),
    }
}

/// An answer with its body; none where the connection ends before.
async fn whole(stream: &mut TcpStream) -> Option<String> {
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1)?.lines().next()?;
            if body.len() >= length.parse().ok()? {
                return Some(text.into_owned());
            }
        }
        if stream.read_buf(&mut answer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

async fn ask_once(address: SocketAddr) -> Result<&'static str> {
    ask(&mut TcpStream::connect(address).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_has_no_more_connections_than_it_may() {
    let backend = Backend::start("a").await;
    let limit = network_filter(
        "connection_limit",
        "ConnectionLimit",
        json!({"stat_prefix": "x", "max_connections": 2}),
    );
    let resources = |port, _| with_backend(guarded(port, limit.clone()), backend.address);
    both("a_chain_has_no_more_connections_than_it_may", resources, |address| async move {
        // That of the harness, which asked whether there is a listener, goes first.
        let (mut first, mut second) =
            wait::until("two places", Duration::from_secs(10), || async {
                let mut pair =
                    (TcpStream::connect(address).await?, TcpStream::connect(address).await?);
                ensure!(
                    ask(&mut pair.0).await? == "answered" && ask(&mut pair.1).await? == "answered"
                );
                Ok(pair)
            })
            .await;
        let mut seen = vec![ask_once(address).await?, ask_once(address).await?];
        drop(first.shutdown().await);
        drop(first);
        wait::until("a free place", Duration::from_secs(10), || async {
            ensure!(ask_once(address).await? == "answered");
            Ok(())
        })
        .await;
        seen.push(ask(&mut second).await?);
        Ok(json!(seen))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_say_who_may_connect() {
    let rules = |action: &str, permission: Value, principal: Value| {
        json!({"stat_prefix": "x", "rules": {"action": action, "policies": {"p": {
            "permissions": [permission], "principals": [principal]}}}})
    };
    let any = || json!({"any": true});
    let near = || json!({"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}});
    let far = || json!({"remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}});
    let tree = |range: &str, found: &str| {
        let action = |action: &str| {
            json!({"name": "a", "typed_config": {
            "@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": action, "action": action}})
        };
        let other = if found == "ALLOW" { "DENY" } else { "ALLOW" };
        json!({"stat_prefix": "x", "matcher": {
            "matcher_list": {"matchers": [{
                "predicate": {"single_predicate": {
                    "input": {"name": "i", "typed_config": {"@type": format!("{T}.matching.common_inputs.network.v3.SourceIPInput")}},
                    "custom_match": {"name": "m", "typed_config": {
                        "@type": format!("{T}.matching.input_matchers.ip.v3.Ip"), "stat_prefix": "x",
                        "cidr_ranges": [{"address_prefix": range, "prefix_len": 8}]}}}},
                "on_match": {"action": action(found)}}]},
            "on_no_match": {"action": action(other)}}})
    };
    let backend = Backend::start("a").await;
    for (name, config) in [
        ("those near", rules("ALLOW", any(), near())),
        ("those far", rules("ALLOW", any(), far())),
        ("all but those near", rules("DENY", any(), near())),
        ("all but those far", rules("DENY", any(), far())),
        (
            "not to that port",
            rules("DENY", json!({"destination_port_range": {"start": 1, "end": 65536}}), any()),
        ),
        ("by a name", rules("ALLOW", json!({"requested_server_name": {"exact": "x"}}), any())),
        ("who is known", rules("ALLOW", any(), json!({"authenticated": {}}))),
        (
            "only noted",
            json!({"stat_prefix": "x", "shadow_rules": {"action": "DENY", "policies": {"p": {"permissions": [any()], "principals": [any()]}}}}),
        ),
        ("a tree that allows", tree("127.0.0.0", "ALLOW")),
        ("a tree that denies", tree("127.0.0.0", "DENY")),
        ("a tree that finds none", tree("10.0.0.0", "ALLOW")),
    ] {
        for carries_bytes in [false, true] {
            let resources = |port, _| {
                let mut listener = guarded(port, rbac(config.clone()));
                if carries_bytes {
                    listener["filter_chains"][0]["filters"][1] = tcp("a");
                }
                with_backend(listener, backend.address)
            };
            let name = format!("{name}, bytes: {carries_bytes}");
            both(&name, resources, |address| async move { Ok(json!(ask_once(address).await?)) })
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_log_connections() {
    let folder = gateway::folder();
    let backend = Backend::start("a").await;
    let log = |port: u16| folder.path().join(format!("{port}.log"));
    let line = "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% %RESPONSE_CODE% %PROTOCOL% \
                %ACCESS_LOG_TYPE% %REQUESTED_SERVER_NAME% %UPSTREAM_CLUSTER% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %FILTER_CHAIN_NAME%\n";
    let logged = |port: u16, mut listener: Value| {
        listener["access_log"] = json!([{"name": "f", "typed_config": {
            "@type": format!("{T}.access_loggers.file.v3.FileAccessLog"), "path": log(port),
            "log_format": {"text_format_source": {"inline_string": line}}}}]);
        listener
    };
    let deny = json!({"stat_prefix": "x", "rules": {"action": "ALLOW", "policies": {}}});
    for (name, change) in [
        ("no chain", json!({"filter_chain_match": {"source_ports": [1]}})),
        ("HTTP", json!({"name": "c"})),
        ("bytes", json!({"filters": [tcp("a")]})),
        ("refused", json!({"filters": [rbac(deny), tcp("a")]})),
    ] {
        let resources = |port: u16, _| {
            let mut listener = documents::raw_listener("l", port, "r", &[]);
            for (key, value) in change.as_object().unwrap() {
                listener["filter_chains"][0][key] = value.clone();
            }
            with_backend(logged(port, listener), backend.address)
        };
        let log = &log;
        both(name, resources, |address| async move {
            let answered = ask_once(address).await?;
            let lines = wait::until("lines", Duration::from_secs(10), || async {
                let text = tokio::fs::read_to_string(log(address.port())).await?;
                let lines: Vec<String> = text.lines().map(str::to_owned).collect();
                // The harness has connected, too.
                ensure!(lines.len() >= 2, "{lines:?}");
                Ok(lines)
            })
            .await;
            Ok(json!([answered, lines.last()]))
        })
        .await;
    }
}
