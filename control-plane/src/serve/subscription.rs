//! One type on one stream: what the client asked for, what it holds, and what is on its way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use xds_proto::resource::ResourceType;
use xds_proto::version::Version;

use crate::fleet::Moment;
use crate::fleet::report::Nack;
use crate::serve::blame;
use crate::serve::held::Held;
use crate::serve::names::Names;
use crate::snapshot::table::{Entry, TypeTable};

/// How long order waits for an answer. A client that does not answer must not hold up the rest.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of one type on one stream.
#[derive(Debug)]
pub struct Subscription {
    /// The type.
    pub kind: ResourceType,
    /// It wants everything.
    pub is_wildcard: bool,
    /// A name was sent on this stream, so that an empty list no longer means everything.
    pub was_named: bool,
    /// What it asked for by name.
    pub names: Names,
    /// Virtual hosts that it asked for by names that are not theirs, with these names.
    pub implied: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    /// What it holds: all that it ACKed.
    pub held: Held,
    /// The responses that it has not answered, oldest first.
    pub flights: VecDeque<Flight>,
    /// What must be sent though it did not change.
    pub owed: BTreeSet<Arc<str>>,
    /// A request waits for an answer: it goes out even if an earlier response is unanswered.
    pub is_asked: bool,
    /// The answer goes out even if there is nothing in it.
    pub must_answer: bool,
    /// The client says that it holds an earlier state. It can wait for order, unlike one that
    /// starts with nothing.
    pub is_resumed: bool,
    /// The version of the whole type that it says it accepted on an earlier stream.
    pub claims: Option<Version>,
    /// What it refused: the version that is not sent to it again.
    pub refused: BTreeMap<Arc<str>, Refusal>,
    /// Its last refusal, until it takes something better.
    pub nack: Option<Nack>,
    /// The nonce of the last response.
    pub last_nonce: String,
    /// The version that was sent last.
    pub sent: Option<Version>,
    /// The version that was ACKed last.
    pub acked: Option<Version>,
    /// When it ACKed last.
    pub acked_at: Option<Instant>,
    /// The table of which there is nothing left to send.
    pub settled: Option<Arc<TypeTable>>,
}

/// A response that was not answered yet.
#[derive(Debug)]
pub struct Flight {
    /// Its nonce.
    pub nonce: String,
    /// Its version.
    pub version: Version,
    /// When it was sent.
    pub sent_at: Instant,
    /// What it changes, sorted by name.
    pub changes: Vec<Change>,
    /// The table of which nothing is left to send after it.
    pub completes: Option<Arc<TypeTable>>,
}

/// One change that a response brings.
#[derive(Debug, Clone)]
pub enum Change {
    /// The client gets this.
    Set(Arc<Entry>),
    /// The client loses this.
    Gone(Arc<str>),
}

impl Change {
    /// The resource that it is about.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Set(entry) => &entry.name,
            Self::Gone(name) => name,
        }
    }
}

/// A version that a client refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The version.
    pub version: Version,
    /// The client named the resource. Otherwise it is one of several that may be meant.
    pub is_named: bool,
    /// We do not know what the client has instead: whether it took it after all, or what it
    /// brought along.
    pub is_unsure: bool,
}

impl Subscription {
    /// A type that nothing was said about yet.
    pub fn new(kind: ResourceType) -> Self {
        Self {
            kind,
            is_wildcard: false,
            was_named: false,
            names: Names::default(),
            implied: BTreeMap::new(),
            held: Held::default(),
            flights: VecDeque::new(),
            owed: BTreeSet::new(),
            is_asked: false,
            must_answer: false,
            is_resumed: false,
            claims: None,
            refused: BTreeMap::new(),
            nack: None,
            last_nonce: String::new(),
            sent: None,
            acked: None,
            acked_at: None,
            settled: None,
        }
    }

    /// Whether the client wants the resource of this name.
    pub fn covers(&self, name: &str) -> bool {
        self.is_wildcard || self.names.contains(name) || self.implied.contains_key(name)
    }

    /// Looks which virtual hosts the names lead to that are not the name of one.
    pub fn imply(&mut self, table: &TypeTable) {
        if self.kind != ResourceType::VirtualHost {
            return;
        }
        self.implied.clear();
        for name in self.names.iter().filter(|name| table.get(name).is_none()) {
            if let Some(entry) = table.host(name) {
                self.implied.entry(entry.name.clone()).or_default().push(name.clone());
            }
        }
    }

    /// What the client will hold once it has answered everything that is on its way.
    pub fn expected(&self, name: &str) -> Option<&Arc<Entry>> {
        match self.in_flight(name) {
            Some((Change::Set(entry), _)) => Some(entry),
            Some((Change::Gone(_), _)) => None,
            None => self.held.get(name),
        }
    }

    /// The last change of this resource that is on its way, and until when an answer is awaited.
    pub fn in_flight(&self, name: &str) -> Option<(&Change, Instant)> {
        self.flights.iter().rev().find_map(|flight| {
            let place = flight.changes.binary_search_by(|change| (**change.name()).cmp(name));
            Some((flight.changes.get(place.ok()?)?, flight.deadline()))
        })
    }

