//! A connection whose bytes are carried to an endpoint and back, whatever they are.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::connection::{ChainView, Connection};
use super::exchange::socket_address;
use super::lookup;
use super::upgrade::{copy, idle_for, until};
use crate::body::{Activity, Meter};
use crate::cluster::Cluster;
use crate::cluster::balancer::Selection;
use crate::cluster::endpoints::Endpoint;
use crate::cluster::failure::UpstreamFailure;
use crate::cluster::proxy_protocol::Ends;
use crate::cluster::tunnel::Tunnel;
use crate::format::rare::{Lookup, Rare};
use crate::format::{Context, Flags};
use crate::listener::FilterChain;
use crate::listener::tcp::TcpConfig;
use crate::route::HostNumber;
use crate::route::action::ClusterChoice;
use crate::telemetry::why::Why;

/// Carries the bytes of a connection until one side ends, or it must end.
pub async fn serve(
    connection: &Rc<Connection>,
    view: ChainView,
    client: impl AsyncRead + AsyncWrite + Unpin,
) {
    let Some(config) = view.chain().and_then(|chain| chain.config.tcp.as_ref()) else { return };
    connection.request_began();
    let activity = Activity::new();
    let mut session = Session::new(connection, &view, activity);
    session.run(config, client).await;
}

/// Logs a connection that its chain's rules refuse.
pub fn refuse(connection: &Rc<Connection>, view: &ChainView) {
    let Some(chain) = view.chain() else { return };
    let Some(config) = &chain.config.tcp else { return };
    connection.request_began();
    let activity = Activity::new();
    let mut session = Session::new(connection, view, activity);
    session.cluster = choose(chain, config).map(Arc::clone);
}

/// One connection. Dropped, it is over: then it is logged.
#[derive(Debug)]
struct Session {
    connection: Rc<Connection>,
    view: ChainView,
    started: Instant,
    started_at: SystemTime,
    received: Rc<Meter>,
    sent: Rc<Meter>,
    activity: Rc<Activity>,
    cluster: Option<Arc<Cluster>>,
    endpoint: Option<Arc<Endpoint>>,
    attempts: u32,
    why: Option<Why>,
}

impl Session {
    fn new(connection: &Rc<Connection>, view: &ChainView, activity: Rc<Activity>) -> Self {
        Self {
            connection: Rc::clone(connection),
            view: view.clone(),
            started: activity.last(),
            started_at: SystemTime::now(),
            received: Meter::new(Rc::clone(&activity)),
            sent: Meter::new(Rc::clone(&activity)),
            activity,
            cluster: None,
            endpoint: None,
            attempts: 0,
            why: None,
        }
    }

    async fn run(&mut self, config: &TcpConfig, client: impl AsyncRead + AsyncWrite + Unpin) {
        let age = config.age_max.map(|age| self.started + age);
        let connection = Rc::clone(&self.connection);
        let ended = tokio::select! {
            ended = self.carry(config, client) => ended,
            () = connection.cut_off() => None,
            () = until(age) => None,
        };
        self.why = ended;
    }

    async fn carry(
        &mut self,
        config: &TcpConfig,
        client: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Option<Why> {
        let tunnel = match self.open(config).await {
            Ok(tunnel) => tunnel,
            Err(why) => return Some(why),
        };
        let (upstream, _in_use) = tunnel.into_parts();
        let (from_client, to_client) = tokio::io::split(client);
        let (from_upstream, to_upstream) = tokio::io::split(upstream);
        let (received, sent) = (Rc::clone(&self.received), Rc::clone(&self.sent));
        let both = async {
            tokio::try_join!(
                copy(from_client, to_upstream, |bytes| received.add(bytes)),
                copy(from_upstream, to_client, |bytes| sent.add(bytes)),
            )
        };
        tokio::select! {
            // Either side may break off; the other is told by the end of its connection.
            _ = both => None,
            () = idle_for(config.idle, &self.activity) => Some(Why::IdleTimeout),
        }
    }

    /// A connection to an endpoint of the cluster.
    async fn open(&mut self, config: &TcpConfig) -> Result<Tunnel, Why> {
        let view = self.view.clone();
        let cluster = view.chain().and_then(|chain| choose(chain, config)).ok_or(Why::NoCluster)?;
        self.cluster = Some(Arc::clone(cluster));
        let facts = &self.connection.facts;
        let ends = Ends { remote: facts.remote, local: facts.local };
        let mut why = Why::NoHealthyEndpoint;
        while self.attempts < config.connects_max {
            let selection = Selection { attempt: self.attempts, ..Selection::default() };
            let endpoint = cluster.pick(&selection).ok_or(why)?;
            self.endpoint = Some(Arc::clone(&endpoint));
            self.attempts += 1;
            match Tunnel::open(cluster, &endpoint, ends).await {
                Ok(tunnel) => return Ok(tunnel),
                Err(failure) => {
                    cluster.live.stats.failure(failure.kind());
                    why = match failure {
                        UpstreamFailure::Overflow => Why::UpstreamOverflow,
                        UpstreamFailure::Local => Why::LocalConnectFailed,
                        UpstreamFailure::Tls => Why::UpstreamTlsFailed,
                        _ => Why::UpstreamConnectFailed,
                    };
                }
            }
        }
        Err(why)
    }

    fn log(&self) {
        let Some(chain) = self.view.chain() else { return };
        let facts = &self.connection.facts;
        let details = self.why.map_or("", |why| why.facts().details);
        let details = self.connection.refusal().unwrap_or(details);
        let context = Context {
            start: Some(self.started_at),
            duration: Some(self.started.elapsed()),
            remote: Some(facts.remote),
            direct_remote: Some(facts.peer),
            local: Some(facts.local),
            endpoint: self.endpoint.as_deref().and_then(socket_address),
            cluster: self.cluster.as_ref().map_or("", |cluster| &cluster.config.name),
            attempts: self.attempts,
            bytes_received: self.received.bytes(),
            bytes_sent: self.sent.bytes(),
            server_name: facts.server_name.as_deref().unwrap_or_default(),
            tls_version: self.connection.tls_version.get(),
            flags: Flags { noted: &[], ends: [self.why.map_or("", |why| why.facts().flag), ""] },
            termination_details: details,
            hostname: &self.connection.worker().settings.hostname,
            log_type: "TcpConnectionEnd",
            lookup: Some(self),
            ..Context::default()
        };
        self.connection.worker().log_all(&chain.logs, &context);
        self.connection.log(&self.view, &context);
    }
}

impl Lookup for Session {
    fn write(&self, asked: &Rare, out: &mut String) -> bool {
        lookup::of_connection(&self.connection, &self.view, asked, out)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.log();
        self.connection.request_ended(Instant::now());
    }
}

fn choose<'a>(chain: &'a FilterChain, config: &TcpConfig) -> Option<&'a Arc<Cluster>> {
    // The table of such a chain has one virtual host, for the clusters.
    let cluster = |index| chain.routing.routes.cluster(HostNumber::default(), index);
    match &config.cluster {
        ClusterChoice::One(index) => cluster(*index),
        ClusterChoice::Weighted(clusters) => cluster(clusters.pick(fastrand::u64(..))?.index),
        // No request, no header.
        ClusterChoice::Header(_) => None,
    }
}
