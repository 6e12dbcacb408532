//! What a client holds of one type: pointers into the tables that it came from, eight bytes each.

use std::sync::Arc;

use crate::snapshot::table::{Entry, TypeTable};

/// Resources sorted by name.
#[derive(Debug, Clone, Default)]
pub struct Held(Vec<Arc<Entry>>);

impl Held {
    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        self.0.get(self.place(name).ok()?)
    }

    /// Takes in a resource.
    pub fn insert(&mut self, entry: Arc<Entry>) {
        match self.place(&entry.name) {
            Ok(place) => self.0[place] = entry,
            Err(place) => self.0.insert(place, entry),
        }
    }

    /// Drops a resource.
    pub fn remove(&mut self, name: &str) {
        if let Ok(place) = self.place(name) {
            self.0.remove(place);
        }
    }

    /// Keeps only what fits.
    pub fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.0.retain(|entry| keep(entry));
    }

    /// Puts what is known in the place of what a client brought along with the same version.
    pub fn recognize(&mut self, table: &TypeTable) {
        for held in self.0.iter_mut().filter(|held| held.is_foreign()) {
            if let Some(known) = table.get(&held.name)
                && known.version == held.version
            {
                *held = known.clone();
            }
        }
    }

    /// All of them, sorted by name.
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.0
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|entry| (*entry.name).cmp(name))
    }
}

impl From<&[Arc<Entry>]> for Held {
    /// `entries` must be sorted by name, as in a table.
    fn from(entries: &[Arc<Entry>]) -> Self {
        Self(entries.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_entry_a_name_in_order() {
        let mut held = Held::default();
        for (name, version) in [("b", "1"), ("a", "1"), ("b", "2")] {
            held.insert(Arc::new(Entry::foreign(name.into(), version)));
        }
        let shown: Vec<_> = held.entries().iter().map(|e| (&*e.name, e.version.as_str())).collect();
        assert_eq!(shown, [("a", "1"), ("b", "2")]);
        held.remove("a");
        assert!(held.get("a").is_none());
        assert_eq!(held.get("b").unwrap().version.as_str(), "2");
    }
}
