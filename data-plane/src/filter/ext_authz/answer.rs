//! What the service says, and what that changes.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Request, StatusCode};
use serde_json::{Map, Value};

use crate::body::Body;
use crate::filtering::header_rules::{HeaderRules, Ruling};
use crate::filtering::query::{Query, set_path};

/// What the service says.
#[derive(Debug)]
pub(super) enum Answer {
    /// The request may pass.
    Allowed(Box<Allowed>),
    /// It may not, and this is what the client hears.
    Denied(Box<Refusal>),
    /// Nothing that helps, perhaps with what the client hears.
    Failed(Option<Box<Refusal>>),
    /// Changes that no message may have.
    Invalid,
}

impl Answer {
    /// Notes how long it took, where anything is noted.
    pub(super) fn note_duration(&mut self, took: Duration) {
        let metadata = match self {
            Self::Allowed(allowed) => allowed.metadata.as_mut(),
            Self::Denied(refusal) => refusal.metadata.as_mut(),
            Self::Failed(_) | Self::Invalid => None,
        };
        if let Some(values) = metadata {
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            values.insert("ext_authz_duration".to_owned(), ms.into());
        }
    }
}

/// What the client hears of a refusal.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    /// None: what the filter says.
    pub(super) status: Option<StatusCode>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) metadata: Option<Map<String, Value>>,
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

    /// The name as rules have it.
    fn as_str(&self) -> &str {
        match self {
            Self::Path => ":path",
            Self::Method => ":method",
            Self::Header(name) => name.as_str(),
        }
    }

    fn is_pseudo(&self) -> bool {
        !matches!(self, Self::Header(name) if *name != HOST)
    }
}

impl Allowed {
    /// Whether the request is to be changed.
    pub(super) fn has_request_changes(&self) -> bool {
        !self.request.is_empty()
            || !self.remove.is_empty()
            || !self.query_set.is_empty()
            || !self.query_remove.is_empty()
    }

    /// Changes the request as far as the rules allow; false where they have the request fail.
    pub(super) fn change_request(
        &mut self,
        request: &mut Request<Body>,
        rules: &HeaderRules,
    ) -> bool {
        for (name, value, how) in std::mem::take(&mut self.request) {
            // Who is bound by rules may not append to what is no real header.
            let is_appended = rules.are_set() && how == How::Append && name.is_pseudo();
            match rules.rule(name.as_str()) {
                Ruling::Make if !is_appended => {}
                Ruling::Make | Ruling::Skip => continue,
                Ruling::Fail => return false,
            }
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
        for name in std::mem::take(&mut self.remove).into_iter().filter(|name| *name != HOST) {
            match rules.rule(name.as_str()) {
                Ruling::Make => drop(request.headers_mut().remove(name)),
                Ruling::Skip => {}
                Ruling::Fail => return false,
            }
        }
        if !self.query_set.is_empty() || !self.query_remove.is_empty() {
            Query::change(request, |query| {
                self.query_set.iter().for_each(|(name, value)| query.set(name, value));
                self.query_remove.iter().for_each(|name| query.remove(name));
            });
        }
        true
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
        assert!(allowed.has_request_changes() && !Allowed::default().has_request_changes());
        assert!(allowed.change_request(&mut request, &HeaderRules::default()));
        assert_eq!(request.uri(), "/b?x=9&y=2");
    }
}
