//! The same Envoy resources in a real Envoy and in our proxy: the same requests must get the same answers.

mod bytes;
mod cases;
mod certificates;
mod connections;
mod discovery;
mod edge;
mod elsewhere;
mod endpoints;
mod entry;
mod filters;
mod frames;
mod grpc;
mod letters;
mod logs;
mod names;
mod reach;
mod messages;
mod replies;
mod retries;
mod routing;
mod standing;
mod streams;
mod tls;
mod upgrades;
mod upstream;
mod upstreams;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use gateway_tests::ads::Ads;
use gateway_tests::authz::Authz;
use gateway_tests::backend::Backend;
use gateway_tests::client::{Answer, Ask, ask};
use gateway_tests::gateway::{ControlPlane, Envoy, Proxy, folder};
use gateway_tests::{documents, ports, tools, wait};
use serde_json::{Value, json};

/// Differs from run to run, or between any two proxies.
const VOLATILE: [&str; 5] =
    ["date", "x-envoy-upstream-service-time", "content-length", "connection", "transfer-encoding"];
/// Differs in value, must agree in presence.
const PRESENT: [&str; 1] = ["x-request-id"];
/// Tells a request id that a proxy made from one that a client sent.
const UUID_LENGTH: usize = 36;

/// Stands for a cluster of the case's own. Like its table it gets a name of its own.
pub(crate) const OWN_CLUSTER: &str = "@own@";

/// Stands for the file of an access log whose lines are compared too: JSON with the key `ask`, `%REQ(x-ask)%`.
/// Of keys that begin with `~` only the shape of the value counts.
pub(crate) const LOG: &str = "@log@";

/// A RouteConfiguration, and what to ask.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The RouteConfiguration without its name; clusters `a`, `b`, `c` and `authz` exist.
    pub(crate) routes: Value,
    /// More fields of the HTTP connection manager.
    pub(crate) manager: Value,
    /// More clusters, given where `a`, `b` and `c` are.
    pub(crate) clusters: Clusters,
    /// What `/` must answer first, where an answer alone does not show that all is in place.
    pub(crate) warm: Option<u16>,
    pub(crate) asks: Vec<Ask>,
}

pub(crate) type Clusters = Box<dyn Fn(&[SocketAddr]) -> Vec<Value>>;

