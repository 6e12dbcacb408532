//! New paths and hosts for a request on its way upstream.

use std::borrow::Cow;

use http::header::{HOST, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};

use crate::format::{Context, Template};
use crate::matcher::regex::RegexRewrite;

/// Where Envoy keeps the path from before a rewrite.
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// Where Envoy keeps the host from before a rewrite.
const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// How the path changes; the query stays.
#[derive(Debug)]
pub enum PathRewrite {
    /// What the route matched is replaced (`prefix_rewrite`).
    Prefix(Box<str>),
    /// Every match in the path is replaced (`regex_rewrite`).
    Regex(RegexRewrite),
    /// All of the path is replaced, unless what is rendered is empty (`path_rewrite`).
    Template(Template),
}

impl PathRewrite {
    /// The new path and query, if it changes. `matched` bytes of the path were matched by the route.
    pub(super) fn apply(
        &self,
        path: &str,
        matched: usize,
        context: &Context<'_>,
    ) -> Option<String> {
        let (just_path, query) = path.split_at(path_end(path));
        let new = match self {
            Self::Prefix(replacement) => {
                return Some([replacement, path.get(matched..).unwrap_or(query)].concat());
            }
            Self::Regex(rewrite) => rewrite.apply(just_path),
            Self::Template(template) => {
                let mut rendered = String::new();
                template.render(context, &mut rendered);
                if rendered.is_empty() {
                    return None;
                }
                rendered
            }
        };
        Some(new + query)
    }
}

/// Where the path ends and the query or fragment begins.
pub(super) fn path_end(path: &str) -> usize {
    path.find(['?', '#']).unwrap_or(path.len())
}

/// What the host becomes (`RouteAction.host_rewrite_specifier`).
#[derive(Debug)]
pub enum HostRewrite {
    /// Always this (`host_rewrite_literal`).
    Literal(HeaderValue),
    /// The host name of the endpoint that is chosen (`auto_host_rewrite`); the proxy sets it, with
    /// [`super::Found::rewrite_host_to`].
    Auto,
    /// The value of this header, if it has one (`host_rewrite_header`).
    Header(HeaderName),
    /// The path, after this (`host_rewrite_path_regex`).
    PathRegex(RegexRewrite),
}

impl HostRewrite {
    /// The new host, if there is one to set before an endpoint is chosen.
    pub(super) fn host<'a>(
        &'a self,
        path: &str,
        headers: &'a HeaderMap,
    ) -> Option<Cow<'a, HeaderValue>> {
        let host = match self {
            Self::Literal(host) => Some(Cow::Borrowed(host)),
            Self::Auto => None,
            Self::Header(name) => headers.get(name).map(Cow::Borrowed),
            Self::PathRegex(rewrite) => {
                let host = rewrite.apply(&path[..path_end(path)]);
                HeaderValue::try_from(host).ok().map(Cow::Owned)
            }
        };
        host.filter(|host| !host.is_empty())
    }
}

/// Puts a new path into the request; one that no URI can have changes nothing.
pub(super) fn set_path(uri: &mut Uri, path: &str) {
    let Ok(path) = PathAndQuery::try_from(path) else { return };
    let mut parts = std::mem::take(uri).into_parts();
    if parts.authority.is_some() && parts.scheme.is_none() {
        // An authority alone is a CONNECT request, which has no path to change.
        *uri = Uri::from_parts(parts).unwrap_or_default();
        return;
    }
    parts.path_and_query = Some(path);
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Puts a new host into the request: the `Host` header, and the URI's authority where it has one.
pub(super) fn set_host(uri: &mut Uri, headers: &mut HeaderMap, host: HeaderValue) {
    if uri.authority().is_some()
        && let Ok(authority) = http::uri::Authority::try_from(host.as_bytes())
    {
        let before = uri.clone();
        let mut parts = std::mem::take(uri).into_parts();
        parts.authority = Some(authority);
        *uri = Uri::from_parts(parts).unwrap_or(before);
    }
    headers.insert(HOST, host);
}

/// The host of a request: the URI's authority (HTTP/2), else the `Host` header.
pub(super) fn host_of(uri: &Uri, headers: &HeaderMap) -> Option<HeaderValue> {
    match uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => headers.get(HOST).cloned(),
    }
}

