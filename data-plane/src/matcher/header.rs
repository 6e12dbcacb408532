//! Whether a header is the one asked for (`envoy.config.route.v3.HeaderMatcher`).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Method};

use super::StringMatcher;
use crate::format::mutation::{Side, is_one_line};

/// The headers to look at, pseudo-headers among them.
#[derive(Debug, Clone, Copy)]
pub struct HeaderView<'a> {
    /// `:method`.
    pub method: Option<&'a Method>,
    /// `:path`, with the query.
    pub path: Option<&'a str>,
    /// `:authority`, also asked for as `host`.
    pub host: Option<&'a str>,
    /// `:scheme`.
    pub scheme: Option<&'a str>,
    /// All others.
    pub headers: &'a HeaderMap,
}

impl<'a> HeaderView<'a> {
    /// The headers of a response.
    pub fn response(headers: &'a HeaderMap) -> Self {
        Self { method: None, path: None, host: None, scheme: None, headers }
    }
}

/// A condition on one header.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    name: MatchedName,
    test: HeaderTest,
    invert: bool,
    missing_is_empty: bool,
}

/// Whose value is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MatchedName {
    /// `:method`.
    Method,
    /// `:path`.
    Path,
    /// `:authority` or `host`.
    Authority,
    /// `:scheme`.
    Scheme,
    /// A header.
    Header {
        /// Its name.
        name: HeaderName,
        /// Whether Envoy joins several lines of it with a comma; else each is looked at alone.
        is_one_line: bool,
    },
    /// A pseudo-header that no request here has.
    Never,
}

/// What is asked of the value (`header_match_specifier`).
#[derive(Debug, Clone)]
pub enum HeaderTest {
    /// Whether there is one (`present_match`); true also when nothing is specified.
    Present(bool),
    /// The text of it.
    Text(StringMatcher),
    /// Whether it is a whole number from `start` to below `end`.
    Range {
        /// The first that matches.
        start: i64,
        /// The first that no longer does.
        end: i64,
    },
}

impl MatchedName {
    /// The name, any case; none when it cannot name a header.
    pub fn parse(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        Some(match lower.as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            pseudo if pseudo.starts_with(':') => Self::Never,
            other => {
                let name = HeaderName::from_bytes(other.as_bytes()).ok()?;
                let is_one_line = is_one_line(&name, Side::Request);
                Self::Header { name, is_one_line }
            }
        })
    }

    /// The value, several lines joined with a comma; none when there is no line.
    pub fn joined<'a>(&self, view: &HeaderView<'a>) -> Option<Cow<'a, [u8]>> {
        let text = match self {
            Self::Method => view.method.map(Method::as_str),
            Self::Path => view.path,
            Self::Authority => view.host,
            Self::Scheme => view.scheme,
            Self::Never => None,
            Self::Header { name, .. } => return joined(view.headers, name),
        };
        text.map(|text| Cow::Borrowed(text.as_bytes()))
    }

    /// Whether a line of it passes the test; none when there is no line.
    fn any(&self, view: &HeaderView<'_>, test: &HeaderTest) -> Option<bool> {
        let text = match self {
            Self::Method => view.method.map(Method::as_str),
            Self::Path => view.path,
            Self::Authority => view.host,
            Self::Scheme => view.scheme,
            Self::Never => None,
            Self::Header { name, is_one_line } => {
                if *is_one_line {
                    return joined(view.headers, name).map(|value| test.matches(&value));
                }
                let mut lines = view.headers.get_all(name).iter();
                let first = lines.next()?.as_bytes();
                let mut rest = lines.map(|line| line.as_bytes());
                return Some(test.matches(first) || rest.any(|line| test.matches(line)));
            }
        };
        text.map(|text| test.matches(text.as_bytes()))
    }
}

/// The lines of a header, joined with a comma; none where there is none.
pub fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.get_all(name).iter();
    let mut joined = Cow::Borrowed(lines.next()?.as_bytes());
    for line in lines {
        let joined = joined.to_mut();
        joined.push(b',');
        joined.extend_from_slice(line.as_bytes());
    }
    Some(joined)
}

impl HeaderMatcher {
    /// A condition. `invert` turns the result of the test, but a missing header does not match
    /// either way unless `missing_is_empty` (`treat_missing_header_as_empty`).
    pub fn new(name: MatchedName, test: HeaderTest, invert: bool, missing_is_empty: bool) -> Self {
        Self { name, test, invert, missing_is_empty }
    }

