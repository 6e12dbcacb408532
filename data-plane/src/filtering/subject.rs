//! What rules look at: a request, who sends it, and what filters left.

use http::Request;

use super::stage::Stage;
use crate::body::Body;
use crate::format::Context;
use crate::matcher::header::HeaderView;
use crate::metadata::Metadata;
use crate::tls::identity::Identity;

/// A request, who sends it, and what filters left.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its headers.
    pub view: HeaderView<'a>,
    /// Its client and connection.
    pub facts: &'a Context<'a>,
    /// The certificate of the client.
    pub client: Option<&'a Identity>,
    /// What filters left.
    pub metadata: &'a Metadata,
}

impl<'a> Subject<'a> {
    /// What is known on this stage.
    pub fn new(request: &'a Request<Body>, stage: &'a Stage<'_>) -> Self {
        Self {
            view: stage.view(request),
            facts: &stage.facts,
            client: stage.client,
            metadata: &stage.notes.metadata,
        }
    }

    /// The path without its query.
    pub fn path(&self) -> &'a str {
        let path = self.view.path.unwrap_or_default();
        path.find(['?', '#']).map_or(path, |end| &path[..end])
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        !self.facts.tls_version.is_empty()
    }
}