    /// Until when the oldest unanswered response is waited for.
    pub fn deadline(&self) -> Option<Instant> {
        self.flights.front().map(Flight::deadline)
    }

    /// Whether the client refused this version of this resource.
    pub fn has_refused(&self, entry: &Entry) -> bool {
        self.refused.get(&entry.name).is_some_and(|refusal| refusal.version == entry.version)
    }

    /// Forgets everything about resources that the client no longer wants.
    pub fn forget_uncovered(&mut self) {
        let Self { is_wildcard, names, implied, held, owed, refused, .. } = self;
        if *is_wildcard {
            return;
        }
        let covers = |name: &Arc<str>| names.contains(name) || implied.contains_key(name);
        held.retain(|entry| covers(&entry.name));
        owed.retain(covers);
        refused.retain(|name, _| covers(name));
        self.clear_nack();
    }

    /// The names of what the client will hold once it has answered everything, sorted.
    pub fn expected_names(&self) -> Vec<Arc<str>> {
        let mut names: BTreeSet<Arc<str>> =
            self.held.entries().iter().map(|entry| entry.name.clone()).collect();
        for change in self.flights.iter().flat_map(|flight| &flight.changes) {
            match change {
                Change::Set(entry) => names.insert(entry.name.clone()),
                Change::Gone(name) => names.remove(name),
            };
        }
        names.into_iter().collect()
    }

    /// Notes that a response is on its way.
    pub fn depart(&mut self, flight: Flight) {
        for change in &flight.changes {
            self.owed.remove(change.name());
        }
        self.last_nonce.clone_from(&flight.nonce);
        self.sent = Some(flight.version.clone());
        self.flights.push_back(flight);
    }

    /// The client took a response.
    pub fn ack(&mut self, flight: Flight, now: Moment) {
        for change in flight.changes {
            self.refused.remove(change.name());
            self.take(change);
        }
        self.acked = Some(flight.version);
        self.acked_at = Some(now.instant);
        self.settled = None;
        self.clear_nack();
        let is_done = self.flights.is_empty() && self.owed.is_empty() && self.refused.is_empty();
        if let Some(table) = flight.completes.filter(|_| is_done) {
            self.settle(&table);
        }
    }

    /// Notes that nothing of this table is left to send.
    pub fn settle(&mut self, table: &Arc<TypeTable>) {
        self.held.share(table);
        self.names.share(table.names());
        self.settled = Some(table.clone());
    }

    /// The client refused a response. What its text does not blame, it took: clients apply the
    /// good resources of a response and report the bad ones.
    pub fn nack(&mut self, flight: Flight, text: &str, now: Moment) {
        self.settled = None;
        let is_moot = |change: &Change| !self.covers(change.name());
        if !flight.changes.is_empty() && flight.changes.iter().all(is_moot) {
            return;
        }
        // What it has taken before, in this very version, is not to blame.
        let news = flight.changes.iter().filter_map(|change| self.news(change)).collect::<Vec<_>>();
        let (blamed, is_named) = blame::blamed(&news, text);
        for change in flight.changes {
            match &change {
                Change::Set(entry) if !self.covers(&entry.name) => {}
                Change::Set(entry) if blamed.contains(&entry.name) => {
                    let is_unsure = !is_named || self.held.get(&entry.name).is_none();
                    let version = entry.version.clone();
                    let refusal = Refusal { version, is_named, is_unsure };
                    self.refused.insert(entry.name.clone(), refusal);
                }
                Change::Set(_) | Change::Gone(_) => self.take(change),
            }
        }
        let earlier = self.nack.take();
        self.nack = Some(Nack {
            resources: if is_named { blamed } else { Vec::new() },
            version: flight.version,
            text: text.to_owned(),
            since: earlier.as_ref().map_or(now.time, |nack| nack.since),
            tries: earlier.map_or(1, |nack| nack.tries + 1),
        });
    }

    /// Looks at a new table: what the client brought along may be known now, and refusals void.
    pub fn review(&mut self, table: &TypeTable) {
        self.held.recognize(table);
        self.imply(table);
        let Self { held, refused, owed, .. } = self;
        refused.retain(|name, refusal| {
            let due = table.get(name).map(|entry| &entry.version);
            let is_open = due.is_some() && due != held.get(name).map(|entry| &entry.version);
            if !is_open && refusal.is_unsure {
                owed.insert(name.clone());
            }
            is_open
        });
        self.clear_nack();
    }

    fn news(&self, change: &Change) -> Option<Arc<str>> {
        let Change::Set(entry) = change else { return None };
        let held = self.held.get(&entry.name);
        held.is_none_or(|held| held.version != entry.version).then(|| entry.name.clone())
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Set(entry) if !self.covers(&entry.name) => {}
            Change::Set(entry) => self.held.insert(entry),
            Change::Gone(name) => self.held.remove(&name),
        }
    }

    fn clear_nack(&mut self) {
        if self.refused.is_empty() {
            self.nack = None;
        }
    }
}

impl Flight {
    /// Until when an answer is waited for.
    pub fn deadline(&self) -> Instant {
        self.sent_at + ACK_TIMEOUT
    }
}
