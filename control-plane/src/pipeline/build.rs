//! State to snapshots: model, translate, check. Pure; takes what was built before to share it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use data_plane::compile;
use xds_proto::field::FieldError;
use xds_proto::resource::{Resource, ResourceType};

use crate::finding::Finding;
use crate::model::Model;
use crate::snapshot::Snapshot;
use crate::store::state::State;
use crate::translate::draft::{ObjectRef, Owners, StatusDraft};
use crate::translate::{Translation, translate};

/// What a state amounts to.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// What each fleet is due.
    pub fleets: BTreeMap<String, Arc<Snapshot>>,
    /// The statuses, but for what only the fleet can tell.
    pub statuses: Vec<StatusDraft>,
    /// What is wrong between objects.
    pub findings: Vec<Finding>,
    /// Which objects made each resource.
    pub owners: Owners,
    /// What our own proxy would refuse, and what is therefore held back.
    pub held: Vec<Held>,
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

/// Builds what `state` amounts to. Equal states give equal snapshots, whatever was built before.
pub fn build(state: &State, before: &BTreeMap<String, Arc<Snapshot>>) -> Built {
    let translation = self::translation(state);
    let mut built = Built {
        statuses: translation.statuses,
        findings: translation.findings,
        owners: translation.owners,
        ..Built::default()
    };
    let nothing = Arc::default();
    for (fleet, resources) in translation.fleets {
        let before = before.get(&fleet).unwrap_or(&nothing);
        let resources = hold_back(&fleet, resources, before, &mut built);
        built.fleets.insert(fleet, Arc::new(before.next(resources)));
    }
    built
}

/// What is wrong with a state: between objects, and where our own proxy would refuse the result.
pub fn findings(state: &State) -> Vec<Finding> {
    let Translation { fleets, mut findings, owners, .. } = translation(state);
    let mut seen = BTreeSet::new();
    for resources in fleets.values() {
        for (kind, name, error) in compile::check(resources) {
            let made_by = owners.get(&(kind, name.clone())).cloned().unwrap_or_default();
            for owner in made_by {
                if seen.insert((owner.clone(), error.to_string())) {
                    findings.push(refused(&owner, kind, &error));
                }
            }
        }
    }
    findings
}

fn translation(state: &State) -> Translation {
    let documents = state.objects.iter().map(|object| (object.key.kind, &object.value));
    translate(&Model::from_objects(documents))
}

fn refused(owner: &ObjectRef, kind: ResourceType, error: &FieldError) -> Finding {
    Finding {
        code: crate::finding::codes::NOT_SUPPORTED,
        severity: crate::finding::Severity::Error,
        object: owner.to_string(),
        field: String::new(),
        message: format!("the proxy would refuse the {kind} resource it makes: {error}"),
        help: None,
    }
}

/// Leaves out what our proxy would refuse; what stood under its name before stays.
fn hold_back(
    fleet: &str,
    resources: Vec<Resource>,
    before: &Snapshot,
    built: &mut Built,
) -> Vec<Resource> {
    let is_new = |resource: &&Resource| {
        before.get(resource.kind, &resource.name).is_none_or(|old| old.version != resource.version)
    };
    let fresh: Vec<Resource> = resources.iter().filter(is_new).cloned().collect();
    let refused = compile::check(&fresh);
    if refused.is_empty() {
        return resources;
    }
    let mut kept = resources;
    for (kind, name, error) in refused {
        kept.retain(|resource| resource.kind != kind || resource.name != name);
        if let Some(old) = before.get(kind, &name) {
            let (version, body) = (old.version.clone(), old.body());
            kept.push(Resource { kind, name: name.clone(), version, body });
        }
        let owners = built.owners.get(&(kind, name.clone())).cloned().unwrap_or_default();
        built.held.push(Held { fleet: fleet.to_owned(), kind, name, error, owners });
    }
    kept
}
