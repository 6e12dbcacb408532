//! The life of one stream: requests in, responses out, one task, no lock held across a wait.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};
use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use xds_proto::google::rpc;
use xds_proto::resource::ResourceType;

use crate::fleet::identity::Identity;
use crate::fleet::{Connection, Fleet, Moment, STALE_AFTER};
use crate::serve::grpc::{Pieces, Requests};
use crate::serve::message::{ControlPlane, DeltaDiscoveryResponse, DiscoveryResponse};
use crate::serve::order::Protocol;
use crate::serve::response::{MAX_RESPONSE_BYTES, Response};
use crate::serve::session::Session;
use crate::snapshot::Snapshots;

/// How long a client may leave a response unread before it is cut off. Everybody else is served
/// meanwhile; this frees what the stream holds.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// One way of speaking xDS, as messages.
pub trait Wire: Send + Sync + 'static {
    /// What the client sends.
    type Request: Message + Default + Debug + 'static;
    /// Which of the two protocols this is.
    const PROTOCOL: Protocol;

    /// Who the client says it is.
    fn node(request: &Self::Request) -> Option<&Node>;
    /// The type that the request is about.
    fn type_url(request: &Self::Request) -> &str;
    /// Why the client refuses a response.
    fn error(request: &Self::Request) -> Option<&rpc::Status>;
    /// Hands the request to the session.
    fn step(session: &mut Session, kind: ResourceType, request: &Self::Request, now: Moment);
    /// Makes a message of a response.
    fn message(response: Response, identifier: &str) -> Pieces;
}

/// State of the world.
#[derive(Debug)]
pub struct Sotw;

/// Incremental.
#[derive(Debug)]
pub struct Delta;

impl Wire for Sotw {
    type Request = DiscoveryRequest;
    const PROTOCOL: Protocol = Protocol::Sotw;

    fn node(request: &DiscoveryRequest) -> Option<&Node> {
        request.node.as_ref()
    }

    fn type_url(request: &DiscoveryRequest) -> &str {
        &request.type_url
    }

    fn error(request: &DiscoveryRequest) -> Option<&rpc::Status> {
        request.error_detail.as_ref()
    }

    fn step(session: &mut Session, kind: ResourceType, request: &DiscoveryRequest, now: Moment) {
        session.sotw(kind, request, now);
    }

    fn message(response: Response, identifier: &str) -> Pieces {
        let head = DiscoveryResponse {
            version_info: response.version.to_string(),
            type_url: response.kind.type_url().to_owned(),
            nonce: response.nonce,
            control_plane: Some(ControlPlane { identifier: identifier.to_owned() }),
        };
        Pieces::new(&head, &response.resources)
    }
}

impl Wire for Delta {
    type Request = DeltaDiscoveryRequest;
    const PROTOCOL: Protocol = Protocol::Delta;

    fn node(request: &DeltaDiscoveryRequest) -> Option<&Node> {
        request.node.as_ref()
    }

    fn type_url(request: &DeltaDiscoveryRequest) -> &str {
        &request.type_url
    }

    fn error(request: &DeltaDiscoveryRequest) -> Option<&rpc::Status> {
        request.error_detail.as_ref()
    }

    fn step(
        session: &mut Session,
        kind: ResourceType,
        request: &DeltaDiscoveryRequest,
        now: Moment,
    ) {
        session.delta(kind, request, now);
    }

    fn message(response: Response, identifier: &str) -> Pieces {
        let head = DeltaDiscoveryResponse {
            system_version_info: response.version.to_string(),
            type_url: response.kind.type_url().to_owned(),
            nonce: response.nonce,
            removed_resources: response.removed.iter().map(ToString::to_string).collect(),
            control_plane: Some(ControlPlane { identifier: identifier.to_owned() }),
        };
        Pieces::new(&head, &response.resources)
    }
}

/// What every stream shares.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What is published.
    pub snapshots: Arc<Snapshots>,
    /// Who is connected.
    pub fleet: Arc<Fleet>,
    /// How this control plane names itself to clients.
    pub identifier: Arc<str>,
    /// Ends every stream.
    pub shutdown: CancellationToken,
}

/// A stream in progress.
pub struct Stream<W: Wire> {
    shared: Shared,
    /// The one type of a per-type service. `None` on an aggregated stream.
    only: Option<ResourceType>,
    inbound: Requests,
    outbound: mpsc::Sender<Result<Pieces, Status>>,
    session: Session,
    peer: Option<Peer>,
    wire: PhantomData<fn() -> W>,
}

/// Who is at the other end, once it said so.
#[derive(Debug)]
struct Peer {
    identity: Identity,
    connection: Connection,
}

impl<W: Wire> fmt::Debug for Stream<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("only", &self.only).field("peer", &self.peer).finish()
    }
}

impl<W: Wire> Stream<W> {
    /// A stream that just opened. `only`: the type of a per-type service.
    pub fn new(
        shared: Shared,
        only: Option<ResourceType>,
        inbound: Requests,
        outbound: mpsc::Sender<Result<Pieces, Status>>,
    ) -> Self {
        let session = Session::new(W::PROTOCOL, only.is_none());
        Self { shared, only, inbound, outbound, session, peer: None, wire: PhantomData }
    }

    /// Serves the stream until either side ends it.
    pub async fn run(mut self) {
        let ended = self.serve().await;
        match ended {
            Ok(()) => debug!(node = self.node(), "stream closed by the client"),
            Err(status) => {
                let (code, error) = (status.code(), status.message());
                info!(node = self.node(), ?code, error, "stream ended");
                // The client may be gone, or not reading: the status is a courtesy.
                drop(self.outbound.try_send(Err(status)));
            }
        }
    }

