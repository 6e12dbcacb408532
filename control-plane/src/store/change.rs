//! What is asked of the store, what came of it, and why it may refuse.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xds_proto::resource::{Resource, ResourceType};

use crate::finding::Finding;
use crate::store::state::{Object, ObjectKey, State};

/// Writes that are stored together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Documents.
    pub writes: Vec<Write>,
    /// Raw groups.
    pub groups: Vec<GroupWrite>,
    /// Who asks.
    pub who: String,
    /// Why, in the writer's words.
    pub why: Option<String>,
    /// By which way it came.
    pub origin: Origin,
    /// The revision that must still be the newest.
    pub if_revision: Option<u64>,
    /// Everything but the storing.
    pub dry_run: bool,
}

/// By which way a change came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// One write under `/apis`.
    #[default]
    Api,
    /// A bundle through `/v1/apply`.
    Apply,
    /// Raw Envoy resources.
    Xds,
    /// A rollback.
    Rollback,
    /// Files that are watched.
    Files,
}

/// One document's write.
#[derive(Debug, Clone)]
pub struct Write {
    /// Which document.
    pub key: ObjectKey,
    /// What to do with it.
    pub action: Action,
    /// What must be true of what is stored.
    pub expected: Expected,
    /// Where the writer has it from.
    pub source: Option<Source>,
}

impl Write {
    /// Whatever is stored there, and from no file.
    pub fn to(key: ObjectKey, action: Action) -> Self {
        Self { key, action, expected: Expected::Any, source: None }
    }
}

/// What to do with a document.
#[derive(Debug, Clone)]
pub enum Action {
    /// Store this content; status and what the server owns of the metadata stay.
    Put(Value),
    /// Store this status; the rest stays.
    Status(Value),
    /// Take it away, or mark it while it has finalizers.
    Delete,
}

/// What must be true of the stored document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    #[default]
    Any,
    /// There is none.
    Absent,
    /// There is one.
    Present,
    /// There is one, with this `resourceVersion` and this `uid`, where given.
    Exactly {
        /// Its `resourceVersion`.
        resource_version: Option<u64>,
        /// Its `uid`.
        uid: Option<String>,
    },
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The file, as its writer calls it.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
}

/// A write of a raw group.
#[derive(Debug, Clone)]
pub struct GroupWrite {
    /// Which group.
    pub name: String,
    /// What to do with it.
    pub action: GroupAction,
}

/// What to do with a raw group.
#[derive(Debug, Clone)]
pub enum GroupAction {
    /// These resources and no others.
    Replace {
        /// What the writer calls this version.
        label: String,
        /// The resources; no two of one type and name.
        resources: Vec<Resource>,
    },
    /// Some more, some less; a group that is not there begins empty.
    Patch {
        /// What the writer calls this version.
        label: String,
        /// These come in, in place of those of the same type and name.
        set: Vec<Resource>,
        /// These go.
        delete: Vec<(ResourceType, Arc<str>)>,
    },
    /// The group goes; its nodes get what documents give them.
    Delete,
}

/// What came of a change.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The newest revision: this change's, if its content changed anything.
    pub revision: u64,
    /// Whether the change made that revision.
    pub is_new_revision: bool,
    /// When that revision was accepted.
    pub accepted_at: SystemTime,
    /// What became of each document, in the order of the writes.
    pub outcomes: Vec<Outcome>,
    /// Everything that is stored then.
    pub state: Arc<State>,
}

/// What became of one document.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What happened.
    pub effect: Effect,
    /// How it stands, or stood last.
    pub object: Arc<Object>,
}

/// What happened to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It was not there.
    Created,
    /// It changed.
    Updated,
    /// It is gone.
    Deleted,
    /// It is as it was.
    Unchanged,
}

impl Effect {
    /// The mark that people see: `+`, `~`, `-` or `·`.
    pub fn mark(self) -> char {
        match self {
            Self::Created => '+',
            Self::Updated => '~',
            Self::Deleted => '-',
            Self::Unchanged => '·',
        }
    }
}

/// The store does not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A precondition on one document failed.
    #[error("{key}: yours is based on {yours}, {changed_by} changed it in r{revision}")]
    Conflict {
        /// Which document.
        key: ObjectKey,
        /// What the writer started from.
        yours: String,
        /// The stored `resourceVersion`.
        current: u64,
        /// Who changed its content last.
        changed_by: Arc<str>,
        /// In which revision.
        revision: u64,
    },
    /// The newest revision is another.
    #[error("yours is based on r{yours}, {changed_by} made r{current}")]
    RevisionConflict {
        /// What the writer started from.
        yours: u64,
        /// The newest.
        current: u64,
        /// Who made it.
        changed_by: String,
    },
    /// A document of this name is there.
    #[error("{0} already exists")]
    AlreadyExists(ObjectKey),
    /// There is no such document.
    #[error("{0} does not exist")]
    NotFound(ObjectKey),
    /// There is no such raw group.
    #[error("raw group {0:?} does not exist")]
    NoSuchGroup(String),
    /// There is no such revision, or it is too old to be kept.
    #[error("revision r{0} is not kept")]
    NoSuchRevision(u64),
    /// A namespace goes only when it is empty.
    #[error("namespace {0} still holds objects")]
    NamespaceInUse(String),
    /// A value that stands for a stored one, and there is none that it stands for.
    #[error("{key}: {field}: stands for a stored value that is another or not there")]
    Redacted {
        /// Which document.
        key: ObjectKey,
        /// Which field.
        field: String,
    },
    /// More documents than the store takes.
    #[error("more than {0} objects")]
    TooMany(usize),
    /// What would be stored is wrong.
    #[error("{} findings", .0.len())]
    Refused(Vec<Finding>),
    /// Another server has the data directory.
    #[error("{} is in use by another server", .0.display())]
    Locked(PathBuf),
    /// The bytes on disk, or the disk.
    #[error("store: {0}")]
    Backend(String),
}

/// Events of this age are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct Expired {
    /// What was asked for.
    pub asked: u64,
    /// The oldest that can be asked for.
    pub oldest: u64,
}

/// One change of one document.
#[derive(Debug, Clone)]
pub struct Event {
    /// The counter's value of this change.
    pub resource_version: u64,
    /// What happened; never `Unchanged`.
    pub effect: Effect,
    /// How it stands, or stood last.
    pub object: Arc<Object>,
    /// How it stood before.
    pub previous: Option<Arc<Object>>,
}
