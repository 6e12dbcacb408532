//! One byte form for one message, so that equal content has equal bytes.
//!
//! Protobuf leaves the order of map entries open, and the Rust types keep maps in hash tables. Here
//! every map is written sorted by key, in known messages inside `Any` too. Fields that no
//! descriptor names stay as they are.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost_reflect::{Kind, MessageDescriptor};

use crate::descriptor;

/// How deep messages may lie in one another; protobuf's own limit.
const DEPTH_MAX: usize = 100;

/// The bytes are not the message they are said to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// The bytes do not decode.
    #[error("undecodable bytes: {0}")]
    Decode(String),
    /// Messages lie too deep in one another.
    #[error("more than {DEPTH_MAX} messages lie in one another")]
    Depth,
}

/// Replaces an `Any` on its way: what to write in place of this type URL and value, if anything.
pub(crate) type ReplaceAny<'a> = &'a mut dyn FnMut(&str, &Bytes) -> Option<(String, Bytes)>;

/// Rewrites the encoded `message` with every map sorted.
///
/// # Errors
/// When the bytes do not decode.
pub fn canonical(message: &MessageDescriptor, encoded: &[u8]) -> Result<Bytes, CanonicalError> {
    rewrite(message, Bytes::copy_from_slice(encoded), &mut |_, _| None)
}

/// Rewrites the encoded `message` with every map sorted and each `Any` offered to `replace`.
pub(crate) fn rewrite(
    message: &MessageDescriptor,
    encoded: Bytes,
    replace: ReplaceAny<'_>,
) -> Result<Bytes, CanonicalError> {
    Rewriter { replace }.message(message, encoded, DEPTH_MAX)
}

struct Rewriter<'a> {
    replace: ReplaceAny<'a>,
}

/// One field as it goes out: its number, the key it sorts by within the field, its bytes.
struct Piece {
    number: u32,
    map_key: Option<Bytes>,
    bytes: BytesMut,
}

impl Rewriter<'_> {
    fn message(
        &mut self,
        message: &MessageDescriptor,
        encoded: Bytes,
        depth: usize,
    ) -> Result<Bytes, CanonicalError> {
        let depth = depth.checked_sub(1).ok_or(CanonicalError::Depth)?;
        if message.full_name() == "google.protobuf.Any" {
            return self.any(encoded, depth);
        }
        let mut pieces = Vec::new();
        let mut rest = encoded;
        while rest.has_remaining() {
            let (number, wire) = decode_key(&mut rest).map_err(decode_error)?;
            let field = message.get_field(number);
            let mut bytes = BytesMut::new();
            encode_key(number, wire, &mut bytes);
            let mut map_key = None;
            if wire == WireType::LengthDelimited {
                let mut payload = length_delimited(&mut rest)?;
                if let Some(Kind::Message(inner)) = field.as_ref().map(|field| field.kind()) {
                    payload = self.message(&inner, payload, depth)?;
                    if inner.is_map_entry() {
                        map_key = Some(entry_key(payload.clone())?);
                    }
                }
                encode_varint(payload.len() as u64, &mut bytes);
                bytes.put(payload);
            } else {
                skip_scalar(wire, &mut rest, &mut bytes)?;
            }
            pieces.push(Piece { number, map_key, bytes });
        }
        // Stable: repeated fields keep their order, map entries take that of their keys.
        pieces.sort_by(|a, b| (a.number, &a.map_key).cmp(&(b.number, &b.map_key)));
        let mut out = BytesMut::with_capacity(pieces.iter().map(|piece| piece.bytes.len()).sum());
        for piece in pieces {
            out.put(piece.bytes);
        }
        Ok(out.freeze())
    }

    fn any(&mut self, encoded: Bytes, depth: usize) -> Result<Bytes, CanonicalError> {
        use prost::Message;
        let any = AnyBytes::decode(encoded).map_err(decode_error)?;
        let (type_url, value) = match (self.replace)(&any.type_url, &any.value) {
            Some(replaced) => replaced,
            None => match descriptor::by_type_url(&any.type_url) {
                Some(inner) => {
                    let value = self.message(&inner, any.value, depth)?;
                    (any.type_url, value)
                }
                None => (any.type_url, any.value),
            },
        };
        Ok(AnyBytes { type_url, value }.encode_to_vec().into())
    }
}

