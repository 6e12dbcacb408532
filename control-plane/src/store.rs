//! What people have written: one state in memory, a journal under it, and every change a revision.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::watch;

use crate::store::backend::Backend;
use crate::store::change::{Action, Change, Committed, Event, Expired, StoreError, Write};
use crate::store::events::Window;
use crate::store::history::{Record, Target, Touched};
use crate::store::journal::Journal;
use crate::store::plan::{Facts, Planned};
use crate::store::secret::Redactor;
use crate::store::state::{Object, ObjectKey, State};

pub mod backend;
pub mod change;
mod events;
pub mod history;
mod journal;
pub mod memory;
pub(crate) mod plan;
pub mod redb;
mod rollback;
mod secret;
pub mod state;

/// The one place where documents and raw groups are kept. Reads never wait; writes come one by one.
///
/// Writing waits for the disk: call it from a thread that may block.
#[derive(Debug)]
pub struct Store {
    state: ArcSwap<State>,
    journal: Journal,
    redactor: Redactor,
    window: Mutex<Window>,
    writer: Mutex<()>,
    changed: watch::Sender<u64>,
}

/// Looks at what is stored and at what would be, and may refuse that.
pub type Check<'a> = &'a dyn Fn(&State, &State) -> Result<(), StoreError>;

/// How often a change is checked while others may write; then they wait for it.
const TRIES: usize = 3;

