//! The stream to the control plane: the only I/O of this module.
//!
//! Responses go to the config loop as events; what it says of them goes back as ACK or NACK.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;

use crate::bootstrap::control_plane::{Api, ControlPlane};
use crate::compile::Rejected;
use crate::xds::delta::Delta;
use crate::xds::sotw::Sotw;
use crate::xds::subscription::Wanted;
use crate::xds::{Incoming, Introduction, Protocol, Receipt, Start, Update, nack_text};

/// The largest response that is read. gRPC's own limit of 4 MiB is too small for big route tables.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Responses that may wait for the config loop's word.
const PENDING_MAX: usize = 16;
/// Requests that may wait for the stream.
const REQUESTS_MAX: usize = 64;
/// How long the server may take to read a request.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Envoy's back-off for its own streams.
const BACKOFF_BASE: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How often a better control plane is tried while a worse one serves.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// Servers take offence at HTTP/2 pings more often than every 5 minutes, gRPC's default for them;
/// they answer "too many pings" and close.
const PING_INTERVAL: Duration = Duration::from_secs(310);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// A peer that vanished is found by TCP, after the first plus three times the second.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// The window of a stream and of its connection: a big table comes in few round trips.
const WINDOW_BYTES: u32 = 4 << 20;

/// Whom to ask, and who asks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// In order of preference; not empty.
    pub control_planes: Vec<ControlPlane>,
    /// The variant of the protocol.
    pub api: Api,
    /// This proxy.
    pub node: Node,
    /// Whether only the first request of a stream carries the node.
    pub node_once_a_stream: bool,
    /// What is wanted, as it changes.
    pub wanted: watch::Receiver<Arc<Wanted>>,
}

/// What the config loop has to know.
#[derive(Debug)]
pub enum Event {
    /// A connection stands; the stream begins with what is sent back.
    Connected {
        /// The control plane's address.
        control_plane: Arc<str>,
        /// Where the start of the stream goes.
        reply: oneshot::Sender<Start>,
    },
    /// The stream is gone; what it brought stays.
    Disconnected {
        /// The control plane's address.
        control_plane: Arc<str>,
        /// Why.
        error: String,
    },
    /// A response.
    Update {
        /// What it says.
        update: Update,
        /// The version that the server gives the response, for logs.
        version: String,
        /// Where the verdict goes, once what was accepted is in force.
        reply: oneshot::Sender<Verdict>,
    },
}

/// What became of a response.
#[derive(Debug)]
pub struct Verdict {
    /// What was refused; nothing if the response is acknowledged.
    pub rejected: Vec<Rejected>,
}

/// Keeps one stream to the best control plane that answers, until `shutdown`.
pub async fn run(settings: Settings, events: mpsc::Sender<Event>, shutdown: CancellationToken) {
    let introduction = Introduction::new(settings.node.clone(), settings.node_once_a_stream);
    let client =
        Client { planes: settings.control_planes, events, wanted: settings.wanted.clone() };
    let work = async {
        match settings.api {
            Api::Delta => client.keep(Delta::new(introduction)).await,
            Api::Sotw => client.keep(Sotw::new(introduction)).await,
        }
    };
    // Dropping the work between two awaits leaves nothing half done: the loop owns all state.
    shutdown.run_until_cancelled(Box::pin(work)).await;
}

/// A variant of the protocol, and how its stream is opened.
trait Open: Protocol {
    async fn open(
        &self,
        client: AggregatedDiscoveryServiceClient<Channel>,
        requests: mpsc::Receiver<Self::Request>,
    ) -> Result<tonic::Streaming<Self::Response>, Status>;
}

impl Open for Delta {
    async fn open(
        &self,
        mut client: AggregatedDiscoveryServiceClient<Channel>,
        requests: mpsc::Receiver<Self::Request>,
    ) -> Result<tonic::Streaming<Self::Response>, Status> {
        let requests = ReceiverStream::new(requests);
        Ok(client.delta_aggregated_resources(requests).await?.into_inner())
    }
}

impl Open for Sotw {
    async fn open(
        &self,
        mut client: AggregatedDiscoveryServiceClient<Channel>,
        requests: mpsc::Receiver<Self::Request>,
    ) -> Result<tonic::Streaming<Self::Response>, Status> {
        let requests = ReceiverStream::new(requests);
        Ok(client.stream_aggregated_resources(requests).await?.into_inner())
    }
}

/// Why a stream ended.
enum End {
    /// It was lost; whether it had brought anything before.
    Lost { had_response: bool, error: String },
    /// A better control plane answers again.
    Preferred,
    /// The config loop is gone.
    Closed,
}

struct Client {
    planes: Vec<ControlPlane>,
    events: mpsc::Sender<Event>,
    wanted: watch::Receiver<Arc<Wanted>>,
}

impl Client {
    async fn keep<P: Open>(&self, mut protocol: P) {
        let (mut index, mut backoff) = (0, Backoff::default());
        loop {
            match self.session(&mut protocol, index).await {
                End::Closed => return,
                End::Preferred => index = 0,
                End::Lost { had_response, error } => {
                    let control_plane = self.planes[index].authority().into();
                    if self.events.send(Event::Disconnected { control_plane, error }).await.is_err()
                    {
                        return;
                    }
                    if had_response {
                        (index, backoff) = (0, Backoff::default());
                    } else {
                        index = (index + 1) % self.planes.len();
                    }
                    // The others are asked at once; only a whole round without an answer waits.
                    if index == 0 {
                        tokio::time::sleep(backoff.next(fastrand::f64())).await;
                    }
                }
            }
        }
    }

