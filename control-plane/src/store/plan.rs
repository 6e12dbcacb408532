//! What a change makes of the state: a pure step that stores nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use xds_proto::resource::{Resource, ResourceType};

use crate::store::change::{
    Action, Change, Effect, Event, Expected, GroupAction, GroupWrite, Outcome, StoreError, Write,
};
use crate::store::history::{Content, Target, Touched};
use crate::store::secret::Redactor;
use crate::store::state::{Object, ObjectKey, RawGroup, State};

/// How many documents are taken.
pub(crate) const OBJECTS_MAX: usize = 200_000;

/// What a step needs from outside.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    /// The time, for `creationTimestamp`.
    pub(crate) now: SystemTime,
    /// Makes a new `uid`.
    pub(crate) uid: fn() -> String,
    /// Knows the marks that stand for secrets.
    pub(crate) redactor: &'a Redactor,
}

/// What a change makes of the state.
#[derive(Debug)]
pub(crate) struct Planned {
    /// Everything that is stored then.
    pub(crate) state: State,
    /// What becomes of each document, in the order of the writes.
    pub(crate) outcomes: Vec<Outcome>,
    /// One for each document that changes, in the order of their versions.
    pub(crate) events: Vec<Event>,
    /// Content that changes. Empty: no revision.
    pub(crate) touched: Vec<Touched>,
}

/// Works a change out.
///
/// # Errors
/// The first write that may not be.
pub(crate) fn plan(
    state: &State,
    change: &Change,
    facts: &Facts<'_>,
) -> Result<Planned, StoreError> {
    let mut step = Step {
        facts,
        change,
        revision: state.revision + 1,
        who: change.who.as_str().into(),
        next: state.clone(),
        outcomes: Vec::with_capacity(change.writes.len()),
        events: Vec::new(),
        touched: Vec::new(),
    };
    for write in &change.writes {
        step.write(write)?;
    }
    for group in &change.groups {
        step.write_group(group)?;
    }
    step.check_whole()?;
    if !step.touched.is_empty() {
        step.next.revision = step.revision;
        step.next.accepted_at = facts.now;
    }
    let Step { next, outcomes, events, touched, .. } = step;
    Ok(Planned { state: next, outcomes, events, touched })
}

struct Step<'a> {
    facts: &'a Facts<'a>,
    change: &'a Change,
    revision: u64,
    who: Arc<str>,
    next: State,
    outcomes: Vec<Outcome>,
    events: Vec<Event>,
    touched: Vec<Touched>,
}

