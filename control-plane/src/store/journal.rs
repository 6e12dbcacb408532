//! The state as bytes in tables, and back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xds_proto::resource::{Resource, ResourceType};
use xds_proto::version::Version;

use crate::model::kind::kind_by;
use crate::store::backend::{Backend, BackendError, Put, Table};
use crate::store::change::StoreError;
use crate::store::history::{Content, ContentHash, Record};
use crate::store::plan::Planned;
use crate::store::state::{Object, ObjectKey, RawGroup, State};

/// Raised when what is written can no longer be read by the version before.
const FORMAT: u32 = 1;
const COUNTERS: &[u8] = b"counters";
const KEY: &[u8] = b"redaction-key";
/// Revisions are kept for this long, and at least this many of them.
const KEEP: Duration = Duration::from_secs(90 * 24 * 3600);
const KEEP_AT_LEAST: u64 = 1000;
/// At most so many old revisions go with one that comes.
const PRUNE_MAX: usize = 2;

/// Reads and writes the state.
#[derive(Debug)]
pub(crate) struct Journal(Box<dyn Backend>);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counters {
    format: u32,
    revision: u64,
    accepted_at: u64,
    resource_version: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredObject {
    revision: u64,
    who: String,
    value: Value,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredGroup {
    label: String,
    revision: u64,
    accepted_at: u64,
}

impl Journal {
    /// Over these tables.
    pub(crate) fn new(backend: Box<dyn Backend>) -> Self {
        Self(backend)
    }

    /// The key of this store's marks; `fresh` becomes it in a new store.
    pub(crate) fn redaction_key(&self, fresh: [u8; 32]) -> Result<Vec<u8>, StoreError> {
        if let Some(key) = self.0.get(Table::Meta, KEY)? {
            return Ok(key);
        }
        self.0.write(vec![put(Table::Meta, KEY, fresh.to_vec())])?;
        Ok(fresh.to_vec())
    }

    /// Everything as it was last written.
    pub(crate) fn load(&self) -> Result<State, StoreError> {
        let Some(counters) = self.0.get(Table::Meta, COUNTERS)? else {
            return Ok(State::default());
        };
        let counters: Counters = from_json(&counters)?;
        if counters.format > FORMAT {
            let format = counters.format;
            return Err(broken(format!("format {format} is of a newer version than this one")));
        }
        let mut state = State {
            revision: counters.revision,
            accepted_at: from_nanos(counters.accepted_at),
            resource_version: counters.resource_version,
            raw_groups: self.groups()?,
            ..State::default()
        };
        for (key, bytes) in self.0.oldest(Table::Objects, usize::MAX)? {
            state.objects.insert(Arc::new(object(&key, &bytes)?));
        }
        Ok(state)
    }

    fn groups(&self) -> Result<BTreeMap<String, Arc<RawGroup>>, StoreError> {
        let mut groups = BTreeMap::new();
        for (key, bytes) in self.0.oldest(Table::Groups, usize::MAX)? {
            let StoredGroup { label, revision, accepted_at } = from_json(&bytes)?;
            let name = String::from_utf8(key).map_err(broken)?;
            let (resources, accepted_at) = (BTreeMap::new(), from_nanos(accepted_at));
            groups.insert(name.clone(), RawGroup { name, label, resources, revision, accepted_at });
        }
        for (key, bytes) in self.0.oldest(Table::Resources, usize::MAX)? {
            let [group, type_url, name] = split_key(&key)?;
            let kind = ResourceType::from_type_url(&type_url)
                .ok_or_else(|| broken(format!("a resource of the unknown type {type_url}")))?;
            let group = groups
                .get_mut(&group)
                .ok_or_else(|| broken(format!("a resource of the unknown group {group:?}")))?;
            let (name, version) = (Arc::<str>::from(name), Version::of_bytes(&bytes));
            let resource = Resource { kind, name: name.clone(), version, body: bytes.into() };
            group.resources.insert((kind, name), resource);
        }
        Ok(groups.into_iter().map(|(name, group)| (name, Arc::new(group))).collect())
    }

    /// Stores what a change makes of the state, and its revision.
    pub(crate) fn write(
        &self,
        planned: &Planned,
        record: Option<&Record>,
    ) -> Result<(), StoreError> {
        let mut batch = Vec::new();
        for event in &planned.events {
            let key = &event.object.key;
            batch.push(Put {
                table: Table::Objects,
                key: object_key(key),
                value: planned.state.objects.get(key).map(|object| stored_object(object)),
            });
        }
        let mut counts = Counts { journal: self, changed: BTreeMap::new() };
        if let Some(record) = record {
            touched_groups(planned, &mut batch);
            for content in planned.touched.iter().flat_map(|t| [&t.before, &t.after]).flatten() {
                counts.add(content)?;
            }
            batch.push(put(Table::Revisions, &record.number.to_be_bytes(), to_json(record)));
            self.prune(record.number, planned.state.accepted_at, &mut batch, &mut counts)?;
        }
        batch.extend(counts.into_puts());
        batch.push(put(Table::Meta, COUNTERS, counters(&planned.state)));
        // One open table per run of entries.
        batch.sort_by_key(|put| put.table);
        Ok(self.0.write(batch)?)
    }

    /// Lets go of revisions that are both too old and too many.
    fn prune(
        &self,
        newest: u64,
        now: SystemTime,
        batch: &mut Vec<Put>,
        counts: &mut Counts<'_>,
    ) -> Result<(), StoreError> {
        for (key, bytes) in self.0.oldest(Table::Revisions, PRUNE_MAX)? {
            let record: Record = from_json(&bytes)?;
            let when = &time::format_description::well_known::Rfc3339;
            let when = time::OffsetDateTime::parse(&record.when, when).map_err(broken)?;
            if record.number + KEEP_AT_LEAST > newest || SystemTime::from(when) + KEEP > now {
                break;
            }
            for hash in record.touched.iter().flat_map(|t| [t.before, t.after]).flatten() {
                counts.drop(hash)?;
            }
            batch.push(Put { table: Table::Revisions, key, value: None });
        }
        Ok(())
    }

    /// Revisions below `before` (all, without one), the newest first.
    pub(crate) fn revisions(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let before = before.map(u64::to_be_bytes);
        let before = before.as_ref().map(|before| &before[..]);
        let entries = self.0.newest(Table::Revisions, before, limit)?;
        entries.iter().map(|(_, bytes)| from_json(bytes)).collect()
    }

    /// One revision.
    pub(crate) fn revision(&self, number: u64) -> Result<Record, StoreError> {
        let bytes = self.0.get(Table::Revisions, &number.to_be_bytes())?;
        from_json(&bytes.ok_or(StoreError::NoSuchRevision(number))?)
    }

    /// The content of this hash.
    pub(crate) fn content(&self, hash: ContentHash) -> Result<Bytes, StoreError> {
        let (_, bytes) = self
            .counted(hash)?
            .ok_or_else(|| broken(format!("content {hash} is named and not there")))?;
        Ok(bytes)
    }

    fn counted(&self, hash: ContentHash) -> Result<Option<(u32, Bytes)>, StoreError> {
        let Some(stored) = self.0.get(Table::Contents, &hash.0)? else { return Ok(None) };
        let (count, bytes) =
            stored.split_first_chunk::<4>().ok_or_else(|| broken("content without count"))?;
        Ok(Some((u32::from_le_bytes(*count), Bytes::copy_from_slice(bytes))))
    }
}

/// How many times each content is named, where that changes.
struct Counts<'a> {
    journal: &'a Journal,
    changed: BTreeMap<ContentHash, (u32, Bytes)>,
}

impl Counts<'_> {
    fn add(&mut self, content: &Content) -> Result<(), StoreError> {
        if !self.changed.contains_key(&content.hash) {
            let stored = self.journal.counted(content.hash)?;
            let stored = stored.unwrap_or_else(|| (0, content.bytes.clone()));
            self.changed.insert(content.hash, stored);
        }
        if let Some((count, _)) = self.changed.get_mut(&content.hash) {
            *count += 1;
        }
        Ok(())
    }

