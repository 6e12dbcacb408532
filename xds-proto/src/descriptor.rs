//! The descriptors of every message we can name: Envoy's, and our own.
//!
//! Decoding them takes about a tenth of a second, once, and only where YAML or JSON is read or written.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

static ENVOY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.fds.bin"));
static OURS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ours.fds.bin"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::new();
    for set in [ENVOY, OURS] {
        // The bytes are part of this program, and a unit test decodes them.
        if let Err(error) = pool.decode_file_descriptor_set(set) {
            debug_assert!(false, "descriptor set: {error}");
        }
    }
    pool
});

/// The descriptor of a message by its full name, `envoy.config.cluster.v3.Cluster`.
pub fn by_name(full_name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(full_name)
}

/// The descriptor that a type URL names: what follows its last `/`.
pub fn by_type_url(type_url: &str) -> Option<MessageDescriptor> {
    by_name(type_url.rsplit('/').next()?)
}

/// The full names of all messages, in no order.
pub fn names() -> impl Iterator<Item = String> {
    POOL.all_messages().map(|message| message.full_name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_descriptor_sets_decode() {
        assert!(by_name("envoy.config.bootstrap.v3.Bootstrap").is_some());
        assert!(by_type_url("type.googleapis.com/xds.type.v3.TypedStruct").is_some());
        assert!(by_name("weighlock.state.v1.SavedState").is_some());
        assert!(names().count() > 1500);
    }
}
