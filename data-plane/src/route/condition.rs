//! When a route is the one (`RouteMatch`).

use http::header::CONTENT_TYPE;

use super::RequestView;
use crate::matcher::header::HeaderMatcher;
use crate::matcher::metadata::MetadataMatcher;
use crate::matcher::query::QueryMatcher;
use crate::matcher::regex::Regex;
use crate::metadata::Metadata;

/// All that must hold of a request.
#[derive(Debug)]
pub struct Condition {
    /// Of its path.
    pub path: PathCondition,
    /// Of everything else; most routes ask for nothing else.
    pub rest: Option<Box<OtherConditions>>,
}

/// What is asked of the path, without its query.
#[derive(Debug)]
pub struct PathCondition {
    /// How it is compared.
    pub kind: PathKind,
    /// What it is compared with; lower case when case does not count.
    pub text: Box<str>,
    /// Whether upper and lower case differ (`case_sensitive`).
    pub case_sensitive: bool,
}

/// How a path is compared (`path_specifier`).
#[derive(Debug)]
pub enum PathKind {
    /// All of it.
    Exact,
    /// Its beginning.
    Prefix,
    /// Its beginning, up to a `/` or the end (`path_separated_prefix`).
    SeparatedPrefix,
    /// All of it, by an expression; `text` is what every match begins with.
    Regex(Regex),
}

/// What is asked beside the path.
#[derive(Debug, Default)]
pub struct OtherConditions {
    /// All of these headers.
    pub headers: Box<[HeaderMatcher]>,
    /// All of these query parameters.
    pub query: Box<[QueryMatcher]>,
    /// Whether it is a gRPC request.
    pub is_grpc: bool,
    /// Whether the client showed a good certificate, or did not.
    pub is_client_known: Option<bool>,
    /// All of this among what filters left.
    pub metadata: Box<[MetadataMatcher]>,
    /// In how many of a million requests it holds (`runtime_fraction.default_value`).
    pub millionths: Option<u32>,
}

impl PathCondition {
    /// Whether the path is the one, given that it begins with the text, or is it.
    pub(super) fn matches_behind(&self, path: &str) -> bool {
        match &self.kind {
            PathKind::Exact | PathKind::Prefix => true,
            PathKind::SeparatedPrefix => {
                matches!(path.as_bytes().get(self.text.len()), None | Some(b'/'))
            }
            PathKind::Regex(regex) => regex.matches(path.as_bytes()),
        }
    }

    /// How many bytes of the path a rewrite replaces (`prefix_rewrite`): what was matched.
    pub(super) fn matched(&self, path: &str) -> usize {
        match self.kind {
            PathKind::Exact | PathKind::Prefix | PathKind::SeparatedPrefix => self.text.len(),
            PathKind::Regex(_) => path.len(),
        }
    }
}

impl OtherConditions {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
            && self.query.is_empty()
            && !self.is_grpc
            && self.is_client_known.is_none()
            && self.metadata.is_empty()
            && self.millionths.is_none()
    }

    /// Whether all of it holds.
    pub(super) fn match_request(&self, request: &RequestView<'_>) -> bool {
        let view = request.header_view();
        let query = || request.path.split_once('?').map_or("", |(_, query)| query);
        self.millionths.is_none_or(|part| request.random % 1_000_000 < u64::from(part))
            && (!self.is_grpc || is_grpc(request))
            && self.is_client_known.is_none_or(|known| known == request.is_client_known)
            && self.metadata.iter().all(|matcher| match request.metadata {
                Some(metadata) => matcher.matches(metadata),
                None => matcher.matches(&Metadata::default()),
            })
            && self.headers.iter().all(|matcher| matcher.matches(&view))
            && (self.query.is_empty() || {
                let query = query();
                self.query.iter().all(|matcher| matcher.matches(query))
            })
    }
}

/// Whether the content type is gRPC's (Envoy's `Grpc::Common::hasGrpcContentType`).
fn is_grpc(request: &RequestView<'_>) -> bool {
    request
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}
