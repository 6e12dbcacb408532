//! How upstreams are reached: whom TLS believes, by which connections, and how many; by a real Envoy and by our proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::join_all;
use gateway_tests::authority::Authority;
use gateway_tests::backend::Backend;
use gateway_tests::client::{Ask, Connection, ask};
use gateway_tests::wire::{Script, Then, Upstream};
use gateway_tests::{documents, wait};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use super::bytes::both;
use super::upstream::{T, at, cluster, group};

/// A listener whose route for `/NAME` goes to the cluster of that name.
fn resources(port: u16, clusters: &BTreeMap<&str, (Value, Value)>) -> Vec<Value> {
    let routes = clusters.keys().map(|name| {
        json!({"match": {"prefix": format!("/{name}/")},
            "route": {"cluster": name, "prefix_rewrite": "/", "timeout": "10s"}})
    });
    let mut all = vec![
        documents::raw_listener("l", port, "r", &[]),
        documents::raw_routes("r", &routes.collect()),
    ];
    for (name, (more, endpoints)) in clusters {
        all.extend(cluster(name, more.clone(), endpoints.clone()));
    }
    all
}

fn get(name: &str, path: &str) -> Ask {
    Ask::get("example.com", &format!("/{name}/{path}"))
}

/// The protocol options of a cluster.
fn protocol(options: Value) -> Value {
    let mut options = options;
    options["@type"] = format!("{T}extensions.upstreams.http.v3.HttpProtocolOptions").into();
    json!({"typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}})
}

fn http1(common: Value) -> Value {
    protocol(json!({"explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": common}))
}

fn http2(options: Value) -> Value {
    protocol(json!({"explicit_http_config": {"http2_protocol_options": options}}))
}

fn thresholds(thresholds: Value) -> Value {
    json!({"circuit_breakers": {"thresholds": [thresholds]}})
}

fn merged(mut one: Value, other: Value) -> Value {
    for (key, value) in other.as_object().into_iter().flatten() {
        one[key] = value.clone();
    }
    one
}

/// A TLS context towards upstreams.
fn tls(context: Value) -> Value {
    let mut context = context;
    context["@type"] = format!("{T}extensions.transport_sockets.tls.v3.UpstreamTlsContext").into();
    json!({"transport_socket": {"name": "tls", "typed_config": context}})
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_are_believed_as_their_certificates_allow() {
    let (authority, other) = (Authority::new(), Authority::new());
    let pair = authority.sign(&["one.test", "*.wild.test"], Some("spiffe://td/backend"));
    let client = authority.sign(&["client.test"], None);
    // 32 bytes of zeros.
    let no_key = format!("{}=", "A".repeat(43));
    let (shown, key) = (pair.digest(), pair.key_digest());
    let mut config = authority.server(pair);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let backend = Backend::start_tls("a", config).await;
    let endpoints = group(vec![at(backend.address)]);
    let ca = json!({"inline_string": authority.pem()});
    let context = |validation: Value| {
        let validation = merged(json!({"trusted_ca": ca}), validation);
        tls(json!({"sni": "one.test", "common_tls_context": {"validation_context": validation}}))
    };
    let alone =
        |validation: Value| tls(json!({"common_tls_context": {"validation_context": validation}}));
    let san = |kind: &str, matcher: Value| {
        context(json!({"match_typed_subject_alt_names": [{"san_type": kind, "matcher": matcher}]}))
    };
    let own = json!({"certificate_chain": {"inline_string": client.certificate},
        "private_key": {"inline_string": client.key}});
    let alpn = |protocols: Value| {
        tls(json!({"common_tls_context": {"alpn_protocols": protocols,
            "validation_context": {"trusted_ca": ca}}}))
    };
    let auto = protocol(json!({"auto_config": {"http2_protocol_options": {}}}));
    let clusters: BTreeMap<_, _> = [
        ("trusted", context(json!({}))),
        ("untrusted", context(json!({"trusted_ca": {"inline_string": other.pem()}}))),
        ("dns", san("DNS", json!({"exact": "one.test"}))),
        ("dns-other", san("DNS", json!({"exact": "two.test"}))),
        ("dns-case", san("DNS", json!({"exact": "ONE.test", "ignore_case": true}))),
        ("dns-wild", san("DNS", json!({"exact": "x.wild.test"}))),
        ("dns-prefix", san("DNS", json!({"prefix": "one."}))),
        ("dns-suffix", san("DNS", json!({"suffix": ".example"}))),
        ("dns-regex", san("DNS", json!({"safe_regex": {"regex": "[a-z]+\\.test"}}))),
        ("dns-part", san("DNS", json!({"safe_regex": {"regex": "one"}}))),
        ("uri", san("URI", json!({"prefix": "spiffe://td/"}))),
        ("uri-other", san("URI", json!({"exact": "spiffe://td/other"}))),
        ("ip", san("IP_ADDRESS", json!({"exact": "192.0.2.1"}))),
        (
            "one-of-two",
            context(json!({"match_typed_subject_alt_names": [
                {"san_type": "DNS", "matcher": {"exact": "two.test"}},
                {"san_type": "URI", "matcher": {"exact": "spiffe://td/backend"}}]})),
        ),
        ("digest", context(json!({"verify_certificate_hash": [shown]}))),
        ("digest-other", context(json!({"verify_certificate_hash": ["00".repeat(32)]}))),
        ("key", context(json!({"verify_certificate_spki": [key]}))),
        ("key-other", context(json!({"verify_certificate_spki": [no_key]}))),
        (
            "key-or-digest",
            context(json!({"verify_certificate_spki": [no_key],
                "verify_certificate_hash": [shown]})),
        ),
        ("digest-alone", alone(json!({"verify_certificate_hash": [shown]}))),
        ("digest-alone-other", alone(json!({"verify_certificate_hash": ["00".repeat(32)]}))),
        ("no-validation", tls(json!({"sni": "x.test", "common_tls_context": {}}))),
        (
            "client",
            tls(json!({"sni": "one.test", "common_tls_context": {"tls_certificates": [own],
                "validation_context": {"trusted_ca": ca}}})),
        ),
        ("alpn-h1", merged(alpn(json!(["http/1.1"])), http1(json!({})))),
        ("alpn-h2", merged(alpn(json!(["h2"])), http2(json!({})))),
        ("alpn-auto", merged(alpn(json!([])), auto)),
        ("no-alpn-h2", merged(alpn(json!([])), http2(json!({})))),
    ]
    .map(|(name, more)| (name, (more, endpoints.clone())))
    .into();
    let names: Vec<_> = clusters.keys().copied().collect();
    both(
        "upstreams_are_believed_as_their_certificates_allow",
        |port, _| resources(port, &clusters),
        |address| {
            let names = &names;
            async move {
                let mut seen = BTreeMap::new();
                for name in names {
                    let answer = ask(address, &get(name, "x")).await?;
                    let said = answer.json();
                    seen.insert(
                        name,
                        json!([
                            answer.status.as_u16(),
                            said["version"],
                            said["server_name"],
                            said["certificate"]
                        ]),
                    );
                }
                Ok(json!(seen))
            }
        },
    )
    .await;
}

/// Asks three times at once; gives how often each status came, and with which reason.
async fn at_once(connection: &Connection, one: &Ask) -> Result<Value> {
    let mut seen = BTreeMap::<String, usize>::new();
    let asks = (0..3).map(async |_| connection.shared().context("HTTP/1")?.ask(one).await);
    for answer in join_all(asks).await {
        let answer = answer?;
        let overloaded = answer.header("x-envoy-overloaded").unwrap_or("-");
        *seen.entry(format!("{} {overloaded}", answer.status.as_u16())).or_default() += 1;
    }
    Ok(json!(seen))
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_requests_are_as_many_as_allowed() {
    let clusters: Vec<(&str, Value)> = vec![
        ("one-connection", merged(http1(json!({})), thresholds(json!({"max_connections": 1})))),
        (
            "nobody-waits",
            merged(
                http1(json!({})),
                thresholds(json!({"max_connections": 1, "max_pending_requests": 0})),
            ),
        ),
        (
            "one-waits",
            merged(
                http1(json!({})),
                thresholds(json!({"max_connections": 1, "max_pending_requests": 1})),
            ),
        ),
        ("two-requests", merged(http2(json!({})), thresholds(json!({"max_requests": 2})))),
        ("one-stream", http2(json!({"max_concurrent_streams": 1}))),
        ("many-streams", http2(json!({}))),
        ("once-each", http1(json!({"max_requests_per_connection": 1}))),
        (
            "twice-each",
            protocol(json!({"explicit_http_config": {"http2_protocol_options": {}},
                "common_http_protocol_options": {"max_requests_per_connection": 2}})),
        ),
    ];
    let mut backends = BTreeMap::new();
    for (name, _) in &clusters {
        backends.insert(*name, Backend::start("a").await);
    }
    let clusters: BTreeMap<_, _> = clusters
        .into_iter()
        .map(|(name, more)| (name, (more, group(vec![at(backends[name].address)]))))
        .collect();
    both(
        "connections_and_requests_are_as_many_as_allowed",
        |port, _| resources(port, &clusters),
        |address| {
            let backends = &backends;
            async move {
                let mut seen = BTreeMap::new();
                // All on one connection, so that one worker has them.
                let mut connection = Connection::http2(address).await?;
                for (name, backend) in backends {
                    let before = backend.connections();
                    // One after the other, then three at once.
                    for _ in 0..4 {
                        connection.ask(&get(name, "x")).await?;
                    }
                    let between = backend.connections();
                    let answers = at_once(&connection, &get(name, "slow/700")).await?;
                    let (one_by_one, at_once) = (between - before, backend.connections() - between);
                    seen.insert(*name, json!([one_by_one, at_once, answers]));
                }
                Ok(json!(seen))
            }
        },
    )
    .await;
}

/// Answers each request with the PROXY header that came before it, in words.
struct Announced {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Announced {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(announced(stream));
            }
        });
        Self { address, task }
    }
}

async fn announced(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
        let request = bytes.windows(4).position(|four| four == b"GET ");
        let Some(at) = request.filter(|_| bytes.ends_with(b"\r\n\r\n")) else { continue };
        let text = words(&bytes[..at]);
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        bytes.clear();
    }
}

