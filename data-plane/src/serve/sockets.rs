//! Listening sockets: one per worker at the same address, so that the kernel spreads connections.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Where a listener binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindAddress {
    /// The address; port 0 is any.
    pub address: SocketAddr,
    /// Whether `::` takes IPv4 too.
    pub ipv4_compat: bool,
}

/// Bound sockets, one per worker.
#[derive(Debug)]
pub struct Sockets {
    /// Where they are bound, with the port that was given.
    pub address: SocketAddr,
    /// One a worker.
    pub sockets: Vec<TcpListener>,
}

impl Sockets {
    /// Binds `count` sockets. Where the address is not `ours` already, nobody else may have it:
    /// with SO_REUSEPORT alone, another process would silently take half of the connections. Where
    /// it is, the sockets do not listen until they are served: connections that the kernel gave
    /// them would wait, while those of the listener that still has the address are served.
    ///
    /// # Errors
    /// When the address is taken or not of this machine.
    pub fn bind(bind: BindAddress, count: usize, is_ours: bool) -> io::Result<Self> {
        if !is_ours && bind.address.port() != 0 {
            drop(open(bind, false, true)?);
        }
        let mut address = bind.address;
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            let socket = open(BindAddress { address, ..bind }, true, !is_ours)?;
            address = socket.local_addr()?;
            sockets.push(socket);
        }
        Ok(Self { address, sockets })
    }
}

fn open(bind: BindAddress, shares_port: bool, listens: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(bind.address), Type::STREAM, Some(Protocol::TCP))?;
    if bind.address.is_ipv6() {
        socket.set_only_v6(!bind.ipv4_compat)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shares_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&bind.address.into())?;
    if listens {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// Lets connections come to a bound socket; one that listens already is left as it is.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn listen(socket: &TcpListener) -> io::Result<()> {
    SockRef::from(socket).listen(BACKLOG)
}

/// What a client on this machine is called in `x-forwarded-for`, as in Envoy: an address of this
/// machine that others can reach; loopback where it has none.
pub fn own_address() -> std::net::IpAddr {
    let loopback = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    // Connecting a UDP socket sends nothing; it only asks for the route. The address is one of
    // those set apart for documentation.
    let local = std::net::UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.connect("203.0.113.1:9").and_then(|()| socket.local_addr()));
    local.map_or(loopback, |address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(port: u16) -> BindAddress {
        BindAddress { address: SocketAddr::from(([127, 0, 0, 1], port)), ipv4_compat: false }
    }

    #[test]
    fn all_sockets_share_one_port() {
        let sockets = Sockets::bind(loopback(0), 3, false).unwrap();
        assert_ne!(sockets.address.port(), 0);
        for socket in &sockets.sockets {
            assert_eq!(socket.local_addr().unwrap(), sockets.address);
        }
    }

    #[test]
    fn an_address_that_somebody_has_is_not_shared_with_them() {
        let first = Sockets::bind(loopback(0), 1, false).unwrap();
        let again = loopback(first.address.port());
        assert_eq!(Sockets::bind(again, 1, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let ours = Sockets::bind(again, 1, true).unwrap();
        // Only the first one listens, so it gets every connection.
        for _ in 0..20 {
            std::net::TcpStream::connect(first.address).unwrap();
            assert!(first.sockets[0].accept().is_ok());
        }
        listen(&ours.sockets[0]).unwrap();
    }
}
