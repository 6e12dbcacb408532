//! What a stream sends next, before it has a nonce.

use std::sync::Arc;

use bytes::Bytes;
use xds_proto::resource::ResourceType;
use xds_proto::version::Version;

use crate::serve::subscription::Change;
use crate::snapshot::table::{Entry, Form, TypeTable, field_len};

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
    pub resources: Resources,
    /// The names of what is gone. Delta only.
    pub removed: Vec<Arc<str>>,
    /// What the client will hold after it, sorted by name.
    pub changes: Vec<Change>,
    /// With it the client has all that the table has for it.
    pub is_all: bool,
}

/// Encoded resources.
#[derive(Debug, Clone)]
pub enum Resources {
    /// All of a table, in this form.
    Whole(Arc<TypeTable>, Form),
    /// Some.
    Some(Vec<Bytes>),
}

impl Resources {
    /// These entries, which may be all of `table`.
    pub fn of(entries: &[Arc<Entry>], table: &Arc<TypeTable>, form: Form) -> Self {
        let all = table.entries();
        let is_whole = !all.is_empty()
            && all.len() == entries.len()
            && all.iter().zip(entries).all(|(a, b)| Arc::ptr_eq(a, b));
        if is_whole {
            Self::Whole(table.clone(), form)
        } else {
            Self::Some(entries.iter().map(|entry| entry.in_form(form)).collect())
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Whole(table, _) => table.entries().len(),
            Self::Some(resources) => resources.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How long they are in a response.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Whole(table, form) => table.whole(*form).len(),
            Self::Some(resources) => {
                resources.iter().map(|resource| field_len(2, resource.len())).sum()
            }
        }
    }

    /// Adds some that are in no table.
    pub fn extend(&mut self, more: impl ExactSizeIterator<Item = Bytes>) {
        if more.len() > 0 {
            let mut all = self.each();
            all.extend(more);
            *self = Self::Some(all);
        }
    }

    /// One by one.
    pub fn each(&self) -> Vec<Bytes> {
        match self {
            Self::Whole(table, form) => {
                table.entries().iter().map(|entry| entry.in_form(*form)).collect()
            }
            Self::Some(resources) => resources.clone(),
        }
    }
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
    pub resources: Resources,
    /// The names of what is gone. Delta only.
    pub removed: Vec<Arc<str>>,
}

impl Response {
    /// Roughly how long it is on the wire.
    pub fn bytes(&self) -> usize {
        let removed: usize = self.removed.iter().map(|name| name.len() + 4).sum();
        self.resources.bytes() + removed + 256
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
