//! Makes one connection to one endpoint.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::io::Errno;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use xds_proto::convert::Address;

use crate::cluster::failure::UpstreamFailure;
use crate::cluster::protocol::{ConnectionConfig, TcpKeepalive};
use crate::cluster::purpose::Purpose;
use crate::delegate::delegate;
use crate::descriptors;
use crate::tls::client::{ClientTls, Offer};

/// How to connect to an endpoint. Clusters that mean the same share it, and with it a pool.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    pub(crate) address: Address,
    /// More addresses of the same endpoint.
    pub(crate) also: Box<[SocketAddr]>,
    pub(crate) config: Arc<ConnectionConfig>,
    pub(crate) tls: Option<EndpointTls>,
}

/// TLS with one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct EndpointTls {
    pub(crate) tls: Arc<ClientTls>,
    pub(crate) name: ServerName<'static>,
}

impl PartialEq for EndpointTls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tls, &other.tls) && self.name == other.name
    }
}

impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
            && self.also == other.also
            && self.config == other.config
            && self.tls == other.tls
    }
}

/// No connection came about.
#[derive(Debug)]
pub(crate) struct ConnectError {
    pub(crate) reason: UpstreamFailure,
    pub(crate) source: io::Error,
}

impl Connector {
    /// Connects, TLS included, within the connect timeout. `purpose`: for which requests it is.
    pub(crate) async fn connect(
        &self,
        offer: Offer,
        purpose: &Purpose,
    ) -> Result<Stream, ConnectError> {
        let connecting = self.try_connect(offer, purpose);
        let connected = tokio::time::timeout(self.config.connect_timeout, connecting);
        connected.await.unwrap_or_else(|_| {
            Err(ConnectError {
                reason: UpstreamFailure::ConnectTimeout,
                source: io::ErrorKind::TimedOut.into(),
            })
        })
    }

    async fn try_connect(&self, offer: Offer, purpose: &Purpose) -> Result<Stream, ConnectError> {
        let failed = |source: io::Error| {
            let is_local = is_of_this_machine(&source);
            let reason = if is_local { UpstreamFailure::Local } else { UpstreamFailure::Connect };
            ConnectError { reason, source }
        };
        let mut plain = self.open().await.map_err(failed)?;
        if let Some(version) = self.config.proxy_protocol {
            plain.write_all(&version.header(purpose.ends)).await.map_err(failed)?;
        }
        let Some(EndpointTls { tls, name }) = &self.tls else { return Ok(Stream::Plain(plain)) };
        let connector = TlsConnector::from(Arc::clone(tls.offering(offer)));
        let stream = connector
            .connect(purpose.name.as_ref().unwrap_or(name).clone(), plain)
            .await
            .map_err(|source| ConnectError { reason: UpstreamFailure::Tls, source })?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    async fn open(&self) -> io::Result<Plain> {
        match &self.address {
            Address::Ip(address) => {
                let stream = if self.also.is_empty() {
                    connect(*address, &self.config.sources).await?
                } else {
                    let order = self.config.eyeballs.order(*address, &self.also);
                    race(&order, &self.config.sources).await?
                };
                stream.set_nodelay(true)?;
                if let Some(keepalive) = &self.config.keepalive {
                    socket2::SockRef::from(&stream).set_tcp_keepalive(&probes(keepalive))?;
                }
                Ok(Plain::Tcp(stream))
            }
            Address::Pipe(path) => Ok(Plain::Unix(UnixStream::connect(path).await?)),
            Address::Name(name, _) => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is no address")))
            }
        }
    }
}

/// Whether the endpoint has nothing to do with it: descriptors, ports or memory ran out here.
fn is_of_this_machine(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    errno.is_some_and(|errno| {
        [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL]
            .contains(&errno)
    })
}

/// How long a connection may take until the next address is tried beside it: Envoy's.
const NEXT_ADDRESS: Duration = Duration::from_millis(300);

/// Connects to the first address that answers (RFC 8305).
async fn race(addresses: &[SocketAddr], sources: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut rest = addresses.iter().map(|address| connect(*address, sources));
    let mut attempts: FuturesUnordered<_> = rest.next().into_iter().collect();
    let mut last = io::Error::from(io::ErrorKind::InvalidInput);
    loop {
        let wait = tokio::time::sleep(NEXT_ADDRESS);
        tokio::select! {
            ended = attempts.next() => match ended {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => last = error,
                None => return Err(last),
            },
            () = wait, if rest.len() > 0 => {}
        }
        attempts.extend(rest.next());
    }
}

/// Connects from the address of the right family, if there are any.
async fn connect(address: SocketAddr, sources: &[SocketAddr]) -> io::Result<TcpStream> {
    let of_family = sources.iter().find(|source| source.is_ipv4() == address.is_ipv4());
    let source = of_family.or(sources.first());
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if descriptors::is_of_reserve(&socket) {
        return Err(Errno::MFILE.into());
    }
    if let Some(source) = source {
        socket.bind(*source)?;
    }
    socket.connect(address).await
}

fn probes(keepalive: &TcpKeepalive) -> socket2::TcpKeepalive {
    let mut probes = socket2::TcpKeepalive::new();
    if let Some(count) = keepalive.probes {
        probes = probes.with_retries(count);
    }
    if let Some(time) = keepalive.time {
        probes = probes.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        probes = probes.with_interval(interval);
    }
    probes
}

/// A connection to an endpoint.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Plain),
    Tls(Box<TlsStream<Plain>>),
}

impl Stream {
    /// What ALPN agreed on.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }
}

impl Stream {
    /// The address on this side; a socket on a path has none.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        let plain = match self {
            Self::Plain(plain) => plain,
            Self::Tls(stream) => stream.get_ref().0,
        };
        match plain {
            Plain::Tcp(stream) => stream.local_addr().ok(),
            Plain::Unix(_) => None,
        }
    }
}

/// A connection without TLS.
#[derive(Debug)]
pub(crate) enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
}

delegate!(Stream: Plain, Tls);
delegate!(Plain: Tcp, Unix);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_fails_is_followed_by_the_next_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dead: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let began = tokio::time::Instant::now();
        let stream = race(&[dead, address], &[]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        assert!(began.elapsed() < NEXT_ADDRESS);
        assert!(race(&[dead, dead], &[]).await.is_err());
    }
}
