//! Which statuses are to be written: those that translation and the fleet have changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use super::build::Built;
use crate::model::kind::{KINDS, Kind};
use crate::status::{Circumstances, FleetState, complete};
use crate::store::plan::timestamp;
use crate::store::state::{ObjectKey, State};

/// What statuses are made of. While nothing of it moves, there is nothing to write.
#[derive(Debug)]
pub(super) struct Told {
    /// What was translated.
    pub(super) built: Arc<Built>,
    /// What the nodes of each fleet have said.
    pub(super) fleets: BTreeMap<String, FleetState>,
    /// Proxies may not have come back yet.
    pub(super) is_early: bool,
    /// The version of the documents whose statuses these are.
    pub(super) resource_version: u64,
}

impl Told {
    /// Whether nothing moved.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.built, &other.built)
            && self.is_early == other.is_early
            && self.resource_version == other.resource_version
            && self.fleets == other.fleets
    }
}

/// The statuses that changed.
pub(super) fn statuses(present: &State, told: &Told) -> Vec<(ObjectKey, Value)> {
    let now = timestamp(SystemTime::now());
    let circumstances = Circumstances { fleets: &told.fleets, is_early: told.is_early, now: &now };
    let mut changed = Vec::new();
    for draft in &told.built.translated.statuses {
        let Some(kind) = kind(draft.object.kind) else { continue };
        let place = &draft.object.place;
        let (namespace, name) = (place.namespace.clone(), place.name.clone());
        let key = ObjectKey { kind, namespace, name };
        let Some(object) = present.objects.get(&key) else { continue };
        if let Some(status) = complete(draft, object.value.get("status"), circumstances) {
            changed.push((key, status));
        }
    }
    changed
}

fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|kind| kind.kind == name)
}
