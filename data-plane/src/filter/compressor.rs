//! Compresses responses with gzip, Brotli or Zstandard, as the client accepts.
//!
//! API: `envoy.extensions.filters.http.compressor.v3.Compressor`.

mod accept;
mod compile;
mod encode;

use std::sync::Arc;

use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderValue, UPGRADE, VARY,
};
use http::{Request, Response, StatusCode};
use xds_proto::envoy::extensions::filters::http::compressor::v3 as api;
use xds_proto::field::FieldError;

use self::encode::{Compressed, Library};
use super::HttpFilter;
use crate::body::Body;
use crate::filtering::Verdict;
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::Stage;
use crate::matcher::StringMatcher;

/// What to compress, and how.
#[derive(Debug, Clone)]
pub struct Compressor {
    library: Library,
    removes_accept_encoding: bool,
    /// It offers its encoding and does not use it: so are clients answered that like it best, in
    /// Envoy, where a route turns it off.
    is_idle: bool,
    settings: Arc<Settings>,
}

#[derive(Debug)]
struct Settings {
    is_enabled: bool,
    bytes_min: u64,
    /// Types without parameters, in lower case.
    types: Box<[Box<str>]>,
    type_matchers: Box<[StringMatcher]>,
    spares_etag: bool,
    weakens_etag: bool,
    spared_statuses: Box<[StatusCode]>,
    prefers_first: bool,
}

/// What a route says.
#[derive(Debug)]
pub enum RouteCompressor {
    /// Nothing is compressed.
    Disabled,
    /// Done otherwise.
    Override {
        /// Whether upstream hears what the client accepts.
        removes_accept_encoding: Option<bool>,
        /// Another way to compress.
        library: Option<Library>,
    },
}

/// What the request said of encodings.
#[derive(Debug, Default)]
struct Accepted(Option<HeaderValue>);

/// The encodings that the chain offers, in its order.
#[derive(Debug, Default)]
struct Offers(Vec<&'static str>);

impl HttpFilter for Compressor {
    type Config = api::Compressor;
    type RouteConfig = api::CompressorPerRoute;
    type Route = RouteCompressor;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        compile::compile(config)
    }

    fn compile_route(config: Self::RouteConfig) -> Result<RouteCompressor, FieldError> {
        compile::route(config)
    }

    fn link(&self, routes: &[&RouteCompressor], _: &mut Linker<'_>) -> Linked<Self> {
        match routes.last() {
            None => Linked::Same,
            Some(RouteCompressor::Disabled) => Linked::New(Self { is_idle: true, ..self.clone() }),
            Some(RouteCompressor::Override { removes_accept_encoding, library }) => {
                Linked::New(Self {
                    library: library.unwrap_or(self.library),
                    removes_accept_encoding: removes_accept_encoding
                        .unwrap_or(self.removes_accept_encoding),
                    is_idle: false,
                    settings: Arc::clone(&self.settings),
                })
            }
        }
    }

    async fn on_request(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        if !self.settings.is_enabled {
            return Verdict::Continue;
        }
        let encoding = self.library.encoding();
        let accepted = request.headers().get(ACCEPT_ENCODING).cloned();
        stage.share(|offers: &mut Offers| offers.0.push(encoding));
        // The first compressor may have taken the header off.
        if accepted.is_some() {
            stage.share(|known: &mut Accepted| known.0 = accepted);
        }
        if self.removes_accept_encoding {
            request.headers_mut().remove(ACCEPT_ENCODING);
        }
        Verdict::Continue
    }

    async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
        let settings = &self.settings;
        if self.is_idle || !settings.is_enabled || !settings.may_compress(response) {
            return;
        }
        let accepted = stage.shared().and_then(|Accepted(accepted)| accepted.clone());
        let offers = stage.shared().map(|Offers(offers)| offers.clone()).unwrap_or_default();
        let chosen = accepted.and_then(|accepted| {
            accept::choose(accepted.to_str().ok()?, &offers, settings.prefers_first)
        });
        let is_bare = response.body().is_empty();
        let headers = response.headers_mut();
        vary(headers);
        // The answer to HEAD says what GET would get, but for its length and encoding.
        if chosen != Some(self.library.encoding()) || is_bare {
            return;
        }
        settings.change_etag(headers);
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(self.library.encoding()));
        let body = std::mem::take(response.body_mut());
        *response.body_mut() = body.wrapped(|body| Compressed::new(body, self.library));
    }
}

impl Settings {
    /// Whether the response is one to compress, if the client accepts that.
    fn may_compress(&self, response: &Response<Body>) -> bool {
        let headers = response.headers();
        let length = || headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok();
        let length = length().or_else(|| http_body::Body::size_hint(response.body()).exact());
        let forbids = headers
            .get_all(CACHE_CONTROL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|part| part.trim() == "no-transform"));
        !headers.contains_key(CONTENT_ENCODING)
            && !headers.contains_key(UPGRADE)
            && response.status() != StatusCode::PARTIAL_CONTENT
            && length.is_none_or(|length| length >= self.bytes_min)
            && self.has_type(headers)
            && !forbids
            && !(self.spares_etag && headers.contains_key(ETAG))
            && !self.spared_statuses.contains(&response.status())
    }

    fn has_type(&self, headers: &HeaderMap) -> bool {
        let Some(kind) = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()) else {
            return true;
        };
        let kind = kind.split(';').next().unwrap_or_default().trim();
        self.types.iter().any(|known| known.eq_ignore_ascii_case(kind))
            || self.type_matchers.iter().any(|matcher| matcher.matches(kind.as_bytes()))
    }

    /// A strong tag names other bytes than those that are sent now.
    fn change_etag(&self, headers: &mut HeaderMap) {
        let Some(tag) = headers.get(ETAG) else { return };
        let is_weak = tag.as_bytes().starts_with(b"W/") || tag.as_bytes().starts_with(b"w/");
        if is_weak {
            return;
        }
        let weakened = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat());
        match weakened.ok().filter(|_| self.weakens_etag) {
            Some(weakened) => drop(headers.insert(ETAG, weakened)),
            None => drop(headers.remove(ETAG)),
        }
    }
}

/// Caches must know that clients that accept something else get something else.
fn vary(headers: &mut HeaderMap) {
    let lines = headers.get_all(VARY).iter().filter_map(|line| line.to_str().ok());
    let mut named = lines.flat_map(|line| line.split(','));
    if named.any(|name| name.trim().eq_ignore_ascii_case("accept-encoding") || name.trim() == "*") {
        return;
    }
    let value = match headers.get(VARY).and_then(|known| known.to_str().ok()) {
        Some(known) => HeaderValue::try_from(format!("{known}, Accept-Encoding")),
        None => Ok(HeaderValue::from_static("Accept-Encoding")),
    };
    if let Ok(value) = value {
        headers.insert(VARY, value);
    }
}

#[cfg(test)]
mod tests;
