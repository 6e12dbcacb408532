//! What a request is hashed by, so that like requests go to one endpoint (`RouteAction.HashPolicy`).

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use twox_hash::XxHash64;

use super::regex::RegexRewrite;

/// What a request is hashed by. Each part that is there adds to the hash.
#[derive(Debug, Clone, Default)]
pub struct HashPolicy(Box<[Part]>);

/// One part of a request.
#[derive(Debug, Clone)]
pub struct Part {
    /// Which.
    pub source: Source,
    /// With a hash so far, the parts that follow do not matter.
    pub is_terminal: bool,
}

/// Which part of a request is hashed.
#[derive(Debug, Clone)]
pub enum Source {
    /// All values of a header, in any order.
    Header(HeaderName, Option<RegexRewrite>),
    /// A cookie.
    Cookie(CookieSource),
    /// The client's IP address.
    SourceIp,
    /// The first value of a query parameter, as it stands in the path.
    Query(Box<str>),
}

/// A cookie that is hashed, and made where the client has none.
#[derive(Debug, Clone)]
pub struct CookieSource {
    /// Its name.
    pub name: Box<str>,
    /// How long a new one lasts, zero as long as the session; `None`: none is made.
    pub ttl: Option<Duration>,
    /// What follows the value of a new one: path, attributes.
    pub suffix: Box<str>,
}

/// What is hashed of a request.
#[derive(Debug, Clone, Copy)]
pub struct HashView<'a> {
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Path and query.
    pub path: &'a str,
    /// The client's IP address, trusted headers considered.
    pub client: IpAddr,
    /// The two ends of its connection: the client's and ours.
    pub connection: (SocketAddr, SocketAddr),
}

/// The hash of a text, as Envoy has it.
pub fn hash_text(text: &[u8]) -> u64 {
    XxHash64::oneshot(0, text)
}

impl HashPolicy {
    /// A policy of these parts.
    pub fn new(parts: Vec<Part>) -> Self {
        Self(parts.into())
    }

    /// Whether nothing is hashed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The hash of a request, if any part of it is there. Cookies are made where `made` takes them,
    /// as values of `set-cookie`.
    pub fn hash(
        &self,
        view: &HashView<'_>,
        mut made: Option<&mut Vec<HeaderValue>>,
    ) -> Option<u64> {
        let mut hash: Option<u64> = None;
        for part in &self.0 {
            if let Some(new) = part.source.hash(view, made.as_deref_mut()) {
                // Rotated, so that two equal parts do not cancel each other out.
                hash = Some(hash.map_or(0, |old| old.rotate_left(1)) ^ new);
            }
            if part.is_terminal && hash.is_some() {
                break;
            }
        }
        hash
    }
}

impl Source {
    fn hash(&self, view: &HashView<'_>, made: Option<&mut Vec<HeaderValue>>) -> Option<u64> {
        match self {
            Self::Header(name, rewrite) => header(view.headers, name, rewrite.as_ref()),
            Self::Cookie(source) => source.hash(view, made),
            Self::SourceIp => Some(hash_text(view.client.to_string().as_bytes())),
            Self::Query(name) => {
                let (_, query) = view.path.split_once('?')?;
                let query = query.split_once('#').map_or(query, |(query, _)| query);
                let value = query.split('&').find_map(|parameter| {
                    let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                    (key == &**name).then_some(value)
                });
                value.map(|value| hash_text(value.as_bytes()))
            }
        }
    }
}

/// Each value seeds the hash of the next one, in sorted order.
fn header(headers: &HeaderMap, name: &HeaderName, rewrite: Option<&RegexRewrite>) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if rewrite.is_none() && values.next().is_none() {
        return Some(hash_text(first.as_bytes()));
    }
    let values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let mut values: Vec<Vec<u8>> = match rewrite {
        None => values.map(<[u8]>::to_vec).collect(),
        Some(rewrite) => values
            .map(|value| rewrite.apply(&String::from_utf8_lossy(value)).into_bytes())
            .collect(),
    };
    values.sort_unstable();
    Some(values.iter().fold(0, |seed, value| XxHash64::oneshot(seed, value)))
}

