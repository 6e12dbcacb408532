//! What comes by itself and is named by something else: it is waited for, followed, and let go as Envoy does.

mod filters;
mod hosts;
mod scopes;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use futures_util::future::join_all;
use gateway_tests::ads::Ads;
use gateway_tests::backend::Backend;
use gateway_tests::client::{Ask, ask};
use gateway_tests::gateway::{ControlPlane, Envoy, Proxy, folder};
use gateway_tests::{documents, ports, tools, wait};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{Seen, Server, comparable};

pub(super) const T: &str = "type.googleapis.com/envoy.";

/// How long a step may take to be in force.
const LIMIT: Duration = Duration::from_secs(30);

/// What a node is given, one after the other, and what it must answer then.
pub(super) struct Story {
    pub(super) name: &'static str,
    pub(super) by: By,
    pub(super) steps: Vec<Step>,
}

/// What is there, made for a story and a node.
type Resources = Box<dyn Fn(&World) -> Vec<Value>>;

/// The form of the protocol that a story is told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Both,
    /// State of the world has no words for it.
    Delta,
    /// As that, and the other server has none either.
    OurDelta,
    /// Both; but Envoy is told by state of the world: by delta it waits for ever once it has heard that something that it
    /// waits for is not there.
    BothButEnvoy,
}

/// One state of all resources.
pub(super) struct Step {
    pub(super) resources: Resources,
    /// Whether some of it is refused.
    pub(super) is_refused: bool,
    /// Requests, and the status and backend of the answer; `-` is none.
    pub(super) asks: Vec<(Ask, u16, &'static str)>,
}

/// What the resources of a story are made for.
pub(super) struct World {
    pub(super) port: u16,
    /// A name of its own for each story and node.
    pub(super) table: String,
}

impl World {
    /// A listener of its own, with these filters before the router and these fields; null takes one away.
    pub(super) fn listener(&self, filters: &[Value], manager: &Value) -> Value {
        let mut listener = documents::raw_listener("l", self.port, &self.table, filters);
        let place = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        let place = place.as_object_mut().unwrap();
        for (key, value) in manager.as_object().into_iter().flatten() {
            place.insert(key.clone(), value.clone());
        }
        place.retain(|_, value| !value.is_null());
        listener
    }

    /// The route configuration of the listener.
    pub(super) fn routes(&self, fields: &Value) -> Value {
        let mut routes = fields.clone();
        routes["@type"] = format!("{T}config.route.v3.RouteConfiguration").into();
        routes["name"] = self.table.as_str().into();
        routes
    }
}

/// A virtual host that sends everything to a cluster.
pub(super) fn host(name: &str, domains: &[&str], cluster: &str) -> Value {
    json!({"name": name, "domains": domains, "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": cluster}}]})
}

pub(super) fn source(timeout: &str) -> Value {
    json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": timeout})
}

