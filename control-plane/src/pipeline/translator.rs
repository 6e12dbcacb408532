//! What documents amount to, worked out once: whoever asks about the same content shares the answer.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_plane::compile;
use xds_proto::field::FieldError;
use xds_proto::resource::{Resource, ResourceType};

use crate::finding::{Finding, Severity, codes};
use crate::model::Model;
use crate::store::state::Objects;
use crate::translate::draft::{ObjectRef, Owners, StatusDraft};
use crate::translate::{Translation, translate};

/// How many answers are kept: for what is stored, and for what changes under way would make of it.
const KEPT: usize = 4;

/// What our own proxy would refuse: the resource, and why.
pub type Refused = (ResourceType, Arc<str>, FieldError);

/// What documents amount to.
#[derive(Debug, Default)]
pub struct Translated {
    /// The resources of each fleet that a Gateway asks for.
    pub fleets: BTreeMap<String, Vec<Resource>>,
    /// Which of them our own proxy would refuse.
    pub refused: BTreeMap<String, Vec<Refused>>,
    /// The statuses, but for what only the fleet can tell.
    pub statuses: Vec<StatusDraft>,
    /// What is wrong between objects, and where our own proxy would refuse the result.
    pub findings: Vec<Finding>,
    /// Which objects made each resource.
    pub owners: Owners,
}

/// Translates, and remembers the last translations.
///
/// A change is translated before it is stored, to judge it, and again when it is published; a
/// status or a raw resource changes nothing of what documents say. Each of these is found here.
#[derive(Debug, Default)]
pub struct Translator {
    /// The newest last.
    kept: Mutex<Vec<(Objects, Arc<Translated>)>>,
}

impl Translator {
    /// What these documents amount to. Works it out on the calling thread where nobody has before.
    pub fn translated(&self, objects: &Objects) -> Arc<Translated> {
        let (known, newest) = self.look_up(objects);
        if let Some(known) = known {
            return known;
        }
        let translated = Arc::new(work_out(objects, newest.as_deref()));
        let mut kept = self.kept();
        kept.push((objects.clone(), translated.clone()));
        if kept.len() > KEPT {
            kept.remove(0);
        }
        translated
    }