    fn drop(&mut self, hash: ContentHash) -> Result<(), StoreError> {
        if !self.changed.contains_key(&hash)
            && let Some(stored) = self.journal.counted(hash)?
        {
            self.changed.insert(hash, stored);
        }
        if let Some((count, _)) = self.changed.get_mut(&hash) {
            *count = count.saturating_sub(1);
        }
        Ok(())
    }

    fn into_puts(self) -> impl Iterator<Item = Put> {
        self.changed.into_iter().map(|(hash, (count, bytes))| Put {
            table: Table::Contents,
            key: hash.0.to_vec(),
            value: (count > 0).then(|| [&count.to_le_bytes(), &bytes[..]].concat()),
        })
    }
}

fn touched_groups(planned: &Planned, batch: &mut Vec<Put>) {
    use crate::store::history::Target;
    for piece in &planned.touched {
        match &piece.target {
            Target::Object { .. } => {}
            Target::Group { name } => batch.push(Put {
                table: Table::Groups,
                key: name.as_bytes().to_vec(),
                value: planned.state.raw_groups.get(name).map(|group| stored_group(group)),
            }),
            Target::Resource { group, r#type, name } => batch.push(Put {
                table: Table::Resources,
                key: join_key([group, r#type, name]),
                value: piece.after.as_ref().map(|content| content.bytes.to_vec()),
            }),
        }
    }
}

fn counters(state: &State) -> Vec<u8> {
    to_json(&Counters {
        format: FORMAT,
        revision: state.revision,
        accepted_at: to_nanos(state.accepted_at),
        resource_version: state.resource_version,
    })
}

fn stored_group(group: &RawGroup) -> Vec<u8> {
    to_json(&StoredGroup {
        label: group.label.clone(),
        revision: group.revision,
        accepted_at: to_nanos(group.accepted_at),
    })
}

fn stored_object(object: &Object) -> Vec<u8> {
    to_json(&StoredObject {
        revision: object.revision,
        who: object.who.to_string(),
        value: object.value.clone(),
    })
}

fn object_key(key: &ObjectKey) -> Vec<u8> {
    join_key([key.kind.group, key.kind.kind, &key.namespace, &key.name])
}

fn object(key: &[u8], bytes: &[u8]) -> Result<Object, StoreError> {
    let [group, kind, namespace, name] = split_key(key)?;
    let kind = kind_by(&group, &kind)
        .ok_or_else(|| broken(format!("an object of the unknown kind {kind}")))?;
    let StoredObject { revision, who, value } = from_json(bytes)?;
    let version = value.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    let resource_version = version
        .and_then(|version| version.parse().ok())
        .ok_or_else(|| broken(format!("{namespace}/{name} has no resourceVersion")))?;
    let key = ObjectKey { kind, namespace, name };
    Ok(Object { key, value, resource_version, revision, who: who.into() })
}

/// Names hold no NUL: what comes in is checked for it.
fn join_key<const N: usize>(parts: [&str; N]) -> Vec<u8> {
    parts.join("\0").into_bytes()
}

fn split_key<const N: usize>(key: &[u8]) -> Result<[String; N], StoreError> {
    let text = std::str::from_utf8(key).map_err(broken)?;
    let parts: Vec<String> = text.splitn(N, '\0').map(str::to_owned).collect();
    parts.try_into().map_err(|_| broken(format!("key {text:?}")))
}

fn put(table: Table, key: &[u8], value: Vec<u8>) -> Put {
    Put { table, key: key.to_vec(), value: Some(value) }
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // None of these types can fail: no map has keys other than text.
    serde_json::to_vec(value).unwrap_or_default()
}

fn from_json<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(broken)
}

fn to_nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn from_nanos(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

fn broken<E: std::fmt::Display>(error: E) -> StoreError {
    StoreError::Backend(error.to_string())
}

impl From<BackendError> for StoreError {
    fn from(error: BackendError) -> Self {
        Self::Backend(error.0)
    }
}
