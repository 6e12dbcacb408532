//! Connections that carry bytes, and copies of requests: a real Envoy and our proxy must do the same.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use gateway_tests::backend::Backend;
use gateway_tests::client::{Ask, Connection, ask};
use gateway_tests::gateway::{ControlPlane, Envoy, Proxy, folder};
use gateway_tests::{documents, ports, tools, wait};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const T: &str = "type.googleapis.com/envoy.extensions";

/// Runs `tell` against both; it makes the resources of a proxy, with an address for the listener
/// and one more, and says what it saw.
pub(super) async fn both<F, R>(name: &str, resources: impl Fn(u16, u16) -> Vec<Value>, tell: F)
where
    F: Fn(SocketAddr) -> R,
    R: Future<Output = Result<Value>>,
{
    if tools::offline(name) {
        return;
    }
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let mut seen = Vec::new();
    for node in ["envoy", "ours"] {
        let (port, other) = (ports::free(), ports::free());
        control.put_group(node, &resources(port, other)).await;
        let _running: (Option<Envoy>, Option<Proxy>) = match node {
            "envoy" => (Some(Envoy::start(control.xds, node, "x", "DELTA_GRPC").await), None),
            _ => (None, Some(Proxy::start(control.xds, node, "x").await)),
        };
        wait::until(node, Duration::from_secs(10), || async {
            let status = control.node(node).await?;
            ensure!(status["state"] == "synced", "{status}");
            Ok::<_, anyhow::Error>(TcpStream::connect(("127.0.0.1", port)).await?)
        })
        .await;
        seen.push(tell(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap());
    }
    let mut differences = Vec::new();
    compare(&seen[0], &seen[1], "", &mut differences);
    assert!(differences.is_empty(), "{name}:\n{}", differences.join("\n"));
}

/// Says where two values differ.
fn compare(envoy: &Value, ours: &Value, path: &str, differences: &mut Vec<String>) {
    match (envoy, ours) {
        (Value::Object(one), Value::Object(other)) if one.keys().eq(other.keys()) => {
            for (key, value) in one {
                compare(value, &other[key], &format!("{path}.{key}"), differences);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                compare(one, other, &format!("{path}[{index}]"), differences);
            }
        }
        _ if envoy == ours => {}
        _ => differences.push(format!("{path}\n   envoy {envoy}\n   ours  {ours}")),
    }
}

fn tcp_chain(cluster: &str, matches: Value) -> Value {
    json!({"filter_chain_match": matches, "filters": [{"name": "t", "typed_config": {
        "@type": format!("{T}.filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "t", "cluster": cluster}}]})
}

fn listener_filter(name: &str) -> Value {
    let message: String =
        name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
    json!({"name": format!("envoy.filters.listener.{name}"),
        "typed_config": {"@type": format!("{T}.filters.listener.{name}.v3.{message}")}})
}

/// What comes back for bytes: the status line and the echoed backend, path and some headers; or how it ended.
async fn send(address: SocketAddr, bytes: &[u8]) -> Result<Value> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    let ended = read.is_ok();
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.lines().next().unwrap_or_default().to_owned();
    let body: Value = text
        .split_once("\r\n\r\n")
        .map(|(_, body)| serde_json::from_str(body).unwrap_or_default())
        .unwrap_or_default();
    let headers = &body["headers"];
    Ok(json!({"ended": ended, "status": status, "backend": body["backend"], "path": body["path"],
        "xff": headers["x-forwarded-for"], "external": headers["x-envoy-external-address"]}))
}

const REQUEST: &[u8] = b"GET /x HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_listener_carries_bytes_both_ways() {
    let backend = Backend::start("a").await;
    let address = backend.address;
    let resources = |port: u16, _| {
        let mut listener = documents::raw_listener("l", port, "unused", &[]);
        listener["filter_chains"] = json!([tcp_chain("a", json!({}))]);
        let mut all = vec![listener];
        all.extend(documents::raw_cluster("a", address));
        all
    };
    both("a_tcp_listener_carries_bytes_both_ways", resources, |address| async move {
        let two = [&REQUEST[..REQUEST.len() - 2], b"\r\n"].concat();
        Ok(json!([
            send(address, REQUEST).await?,
            send(address, &two).await?,
            send(address, b"junk\r\n\r\n").await?
        ]))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_in_front_says_who_the_client_is() {
    let backend = Backend::start("a").await;
    let address = backend.address;
    let resources = |port: u16, _| {
        let mut listener = documents::raw_listener("l", port, "r", &[]);
        listener["listener_filters"] = json!([listener_filter("proxy_protocol")]);
        let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        manager["use_remote_address"] = true.into();
        let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]);
        let mut all = vec![listener, documents::raw_routes("r", &routes)];
        all.extend(documents::raw_cluster("a", address));
        all
    };
    both("a_proxy_in_front_says_who_the_client_is", resources, |address| async move {
        let binary = [
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(),
            &[203, 0, 113, 7, 192, 0, 2, 1, 0, 80, 0, 81],
        ]
        .concat();
        let mut seen = Vec::new();
        for header in [
            b"PROXY TCP4 203.0.113.9 192.0.2.1 1111 80\r\n".as_slice(),
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1111 80\r\n",
            b"PROXY UNKNOWN\r\n",
            &binary,
            b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
            b"",
            b"PROXY TCP4 no 192.0.2.1 1111 80\r\n",
        ] {
            let one = send(address, &[header, REQUEST].concat()).await;
            seen.push(one.unwrap_or_else(|_| json!("reset")));
        }
        Ok(json!(seen))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_passed_through_by_name_or_ended_here() {
    let backend = Backend::start("a").await;
    let address = backend.address;
    let certificate = |name: &str| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem(), made.cert.der().to_vec())
    };
    let (behind, here) = (certificate("behind.test"), certificate("here.test"));
    let (behind_der, here_der) = (behind.2.clone(), here.2.clone());
    let socket = |pair: &(String, String, Vec<u8>)| {
        json!({"name": "tls", "typed_config": {
            "@type": format!("{T}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [{
                "certificate_chain": {"inline_string": pair.0}, "private_key": {"inline_string": pair.1}}]}}})
    };
    let resources = |port: u16, other: u16| {
        let mut front = documents::raw_listener("front", port, "r", &[]);
        let mut http = front["filter_chains"][0].clone();
        http["transport_socket"] = socket(&here);
        http["filter_chain_match"] = json!({"server_names": ["here.test"]});
        let plain = json!({"transport_protocol": "raw_buffer"});
        front["listener_filters"] = json!([listener_filter("tls_inspector")]);
        front["filter_chains"] = json!([
            tcp_chain("behind", json!({"server_names": ["behind.test"]})),
            http,
            tcp_chain("a", plain)
        ]);
        let mut inner = documents::raw_listener("inner", other, "r", &[]);
        inner["filter_chains"][0]["transport_socket"] = socket(&behind);
        let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]);
        let mut all = vec![front, inner, documents::raw_routes("r", &routes)];
        all.extend(documents::raw_cluster("a", address));
        all.extend(documents::raw_cluster("behind", SocketAddr::from(([127, 0, 0, 1], other))));
        all
    };
    both("tls_is_passed_through_by_name_or_ended_here", resources, |address| {
        let (behind, here) = (behind_der.clone(), here_der.clone());
        async move {
            let mut seen = BTreeMap::new();
            for name in ["behind.test", "here.test", "else.test"] {
                let one = match Connection::tls(address, name, &["h2"]).await {
                    Ok((mut connection, shown)) => {
                        let who = match shown.as_ref() {
                            shown if *shown == *behind => "behind",
                            shown if *shown == *here => "here",
                            _ => "?",
                        };
                        let answer = connection.ask(&Ask::get(name, "/")).await?;
                        json!([who, answer.backend(), format!("{:?}", answer.version)])
                    }
                    Err(_) => json!("no connection"),
                };
                seen.insert(name, one);
            }
            seen.insert("plain", send(address, REQUEST).await?);
            Ok(json!(seen))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_requests_go_to_the_mirrors() {
    let backends =
        [Backend::start("a").await, Backend::start("b").await, Backend::start("c").await];
    let addresses = backends.each_ref().map(|backend| backend.address);
    let resources = |port: u16, _| {
        let listener = documents::raw_listener("l", port, "r", &[]);
        let mut routes = documents::raw_routes(
            "r",
            &json!([
                {"match": {"prefix": "/two"}, "route": {"cluster": "a", "request_mirror_policies": [
                    {"cluster": "b"}, {"cluster": "c", "disable_shadow_host_suffix_append": true}]},
                    "request_headers_to_add": [{"header": {"key": "x-r", "value": "1"}}]},
                {"match": {"prefix": "/rewritten"}, "route": {"cluster": "a", "prefix_rewrite": "/new", "host_rewrite_literal": "other.test",
                    "request_mirror_policies": [{"cluster": "b"}]}},
                {"match": {"prefix": "/header"}, "route": {"cluster": "a", "request_mirror_policies": [{"cluster_header": "x-c"}]}},
                {"match": {"prefix": "/never"}, "route": {"cluster": "a", "request_mirror_policies": [
                    {"cluster": "b", "runtime_fraction": {"default_value": {"numerator": 0}}}]}},
                {"match": {"prefix": "/"}, "route": {"cluster": "a"}},
            ]),
        );
        routes["virtual_hosts"][0]["request_mirror_policies"] = json!([{"cluster": "c"}]);
        let mut all = vec![listener, routes];
        for (name, address) in ["a", "b", "c"].into_iter().zip(addresses) {
            all.extend(documents::raw_cluster(name, address));
        }
        all
    };
    let post = |path: &str, body: &'static str| {
        let ask = Ask::get("a.test:81", path).method(Method::POST);
        Ask { body: body.into(), ..ask }
    };
    both("copies_of_requests_go_to_the_mirrors", resources, |address| {
        let backends = &backends;
        async move {
            backends.iter().for_each(Backend::forget);
            let mut expected = 0;
            for (one, arrive) in [
                (Ask::get("a.test", "/two"), 3),
                (post("/two", "hello"), 3),
                (Ask::get("a.test", "/rewritten/x?q"), 2),
                (Ask::get("a.test", "/header").header("x-c", "b"), 2),
                (Ask::get("a.test", "/header").header("x-c", "none"), 1),
                (Ask::get("a.test", "/never"), 1),
                (post("/inherited", "x"), 2),
                // A copy that should not have been made stands before these.
                (Ask::get("a.test", "/two"), 3),
            ] {
                expected += arrive;
                ask(address, &one).await?;
                wait::until(&one.path, Duration::from_secs(10), || async {
                    let arrived: usize = backends.iter().map(|one| one.seen().len()).sum();
                    ensure!(arrived >= expected, "{arrived} of {expected} requests and copies");
                    anyhow::Ok(())
                })
                .await;
            }
            Ok(json!(backends.iter().map(heads).collect::<Vec<_>>()))
        }
    })
    .await;
}

/// What a backend was asked, without what differs from run to run.
fn heads(backend: &Backend) -> Vec<Value> {
    let mut seen = backend.seen();
    for request in &mut seen {
        if let Some(headers) = request["headers"].as_object_mut() {
            headers.remove("x-request-id");
        }
    }
    seen
}
