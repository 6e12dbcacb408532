//! How connections of a cluster are made and how long they live.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderName;

use crate::cluster::proxy_protocol::ProxyProtocol;

/// Everything about a cluster's connections but their TLS. Where two are equal, connections are
/// carried over from one cluster to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionConfig {
    /// Until the TLS handshake is done. Envoy's default is 5 s.
    pub connect_timeout: Duration,
    /// What is spoken.
    pub protocol: UpstreamProtocol,
    /// How long a connection may lie idle. Envoy's default is an hour; `None` is for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a connection may be used.
    pub connection_duration_max: Option<Duration>,
    /// How many requests a connection may carry.
    pub requests_max: Option<u32>,
    /// Fields in a response head.
    pub headers_max: usize,
    /// Bytes in a response head.
    pub head_bytes_max: u32,
    /// Take a response with both `content-length` and `transfer-encoding`, by the latter.
    pub allows_chunked_length: bool,
    /// Whether messages on HTTP/1.1 connections have trailers.
    pub http1_trailers: bool,
    /// Whether names of headers of HTTP/1.1 responses are kept as they are written.
    pub http1_keeps_case: bool,
    /// Settings of HTTP/2 connections.
    pub http2: Http2Config,
    /// TCP keep-alive probes.
    pub keepalive: Option<TcpKeepalive>,
    /// In which order the addresses of an endpoint that has several are tried.
    pub eyeballs: HappyEyeballs,
    /// Whether the host of a request is the name to ask for in TLS.
    pub request_sni: Option<RequestSni>,
    /// Bytes to read from a connection at a time, at most.
    pub buffer_bytes: usize,
    /// Whether, and how, the endpoint is told whose connection it is.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The addresses to connect from: the first of the family of the endpoint, or the first. None leaves
    /// it to the system.
    pub sources: Box<[SocketAddr]>,
}

/// How the name to ask for in TLS comes from a request (`UpstreamHttpProtocolOptions`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSni {
    /// The header that has it; where it is not there the host.
    pub header: Option<HeaderName>,
    /// The certificate must be for it.
    pub is_verified: bool,
}

/// What is spoken with the endpoints of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge where there is no TLS.
    Http2,
    /// What ALPN agrees on.
    Auto,
    /// What the client speaks.
    Downstream,
}

/// Settings of HTTP/2 connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http2Config {
    /// Streams at a time; the upstream may allow less.
    pub streams_max: u32,
    /// Bytes that a stream may have on the way to us.
    pub stream_window: u32,
    /// Bytes that a connection may have on the way to us.
    pub connection_window: u32,
    /// A ping after so long, if set.
    pub ping_interval: Option<Duration>,
    /// The connection is dead when a ping has no answer for so long.
    pub ping_timeout: Duration,
}

/// In which order the addresses of an endpoint are tried: those of the first family and the others
/// in turn (RFC 8305).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HappyEyeballs {
    /// The first family; `None`: that of the first address.
    pub first: Option<AddressFamily>,
    /// So many of the first family before the first of the other.
    pub first_count: usize,
}

/// A family of IP addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Default for HappyEyeballs {
    fn default() -> Self {
        Self { first: None, first_count: 1 }
    }
}

impl HappyEyeballs {
    /// All addresses, in the order in which they are tried.
    pub(crate) fn order(&self, address: SocketAddr, also: &[SocketAddr]) -> Vec<SocketAddr> {
        let is_first = |one: &SocketAddr| match self.first {
            None => one.is_ipv4() == address.is_ipv4(),
            Some(AddressFamily::V4) => one.is_ipv4(),
            Some(AddressFamily::V6) => one.is_ipv6(),
        };
        let all = std::iter::once(address).chain(also.iter().copied());
        let (first, other): (Vec<_>, Vec<_>) = all.partition(is_first);
        let (mut first, mut other) = (first.into_iter(), other.into_iter());
        let mut order: Vec<_> = first.by_ref().take(self.first_count.max(1)).collect();
        loop {
            let before = order.len();
            order.extend(other.next());
            order.extend(first.next());
            if order.len() == before {
                return order;
            }
        }
    }
}

/// TCP keep-alive probes; what is not set is the system's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Probes without an answer until the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            protocol: UpstreamProtocol::Http1,
            idle_timeout: Some(Duration::from_secs(3600)),
            connection_duration_max: None,
            requests_max: None,
            headers_max: 100,
            head_bytes_max: 60 * 1024,
            allows_chunked_length: false,
            http1_trailers: false,
            http1_keeps_case: false,
            http2: Http2Config::default(),
            keepalive: None,
            eyeballs: HappyEyeballs::default(),
            request_sni: None,
            buffer_bytes: usize::MAX,
            proxy_protocol: None,
            sources: Box::default(),
        }
    }
}

impl Default for Http2Config {
    fn default() -> Self {
        Self {
            streams_max: 1024,
            // A slow client may hold so much of each response; the connection's window is far
            // larger, so that a few of them do not stop the others.
            stream_window: 128 * 1024,
            connection_window: 16 * 1024 * 1024,
            ping_interval: None,
            ping_timeout: Duration::from_secs(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (six, one, two, three) =
            (at("[::1]:1"), at("1.1.1.1:1"), at("2.2.2.2:1"), at("3.3.3.3:1"));
        let order = |first, first_count| {
            HappyEyeballs { first, first_count }.order(one, &[two, three, six])
        };
        assert_eq!(order(None, 1), [one, six, two, three]);
        assert_eq!(order(None, 2), [one, two, six, three]);
        assert_eq!(order(Some(AddressFamily::V6), 1), [six, one, two, three]);
    }
}
