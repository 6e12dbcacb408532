//! Compresses responses with gzip, Brotli or Zstandard, as the client accepts; requests too, where
//! it is told to.
//!
//! API: `envoy.extensions.filters.http.compressor.v3.Compressor`.

mod accept;
mod compile;
mod encode;

use std::sync::Arc;

use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderName, HeaderValue, UPGRADE, VARY,
};
use http::{Request, Response, StatusCode};
use xds_proto::envoy::extensions::filters::http::compressor::v3 as api;
use xds_proto::field::FieldError;

use self::encode::{Compressed, Library};
use super::HttpFilter;
use crate::body::Body;
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::Stage;
use crate::filtering::{Verdict, joined};
use crate::matcher::StringMatcher;

/// What to compress, and how.
#[derive(Debug, Clone)]
pub struct Compressor {
    library: Library,
    /// Whether responses are compressed. One that is off offers its encoding all the same: so are
    /// clients answered that like it best.
    is_enabled: bool,
    removes_accept_encoding: bool,
    settings: Arc<Settings>,
}

#[derive(Debug)]
struct Settings {
    /// Whether it is chosen where a client likes others as well.
    is_preferred: bool,
    request: Option<Messages>,
    response: Responses,
}

/// Which messages of a direction are compressed.
#[derive(Debug)]
struct Messages {
    is_enabled: bool,
    bytes_min: u64,
    /// Types without parameters.
    types: Box<[Box<str>]>,
    type_matchers: Box<[StringMatcher]>,
}

#[derive(Debug)]
struct Responses {
    messages: Messages,
    spares_etag: bool,
    weakens_etag: bool,
    spared_statuses: Box<[StatusCode]>,
}

/// What a route says.
#[derive(Debug)]
pub enum RouteCompressor {
    /// Nothing is compressed.
    Disabled,
    /// Done otherwise.
    Override {
        /// Whether responses are compressed even where the filter is off.
        enables: bool,
        /// Whether upstream hears what the client accepts.
        removes_accept_encoding: Option<bool>,
        /// Another way to compress.
        library: Option<Library>,
    },
}

/// What this filter saw the client accept. Another one before it may have taken the header off.
struct Accepted(HeaderValue);

/// What the compressors of a chain agree on.
#[derive(Debug, Default)]
struct Negotiation {
    /// The encodings of all of them, in their order.
    offers: Vec<(&'static str, Arc<Settings>)>,
    /// What the first that had to choose chose.
    choice: Option<Option<&'static str>>,
}

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
            Some(RouteCompressor::Disabled) => {
                Linked::New(Self { is_enabled: false, ..self.clone() })
            }
            Some(RouteCompressor::Override { enables, removes_accept_encoding, library }) => {
                Linked::New(Self {
                    library: library.unwrap_or(self.library),
                    is_enabled: *enables || self.is_enabled,
                    removes_accept_encoding: removes_accept_encoding
                        .unwrap_or(self.removes_accept_encoding),
                    settings: Arc::clone(&self.settings),
                })
            }
        }
    }

    async fn on_request(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        let settings = &self.settings;
        let offer = (self.library.encoding(), Arc::clone(settings));
        stage.share(|all: &mut Negotiation| all.offers.push(offer));
        if let Some(accepted) = joined(request.headers(), &ACCEPT_ENCODING) {
            stage.remember(Accepted(accepted));
        }
        if self.is_enabled && self.removes_accept_encoding {
            request.headers_mut().remove(ACCEPT_ENCODING);
        }
        if let Some(messages) = &settings.request {
            self.compress_request(messages, request);
        }
        Verdict::Continue
    }

    async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
        let responses = &self.settings.response;
        if !self.is_enabled || !responses.messages.is_long_enough(response) {
            return;
        }
        let is_compressible = responses.are_compressible(response);
        // The answer to HEAD says what GET would get, but for its length and encoding.
        let is_chosen = !response.body().is_empty()
            && self.choice(response.headers(), stage) == Some(self.library.encoding());
        if !is_compressible {
            return;
        }
        let headers = response.headers_mut();
        vary(headers);
        if !is_chosen {
            return;
        }
        responses.change_etag(headers);
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(self.library.encoding()));
        let body = std::mem::take(response.body_mut());
        *response.body_mut() = body.wrapped(|body| Compressed::new(body, self.library));
    }
}

