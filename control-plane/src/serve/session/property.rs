//! Whatever happens on a stream, its client ends up with what is published, and gets nothing twice.

use std::collections::BTreeMap;

use proptest::prelude::*;
use xds_proto::resource::Resource;

use std::collections::BTreeSet;
use std::time::Duration;

use xds_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use xds_proto::resource::ResourceType;

use crate::serve::order::Protocol;
use crate::serve::testing::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// What happens to a stream.
#[derive(Debug, Clone)]
enum Event {
    /// Every resource is there in the version of its digit, or not where the digit is 3.
    Publish([u8; 12]),
    /// The client wants all or not all of these names of a type.
    Want(usize, [bool; 3]),
    /// The client answers the oldest response, and refuses it or one resource of it.
    Answer(Option<Refuse>),
    Reconnect,
    Wait(u64),
}

#[derive(Debug, Clone)]
enum Refuse {
    /// Nothing is taken, and the text says nothing.
    All,
    /// One is named, the rest is taken.
    One(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let refuse = prop_oneof![Just(Refuse::All), (0..3usize).prop_map(Refuse::One)];
    let event = prop_oneof![
        3 => prop::array::uniform12(0..4u8).prop_map(Event::Publish),
        3 => (0..4usize, prop::array::uniform3(any::<bool>())).prop_map(|(k, n)| Event::Want(k, n)),
        6 => prop::option::weighted(0.2, refuse).prop_map(Event::Answer),
        1 => Just(Event::Reconnect),
        1 => (0..8u64).prop_map(Event::Wait),
    ];
    prop::collection::vec(event, 1..40)
}

fn world(versions: [u8; 12]) -> Vec<Resource> {
    let at = |place: usize| versions.get(place).copied().unwrap_or(3);
    let mut resources = Vec::new();
    for (place, name) in NAMES.iter().enumerate() {
        let target = |version: u8| NAMES[usize::from(version) % 3];
        if at(place) < 3 {
            resources.push(cluster(name, u32::from(at(place))));
        }
        if at(place + 3) < 3 {
            resources.push(endpoints(name, u32::from(at(place + 3))));
        }
        if at(place + 6) < 3 {
            resources.push(listener(name, target(at(place + 6))));
        }
        if at(place + 9) < 3 {
            resources.push(routes(name, target(at(place + 9))));
        }
    }
    resources
}

const KINDS: [ResourceType; 4] = [Cluster, Endpoints, Listener, Route];

/// A client that does what the protocol says.
struct Client {
    talk: Talk,
    protocol: Protocol,
    wants: BTreeMap<ResourceType, Vec<&'static str>>,
    has: BTreeMap<ResourceType, BTreeMap<String, String>>,
    /// Names that may be sent though they did not change.
    may_repeat: BTreeSet<(ResourceType, String)>,
    /// Names of which the server cannot know whether the client took them.
    doubted: BTreeSet<(ResourceType, String)>,
    /// Responses that were not answered yet.
    open: Vec<Got>,
    last: BTreeMap<ResourceType, Got>,
}

impl Client {
    fn new(protocol: Protocol) -> Self {
        Self {
            talk: Talk::new(protocol, vec![]),
            protocol,
            wants: BTreeMap::new(),
            has: BTreeMap::new(),
            may_repeat: BTreeSet::new(),
            doubted: BTreeSet::new(),
            open: Vec::new(),
            last: BTreeMap::new(),
        }
    }

    fn publish(&mut self, resources: Vec<Resource>) {
        self.talk.publish(resources);
        if self.protocol == Protocol::Sotw {
            // What goes without a word and comes back is news.
            for kind in [Endpoints, Route] {
                let snapshot = self.talk.snapshot();
                let gone = NAMES.into_iter().filter(|name| snapshot.get(kind, name).is_none());
                self.doubted.extend(gone.map(|name| (kind, name.to_owned())));
            }
        }
    }

    fn is_wildcard(kind: ResourceType) -> bool {
        matches!(kind, Cluster | Listener)
    }

    fn want(&mut self, kind: ResourceType, chosen: [bool; 3]) {
        let is_first = !self.wants.contains_key(&kind);
        if Self::is_wildcard(kind) {
            if is_first {
                self.wants.insert(kind, vec![]);
                self.start(kind, BTreeMap::new());
            }
            return;
        }
        let next: Vec<_> =
            NAMES.into_iter().zip(chosen).filter(|(_, on)| *on).map(|(name, _)| name).collect();
        let before = self.wants.insert(kind, next.clone()).unwrap_or_default();
        let added: Vec<_> = next.iter().copied().filter(|n| !before.contains(n)).collect();
        let dropped: Vec<_> = before.iter().copied().filter(|n| !next.contains(n)).collect();
        for name in &added {
            self.may_repeat.insert((kind, (*name).to_owned()));
        }
        for name in &dropped {
            self.has.entry(kind).or_default().remove(*name);
        }
        match self.protocol {
            Protocol::Delta => self.talk.change(kind, &added, &dropped),
            Protocol::Sotw => {
                let answers = self.answered(kind);
                self.talk.name(kind, &next, answers.as_ref());
            }
        }
    }

    /// What a request that is no ACK carries: the nonce of the last response it has seen.
    fn answered(&self, kind: ResourceType) -> Option<Got> {
        self.last.get(&kind).cloned()
    }

    fn start(&mut self, kind: ResourceType, known: BTreeMap<String, String>) {
        let names = self.wants.get(&kind).cloned().unwrap_or_default();
        match self.protocol {
            Protocol::Sotw => self.talk.name(kind, &names, None),
            Protocol::Delta => {
                let request = DeltaDiscoveryRequest {
                    resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
                    initial_resource_versions: known.into_iter().collect(),
                    ..Default::default()
                };
                self.talk.delta(kind, request);
            }
        }
    }

