//! Answers that send the client elsewhere (`RedirectAction`).

use std::borrow::Cow;

use http::header::LOCATION;
use http::{HeaderValue, Response, StatusCode};

use super::RequestView;
use super::host::port_start;
use super::rewrite::PathRewrite;
use crate::format::{Context, Template};

/// Where to, and how it is said.
#[derive(Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308 (`response_code`).
    pub status: StatusCode,
    /// Another scheme (`https_redirect`, `scheme_redirect`).
    pub scheme: Option<Box<str>>,
    /// Another host, which may have a port (`host_redirect`).
    pub host: Option<Box<str>>,
    /// Another port (`port_redirect`).
    pub port: Option<u16>,
    /// Another path.
    pub path: RedirectPath,
    /// Whether the query is left out (`strip_query`).
    pub strip_query: bool,
}

/// The path to redirect to.
#[derive(Debug)]
pub enum RedirectPath {
    /// As it is.
    Same,
    /// This one (`path_redirect`); its query, if any, stands instead of the request's.
    Whole(Box<str>),
    /// The request's, rewritten (`prefix_rewrite`, `regex_rewrite`).
    Rewrite(PathRewrite),
    /// This one, rendered (`path_rewrite`); nothing rendered is the request's.
    Template(Template),
}

impl Redirect {
    /// The answer. `matched` bytes of the path were matched by the route.
    pub fn respond(&self, request: &RequestView<'_>, matched: usize) -> Response<()> {
        redirect(self.status, &self.location(request, matched))
    }

    fn location(&self, request: &RequestView<'_>, matched: usize) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let host = match &self.host {
            Some(host) => host,
            None => self.request_host(request, scheme),
        };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let path = self.path(request, matched);
        [scheme, "://", host, &port, &path].concat()
    }

    /// The request's host, without its port where that would be wrong or said twice. As in Envoy
    /// the request's own scheme is what `x-forwarded-proto` says.
    fn request_host<'a>(&self, request: &RequestView<'a>, new_scheme: &str) -> &'a str {
        let host = request.host;
        let Some(at) = port_start(host) else { return host };
        let old_scheme = request.forwarded_proto();
        let is_default = matches!((old_scheme, &host[at..]), ("https", ":443") | ("http", ":80"));
        if self.port.is_some() || (new_scheme != old_scheme && is_default) {
            &host[..at]
        } else {
            host
        }
    }

    fn path<'a>(&'a self, request: &RequestView<'a>, matched: usize) -> Cow<'a, str> {
        let query_at = request.path.find('?').unwrap_or(request.path.len());
        let query = if self.strip_query { "" } else { &request.path[query_at..] };
        let context = || Context {
            request_headers: Some(request.headers),
            method: Some(request.method),
            path: request.path,
            host: request.host,
            scheme: request.scheme,
            ..Context::default()
        };
        let whole: Cow<'a, str> = match &self.path {
            RedirectPath::Same => Cow::Borrowed(""),
            RedirectPath::Whole(path) => Cow::Borrowed(path),
            RedirectPath::Template(template) => {
                let mut path = String::new();
                template.render(&context(), &mut path);
                Cow::Owned(path)
            }
            RedirectPath::Rewrite(rewrite) => {
                let just_path = &request.path[..query_at];
                let path = rewrite.apply(just_path, matched, &context());
                return Cow::Owned(path.unwrap_or_default() + query);
            }
        };
        if whole.contains('?') {
            whole
        } else if whole.is_empty() {
            Cow::Owned([&request.path[..query_at], query].concat())
        } else {
            Cow::Owned([&whole, query].concat())
        }
    }
}

/// The redirect of `require_tls`: the same URL by https.
pub(super) fn to_https(request: &RequestView<'_>) -> Response<()> {
    let location = ["https://", request.host, request.path].concat();
    redirect(StatusCode::MOVED_PERMANENTLY, &location)
}

fn redirect(status: StatusCode, location: &str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::matcher::regex::RegexRewrite;

    fn same() -> Redirect {
        Redirect {
            status: StatusCode::FOUND,
            scheme: None,
            host: None,
            port: None,
            path: RedirectPath::Same,
            strip_query: false,
        }
    }

    fn location(redirect: &Redirect, url: &str) -> String {
        let (scheme, rest) = url.split_once("://").unwrap();
        let at = rest.find('/').unwrap();
        let request = RequestView {
            method: &Method::GET,
            host: &rest[..at],
            path: &rest[at..],
            headers: &HeaderMap::new(),
            scheme,
            random: 0,
            is_client_known: false,
            metadata: None,
        };
        let response = redirect.respond(&request, "/a".len());
        assert_eq!(response.status(), StatusCode::FOUND);
        response.headers()[LOCATION].to_str().unwrap().to_owned()
    }

    #[test]
    fn the_port_follows_envoys_rules() {
        let https = || Redirect { scheme: Some("https".into()), ..same() };
        let port = || Redirect { port: Some(8443), ..same() };
        for (redirect, url, want) in [
            (https(), "http://h/a", "https://h/a"),
            (https(), "http://h:80/a", "https://h/a"),
            (https(), "http://h:8080/a", "https://h:8080/a"),
            (https(), "https://h:443/a", "https://h:443/a"),
            (Redirect { scheme: Some("http".into()), ..same() }, "https://h:443/a", "http://h/a"),
            (https(), "http://[::1]:80/a", "https://[::1]/a"),
            (https(), "http://[::1]/a", "https://[::1]/a"),
            (port(), "http://h/a", "http://h:8443/a"),
            (port(), "http://h:80/a", "http://h:8443/a"),
            (port(), "http://h:9/a", "http://h:8443/a"),
            (Redirect { host: Some("x".into()), ..same() }, "http://h:9/a", "http://x/a"),
            (Redirect { host: Some("x".into()), ..port() }, "http://h:9/a", "http://x:8443/a"),
        ] {
            assert_eq!(location(&redirect, url), want, "{url} {redirect:?}");
        }
    }

    #[test]
    fn the_query_stays_unless_stripped_or_replaced() {
        let path = |path| Redirect { path, ..same() };
        let whole = |text: &str| path(RedirectPath::Whole(text.into()));
        let template = |text: &str| path(RedirectPath::Template(Template::compile(text).unwrap()));
        let strip = |redirect| Redirect { strip_query: true, ..redirect };
        let prefix = || path(RedirectPath::Rewrite(PathRewrite::Prefix("/b".into())));
        let regex = RegexRewrite::compile("^/a/(.*)$", "/\\1/c").unwrap();
        for (redirect, url, want) in [
            (whole("/new-1"), "http://h/old?bar=1", "http://h/new-1?bar=1"),
            (strip(whole("/new-2")), "http://h/old?bar=1", "http://h/new-2"),
            (strip(whole("/new-3?foo=1")), "http://h/old?bar=1", "http://h/new-3?foo=1"),
            (strip(same()), "http://h/a?b", "http://h/a"),
            (template("/z/%REQ(:METHOD)%"), "http://h/a?b", "http://h/z/GET?b"),
            (strip(template("/z?%REQ(:METHOD)%")), "http://h/a?b", "http://h/z?GET"),
            (template("%REQ(x)%"), "http://h/a?b", "http://h/a?b"),
            (prefix(), "http://h/a/x?y", "http://h/b/x?y"),
            (strip(prefix()), "http://h/a/x?y", "http://h/b/x"),
            (
                path(RedirectPath::Rewrite(PathRewrite::Regex(regex))),
                "http://h/a/x?y",
                "http://h/x/c?y",
            ),
        ] {
            assert_eq!(location(&redirect, url), want, "{redirect:?}");
        }
    }
}
