//! State of the world: pure steps from a request, or from what is published, to the next response.

use std::collections::BTreeSet;
use std::sync::Arc;

use xds_proto::envoy::service::discovery::v3::DiscoveryRequest;

use crate::fleet::Moment;
use crate::serve::held::Held;
use crate::serve::order::View;
use crate::serve::response::{Draft, fitting};
use crate::serve::subscription::{Change, Flight, Subscription};
use crate::snapshot::table::{Entry, TypeTable, version_of};

/// Takes in a request. `is_first`: the first one for this type on this stream.
pub fn request(
    subscription: &mut Subscription,
    request: &DiscoveryRequest,
    is_first: bool,
    table: &Arc<TypeTable>,
    now: Moment,
) {
    let nonce = &request.response_nonce;
    // A nonce says which response the client had seen. One that is not the last is stale: the
    // client will speak again when it has seen the last. Nonces of other streams mean nothing.
    if !is_first && !nonce.is_empty() && *nonce != subscription.last_nonce {
        return;
    }
    if !is_first && !nonce.is_empty() {
        answer(subscription, request, now);
    }
    let is_new = name(subscription, &request.resource_names);
    subscription.settled = None;
    if !is_first && !is_new {
        return;
    }
    subscription.is_asked = true;
    if is_first && !request.version_info.is_empty() {
        subscription.is_resumed = true;
        let is_current = request.version_info == table.version().as_str();
        if is_current && subscription.kind.is_complete_in_sotw() && is_pure_wildcard(subscription) {
            // The client has accepted exactly this, on an earlier stream.
            subscription.held = Held::from(table.entries());
            subscription.acked = Some(table.version().clone());
            subscription.is_asked = false;
            return;
        }
        // It has something to serve with, so what it asks for comes in order.
        subscription.owed.clear();
    }
    subscription.must_answer |= subscription.kind.is_complete_in_sotw();
}

fn answer(subscription: &mut Subscription, request: &DiscoveryRequest, now: Moment) {
    let Some(flight) = subscription.flights.pop_back() else { return };
    match &request.error_detail {
        Some(error) => subscription.nack(flight, &error.message, now),
        None => subscription.ack(flight, now),
    }
}

/// Takes in the whole list of names. Says whether there is something new in it.
fn name(subscription: &mut Subscription, names: &[String]) -> bool {
    let was_wildcard = subscription.is_wildcard;
    let kind = subscription.kind;
    subscription.is_wildcard = names.iter().any(|name| name == "*")
        || (names.is_empty() && kind.is_wildcard_by_default() && !subscription.was_named);
    subscription.was_named |= !names.is_empty();
    let mut next: BTreeSet<Arc<str>> = BTreeSet::new();
    let mut is_new = subscription.is_wildcard && !was_wildcard;
    for name in names.iter().filter(|name| *name != "*") {
        match subscription.names.get(name.as_str()) {
            Some(known) => next.insert(known.clone()),
            None => {
                let name: Arc<str> = name.as_str().into();
                is_new = true;
                subscription.owed.insert(name.clone());
                next.insert(name)
            }
        };
    }
    subscription.names = next;
    subscription.forget_uncovered();
    is_new
}

fn is_pure_wildcard(subscription: &Subscription) -> bool {
    subscription.is_wildcard && subscription.names.is_empty()
}

/// The response that is due, if any.
pub fn due(subscription: &mut Subscription, view: &View, table: &TypeTable) -> Option<Draft> {
    if subscription.kind.is_complete_in_sotw() {
        due_whole(subscription, view, table)
    } else {
        due_part(subscription, view, table)
    }
}

/// Listeners and clusters: a response holds everything, and what is missing is gone.
fn due_whole(subscription: &Subscription, view: &View, table: &TypeTable) -> Option<Draft> {
    if subscription.is_resumed && view.has_gaps {
        // The client may hold what we would leave out.
        return None;
    }
    let changed = |entry: &Entry| {
        subscription.owed.contains(&entry.name)
            || subscription.expected(&entry.name).is_none_or(|held| held.version != entry.version)
    };
    let is_due = subscription.must_answer
        || view.entries.iter().any(|entry| changed(entry))
        || subscription.expected_names().iter().any(|name| view.get(name).is_none());
    if !is_due {
        return None;
    }
    let mut whole = view.entries.clone();
    for entry in &mut whole {
        // Of several resources that a NACK may have meant, some were taken: do not turn those back.
        let refusal = subscription.refused.get(&entry.name);
        if let Some(refusal) = refusal.filter(|refusal| !refusal.is_named)
            && let Some(refused) = table.get(&entry.name)
            && refused.version == refusal.version
        {
            *entry = refused.clone();
        }
    }
    let version = if view.is_held_back { version_of(&whole) } else { table.version().clone() };
    let gone = subscription.expected_names().into_iter().filter(|name| view.get(name).is_none());
    let mut changes: Vec<Change> = gone.map(Change::Gone).collect();
    changes.extend(whole.iter().filter(|entry| changed(entry)).cloned().map(Change::Set));
    changes.sort_by(|a, b| a.name().cmp(b.name()));
    let resources = whole.iter().map(|entry| entry.any()).collect();
    Some(Draft { version, resources, removed: Vec::new(), changes })
}

/// All other types: a response holds what changed, and says nothing about the rest.
fn due_part(subscription: &mut Subscription, view: &View, table: &TypeTable) -> Option<Draft> {
    let is_full = subscription.flights.is_empty() || subscription.must_answer;
    let changed = |entry: &&Arc<Entry>| {
        let is_owed = subscription.owed.contains(&entry.name);
        is_owed
            || (is_full
                && subscription
                    .expected(&entry.name)
                    .is_none_or(|held| held.version != entry.version))
    };
    let entries: Vec<_> = view.entries.iter().filter(changed).cloned().collect();
    if subscription.flights.is_empty() {
        // There are no words for a removal; if it comes back, it is news.
        subscription.held.retain(|entry| view.get(&entry.name).is_some());
        subscription.owed.retain(|name| view.get(name).is_some());
    }
    if entries.is_empty() && !subscription.must_answer {
        return None;
    }
    let entries = fitting(entries);
    let resources = entries.iter().map(|entry| entry.any()).collect();
    let changes = entries.into_iter().map(Change::Set).collect();
    Some(Draft { version: table.version().clone(), resources, removed: Vec::new(), changes })
}

/// Notes that a response left. Only the last nonce counts, so an earlier response that was not
/// answered is answered together with this one.
pub fn depart(subscription: &mut Subscription, mut flight: Flight) {
    while let Some(earlier) = subscription.flights.pop_back() {
        let news: BTreeSet<Arc<str>> =
            flight.changes.iter().map(|change| change.name().clone()).collect();
        flight
            .changes
            .extend(earlier.changes.into_iter().filter(|change| !news.contains(change.name())));
        flight.changes.sort_by(|a, b| a.name().cmp(b.name()));
    }
    subscription.depart(flight);
}