    /// Whether the condition holds. Of several lines one must pass the test, as in Envoy 1.40.
    pub fn matches(&self, view: &HeaderView<'_>) -> bool {
        match (self.name.any(view, &self.test), &self.test) {
            (Some(passes), _) => passes != self.invert,
            (None, test) if self.missing_is_empty => test.matches(b"") != self.invert,
            (None, HeaderTest::Present(present)) => *present == self.invert,
            (None, HeaderTest::Text(_) | HeaderTest::Range { .. }) => false,
        }
    }
}

impl HeaderTest {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Present(present) => *present,
            Self::Text(matcher) => matcher.matches(value),
            Self::Range { start, end } => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .is_some_and(|number| (*start..*end).contains(&number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;
    use super::*;

    fn matches(test: HeaderTest, invert: bool, missing_is_empty: bool, lines: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-a", line.parse().unwrap());
        }
        let name = MatchedName::parse("X-A").unwrap();
        HeaderMatcher::new(name, test, invert, missing_is_empty)
            .matches(&HeaderView::response(&headers))
    }

    fn exact(text: &str) -> HeaderTest {
        HeaderTest::Text(StringMatcher::new(Pattern::Exact(text.into()), false))
    }

    #[test]
    fn one_of_several_lines_must_pass() {
        for (text, invert, lines, want) in [
            ("a", false, &["a", "b"][..], true),
            ("b", false, &["a", "b"], true),
            ("a,b", false, &["a", "b"], false),
            ("b", true, &["a", "b"], false),
            ("z", true, &["a", "b"], true),
        ] {
            assert_eq!(matches(exact(text), invert, false, lines), want, "{text} {invert}");
        }
    }

    #[test]
    fn headers_of_one_line_are_joined_first() {
        let mut headers = HeaderMap::new();
        headers.append("accept", "a".parse().unwrap());
        headers.append("accept", "b".parse().unwrap());
        for (text, want) in [("a,b", true), ("a", false)] {
            let name = MatchedName::parse("accept").unwrap();
            let matcher = HeaderMatcher::new(name, exact(text), false, false);
            assert_eq!(matcher.matches(&HeaderView::response(&headers)), want, "{text}");
        }
    }

    #[test]
    fn a_missing_header_matches_neither_way_unless_it_counts_as_empty() {
        for (test, invert, missing_is_empty, want) in [
            (exact("a"), false, false, false),
            (exact("a"), true, false, false),
            (exact("a"), true, true, true),
            (exact(""), false, true, true),
            (HeaderTest::Range { start: 0, end: 9 }, true, false, false),
            (HeaderTest::Range { start: 0, end: 9 }, true, true, true),
            (HeaderTest::Present(true), false, false, false),
            (HeaderTest::Present(true), true, false, true),
            (HeaderTest::Present(false), false, false, true),
            (HeaderTest::Present(false), true, false, false),
            (HeaderTest::Present(true), false, true, true),
        ] {
            let got = matches(test.clone(), invert, missing_is_empty, &[]);
            assert_eq!(got, want, "{test:?} {invert} {missing_is_empty}");
        }
    }

    #[test]
    fn a_present_header_matches_even_when_empty() {
        assert!(matches(HeaderTest::Present(true), false, false, &[""]));
        assert!(!matches(HeaderTest::Present(false), false, false, &[""]));
        assert!(matches(HeaderTest::Present(false), true, false, &[""]));
    }

    #[test]
    fn a_range_takes_whole_numbers_and_leaves_out_its_end() {
        for (text, want) in [
            ("10", true),
            ("+19", true),
            ("20", false),
            ("9", false),
            ("x", false),
            ("", false),
            ("10.5", false),
        ] {
            let test = HeaderTest::Range { start: 10, end: 20 };
            assert_eq!(matches(test, false, false, &[text]), want, "{text}");
        }
    }

    #[test]
    fn pseudo_headers_are_headers_too() {
        let headers = HeaderMap::new();
        let view = HeaderView {
            method: Some(&Method::PUT),
            path: Some("/a?b"),
            host: Some("h.test"),
            scheme: Some("http"),
            headers: &headers,
        };
        for (name, text, want) in [
            (":method", "PUT", true),
            (":path", "/a?b", true),
            (":authority", "h.test", true),
            ("Host", "h.test", true),
            (":scheme", "http", true),
            (":protocol", "websocket", false),
        ] {
            let name = MatchedName::parse(name).unwrap();
            let matcher = HeaderMatcher::new(name.clone(), exact(text), false, false);
            assert_eq!(matcher.matches(&view), want, "{name:?}");
        }
        assert_eq!(MatchedName::parse("a b"), None);
    }
}
