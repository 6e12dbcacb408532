//! Everything that the demo runs: control plane, two proxies, two backends.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::children::Child;
use super::folder::Folder;
use super::places::Places;
use super::{backend, cannot};
use crate::cli::client::{Ask, Client};
use crate::cli::clock;
use crate::cli::problem::{Exit, Problem};

/// How long the programs may take to start, and a change to arrive.
const LIMIT: Duration = Duration::from_secs(20);
/// How often it is looked.
const POLL: Duration = Duration::from_millis(10);

/// A child of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `weighlock serve`.
    ControlPlane,
    /// The proxy of fleet `a`.
    ProxyA,
    /// The proxy of fleet `b`.
    ProxyB,
}

/// The running demo.
#[derive(Debug)]
pub struct Stage {
    /// Where things listen.
    pub places: Places,
    control_plane: Child,
    proxies: [Child; 2],
    backends: [SocketAddr; 2],
    client: Client,
    admin: Client,
    /// Goes last: the children write into it.
    folder: Folder,
}

impl Stage {
    /// Starts everything, and waits until the proxies are connected.
    ///
    /// # Errors
    /// What did not start.
    pub async fn start(places: Places, tasks: &TaskTracker) -> Result<Self, Problem> {
        let folder = Folder::new().map_err(|error| cannot("make a temporary folder", &error))?;
        let mut backends = Vec::new();
        for name in ["shop-v1", "shop-v2"] {
            let address = backend::start(name, tasks).await;
            backends.push(address.map_err(|error| cannot("start a backend", &error))?);
        }
        let control_plane = control_plane(&places, &folder)?;
        let proxies = [proxy("a", &places, &folder)?, proxy("b", &places, &folder)?];
        let mut stage = Self {
            places,
            control_plane,
            proxies,
            backends: [backends[0], backends[1]],
            client: Client::new(&format!("http://{}", places.api), None)?,
            admin: Client::new(&format!("http://{}", places.admin), None)?,
            folder,
        };
        stage.ready().await?;
        stage.in_sync().await?;
        Ok(stage)
    }

    /// Waits until the control plane is ready.
    async fn ready(&mut self) -> Result<(), Problem> {
        let (admin, control_plane) = (&self.admin, &mut self.control_plane);
        let ready = async {
            let deadline = Instant::now() + LIMIT;
            while Instant::now() < deadline {
                let reply = admin.send(&Ask::get("/readyz")).await;
                if reply.is_ok_and(|reply| reply.status == 200) {
                    return Ok(());
                }
                sleep(POLL).await;
            }
            Err(Problem::new(Exit::TimedOut, "", "the control plane is not ready in time"))
        };
        tokio::select! {
            ready = ready => ready,
            ended = control_plane.ended() => Err(ended),
        }
    }

    /// Waits until both proxies are connected and in sync.
    ///
    /// # Errors
    /// When one of them ends, or does not come in time.
    pub async fn in_sync(&mut self) -> Result<(), Problem> {
        let client = self.client.clone();
        let synced = async {
            let deadline = Instant::now() + LIMIT;
            while Instant::now() < deadline {
                let fleet = client.json(&Ask::get("/v1/fleet")).await?;
                let nodes = fleet.get("nodes").and_then(Value::as_array);
                let is_synced = |node: &&Value| node.get("state") == Some(&json!("synced"));
                if nodes.is_some_and(|nodes| nodes.iter().filter(is_synced).count() == 2) {
                    return Ok(());
                }
                sleep(POLL).await;
            }
            Err(Problem::new(Exit::TimedOut, "", "the proxies are not in sync in time"))
        };
        tokio::select! {
            synced = synced => synced,
            (_, ended) = self.child_ended() => Err(ended),
        }
    }

    /// Applies the example, and says of each proxy how soon it had it.
    ///
    /// # Errors
    /// When it is refused, or does not arrive.
    pub async fn apply_example(&self) -> Result<[String; 2], Problem> {
        let mut documents = Vec::new();
        for (name, gateway) in ["a", "b"].into_iter().zip(self.places.gateways) {
            documents.push(self::gateway(name, gateway));
        }
        for (name, address) in ["shop-v1", "shop-v2"].into_iter().zip(self.backends) {
            documents.push(backend_document(name, address));
        }
        documents.push(route(1, 0));
        self.apply(&documents, "demo").await?;
        let fleet = self.client.json(&Ask::get("/v1/fleet")).await?;
        Ok(["proxy-a", "proxy-b"].map(|name| in_sync_after(&fleet, name)))
    }

    /// Splits the traffic of the route; returns the revision, when both proxies have it.
    ///
    /// # Errors
    /// When it does not arrive.
    pub async fn shift(&self, v1: u32, v2: u32) -> Result<String, Problem> {
        let why = format!("shift shop: shop-v1 {v1}%, shop-v2 {v2}%");
        let answer = self.apply(&[route(v1, v2)], &why).await?;
        Ok(answer.get("revision").and_then(Value::as_str).unwrap_or("-").to_owned())
    }

