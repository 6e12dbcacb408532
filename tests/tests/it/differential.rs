//! The same Envoy resources in a real Envoy and in our proxy: the same requests must get the same answers.

mod bytes;
mod cases;
mod certificates;
mod edge;
mod filters;
mod replies;
mod upstream;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
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
    let all = cases::all().into_iter().chain(replies::all());
    let all = all.chain(upstream::all()).chain(filters::all());
    compare("our_proxy_answers_as_envoy_does", all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_proxy_knows_clients_as_envoy_does() {
    compare("our_proxy_knows_clients_as_envoy_does", edge::all()).await;
}

/// Asks a real Envoy and our proxy the same; `test` is the name of the test.
async fn compare(test: &str, all: impl IntoIterator<Item = Case>) {
    if tools::offline(test) {
        return;
    }
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let backends =
        [Backend::start("a").await, Backend::start("b").await, Backend::start("c").await];
    let authz = Authz::start().await;
    for node in ["envoy", "ours"] {
        control.put_group(node, &[]).await;
    }
    let _envoy = Envoy::start(control.xds, "envoy", "x", "DELTA_GRPC").await;
    let _ours = Proxy::start(control.xds, "ours", "x").await;

    let mut wrong = Vec::new();
    for case in all {
        let mut answers = Vec::new();
        for node in ["envoy", "ours"] {
            let port = ports::free();
            control.put_group(node, &resources(&case, port, &backends, &authz)).await;
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            match serve(&control, node, address, &case).await {
                Ok(seen) => answers.push(seen),
                Err(error) => wrong.push(format!("{} on {node}: {error:#}", case.name)),
            }
        }
        let [envoy, ours] = &answers[..] else { continue };
        for ((ask, envoy), ours) in case.asks.iter().zip(envoy).zip(ours) {
            if envoy != ours {
                let asked = format!("{} {} {} {:?}", ask.method, ask.host, ask.path, ask.headers);
                wrong.push(format!(
                    "{}: {asked}\n   envoy {envoy:#?}\n   ours  {ours:#?}",
                    case.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

async fn serve(
    control: &ControlPlane,
    node: &str,
    address: SocketAddr,
    case: &Case,
) -> Result<Vec<BTreeMap<String, Value>>> {
    wait::until(&format!("{} on {node}", case.name), Duration::from_secs(10), || async {
        let status = control.node(node).await?;
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
    for one in &case.asks {
        seen.push(comparable(&ask(address, one).await?, address));
    }
    Ok(seen)
}

/// A cookie without the hash in it, which is of the addresses of the connection.
fn without_hash(cookie: &str) -> String {
    let (before, rest) = cookie.split_once('"').unwrap_or((cookie, ""));
    let (hash, after) = rest.split_once('"').unwrap_or(("", rest));
    format!("{before}<{} digits>{after}", hash.len())
}

/// What of an answer must agree.
fn comparable(answer: &Answer, address: SocketAddr) -> BTreeMap<String, Value> {
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
    seen.insert("headers".into(), json!(headers));
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
    for key in ["backend", "method", "path", "body"] {
        seen.insert(format!("upstream {key}"), body[key].clone());
    }
    let upstream = body["headers"].as_object().cloned().unwrap_or_default();
    let upstream: BTreeMap<String, Value> = upstream
        .into_iter()
        .filter(|(name, _)| !VOLATILE.contains(&name.as_str()))
        .map(|(name, value)| {
            if PRESENT.contains(&name.as_str()) {
                (name, "<set>".into())
            } else if value == port.as_str() {
                (name, "<port>".into())
            } else {
                (name, value)
            }
        })
        .collect();
    seen.insert("upstream headers".into(), json!(upstream));
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
    all.iter().map(|resource| renamed(resource, &own)).collect()
}

fn renamed(resource: &Value, own: &str) -> Value {
    serde_json::from_str(&resource.to_string().replace(OWN_CLUSTER, own)).unwrap()
}
