//! Statuses as they are written: what translation says, and whether the fleet has acknowledged it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use xds_proto::resource::ResourceType;

use crate::model::gatewayclass::CONTROLLER;
use crate::translate::PROGRAMMED;
use crate::translate::draft::{
    Condition, DraftBody, GatewayDraft, ListenerDraft, ListenersDraft, ObjectRef, Owners,
    ParentDraft, StatusDraft,
};
use crate::translate::features::FEATURES;

mod conditions;

use conditions::Writer;

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
    /// What it said.
    pub text: String,
    /// The objects that made what it refused; none when nobody knows what that was, and all are told.
    pub objects: Option<BTreeSet<ObjectRef>>,
}

/// The objects that made what was refused: a resource, all of a type, or whatever it was.
pub fn makers(
    owners: &Owners,
    resource_type: Option<ResourceType>,
    resource: Option<&str>,
) -> Option<BTreeSet<ObjectRef>> {
    if let (Some(resource_type), Some(resource)) = (resource_type, resource) {
        return owners.get(&(resource_type, resource.into())).cloned();
    }
    let meant = owners.iter().filter(|((made, name), _)| {
        resource_type.is_none_or(|wanted| wanted == *made)
            && resource.is_none_or(|wanted| wanted == &**name)
    });
    let makers: BTreeSet<ObjectRef> = meant.flat_map(|(_, makers)| makers).cloned().collect();
    (!makers.is_empty()).then_some(makers)
}

/// What the fleets say, and the time.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The state of each fleet by name; one that is not here has no proxy.
    pub fleets: &'a BTreeMap<String, FleetState>,
    /// The control plane has only begun, and proxies may not have come back yet.
    pub is_early: bool,
    /// The present time, as RFC 3339 in whole seconds.
    pub now: &'a str,
}

/// The status to write for an object that has `previous`; none when that says the same already.
///
/// A `Programmed` that was true of this generation stays so while the fleet takes up something
/// else; it turns false when a proxy refuses it or none is left, unless it is early.
pub fn complete(
    draft: &StatusDraft,
    previous: Option<&Value>,
    circumstances: Circumstances<'_>,
) -> Option<Value> {
    let previous = previous.unwrap_or(&Value::Null);
    let writer = Writer { generation: draft.generation, now: circumstances.now };
    let status = match &draft.body {
        DraftBody::Plain(conditions) => {
            let mut status = previous.as_object().cloned().unwrap_or_default();
            let written = writer.write(conditions, &previous["conditions"]);
            status.insert("conditions".to_owned(), written);
            Value::Object(status)
        }
        DraftBody::Class(conditions) => {
            let mut status = previous.as_object().cloned().unwrap_or_default();
            let written = writer.write(conditions, &previous["conditions"]);
            status.insert("conditions".to_owned(), written);
            let features = FEATURES.iter().map(|name| json!({"name": name}));
            status.insert("supportedFeatures".to_owned(), features.collect());
            Value::Object(status)
        }
        DraftBody::Gateway(gateway) => {
            let state = State::of(&draft.object, &gateway.listeners.fleet, circumstances);
            let mut status = listeners_status(&gateway.listeners, previous, &writer, &state);
            put_addresses(&mut status, gateway, &state);
            status.insert("attachedListenerSets".to_owned(), gateway.attached_sets.into());
            Value::Object(status)
        }
        DraftBody::ListenerSet(listeners) => {
            let state = State::of(&draft.object, &listeners.fleet, circumstances);
            Value::Object(listeners_status(listeners, previous, &writer, &state))
        }
        DraftBody::Route(parents) => {
            route_status(&draft.object, parents, previous, (&writer, circumstances))
        }
    };
    (status != *previous).then_some(status)
}

/// What a fleet says of one object.
struct State<'a> {
    fleet: &'a str,
    state: Option<&'a FleetState>,
    is_early: bool,
    /// Refusals that concern the object.
    nacks: Vec<&'a Nack>,
}

impl<'a> State<'a> {
    fn of(object: &ObjectRef, fleet: &'a str, circumstances: Circumstances<'a>) -> Self {
        let state = circumstances.fleets.get(fleet);
        let concerns =
            |nack: &&Nack| nack.objects.as_ref().is_none_or(|objects| objects.contains(object));
        let nacks = state.map(|state| state.nacks.iter().filter(concerns).collect());
        let is_early = circumstances.is_early;
        Self { fleet, state, is_early, nacks: nacks.unwrap_or_default() }
    }