impl Store {
    /// Opens the embedded store in a directory.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another server has it; else what is wrong with it.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::with_backend(Box::new(redb::Redb::open(directory)?))
    }

    /// A store that forgets.
    ///
    /// # Errors
    /// When there is no randomness to be had.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::with_backend(Box::<memory::Memory>::default())
    }

    /// Over these tables.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn with_backend(backend: Box<dyn Backend>) -> Result<Self, StoreError> {
        let journal = Journal::new(backend);
        let mut fresh = [0; 32];
        aws_lc_rs::rand::fill(&mut fresh)
            .map_err(|_| StoreError::Backend("no randomness".into()))?;
        let redactor = Redactor::new(&journal.redaction_key(fresh)?);
        let state = journal.load()?;
        Ok(Self {
            window: Mutex::new(Window::new(state.resource_version)),
            state: ArcSwap::from_pointee(state),
            journal,
            redactor,
            writer: Mutex::new(()),
            changed: watch::Sender::new(0),
        })
    }

    /// Everything that is stored at this moment.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Told after each stored change, status and raw groups included.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Stores a change whole or not at all.
    ///
    /// # Errors
    /// The first thing that speaks against it; nothing is stored then.
    pub fn commit(&self, change: &Change) -> Result<Committed, StoreError> {
        let _writer = lock(&self.writer);
        self.commit_locked(change)
    }

    /// Like [`Self::commit`], if what would be stored then passes the check. A check may take long:
    /// others write meanwhile, and if one did, it is checked again on top of that.
    ///
    /// # Errors
    /// The first thing that speaks against it; nothing is stored then.
    pub fn commit_checked(
        &self,
        change: &Change,
        check: Check<'_>,
    ) -> Result<Committed, StoreError> {
        for _ in 0..TRIES {
            let state = self.state.load_full();
            let planned = self.plan(&state, change)?;
            check(&state, &planned.state)?;
            let _writer = lock(&self.writer);
            if Arc::ptr_eq(&state, &self.state.load()) {
                return self.finish(state, planned, change);
            }
        }
        let _writer = lock(&self.writer);
        let state = self.state.load_full();
        let planned = self.plan(&state, change)?;
        check(&state, &planned.state)?;
        self.finish(state, planned, change)
    }

    /// Writes status. Objects that are gone are passed over; equal status changes nothing.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn write_status(
        &self,
        statuses: impl IntoIterator<Item = (ObjectKey, Value)>,
    ) -> Result<Committed, StoreError> {
        let _writer = lock(&self.writer);
        let state = self.state.load();
        let writes = statuses.into_iter().filter(|(key, _)| state.objects.get(key).is_some());
        let write = |(key, status)| Write::to(key, Action::Status(status));
        let change = Change { writes: writes.map(write).collect(), ..Change::default() };
        self.commit_locked(&change)
    }

    /// Makes sure that an object that exists by itself is there. That is no revision.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn ensure(&self, key: ObjectKey, value: Value) -> Result<(), StoreError> {
        let _writer = lock(&self.writer);
        if self.state.load().objects.get(&key).is_some() {
            return Ok(());
        }
        let change = Change {
            writes: vec![Write::to(key, Action::Put(value))],
            who: "weighlock".into(),
            ..Change::default()
        };
        let state = self.state.load_full();
        let mut planned = plan::plan(&state, &change, &self.facts())?;
        (planned.state.revision, planned.state.accepted_at) = (state.revision, state.accepted_at);
        planned.touched.clear();
        self.store(planned, None)?;
        Ok(())
    }

    /// All changes of documents after this version.
    ///
    /// # Errors
    /// When some of them are no longer kept.
    pub fn events_after(&self, resource_version: u64) -> Result<Vec<Event>, Expired> {
        Ok(lock(&self.window).after(resource_version)?.cloned().collect())
    }

    /// Revisions below `before` (all, without one), the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn revisions(&self, before: Option<u64>, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.journal.revisions(before, limit)
    }

    /// One revision.
    ///
    /// # Errors
    /// When it is not kept.
    pub fn revision(&self, number: u64) -> Result<Record, StoreError> {
        self.journal.revision(number)
    }

    /// The change that brings back the content of a revision, for the targets that are wanted; good
    /// only as long as no other revision comes between.
    ///
    /// # Errors
    /// When the revision is not kept.
    pub fn rollback(
        &self,
        to: u64,
        is_wanted: &dyn Fn(&Target) -> bool,
    ) -> Result<Change, StoreError> {
        rollback::rollback(&self.journal, &self.state(), to, is_wanted)
    }

    /// The document as people may see it: without secrets.
    pub fn visible(&self, object: &Object) -> Value {
        self.redactor.visible(object.key.kind, &object.value)
    }

    fn facts(&self) -> Facts<'_> {
        let uid = || uuid::Uuid::new_v4().to_string();
        Facts { now: SystemTime::now(), uid, redactor: &self.redactor }
    }

    /// With the writer's lock held.
    fn commit_locked(&self, change: &Change) -> Result<Committed, StoreError> {
        let state = self.state.load_full();
        let planned = self.plan(&state, change)?;
        self.finish(state, planned, change)
    }

    fn plan(&self, state: &State, change: &Change) -> Result<Planned, StoreError> {
        if let Some(yours) = change.if_revision.filter(|yours| *yours != state.revision) {
            let newest = self.journal.revision(state.revision);
            return Err(StoreError::RevisionConflict {
                yours,
                current: state.revision,
                changed_by: newest.map(|record| record.who).unwrap_or_default(),
            });
        }
        plan::plan(state, change, &self.facts())
    }

    /// Stores what was planned on top of `state`, which is the present one. The writer's lock is held.
    fn finish(
        &self,
        state: Arc<State>,
        planned: Planned,
        change: &Change,
    ) -> Result<Committed, StoreError> {
        let is_new_revision = !planned.touched.is_empty();
        let outcomes = planned.outcomes.clone();
        if change.dry_run || (planned.events.is_empty() && !is_new_revision) {
            return Ok(committed(state, is_new_revision && change.dry_run, outcomes));
        }
        let record = is_new_revision.then(|| Record {
            number: planned.state.revision,
            when: plan::timestamp(planned.state.accepted_at),
            who: change.who.clone(),
            why: change.why.clone(),
            origin: change.origin,
            summary: history::summary(&planned.touched),
            touched: planned.touched.iter().map(Touched::hashed).collect(),
        });
        let state = self.store(planned, record.as_ref())?;
        Ok(committed(state, is_new_revision, outcomes))
    }

    /// First to the disk, then to the readers.
    fn store(&self, planned: Planned, record: Option<&Record>) -> Result<Arc<State>, StoreError> {
        self.journal.write(&planned, record)?;
        let state = Arc::new(planned.state);
        lock(&self.window).extend(planned.events);
        self.state.store(state.clone());
        self.changed.send_modify(|count| *count += 1);
        Ok(state)
    }
}

