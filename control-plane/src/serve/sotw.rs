//! State of the world: pure steps from a request, or from what is published, to the next response.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use xds_proto::envoy::service::discovery::v3::DiscoveryRequest;
use xds_proto::version::Version;

use crate::fleet::Moment;
use crate::serve::held::Held;
use crate::serve::names::Names;
use crate::serve::response::{Draft, Resources, fitting};
use crate::serve::subscription::{Change, Flight, Subscription};
use crate::serve::view::View;
use crate::snapshot::table::{Entry, Form, TypeTable, version_of};

/// Takes in a request. `is_first`: the first one for this type on this stream.
pub fn request(
    subscription: &mut Subscription,
    request: &DiscoveryRequest,
    is_first: bool,
    now: Moment,
) {
    let nonce = &request.response_nonce;
    if !is_first && !nonce.is_empty() {
        // Nonces of other streams mean nothing: a first request answers nothing.
        answer(subscription, request, now);
        if *nonce != subscription.last_nonce {
            // The client had not seen the last response yet. It will speak again when it has.
            doubt(subscription, &request.resource_names);
            return;
        }
    }
    let is_new = name(subscription, &request.resource_names);
    subscription.settled = None;
    if !is_first && !is_new {
        return;
    }
    subscription.is_asked = true;
    if is_first && !request.version_info.is_empty() {
        subscription.is_resumed = true;
        subscription.claims = Some(Version::foreign(&request.version_info));
        // It has something to serve with, so what it asks for comes in order.
        subscription.owed.clear();
    }
    subscription.must_answer |= subscription.kind.is_complete_in_sotw();
}

/// A name that a stale list lacks was dropped: if the next list has it again, it is sent again.
fn doubt(subscription: &mut Subscription, names: &[String]) {
    let named: HashSet<&str> = names.iter().map(String::as_str).collect();
    let dropped = subscription.names.iter().filter(|name| !named.contains(&***name));
    let dropped: Vec<_> = dropped.cloned().collect();
    subscription.owed.extend(dropped);
}

fn answer(subscription: &mut Subscription, request: &DiscoveryRequest, now: Moment) {
    let is_answered = |flight: &Flight| flight.nonce == request.response_nonce;
    let Some(place) = subscription.flights.iter().position(is_answered) else { return };
    let later = subscription.flights.split_off(place + 1);
    let answered = subscription.flights.pop_back();
    // A client that answers a later response has taken the earlier ones.
    for flight in std::mem::replace(&mut subscription.flights, later) {
        subscription.ack(flight, now);
    }
    match (answered, &request.error_detail) {
        (Some(flight), Some(error)) => subscription.nack(flight, &error.message, now),
        (Some(flight), None) => subscription.ack(flight, now),
        (None, _) => {}
    }
}

/// Takes in the whole list of names. Says whether there is something new in it.
fn name(subscription: &mut Subscription, names: &[String]) -> bool {
    let was_wildcard = subscription.is_wildcard;
    let kind = subscription.kind;
    subscription.is_wildcard = names.iter().any(|name| name == "*")
        || (names.is_empty() && kind.is_wildcard_by_default() && !subscription.was_named);
    subscription.was_named |= !names.is_empty();
    let mut next = Names::default();
    let mut is_new = subscription.is_wildcard && !was_wildcard;
    for name in names.iter().filter(|name| *name != "*") {
        match subscription.names.get(name.as_str()) {
            Some(known) => next.insert(known.clone()),
            None => {
                let name: Arc<str> = name.as_str().into();
                is_new = true;
                subscription.owed.insert(name.clone());
                next.insert(name);
            }
        }
    }
    subscription.names = next;
    subscription.forget_uncovered();
    is_new
}

/// A client that comes back and has accepted exactly what is published needs nothing. That is
/// only certain for one that wants everything, and of a type whose responses are complete.
pub fn recognize(subscription: &mut Subscription, table: &Arc<TypeTable>) {
    let Some(claimed) = subscription.claims.take() else { return };
    let is_whole = subscription.kind.is_complete_in_sotw() && is_pure_wildcard(subscription);
    if is_whole && claimed == *table.version() {
        subscription.held = Held::from(table.clone());
        subscription.acked = Some(claimed);
        subscription.must_answer = false;
        subscription.is_resumed = false;
    }
}

fn is_pure_wildcard(subscription: &Subscription) -> bool {
    subscription.is_wildcard && subscription.names.is_empty()
}

