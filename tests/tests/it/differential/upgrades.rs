//! Switches of protocol, by HTTP/1.1 and by the CONNECT of HTTP/2 (RFC 8441), towards upstreams of both: by a real Envoy and by our
//! proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use gateway_tests::gateway::{ControlPlane, LIMIT, Proxy, folder};
use gateway_tests::switch::{By, LONG_BYTES, Switching, switch};
use gateway_tests::wire::talk;
use gateway_tests::{documents, ports, wait};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::bytes::both;
use super::streams::lines;

/// A listener, its routes and two clusters of one upstream: `a` speaks HTTP/1.1, `b` HTTP/2.
fn resources(port: u16, upstream: SocketAddr, manager: &Value, routes: &Value) -> Vec<Value> {
    let mut listener = documents::raw_listener("l", port, "r", &[]);
    let own = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    for (key, value) in manager.as_object().into_iter().flatten() {
        own[key] = value.clone();
    }
    let mut all = vec![listener, documents::raw_routes("r", routes)];
    all.extend(documents::raw_cluster("a", upstream));
    let mut cluster = documents::raw_cluster("b", upstream);
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster[0]["typed_extension_protocol_options"] = json!({name: {
        "@type": format!("type.googleapis.com/{name}"),
        "explicit_http_config": {"http2_protocol_options": {"allow_connect": true}}}});
    all.extend(cluster);
    all
}

fn manager() -> Value {
    json!({"http2_protocol_options": {"allow_connect": true}, "delayed_close_timeout": "0s", "upgrade_configs": [{"upgrade_type": "websocket"}]})
}

/// A path, a protocol, and more headers.
type Asked<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

/// What a client does with its tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    /// Says something, and leaves once it has heard it.
    Echoes,
    Listens,
    /// Says something once it has heard something.
    Answers,
    /// Says its last byte once it has heard something.
    Finishes,
    /// Breaks off then.
    Breaks,
}

async fn told(
    address: SocketAddr,
    upstream: &Switching,
    by: By,
    (path, protocol, headers): Asked<'_>,
    client: Client,
) -> Result<Value> {
    upstream.take_seen().await;
    let mut switched = switch(address, by, (path, protocol), headers).await?;
    let mut heard = json!(null);
    if let Some(mut tunnel) = switched.tunnel.take() {
        if client == Client::Echoes {
            tunnel.write("ping").await;
        }
        let mut first = String::new();
        if client != Client::Listens {
            first = String::from_utf8_lossy(&tunnel.read().await.unwrap_or_default()).into_owned();
        }
        let mut rest = (String::new(), None);
        match client {
            Client::Echoes => drop(tunnel),
            Client::Breaks => tunnel.reset(),
            Client::Listens => rest = tunnel.rest().await,
            Client::Answers => {
                tunnel.write("heard").await;
                rest = tunnel.rest().await;
            }
            Client::Finishes => {
                tunnel.finish().await;
                rest = tunnel.rest().await;
            }
        }
        // How it ended is told by the one protocol in another way than by the other.
        heard = json!([first + &rest.0, rest.1.is_some()]);
    }
    let mut seen = upstream.take_seen().await;
    for one in &mut seen {
        if ["Closed", "Reset"].iter().any(|end| one["end"] == *end) {
            one["end"] = "ended".into();
        }
    }
    Ok(
        json!({"answer": switched.answer, "says_so": switched.says_so, "heard": heard, "upstream": seen}),
    )
}