impl Compressor {
    /// The encoding that the client likes best of those that the chain offers for such a response.
    fn choice(&self, headers: &HeaderMap, stage: &mut Stage<'_>) -> Option<&'static str> {
        let accepted = stage.recall().map(|Accepted(accepted)| accepted.clone())?;
        let negotiation = stage.shared::<Negotiation>()?;
        if let Some(choice) = negotiation.choice {
            return choice;
        }
        let offers = negotiation.offers.iter();
        let offers = offers.filter(|(_, offer)| offer.response.messages.have_type(headers));
        let offers: Vec<_> =
            offers.map(|(encoding, offer)| (*encoding, offer.is_preferred)).collect();
        let choice = accept::choose(accepted.to_str().ok()?, &offers);
        negotiation.choice = Some(choice);
        choice
    }

    fn compress_request(&self, messages: &Messages, request: &mut Request<Body>) {
        let headers = request.headers();
        let is_wanted = messages.is_enabled
            && !request.body().is_empty()
            && messages.is_long_enough(request)
            && messages.have_type(headers)
            && !headers.contains_key(CONTENT_ENCODING);
        if !is_wanted {
            return;
        }
        let headers = request.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(self.library.encoding()));
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = body.wrapped(|body| Compressed::new(body, self.library));
    }
}

/// A request or a response.
trait HttpMessage {
    fn parts(&self) -> (&HeaderMap, &Body);
}

impl HttpMessage for Request<Body> {
    fn parts(&self) -> (&HeaderMap, &Body) {
        (self.headers(), self.body())
    }
}

impl HttpMessage for Response<Body> {
    fn parts(&self) -> (&HeaderMap, &Body) {
        (self.headers(), self.body())
    }
}

impl Messages {
    /// Whether it is worth it, as far as the length is known.
    fn is_long_enough(&self, message: &impl HttpMessage) -> bool {
        let (headers, body) = message.parts();
        let said = || headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok();
        let known = || body.known().filter(|bytes| !bytes.is_empty()).map(|b| b.len() as u64);
        said().or_else(known).is_none_or(|length| length >= self.bytes_min)
    }

    fn have_type(&self, headers: &HeaderMap) -> bool {
        let Some(kind) = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()) else {
            return true;
        };
        let kind = kind.split(';').next().unwrap_or_default().trim();
        self.types.iter().any(|known| known.eq_ignore_ascii_case(kind))
            || self.type_matchers.iter().any(|matcher| matcher.matches(kind.as_bytes()))
    }
}

impl Responses {
    /// Whether such a response may be compressed, if the client accepts that.
    fn are_compressible(&self, response: &Response<Body>) -> bool {
        let headers = response.headers();
        let is_named = self.spares_etag && headers.contains_key(ETAG);
        !headers.contains_key(CONTENT_ENCODING)
            && !headers.contains_key(UPGRADE)
            && response.status() != StatusCode::PARTIAL_CONTENT
            && self.messages.have_type(headers)
            && !names(headers, &CACHE_CONTROL, "no-transform")
            && !is_named
            && !self.spared_statuses.contains(&response.status())
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

/// Whether a header that lists things names this one.
fn names(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    let mut listed = lines.flat_map(|line| line.split(','));
    listed.any(|one| one.trim().eq_ignore_ascii_case(wanted))
}

/// Caches must know that clients that accept something else get something else.
fn vary(headers: &mut HeaderMap) {
    if names(headers, &VARY, "accept-encoding") || names(headers, &VARY, "*") {
        return;
    }
    let value = match joined(headers, &VARY) {
        Some(known) => HeaderValue::from_bytes(&[known.as_bytes(), b", Accept-Encoding"].concat()),
        None => Ok(HeaderValue::from_static("Accept-Encoding")),
    };
    if let Ok(value) = value {
        headers.insert(VARY, value);
    }
}

#[cfg(test)]
mod tests;