/// A PROXY header without its ports, which differ from run to run.
fn words(header: &[u8]) -> String {
    if header.starts_with(b"PROXY") {
        let text = String::from_utf8_lossy(header);
        let mut words: Vec<_> = text.split(' ').collect();
        words.truncate(4);
        return words.join(" ");
    }
    match header.split_at_checked(16) {
        Some((start, addresses)) => format!("{start:?} {:?} +{}", &addresses[..8], addresses.len()),
        None => format!("{header:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_hear_of_the_client_by_a_proxy_header() {
    let upstream = Announced::start().await;
    let endpoints = group(vec![at(upstream.address)]);
    let socket = |config: Value| {
        let config = merged(
            config,
            json!({"@type": format!("{T}extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"),
                "transport_socket": {"name": "raw", "typed_config": {
                    "@type": format!("{T}extensions.transport_sockets.raw_buffer.v3.RawBuffer")}}}),
        );
        json!({"transport_socket": {"name": "proxy", "typed_config": config}})
    };
    let clusters: BTreeMap<_, _> = [
        ("none", json!({})),
        ("v1", socket(json!({"config": {"version": "V1"}}))),
        ("v2", socket(json!({"config": {"version": "V2"}}))),
        ("default", socket(json!({}))),
    ]
    .map(|(name, more)| (name, (more, endpoints.clone())))
    .into();
    both(
        "upstreams_hear_of_the_client_by_a_proxy_header",
        |port, _| resources(port, &clusters),
        |address| async move {
            let mut seen = BTreeMap::new();
            for name in ["none", "v1", "v2", "default"] {
                // The second request finds the connection of the first.
                let mut client = Connection::http1(address).await?;
                let mut all = Vec::new();
                for _ in 0..2 {
                    all.push(client.ask(&get(name, "x")).await?.text());
                }
                seen.insert(name, all);
            }
            Ok(json!(seen))
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_serve_no_more_are_replaced() {
    let (idle, old) = (Backend::start("a").await, Backend::start("a").await);
    let (first, second) = (Backend::start("first").await, Backend::start("second").await);
    let addresses = |all: &[SocketAddr]| {
        let address = |at: &SocketAddr| json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}});
        let more: Vec<_> = all[1..].iter().map(|at| json!({"address": address(at)})).collect();
        json!({"endpoint": {"address": address(&all[0]), "additional_addresses": more}})
    };
    // Nobody listens on port 1.
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let clusters: BTreeMap<_, _> = [
        ("idle", (http1(json!({"idle_timeout": "0.2s"})), group(vec![at(idle.address)]))),
        ("old", (http1(json!({"max_connection_duration": "0.2s"})), group(vec![at(old.address)]))),
        ("several", (json!({}), group(vec![addresses(&[first.address, second.address])]))),
        ("first-refuses", (json!({}), group(vec![addresses(&[nobody, second.address])]))),
        ("all-refuse", (json!({}), group(vec![addresses(&[nobody, nobody])]))),
    ]
    .into();
    both(
        "connections_that_serve_no_more_are_replaced",
        |port, _| resources(port, &clusters),
        |address| {
            let limited = [("idle", &idle), ("old", &old)];
            async move {
                let mut seen = BTreeMap::new();
                for (name, backend) in limited {
                    let before = backend.connections();
                    ask(address, &get(name, "x")).await?;
                    wait::until(name, Duration::from_secs(10), || async {
                        ensure!(backend.open() == 0, "still open");
                        anyhow::Ok(())
                    })
                    .await;
                    let answer = ask(address, &get(name, "x")).await?;
                    let made = backend.connections() - before;
                    seen.insert(name, json!([answer.status.as_u16(), made]));
                }
                for name in ["several", "first-refuses", "all-refuse"] {
                    let answer = ask(address, &get(name, "x")).await?;
                    seen.insert(name, json!([answer.status.as_u16(), answer.backend()]));
                }
                Ok(json!(seen))
            }
        },
    )
    .await;
}

/// Stands in for a gRPC service with a health service: `up` and the whole are serving, `down` is not.
async fn grpc_health() -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async {
                let is_check = request.uri().path() == "/grpc.health.v1.Health/Check";
                let asked = request.into_body().collect().await?.to_bytes();
                let status = if asked.ends_with(b"down") { 2 } else { 1 };
                let answer = if is_check { vec![0, 0, 0, 0, 2, 8, status] } else { Vec::new() };
                let trailers = HeaderMap::from_iter([(
                    HeaderName::from_static("grpc-status"),
                    HeaderValue::from_static("0"),
                )]);
                let body =
                    Full::new(Bytes::from(answer)).with_trailers(async { Some(Ok(trailers)) });
                let response = Response::builder().header("content-type", "application/grpc");
                anyhow::Ok(response.body(body)?)
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, task.abort_handle())
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_left_out_for_what_they_answer() {
    let (health, task) = grpc_health().await;
    let good = [Backend::start("a").await, Backend::start("b").await];
    let bad = Script::answer("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", Then::Next);
    let bad = Upstream::start([("/x", bad)]).await;
    let no_panic = json!({"common_lb_config": {"healthy_panic_threshold": {"value": 0}}});
    let checked = |service: &str| {
        let check = json!({"timeout": "1s", "interval": "0.1s", "no_traffic_interval": "0.1s",
            "healthy_threshold": 1, "unhealthy_threshold": 1,
            "grpc_health_check": {"service_name": service}});
        let checks = merged(no_panic.clone(), json!({"health_checks": [check]}));
        (merged(http2(json!({})), checks), group(vec![at(health)]))
    };
    let judged = |detection: Value, endpoints: Vec<Value>| {
        let detection = merged(
            json!({"interval": "0.3s", "base_ejection_time": "60s", "max_ejection_percent": 100,
                "enforcing_consecutive_5xx": 0}),
            detection,
        );
        (merged(no_panic.clone(), json!({"outlier_detection": detection})), group(endpoints))
    };
    let percentage = |threshold: u32| {
        let detection = json!({"failure_percentage_threshold": threshold,
            "enforcing_failure_percentage": 100, "failure_percentage_minimum_hosts": 1,
            "failure_percentage_request_volume": 5});
        judged(detection, vec![at(good[0].address)])
    };
    let rate = json!({"enforcing_success_rate": 100, "success_rate_minimum_hosts": 3,
        "success_rate_request_volume": 5, "success_rate_stdev_factor": 1000});
    let three = vec![at(good[0].address), at(good[1].address), at(bad.address)];
    let clusters: BTreeMap<_, _> = [
        ("whole", checked("")),
        ("up", checked("up")),
        ("down", checked("down")),
        ("most-fail", percentage(60)),
        ("half-fail", percentage(60)),
        ("one-of-three", judged(rate, three)),
    ]
    .into();
    both(
        "endpoints_are_left_out_for_what_they_answer",
        |port, _| resources(port, &clusters),
        |address| async move {
            // On one connection, so that one worker has all requests.
            let mut client = Connection::http1(address).await?;
            let mut seen = BTreeMap::new();
            for name in ["whole", "up", "down"] {
                seen.insert(name, client.ask(&get(name, "x")).await?.status.as_u16());
            }
            let limit = Duration::from_secs(20);
            let client = Mutex::new(client);
            let ask = async |name: &str, path: &str| {
                anyhow::Ok(client.lock().await.ask(&get(name, path)).await?.status.as_u16())
            };
            wait::until("an endpoint that fails most requests", limit, || async {
                let status = ask("most-fail", "status/500").await?;
                ensure!(status == 503, "{status}");
                anyhow::Ok(())
            })
            .await;
            for _ in 0..60 {
                let answers = [ask("half-fail", "x").await?, ask("half-fail", "status/500").await?];
                ensure!(answers == [200, 500], "{answers:?}");
            }
            wait::until("the one of three that fails", limit, || async {
                for _ in 0..12 {
                    let status = ask("one-of-three", "x").await?;
                    ensure!(status == 200, "{status}");
                }
                anyhow::Ok(())
            })
            .await;
            Ok(json!(seen))
        },
    )
    .await;
    task.abort();
}