fn to_both() -> Value {
    let routes = |cluster: &str, header: &str| {
        json!({"match": {"prefix": "/", "headers": [{"name": "x-to", "string_match": {"exact": header}}]},
        "route": {"cluster": cluster}})
    };
    json!([routes("a", "a"), routes("b", "b")])
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_begin_and_end_as_with_envoy() {
    let upstream = Switching::start(true).await;
    let (upstream, manager, routes) = (&upstream, manager(), to_both());
    both(
        "tunnels_begin_and_end_as_with_envoy",
        |port, _| resources(port, upstream.address, &manager, &routes),
        |address| async move {
            let mut all = BTreeMap::new();
            for by in [By::Http1, By::Http2] {
                for to in ["a", "b"] {
                    for (path, client) in [
                        ("/echo", Client::Echoes),
                        ("/bye", Client::Listens),
                        ("/break", Client::Answers),
                        ("/hold", Client::Finishes),
                        ("/hold", Client::Breaks),
                        ("/no", Client::Listens),
                    ] {
                        let asked = (
                            path,
                            "websocket",
                            &[("x-to", to), ("sec-websocket-version", "13")][..],
                        );
                        let one = told(address, upstream, by, asked, client).await;
                        let one = one.unwrap_or_else(|error| json!(format!("{error:#}")));
                        all.insert(format!("{by:?} to {to} {path} {client:?}"), one);
                    }
                }
            }
            for by in [By::Http1, By::Http2] {
                let heard = &all[&format!("{by:?} to a /echo Echoes")]["heard"];
                ensure!(heard[0] == "ping", "{by:?}: {heard}");
            }
            Ok(json!(all))
        },
    )
    .await;
}

/// Ours alone: Envoy lets nothing of the answer's body through.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_without_a_switch_passes_as_a_whole() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let upstream = Switching::start(true).await;
    let port = ports::free();
    let all = resources(port, upstream.address, &manager(), &to_both());
    let revision = control.put_group("n", &all).await;
    let _proxy = Proxy::start(control.xds, "n", "x").await;
    control.node_has("n", revision).await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait::until("a listener", LIMIT, || TcpStream::connect(address)).await;
    let asked = switch(address, By::Http2, ("/long", "websocket"), &[("x-to", "a")]).await;
    let (text, end) = asked.unwrap().tunnel.unwrap().rest().await;
    assert_eq!((text.len(), end.is_some()), (LONG_BYTES, true));
}

