//! From a path to the routes that may match it, at a cost that does not grow with their number.
//!
//! Envoy takes the first route of the list that matches. Here exact paths lie in a map and prefixes
//! in a tree; each place holds the numbers of its routes in order, and the lowest number whose
//! conditions hold wins. A regular expression lies under the text all its matches begin with.

use std::collections::HashMap;

use super::tree::{PrefixTree, first};

/// The routes of a virtual host by path.
#[derive(Debug, Default)]
pub(crate) struct PathIndex {
    exact: HashMap<Box<str>, Box<[u32]>>,
    prefixes: PrefixTree,
    /// The same for routes to which case does not matter; all of it lower case.
    exact_any_case: HashMap<Box<str>, Box<[u32]>>,
    prefixes_any_case: PrefixTree,
}

/// Where a route lies in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry<'a> {
    /// The whole path, or its beginning; lower case when case does not count.
    pub(crate) text: &'a str,
    pub(crate) is_exact: bool,
    pub(crate) case_sensitive: bool,
}

/// Paths are lower-cased here; a longer one on the heap.
const PATH_BYTES: usize = 1024;

impl PathIndex {
    /// An index of routes; their numbers are their places.
    pub(crate) fn new<'a>(routes: impl IntoIterator<Item = IndexEntry<'a>>) -> Self {
        let mut exact = [Vec::new(), Vec::new()];
        let mut prefixes = [Vec::new(), Vec::new()];
        for (number, entry) in (0_u32..).zip(routes) {
            let places = if entry.is_exact { &mut exact } else { &mut prefixes };
            places[usize::from(!entry.case_sensitive)].push((entry.text, number));
        }
        let [exact, exact_any_case] = exact.map(map);
        let [prefixes, prefixes_any_case] = prefixes.map(PrefixTree::new);
        Self { exact, prefixes, exact_any_case, prefixes_any_case }
    }

    /// The lowest route number under this path for which `matches` holds.
    pub(crate) fn find(&self, path: &str, matches: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        let mut best = u32::MAX;
        if let Some(numbers) = self.exact.get(path) {
            best = first(numbers, best, matches);
        }
        best = self.prefixes.find(path, best, matches);
        if !self.exact_any_case.is_empty() || !self.prefixes_any_case.is_empty() {
            best = lower(path, |path| {
                let best = match self.exact_any_case.get(path) {
                    Some(numbers) => first(numbers, best, matches),
                    None => best,
                };
                self.prefixes_any_case.find(path, best, matches)
            });
        }
        (best != u32::MAX).then_some(best)
    }
}

fn map(mut keys: Vec<(&str, u32)>) -> HashMap<Box<str>, Box<[u32]>> {
    keys.sort_unstable();
    let runs = keys.chunk_by(|(a, _), (b, _)| a == b);
    let numbers = |run: &[(&str, u32)]| run.iter().map(|(_, number)| *number).collect();
    runs.filter_map(|run| Some((run.first()?.0.into(), numbers(run)))).collect()
}

fn lower<T>(path: &str, use_it: impl FnOnce(&str) -> T) -> T {
    if !path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return use_it(path);
    }
    let mut buffer = [0; PATH_BYTES];
    match buffer.get_mut(..path.len()) {
        Some(lower) => {
            lower.copy_from_slice(path.as_bytes());
            lower.make_ascii_lowercase();
            use_it(str::from_utf8(lower).unwrap_or(path))
        }
        None => use_it(&path.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(routes: &[(&str, bool, bool)]) -> PathIndex {
        PathIndex::new(routes.iter().map(|&(text, is_exact, case_sensitive)| IndexEntry {
            text,
            is_exact,
            case_sensitive,
        }))
    }

    #[test]
    fn the_lowest_number_wins_wherever_it_lies() {
        let index = index(&[
            ("/a/b", true, true),
            ("/a/", false, true),
            ("/a/b/c", false, true),
            ("/x", true, false),
            ("", false, true),
            ("/x/", false, false),
        ]);
        for (path, want) in [
            ("/a/b", Some(0)),
            ("/a/b/c", Some(1)),
            ("/A/b", Some(4)),
            ("/X", Some(3)),
            ("/x/y", Some(4)),
            ("", Some(4)),
        ] {
            assert_eq!(index.find(path, &mut |_| true), want, "{path}");
        }
        assert_eq!(index.find("/a/b/c", &mut |number| number != 1), Some(2));
        assert_eq!(index.find("/X/y", &mut |number| number > 4), Some(5));
        assert_eq!(index.find("/a", &mut |number| number != 4), None);
    }

    #[test]
    fn a_longer_path_than_the_buffer_is_found_too() {
        let index = index(&[("/x", false, false)]);
        assert_eq!(index.find(&format!("/X{}", "Y".repeat(5000)), &mut |_| true), Some(0));
    }
}
