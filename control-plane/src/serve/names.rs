//! What a client asked for by name.

use std::collections::BTreeSet;
use std::sync::Arc;

/// A set of names. Where it is exactly what a table holds, all streams share it.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Sorted, and shared.
    shared: Option<Arc<[Arc<str>]>>,
    /// Of this stream alone, where nothing is shared.
    own: BTreeSet<Arc<str>>,
}

impl Names {
    /// The name as it is kept, if it is in the set.
    pub fn get(&self, name: &str) -> Option<&Arc<str>> {
        match &self.shared {
            Some(names) => names.get(names.binary_search_by(|known| (**known).cmp(name)).ok()?),
            None => self.own.get(name),
        }
    }

    /// Whether the name is in the set.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Adds a name.
    pub fn insert(&mut self, name: Arc<str>) {
        if !self.contains(&name) {
            self.own().insert(name);
        }
    }

    /// Drops a name. Says whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.contains(name) && self.own().remove(name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shared.as_ref().map_or(self.own.len(), |names| names.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.shared.iter().flat_map(|names| names.iter()).chain(&self.own)
    }

    /// Shares `all` where these are the same names.
    pub fn share(&mut self, all: &Arc<[Arc<str>]>) {
        let is_shared = self.shared.as_ref().is_some_and(|names| Arc::ptr_eq(names, all));
        if !is_shared && self.len() == all.len() && self.iter().eq(all.iter()) {
            *self = Self { shared: Some(all.clone()), own: BTreeSet::new() };
        }
    }

    fn own(&mut self) -> &mut BTreeSet<Arc<str>> {
        if let Some(names) = self.shared.take() {
            self.own = names.iter().cloned().collect();
        }
        &mut self.own
    }
}

impl FromIterator<Arc<str>> for Names {
    fn from_iter<I: IntoIterator<Item = Arc<str>>>(names: I) -> Self {
        Self { shared: None, own: names.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_set_is_copied_when_it_changes() {
        let all: Arc<[Arc<str>]> = ["a", "b"].map(Arc::from).into();
        let mut names: Names = ["b", "a"].map(Arc::from).into_iter().collect();
        names.share(&all);
        assert!(names.shared.as_ref().is_some_and(|shared| Arc::ptr_eq(shared, &all)));
        names.insert("a".into());
        assert!(names.shared.is_some());
        assert!(!names.remove("z"));
        names.insert("c".into());
        assert!(names.remove("a"));
        assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["b", "c"]);
        names.share(&all);
        assert!(names.shared.is_none());
        assert_eq!(all.len(), 2);
    }
}
