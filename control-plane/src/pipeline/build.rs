//! What documents amount to, as snapshots. Pure; takes what was built before to share it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xds_proto::field::FieldError;
use xds_proto::resource::{Resource, ResourceType};

use super::translator::Translated;
use crate::snapshot::Snapshot;
use crate::translate::draft::ObjectRef;

/// What a state amounts to.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// What each fleet is due.
    pub fleets: BTreeMap<String, Arc<Snapshot>>,
    /// What our own proxy would refuse, and what is therefore held back.
    pub held: Vec<Held>,
    /// What it was built of.
    pub translated: Arc<Translated>,
}

/// A resource that is not sent, because our own proxy would refuse it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The fleet that it was meant for.
    pub fleet: String,
    /// Its type.
    pub kind: ResourceType,
    /// Its name.
    pub name: Arc<str>,
    /// What the proxy would say.
    pub error: FieldError,
    /// The objects that made it.
    pub owners: BTreeSet<ObjectRef>,
}

/// Builds what a translation amounts to. Equal translations give equal snapshots, whatever was
/// built before, but for what is held back.
pub fn build(translated: &Arc<Translated>, before: &BTreeMap<String, Arc<Snapshot>>) -> Built {
    let mut built = Built { translated: translated.clone(), ..Built::default() };
    let nothing = Arc::default();
    for (fleet, resources) in &translated.fleets {
        let before = before.get(fleet).unwrap_or(&nothing);
        let resources = hold_back(fleet, resources.clone(), before, &mut built);
        built.fleets.insert(fleet.clone(), Arc::new(before.next(resources)));
    }
    built
}

/// Leaves out what our proxy would refuse; what stood under its name before stays.
fn hold_back(
    fleet: &str,
    resources: Vec<Resource>,
    before: &Snapshot,
    built: &mut Built,
) -> Vec<Resource> {
    let mut kept = resources;
    for (kind, name, error) in built.translated.refused.get(fleet).into_iter().flatten() {
        kept.retain(|resource| resource.kind != *kind || resource.name != *name);
        if let Some(old) = before.get(*kind, name) {
            let (version, body) = (old.version.clone(), old.body());
            kept.push(Resource { kind: *kind, name: name.clone(), version, body });
        }
        let owners = built.translated.owners.get(&(*kind, name.clone()));
        built.held.push(Held {
            fleet: fleet.to_owned(),
            kind: *kind,
            name: name.clone(),
            error: error.clone(),
            owners: owners.cloned().unwrap_or_default(),
        });
    }
    kept
}
