//! Several route tables for one filter chain, chosen by the headers of a request (`ScopedRoutes`).

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};

use super::routing::Routing;
use crate::reference::Reference;
use crate::route::RouteTable;
use crate::route::linked::LinkedRoutes;

/// How route tables are chosen, and where they come from.
#[derive(Debug)]
pub struct ScopedConfig {
    /// What of a request makes its key.
    pub key: Arc<KeyBuilder>,
    /// Where the scopes come from.
    pub source: ScopeSource,
}

/// Where scopes come from.
#[derive(Debug)]
pub enum ScopeSource {
    /// They stand in the listener, each with its table.
    Inline(Box<[(ScopeKey, Arc<RouteTable>)]>),
    /// The control plane sends them (SRDS).
    Discovered {
        /// All of them.
        scopes: Reference,
        /// How long their routes are waited for; none is for ever.
        routes: Option<Duration>,
    },
}

/// What a request must say to be in a scope: its fragments, in order.
pub type ScopeKey = Box<[Box<str>]>;

/// A scope (`ScopedRouteConfiguration`), compiled.
#[derive(Debug)]
pub struct Scope {
    /// Its key.
    pub key: ScopeKey,
    /// Its routes.
    pub routes: ScopeRoutes,
}

/// The routes of a scope.
#[derive(Debug)]
pub enum ScopeRoutes {
    /// They stand in it.
    Inline(Arc<RouteTable>),
    /// The control plane sends them under this name.
    Named(Arc<str>),
}

/// A scope with its routes at hand.
#[derive(Debug)]
pub struct LinkedScope {
    /// It.
    pub scope: Arc<Scope>,
    /// Its routes.
    pub routes: Arc<LinkedRoutes>,
}

/// What of a request makes its key (`ScopeKeyBuilder`).
#[derive(Debug, PartialEq, Eq)]
pub struct KeyBuilder(pub Box<[Fragment]>);

/// A part of a key, from the first header of a name (`HeaderValueExtractor`).
#[derive(Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The header.
    pub header: HeaderName,
    /// What stands between its elements; empty where it is one.
    pub separator: Box<str>,
    /// Which element.
    pub extract: Extract,
}

/// Which element of a header, and what of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Extract {
    /// The element in this place.
    Index(usize),
    /// What stands behind the separator in the first element that has this key before it.
    Element {
        /// The key.
        key: Box<str>,
        /// What stands between key and value.
        separator: Box<str>,
    },
}

impl KeyBuilder {
    /// The fragments of the key of a request; an item is none where the request does not say it.
    fn fragments<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = Option<&'h str>> {
        self.0.iter().map(move |fragment| fragment.of(headers))
    }
}

impl Fragment {
    fn of<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        let value = headers.get(&self.header)?.to_str().ok()?;
        match &self.extract {
            Extract::Index(0) if self.separator.is_empty() => Some(value),
            Extract::Index(_) if self.separator.is_empty() => None,
            Extract::Index(index) => value.split(&*self.separator).nth(*index),
            Extract::Element { key, separator } => {
                let value_of = |element: &'h str| match element.split_once(&**separator) {
                    Some((name, value)) => (*name == **key).then_some(value),
                    None => (*element == **key).then_some(""),
                };
                if self.separator.is_empty() {
                    return value_of(value);
                }
                value.split(&*self.separator).find_map(value_of)
            }
        }
    }
}

/// The route tables of a chain, by key.
#[derive(Debug)]
pub struct Scopes {
    builder: Arc<KeyBuilder>,
    hasher: RandomState,
    by_hash: HashMap<u64, Vec<usize>>,
    all: Box<[(ScopeKey, Arc<Routing>)]>,
}

/// Which route table of a chain: the default is for requests in no scope, and all where there are
/// no scopes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScopeNumber(Option<usize>);

