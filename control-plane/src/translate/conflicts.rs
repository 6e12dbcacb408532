//! Listeners that stand in one another's way.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::finding::codes;
use crate::model::gateway::Listener;
use crate::model::meta::Place;
use crate::translate::gateways::GatewayPlan;
use crate::translate::hostname::{ANY, intersection};
use crate::translate::listeners::ListenerPlan;
use crate::translate::problem::Problem;

/// Why two listeners cannot share a port, if so.
fn clash(a: &Listener, b: &Listener) -> Option<&'static str> {
    let family = |listener: &Listener| match listener.protocol.as_str() {
        "HTTP" => Some(0),
        "HTTPS" | "TLS" => Some(1),
        "TCP" => Some(2),
        "UDP" => Some(3),
        _ => None,
    };
    let (Some(one), Some(other)) = (family(a), family(b)) else { return None };
    if a.port != b.port || (one == 3) != (other == 3) {
        return None;
    }
    if one != other || one >= 2 {
        return Some("ProtocolConflict");
    }
    let is_same = a.hostname.as_deref().unwrap_or(ANY) == b.hostname.as_deref().unwrap_or(ANY);
    is_same.then_some("HostnameConflict")
}

/// Of the listeners of a gateway and its sets, those that conflict. Between objects the earlier wins:
/// the gateway, then its sets by age. Within one object none of them does.
pub(super) fn find_conflicts(listeners: &mut [ListenerPlan<'_>]) {
    let mut start = 0;
    while start < listeners.len() {
        let owner = listeners[start].owner.clone();
        let own = listeners[start..].iter().take_while(|one| one.owner == owner).count();
        let range = start..start + own;
        let lost = find(listeners, range.clone(), |listeners, _| {
            listeners.iter().enumerate().take(start).filter(|(_, one)| one.is_accepted())
        });
        mark(listeners, lost);
        let mutual = find(listeners, range.clone(), |listeners, index| {
            let others = listeners.iter().enumerate().take(start + own).skip(start);
            others.filter(move |(other, one)| *other != index && one.conflict.is_none())
        });
        mark(listeners, mutual);
        start += own;
    }
}

/// Conflicts of the listeners of a range that have none yet with those that `others` gives.
fn find<'a, 'b, I: Iterator<Item = (usize, &'b ListenerPlan<'a>)>>(
    listeners: &'b [ListenerPlan<'a>],
    range: std::ops::Range<usize>,
    others: impl Fn(&'b [ListenerPlan<'a>], usize) -> I,
) -> Vec<(usize, Problem)>
where
    'a: 'b,
{
    let without = range.filter(|index| listeners[*index].conflict.is_none());
    let conflict = |index: usize| {
        let this = &listeners[index];
        let found = others(listeners, index).find_map(|(_, other)| conflict(this, other))?;
        Some((index, found))
    };
    without.filter_map(conflict).collect()
}

fn mark(listeners: &mut [ListenerPlan<'_>], conflicts: Vec<(usize, Problem)>) {
    for (index, conflict) in conflicts {
        listeners[index].conflict = Some(conflict);
    }
}

fn conflict(this: &ListenerPlan<'_>, other: &ListenerPlan<'_>) -> Option<Problem> {
    let reason = clash(this.listener, other.listener)?;
    let what = match reason {
        "HostnameConflict" => "the same port and hostname",
        _ => "the same port, with a protocol that cannot share it",
    };
    let is_own = other.owner == this.owner;
    let whose = if is_own { String::new() } else { format!(" of {}", other.owner) };
    let message = format!("listener {}{whose} has {what}", other.listener.name);
    let field = format!("spec.listeners[{}]", this.index);
    Some(Problem::new(reason, codes::LISTENER_CONFLICT, field, message))
}

/// Of the listeners of a gateway and its sets, those that end TLS for names in common.
pub(super) fn find_overlaps(listeners: &mut [ListenerPlan<'_>]) {
    for index in 0..listeners.len() {
        let this = &listeners[index];
        let overlaps = |(other, plan): &(usize, &ListenerPlan<'_>)| {
            *other != index
                && plan.ends_tls()
                && plan.listener.port == this.listener.port
                && intersection(plan.hostname, this.hostname).is_some()
        };
        let names: Vec<&str> = if this.ends_tls() {
            let others = listeners.iter().enumerate().filter(overlaps);
            others.map(|(_, other)| other.listener.name.as_str()).collect()
        } else {
            Vec::new()
        };
        listeners[index].overlaps = names;
    }
}

/// Gateways of one fleet may share a port; where they cannot, the younger one gives way.
pub(super) fn share_ports(gateways: &mut [GatewayPlan<'_>]) {
    /// A listener that has a port, with its address and gateway.
    type Holder<'a> = (&'a Listener, IpAddr, Place);
    let mut taken: BTreeMap<(&str, u16), Vec<Holder<'_>>> = BTreeMap::new();
    for plan in gateways.iter_mut().filter(|plan| plan.refusal.is_none()) {
        let place = plan.gateway.metadata.place();
        for listener in &mut plan.listeners {
            if !listener.is_accepted() {
                continue;
            }
            let port = listener.listener.port;
            let holders = taken.entry((plan.gateway.fleet(), port)).or_default();
            let clashing = holders.iter().find(|(other, bind, holder)| {
                *holder != place
                    && (*bind != plan.bind || clash(other, listener.listener).is_some())
            });
            if let Some((other, _, holder)) = clashing {
                let message =
                    format!("port {port} is taken by listener {} of Gateway {holder}", other.name);
                let field = format!("spec.listeners[{}].port", listener.index);
                let code = codes::LISTENER_CONFLICT;
                listener.refusal = Some(Problem::new("PortUnavailable", code, field, message));
            } else {
                holders.push((listener.listener, plan.bind, place.clone()));
            }
        }
    }
}