    fn reconnect(&mut self) {
        self.talk.reconnect();
        self.open.clear();
        self.last.clear();
        for kind in self.wants.keys().copied().collect::<Vec<_>>() {
            if self.protocol == Protocol::Sotw {
                self.doubted.extend(NAMES.map(|name| (kind, name.to_owned())));
            }
            let known = self.has.get(&kind).cloned().unwrap_or_default();
            self.start(kind, known);
        }
    }

    fn receive(&mut self) {
        for got in self.talk.all() {
            self.check(&got);
            self.open.push(got);
        }
    }

    fn check(&mut self, got: &Got) {
        let kind = got.kind;
        let is_whole = self.protocol == Protocol::Sotw && kind.is_complete_in_sotw();
        for (name, version) in &got.resources {
            let version = version.clone().unwrap_or_default();
            let has = self.has.get(&kind).and_then(|has| has.get(name));
            let key = (kind, name.clone());
            let may_repeat = self.may_repeat.remove(&key) || self.doubted.contains(&key);
            assert!(
                is_whole || may_repeat || has != Some(&version),
                "{kind} {name} was sent again unchanged"
            );
            if kind == Cluster {
                self.may_repeat.insert((Endpoints, name.clone()));
            }
        }
    }

    fn answer(&mut self, refuse: Option<Refuse>) {
        if self.open.is_empty() {
            return;
        }
        let got = self.open.remove(0);
        let kind = got.kind;
        let wants = self.wants.get(&kind).cloned().unwrap_or_default();
        let names: Vec<_> = got.names.clone();
        let news = |name: &String| {
            let has = self.has.get(&kind).and_then(|has| has.get(name));
            has != got.resources.get(name).and_then(Option::as_ref)
        };
        let fresh: Vec<String> = names.iter().filter(|name| news(name)).cloned().collect();
        let bad: Vec<String> = match (&refuse, fresh.is_empty()) {
            (None, _) | (_, true) => vec![],
            (Some(Refuse::All), _) => fresh.clone(),
            (Some(Refuse::One(place)), _) => vec![fresh[place % fresh.len()].clone()],
        };
        // The server cannot always know what a client has in the place of what it refused.
        self.doubted.extend(bad.iter().map(|name| (kind, name.clone())));
        let has = self.has.entry(kind).or_default();
        let is_wanted = |name: &str| Self::is_wildcard(kind) || wants.contains(&name);
        for (name, version) in &got.resources {
            let version = version.clone().unwrap_or_default();
            if !bad.contains(name) && is_wanted(name) {
                has.insert(name.clone(), version);
            }
        }
        for name in &got.removed {
            has.remove(name);
        }
        if self.protocol == Protocol::Sotw && kind.is_complete_in_sotw() {
            has.retain(|name, _| got.resources.contains_key(name));
        }
        self.last.insert(kind, got.clone());
        match &refuse {
            Some(refuse) if !bad.is_empty() => {
                let text = match refuse {
                    Refuse::All => "no".to_owned(),
                    Refuse::One(_) => format!("{}: no", bad[0]),
                };
                self.talk.nack(&got, &wants, &text);
            }
            _ => self.talk.ack(&got, &wants),
        }
    }

    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 200, "no end of responses");
            self.talk.wait(Duration::from_secs(6));
            self.receive();
            if self.open.is_empty() {
                return;
            }
            while !self.open.is_empty() {
                self.answer(None);
            }
        }
    }

    /// The client holds what is published, except for what it refused itself.
    fn check_settled(&self) {
        let snapshot = self.talk.snapshot();
        let has_refused = self.talk.session.report().types.values().any(|t| t.nack.is_some());
        for (kind, wants) in &self.wants {
            let nothing = BTreeMap::new();
            let has = self.has.get(kind).unwrap_or(&nothing);
            for name in NAMES {
                let due = snapshot.get(*kind, name).map(|entry| entry.version.to_string());
                let is_due = Self::is_wildcard(*kind) || wants.contains(&name);
                let due = due.filter(|_| is_due);
                let held = has.get(name).cloned();
                let is_silent =
                    self.protocol == Protocol::Sotw && !kind.is_complete_in_sotw() && due.is_none();
                // A refusal also holds back what depends on it.
                let is_excused = is_silent || (has_refused && held != due);
                assert!(held == due || is_excused, "{kind} {name}: {held:?}, not {due:?}");
            }
        }
        if !has_refused && !self.wants.is_empty() {
            assert_eq!(self.talk.session.behind_since(), None);
        }
    }
}

fn run(protocol: Protocol, events: Vec<Event>) {
    let mut client = Client::new(protocol);
    for event in events {
        match event {
            Event::Publish(versions) => client.publish(world(versions)),
            Event::Want(kind, chosen) => client.want(KINDS[kind], chosen),
            Event::Answer(refuse) => client.answer(refuse),
            Event::Reconnect => client.reconnect(),
            Event::Wait(seconds) => client.talk.wait(Duration::from_secs(seconds)),
        }
        client.receive();
    }
    client.settle();
    client.check_settled();
    // Whatever was refused, the next good content arrives.
    client.talk.publish(vec![]);
    client.settle();
    client.check_settled();
    assert!(client.talk.session.report().types.values().all(|of_type| of_type.nack.is_none()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_delta_client_ends_up_with_what_is_published(events in events()) {
        run(Protocol::Delta, events);
    }

    #[test]
    fn a_sotw_client_ends_up_with_what_is_published(events in events()) {
        run(Protocol::Sotw, events);
    }
}