    /// The answer for these documents, and the one that was asked for last.
    fn look_up(&self, objects: &Objects) -> (Option<Arc<Translated>>, Option<Arc<Translated>>) {
        let mut kept = self.kept();
        let newest = kept.last().map(|(_, translated)| translated.clone());
        let known = kept.iter().position(|(known, _)| known.say_the_same(objects));
        let known = known.map(|position| {
            let (_, translated) = kept.remove(position);
            // The documents as they are: the next look finds most of them by their address.
            kept.push((objects.clone(), translated.clone()));
            translated
        });
        (known, newest)
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(Objects, Arc<Translated>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn work_out(objects: &Objects, before: Option<&Translated>) -> Translated {
    let documents = objects.iter().map(|object| (object.key.kind, &object.value));
    let Translation { fleets, statuses, mut findings, owners } =
        translate(&Model::from_objects(documents));
    let nothing = Translated::default();
    let before = before.unwrap_or(&nothing);
    let judged = fleets
        .iter()
        .map(|(fleet, resources)| (fleet.clone(), refused(resources, before.of_fleet(fleet))));
    let refused: BTreeMap<_, _> = judged.filter(|(_, refused)| !refused.is_empty()).collect();
    findings.extend(told(&refused, &owners));
    Translated { fleets, refused, statuses, findings, owners }
}

impl Translated {
    fn of_fleet(&self, fleet: &str) -> (&[Resource], &[Refused]) {
        let resources = self.fleets.get(fleet).map(Vec::as_slice).unwrap_or_default();
        (resources, self.refused.get(fleet).map(Vec::as_slice).unwrap_or_default())
    }
}

/// What our own proxy would refuse. A resource that was judged before is not judged again.
fn refused(resources: &[Resource], before: (&[Resource], &[Refused])) -> Vec<Refused> {
    let judged: HashSet<_> =
        before.0.iter().map(|known| (known.kind, &*known.name, &known.version)).collect();
    let is_known =
        |resource: &Resource| judged.contains(&(resource.kind, &*resource.name, &resource.version));
    let (known, fresh): (Vec<_>, Vec<_>) = resources.iter().partition(|it| is_known(it));
    let known: HashSet<_> = known.iter().map(|known| (known.kind, &*known.name)).collect();
    let still = before.1.iter().filter(|(kind, name, _)| known.contains(&(*kind, &**name)));
    let fresh: Vec<Resource> = fresh.into_iter().cloned().collect();
    still.cloned().chain(compile::check(&fresh)).collect()
}

/// The same as findings about the objects that made the resources, each said once.
fn told(refused: &BTreeMap<String, Vec<Refused>>, owners: &Owners) -> Vec<Finding> {
    let mut said = BTreeSet::new();
    let mut findings = Vec::new();
    for (kind, name, error) in refused.values().flatten() {
        let made_by = owners.get(&(*kind, name.clone()));
        for owner in made_by.into_iter().flatten() {
            if said.insert((owner, error.to_string())) {
                findings.push(finding(owner, *kind, error));
            }
        }
    }
    findings
}

fn finding(owner: &ObjectRef, kind: ResourceType, error: &FieldError) -> Finding {
    Finding {
        code: codes::NOT_SUPPORTED,
        severity: Severity::Error,
        object: owner.to_string(),
        field: String::new(),
        message: format!("the proxy would refuse the {kind} resource it makes: {error}"),
        help: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::kind::kind_by;
    use crate::store::Store;
    use crate::store::change::{Action, Change, Write};
    use crate::store::state::ObjectKey;

    fn put(store: &Store, name: &str, port: u16) {
        let kind = kind_by("weighlock.dev", "Backend").unwrap();
        let key = ObjectKey { kind, namespace: "shop".into(), name: name.into() };
        let mut value = json!({"apiVersion": "weighlock.dev/v1alpha1", "kind": "Backend",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"endpoints": [{"ip": "127.0.0.1", "port": port}]}});
        assert!(kind.check(&mut value).is_empty());
        let write = Write::to(key, Action::Put(value));
        store.commit(&Change { writes: vec![write], ..Change::default() }).unwrap();
    }

    fn status(store: &Store) {
        let key = store.state().objects.iter().next().unwrap().key.clone();
        store.write_status([(key, json!({"conditions": []}))]).unwrap();
    }

    #[test]
    fn the_same_documents_are_translated_once() {
        let (store, translator) = (Store::in_memory().unwrap(), Translator::default());
        put(&store, "a", 1);
        let first = translator.translated(&store.state().objects);
        status(&store);
        assert!(Arc::ptr_eq(&first, &translator.translated(&store.state().objects)));
        put(&store, "a", 2);
        let second = translator.translated(&store.state().objects);
        assert!(!Arc::ptr_eq(&first, &second));
        put(&store, "a", 1);
        // Its generation differs, which statuses tell.
        assert!(!Arc::ptr_eq(&first, &translator.translated(&store.state().objects)));
    }

    #[test]
    fn only_the_last_answers_are_kept() {
        let (store, translator) = (Store::in_memory().unwrap(), Translator::default());
        for port in 1..10 {
            put(&store, "a", port);
            translator.translated(&store.state().objects);
        }
        assert_eq!(translator.kept().len(), KEPT);
    }

    #[test]
    fn what_was_refused_before_is_still_refused() {
        let body = bytes::Bytes::from_static(b"\xff");
        let bad = Resource {
            kind: ResourceType::Cluster,
            name: "c".into(),
            version: xds_proto::version::Version::of_bytes(&body),
            body,
        };
        let first = refused(std::slice::from_ref(&bad), (&[], &[]));
        assert_eq!(first.len(), 1);
        let again = refused(std::slice::from_ref(&bad), (std::slice::from_ref(&bad), &first));
        assert_eq!(again, first);
        assert_eq!(refused(&[], (std::slice::from_ref(&bad), &first)), []);
    }
}
