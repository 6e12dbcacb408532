//! The query of a request while it changes: names in order, each with its values.

use std::collections::BTreeMap;

use http::Request;
use http::uri::PathAndQuery;

use super::stage::path;
use crate::body::Body;
use crate::matcher::query::parameters;

/// The parameters of a query, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    /// The query of a path.
    pub fn of(path: &str) -> Self {
        let (_, query) = path.split_once('?').unwrap_or((path, ""));
        let mut this = Self::default();
        for (name, value) in parameters(query) {
            this.add(name, value);
        }
        this
    }

    /// Whether there is a parameter of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Adds a value.
    pub fn add(&mut self, name: &str, value: &str) {
        self.0.entry(name.to_owned()).or_default().push(value.to_owned());
    }

    /// Replaces all values.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), vec![value.to_owned()]);
    }

    /// Removes all values.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// A path with this in place of its query.
    pub fn put_into(&self, path: &str) -> String {
        let (path, _) = path.split_once('?').unwrap_or((path, ""));
        let pairs = self
            .0
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| format!("{name}={value}")));
        let pairs: Vec<_> = pairs.collect();
        if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
    }

    /// Changes the query of a request. What then is no path changes nothing.
    pub fn change(request: &mut Request<Body>, change: impl FnOnce(&mut Self)) {
        let mut query = Self::of(path(request));
        change(&mut query);
        let changed = query.put_into(path(request));
        set_path(request, changed.as_bytes());
    }
}

/// Sets path and query of a request. What is no path changes nothing.
pub fn set_path(request: &mut Request<Body>, path: &[u8]) {
    let mut parts = request.uri().clone().into_parts();
    let Ok(path) = PathAndQuery::try_from(path) else { return };
    parts.path_and_query = Some(path);
    if let Ok(uri) = http::Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_added_set_and_removed() {
        let mut request = Request::get("/p?b=2&a=1&c&b=3").body(Body::empty()).unwrap();
        Query::change(&mut request, |query| {
            query.remove("c");
            query.set("a", "9");
            query.add("b", "4");
            assert!(query.has("b") && !query.has("c"));
        });
        assert_eq!(request.uri(), "/p?a=9&b=2&b=3&b=4");
        Query::change(&mut request, |query| ["a", "b"].iter().for_each(|name| query.remove(name)));
        assert_eq!(request.uri(), "/p");
    }
}
