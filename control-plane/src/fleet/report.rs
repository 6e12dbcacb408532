//! What a stream says about itself to the fleet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;
use xds_proto::resource::ResourceType;
use xds_proto::version::Version;

use crate::snapshot::{Origin, Stamp};

/// How one stream stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Where its resources come from. `None` before anything is published.
    pub origin: Option<Origin>,
    /// The last write that it serves in full: everything that it subscribes to is ACKed.
    pub synced: Option<Stamp>,
    /// Since when it has been behind what is published. `None` when it is not.
    pub behind_since: Option<Instant>,
    /// What was said about each type that it asked for.
    pub types: BTreeMap<ResourceType, TypeReport>,
}

/// What was said about one type on one stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TypeReport {
    /// The version that was sent last.
    pub sent: Option<Version>,
    /// The version that was ACKed last.
    pub acked: Option<Version>,
    /// How many resources the client holds.
    pub held: usize,
    /// What it refused and has not taken since.
    pub nack: Option<Nack>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nack {
    /// The resources that it is about, as far as the text names them.
    pub resources: Vec<Arc<str>>,
    /// The version that was refused.
    pub version: Version,
    /// The client's own words.
    pub text: String,
    /// When this refusal was first heard.
    pub since: SystemTime,
    /// How many times this type was refused since the client last took it.
    pub tries: u32,
}