fn committed(
    state: Arc<State>,
    is_new_revision: bool,
    outcomes: Vec<change::Outcome>,
) -> Committed {
    Committed {
        revision: state.revision,
        is_new_revision,
        accepted_at: state.accepted_at,
        outcomes,
        state,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::kind::kind_by;
    use crate::store::change::{Effect, Expected, GroupAction, GroupWrite, Origin};
    use xds_proto::resource::{Resource, ResourceType};

    const GATEWAY_API: &str = "gateway.networking.k8s.io";

    fn key(kind: &str, name: &str) -> ObjectKey {
        let kind = kind_by(GATEWAY_API, kind).or_else(|| kind_by("", kind)).unwrap();
        let namespace = if kind.namespaced { "shop" } else { "" };
        ObjectKey { kind, namespace: namespace.into(), name: name.into() }
    }

    fn write(key: ObjectKey, action: Action) -> Change {
        Change { writes: vec![Write::to(key, action)], who: "ana".into(), ..Change::default() }
    }

    fn put(name: &str, spec: Value) -> Change {
        write(key("HTTPRoute", name), Action::Put(json!({"spec": spec})))
    }

    fn expecting(mut change: Change, expected: Expected) -> Change {
        change.writes[0].expected = expected;
        change
    }

    fn cluster(name: &str, timeout: i64) -> Resource {
        let message = xds_proto::envoy::config::cluster::v3::Cluster {
            name: name.into(),
            connect_timeout: Some(xds_proto::google::protobuf::Duration {
                seconds: timeout,
                nanos: 0,
            }),
            ..Default::default()
        };
        Resource::pack(&message).unwrap()
    }

    fn group(name: &str, action: GroupAction) -> Change {
        let groups = vec![GroupWrite { name: name.into(), action }];
        Change { groups, who: "ana".into(), origin: Origin::Xds, ..Change::default() }
    }

    fn stored(store: &Store, name: &str) -> Arc<Object> {
        store.state().objects.get(&key("HTTPRoute", name)).unwrap().clone()
    }

    #[test]
    fn a_write_that_changes_nothing_keeps_everything() {
        let store = Store::in_memory().unwrap();
        let first = store.commit(&put("a", json!({"x": 1}))).unwrap();
        assert_eq!((first.revision, first.is_new_revision), (1, true));
        let again = store.commit(&put("a", json!({"x": 1}))).unwrap();
        assert_eq!((again.revision, again.is_new_revision), (1, false));
        assert_eq!(again.outcomes[0].effect, Effect::Unchanged);
        assert_eq!(*first.state, *store.state());
    }

    #[test]
    fn the_server_owns_its_part_of_the_metadata() {
        let store = Store::in_memory().unwrap();
        store.commit(&put("a", json!({"x": 1}))).unwrap();
        let before = stored(&store, "a");
        store.write_status([(key("HTTPRoute", "a"), json!({"parents": []}))]).unwrap();
        let forged = json!({
            "metadata": {"uid": "mine", "generation": 99, "labels": {"l": "m"}},
            "status": "mine", "spec": {"x": 1},
        });
        store.commit(&write(key("HTTPRoute", "a"), Action::Put(forged))).unwrap();
        let object = stored(&store, "a");
        assert_eq!((object.uid(), object.generation()), (before.uid(), 1));
        assert_eq!(object.value["status"], json!({"parents": []}));
        assert_eq!(object.value["metadata"]["labels"], json!({"l": "m"}));
        store.commit(&put("a", json!({"x": 2}))).unwrap();
        assert_eq!(stored(&store, "a").generation(), 2);
    }

    #[test]
    fn a_status_is_a_version_and_no_revision() {
        let store = Store::in_memory().unwrap();
        store.commit(&put("a", json!({}))).unwrap();
        let status = || [(key("HTTPRoute", "a"), json!({"ok": true}))];
        let committed = store.write_status(status()).unwrap();
        assert_eq!((committed.revision, store.state().resource_version), (1, 2));
        store.write_status(status()).unwrap();
        store.write_status([(key("HTTPRoute", "gone"), json!({}))]).unwrap();
        assert_eq!(store.state().resource_version, 2);
    }

    #[test]
    fn preconditions_are_kept() {
        let store = Store::in_memory().unwrap();
        let version = |v| Expected::Exactly { resource_version: Some(v), uid: None };
        store.commit(&expecting(put("a", json!({"x": 1})), Expected::Absent)).unwrap();
        let again = store.commit(&expecting(put("a", json!({"x": 2})), Expected::Absent));
        assert!(matches!(again, Err(StoreError::AlreadyExists(_))));
        store.commit(&expecting(put("a", json!({"x": 2})), version(1))).unwrap();
        let stale = store.commit(&expecting(put("a", json!({"x": 3})), version(1))).unwrap_err();
        assert_eq!(
            stale.to_string(),
            "HTTPRoute shop/a: yours is based on resourceVersion 1, ana changed it in r2"
        );
        let absent = store.commit(&expecting(put("b", json!({})), version(1)));
        assert!(matches!(absent, Err(StoreError::NotFound(_))));
        let change = Change { if_revision: Some(1), ..put("a", json!({})) };
        let stale = store.commit(&change).unwrap_err();
        assert_eq!(stale.to_string(), "yours is based on r1, ana made r2");
    }

    #[test]
    fn a_change_is_stored_whole_or_not_at_all() {
        let store = Store::in_memory().unwrap();
        let mut change = put("a", json!({}));
        change.writes.extend(write(key("HTTPRoute", "b"), Action::Delete).writes);
        assert!(matches!(store.commit(&change), Err(StoreError::NotFound(_))));
        let refused = store.commit_checked(&put("a", json!({})), &|before, after| {
            assert_eq!((before.objects.len(), after.objects.len()), (0, 1));
            Err(StoreError::Refused(Vec::new()))
        });
        assert!(matches!(refused, Err(StoreError::Refused(_))));
        let dry = Change { dry_run: true, ..put("a", json!({})) };
        assert_eq!(store.commit(&dry).unwrap().outcomes[0].effect, Effect::Created);
        assert_eq!(*store.state(), State::default());
    }

    #[test]
    fn what_others_write_during_a_check_is_not_lost() {
        let store = Store::in_memory().unwrap();
        let looks = std::cell::RefCell::new(Vec::new());
        store
            .commit_checked(&put("a", json!({"x": 1})), &|before, _| {
                looks.borrow_mut().push(before.objects.len());
                let name = format!("b{}", looks.borrow().len());
                if looks.borrow().len() <= 2 {
                    store.commit(&put(&name, json!({}))).unwrap();
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(looks.into_inner(), [0, 1, 2], "checked on top of each");
        assert_eq!((store.state().objects.len(), store.state().revision), (3, 3));
    }

    #[test]
    fn a_restart_gives_the_same_state_and_goes_on_counting() {
        let directory = tempfile::tempdir().unwrap();
        let before = {
            let store = Store::open(directory.path()).unwrap();
            store.commit(&put("a", json!({"x": 1}))).unwrap();
            store.commit(&put("b", json!({"x": 1}))).unwrap();
            store.write_status([(key("HTTPRoute", "a"), json!({"ok": true}))]).unwrap();
            store.commit(&write(key("HTTPRoute", "b"), Action::Delete)).unwrap();
            let resources = vec![cluster("c", 1), cluster("d", 1)];
            let replace = GroupAction::Replace { label: "v1".into(), resources };
            store.commit(&group("*", replace)).unwrap();
            store.state()
        };
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(*store.state(), *before);
        assert_eq!(store.commit(&put("c", json!({}))).unwrap().revision, before.revision + 1);
        assert_eq!(stored(&store, "c").resource_version, before.resource_version + 1);
        assert_eq!(store.events_after(before.resource_version).unwrap().len(), 1);
        assert!(store.events_after(before.resource_version - 1).is_err());
    }

    #[test]
    fn two_writers_lose_no_update() {
        let store = Store::in_memory().unwrap();
        store.commit(&put("a", json!({"n": 0}))).unwrap();
        let count = || {
            for _ in 0..200 {
                loop {
                    let object = stored(&store, "a");
                    let n = object.value["spec"]["n"].as_u64().unwrap();
                    let resource_version = Some(object.resource_version);
                    let expected = Expected::Exactly { resource_version, uid: None };
                    let change = expecting(put("a", json!({"n": n + 1})), expected);
                    if store.commit(&change).is_ok() {
                        break;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(count);
            scope.spawn(count);
        });
        assert_eq!(stored(&store, "a").value["spec"]["n"], 400);
        let versions: Vec<u64> =
            store.events_after(0).unwrap().iter().map(|event| event.resource_version).collect();
        assert_eq!(versions, (1..=401).collect::<Vec<_>>());
    }

    #[test]
    fn a_rollback_brings_back_documents_and_raw_resources() {
        let store = Store::in_memory().unwrap();
        store.commit(&put("a", json!({"x": 1}))).unwrap();
        let resources = vec![cluster("c", 1), cluster("d", 1)];
        let replace = GroupAction::Replace { label: "v1".into(), resources };
        store.commit(&group("*", replace)).unwrap();
        let then = store.state();
        store.commit(&put("a", json!({"x": 2}))).unwrap();
        store.commit(&put("b", json!({"x": 1}))).unwrap();
        let patch = GroupAction::Patch {
            label: "v2".into(),
            set: vec![cluster("c", 9)],
            delete: vec![(ResourceType::Cluster, "d".into())],
        };
        store.commit(&group("*", patch)).unwrap();
        store.commit(&write(key("HTTPRoute", "a"), Action::Delete)).unwrap();
        store.commit(&group("*", GroupAction::Delete)).unwrap();
        let back = store.rollback(2, &|_| true).unwrap();
        assert_eq!(store.commit(&back).unwrap().revision, 8);
        let state = store.state();
        assert_eq!(state.raw_groups["*"].resources, then.raw_groups["*"].resources);
        assert_eq!(state.raw_groups["*"].label, "v1");
        assert_eq!(stored(&store, "a").value["spec"], json!({"x": 1}));
        assert_eq!(state.objects.len(), 1);
        let record = store.revision(8).unwrap();
        assert_eq!(
            (record.origin, &*record.summary),
            (Origin::Rollback, "+1 HTTPRoute -1 HTTPRoute +2 CDS")
        );
        assert!(matches!(store.rollback(9, &|_| true), Err(StoreError::NoSuchRevision(9))));
    }

    #[test]
    fn an_object_with_finalizers_goes_when_the_last_one_does() {
        let store = Store::in_memory().unwrap();
        let with = |finalizers: Value| {
            write(
                key("HTTPRoute", "a"),
                Action::Put(json!({"metadata": {"finalizers": finalizers}})),
            )
        };
        store.commit(&with(json!(["x"]))).unwrap();
        store.commit(&write(key("HTTPRoute", "a"), Action::Delete)).unwrap();
        assert!(stored(&store, "a").value["metadata"]["deletionTimestamp"].is_string());
        store.commit(&with(json!([]))).unwrap();
        assert!(store.state().objects.is_empty());
    }

    #[test]
    fn a_namespace_goes_only_when_it_is_empty() {
        let store = Store::in_memory().unwrap();
        store.commit(&write(key("Namespace", "shop"), Action::Put(json!({})))).unwrap();
        store.commit(&put("a", json!({}))).unwrap();
        let delete = write(key("Namespace", "shop"), Action::Delete);
        assert!(matches!(store.commit(&delete), Err(StoreError::NamespaceInUse(_))));
        store.commit(&write(key("HTTPRoute", "a"), Action::Delete)).unwrap();
        store.commit(&delete).unwrap();
    }

    #[test]
    fn what_exists_by_itself_is_no_revision() {
        let store = Store::in_memory().unwrap();
        store.ensure(key("GatewayClass", "weighlock"), json!({"spec": {}})).unwrap();
        store.ensure(key("GatewayClass", "weighlock"), json!({"spec": {"x": 1}})).unwrap();
        assert_eq!((store.state().revision, store.state().resource_version), (0, 1));
        assert_eq!(store.commit(&put("a", json!({}))).unwrap().revision, 1);
    }

    #[test]
    fn old_events_expire() {
        let store = Store::in_memory().unwrap();
        for n in 0..=events::WINDOW {
            store.write_status([(key("HTTPRoute", "a"), json!(n))]).unwrap();
            store.commit(&put("a", json!({"n": n}))).unwrap();
        }
        let newest = store.state().resource_version;
        assert_eq!(store.events_after(newest).unwrap().len(), 0);
        let oldest = newest - events::WINDOW as u64;
        assert_eq!(store.events_after(oldest).unwrap().len(), events::WINDOW);
        assert!(store.events_after(oldest - 1).is_err());
        assert!(store.events_after(newest + 1).is_err());
    }
}
