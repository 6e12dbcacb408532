//! What translation says of objects: their statuses, but for what only the fleet can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use xds_proto::resource::ResourceType;

use crate::model::meta::Place;

/// An object by kind and place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// `HTTPRoute`.
    pub kind: &'static str,
    /// Where it is.
    pub place: Place,
}

impl ObjectRef {
    /// The object of this kind at this place.
    pub fn new(kind: &'static str, place: Place) -> Self {
        Self { kind, place }
    }
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.place)
    }
}

/// Which objects made each resource.
pub type Owners = BTreeMap<(ResourceType, Arc<str>), BTreeSet<ObjectRef>>;

/// The status of one object, as far as translation knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusDraft {
    /// The object.
    pub object: ObjectRef,
    /// The generation that was translated.
    pub generation: i64,
    /// What its status says.
    pub body: DraftBody,
}

/// What a status says, by kind.
#[derive(Debug, Clone, PartialEq)]
pub enum DraftBody {
    /// Backend: conditions only.
    Plain(Vec<Condition>),
    /// GatewayClass: conditions, and what we can do.
    Class(Vec<Condition>),
    /// Gateway.
    Gateway(GatewayDraft),
    /// ListenerSet.
    ListenerSet(ListenersDraft),
    /// HTTPRoute: what each of its parents says.
    Route(Vec<ParentDraft>),
}

/// The status of a Gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayDraft {
    /// What is said of it and its listeners.
    pub listeners: ListenersDraft,
    /// The addresses it was given.
    pub addresses: Vec<String>,
    /// How many listener sets it takes.
    pub attached_sets: usize,
}

/// The status of an object that has listeners.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenersDraft {
    /// The fleet that must acknowledge it.
    pub fleet: String,
    /// Its conditions, without `Programmed` unless it is false whatever the fleet says.
    pub conditions: Vec<Condition>,
    /// Its listeners.
    pub listeners: Vec<ListenerDraft>,
}

/// The status of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerDraft {
    /// Its name.
    pub name: String,
    /// Kinds of routes that it serves.
    pub supported_kinds: Vec<&'static str>,
    /// How many routes are accepted on it.
    pub attached_routes: usize,
    /// Its conditions, without `Programmed` unless it is false whatever the fleet says.
    pub conditions: Vec<Condition>,
}

/// What one parent says of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct ParentDraft {
    /// The reference as it was written.
    pub parent_ref: Value,
    /// The fleet that must acknowledge it; none when it is not served there.
    pub fleet: Option<String>,
    /// Its conditions, without `weighlock.dev/Programmed`.
    pub conditions: Vec<Condition>,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `Accepted`.
    pub condition_type: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

impl Condition {
    /// A condition that holds; its reason is its type.
    pub fn holds(condition_type: &'static str) -> Self {
        Self { condition_type, holds: true, reason: condition_type, message: String::new() }
    }

    /// A condition that does not hold.
    pub fn fails(
        condition_type: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { condition_type, holds: false, reason, message: message.into() }
    }
}
