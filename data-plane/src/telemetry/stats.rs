//! The numbers that listeners, routes and clusters keep; handed out by the registry at link time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use xds_proto::resource::ResourceType;

use super::instrument::{Counter, Gauge, Histogram};
use super::why::Why;

/// Classes of status in labels; the first is "no response".
pub(super) const CODE_CLASSES: [&str; 6] = ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// A counter for each class of status.
#[derive(Debug, Default)]
pub struct ByClass(pub(super) [Counter; CODE_CLASSES.len()]);

impl ByClass {
    /// Counts one response; `None` when none was sent.
    pub fn count(&self, status: Option<StatusCode>) {
        let class = status.map_or(0, |status| usize::from(status.as_u16() / 100).min(5));
        self.0[class].increment();
    }
}

macro_rules! label {
    ($(#[$doc:meta])+ $Label:ident { $($(#[$variant_doc:meta])+ $Variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $Label { $($(#[$variant_doc])+ $Variant),+ }

        impl $Label {
            /// The label values, by place.
            pub(super) const NAMES: &[&str] = &[$($name),+];
        }
    };
}

label! {
    /// What a client speaks.
    Protocol {
        /// HTTP/1.1 or 1.0.
        Http1 = "h1",
        /// HTTP/2.
        Http2 = "h2",
        /// Bytes.
        Tcp = "tcp",
    }
}

label! {
    /// How a TLS handshake with a client ended.
    Handshake {
        /// Well.
        Ok = "ok",
        /// There is no certificate to show.
        NoCertificate = "no_certificate",
        /// The client's certificate was refused or missing.
        ClientCertificate = "client_certificate",
        /// Anything else that is wrong.
        Protocol = "protocol",
        /// It took too long.
        Timeout = "timeout",
    }
}

label! {
    /// Why a client's connection is not served.
    Refusal {
        /// The listener, or its filter chain, has as many as it may.
        ListenerLimit = "listener_limit",
        /// The proxy has as many as it may.
        Limit = "limit",
        /// The overload manager says so.
        Overload = "overload",
        /// File descriptors run out.
        Descriptors = "descriptors",
    }
}

label! {
    /// Why a connection of HTTP/2 was given up.
    Fault {
        /// Frames that carry nothing and end nothing.
        Empty = "empty_frames",
        /// PRIORITY frames.
        Priority = "priority_frames",
        /// WINDOW_UPDATE frames.
        WindowUpdate = "window_update_frames",
        /// PING, SETTINGS and other frames that bring nothing.
        Control = "control_frames",
        /// Requests of a client that takes no answer.
        Unread = "unread_responses",
        /// Streams that the client gave up.
        Reset = "resets",
        /// Streams that the client had us give up.
        Violation = "violations",
        /// Headers that took too long.
        SlowHeaders = "slow_headers",
        /// Trailers with what only heads may have.
        Trailers = "trailers",
        /// Frames of another size than their kind has.
        Size = "frame_size",
        /// A window beyond what there may be.
        Window = "window",
        /// Frames of a stream that the client has ended.
        Ended = "ended_stream",
        /// What the codec finds too much.
        Excess = "excess",
        /// What the codec finds wrong.
        Protocol = "protocol",
    }
}

impl Fault {
    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        Self::NAMES.get(self as usize).copied().unwrap_or_default()
    }
}

label! {
    /// A setting of a listener that leaves to endpoints what the proxy could do.
    Lax {
        /// Paths are matched as they come.
        Paths = "normalize_path",
        /// Slashes side by side stay.
        Slashes = "merge_slashes",
        /// Escaped slashes stay.
        EscapedSlashes = "path_with_escaped_slashes_action",
        /// Names of headers may have underscores.
        Underscores = "headers_with_underscores_action",
    }
}

impl Lax {
    /// The name of the setting.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

label! {
    /// Why an attempt brought no response.
    UpstreamFailureKind {
        /// No connection.
        Connect = "connect",
        /// The stream or connection broke.
        Reset = "reset",
        /// A deadline passed.
        Timeout = "timeout",
        /// No TLS.
        Tls = "tls",
        /// The answer was none.
        Protocol = "protocol",
        /// A limit was reached.
        Overflow = "overflow",
    }
}

label! {
    /// What an endpoint is good for.
    EndpointState {
        /// It gets requests.
        Healthy = "healthy",
        /// It gets none.
        Unhealthy = "unhealthy",
        /// It gets no new ones.
        Draining = "draining",
        /// It failed too often of late.
        Ejected = "ejected",
    }
}

label! {
    /// A limit of a circuit breaker.
    Limit {
        /// Connections.
        Connections = "connections",
        /// Requests that wait for a connection.
        Pending = "pending",
        /// Requests under way.
        Requests = "requests",
        /// Retries under way.
        Retries = "retries",
    }
}

label! {
    /// Where the served configuration came from.
    ConfigSource {
        /// A control plane.
        Xds = "xds",
        /// The state directory.
        Disk = "disk",
        /// The bootstrap file.
        Bootstrap = "bootstrap",
    }
}

/// The numbers of a listener.
#[derive(Debug, Default)]
pub struct ListenerStats {
    /// Requests under way.
    pub requests_active: Gauge,
    pub(super) connections: [(Gauge, Counter); 3],
    pub(super) handshakes: [Counter; 5],
    pub(super) refused: [Counter; 4],
    pub(super) faults: [Counter; Fault::NAMES.len()],
    pub(super) lax: [Gauge; 4],
}

impl ListenerStats {
    /// A connection is open.
    pub fn opened(&self, protocol: Protocol) {
        let (open, total) = &self.connections[protocol as usize];
        open.increment();
        total.increment();
    }

