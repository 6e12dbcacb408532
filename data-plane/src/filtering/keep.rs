//! What filters keep beyond a request: joined with clusters, and with what stood there before.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use crate::cluster::Cluster;

/// Which filter, by where and how it is configured. What it keeps survives every change of the
/// configuration that leaves these alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Its name in the chain.
    pub filter: Arc<str>,
    /// How many filters before it have the same name.
    pub nth: usize,
    /// The virtual host, route or cluster of a route that configures it; empty for the listener.
    pub place: Arc<str>,
    /// A hash of its configuration.
    pub config: u64,
}

/// What the filters of a chain keep, shared by all workers.
#[derive(Default)]
pub struct States(HashMap<Key, Arc<dyn Any + Send + Sync>>);

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What filters keep for one connection, by the worker that serves it.
#[derive(Default)]
pub struct ConnectionStates(RefCell<HashMap<Key, Rc<dyn Any>>>);

impl fmt::Debug for ConnectionStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.borrow().keys()).finish()
    }
}

impl ConnectionStates {
    /// What a filter keeps for the connection; made at the first request.
    pub fn keep<T: 'static>(&self, key: &Key, make: impl FnOnce() -> T) -> Rc<T> {
        let known = self.0.borrow().get(key).cloned();
        if let Some(Ok(known)) = known.map(Rc::downcast) {
            return known;
        }
        let made = Rc::new(make());
        self.0.borrow_mut().insert(key.clone(), Rc::clone(&made) as Rc<dyn Any>);
        made
    }
}

/// Finds a cluster by its name.
pub type FindCluster<'a> = &'a dyn Fn(&str) -> Option<Arc<Cluster>>;

/// Joins filters with clusters, and with what they kept before.
pub struct Linker<'a> {
    find: FindCluster<'a>,
    before: Option<&'a States>,
    shared: Option<&'a States>,
    key: Key,
    states: States,
    clusters: HashMap<Arc<str>, Option<Arc<Cluster>>>,
}

impl fmt::Debug for Linker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linker").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The clusters that filters were joined with, by name; none where it is not known.
pub type Joined = HashMap<Arc<str>, Option<Arc<Cluster>>>;

impl<'a> Linker<'a> {
    /// A linker for chains; `before` is what their filters keep so far, `shared` what others keep
    /// that are configured by the same place.
    pub fn new(
        find: FindCluster<'a>,
        before: Option<&'a States>,
        shared: Option<&'a States>,
    ) -> Self {
        let key = Key { filter: "".into(), nth: 0, place: "".into(), config: 0 };
        Self { find, before, shared, key, states: States::default(), clusters: HashMap::new() }
    }

    /// Goes on to another filter.
    pub fn turn_to(&mut self, key: Key) {
        self.key = key;
    }

    /// The filter that is being joined.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// A cluster; none where it is not known.
    pub fn cluster(&mut self, name: &Arc<str>) -> Option<Arc<Cluster>> {
        if let Some(known) = self.clusters.get(name) {
            return known.clone();
        }
        let found = (self.find)(name);
        self.clusters.insert(Arc::clone(name), found.clone());
        found
    }

    /// What the filter keeps: what it kept before, else what is made.
    pub fn keep<T: Any + Send + Sync>(&mut self, make: impl FnOnce() -> T) -> Arc<T> {
        let places = [self.shared, Some(&self.states), self.before].into_iter().flatten();
        let known = places.filter_map(|states| states.0.get(&self.key)).next();
        let kept = match known.cloned().map(Arc::downcast::<T>) {
            Some(Ok(kept)) => kept,
            Some(Err(_)) | None => Arc::new(make()),
        };
        self.states.0.insert(self.key.clone(), Arc::clone(&kept) as Arc<dyn Any + Send + Sync>);
        kept
    }

    /// What is kept, and the clusters that were asked for.
    pub fn finish(self) -> (States, Joined) {
        (self.states, self.clusters)
    }
}

/// What became of a filter when it was joined.
#[derive(Debug)]
pub enum Linked<F> {
    /// It runs as it was compiled.
    Same,
    /// This runs in its place.
    New(F),
    /// It does not run here.
    Off,
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    impl<F> Linked<F> {
        /// What runs in the place of what was compiled.
        pub(crate) fn made(self) -> Option<F> {
            match self {
                Self::New(made) => Some(made),
                Self::Same | Self::Off => None,
            }
        }
    }

    /// Joins a filter as a chain without clusters and without a past would.
    pub(crate) fn alone<F>(link: impl FnOnce(&mut Linker<'_>) -> Linked<F>) -> Linked<F> {
        link(&mut Linker::new(&|_| None, None, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(place: &str, config: u64) -> Key {
        Key { filter: "f".into(), nth: 0, place: place.into(), config }
    }

    #[test]
    fn a_filter_keeps_its_state_while_place_and_configuration_stay() {
        let mut linker = Linker::new(&|_| None, None, None);
        linker.turn_to(key("v", 1));
        let kept = linker.keep(|| 1_u32);
        assert!(Arc::ptr_eq(&kept, &linker.keep(|| 2)));
        let (before, _) = linker.finish();
        let mut linker = Linker::new(&|_| None, Some(&before), None);
        linker.turn_to(key("v", 1));
        assert!(Arc::ptr_eq(&kept, &linker.keep(|| 3)));
        for changed in [key("w", 1), key("v", 2)] {
            linker.turn_to(changed);
            assert_eq!(*linker.keep(|| 4_u32), 4);
        }
    }

    #[test]
    fn a_connection_keeps_what_is_its_own() {
        let (one, other) = (ConnectionStates::default(), ConnectionStates::default());
        assert_eq!(*one.keep(&key("", 1), || 1), 1);
        assert_eq!(*one.keep(&key("", 1), || 2), 1);
        assert_eq!(*other.keep(&key("", 1), || 3), 3);
    }
}
