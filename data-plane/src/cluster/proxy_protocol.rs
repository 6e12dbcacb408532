//! Tells an endpoint whose connection it is, ahead of everything else (PROXY protocol, HAProxy's
//! `proxy-protocol.txt`).

use std::net::{IpAddr, SocketAddr};

/// Which form of the header is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Bytes.
    V2,
}

/// The two ends of the connection that is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The client's.
    pub remote: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
}

/// Begins every header of version 2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

impl ProxyProtocol {
    /// The header; without `ends` it says that the connection is the proxy's own.
    pub(crate) fn header(self, ends: Option<Ends>) -> Vec<u8> {
        let ends = ends.map(|Ends { remote, local }| Ends {
            remote: SocketAddr::new(remote.ip().to_canonical(), remote.port()),
            local: SocketAddr::new(local.ip().to_canonical(), local.port()),
        });
        match self {
            Self::V1 => text(ends).into_bytes(),
            Self::V2 => bytes(ends),
        }
    }
}

fn text(ends: Option<Ends>) -> String {
    let Some(Ends { remote, local }) = ends else { return "PROXY UNKNOWN\r\n".to_owned() };
    let family = match (remote.ip(), local.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
        (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
        _ => return "PROXY UNKNOWN\r\n".to_owned(),
    };
    let (from, to) = (remote.ip(), local.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", remote.port(), local.port())
}

fn bytes(ends: Option<Ends>) -> Vec<u8> {
    const PROXIED: u8 = 0x21;
    const LOCAL: u8 = 0x20;
    let mut addresses = Vec::new();
    let family: u8 = match ends.map(|ends| (ends.remote.ip(), ends.local.ip())) {
        Some((IpAddr::V4(from), IpAddr::V4(to))) => {
            addresses.extend([from.octets(), to.octets()].concat());
            0x11
        }
        Some((IpAddr::V6(from), IpAddr::V6(to))) => {
            addresses.extend([from.octets(), to.octets()].concat());
            0x21
        }
        _ => 0,
    };
    if let Some(ends) = ends.filter(|_| family != 0) {
        addresses.extend(ends.remote.port().to_be_bytes());
        addresses.extend(ends.local.port().to_be_bytes());
    }
    let command = if family == 0 { LOCAL } else { PROXIED };
    let mut header = SIGNATURE.to_vec();
    header.extend([command, family, 0]);
    // At most 36.
    header.push(addresses.len() as u8);
    header.extend(addresses);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(remote: &str, local: &str) -> Option<Ends> {
        Some(Ends { remote: remote.parse().unwrap(), local: local.parse().unwrap() })
    }

    #[test]
    fn the_first_version_is_a_line() {
        let line = |ends| String::from_utf8(ProxyProtocol::V1.header(ends)).unwrap();
        assert_eq!(
            line(ends("10.0.0.1:5", "10.0.0.2:80")),
            "PROXY TCP4 10.0.0.1 10.0.0.2 5 80\r\n"
        );
        assert_eq!(line(ends("[::1]:5", "[::2]:80")), "PROXY TCP6 ::1 ::2 5 80\r\n");
        assert_eq!(
            line(ends("[::ffff:10.0.0.1]:5", "10.0.0.2:80")),
            line(ends("10.0.0.1:5", "10.0.0.2:80"))
        );
        assert_eq!(line(ends("[::1]:5", "10.0.0.2:80")), "PROXY UNKNOWN\r\n");
        assert_eq!(line(None), "PROXY UNKNOWN\r\n");
    }

    #[test]
    fn the_second_version_is_bytes() {
        let header = ProxyProtocol::V2.header(ends("10.0.0.1:5", "10.0.0.2:80"));
        let expected =
            [SIGNATURE, &[0x21, 0x11, 0, 12, 10, 0, 0, 1, 10, 0, 0, 2, 0, 5, 0, 80]].concat();
        assert_eq!(header, expected);
        let six = ProxyProtocol::V2.header(ends("[::1]:5", "[::2]:80"));
        assert_eq!((six[12], six[13], six[15], six.len()), (0x21, 0x21, 36, 52));
        assert_eq!(ProxyProtocol::V2.header(None), [SIGNATURE, &[0x20, 0, 0, 0]].concat());
    }
}