/// Asks once by each protocol for each path, and listens.
async fn asked(address: SocketAddr, upstream: &Switching, asks: &[Asked<'_>]) -> Result<Value> {
    let mut all = BTreeMap::new();
    for by in [By::Http1, By::Http2] {
        for ask in asks {
            let one = told(address, upstream, by, *ask, Client::Listens).await;
            let one = one.unwrap_or_else(|error| json!(format!("{error:#}")));
            all.insert(format!("{by:?} {ask:?}"), one);
        }
    }
    let plain = b"CONNECT a.test:80 HTTP/1.1\r\nhost: a.test:80\r\n\r\n";
    let heard = talk(address, &[plain], Duration::from_millis(500)).await?;
    all.insert("CONNECT".into(), heard.messages());
    Ok(json!(all))
}

async fn same(name: &str, says_so: bool, manager: Value, routes: Value, asks: &[Asked<'_>]) {
    let upstream = Switching::start(says_so).await;
    let upstream = &upstream;
    both(
        name,
        |port, _| resources(port, upstream.address, &manager, &routes),
        |address| asked(address, upstream, asks),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_and_routes_allow_upgrades_as_in_envoy() {
    let to = |path: &str, upgrades: Value| json!({"match": {"prefix": path}, "route": {"cluster": "a", "prefix_rewrite": "/bye", "upgrade_configs": upgrades}});
    let routes = json!([
        to("/off", json!([{"upgrade_type": "WebSocket", "enabled": false}])),
        to("/on", json!([{"upgrade_type": "other"}])),
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 200, "body": {"inline_string": "direct"}}},
        {"match": {"prefix": "/away"}, "redirect": {"path_redirect": "/x"}},
        {"match": {"prefix": "/header", "headers": [{"name": "upgrade", "string_match": {"exact": "websocket"}}]},
            "route": {"cluster": "a", "prefix_rewrite": "/bye"}},
        {"match": {"prefix": "/header"}, "direct_response": {"status": 418}},
        {"match": {"prefix": "/method", "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]},
            "route": {"cluster": "b", "prefix_rewrite": "/bye"}},
        {"match": {"prefix": "/bye"}, "route": {"cluster": "a"}},
    ]);
    let none: &[(&str, &str)] = &[];
    let asks = [
        ("/bye", "websocket", none),
        ("/bye", "WebSocket", none),
        ("/bye", "other", none),
        ("/off", "websocket", none),
        ("/on", "websocket", none),
        ("/on", "other", none),
        ("/direct", "websocket", none),
        ("/direct", "other", none),
        ("/away", "websocket", none),
        ("/away", "other", none),
        ("/none", "websocket", none),
        ("/none", "other", none),
        ("/header", "websocket", none),
        ("/method", "websocket", none),
    ];
    let name = "listeners_and_routes_allow_upgrades_as_in_envoy";
    same(name, true, manager(), routes, &asks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_is_taken_only_where_it_is_allowed_and_sent_in_any_case() {
    let none: &[(&str, &str)] = &[];
    let name = "connect_is_taken_only_where_it_is_allowed_and_sent_in_any_case";
    let mut refusing = manager();
    refusing["http2_protocol_options"] = json!({});
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "b"}}]);
    same(name, false, refusing, routes, &[("/bye", "websocket", none)]).await;
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "b"}}]);
    same(
        name,
        false,
        manager(),
        routes,
        &[("/bye", "websocket", none), ("/no", "websocket", none)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_are_logged_as_in_envoy() {
    let upstream = Switching::start(true).await;
    let folder = folder();
    let (upstream, folder) = (&upstream, folder.path());
    let mut manager = manager();
    manager["stream_idle_timeout"] = "0.6s".into();
    both(
        "tunnels_are_logged_as_in_envoy",
        |port, _| {
            let mut routes = to_both();
            for (name, limit) in [
                ("idle", json!({"cluster": "a", "idle_timeout": "0.4s"})),
                ("limit", json!({"cluster": "b", "max_stream_duration": {"max_stream_duration": "0.4s"}})),
                ("timeout", json!({"cluster": "a", "timeout": "0.2s"})),
            ] {
                let mut route = routes[0].clone();
                route["match"]["headers"][0]["string_match"]["exact"] = name.into();
                route["route"] = limit;
                routes.as_array_mut().unwrap().push(route);
            }
            let mut all = resources(port, upstream.address, &manager, &routes);
            let path = folder.join(port.to_string());
            all[0]["filter_chains"][0]["filters"][0]["typed_config"]["access_log"] = json!([{"name": "file", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": path.to_str().unwrap(),
                "log_format": {"text_format_source": {"inline_string":
                    "%REQ(X-NAME)%: %REQ(:METHOD)% %REQ(UPGRADE)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_PROTOCOL%\n"}}}}]);
            all
        },
        |address| async move {
            let mut count = 0;
            for by in [By::Http1, By::Http2] {
                for to in ["a", "b"] {
                    for (path, client) in [
                        ("/echo", Client::Echoes),
                        ("/bye", Client::Listens),
                        ("/break", Client::Answers),
                        ("/hold", Client::Breaks),
                        ("/hold", Client::Listens),
                        ("/no", Client::Listens),
                    ] {
                        let name = format!("{by:?} to {to} {path} {client:?}");
                        let headers = [("x-to", to), ("x-name", &*name)];
                        told(address, upstream, by, (path, "websocket", &headers), client).await?;
                        count += 1;
                    }
                }
            }
            for (by, to) in [(By::Http1, "idle"), (By::Http2, "limit"), (By::Http1, "limit"), (By::Http1, "timeout")] {
                let name = format!("{by:?} {to}");
                let headers = [("x-to", to), ("x-name", &*name)];
                told(address, upstream, by, ("/hold", "websocket", &headers), Client::Listens).await?;
                count += 1;
            }
            let lines = lines(folder, address, count).await;
            let named = lines.iter().filter_map(|line| line.split_once(": "));
            Ok(named.map(|(name, line)| (name.to_owned(), json!(line))).collect())
        },
    )
    .await;
}
