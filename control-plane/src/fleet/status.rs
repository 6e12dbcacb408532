//! How a node is shown to people and programs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::fleet::identity::NodeKind;

/// How a node stands. Ordered from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It ACKed everything it is due.
    Synced,
    /// It was sent something and did not answer yet.
    Pending,
    /// The same, for 5 s and more.
    Stale,
    /// It refused something, and serves the last good one.
    #[serde(rename = "NACK")]
    Nack,
    /// Its stream is gone.
    Lost,
}

impl NodeState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Pending => "pending",
            Self::Stale => "stale",
            Self::Nack => "NACK",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One node, as `/v1/fleet` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its id.
    pub node: Arc<str>,
    /// What kind of client it is.
    pub kind: NodeKind,
    /// The client's own version.
    pub version: String,
    /// Its cluster, or the raw group that it gets its resources from.
    pub fleet: Arc<str>,
    /// How it stands.
    pub state: NodeState,
    /// The last revision that it serves in full.
    pub revision: Option<u64>,
    /// From the accepted write of that revision to the node's last ACK for it. `None` when the
    /// node found the revision when it connected.
    pub lag_ms: Option<u64>,
    /// Since when it has been connected, in RFC 3339.
    pub connected_since: String,
    /// Since when it has been gone, in RFC 3339.
    pub lost_since: Option<String>,
    /// What it has of each type: `CDS`, `EDS`, …
    pub types: BTreeMap<&'static str, TypeStatus>,
    /// What it refused.
    pub nack: Option<NackStatus>,
}

/// What a node has of one type.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeStatus {
    /// The version that was sent last.
    pub sent: Option<String>,
    /// The version that was ACKed last.
    pub acked: Option<String>,
    /// How many resources it holds.
    pub resources: usize,
}

/// What a node refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NackStatus {
    /// The type: `RDS`.
    pub r#type: &'static str,
    /// The resources, as far as the text names them.
    pub resources: Vec<Arc<str>>,
    /// The client's own words.
    pub text: String,
    /// When it was first heard, in RFC 3339.
    pub since: String,
    /// How many times it was refused.
    pub tries: u32,
}

/// A node that does not serve a revision that was waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Laggard {
    /// Its id.
    pub node: Arc<str>,
    /// How it stands.
    pub state: NodeState,
    /// The last revision that it serves in full.
    pub revision: Option<u64>,
    /// What it refused.
    pub nack: Option<NackStatus>,
}

pub(crate) fn rfc3339(time: SystemTime) -> String {
    // Formatting fails only for years that no clock shows.
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}