    /// Whether the fleet has it, as a condition of this type that now is `previous`.
    fn condition(
        &self,
        condition_type: &'static str,
        refused: &'static str,
        was_programmed: bool,
    ) -> Condition {
        let fails = |reason, message| Condition::fails(condition_type, reason, message);
        let holds =
            Condition { condition_type, holds: true, reason: "Programmed", message: String::new() };
        let Some(state) = self.state.filter(|state| state.connected > 0) else {
            if was_programmed && self.is_early {
                return holds;
            }
            return fails("Pending", format!("no proxy of fleet {} is connected", self.fleet));
        };
        if let Some(first) = self.nacks.first() {
            let mut nodes: Vec<&str> = self.nacks.iter().map(|nack| nack.node.as_str()).collect();
            nodes.sort_unstable();
            nodes.dedup();
            let (count, all) = (nodes.len(), state.connected.max(nodes.len()));
            let message = format!("{count} of {all} proxies refused it: {}", first.text);
            return fails(refused, message);
        }
        if state.acknowledged >= state.connected || was_programmed {
            return holds;
        }
        fails("Pending", format!("not every proxy of fleet {} has acknowledged it", self.fleet))
    }
}

fn listeners_status(
    draft: &ListenersDraft,
    previous: &Value,
    writer: &Writer<'_>,
    state: &State<'_>,
) -> Map<String, Value> {
    let with_programmed = |conditions: &[Condition], previous: &Value| {
        let mut conditions = conditions.to_vec();
        if !conditions.iter().any(|condition| condition.condition_type == "Programmed") {
            let was = writer.was_true("Programmed", previous);
            conditions.push(state.condition("Programmed", "Invalid", was));
        }
        writer.write(&conditions, previous)
    };
    let mut status = previous.as_object().cloned().unwrap_or_default();
    let conditions = with_programmed(&draft.conditions, &previous["conditions"]);
    let listeners = draft.listeners.iter().map(|listener| {
        let previous = named(&previous["listeners"], &listener.name);
        let conditions = with_programmed(&listener.conditions, &previous["conditions"]);
        listener_status(listener, conditions)
    });
    let listeners: Vec<Value> = listeners.collect();
    status.insert("conditions".to_owned(), conditions);
    status.insert("listeners".to_owned(), listeners.into());
    status
}

fn put_addresses(status: &mut Map<String, Value>, draft: &GatewayDraft, state: &State<'_>) {
    let of_fleet = state.state.map(|state| state.addresses.as_slice()).unwrap_or_default();
    let addresses = if draft.addresses.is_empty() { of_fleet } else { &draft.addresses };
    if addresses.is_empty() {
        status.shift_remove("addresses");
        return;
    }
    let entry = |address: &String| json!({"type": "IPAddress", "value": address});
    status.insert("addresses".to_owned(), addresses.iter().map(entry).collect());
}

fn listener_status(draft: &ListenerDraft, conditions: Value) -> Value {
    let kinds = draft.supported_kinds.iter();
    let kinds: Vec<Value> =
        kinds.map(|kind| json!({"group": "gateway.networking.k8s.io", "kind": kind})).collect();
    json!({
        "name": draft.name,
        "supportedKinds": kinds,
        "attachedRoutes": draft.attached_routes,
        "conditions": conditions,
    })
}

/// The entry of a list with this name.
fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let entries = list.as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().find(|entry| entry["name"] == name).unwrap_or(&Value::Null)
}

/// Entries of other controllers stay as they are, before ours.
fn route_status(
    object: &ObjectRef,
    parents: &[ParentDraft],
    previous: &Value,
    (writer, circumstances): (&Writer<'_>, Circumstances<'_>),
) -> Value {
    let before = previous["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_ours = |entry: &Value| entry["controllerName"] == CONTROLLER;
    let mut entries: Vec<Value> = before.iter().filter(|entry| !is_ours(entry)).cloned().collect();
    for parent in parents {
        let previous = before
            .iter()
            .find(|entry| is_ours(entry) && entry["parentRef"] == parent.parent_ref)
            .unwrap_or(&Value::Null);
        let mut conditions = parent.conditions.clone();
        if let Some(fleet) = &parent.fleet {
            let was = writer.was_true(PROGRAMMED, &previous["conditions"]);
            let state = State::of(object, fleet, circumstances);
            conditions.push(state.condition(PROGRAMMED, "NACKed", was));
        }
        entries.push(json!({
            "parentRef": parent.parent_ref,
            "controllerName": CONTROLLER,
            "conditions": writer.write(&conditions, &previous["conditions"]),
        }));
    }
    let mut status = previous.as_object().cloned().unwrap_or_default();
    status.insert("parents".to_owned(), entries.into());
    Value::Object(status)
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