/// `google.protobuf.Any` whose value is shared, not copied.
#[derive(Clone, PartialEq, prost::Message)]
struct AnyBytes {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

fn entry_key(entry: Bytes) -> Result<Bytes, CanonicalError> {
    let mut rest = entry.clone();
    while rest.has_remaining() {
        let start = entry.len() - rest.len();
        let (number, wire) = decode_key(&mut rest).map_err(decode_error)?;
        let mut sink = BytesMut::new();
        if wire == WireType::LengthDelimited {
            let payload = length_delimited(&mut rest)?;
            if number == 1 {
                return Ok(payload);
            }
        } else {
            skip_scalar(wire, &mut rest, &mut sink)?;
        }
        if number == 1 {
            return Ok(entry.slice(start..entry.len() - rest.len()));
        }
    }
    Ok(Bytes::new())
}

fn length_delimited(rest: &mut Bytes) -> Result<Bytes, CanonicalError> {
    let length = decode_varint(rest).map_err(decode_error)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > rest.len() {
        return Err(CanonicalError::Decode("buffer underflow".into()));
    }
    Ok(rest.split_to(length))
}

fn skip_scalar(wire: WireType, rest: &mut Bytes, out: &mut BytesMut) -> Result<(), CanonicalError> {
    let size = match wire {
        WireType::Varint => {
            encode_varint(decode_varint(rest).map_err(decode_error)?, out);
            return Ok(());
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited | WireType::StartGroup | WireType::EndGroup => {
            return Err(CanonicalError::Decode("groups are not supported".into()));
        }
    };
    if rest.len() < size {
        return Err(CanonicalError::Decode("buffer underflow".into()));
    }
    out.put(rest.split_to(size));
    Ok(())
}

fn decode_error(error: prost::DecodeError) -> CanonicalError {
    CanonicalError::Decode(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::google::protobuf::Any;
    use proptest::prelude::*;
    use prost::{Message, Name};

    use super::*;

    fn cluster(keys: &[String]) -> Cluster {
        let options: HashMap<_, _> = keys
            .iter()
            .map(|key| (key.clone(), Any { type_url: key.clone(), value: key.clone().into() }))
            .collect();
        Cluster {
            typed_extension_protocol_options: options,
            name: "x".into(),
            ..Default::default()
        }
    }

    fn canonical_of(cluster: &Cluster) -> Bytes {
        let descriptor = descriptor::by_name(&Cluster::full_name()).unwrap();
        canonical(&descriptor, &cluster.encode_to_vec()).unwrap()
    }

    proptest! {
        #[test]
        fn equal_messages_have_equal_bytes(keys in proptest::collection::vec("[a-z]{1,8}", 0..20)) {
            let mut reversed = keys.clone();
            reversed.reverse();
            let (a, b) = (cluster(&keys), cluster(&reversed));
            prop_assert_eq!(canonical_of(&a), canonical_of(&b));
            prop_assert_eq!(Cluster::decode(canonical_of(&a)).unwrap(), a);
        }
    }

    #[test]
    fn maps_inside_any_are_sorted_too() {
        let keys: Vec<String> = (0..30).map(|i| format!("k{i}")).collect();
        let wrapped = |cluster: &Cluster| {
            let any = Any { type_url: Cluster::type_url(), value: cluster.encode_to_vec() };
            let descriptor = descriptor::by_name("google.protobuf.Any").unwrap();
            canonical(&descriptor, &any.encode_to_vec()).unwrap()
        };
        assert_eq!(wrapped(&cluster(&keys)), wrapped(&cluster(&keys)));
    }

    #[test]
    fn unknown_fields_survive() {
        let descriptor = descriptor::by_name(&Cluster::full_name()).unwrap();
        let unknown = [0xfa, 0xff, 0x03, 0x02, b'h', b'i']; // field 8191, "hi"
        assert_eq!(&canonical(&descriptor, &unknown).unwrap()[..], &unknown[..]);
    }

    #[test]
    fn truncated_bytes_are_an_error() {
        let descriptor = descriptor::by_name(&Cluster::full_name()).unwrap();
        assert!(canonical(&descriptor, &[0x0a, 0x05, b'x']).is_err());
    }
}