    /// A connection is closed.
    pub fn closed(&self, protocol: Protocol) {
        self.connections[protocol as usize].0.decrement();
    }

    /// Sets which settings are lax.
    pub fn set_lax(&self, lax: &[Lax]) {
        self.lax.iter().for_each(|gauge| gauge.set(0));
        lax.iter().for_each(|one| self.lax[*one as usize].set(1));
    }

    /// A connection is not served.
    pub fn refused(&self, why: Refusal) {
        self.refused[why as usize].increment();
    }

    /// A connection of HTTP/2 was given up.
    pub fn gave_up(&self, fault: Fault) {
        self.faults[fault as usize].increment();
    }

    /// A handshake ended.
    pub fn handshake(&self, result: Handshake) {
        self.handshakes[result as usize].increment();
    }
}

/// The numbers of a route of a listener.
#[derive(Debug, Default)]
pub struct RouteStats {
    /// Requests by class of status.
    pub requests: ByClass,
    /// First byte in to last byte out.
    pub duration: Histogram,
    /// Time in the gateway itself.
    pub gateway_duration: Histogram,
    /// Bytes of request bodies.
    pub request_body_bytes: Counter,
    /// Bytes of response bodies.
    pub response_body_bytes: Counter,
    pub(super) local_replies: ByReason,
}

/// A counter for each reason.
#[derive(Debug)]
pub(super) struct ByReason(pub(super) [Counter; Why::ALL.len()]);

impl Default for ByReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl RouteStats {
    /// Counts a reply that the gateway made itself.
    pub fn local_reply(&self, why: Why) {
        self.local_replies.0[why.index()].increment();
    }
}

/// The numbers of a cluster.
#[derive(Debug, Default)]
pub struct ClusterStats {
    /// First attempts, by class of status.
    pub first_attempts: ByClass,
    /// Retries, by class of status.
    pub retries: ByClass,
    /// Head sent to response head.
    pub duration: Histogram,
    /// Connections open.
    pub connections: Gauge,
    /// Connections opened.
    pub connections_total: Counter,
    pub(super) failures: [Counter; 6],
    pub(super) endpoints: [Gauge; 4],
    pub(super) breakers: [Gauge; 4],
}

impl ClusterStats {
    /// Counts an attempt that brought no response.
    pub fn failure(&self, kind: UpstreamFailureKind) {
        self.failures[kind as usize].increment();
    }

    /// Sets how many endpoints there are in a state.
    pub fn set_endpoints(&self, state: EndpointState, count: usize) {
        self.endpoints[state as usize].set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets whether a limit is reached.
    pub fn set_breaker(&self, limit: Limit, is_open: bool) {
        self.breakers[limit as usize].set(i64::from(is_open));
    }
}

/// The types of resource that have a label of their own, and the label of the rest.
pub(super) const XDS_TYPES: [&str; 6] = ["lds", "rds", "cds", "eds", "sds", "other"];

/// The numbers of the proxy as a whole.
#[derive(Debug, Default)]
pub struct ProxyStats {
    /// 1 while a control plane is connected.
    pub xds_connected: Gauge,
    /// Compile, link and swap.
    pub config_swap: Histogram,
    pub(super) xds_updates: [[Counter; 2]; XDS_TYPES.len()],
    pub(super) xds_last_ack: [AtomicU64; XDS_TYPES.len()],
    pub(super) config_source: [Gauge; 3],
    pub(super) overload: Mutex<Overloads>,
}

/// What the sampler of resources saw last, in thousandths.
#[derive(Debug, Default)]
pub(super) struct Overloads {
    pub(super) pressures: BTreeMap<Arc<str>, i64>,
    pub(super) shares: BTreeMap<&'static str, i64>,
}

impl ProxyStats {
    /// A response of the control plane was accepted at `now`.
    pub fn acked(&self, kind: ResourceType, now: SystemTime) {
        let index = xds_type(kind);
        self.xds_updates[index][0].increment();
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.xds_last_ack[index].store(seconds, Relaxed);
    }

    /// A response of the control plane was refused.
    pub fn nacked(&self, kind: ResourceType) {
        self.xds_updates[xds_type(kind)][1].increment();
    }

    /// A resource was looked at.
    pub fn pressure(&self, resource: &Arc<str>, pressure: f64) {
        let mut overload = self.overload.lock().unwrap_or_else(PoisonError::into_inner);
        overload.pressures.insert(Arc::clone(resource), thousandths(pressure));
    }

    /// So much is taken of an action.
    pub fn overload_action(&self, action: &'static str, share: f64) {
        let mut overload = self.overload.lock().unwrap_or_else(PoisonError::into_inner);
        overload.shares.insert(action, thousandths(share));
    }

    /// A change was swapped in.
    pub fn swapped(&self, source: ConfigSource, took: Duration) {
        self.config_swap.record(took);
        for (index, gauge) in self.config_source.iter().enumerate() {
            gauge.set(i64::from(index == source as usize));
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "no pressure comes near the limit")]
fn thousandths(value: f64) -> i64 {
    (value * 1000.0).round() as i64
}

fn xds_type(kind: ResourceType) -> usize {
    match kind {
        ResourceType::Listener => 0,
        ResourceType::Route => 1,
        ResourceType::Cluster => 2,
        ResourceType::Endpoints => 3,
        ResourceType::Secret => 4,
        ResourceType::LbEndpoint
        | ResourceType::ExtensionConfig
        | ResourceType::ScopedRoute
        | ResourceType::VirtualHost
        | ResourceType::Runtime => 5,
    }
}
