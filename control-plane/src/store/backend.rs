//! Where the bytes lie: ordered tables with atomic, durable batches.

use std::fmt;

/// The tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Counters, format, keys.
    Meta,
    /// Documents as they stand.
    Objects,
    /// Labels of raw groups.
    Groups,
    /// Resources of raw groups.
    Resources,
    /// Revisions by number.
    Revisions,
    /// Content by hash, each with the number of places that revisions name it at.
    Contents,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Meta, Self::Objects, Self::Groups, Self::Resources, Self::Revisions, Self::Contents];

    /// What it is called on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Objects => "objects",
            Self::Groups => "groups",
            Self::Resources => "resources",
            Self::Revisions => "revisions",
            Self::Contents => "contents",
        }
    }
}

/// One entry to write, or to take away.
#[derive(Clone)]
pub struct Put {
    /// In which table.
    pub table: Table,
    /// Under which key.
    pub key: Vec<u8>,
    /// What; `None` takes the entry away.
    pub value: Option<Vec<u8>>,
}

impl fmt::Debug for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value may hold a private key.
        write!(f, "{} {:?}", self.table.name(), String::from_utf8_lossy(&self.key))
    }
}

/// The bytes, or the disk, are not as they should be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Ordered tables of bytes.
pub trait Backend: fmt::Debug + Send + Sync {
    /// The value under a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError>;

    /// Entries whose keys are below `before` (all, without one), the greatest key first.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn newest(
        &self,
        table: Table,
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, BackendError>;

    /// All entries, the smallest key first; at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn oldest(&self, table: Table, limit: usize) -> Result<Vec<Entry>, BackendError>;

    /// Writes all of it or nothing; when this returns, it survives a power cut.
    ///
    /// # Errors
    /// When it did not.
    fn write(&self, batch: Vec<Put>) -> Result<(), BackendError>;
}