    async fn apply(&self, documents: &[Value], why: &str) -> Result<Value, Problem> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": documents});
        let mut ask = Ask { method: Method::POST, wait: LIMIT, ..Ask::get("/v1/apply") };
        ask.body = Some(("application/json".into(), list.to_string().into()));
        let timeout = format!("{}s", LIMIT.as_secs());
        ask = ask.query("wait", "acked").query("timeout", timeout).query("reason", why);
        self.client.json(&ask).await
    }

    /// Kills the control plane as a crash would.
    ///
    /// # Errors
    /// When it was gone already.
    pub async fn kill_control_plane(&mut self) -> Result<(), Problem> {
        self.control_plane.kill().await
    }

    /// Starts the control plane again with the same store, and waits until the proxies are back.
    ///
    /// # Errors
    /// When it does not start, or the proxies do not come back.
    pub async fn restart_control_plane(&mut self) -> Result<(), Problem> {
        self.control_plane = control_plane(&self.places, &self.folder)?;
        self.ready().await?;
        self.in_sync().await
    }

    /// Waits until a child ends, which none does by itself.
    pub async fn child_ended(&mut self) -> (Part, Problem) {
        let [a, b] = &mut self.proxies;
        tokio::select! {
            ended = self.control_plane.ended() => (Part::ControlPlane, ended),
            ended = a.ended() => (Part::ProxyA, ended),
            ended = b.ended() => (Part::ProxyB, ended),
        }
    }

    /// Starts a child that ended.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(&mut self, part: Part) -> Result<(), Problem> {
        let (places, folder) = (&self.places, &self.folder);
        match part {
            Part::ControlPlane => self.control_plane = control_plane(places, folder)?,
            Part::ProxyA => self.proxies[0] = proxy("a", places, folder)?,
            Part::ProxyB => self.proxies[1] = proxy("b", places, folder)?,
        }
        Ok(())
    }

    /// Ends the children, proxies first: they lose nothing but their traffic.
    pub async fn end(&mut self) {
        let [a, b] = &mut self.proxies;
        tokio::join!(a.end(), b.end());
        self.control_plane.end().await;
    }
}

fn control_plane(places: &Places, folder: &Folder) -> Result<Child, Problem> {
    let data = folder.path().join("data").display().to_string();
    let arguments = [
        "serve".to_owned(),
        "--open".to_owned(),
        format!("--data-dir={data}"),
        format!("--api-address={}", places.api),
        format!("--xds-address={}", places.xds),
        format!("--admin-address={}", places.admin),
    ];
    Child::start("control plane", folder.path(), &arguments)
}

fn proxy(name: &str, places: &Places, folder: &Folder) -> Result<Child, Problem> {
    let arguments = [
        "proxy".to_owned(),
        format!("--control-plane={}", places.xds),
        format!("--node-id=proxy-{name}"),
        format!("--node-cluster={name}"),
        "--admin-address=127.0.0.1:0".to_owned(),
        "--concurrency=1".to_owned(),
        // Nobody but the demo's own load is there to be waited for.
        "--drain-delay=0s".to_owned(),
        "--drain-timeout=1s".to_owned(),
    ];
    Child::start(&format!("proxy {name}"), folder.path(), &arguments)
}

fn gateway(name: &str, address: SocketAddr) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": name, "annotations": {"weighlock.dev/fleet": name}},
        "spec": {
            "gatewayClassName": "weighlock",
            "addresses": [{"type": "IPAddress", "value": address.ip().to_string()}],
            "listeners": [{"name": "http", "port": address.port(), "protocol": "HTTP"}],
        },
    })
}

fn backend_document(name: &str, address: SocketAddr) -> Value {
    json!({
        "apiVersion": "weighlock.dev/v1alpha1", "kind": "Backend", "metadata": {"name": name},
        "spec": {"endpoints": [{"ip": address.ip().to_string(), "port": address.port()}]},
    })
}

fn route(v1: u32, v2: u32) -> Value {
    let backend = |name: &str, weight: u32| json!({"group": "weighlock.dev", "kind": "Backend", "name": name, "weight": weight});
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "shop"},
        "spec": {
            "parentRefs": [{"name": "a"}, {"name": "b"}],
            "rules": [{"name": "main",
                "backendRefs": [backend("shop-v1", v1), backend("shop-v2", v2)]}],
        },
    })
}

fn in_sync_after(fleet: &Value, name: &str) -> String {
    let nodes = fleet.get("nodes").and_then(Value::as_array);
    let is_named = |node: &&Value| node.get("node").and_then(Value::as_str) == Some(name);
    let node = nodes.into_iter().flatten().find(is_named);
    let text = |field: &str| node.and_then(|node| node.get(field)?.as_str());
    let lag = node.and_then(|node| node.get("lagMs")?.as_u64()).map(Duration::from_millis);
    let after = lag.map(|lag| format!(" after {}", clock::show(lag))).unwrap_or_default();
    format!("in sync at {}{after}", text("revision").unwrap_or("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kind::kind_of;

    #[test]
    fn the_example_is_valid() {
        let address = "127.0.0.1:8001".parse().unwrap();
        for mut document in [gateway("a", address), backend_document("b", address), route(1, 0)] {
            let kind = kind_of(&document).unwrap();
            let findings = kind.check(&mut document);
            assert!(findings.is_empty(), "{findings:?}");
        }
    }

    #[test]
    fn a_proxy_says_how_soon_it_was_in_sync() {
        let fleet = json!({"nodes": [{"node": "proxy-a", "revision": "r1", "lagMs": 31}]});
        assert_eq!(in_sync_after(&fleet, "proxy-a"), "in sync at r1 after 31ms");
        assert_eq!(in_sync_after(&fleet, "proxy-b"), "in sync at -");
    }
}
