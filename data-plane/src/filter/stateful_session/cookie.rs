//! The cookie that carries a session, as Envoy writes it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{COOKIE, HeaderMap};
use prost::Message;
use xds_proto::convert::optional_duration;
use xds_proto::envoy::r#type::http::v3 as api;
use xds_proto::field::{FieldError, required_text};
use xds_proto::fields;

/// What the cookie is called and what browsers are told of it.
#[derive(Debug)]
pub(super) struct Cookie {
    name: Box<str>,
    path: Box<str>,
    lifetime: Duration,
    attributes: Box<str>,
}

/// What the value of the cookie is made of: the fields of Envoy's own message.
#[derive(Clone, PartialEq, Message)]
struct Session {
    #[prost(string, tag = "1")]
    address: String,
    /// Seconds since 1970; 0 is never.
    #[prost(int64, tag = "2")]
    expires: i64,
}

pub(super) fn compile(message: api::Cookie) -> Result<Cookie, FieldError> {
    fields!(message: api::Cookie, read: [name, ttl, path, attributes], ignore: [], refuse: []);
    let mut text = String::new();
    for attribute in attributes {
        text.push_str("; ");
        text.push_str(&attribute.name);
        if !attribute.value.is_empty() {
            text.push('=');
            text.push_str(&attribute.value);
        }
    }
    Ok(Cookie {
        name: required_text(name, "name")?.into(),
        path: path.into(),
        lifetime: optional_duration(ttl.as_ref(), "ttl")?.unwrap_or_default(),
        attributes: text.into(),
    })
}

impl Cookie {
    /// Whether browsers send it to this path.
    pub(super) fn is_for(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(&*self.path) else { return false };
        self.path.is_empty()
            || self.path.ends_with('/')
            || rest.is_empty()
            || rest.starts_with(['/', '?', '#'])
    }

    /// What the request's cookie names as its endpoint, unless it is too old.
    pub(super) fn read(&self, headers: &HeaderMap) -> Option<Vec<u8>> {
        let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let value = lines
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find_map(|(name, value)| (*name == *self.name).then_some(value))?;
        let bytes = STANDARD.decode(value.trim_matches('"')).ok()?;
        // Envoy takes the bare address, too, which it wrote once.
        let Ok(session) = Session::decode(bytes.as_slice()) else { return Some(bytes) };
        let is_old = session.expires != 0 && session.expires < seconds_now();
        (!is_old && !session.address.is_empty()).then(|| session.address.into_bytes())
    }

    /// The `set-cookie` header for an endpoint.
    pub(super) fn write(&self, endpoint: SocketAddr) -> String {
        let lifetime = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX);
        let expires = if lifetime == 0 { 0 } else { seconds_now().saturating_add(lifetime) };
        let session = Session { address: endpoint.to_string(), expires };
        let mut text = format!("{}=\"{}\"", self.name, STANDARD.encode(session.encode_to_vec()));
        if lifetime > 0 {
            text.push_str(&format!("; Max-Age={lifetime}"));
        }
        if !self.path.is_empty() {
            text.push_str("; Path=");
            text.push_str(&self.path);
        }
        text.push_str(&self.attributes);
        text.push_str("; HttpOnly");
        text
    }
}

fn seconds_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(lifetime: u64) -> Cookie {
        Cookie {
            name: "s".into(),
            path: "/".into(),
            lifetime: Duration::from_secs(lifetime),
            attributes: "; SameSite=Lax".into(),
        }
    }

    #[test]
    fn attributes_are_told_to_browsers() {
        let text = cookie(0).write("10.0.0.1:80".parse().unwrap());
        assert!(text.ends_with("\"; Path=/; SameSite=Lax; HttpOnly"), "{text}");
    }

    #[test]
    fn a_cookie_that_is_too_old_names_nobody() {
        for (expires, is_read) in [(1, false), (seconds_now() + 60, true), (0, true)] {
            let session = Session { address: "10.0.0.1:80".into(), expires };
            let value = format!("a=b; s={}", STANDARD.encode(session.encode_to_vec()));
            let headers = HeaderMap::from_iter([(COOKIE, value.parse().unwrap())]);
            assert_eq!(cookie(60).read(&headers).is_some(), is_read);
        }
    }
}