impl CookieSource {
    fn hash(&self, view: &HashView<'_>, made: Option<&mut Vec<HeaderValue>>) -> Option<u64> {
        if let Some(value) = cookie(view.headers, &self.name) {
            return Some(hash_text(value));
        }
        let (ttl, made) = (self.ttl?, made?);
        // The same for the whole connection: its first requests may come together.
        let (remote, local) = view.connection;
        let value = format!("{:016x}", hash_text(format!("{remote}{local}").as_bytes()));
        let mut text = format!("{}=\"{value}\"", self.name);
        if !ttl.is_zero() {
            // Writing to a String does not fail.
            let _infallible = write!(text, "; Max-Age={}", ttl.as_secs());
        }
        text.push_str(&self.suffix);
        made.push(HeaderValue::try_from(text).ok()?);
        Some(hash_text(value.as_bytes()))
    }
}

/// The first cookie of that name which has a value, without its quotes.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|v| v.as_bytes().split(|b| *b == b';'));
    let value = pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let rest = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        let quoted = rest.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        Some(quoted.unwrap_or(rest))
    });
    value.filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<'a>(headers: &'a HeaderMap, path: &'a str) -> HashView<'a> {
        HashView {
            headers,
            path,
            client: [10, 0, 0, 1].into(),
            connection: (([10, 0, 0, 1], 1000).into(), ([127, 0, 0, 1], 80).into()),
        }
    }

    fn headers(values: &[(&'static str, &'static str)]) -> HeaderMap {
        values
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect()
    }

    fn part(source: Source, is_terminal: bool) -> Part {
        Part { source, is_terminal }
    }

    fn by_header(name: &'static str) -> Source {
        Source::Header(HeaderName::from_static(name), None)
    }

    #[test]
    fn texts_hash_as_in_envoy() {
        assert_eq!(hash_text(b"foo"), 3_728_699_739_546_630_719);
        assert_eq!(hash_text(b"bar"), 5_234_164_152_756_840_025);
        assert_eq!(XxHash64::oneshot(hash_text(b"foo"), b"bar"), 17_745_830_980_996_999_794);
    }

    #[test]
    fn the_values_of_a_header_hash_in_any_order_as_in_envoy() {
        let policy = HashPolicy::new(vec![part(by_header("x"), false)]);
        for values in [["bar", "foo"], ["foo", "bar"]] {
            let headers = headers(&[("x", values[0]), ("x", values[1])]);
            let sorted = XxHash64::oneshot(hash_text(b"bar"), b"foo");
            assert_eq!(policy.hash(&view(&headers, "/"), None), Some(sorted));
        }
        assert_eq!(policy.hash(&view(&HeaderMap::new(), "/"), None), None);
    }

    #[test]
    fn parts_add_up_until_a_terminal_one() {
        let both = |is_terminal| {
            HashPolicy::new(vec![
                part(by_header("x"), is_terminal),
                part(Source::Query("u".into()), false),
            ])
        };
        let headers = headers(&[("x", "foo")]);
        let (foo, bar) = (hash_text(b"foo"), hash_text(b"bar"));
        let at = view(&headers, "/?v=1&u=bar&u=2");
        assert_eq!(both(false).hash(&at, None), Some(foo.rotate_left(1) ^ bar));
        assert_eq!(both(true).hash(&at, None), Some(foo));
        let none = HeaderMap::new();
        assert_eq!(both(true).hash(&view(&none, "/?u=bar"), None), Some(bar));
        assert_eq!(both(true).hash(&view(&none, "/"), None), None);
    }

    #[test]
    fn a_cookie_is_made_once_for_a_connection_and_then_hashes_the_same() {
        let source = CookieSource {
            name: "sid".into(),
            ttl: Some(Duration::from_secs(60)),
            suffix: "; Path=/; HttpOnly".into(),
        };
        let policy = HashPolicy::new(vec![part(Source::Cookie(source), false)]);
        let (none, mut made) = (HeaderMap::new(), Vec::new());
        assert_eq!(policy.hash(&view(&none, "/"), None), None);
        let hash = policy.hash(&view(&none, "/"), Some(&mut made));
        let text = made[0].to_str().unwrap();
        let (cookie, rest) = text.split_once("; ").unwrap();
        assert_eq!(rest, "Max-Age=60; Path=/; HttpOnly");
        let mut sent = HeaderMap::new();
        sent.insert(COOKIE, format!("a=b; {cookie}").parse().unwrap());
        made.clear();
        assert_eq!(policy.hash(&view(&sent, "/"), Some(&mut made)), hash);
        assert!(made.is_empty());
    }

    #[test]
    fn the_client_is_hashed_by_its_address() {
        let policy = HashPolicy::new(vec![part(Source::SourceIp, false)]);
        let none = HeaderMap::new();
        assert_eq!(policy.hash(&view(&none, "/"), None), Some(hash_text(b"10.0.0.1")));
    }
}