/// The response that is due, if any.
pub fn due(subscription: &mut Subscription, view: &View, table: &Arc<TypeTable>) -> Option<Draft> {
    if subscription.kind.is_complete_in_sotw() {
        due_whole(subscription, view, table)
    } else {
        due_part(subscription, view, table)
    }
}

/// Listeners and clusters: a response holds everything, and what is missing is gone.
fn due_whole(subscription: &Subscription, view: &View, table: &Arc<TypeTable>) -> Option<Draft> {
    if subscription.is_resumed && view.has_gaps {
        // The client may hold what we would leave out.
        return None;
    }
    let changed = |entry: &Entry| {
        subscription.owed.contains(&entry.name)
            || subscription.expected(&entry.name).is_none_or(|held| held.version != entry.version)
    };
    let mut gone: BTreeSet<Arc<str>> = subscription.owed.clone();
    gone.extend(subscription.expected_names());
    gone.retain(|name| view.get(name).is_none());
    let has_news = !gone.is_empty() || view.entries.iter().any(|entry| changed(entry));
    if !has_news && !subscription.must_answer {
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
    let mut changes: Vec<Change> = gone.into_iter().map(Change::Gone).collect();
    changes.extend(whole.iter().filter(|entry| changed(entry)).cloned().map(Change::Set));
    changes.sort_by(|a, b| a.name().cmp(b.name()));
    let resources = Resources::of(&whole, table, Form::Any);
    Some(Draft { version, resources, removed: Vec::new(), changes, is_all: false })
}

/// All other types: a response holds what changed, and says nothing about the rest.
fn due_part(subscription: &mut Subscription, view: &View, table: &Arc<TypeTable>) -> Option<Draft> {
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
    let resources = Resources::of(&entries, table, Form::Any);
    let changes = entries.into_iter().map(Change::Set).collect();
    let version = table.version().clone();
    Some(Draft { version, resources, removed: Vec::new(), changes, is_all: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::order::Protocol;
    use crate::serve::testing::*;

    fn talk(resources: Vec<xds_proto::resource::Resource>) -> Talk {
        Talk::new(Protocol::Sotw, resources)
    }

    #[test]
    fn an_empty_first_list_means_everything_and_an_empty_later_one_nothing() {
        let mut talk = talk(vec![cluster("a", 0), cluster("b", 0)]);
        talk.name(Cluster, &[], None);
        let got = talk.one();
        assert_eq!(got.names, ["a", "b"]);
        talk.name(Cluster, &["*", "a"], Some(&got));
        let got = talk.one();
        assert_eq!(got.names, ["a", "b"]);
        talk.name(Cluster, &["a"], Some(&got));
        talk.silence();
        talk.name(Cluster, &[], Some(&got));
        talk.publish(vec![cluster("a", 1), cluster("b", 1)]);
        talk.silence();
    }

    #[test]
    fn a_wildcard_with_nothing_behind_it_is_answered() {
        let mut talk = talk(vec![]);
        talk.name(Listener, &[], None);
        assert!(talk.one().names.is_empty());
    }

    #[test]
    fn every_list_of_clusters_is_complete_and_a_missing_one_is_gone() {
        let mut talk = talk(vec![cluster("a", 0), cluster("b", 0)]);
        talk.settle(&[(Cluster, &[])]);
        talk.publish(vec![cluster("a", 1), cluster("b", 0)]);
        let got = talk.one();
        assert_eq!(got.names, ["a", "b"]);
        talk.ack(&got, &[]);
        talk.publish(vec![]);
        assert!(talk.one().names.is_empty());
    }

    #[test]
    fn of_routes_and_endpoints_only_what_changed_is_sent() {
        let mut talk = talk(vec![endpoints("a", 0), endpoints("b", 0), endpoints("c", 0)]);
        talk.settle(&[(Endpoints, &["a", "b"])]);
        talk.publish(vec![endpoints("a", 1), endpoints("b", 0), endpoints("c", 1)]);
        let got = talk.one();
        assert_eq!(got.names, ["a"]);
        talk.ack(&got, &["a", "b"]);
        talk.publish(vec![endpoints("a", 1)]);
        talk.silence();
        talk.publish(vec![endpoints("a", 1), endpoints("b", 0)]);
        assert_eq!(talk.one().names, ["b"], "gone and back again is news");
    }

    #[test]
    fn a_new_name_is_answered_at_once_with_an_unchanged_version() {
        let mut talk = talk(vec![endpoints("a", 0), endpoints("b", 0)]);
        talk.name(Endpoints, &["a"], None);
        let got = talk.one();
        talk.name(Endpoints, &["a", "b"], Some(&got));
        assert_eq!(talk.one().names, ["b"]);
    }

    #[test]
    fn a_name_that_was_dropped_and_comes_back_is_sent_again() {
        let mut talk = talk(vec![endpoints("a", 0), endpoints("b", 0)]);
        talk.name(Endpoints, &["a", "b"], None);
        let got = talk.one();
        talk.name(Endpoints, &["a"], Some(&got));
        talk.silence();
        talk.name(Endpoints, &["a", "b"], Some(&got));
        assert_eq!(talk.one().names, ["b"]);
    }

    #[test]
    fn a_name_without_a_resource_is_remembered() {
        let mut talk = talk(vec![]);
        talk.name(Route, &["r"], None);
        talk.silence();
        talk.publish(vec![routes("r", "c")]);
        assert_eq!(talk.one().names, ["r"]);
    }

    #[test]
    fn a_stale_nonce_is_not_heard() {
        let mut talk = talk(vec![endpoints("a", 0), endpoints("b", 0)]);
        talk.name(Endpoints, &["a"], None);
        let first = talk.one();
        talk.ack(&first, &["a"]);
        talk.publish(vec![endpoints("a", 1), endpoints("b", 0)]);
        let second = talk.one();
        talk.name(Endpoints, &["a", "b"], Some(&first));
        talk.silence();
        talk.name(Endpoints, &["a", "b"], Some(&second));
        assert_eq!(talk.one().names, ["b"]);
    }

    #[test]
    fn a_refused_version_is_not_sent_again_and_the_next_one_is() {
        let mut talk = talk(vec![cluster("a", 0)]);
        talk.settle(&[(Cluster, &[])]);
        talk.publish(vec![cluster("a", 1)]);
        let got = talk.one();
        talk.nack(&got, &[], "no");
        talk.silence();
        talk.publish(vec![cluster("a", 2)]);
        assert_eq!(talk.one().names, ["a"]);
    }

    #[test]
    fn a_refused_resource_stays_at_its_last_good_version_while_others_move_on() {
        let mut talk = talk(vec![cluster("a", 0), cluster("b", 0)]);
        talk.settle(&[(Cluster, &[])]);
        talk.publish(vec![cluster("a", 1), cluster("b", 1)]);
        let got = talk.one();
        talk.nack(&got, &[], "Error adding/updating cluster(s) a: no");
        talk.silence();
        talk.publish(vec![cluster("a", 1), cluster("b", 2)]);
        let got = talk.one();
        let version = |resource: xds_proto::resource::Resource| Some(resource.version.to_string());
        assert_eq!(got.resources["a"], version(cluster("a", 0)));
        assert_eq!(got.resources["b"], version(cluster("b", 2)));
    }

    #[test]
    fn a_refusal_that_changes_the_names_is_honoured() {
        let mut talk = talk(vec![endpoints("a", 0), endpoints("b", 0)]);
        talk.name(Endpoints, &["a"], None);
        let got = talk.one();
        talk.nack(&got, &["a", "b"], "no");
        assert_eq!(talk.one().names, ["b"]);
    }

    #[test]
    fn a_client_that_comes_back_with_the_present_version_of_everything_is_sent_nothing() {
        let mut talk = talk(vec![cluster("a", 0)]);
        talk.name(Cluster, &[], None);
        let got = talk.one();
        talk.reconnect();
        let request = DiscoveryRequest { version_info: got.version, ..Default::default() };
        talk.sotw(Cluster, request);
        talk.wait(std::time::Duration::from_secs(1));
        talk.silence();
        talk.publish(vec![cluster("a", 1)]);
        assert_eq!(talk.one().names, ["a"]);
    }

    #[test]
    fn a_client_that_comes_back_before_anything_is_published_is_recognized_too() {
        let mut talk = talk(vec![cluster("a", 0)]);
        talk.name(Cluster, &[], None);
        let got = talk.one();
        talk.restart();
        talk.sotw(Cluster, DiscoveryRequest { version_info: got.version, ..Default::default() });
        talk.wait(std::time::Duration::from_secs(1));
        talk.publish(vec![cluster("a", 0)]);
        talk.silence();
        assert!(talk.session.report().synced.is_some());
    }

    #[test]
    fn changes_are_merged_while_an_answer_is_awaited() {
        let mut talk = talk(vec![cluster("a", 0)]);
        talk.name(Cluster, &[], None);
        let got = talk.one();
        for version in 1..50 {
            talk.publish(vec![cluster("a", version)]);
            talk.silence();
        }
        talk.ack(&got, &[]);
        let got = talk.one();
        assert_eq!(got.resources["a"], Some(cluster("a", 49).version.to_string()));
    }
}
