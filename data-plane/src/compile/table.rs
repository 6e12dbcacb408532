//! The accepted resources of one type, compiled, by name.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use xds_proto::field::FieldError;
use xds_proto::resource::Resource;
use xds_proto::version::Version;

use crate::compile::{Origin, Rejected};

/// Compiled resources of one type. A clone shares them.
#[derive(Debug)]
pub(crate) struct Table<T> {
    entries: BTreeMap<Arc<str>, Entry<T>>,
}

/// A compiled resource.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) config: Arc<T>,
    pub(crate) version: Version,
    origin: Origin,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<T> Table<T> {
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.entries.get(name).map(|entry| &entry.config)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<T>)> {
        self.entries.iter().map(|(name, entry)| (name, &entry.config))
    }

    pub(crate) fn versions(&self) -> impl Iterator<Item = (&str, &Version)> {
        self.entries.iter().map(|(name, entry)| (&**name, &entry.version))
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Drops a resource, unless it came with the bootstrap.
    pub(crate) fn remove(&mut self, name: &Arc<str>) {
        if let Slot::Occupied(slot) = self.entries.entry(Arc::clone(name))
            && slot.get().origin == Origin::ControlPlane
        {
            slot.remove();
        }
    }

    /// Takes in a compiled resource.
    pub(crate) fn insert(&mut self, resource: &Resource, origin: Origin, config: Arc<T>) {
        let entry = Entry { config, version: resource.version.clone(), origin };
        self.entries.insert(Arc::clone(&resource.name), entry);
    }

    /// Compiles a resource.
    pub(crate) fn compile<M: Message + Default>(
        &self,
        resource: &Resource,
        origin: Origin,
        compile: impl FnOnce(M) -> Result<T, FieldError>,
    ) -> Result<Arc<T>, Rejected> {
        self.compile_encoded(resource, origin, |encoded, _| {
            let message = M::decode(encoded);
            compile(
                message
                    .map_err(|error| FieldError::invalid(format!("undecodable bytes: {error}")))?,
            )
        })
    }

    /// Compiles a resource from its bytes and its form before.
    pub(crate) fn compile_encoded(
        &self,
        resource: &Resource,
        origin: Origin,
        compile: impl FnOnce(Bytes, Option<&T>) -> Result<T, FieldError>,
    ) -> Result<Arc<T>, Rejected> {
        let refuse = |error| Rejected { name: Arc::clone(&resource.name), error };
        let existing = self.entries.get(&resource.name);
        if existing.is_some_and(|entry| entry.origin != origin) {
            let reason = "the bootstrap has one of this name, which cannot be replaced";
            return Err(refuse(FieldError::invalid(reason)));
        }
        let before = existing.map(|entry| &*entry.config);
        compile(resource.body.clone(), before).map(Arc::new).map_err(refuse)
    }

    /// Compiles and takes in what is good.
    pub(crate) fn take<M: Message + Default>(
        &mut self,
        resources: &[Resource],
        origin: Origin,
        compile: impl Fn(M) -> Result<T, FieldError>,
    ) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        for resource in resources {
            match self.compile(resource, origin, &compile) {
                Ok(config) => self.insert(resource, origin, config),
                Err(refused) => rejected.push(refused),
            }
        }
        rejected
    }
}