/// Notes the path from before a rewrite.
pub(super) fn keep_path(headers: &mut HeaderMap, path: &str) {
    if let Ok(path) = HeaderValue::from_str(path) {
        headers.insert(ORIGINAL_PATH, path);
    }
}

/// Notes the host from before a rewrite.
pub(super) fn keep_host(headers: &mut HeaderMap, host: &HeaderValue) {
    headers.insert(ORIGINAL_HOST, host.clone());
}

/// Adds the host from before a rewrite to `x-forwarded-host`, unless it is the last one there.
/// As in Envoy `a, b` ends with ` b`, which is not `b`.
pub(super) fn append_forwarded_host(headers: &mut HeaderMap, host: &HeaderValue) {
    let value = match headers.get(FORWARDED_HOST) {
        None => host.clone(),
        Some(present) => {
            let last = present.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
            if last == host.as_bytes() {
                return;
            }
            let joined = [present.as_bytes(), b",", host.as_bytes()].concat();
            let Ok(joined) = HeaderValue::from_bytes(&joined) else { return };
            joined
        }
    };
    headers.insert(FORWARDED_HOST, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewrite_keeps_the_query() {
        let regex = RegexRewrite::compile("^/re/([^/]+)/(.*)$", "/\\2/by/\\1").unwrap();
        let context = Context { host: "h", ..Context::default() };
        for (rewrite, path, matched, want) in [
            (PathRewrite::Prefix("/new/".into()), "/old/x?y=1", 5, "/new/x?y=1"),
            (PathRewrite::Prefix("/".into()), "/svc", 4, "/"),
            (PathRewrite::Prefix("/".into()), "/svc/x", 4, "//x"),
            (PathRewrite::Regex(regex.clone()), "/re/u/p/q?z=1", 4, "/p/q/by/u?z=1"),
            (PathRewrite::Regex(regex), "/re/onlyone", 4, "/re/onlyone"),
            (
                PathRewrite::Template(Template::compile("/%REQ(:AUTHORITY)%").unwrap()),
                "/x?y",
                1,
                "/h?y",
            ),
            (PathRewrite::Template(Template::compile("%REQ(x)%").unwrap()), "/x?y", 1, "same"),
        ] {
            let got = rewrite.apply(path, matched, &context);
            assert_eq!(got.as_deref().unwrap_or("same"), want, "{rewrite:?}");
        }
    }

    #[test]
    fn a_new_host_goes_into_the_header_and_the_authority() {
        let mut headers = HeaderMap::new();
        let mut uri: Uri = "http://a.test/p?q".parse().unwrap();
        set_host(&mut uri, &mut headers, HeaderValue::from_static("b.test:1"));
        assert_eq!(uri.to_string(), "http://b.test:1/p?q");
        assert_eq!(headers[HOST], "b.test:1");
        let mut uri: Uri = "/p".parse().unwrap();
        set_host(&mut uri, &mut headers, HeaderValue::from_static("c.test"));
        assert_eq!((uri.to_string().as_str(), headers[HOST].to_str().unwrap()), ("/p", "c.test"));
    }

    #[test]
    fn the_last_forwarded_host_is_not_repeated() {
        let mut headers = HeaderMap::new();
        for (host, want) in [("a", "a"), ("a", "a"), ("b", "a,b"), ("a", "a,b,a")] {
            append_forwarded_host(&mut headers, &HeaderValue::from_static(host));
            assert_eq!(headers[FORWARDED_HOST], want);
        }
    }
}
