//! What a client holds of one type: a table that all streams share, or pointers into those it came from.

use std::sync::Arc;

use crate::snapshot::table::{Entry, TypeTable};

/// Resources sorted by name.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// All of this table.
    table: Option<Arc<TypeTable>>,
    /// Of this stream alone, where there is no table.
    own: Vec<Arc<Entry>>,
}

impl Held {
    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries().get(self.place(name).ok()?)
    }

    /// Takes in a resource.
    pub fn insert(&mut self, entry: Arc<Entry>) {
        let place = self.place(&entry.name);
        let own = self.own();
        match place {
            Ok(place) => own[place] = entry,
            Err(place) => own.insert(place, entry),
        }
    }

    /// Drops a resource.
    pub fn remove(&mut self, name: &str) {
        if let Ok(place) = self.place(name) {
            self.own().remove(place);
        }
    }

    /// Keeps only what fits.
    pub fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        if !self.entries().iter().all(|entry| keep(entry)) {
            self.own().retain(|entry| keep(entry));
        }
    }

    /// Puts what is known in the place of what a client brought along with the same version.
    pub fn recognize(&mut self, table: &TypeTable) {
        // Nothing in a table is foreign.
        for held in self.own.iter_mut().filter(|held| held.is_foreign()) {
            if let Some(known) = table.get(&held.name)
                && known.version == held.version
            {
                *held = known.clone();
            }
        }
    }

    /// Shares `table` where it holds the same resources.
    pub fn share(&mut self, table: &Arc<TypeTable>) {
        let (held, all) = (self.entries(), table.entries());
        if held.len() == all.len() && held.iter().zip(all).all(|(held, due)| Arc::ptr_eq(held, due))
        {
            *self = table.clone().into();
        }
    }

    /// All of them, sorted by name.
    pub fn entries(&self) -> &[Arc<Entry>] {
        self.table.as_ref().map_or(&self.own, |table| table.entries())
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.entries().binary_search_by(|entry| (*entry.name).cmp(name))
    }

    fn own(&mut self) -> &mut Vec<Arc<Entry>> {
        if let Some(table) = self.table.take() {
            self.own = table.entries().to_vec();
        }
        &mut self.own
    }
}

impl From<Arc<TypeTable>> for Held {
    fn from(table: Arc<TypeTable>) -> Self {
        Self { table: Some(table), own: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::{Cluster, cluster};
    use crate::snapshot::Snapshot;

    #[test]
    fn one_entry_a_name_in_order() {
        let mut held = Held::default();
        for (name, version) in [("b", "1"), ("a", "1"), ("b", "2")] {
            held.insert(Arc::new(Entry::foreign(name.into(), version)));
        }
        let shown: Vec<_> =
            held.entries().iter().map(|entry| (&*entry.name, entry.version.as_str())).collect();
        assert_eq!(shown, [("a", "1"), ("b", "2")]);
        held.remove("a");
        assert!(held.get("a").is_none());
        assert_eq!(held.get("b").unwrap().version.as_str(), "2");
    }

    #[test]
    fn a_table_is_shared_until_something_differs() {
        let snapshot = Snapshot::new(vec![cluster("a", 0), cluster("b", 0)]);
        let table = snapshot.kind(Cluster);
        let mut held = Held::default();
        for entry in table.entries() {
            held.insert(entry.clone());
        }
        held.share(table);
        assert!(held.table.as_ref().is_some_and(|shared| Arc::ptr_eq(shared, table)));
        held.retain(|_| true);
        assert!(held.table.is_some());
        held.remove("a");
        assert_eq!((held.entries().len(), table.entries().len()), (1, 2));
        held.share(table);
        assert!(held.table.is_none());
    }
}