#[tokio::test(flavor = "multi_thread")]
async fn our_proxy_discovers_as_envoy_does() {
    if tools::offline("our_proxy_discovers_as_envoy_does") {
        return;
    }
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let ads = Ads::start().await;
    let backends = [Backend::start("a").await, Backend::start("b").await];
    let (ours, other) = (Server::Ours(&control), Server::Other(&ads));
    let sides = [
        ("envoy", ours),
        ("envoy-sotw", ours),
        ("ours", ours),
        ("ours-sotw", ours),
        ("ours-by-another", other),
        ("ours-by-another-sotw", other),
    ];
    for (node, server) in sides {
        server.put_group(node, &[]).await.unwrap();
    }
    let _envoys = [
        Envoy::start(control.xds, "envoy", "x", "DELTA_GRPC").await,
        Envoy::start(control.xds, "envoy-sotw", "x", "GRPC").await,
    ];
    let mut proxies = Vec::new();
    for (node, server) in &sides[2..] {
        let api = if node.ends_with("sotw") { "GRPC" } else { "DELTA_GRPC" };
        proxies.push(Proxy::start_by(server.xds(), node, "x", api).await);
    }
    let mut wrong = Vec::new();
    for story in hosts::all().into_iter().chain(filters::all()).chain(scopes::all()) {
        let able = sides.iter().filter(|(node, _)| match story.by {
            By::Both => true,
            By::Delta => !node.ends_with("sotw"),
            By::OurDelta => ["envoy", "ours"].contains(node),
            By::BothButEnvoy => *node != "envoy",
        });
        let told = able.map(async |&(node, server)| {
            let told = tell(&story, node, server, &backends).await;
            (node, told)
        });
        let mut answers = Vec::new();
        for (node, told) in join_all(told).await {
            match told {
                Ok(seen) => answers.push((node, seen)),
                Err(error) => wrong.push(format!("{} on {node}: {error:#}", story.name)),
            }
        }
        let (envoys, ours): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|(node, _)| node.starts_with("envoy"));
        for (node, ours) in &ours {
            let is_alike = |other: &str| node.ends_with("sotw") == other.ends_with("sotw");
            let of_its_form = envoys.iter().find(|(other, _)| is_alike(other));
            let Some((_, envoy)) = of_its_form.or(envoys.first()) else { continue };
            for (number, (envoy, ours)) in envoy.iter().zip(ours).enumerate() {
                if envoy != ours {
                    wrong.push(format!(
                        "{}: answer {number}\n   envoy {envoy:#?}\n   {node} {ours:#?}",
                        story.name
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// Tells a story to a node; gives all its answers.
async fn tell(
    story: &Story,
    node: &str,
    server: Server<'_>,
    backends: &[Backend],
) -> Result<Vec<Seen>> {
    let port = ports::free();
    let world = World { port, table: format!("routes-{port}") };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut seen = Vec::new();
    for (number, step) in story.steps.iter().enumerate() {
        let mut resources = (step.resources)(&world);
        for (name, backend) in ["a", "b"].into_iter().zip(backends) {
            resources.extend(documents::raw_cluster(name, backend.address));
        }
        let revision = server.put_group(node, &resources).await?;
        let what = format!("{}, step {number} on {node}", story.name);
        let was_refused = number > 0 && story.steps[number - 1].is_refused;
        arrived(&what, (node, server), (step, revision), was_refused).await?;
        wait::until(&what, LIMIT, || TcpStream::connect(address)).await;
        for (one, status, backend) in &step.asks {
            let right = async || {
                let answer = ask(address, one).await?;
                let got = (answer.status.as_u16(), answer.backend());
                let asked = format!("step {number}: {} {} {:?}", one.host, one.path, one.headers);
                ensure!(got == (*status, *backend), "{asked}: {got:?}, {:?}", answer.text());
                Ok::<_, anyhow::Error>(comparable(&answer, address))
            };
            // The workers of Envoy follow a moment after its ACK.
            seen.push(match node.starts_with("envoy") {
                true => wait::until(&what, LIMIT, || async { right().await }).await,
                false => right().await?,
            });
        }
    }
    server.put_group(node, &[]).await?;
    Ok(seen)
}

/// `was_refused`: what was there before is refused, which is said until the next answer.
async fn arrived(
    what: &str,
    (node, server): (&str, Server<'_>),
    (step, revision): (&Step, u64),
    was_refused: bool,
) -> Result<()> {
    let state = if step.is_refused { "NACK" } else { "synced" };
    wait::until(what, LIMIT, || async {
        let status = server.node(node).await?;
        if status["state"] == "NACK" && !step.is_refused && !was_refused {
            return Ok(Err(format!("{}", status["nack"])));
        }
        let has: u64 =
            status["revision"].as_str().unwrap_or("r0").trim_start_matches('r').parse()?;
        ensure!(status["state"] == state && (step.is_refused || has >= revision), "{status}");
        Ok::<_, anyhow::Error>(Ok(()))
    })
    .await
    .or_else(|nack| bail!("NACK {nack}"))
}