impl Scopes {
    /// Tables by their keys; of two with the same the later one counts.
    pub(super) fn new(builder: Arc<KeyBuilder>, all: Vec<(ScopeKey, Arc<Routing>)>) -> Self {
        let hasher = RandomState::new();
        let mut by_hash: HashMap<u64, Vec<usize>> = HashMap::new();
        for (number, (key, _)) in all.iter().enumerate() {
            let hash = hash(&hasher, key.iter().map(|fragment| &**fragment));
            by_hash.entry(hash).or_default().insert(0, number);
        }
        Self { builder, hasher, by_hash, all: all.into() }
    }

    /// The scope of a request. Allocates nothing.
    pub fn find(&self, headers: &HeaderMap) -> ScopeNumber {
        let mut state = self.hasher.build_hasher();
        for fragment in self.builder.fragments(headers) {
            match fragment {
                Some(fragment) => fragment.hash(&mut state),
                None => return ScopeNumber(None),
            }
        }
        let numbers = self.by_hash.get(&state.finish()).into_iter().flatten();
        let is_it = |number: &&usize| {
            let key = self.all.get(**number).map(|(key, _)| key);
            key.is_some_and(|key| {
                self.builder.fragments(headers).eq(key.iter().map(|part| Some(&**part)))
            })
        };
        ScopeNumber({ numbers }.find(is_it).copied())
    }

    /// The routes of a scope; none for requests in no scope.
    pub fn get(&self, number: ScopeNumber) -> Option<&Arc<Routing>> {
        self.all.get(number.0?).map(|(_, routing)| routing)
    }

    /// What stood before at a key.
    pub(super) fn of(&self, key: &ScopeKey) -> Option<&Arc<Routing>> {
        let hash = hash(&self.hasher, key.iter().map(|fragment| &**fragment));
        let numbers = self.by_hash.get(&hash).into_iter().flatten();
        let found = numbers.filter_map(|number| self.all.get(*number));
        { found }.find(|(known, _)| known == key).map(|(_, routing)| routing)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        let mut pairs = self.all.iter().zip(&other.all);
        self.builder == other.builder
            && self.all.len() == other.all.len()
            && pairs.all(|((key, routing), (other_key, other))| {
                key == other_key && Arc::ptr_eq(routing, other)
            })
    }
}

fn hash<'a>(hasher: &RandomState, key: impl Iterator<Item = &'a str>) -> u64 {
    let mut state = hasher.build_hasher();
    key.for_each(|fragment| fragment.hash(&mut state));
    state.finish()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fragment(separator: &str, extract: Extract) -> Fragment {
        let header = HeaderName::from_static("x-scope");
        Fragment { header, separator: separator.into(), extract }
    }

    fn of<'h>(fragment: &Fragment, headers: &'h HeaderMap) -> Option<&'h str> {
        fragment.of(headers)
    }

    fn headers(values: &[&'static str]) -> HeaderMap {
        let name = HeaderName::from_static("x-scope");
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_fragment_is_an_element_of_the_first_header() {
        let index = |separator, index| fragment(separator, Extract::Index(index));
        let key = |separator| {
            let (key, equals) = ("vip".into(), "=".into());
            fragment(separator, Extract::Element { key, separator: equals })
        };
        for (fragment, value, want) in [
            (index("", 0), "a;b", Some("a;b")),
            (index(";", 1), "a;b", Some("b")),
            (index(";", 2), "a;b", None),
            (index(";", 0), "", Some("")),
            (key(";"), "a=1;vip=2;vip=3", Some("2")),
            (key(";"), "vip=a=b", Some("a=b")),
            (key(";"), "x;vip", Some("")),
            (key(";"), "x=1;y=2", None),
            (key(""), "vip=7", Some("7")),
        ] {
            assert_eq!(of(&fragment, &headers(&[value])), want, "{fragment:?} {value}");
        }
        assert_eq!(of(&index("", 0), &headers(&["one", "two"])), Some("one"));
        assert_eq!(of(&index("", 0), &headers(&[])), None);
    }
}