impl Step<'_> {
    fn write(&mut self, write: &Write) -> Result<(), StoreError> {
        let stored = self.next.objects.get(&write.key).cloned();
        check_expected(write, stored.as_deref())?;
        match (&write.action, stored) {
            (Action::Put(value), stored) => self.put(write, value, stored),
            (Action::Status(status), Some(stored)) => {
                let mut value = stored.value.clone();
                set_status(&mut value, Some(status));
                self.store(write, value, Some(stored));
                Ok(())
            }
            (Action::Delete, Some(stored)) => {
                self.delete(write, stored);
                Ok(())
            }
            (Action::Status(_) | Action::Delete, None) => {
                Err(StoreError::NotFound(write.key.clone()))
            }
        }
    }

    fn put(
        &mut self,
        write: &Write,
        value: &Value,
        stored: Option<Arc<Object>>,
    ) -> Result<(), StoreError> {
        let key = &write.key;
        let mut value = value.clone();
        let before = stored.as_deref().map(|stored| &stored.value);
        self.facts
            .redactor
            .receive(key.kind, &mut value, before)
            .map_err(|field| StoreError::Redacted { key: key.clone(), field })?;
        let value = self.document(key, value, stored.as_deref());
        let is_marked = value.pointer("/metadata/deletionTimestamp").is_some();
        match stored {
            Some(stored) if is_marked && !has_finalizers(&value) => self.remove(write, stored),
            stored => self.store(write, value, stored),
        }
        Ok(())
    }

    /// The document as it is stored: the writer's content, our metadata, the stored status.
    fn document(&self, key: &ObjectKey, mut value: Value, stored: Option<&Object>) -> Value {
        let mut document = Map::new();
        document.insert("apiVersion".into(), key.kind.api_version().into());
        document.insert("kind".into(), key.kind.kind.into());
        let metadata = value.get("metadata").and_then(Value::as_object);
        document.insert("metadata".into(), Value::Object(self.metadata(key, metadata, stored)));
        for (name, part) in value.as_object_mut().into_iter().flat_map(std::mem::take) {
            if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status") {
                document.insert(name, part);
            }
        }
        let status = stored.and_then(|stored| stored.value.get("status"));
        let mut document = Value::Object(document);
        set_status(&mut document, status);
        let before = stored.map(|stored| &stored.value);
        let generation = stored.map_or(0, Object::generation)
            + u64::from(before.is_none_or(|before| !same_content(before, &document)));
        if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("generation".into(), generation.into());
        }
        document
    }

    fn metadata(
        &self,
        key: &ObjectKey,
        given: Option<&Map<String, Value>>,
        stored: Option<&Object>,
    ) -> Map<String, Value> {
        let mut metadata = Map::new();
        metadata.insert("name".into(), key.name.as_str().into());
        if !key.namespace.is_empty() {
            metadata.insert("namespace".into(), key.namespace.as_str().into());
        }
        let old = stored.and_then(|stored| stored.value.get("metadata"));
        let old = |field: &str| old.and_then(|old| old.get(field)).cloned();
        metadata.insert("uid".into(), old("uid").unwrap_or_else(|| (self.facts.uid)().into()));
        metadata.insert("resourceVersion".into(), old("resourceVersion").unwrap_or_default());
        metadata.insert("generation".into(), 0.into());
        let born = old("creationTimestamp").unwrap_or_else(|| timestamp(self.facts.now).into());
        metadata.insert("creationTimestamp".into(), born);
        if let Some(marked) = old("deletionTimestamp") {
            metadata.insert("deletionTimestamp".into(), marked);
        }
        for field in ["generateName", "labels", "annotations", "ownerReferences", "finalizers"] {
            let given = given.and_then(|given| given.get(field));
            if let Some(given) = given.filter(|given| !is_empty(given)) {
                metadata.insert(field.into(), given.clone());
            }
        }
        metadata
    }

    fn delete(&mut self, write: &Write, stored: Arc<Object>) {
        if !has_finalizers(&stored.value) {
            return self.remove(write, stored);
        }
        let mut value = stored.value.clone();
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        if let Some(metadata) = metadata.filter(|all| !all.contains_key("deletionTimestamp")) {
            metadata.insert("deletionTimestamp".into(), timestamp(self.facts.now).into());
        }
        self.store(write, value, Some(stored));
    }

    fn store(&mut self, write: &Write, mut value: Value, stored: Option<Arc<Object>>) {
        if let Some(stored) = &stored
            && stored.value == value
        {
            let object = stored.clone();
            return self.outcomes.push(Outcome { effect: Effect::Unchanged, object });
        }
        let is_status = matches!(write.action, Action::Status(_));
        let keeps_revision = stored.as_ref().filter(|_| is_status);
        let (revision, who) = keeps_revision.map_or_else(
            || (self.revision, self.who.clone()),
            |stored| (stored.revision, stored.who.clone()),
        );
        let resource_version = self.step_version(&mut value);
        let object =
            Arc::new(Object { key: write.key.clone(), value, resource_version, revision, who });
        self.next.objects.insert(object.clone());
        let effect = if stored.is_some() { Effect::Updated } else { Effect::Created };
        if !is_status {
            self.touch(write, effect, stored.as_deref(), Some(&object));
        }
        self.announce(effect, object, stored);
    }

    fn remove(&mut self, write: &Write, stored: Arc<Object>) {
        self.next.objects.remove(&write.key);
        let mut last = Object::clone(&stored);
        last.resource_version = self.step_version(&mut last.value);
        self.touch(write, Effect::Deleted, Some(&stored), None);
        self.announce(Effect::Deleted, Arc::new(last), Some(stored));
    }

    fn step_version(&mut self, value: &mut Value) -> u64 {
        self.next.resource_version += 1;
        let version = self.next.resource_version;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), version.to_string().into());
        }
        version
    }

    fn touch(
        &mut self,
        write: &Write,
        effect: Effect,
        before: Option<&Object>,
        after: Option<&Object>,
    ) {
        let content = |object: &Object| Content::of_document(&object.value);
        self.touched.push(Touched {
            target: Target::object(&write.key),
            effect,
            before: before.map(content),
            after: after.map(content),
            source: write.source.clone(),
        });
    }

    fn announce(&mut self, effect: Effect, object: Arc<Object>, previous: Option<Arc<Object>>) {
        self.outcomes.push(Outcome { effect, object: object.clone() });
        let resource_version = object.resource_version;
        self.events.push(Event { resource_version, effect, object, previous });
    }

    fn write_group(&mut self, write: &GroupWrite) -> Result<(), StoreError> {
        let stored = self.next.raw_groups.get(&write.name).cloned();
        let (label, resources) = match &write.action {
            GroupAction::Replace { label, resources } => {
                (label, resources.iter().map(|r| (place(r), r.clone())).collect())
            }
            GroupAction::Patch { label, set, delete } => {
                let mut all = stored.as_ref().map(|g| g.resources.clone()).unwrap_or_default();
                delete.iter().for_each(|gone| drop(all.remove(gone)));
                all.extend(set.iter().map(|r| (place(r), r.clone())));
                (label, all)
            }
            GroupAction::Delete => {
                let stored = stored.ok_or_else(|| StoreError::NoSuchGroup(write.name.clone()))?;
                self.touch_resources(&write.name, &stored.resources, &BTreeMap::new());
                self.touch_group(&write.name, Some(&stored.label), None);
                self.next.raw_groups.remove(&write.name);
                return Ok(());
            }
        };
        let none = BTreeMap::new();
        let before = stored.as_ref().map_or(&none, |stored| &stored.resources);
        let is_same = |stored: &RawGroup| stored.label == *label && stored.resources == resources;
        if stored.as_deref().is_some_and(is_same) {
            return Ok(());
        }
        self.touch_group(&write.name, stored.as_ref().map(|s| s.label.as_str()), Some(label));
        self.touch_resources(&write.name, before, &resources);
        let group = RawGroup {
            name: write.name.clone(),
            label: label.clone(),
            resources,
            revision: self.revision,
            accepted_at: self.facts.now,
        };
        self.next.raw_groups.insert(write.name.clone(), Arc::new(group));
        Ok(())
    }

    fn touch_group(&mut self, name: &str, before: Option<&str>, after: Option<&str>) {
        let content = |label: &str| Content::new(label.as_bytes().to_vec().into());
        self.touched.push(Touched {
            target: Target::Group { name: name.to_owned() },
            effect: effect(before.is_some(), after.is_some()),
            before: before.map(content),
            after: after.map(content),
            source: None,
        });
    }

    fn touch_resources(&mut self, group: &str, before: &Resources, after: &Resources) {
        let gone = before.keys().filter(|place| !after.contains_key(*place));
        for place in after.keys().chain(gone) {
            let (old, new) = (before.get(place), after.get(place));
            if old == new {
                continue;
            }
            let content = |resource: &Resource| Content::new(resource.body.clone());
            self.touched.push(Touched {
                target: Target::resource(group, place),
                effect: effect(old.is_some(), new.is_some()),
                before: old.map(content),
                after: new.map(content),
                source: None,
            });
        }
    }

    /// What no single write shows.
    fn check_whole(&self) -> Result<(), StoreError> {
        let created = self.events.iter().any(|event| event.effect == Effect::Created);
        if created && self.next.objects.len() > OBJECTS_MAX {
            return Err(StoreError::TooMany(OBJECTS_MAX));
        }
        for write in &self.change.writes {
            let key = &write.key;
            let is_namespace = key.kind.group.is_empty() && key.kind.kind == "Namespace";
            if is_namespace
                && self.next.objects.get(key).is_none()
                && self.next.objects.iter().any(|object| object.key.namespace == key.name)
            {
                return Err(StoreError::NamespaceInUse(key.name.clone()));
            }
        }
        Ok(())
    }
}

