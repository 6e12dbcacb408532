//! Everything that is stored, as one immutable value.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;
use xds_proto::resource::{Resource, ResourceType};

use crate::model::kind::Kind;

/// What an object is called, everywhere.
#[derive(Clone)]
pub struct ObjectKey {
    /// What it is.
    pub kind: &'static Kind,
    /// Its namespace; empty for a kind of the whole cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    fn parts(&self) -> (&str, &str, &str, &str) {
        (self.kind.group, self.kind.plural, &self.namespace, &self.name)
    }
}

impl PartialEq for ObjectKey {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}
impl Eq for ObjectKey {}
impl PartialOrd for ObjectKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ObjectKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl fmt::Display for ObjectKey {
    /// `HTTPRoute payments/checkout`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.kind)?;
        f.write_str(" ")?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A stored document.
#[derive(Clone, PartialEq)]
pub struct Object {
    /// What it is called.
    pub key: ObjectKey,
    /// The whole document: metadata, content and status, secrets in clear.
    pub value: Value,
    /// The counter's value when it last changed, status included.
    pub resource_version: u64,
    /// The revision that last changed its content.
    pub revision: u64,
    /// Who made that revision.
    pub who: Arc<str>,
}

impl Object {
    /// Its `uid`.
    pub fn uid(&self) -> &str {
        self.metadata("uid")
    }

    /// How often its content has changed.
    pub fn generation(&self) -> u64 {
        self.value.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or_default()
    }

    /// Whether both are one object that says the same to whoever reads its content: the status,
    /// the version and the uid aside.
    fn says_the_same(&self, other: &Self) -> bool {
        fn read<'a>(
            part: &'a Value,
            unread: &[&str],
        ) -> impl Iterator<Item = (&'a String, &'a Value)> {
            let fields = part.as_object().into_iter().flatten();
            fields.filter(|(name, _)| !unread.contains(&name.as_str()))
        }
        let (own, others) = (&self.value, &other.value);
        let (content, metadata) = (["status", "metadata"], ["resourceVersion", "uid"]);
        self.key == other.key
            && read(own, &content).eq(read(others, &content))
            && read(&own["metadata"], &metadata).eq(read(&others["metadata"], &metadata))
    }

    fn metadata(&self, field: &str) -> &str {
        self.value
            .get("metadata")
            .and_then(|metadata| metadata.get(field))
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value may hold a private key.
        write!(f, "{} @{}", self.key, self.resource_version)
    }
}

type OfKind = BTreeMap<ByName, Arc<Object>>;

/// An object, ordered by its key. Lets the map share keys with the objects that it holds.
#[derive(Debug, Clone, PartialEq)]
struct ByName(Arc<Object>);

impl Borrow<ObjectKey> for ByName {
    fn borrow(&self) -> &ObjectKey {
        &self.0.key
    }
}
impl Eq for ByName {}
impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

/// Objects by key. A clone shares each kind's map until one of them changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    kinds: BTreeMap<(&'static str, &'static str), Arc<OfKind>>,
}

impl Objects {
    /// The object of this key.
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.kinds.get(&(key.kind.group, key.kind.plural))?.get(key)
    }

    /// All objects, by kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.kinds.values().flat_map(|of_kind| of_kind.values())
    }

    /// All objects of a kind, by namespace and name.
    pub fn of_kind(&self, kind: &Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.kinds.get(&(kind.group, kind.plural)).into_iter().flat_map(|of_kind| of_kind.values())
    }

    /// Objects of a kind from this key on.
    pub fn from(&self, key: &ObjectKey) -> impl Iterator<Item = &Arc<Object>> {
        self.kinds
            .get(&(key.kind.group, key.kind.plural))
            .into_iter()
            .flat_map(move |of_kind| of_kind.range::<ObjectKey, _>(key..))
            .map(|(_, object)| object)
    }

    /// Whether both say the same to whoever reads their content: statuses, versions and uids aside.
    pub fn say_the_same(&self, other: &Self) -> bool {
        let filled = |objects: &'_ Self| {
            let kinds = objects.kinds.values().filter(|of_kind| !of_kind.is_empty());
            kinds.cloned().collect::<Vec<_>>()
        };
        let (own, others) = (filled(self), filled(other));
        own.len() == others.len()
            && own.iter().zip(&others).all(|(own, others)| {
                let mut pairs = own.values().zip(others.values());
                Arc::ptr_eq(own, others)
                    || own.len() == others.len()
                        && pairs.all(|(a, b)| Arc::ptr_eq(a, b) || a.says_the_same(b))
            })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kinds.values().map(|of_kind| of_kind.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts an object in the place of the one with its key.
    pub(super) fn insert(&mut self, object: Arc<Object>) {
        let kind = object.key.kind;
        let of_kind = Arc::make_mut(self.kinds.entry((kind.group, kind.plural)).or_default());
        // The map's key holds an object too, so an old one has to go with it.
        of_kind.remove(&object.key);
        of_kind.insert(ByName(object.clone()), object);
    }

    /// Takes the object of this key away.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> Option<Arc<Object>> {
        let of_kind = self.kinds.get_mut(&(key.kind.group, key.kind.plural))?;
        of_kind.contains_key(key).then(|| Arc::make_mut(of_kind).remove(key)).flatten()
    }
}

/// Envoy resources that are served as they are, in place of what documents give.
#[derive(Debug, Clone, PartialEq)]
pub struct RawGroup {
    /// What the group is called: the name of a node or of a cluster of nodes, or `*`.
    pub name: String,
    /// What its writer calls this version.
    pub label: String,
    /// The resources, by type and name.
    pub resources: BTreeMap<(ResourceType, Arc<str>), Resource>,
    /// The revision that made it so.
    pub revision: u64,
    /// When that was.
    pub accepted_at: SystemTime,
}

/// Everything that is stored, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The documents.
    pub objects: Objects,
    /// The raw groups by name.
    pub raw_groups: BTreeMap<String, Arc<RawGroup>>,
    /// The newest revision; 0 when nothing was ever written.
    pub revision: u64,
    /// When that revision was accepted.
    pub accepted_at: SystemTime,
    /// One step per stored change of any object.
    pub resource_version: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            objects: Objects::default(),
            raw_groups: BTreeMap::new(),
            revision: 0,
            accepted_at: SystemTime::UNIX_EPOCH,
            resource_version: 0,
        }
    }
}
