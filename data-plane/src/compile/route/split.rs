//! Takes an encoded `RouteConfiguration` or `VirtualHost` apart without decoding what it is a list
//! of: decoded at once, tens of thousands of routes take a hundred times the memory.

use bytes::{Buf, Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use xds_proto::field::FieldError;

use super::undecodable;

/// The number of `RouteConfiguration.virtual_hosts`.
pub(super) const VIRTUAL_HOSTS: u32 = 2;
/// The number of `VirtualHost.routes`.
pub(super) const ROUTES: u32 = 3;

/// What is left of a message without the field `items`, and the items of that, still encoded.
pub(super) fn split(encoded: Bytes, items: u32) -> Result<(Bytes, Vec<Bytes>), FieldError> {
    let (mut found, mut rest) = (Vec::new(), BytesMut::new());
    let mut left = encoded;
    while left.has_remaining() {
        let field = left.clone();
        let (number, wire) = decode_key(&mut left).map_err(undecodable)?;
        if number == items && wire == WireType::LengthDelimited {
            let length = decode_varint(&mut left).map_err(undecodable)?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > left.len() {
                return Err(undecodable("buffer underflow"));
            }
            found.push(left.split_to(length));
        } else {
            let context = DecodeContext::default();
            skip_field(wire, number, &mut left, context).map_err(undecodable)?;
            rest.extend_from_slice(&field[..field.len() - left.len()]);
        }
    }
    Ok((rest.freeze(), found))
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use xds_proto::envoy::config::route::v3::{RouteConfiguration, VirtualHost};

    use super::*;

    #[test]
    fn hosts_and_rest_are_all_there_is() {
        let host = |name: &str| VirtualHost { name: name.into(), ..VirtualHost::default() };
        let whole = RouteConfiguration {
            name: "r".into(),
            virtual_hosts: vec![host("a"), host("b")],
            internal_only_headers: vec!["x".into()],
            ignore_port_in_host_matching: true,
            ..RouteConfiguration::default()
        };
        let (rest, hosts) = split(whole.encode_to_vec().into(), VIRTUAL_HOSTS).unwrap();
        let rest = RouteConfiguration::decode(rest).unwrap();
        assert_eq!(rest, RouteConfiguration { virtual_hosts: Vec::new(), ..whole });
        let hosts: Vec<_> =
            hosts.into_iter().map(|host| VirtualHost::decode(host).unwrap()).collect();
        assert_eq!(hosts, [host("a"), host("b")]);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        for encoded in [&b"\x12\x05a"[..], b"\x12", b"\x0a\x05a", b"\xff"] {
            assert!(split(Bytes::from_static(encoded), VIRTUAL_HOSTS).is_err(), "{encoded:?}");
        }
    }
}
