//! The resources as they came: what is applied, and what was refused instead.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use xds_proto::resource::{Resource, ResourceType};
use xds_proto::version::Version;

use crate::compile::Rejected;
use crate::xds::subscription::Interest;

/// What came under one name.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The resource that is applied.
    pub applied: Option<Resource>,
    /// The newer one that was refused, if any.
    pub refused: Option<Refusal>,
    /// When this last changed.
    pub changed: SystemTime,
}

/// A refused form of a resource.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Its version.
    pub version: Version,
    /// What is wrong with it.
    pub error: String,
}

/// Everything that came, by type and name. Bodies are shared, so a clone is cheap.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    types: [BTreeMap<Arc<str>, Entry>; ResourceType::ALL.len()],
}

impl Cache {
    /// What came of this type, by name.
    pub fn of(&self, kind: ResourceType) -> &BTreeMap<Arc<str>, Entry> {
        &self.types[kind.index()]
    }

    /// Whether exactly this is applied and nothing newer was refused.
    pub fn is_current(&self, resource: &Resource) -> bool {
        self.of(resource.kind).get(&resource.name).is_some_and(|entry| {
            entry.refused.is_none() && entry.applied.as_ref() == Some(resource)
        })
    }

    /// Takes in what was added, but for what was rejected of it.
    pub fn record(&mut self, added: &[Resource], rejected: &[Rejected], now: SystemTime) {
        let rejected: HashMap<&str, &Rejected> =
            rejected.iter().map(|rejected| (&*rejected.name, rejected)).collect();
        for resource in added {
            let entry = self.types[resource.kind.index()]
                .entry(Arc::clone(&resource.name))
                .or_insert(Entry { applied: None, refused: None, changed: now });
            entry.changed = now;
            match rejected.get(&*resource.name) {
                Some(rejected) => {
                    entry.refused = Some(Refusal {
                        version: resource.version.clone(),
                        error: rejected.error.to_string(),
                    });
                }
                None => {
                    entry.applied = Some(resource.clone());
                    entry.refused = None;
                }
            }
        }
    }

    /// Forgets what is no longer there or no longer wanted.
    pub fn forget(&mut self, kind: ResourceType, name: &str) {
        self.types[kind.index()].remove(name);
    }

    /// The versions that are applied, of what is wanted.
    pub fn versions(&self, kind: ResourceType, interest: &Interest) -> HashMap<String, String> {
        self.of(kind)
            .iter()
            .filter(|(name, _)| interest.covers(name))
            .filter_map(|(name, entry)| {
                let version = entry.applied.as_ref()?.version.as_str();
                Some((name.to_string(), version.to_owned()))
            })
            .collect()
    }

    /// Every applied resource, in make-before-break order.
    pub fn applied(&self) -> impl Iterator<Item = &Resource> {
        self.types.iter().flat_map(BTreeMap::values).filter_map(|entry| entry.applied.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use xds_proto::field::FieldError;

    use super::*;

    fn resource(name: &str, version: &str) -> Resource {
        Resource {
            kind: ResourceType::Route,
            name: name.into(),
            version: Version::foreign(version),
            body: version.to_owned().into(),
        }
    }

    #[test]
    fn a_refused_resource_leaves_the_applied_one() {
        let mut cache = Cache::default();
        let now = SystemTime::UNIX_EPOCH;
        cache.record(&[resource("a", "1")], &[], now);
        let rejected = [Rejected { name: "a".into(), error: FieldError::required() }];
        cache.record(&[resource("a", "2")], &rejected, now);
        let everything = Interest { wildcard: true, ..Interest::default() };
        assert_eq!(cache.versions(ResourceType::Route, &everything)["a"], "1");
        assert!(!cache.is_current(&resource("a", "1")), "the refusal has to be taken back");
        cache.record(&[resource("a", "1")], &[], now);
        assert!(cache.is_current(&resource("a", "1")));
    }

    #[test]
    fn only_wanted_versions_are_told() {
        let mut cache = Cache::default();
        cache.record(&[resource("a", "1"), resource("b", "1")], &[], SystemTime::UNIX_EPOCH);
        let interest = Interest { names: ["b".into()].into(), ..Interest::default() };
        let versions = cache.versions(ResourceType::Route, &interest);
        assert_eq!(versions.keys().collect::<Vec<_>>(), ["b"]);
        cache.forget(ResourceType::Route, "b");
        assert!(cache.versions(ResourceType::Route, &interest).is_empty());
        assert_eq!(cache.applied().count(), 1);
    }
}
