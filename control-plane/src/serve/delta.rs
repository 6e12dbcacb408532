//! Incremental xDS: pure steps from a request, or from what is published, to the next response.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, Resource as Wrapped};
use xds_proto::resource::ResourceType;

use crate::fleet::Moment;
use crate::serve::order::waits_for_others;
use crate::serve::response::{Draft, MAX_RESPONSE_BYTES, Resources, fitting};
use crate::serve::subscription::{Change, Subscription};
use crate::serve::view::View;
use crate::snapshot::table::{Entry, Form, TypeTable};

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
    unsubscribe(subscription, &request.resource_names_unsubscribe, context.table);
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
    subscription.imply(context.table);
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

fn unsubscribe(subscription: &mut Subscription, names: &[String], table: &TypeTable) {
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
        subscription.imply(table);
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
        // Who asks by another name is owed what that leads to.
        let led_to = entry.is_none().then(|| context.table.host(&name)).flatten();
        subscription.owed.insert(led_to.map_or_else(|| name.clone(), |host| host.name.clone()));
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

/// What is due to a client that has all of the table before this one, found without a look at
/// what did not change. `None`: that is not the case.
pub fn step(subscription: &Subscription, table: &Arc<TypeTable>) -> Option<Option<Draft>> {
    let is_plain = subscription.flights.is_empty()
        && subscription.owed.is_empty()
        && subscription.refused.is_empty()
        && !subscription.must_answer
        && !waits_for_others(subscription.kind);
    let before = subscription.settled.as_ref().filter(|_| is_plain)?;
    let set = table.set_since(before)?;
    let covered = set.iter().filter(|entry| subscription.covers(&entry.name));
    let entries: Vec<_> = covered.cloned().collect();
    let count = entries.len();
    let entries = fitting(entries);
    if entries.len() < count {
        return None;
    }
    let resources = Resources::of(&entries, table, Form::Wrapped);
    let changes = entries.into_iter().map(Change::Set).collect();
    let version = table.version().clone();
    let draft = Draft { version, resources, removed: Vec::new(), changes, is_all: true };
    Some((count > 0).then_some(draft))
}

/// The response that is due, if any.
pub fn due(subscription: &Subscription, view: &View, table: &Arc<TypeTable>) -> Option<Draft> {
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
    let due = (entries.len(), gone.len());
    let gone = fitting_names(gone);
    if entries.is_empty() && gone.is_empty() && !subscription.must_answer {
        return None;
    }
    let entries = fitting(entries);
    let mut resources = match subscription.implied.is_empty() {
        true => Resources::of(&entries, table, Form::Wrapped),
        false => {
            Resources::Some(entries.iter().map(|entry| as_asked(entry, subscription)).collect())
        }
    };
    let waits = !is_full || view.is_held_back || view.has_gaps;
    let is_all = !waits && due == (entries.len(), gone.len());
    let mut changes: Vec<Change> = entries.into_iter().map(Change::Set).collect();
    changes.extend(gone.iter().cloned().map(Change::Gone));
    changes.sort_by(|a, b| a.name().cmp(b.name()));
    let is_absent = |name: &Arc<str>| {
        subscription.kind == ResourceType::VirtualHost && subscription.owed.contains(name)
    };
    let (absent, removed): (Vec<_>, Vec<_>) = gone.into_iter().partition(is_absent);
    resources.extend(absent.iter().map(|name| absent_host(name, table)));
    Some(Draft { version: table.version().clone(), resources, removed, changes, is_all })
}

/// A virtual host with all names that it was asked for by: what waits for one knows it by that name.
fn as_asked(entry: &Entry, subscription: &Subscription) -> Bytes {
    match subscription.implied.get(&entry.name) {
        Some(names) => entry.wrapped_with(names),
        None => entry.wrapped(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::order::Protocol;
    use crate::serve::testing::*;
    use xds_proto::resource::Resource;

    fn talk(resources: Vec<Resource>) -> Talk {
        Talk::new(Protocol::Delta, resources)
    }

    fn resuming(add: &[&str], known: &[(&str, &str)]) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            resource_names_subscribe: add.iter().map(ToString::to_string).collect(),
            initial_resource_versions: known
                .iter()
                .map(|(name, version)| (name.to_string(), version.to_string()))
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn an_empty_start_means_everything_and_then_only_changes_are_sent() {
        let mut talk = talk(vec![cluster("a", 0), cluster("b", 0)]);
        talk.change(Cluster, &[], &[]);
        let got = talk.one();
        assert_eq!(got.names, ["a", "b"]);
        talk.ack(&got, &[]);
        talk.publish(vec![cluster("a", 1)]);
        let got = talk.one();
        assert_eq!((got.names, got.removed), (vec!["a".to_owned()], vec!["b".to_owned()]));
    }

    #[test]
    fn everything_stays_everything_until_the_star_is_dropped() {
        let mut talk = talk(vec![cluster("a", 0), cluster("b", 0)]);
        talk.settle(&[(Cluster, &[])]);
        talk.change(Cluster, &["a"], &[]);
        let got = talk.one();
        assert_eq!(got.names, ["a"]);
        talk.ack(&got, &[]);
        talk.publish(vec![cluster("a", 0), cluster("b", 1)]);
        let got = talk.one();
        assert_eq!(got.names, ["b"]);
        talk.ack(&got, &[]);
        talk.change(Cluster, &[], &["*"]);
        talk.publish(vec![cluster("a", 1), cluster("b", 2)]);
        let got = talk.one();
        assert_eq!(got.names, ["a"]);
        talk.ack(&got, &[]);
        talk.change(Cluster, &[], &["a"]);
        talk.publish(vec![cluster("a", 2), cluster("b", 3)]);
        talk.silence();
    }

    #[test]
    fn a_wildcard_with_nothing_behind_it_is_answered() {
        let mut talk = talk(vec![]);
        talk.change(Listener, &[], &[]);
        assert_eq!(talk.one().names, [""; 0]);
    }

    #[test]
    fn a_missing_resource_is_reported_at_once_and_sent_when_it_appears() {
        let mut talk = talk(vec![]);
        talk.change(Route, &["r"], &[]);
        let got = talk.one();
        assert_eq!((got.names.len(), &*got.removed), (0, &["r".to_owned()][..]));
        talk.ack(&got, &[]);
        talk.publish(vec![routes("r", "c")]);
        assert_eq!(talk.drain(&[])[0].names, ["r"]);
    }

    #[test]
    fn a_name_that_is_asked_for_again_is_sent_again() {
        let mut talk = talk(vec![endpoints("a", 0)]);
        talk.settle(&[(Endpoints, &["a"])]);
        talk.change(Endpoints, &["a"], &[]);
        assert_eq!(talk.one().names, ["a"]);
    }

    #[test]
    fn a_dropped_name_that_the_star_covers_is_answered() {
        let mut talk = talk(vec![cluster("a", 0), cluster("b", 0)]);
        talk.settle(&[(Cluster, &["*", "a"])]);
        talk.change(Cluster, &[], &["a"]);
        assert_eq!(talk.one().names, ["a"]);
    }

    #[test]
    fn a_name_that_was_never_asked_for_can_be_dropped() {
        let mut talk = talk(vec![endpoints("a", 0)]);
        talk.settle(&[(Endpoints, &["a"])]);
        talk.change(Endpoints, &[], &["q"]);
        talk.silence();
    }

    #[test]
    fn a_stale_nonce_does_not_block_a_change_of_names() {
        let mut talk = talk(vec![endpoints("a", 0), endpoints("b", 0)]);
        talk.change(Endpoints, &["a"], &[]);
        let first = talk.one();
        talk.ack(&first, &[]);
        talk.publish(vec![endpoints("a", 1), endpoints("b", 0)]);
        let second = talk.one();
        let request =
            DeltaDiscoveryRequest { response_nonce: first.nonce, ..resuming(&["b"], &[]) };
        talk.delta(Endpoints, request);
        assert_eq!(talk.one().names, ["b"], "though {second:?} is not answered");
    }

    #[test]
    fn a_client_that_resumes_gets_what_changed_and_loses_what_is_gone() {
        let (a, b) = (cluster("a", 0), cluster("b", 0));
        let mut talk = talk(vec![a.clone(), cluster("b", 1)]);
        let known = [("a", a.version.as_str()), ("b", b.version.as_str()), ("c", "1")];
        talk.delta(Cluster, resuming(&[], &known));
        talk.silence();
        talk.wait(std::time::Duration::from_secs(1));
        let got = talk.one();
        assert_eq!((got.names, got.removed), (vec!["b".to_owned()], vec!["c".to_owned()]));
    }

    #[test]
    fn a_client_that_resumes_with_all_it_needs_is_sent_nothing() {
        let a = endpoints("a", 0);
        let mut talk = talk(vec![a.clone()]);
        talk.delta(Endpoints, resuming(&["a"], &[("a", a.version.as_str())]));
        talk.wait(std::time::Duration::from_secs(1));
        talk.silence();
        assert!(talk.session.report().synced.is_some());
    }

    #[test]
    fn a_refused_version_is_not_sent_again_and_the_next_one_is() {
        let mut talk = talk(vec![routes("r", "a")]);
        talk.settle(&[(Route, &["r"])]);
        talk.publish(vec![routes("r", "b")]);
        let got = talk.one();
        talk.nack(&got, &[], "no");
        talk.silence();
        let nack = talk.session.report().types[&Route].nack.clone().unwrap();
        assert_eq!((nack.text.as_str(), nack.tries, &*nack.resources[0]), ("no", 1, "r"));
        talk.publish(vec![routes("r", "c")]);
        let got = talk.one();
        talk.ack(&got, &[]);
        assert_eq!(talk.session.report().types[&Route].nack, None);
    }

    #[test]
    fn a_rollback_ends_a_refusal_without_a_push() {
        let mut talk = talk(vec![routes("r", "a")]);
        talk.settle(&[(Route, &["r"])]);
        talk.publish(vec![routes("r", "b")]);
        let got = talk.one();
        talk.nack(&got, &[], "no");
        talk.publish(vec![routes("r", "a")]);
        talk.silence();
        assert_eq!(talk.session.report().types[&Route].nack, None);
        assert_eq!(talk.session.report().synced.map(|stamp| stamp.revision), Some(3));
    }

    #[test]
    fn virtual_hosts_are_sent_on_demand_and_a_missing_one_is_a_name_without_a_body() {
        let mut talk = talk(vec![host("r/a", "a.test"), host("r/b", "b.test")]);
        talk.change(VirtualHost, &[], &[]);
        let got = talk.one();
        assert!(got.names.is_empty());
        talk.ack(&got, &[]);
        talk.change(VirtualHost, &["*", "r/a", "r/z"], &[]);
        let got = talk.one();
        assert_eq!(got.names, ["r/a", "r/z"]);
        assert_eq!(got.resources["r/z"], None);
        assert!(got.removed.is_empty());
    }

    #[test]
    fn a_virtual_host_can_be_asked_for_by_any_host_that_it_serves() {
        let mut talk = talk(vec![host("r/a", "*.a.test")]);
        talk.change(VirtualHost, &[], &[]);
        let got = talk.one();
        talk.ack(&got, &[]);
        talk.change(VirtualHost, &["r/x.a.test", "r/x.b.test"], &[]);
        let got = talk.one();
        assert_eq!(got.names, ["r/a", "r/x.b.test"]);
        assert_eq!(got.resources["r/x.b.test"], None);
        talk.ack(&got, &[]);
        // What was asked for in vain comes when it is there, what changes is sent again.
        let hosts = vec![host("r/a", "*.test"), host("r/b", "x.b.test")];
        talk.publish(hosts);
        let got = talk.one();
        assert_eq!(got.names, ["r/a", "r/b"]);
        talk.ack(&got, &[]);
        talk.silence();
        talk.change(VirtualHost, &[], &["r/x.b.test"]);
        talk.publish(vec![host("r/a", "x.a.test"), host("r/b", "*.b.test")]);
        assert_eq!(talk.one().names, ["r/a"]);
    }

    #[test]
    fn a_large_table_comes_in_parts_below_4_mib() {
        let big = |n: usize| {
            let mut resource = endpoints(&format!("{n:04}-{}", "x".repeat(1000)), 0);
            resource.body = vec![0; 40_000].into();
            resource
        };
        let mut talk = talk((0..300).map(big).collect());
        talk.change(Endpoints, &["*"], &[]);
        let mut names = 0;
        let mut parts = 0;
        while let Some(sent) = talk.session.next(talk.now()) {
            assert!(sent.bytes() < 4 * 1024 * 1024);
            names += sent.resources.len();
            parts += 1;
            let request =
                DeltaDiscoveryRequest { response_nonce: sent.nonce, ..Default::default() };
            talk.delta(Endpoints, request);
        }
        assert_eq!((names, parts), (300, 4));
    }
}
