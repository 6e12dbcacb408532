//! Statuses as they are written: what translation says, and whether the fleet has acknowledged it.

use std::collections::BTreeMap;

use serde_json::Value;
use xds_proto::resource::ResourceType;

use crate::translate::draft::{Owners, StatusDraft};

/// What the proxies of a fleet have said of what was sent to them last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetState {
    /// How many proxies are connected.
    pub connected: usize,
    /// How many of them have acknowledged everything.
    pub acknowledged: usize,
    /// What they refused.
    pub nacks: Vec<Nack>,
    /// Where the fleet can be reached, for Gateways that ask for no address.
    pub addresses: Vec<String>,
}

/// A proxy refused something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nack {
    /// The proxy.
    pub node: String,
    /// The type of what it refused.
    pub resource_type: Option<ResourceType>,
    /// The name of what it refused, when it said so; else all of that type are meant.
    pub resource: Option<String>,
    /// What it said.
    pub text: String,
}

/// What the fleets say, and the time.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The state of each fleet by name; one that is not here has no proxy.
    pub fleets: &'a BTreeMap<String, FleetState>,
    /// Which objects made each resource.
    pub owners: &'a Owners,
    /// The present time, as RFC 3339 in whole seconds.
    pub now: &'a str,
}

/// The status to write for an object that now has `previous`; none when nothing changes.
pub fn complete(
    _draft: &StatusDraft,
    _previous: Option<&Value>,
    _circumstances: Circumstances<'_>,
) -> Option<Value> {
    None
}
