//! What a stream sends next, before it has a nonce.

use std::sync::Arc;

use bytes::Bytes;
use xds_proto::resource::ResourceType;
use xds_proto::version::Version;

use crate::serve::subscription::Change;
use crate::snapshot::table::Entry;

/// gRPC clients refuse messages above 4 MiB, and then reconnect in a loop.
pub const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// What the resources of one response may take, so that there is room for removed names and the rest.
const MAX_RESOURCE_BYTES: usize = MAX_RESPONSE_BYTES / 4 * 3;

/// A response, and what it changes for the client.
#[derive(Debug)]
pub struct Draft {
    /// The version of the whole type.
    pub version: Version,
    /// Encoded resources, in the form of the protocol.
    pub resources: Vec<Bytes>,
    /// The names of what is gone. Delta only.
    pub removed: Vec<Arc<str>>,
    /// What the client will hold after it, sorted by name.
    pub changes: Vec<Change>,
}

/// A response, ready to be sent.
#[derive(Debug)]
pub struct Response {
    /// The type.
    pub kind: ResourceType,
    /// What the client names when it answers.
    pub nonce: String,
    /// The version of the whole type.
    pub version: Version,
    /// Encoded resources, in the form of the protocol.
    pub resources: Vec<Bytes>,
    /// The names of what is gone. Delta only.
    pub removed: Vec<Arc<str>>,
}

impl Response {
    /// Roughly how long it is on the wire.
    pub fn bytes(&self) -> usize {
        let removed: usize = self.removed.iter().map(|name| name.len() + 4).sum();
        self.resources.iter().map(|resource| resource.len() + 6).sum::<usize>() + removed + 256
    }
}

/// As many of `entries` as fit into one response, at least one. The rest follows after the ACK.
pub fn fitting(entries: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
    let mut bytes = 0;
    let fits = entries.iter().take_while(|entry| {
        let is_first = bytes == 0;
        bytes += entry.bytes() + 8;
        is_first || bytes <= MAX_RESOURCE_BYTES
    });
    let count = fits.count();
    let mut entries = entries;
    entries.truncate(count);
    entries
}
