//! Incremental xDS: pure steps from a request, or from what is published, to the next response.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, Resource as Wrapped};
use xds_proto::resource::ResourceType;

use crate::fleet::Moment;
use crate::serve::order::View;
use crate::serve::response::{Draft, MAX_RESPONSE_BYTES, fitting};
use crate::serve::subscription::{Change, Subscription};
use crate::snapshot::table::{Entry, TypeTable};

/// What a request is read against.
#[derive(Debug)]
pub struct Context<'a> {
    /// What is published.
    pub table: &'a Arc<TypeTable>,
    /// Endpoints that the client must get again, because their cluster changed.
    pub rewarm: &'a BTreeSet<Arc<str>>,
    /// The time.
    pub now: Moment,
}

/// Takes in a request. `is_first`: the first one for this type on this stream.
pub fn request(
    subscription: &mut Subscription,
    request: &DeltaDiscoveryRequest,
    is_first: bool,
    context: &Context<'_>,
) {
    answer(subscription, request, context.now);
    subscription.settled = None;
    let virtual_hosts = subscription.kind == ResourceType::VirtualHost;
    if is_first {
        subscription.is_resumed = !request.initial_resource_versions.is_empty();
        let names_nothing = request.resource_names_subscribe.is_empty();
        if names_nothing && subscription.kind.is_wildcard_by_default() {
            subscription.is_wildcard = true;
        }
        // Virtual hosts are asked for one by one, on demand; the empty start wants an answer.
        subscription.must_answer = subscription.is_wildcard || virtual_hosts;
        subscription.is_asked = subscription.must_answer;
    }
    unsubscribe(subscription, &request.resource_names_unsubscribe);
    let known = if is_first { &request.initial_resource_versions } else { &HashMap::new() };
    for name in &request.resource_names_subscribe {
        if name != "*" {
            subscribe(subscription, name, known.get(name), context);
        } else if !virtual_hosts && !subscription.is_wildcard {
            subscription.is_wildcard = true;
            subscription.must_answer = true;
            subscription.is_asked = true;
        }
    }
    resume(subscription, known, context.table);
}

fn answer(subscription: &mut Subscription, request: &DeltaDiscoveryRequest, now: Moment) {
    let nonce = &request.response_nonce;
    let place = subscription.flights.iter().position(|flight| flight.nonce == *nonce);
    let Some(flight) = place.and_then(|place| subscription.flights.remove(place)) else { return };
    match &request.error_detail {
        Some(error) => subscription.nack(flight, &error.message, now),
        None => subscription.ack(flight, now),
    }
}

fn unsubscribe(subscription: &mut Subscription, names: &[String]) {
    for name in names {
        if name == "*" {
            subscription.is_wildcard = false;
        } else if subscription.names.remove(name.as_str()) && subscription.is_wildcard {
            // The client cannot know whether `*` still covers it, so it is told.
            subscription.owed.insert(name.as_str().into());
            subscription.is_asked = true;
        }
    }
    if !names.is_empty() {
        subscription.forget_uncovered();
    }
}

/// A name that is asked for must be answered even if the client seems to have it: it may have
/// dropped it. A client that says which version it has has not.
fn subscribe(
    subscription: &mut Subscription,
    name: &str,
    known: Option<&String>,
    context: &Context<'_>,
) {
    let entry = context.table.get(name);
    let name: Arc<str> = entry.map_or_else(|| name.into(), |entry| entry.name.clone());
    if known.is_none() || context.rewarm.contains(&name) {
        subscription.owed.insert(name.clone());
    }
    subscription.names.insert(name);
    subscription.is_asked = true;
}

/// Takes in what the client brought along from an earlier stream.
fn resume(
    subscription: &mut Subscription,
    known: &HashMap<String, String>,
    table: &Arc<TypeTable>,
) {
    for (name, version) in known {
        if !subscription.covers(name) {
            continue;
        }
        let same = table.get(name).filter(|entry| entry.version.as_str() == version.as_str());
        let entry = same.cloned();
        let entry =
            entry.unwrap_or_else(|| Arc::new(Entry::foreign(name.as_str().into(), version)));
        subscription.held.insert(entry);
    }
}

/// The response that is due, if any.
pub fn due(subscription: &Subscription, view: &View, table: &TypeTable) -> Option<Draft> {
    let is_full = subscription.flights.is_empty() || subscription.must_answer;
    let changed = |entry: &&Arc<Entry>| {
        let is_owed = subscription.owed.contains(&entry.name);
        let held = || subscription.expected(&entry.name);
        is_owed || (is_full && held().is_none_or(|held| held.version != entry.version))
    };
    let entries: Vec<_> = view.entries.iter().filter(changed).cloned().collect();
    let mut gone = subscription.owed.clone();
    if is_full {
        gone.extend(subscription.expected_names());
    }
    gone.retain(|name| view.get(name).is_none());
    let gone = fitting_names(gone);
    if entries.is_empty() && gone.is_empty() && !subscription.must_answer {
        return None;
    }
    let entries = fitting(entries);
    let mut resources: Vec<Bytes> = entries.iter().map(|entry| entry.wrapped()).collect();
    let mut changes: Vec<Change> = entries.into_iter().map(Change::Set).collect();
    changes.extend(gone.iter().cloned().map(Change::Gone));
    changes.sort_by(|a, b| a.name().cmp(b.name()));
    let is_absent = |name: &Arc<str>| {
        subscription.kind == ResourceType::VirtualHost && subscription.owed.contains(name)
    };
    let (absent, removed): (Vec<_>, Vec<_>) = gone.into_iter().partition(is_absent);
    resources.extend(absent.iter().map(|name| absent_host(name, table)));
    Some(Draft { version: table.version().clone(), resources, removed, changes })
}

/// As many names as fit into one response. The rest follows after the ACK.
fn fitting_names(names: BTreeSet<Arc<str>>) -> Vec<Arc<str>> {
    let mut bytes = 0;
    let fits = |name: &Arc<str>| {
        bytes += name.len() + 4;
        bytes <= MAX_RESPONSE_BYTES / 5
    };
    names.into_iter().take_while(fits).collect()
}

/// Tells Envoy that there is no such virtual host, so that the request that waits for it gets its
/// 404; after a mere removal it would wait on.
fn absent_host(name: &Arc<str>, table: &TypeTable) -> Bytes {
    let absent = Wrapped {
        name: name.to_string(),
        version: table.version().to_string(),
        aliases: vec![name.to_string()],
        ..Default::default()
    };
    absent.encode_to_vec().into()
}
