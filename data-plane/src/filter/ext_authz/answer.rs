//! What the service says, and what that changes.

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, StatusCode};
use serde_json::{Map, Value};

use crate::body::Body;
use crate::filtering::stage::path;
use crate::matcher::query::parameters;

/// What the service says.
#[derive(Debug)]
pub(super) enum Answer {
    /// The request may pass.
    Allowed(Box<Allowed>),
    /// It may not, and this is what the client hears.
    Denied {
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
        metadata: Option<Map<String, Value>>,
    },
    /// Nothing that helps.
    Failed,
}

/// What a request that may pass is sent with.
#[derive(Debug, Default)]
pub(super) struct Allowed {
    pub(super) request: Vec<(Name, HeaderValue, How)>,
    pub(super) remove: Vec<HeaderName>,
    pub(super) query_set: Vec<(String, String)>,
    pub(super) query_remove: Vec<String>,
    pub(super) response: Vec<(HeaderName, HeaderValue, How)>,
    pub(super) metadata: Option<Map<String, Value>>,
}

/// A header of a request, or what stands for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Path,
    Method,
    Header(HeaderName),
}

/// What happens to a header that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Replaced, or set.
    Set,
    /// One more line.
    Add,
    /// Joined with a comma; nothing where there is none, as in Envoy.
    Append,
    /// Set only where there is none.
    IfAbsent,
    /// Replaced; nothing where there is none.
    IfPresent,
}

impl Name {
    /// The name, where it may be changed.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            ":path" => Some(Self::Path),
            ":method" => Some(Self::Method),
            ":authority" => Some(Self::Header(HOST)),
            other => HeaderName::from_bytes(other.as_bytes()).ok().map(Self::Header),
        }
    }
}

impl Allowed {
    /// Changes the request. Whether anything was to change.
    pub(super) fn change_request(&mut self, request: &mut Request<Body>) -> bool {
        let changes = !self.request.is_empty()
            || !self.remove.is_empty()
            || !self.query_set.is_empty()
            || !self.query_remove.is_empty();
        for (name, value, how) in std::mem::take(&mut self.request) {
            match name {
                Name::Header(name) => change(request.headers_mut(), name, value, how),
                Name::Path => set_path(request, value.as_bytes()),
                Name::Method => {
                    if let Ok(method) = value.as_bytes().try_into() {
                        *request.method_mut() = method;
                    }
                }
            }
        }
        for name in self.remove.drain(..).filter(|name| *name != HOST) {
            request.headers_mut().remove(name);
        }
        if !self.query_set.is_empty() || !self.query_remove.is_empty() {
            let changed = self.with_query(path(request));
            set_path(request, changed.as_bytes());
        }
        changes
    }

    /// Whether the response is to be changed.
    pub(super) fn has_response_headers(&self) -> bool {
        !self.response.is_empty()
    }

    /// Changes the response.
    pub(super) fn change_response(&mut self, headers: &mut HeaderMap) {
        for (name, value, how) in self.response.drain(..) {
            change(headers, name, value, how);
        }
    }

    /// The path with parameters set and removed.
    fn with_query(&self, path: &str) -> String {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let is_named = |name: &str| {
            self.query_remove.iter().any(|removed| removed == name)
                || self.query_set.iter().any(|(set, _)| set == name)
        };
        let kept = parameters(query).filter(|(name, _)| !is_named(name));
        let set = self.query_set.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<_> = kept.chain(set).map(|(name, value)| format!("{name}={value}")).collect();
        if all.is_empty() { path.to_owned() } else { format!("{path}?{}", all.join("&")) }
    }
}

fn change(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue, how: How) {
    match how {
        How::Set => drop(headers.insert(name, value)),
        How::Add => drop(headers.append(name, value)),
        How::Append => {
            let Some(known) = headers.get(&name) else { return };
            let joined = [known.as_bytes(), b",", value.as_bytes()].concat();
            if let Ok(joined) = HeaderValue::from_bytes(&joined) {
                headers.insert(name, joined);
            }
        }
        How::IfAbsent if !headers.contains_key(&name) => drop(headers.insert(name, value)),
        How::IfPresent if headers.contains_key(&name) => drop(headers.insert(name, value)),
        How::IfAbsent | How::IfPresent => {}
    }
}

/// What is no path changes nothing.
fn set_path(request: &mut Request<Body>, path: &[u8]) {
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
    fn headers_are_set_added_and_appended() {
        let value = HeaderValue::from_static;
        let mut headers = HeaderMap::from_iter([(HeaderName::from_static("a"), value("1"))]);
        for (name, how) in [
            ("a", How::Append),
            ("b", How::Append),
            ("a", How::IfAbsent),
            ("c", How::IfPresent),
            ("d", How::IfAbsent),
            ("d", How::Add),
        ] {
            change(&mut headers, HeaderName::from_static(name), value("2"), how);
        }
        assert_eq!(headers["a"], "1,2");
        assert!(!headers.contains_key("b") && !headers.contains_key("c"));
        assert_eq!(headers.get_all("d").iter().count(), 2);
    }

    #[test]
    fn the_path_and_its_query_change() {
        let mut request = Request::get("/a?x=1&y=2&z=3").body(Body::empty()).unwrap();
        let mut allowed = Allowed {
            request: vec![(Name::Path, HeaderValue::from_static("/b?x=1&y=2&z=3"), How::Set)],
            query_set: vec![("x".into(), "9".into())],
            query_remove: vec!["z".into()],
            ..Allowed::default()
        };
        assert!(allowed.change_request(&mut request));
        assert_eq!(request.uri(), "/b?y=2&x=9");
        assert!(!Allowed::default().change_request(&mut request));
    }
}