    async fn serve(&mut self) -> Result<(), Status> {
        let mut changed = self.shared.snapshots.changed();
        let outbound = self.outbound.clone();
        // Whether there may be something to send, and since when there has been no room for it.
        let mut is_dirty = false;
        let mut blocked_at = None;
        loop {
            let wake = self.wake(blocked_at);
            tokio::select! {
                // Requests come before pushes: what a client asks for changes what it is due.
                biased;
                () = self.shared.shutdown.cancelled() => {
                    return Err(Status::unavailable("the control plane is going down"));
                }
                request = self.inbound.message() => match request {
                    Ok(Some(request)) => {
                        self.receive(&request)?;
                        is_dirty = true;
                    }
                    Ok(None) => return self.finish().await,
                    Err(status) => return Err(status),
                },
                published = changed.changed() => {
                    if published.is_err() {
                        return Err(Status::unavailable("the control plane is going down"));
                    }
                    self.look_up();
                    is_dirty = true;
                }
                permit = outbound.reserve(), if is_dirty => {
                    let Ok(permit) = permit else { return Ok(()) };
                    blocked_at = None;
                    match self.session.next(Instant::now()) {
                        Some(response) => permit.send(Ok(self.message(response))),
                        None => is_dirty = false,
                    }
                    self.report();
                }
                () = sleep_until(wake), if wake > Instant::now() => {
                    is_dirty = true;
                    self.touch();
                }
            }
            if is_dirty && outbound.capacity() == 0 {
                let since = *blocked_at.get_or_insert_with(Instant::now);
                if since.elapsed() >= WRITE_DEADLINE {
                    return Err(Status::deadline_exceeded("responses are not being read"));
                }
            }
        }
    }

    /// A client that asks once and half-closes still gets its answer.
    async fn finish(&mut self) -> Result<(), Status> {
        while let Some(response) = self.session.next(Instant::now()) {
            let message = self.message(response);
            if timeout(WRITE_DEADLINE, self.outbound.send(Ok(message))).await.is_err() {
                return Err(Status::deadline_exceeded("responses are not being read"));
            }
        }
        Ok(())
    }

    /// When to look again if nothing happens.
    fn wake(&self, blocked_at: Option<Instant>) -> Instant {
        let now = Instant::now();
        let stale = self.session.behind_since().map(|since| since + STALE_AFTER);
        let cut_off = blocked_at.map(|since| since + WRITE_DEADLINE);
        let wakes = [self.session.wake(), stale, cut_off].into_iter().flatten();
        wakes.filter(|wake| *wake > now).min().unwrap_or(now + IDLE)
    }

    fn receive(&mut self, request: &W::Request) -> Result<(), Status> {
        let type_url = W::type_url(request);
        if type_url.is_empty() && self.only.is_none() {
            return Err(Status::invalid_argument("type_url: required on an aggregated stream"));
        }
        self.introduce(W::node(request));
        let kind = match self.only {
            Some(only) if type_url.is_empty() || type_url == only.type_url() => only,
            Some(only) => {
                let problem = format!("type_url: this service has {} only", only.type_url());
                return Err(Status::invalid_argument(problem));
            }
            None => match ResourceType::from_type_url(type_url) {
                Some(kind) => kind,
                None => {
                    debug!(type_url, "unknown type asked for");
                    return Ok(());
                }
            },
        };
        if let Some(error) = W::error(request) {
            debug!(node = self.node(), type_url, error = error.message, "NACK");
        }
        W::step(&mut self.session, kind, request, Moment::now());
        Ok(())
    }

    /// The node is only sure to be in the first request of a stream.
    fn introduce(&mut self, node: Option<&Node>) {
        if self.peer.is_some() {
            return;
        }
        let identity = node.map(Identity::of).unwrap_or_default();
        debug!(
            node = &*identity.node,
            kind = %identity.kind,
            cluster = &*identity.cluster,
            protocol = ?W::PROTOCOL,
            "stream opened"
        );
        let connection = self.shared.fleet.connect(identity.clone());
        self.peer = Some(Peer { identity, connection });
        self.look_up();
    }

    fn look_up(&mut self) {
        let Some(peer) = &self.peer else { return };
        let published = self.shared.snapshots.for_node(&peer.identity.node, &peer.identity.cluster);
        if let Some(published) = published {
            self.session.publish(published);
        }
    }

    fn node(&self) -> &str {
        self.peer.as_ref().map_or("", |peer| &*peer.identity.node)
    }

    fn message(&self, response: Response) -> Pieces {
        let (node, type_url) = (self.node(), response.kind.type_url());
        let bytes = response.bytes();
        if bytes > MAX_RESPONSE_BYTES {
            warn!(node, type_url, bytes, "a response above 4 MiB: gRPC clients will refuse it");
        }
        debug!(
            node,
            type_url,
            version = %response.version,
            nonce = response.nonce,
            resources = response.resources.len(),
            removed = response.removed.len(),
            "response sent"
        );
        W::message(response, &self.shared.identifier)
    }

    fn report(&self) {
        if let Some(peer) = &self.peer {
            peer.connection.report(self.session.report());
        }
    }

    fn touch(&self) {
        if let Some(peer) = &self.peer {
            peer.connection.touch();
        }
    }
}

/// How long a stream sleeps when it has nothing to wait for.
const IDLE: Duration = Duration::from_secs(3600);