    async fn session<P: Open>(&self, protocol: &mut P, index: usize) -> End {
        let lost = |error: String| End::Lost { had_response: false, error };
        let plane = &self.planes[index];
        let channel = match connect(plane).await {
            Ok(channel) => channel,
            Err(error) => return lost(error_chain(&error)),
        };
        let (reply, start) = oneshot::channel();
        let control_plane = plane.authority().into();
        if self.events.send(Event::Connected { control_plane, reply }).await.is_err() {
            return End::Closed;
        }
        let Ok(start) = start.await else { return End::Closed };
        let wanted = self.wanted.clone();
        let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
        if let Err(error) = send_all(&requests, protocol.start(start)).await {
            return lost(error);
        }
        let client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        // Many servers send no head before their first response, so this may take long.
        let opened = tokio::select! {
            opened = protocol.open(client, outgoing) => opened,
            () = self.preferred(index) => return End::Preferred,
        };
        match opened {
            Ok(responses) => {
                let stream = Stream { requests, responses, wanted };
                self.converse(protocol, index, stream).await
            }
            Err(status) => lost(status_text(&status)),
        }
    }

    async fn converse<P: Open>(
        &self,
        protocol: &mut P,
        index: usize,
        mut stream: Stream<P>,
    ) -> End {
        let mut pending = FuturesUnordered::new();
        let mut had_response = false;
        let preferred = self.preferred(index);
        tokio::pin!(preferred);
        loop {
            let (receipt, refusal) = tokio::select! {
                biased;
                Some((receipt, verdict)) = pending.next() => {
                    let Ok(verdict): Result<Verdict, _> = verdict else { return End::Closed };
                    let rejected = &verdict.rejected;
                    (receipt, (!rejected.is_empty()).then(|| nack_text(rejected)))
                }
                message = stream.responses.message(), if pending.len() < PENDING_MAX => {
                    let response = match ended(message) {
                        Ok(response) => response,
                        Err(error) => return End::Lost { had_response, error },
                    };
                    had_response = true;
                    let Incoming { receipt, update } = protocol.read(response);
                    match update {
                        Ok(update) => {
                            let Some(verdict) = self.offer(update, &receipt).await else {
                                return End::Closed;
                            };
                            pending.push(async move { (receipt, verdict.await) });
                            continue;
                        }
                        Err(reason) => (receipt, Some(reason)),
                    }
                }
                changed = stream.wanted.changed() => {
                if changed.is_err() {
                    return End::Closed;
                }
                let wanted = Arc::clone(&stream.wanted.borrow_and_update());
                let requests = protocol.follow(&wanted);
                if let Err(error) = send_all(&stream.requests, requests).await {
                    return End::Lost { had_response, error };
                }
                continue;
            }
                () = &mut preferred => return End::Preferred,
            };
            let wanted = Arc::clone(&stream.wanted.borrow_and_update());
            let requests = protocol.settle(&receipt, refusal.as_deref(), &wanted);
            if let Err(error) = send_all(&stream.requests, requests).await {
                return End::Lost { had_response, error };
            }
        }
    }

    /// Hands a response to the config loop; none when that is gone.
    async fn offer(&self, update: Update, receipt: &Receipt) -> Option<oneshot::Receiver<Verdict>> {
        let (reply, verdict) = oneshot::channel();
        let version = receipt.version.clone();
        self.events.send(Event::Update { update, version, reply }).await.ok()?;
        Some(verdict)
    }

    /// Returns when a control plane better than `index` accepts connections again.
    async fn preferred(&self, index: usize) {
        let mut ticks = tokio::time::interval(PROBE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            for plane in &self.planes[..index] {
                if connect(plane).await.is_ok() {
                    return;
                }
            }
        }
    }
}

/// An open stream, and what is wanted on it.
struct Stream<P: Open> {
    requests: mpsc::Sender<P::Request>,
    responses: tonic::Streaming<P::Response>,
    wanted: watch::Receiver<Arc<Wanted>>,
}

fn ended<T>(message: Result<Option<T>, Status>) -> Result<T, String> {
    match message {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err("the server ended the stream".to_owned()),
        Err(status) => Err(status_text(&status)),
    }
}

async fn send_all<T>(requests: &mpsc::Sender<T>, all: Vec<T>) -> Result<(), String> {
    for request in all {
        requests
            .send_timeout(request, WRITE_TIMEOUT)
            .await
            .map_err(|_| "the server reads no requests".to_owned())?;
    }
    Ok(())
}

async fn connect(plane: &ControlPlane) -> Result<Channel, tonic::transport::Error> {
    let scheme = if plane.tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", plane.authority()))?
        .connect_timeout(plane.connect_timeout)
        .tcp_keepalive(Some(KEEPALIVE_IDLE))
        .tcp_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .tcp_keepalive_retries(Some(KEEPALIVE_PROBES))
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    if let Some(tls) = &plane.tls {
        let name = tls.server_name.as_ref().unwrap_or(&plane.host);
        let mut config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&tls.ca))
            .domain_name(name.clone());
        if let Some((chain, key)) = &tls.identity {
            config = config.identity(Identity::from_pem(chain, key));
        }
        endpoint = endpoint.tls_config(config)?;
    }
    // The time to connect includes the look-up of the name and TLS.
    endpoint.connect().await
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

fn status_text(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

/// Exponential back-off with full jitter.
#[derive(Debug, Default)]
struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// How long to wait; `random` lies between 0 and 1.
    fn next(&mut self, random: f64) -> Duration {
        let ceiling =
            BACKOFF_BASE.saturating_mul(2_u32.saturating_pow(self.attempts)).min(BACKOFF_MAX);
        self.attempts = self.attempts.saturating_add(1);
        ceiling.mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_doubles_to_its_limit() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(Backoff { attempts: 100 }.next(0.5), Duration::from_secs(15));
    }
}