type Resources = BTreeMap<(ResourceType, Arc<str>), Resource>;

fn place(resource: &Resource) -> (ResourceType, Arc<str>) {
    (resource.kind, resource.name.clone())
}

fn effect(was: bool, is: bool) -> Effect {
    match (was, is) {
        (false, true) => Effect::Created,
        (true, true) => Effect::Updated,
        (true, false) => Effect::Deleted,
        (false, false) => Effect::Unchanged,
    }
}

fn check_expected(write: &Write, stored: Option<&Object>) -> Result<(), StoreError> {
    let key = &write.key;
    match (&write.expected, stored) {
        (Expected::Any, _) | (Expected::Absent, None) | (Expected::Present, Some(_)) => Ok(()),
        (Expected::Absent, Some(_)) => Err(StoreError::AlreadyExists(key.clone())),
        (Expected::Present | Expected::Exactly { .. }, None) => {
            Err(StoreError::NotFound(key.clone()))
        }
        (Expected::Exactly { resource_version, uid }, Some(stored)) => {
            let version_differs = resource_version.is_some_and(|v| v != stored.resource_version);
            let uid_differs = uid.as_ref().is_some_and(|uid| uid != stored.uid());
            let yours = match (version_differs, resource_version, uid) {
                (true, Some(version), _) => format!("resourceVersion {version}"),
                (_, _, Some(uid)) if uid_differs => format!("uid {uid}"),
                _ => return Ok(()),
            };
            Err(StoreError::Conflict {
                key: key.clone(),
                yours,
                current: stored.resource_version,
                changed_by: stored.who.clone(),
                revision: stored.revision,
            })
        }
    }
}

/// Whether two documents say the same besides metadata and status.
fn same_content(a: &Value, b: &Value) -> bool {
    fn content(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
        value
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status"))
    }
    content(a).count() == content(b).count()
        && content(a).all(|(name, part)| b.get(name).is_some_and(|other| other == part))
}

fn set_status(document: &mut Value, status: Option<&Value>) {
    let Some(document) = document.as_object_mut() else { return };
    match status {
        Some(status) => drop(document.insert("status".into(), status.clone())),
        None => drop(document.shift_remove("status")),
    }
}

fn has_finalizers(value: &Value) -> bool {
    let finalizers = value.pointer("/metadata/finalizers").and_then(Value::as_array);
    finalizers.is_some_and(|finalizers| !finalizers.is_empty())
}

fn is_empty(value: &Value) -> bool {
    *value == Value::Null || *value == json!({}) || *value == json!([])
}

/// RFC 3339 in whole seconds, as Kubernetes writes times.
pub(crate) fn timestamp(at: SystemTime) -> String {
    let at = time::OffsetDateTime::from(at);
    let at = at.replace_nanosecond(0).unwrap_or(at);
    at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}
