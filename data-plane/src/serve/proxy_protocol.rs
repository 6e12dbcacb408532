//! What a proxy in front says of a connection before its first byte (PROXY protocol, both versions).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How version 2 begins.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1.
const LINE_MAX: usize = 107;

/// What is known of the header so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// It is not all there.
    Partial,
    /// There is none.
    Absent,
    /// It begins as one and is none.
    Malformed,
    /// It takes so many bytes.
    Whole(usize, Option<Ends>),
}

/// Both ends of the connection that the proxy in front took in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

/// Reads the header at the beginning of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Header {
    let begins = |with: &[u8]| {
        let known = bytes.len().min(with.len());
        bytes[..known] == with[..known]
    };
    if begins(SIGNATURE) {
        if bytes.len() < SIGNATURE.len() { Header::Partial } else { binary(bytes) }
    } else if begins(b"PROXY ") {
        line(bytes)
    } else {
        Header::Absent
    }
}

fn line(bytes: &[u8]) -> Header {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LINE_MAX { Header::Partial } else { Header::Malformed };
    };
    let length = end + 2;
    let Ok(text) = str::from_utf8(&bytes[..end]) else { return Header::Malformed };
    let parts: Vec<_> = text.split(' ').collect();
    match parts.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Header::Whole(length, None),
        ["PROXY", family, source, destination, source_port, destination_port] => {
            let end = |address: &str, port: &str| {
                let address: IpAddr = match *family {
                    "TCP4" => address.parse::<Ipv4Addr>().ok()?.into(),
                    "TCP6" => address.parse::<Ipv6Addr>().ok()?.into(),
                    _ => return None,
                };
                Some(SocketAddr::new(address, port.parse().ok()?))
            };
            match (end(source, source_port), end(destination, destination_port)) {
                (Some(source), Some(destination)) => {
                    Header::Whole(length, Some(Ends { source, destination }))
                }
                _ => Header::Malformed,
            }
        }
        _ => Header::Malformed,
    }
}

fn binary(bytes: &[u8]) -> Header {
    let Some(&[version, family, high, low]) = bytes[SIGNATURE.len()..].first_chunk() else {
        return Header::Partial;
    };
    let start = SIGNATURE.len() + 4;
    let length = start + usize::from(u16::from_be_bytes([high, low]));
    let Some(content) = bytes.get(start..length) else {
        return if version >> 4 == 2 { Header::Partial } else { Header::Malformed };
    };
    match (version, family) {
        // LOCAL: the proxy speaks for itself.
        (0x20, _) => Header::Whole(length, None),
        (0x21, 0x11) => ends::<4>(content, length),
        (0x21, 0x21) => ends::<16>(content, length),
        // Families that are no TCP over IP.
        (0x21, 0x00) => Header::Whole(length, None),
        _ => Header::Malformed,
    }
}

fn ends<const BYTES: usize>(content: &[u8], length: usize) -> Header
where
    IpAddr: From<[u8; BYTES]>,
{
    let read = || {
        let (source, rest) = content.split_first_chunk::<BYTES>()?;
        let (destination, rest) = rest.split_first_chunk::<BYTES>()?;
        let (source_port, rest) = rest.split_first_chunk::<2>()?;
        let destination_port = rest.first_chunk::<2>()?;
        Some(Ends {
            source: SocketAddr::new((*source).into(), u16::from_be_bytes(*source_port)),
            destination: SocketAddr::new(
                (*destination).into(),
                u16::from_be_bytes(*destination_port),
            ),
        })
    };
    read().map_or(Header::Malformed, |ends| Header::Whole(length, Some(ends)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(source: &str, destination: &str) -> Option<Ends> {
        Some(Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
    }

    #[test]
    fn a_line_says_both_ends() {
        let line = b"PROXY TCP4 1.2.3.4 5.6.7.8 11 22\r\nGET /";
        assert_eq!(read(line), Header::Whole(34, ends("1.2.3.4:11", "5.6.7.8:22")));
        for end in 0..34 {
            assert_eq!(read(&line[..end]), Header::Partial, "{end}");
        }
        let six = b"PROXY TCP6 ::1 ::2 11 22\r\n";
        assert_eq!(read(six), Header::Whole(26, ends("[::1]:11", "[::2]:22")));
        assert_eq!(read(b"PROXY UNKNOWN x\r\n"), Header::Whole(17, None));
        for wrong in
            ["PROXY TCP4 ::1 ::2 1 2\r\n", "PROXY TCP4 1.2.3.4 5.6.7.8 11\r\n", "PROXY UDP4 \r\n"]
        {
            assert_eq!(read(wrong.as_bytes()), Header::Malformed, "{wrong}");
        }
        assert_eq!(read(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()), Header::Malformed);
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Header::Absent);
    }

    #[test]
    fn the_binary_form_says_both_ends() {
        let with = |version: u8, family: u8, content: &[u8]| {
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            [SIGNATURE, &[version, family], &length, content].concat()
        };
        let content = [1, 2, 3, 4, 5, 6, 7, 8, 0, 11, 0, 22, 0xee, 0, 1, 9];
        let header = with(0x21, 0x11, &content);
        assert_eq!(read(&header), Header::Whole(32, ends("1.2.3.4:11", "5.6.7.8:22")));
        for end in 0..32 {
            assert_eq!(read(&header[..end]), Header::Partial, "{end}");
        }
        let mut six = [0; 36];
        (six[15], six[31], six[33], six[35]) = (1, 2, 11, 22);
        assert_eq!(read(&with(0x21, 0x21, &six)), Header::Whole(52, ends("[::1]:11", "[::2]:22")));
        assert_eq!(read(&with(0x20, 0x00, &[])), Header::Whole(16, None));
        assert_eq!(read(&with(0x21, 0x11, &content[..11])), Header::Malformed);
        assert_eq!(read(&with(0x31, 0x11, &content)), Header::Malformed);
    }
}