impl Case {
    /// No cluster but those that always exist.
    pub(crate) fn no_clusters() -> Clusters {
        Box::new(|_| Vec::new())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_proxy_answers_as_envoy_does() {
    let all = cases::all().into_iter().chain(replies::all()).chain(upstream::all());
    compare("our_proxy_answers_as_envoy_does", all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_filters_do_as_those_of_envoy_do() {
    compare("our_filters_do_as_those_of_envoy_do", filters::all()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_proxy_knows_clients_as_envoy_does() {
    compare("our_proxy_knows_clients_as_envoy_does", edge::all()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_proxy_chooses_and_tries_again_as_envoy_does() {
    let all = retries::all().into_iter().chain(endpoints::all()).chain(elsewhere::all());
    let all = all.chain(upstreams::all());
    compare("our_proxy_chooses_and_tries_again_as_envoy_does", all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_proxy_routes_as_envoy_does() {
    compare("our_proxy_routes_as_envoy_does", routing::all()).await;
}

/// A case that is dropped by mistake would be missed by nobody else.
#[test]
fn there_are_many_cases() {
    let count = cases::all().len() + replies::all().len() + upstream::all().len();
    let count = count + filters::all().len() + edge::all().len() + retries::all().len();
    let count = count + routing::all().len() + endpoints::all().len() + elsewhere::all().len();
    let count = count + upstreams::all().len();
    assert!(count >= 200, "{count}");
}

/// Asks a real Envoy the same as our proxy, which two management servers drive, each in both forms; `test` is the
/// name of the test.
async fn compare(test: &str, all: impl IntoIterator<Item = Case>) {
    if tools::offline(test) {
        return;
    }
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let ads = Ads::start().await;
    let backends =
        [Backend::start("a").await, Backend::start("b").await, Backend::start("c").await];
    let authz = Authz::start().await;
    let (ours, other) = (Server::Ours(&control), Server::Other(&ads));
    let sides = [
        ("envoy", ours),
        ("ours", ours),
        ("ours-sotw", ours),
        ("ours-by-another", other),
        ("ours-by-another-sotw", other),
    ];
    for (node, server) in sides {
        server.put_group(node, &[]).await.unwrap();
    }
    let _envoy = Envoy::start(control.xds, "envoy", "x", "DELTA_GRPC").await;
    let mut proxies = Vec::new();
    for (node, server) in &sides[1..] {
        let api = if node.ends_with("sotw") { "GRPC" } else { "DELTA_GRPC" };
        proxies.push(Proxy::start_by(server.xds(), node, "x", api).await);
    }

    let (mut wrong, mut unsaid, mut cases) = (Vec::new(), Vec::new(), 0);
    for case in all {
        cases += 1;
        let sides = sides.iter().map(async |&(node, server)| {
            let port = ports::free();
            let log = data.path().join(format!("{node}-{port}.log"));
            let resources = resources(&case, port, &backends, &authz);
            let resources = resources.iter().map(|one| replaced(one, LOG, &log.to_string_lossy()));
            if let Err(error) = server.put_group(node, &resources.collect::<Vec<_>>()).await {
                return Err(format!("{}: {error}", case.name));
            }
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            Ok((node, serve(server, node, (address, &log), (&case, &backends)).await))
        });
        let mut answers = Vec::new();
        for seen in join_all(sides).await {
            match seen {
                Ok((node, Ok(seen))) => answers.push((node, seen)),
                Ok((node, Err(error))) => {
                    wrong.push(format!("{} on {node}: {error:#}", case.name));
                }
                Err(error) => unsaid.push(error),
            }
        }
        let Some((("envoy", envoy), ours)) = answers.split_first() else { continue };
        for (node, ours) in ours {
            wrong.extend(differences(&case, envoy, node, ours));
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    unsaid.iter().for_each(|case| eprintln!("not by the other server: {case}"));
    assert!(unsaid.len() * 5 <= cases, "the other server cannot say:\n{}", unsaid.join("\n"));
}

type Seen = BTreeMap<String, Value>;

fn differences(case: &Case, envoy: &[Seen], node: &str, ours: &[Seen]) -> Vec<String> {
    let pairs = case.asks.iter().zip(envoy).zip(ours).filter(|((_, envoy), ours)| envoy != ours);
    pairs
        .map(|((ask, envoy), ours)| {
            let asked = format!("{} {} {} {:?}", ask.method, ask.host, ask.path, ask.headers);
            format!("{} on {node}: {asked}{}", case.name, difference(envoy, ours))
        })
        .collect()
}

/// Who gives a node its resources.
#[derive(Debug, Clone, Copy)]
enum Server<'a> {
    Ours(&'a ControlPlane),
    Other(&'a Ads),
}

impl Server<'_> {
    fn xds(self) -> SocketAddr {
        match self {
            Self::Ours(control) => control.xds,
            Self::Other(ads) => ads.xds,
        }
    }

    /// An error where the other server has no words for it.
    async fn put_group(self, group: &str, resources: &[Value]) -> Result<u64> {
        match self {
            Self::Ours(control) => Ok(control.put_group(group, resources).await),
            Self::Other(ads) => ads.try_put_group(group, resources).await,
        }
    }

    async fn node(self, id: &str) -> Result<Value> {
        match self {
            Self::Ours(control) => control.node(id).await,
            Self::Other(ads) => ads.node(id).await,
        }
    }
}

/// What differs, line by line.
fn difference(envoy: &Seen, ours: &Seen) -> String {
    let keys: BTreeSet<_> = envoy.keys().chain(ours.keys()).collect();
    let differing = keys.into_iter().filter(|key| envoy.get(*key) != ours.get(*key));
    let show = |side: &Seen, key| side.get(key).map_or("-".into(), Value::to_string);
    differing
        .map(|key| format!("\n   {key}: envoy {} | ours {}", show(envoy, key), show(ours, key)))
        .collect()
}

async fn serve(
    server: Server<'_>,
    node: &str,
    (address, log): (SocketAddr, &Path),
    (case, backends): (&Case, &[Backend]),
) -> Result<Vec<Seen>> {
    wait::until(&format!("{} on {node}", case.name), Duration::from_secs(20), || async {
        let status = server.node(node).await?;
        if status["state"] == "NACK" {
            return Ok(Err(format!("{}", status["nack"])));
        }
        ensure!(status["state"] == "synced", "{status}");
        let status = ask(address, &Ask::get("warm.test", "/")).await?.status.as_u16();
        ensure!(case.warm.is_none_or(|warm| warm == status), "answers {status}");
        Ok::<_, anyhow::Error>(Ok(()))
    })
    .await
    .or_else(|nack| bail!("NACK {nack}"))?;
    let mut seen = Vec::new();
    let logs = case.manager.to_string().contains(LOG);
    for (number, one) in case.asks.iter().enumerate() {
        let one = named(one, backends);
        let one = if logs { one.header("x-ask", &number.to_string()) } else { one };
        let answer = ask(address, &one).await?;
        let mut answer = comparable(&answer, address);
        if logs {
            answer.insert("log".into(), lines(log, number, address).await);
        }
        seen.push(answer);
    }
    Ok(seen)
}

/// The question with the addresses of backends, in base64, where a header says `@base64 NAME@`.
fn named(asked: &Ask, backends: &[Backend]) -> Ask {
    let mut asked = asked.clone();
    for (_, value) in &mut asked.headers {
        for (name, backend) in ["a", "b", "c"].iter().zip(backends) {
            let address = STANDARD.encode(backend.address.to_string());
            *value = value.replace(&format!("@base64 {name}@"), &address);
        }
    }
    asked
}

/// What the access logs say of an ask, the last of which logs all.
async fn lines(log: &Path, number: usize, address: SocketAddr) -> Value {
    let own = format!("own-{}", address.port());
    let what = format!("line {number} of log");
    let lines = wait::until(&what, Duration::from_secs(10), || async {
        let text = std::fs::read_to_string(log).unwrap_or_default().replace(&own, OWN_CLUSTER);
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let asked = Value::String(number.to_string());
        let lines: Vec<_> = lines.filter(|line| line["ask"] == asked).collect();
        if lines.is_empty() { Err(text) } else { Ok(lines) }
    });
    let comparable = |line: &Value| -> Value {
        let pairs = line.as_object().into_iter().flatten();
        let pairs = pairs.map(|(key, value)| {
            let value = if key.starts_with('~') { shape(value) } else { value.clone() };
            (key.clone(), value)
        });
        pairs.collect()
    };
    lines.await.iter().map(comparable).collect()
}

/// A value with every number in it made one digit.
fn shape(value: &Value) -> Value {
    let text = value.to_string();
    let mut shape = String::new();
    for char in text.chars() {
        if !char.is_ascii_digit() {
            shape.push(char);
        } else if !shape.ends_with('0') {
            shape.push('0');
        }
    }
    serde_json::from_str(&shape).unwrap_or(Value::String(shape))
}

/// A cookie without the hash in it, which is of the addresses of the connection.
fn without_hash(cookie: &str) -> String {
    let (before, rest) = cookie.split_once('"').unwrap_or((cookie, ""));
    let (hash, after) = rest.split_once('"').unwrap_or(("", rest));
    format!("{before}<{} digits>{after}", hash.len())
}

/// What of an answer must agree.
fn comparable(answer: &Answer, address: SocketAddr) -> Seen {
    let mut seen = BTreeMap::from([("status".to_owned(), json!(answer.status.as_u16()))]);
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in &answer.headers {
        if !VOLATILE.contains(&name.as_str()) {
            let mut value = String::from_utf8_lossy(value.as_bytes())
                .replace(&address.to_string(), "<address>");
            if name == "set-cookie" {
                value = without_hash(&value);
            }
            if name == "grpc-message" && value.contains("x-request-id") {
                // What the backend echoes is compared where it comes back as it is.
                value = "<echo>".into();
            }
            if PRESENT.contains(&name.as_str()) && value.len() == UUID_LENGTH {
                value = "<made>".into();
            }
            headers.entry(name.as_str()).or_default().push(value);
        }
    }
    seen.extend(headers.into_iter().map(|(name, lines)| (format!("header {name}"), json!(lines))));
    let body = answer.json();
    if let Some(encoding) = answer.header("content-encoding") {
        seen.insert("body".into(), format!("<{encoding}>").into());
        return seen;
    }
    if body.get("backend").is_none() {
        seen.insert("body".into(), answer.text().into());
        return seen;
    }
    let port = address.port().to_string();
    for key in ["backend", "scheme", "method", "path", "body"] {
        seen.insert(format!("upstream {key}"), body[key].clone());
    }
    if let Some(encoding) = body["headers"].get("content-encoding") {
        seen.insert("upstream body".into(), format!("<{encoding}>").into());
    }
    let upstream = body["headers"].as_object().cloned().unwrap_or_default();
    let upstream = upstream.into_iter().filter(|(name, _)| !VOLATILE.contains(&name.as_str()));
    seen.extend(upstream.map(|(name, value)| {
        let value = if PRESENT.contains(&name.as_str()) {
            "<set>".into()
        // A time in milliseconds may be the same number.
        } else if value == port.as_str() && !name.starts_with("x-envoy-") {
            "<port>".into()
        } else {
            value
        };
        (format!("upstream header {name}"), value)
    }));
    seen
}

fn resources(case: &Case, port: u16, backends: &[Backend], authz: &Authz) -> Vec<Value> {
    // A name of its own for each case: under an old name Envoy may answer from the old table at first.
    let table = format!("routes-{port}");
    let mut listener = documents::raw_listener("l", port, &table, &[]);
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    for (key, value) in case.manager.as_object().into_iter().flatten() {
        manager[key] = value.clone();
    }
    let mut routes = case.routes.clone();
    routes["@type"] = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration".into();
    routes["name"] = table.into();
    let mut all = vec![listener, routes];
    for (name, backend) in ["a", "b", "c"].into_iter().zip(backends) {
        all.extend(documents::raw_cluster(name, backend.address));
    }
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    all.extend((case.clusters)(&addresses));
    let mut cluster = documents::raw_cluster("authz", authz.address);
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster[0]["typed_extension_protocol_options"] = json!({name: {
        "@type": format!("type.googleapis.com/{name}"),
        "explicit_http_config": {"http2_protocol_options": {}}}});
    all.extend(cluster);
    let own = format!("own-{port}");
    all.iter().map(|resource| replaced(resource, OWN_CLUSTER, &own)).collect()
}

fn replaced(resource: &Value, what: &str, with: &str) -> Value {
    serde_json::from_str(&resource.to_string().replace(what, with)).unwrap()
}
