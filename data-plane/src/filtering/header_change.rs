//! A change of headers or trailers (`envoy.config.common.mutation_rules.v3.HeaderMutation`).

use http::header::{HOST, HeaderMap};
use xds_proto::envoy::config::common::mutation_rules::v3::HeaderMutation;
use xds_proto::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use xds_proto::field::{At, FieldError, required};

use crate::format::Context;
use crate::format::compile::mutation;
use crate::format::mutation::{HeaderMutations, Side};
use crate::matcher::StringMatcher;
use crate::matcher::compile::string;

/// A change; a list of them is applied one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderChange {
    /// One is set, added or removed.
    One(HeaderMutations),
    /// Those of such names go.
    RemoveMatching(StringMatcher),
}

impl HeaderChange {
    /// Compiles a change.
    ///
    /// # Errors
    /// The field that is missing or wrong.
    pub(crate) fn compile(message: HeaderMutation) -> Result<Self, FieldError> {
        match message.action {
            Some(Action::RemoveOnMatch(rule)) => {
                let matcher = required(rule.key_matcher, "key_matcher")
                    .and_then(|matcher| string(matcher).at("key_matcher"));
                matcher.map(Self::RemoveMatching).at("remove_on_match")
            }
            _ => mutation(message).map(Self::One),
        }
    }

    /// Makes it.
    pub fn apply(&self, headers: &mut HeaderMap, side: Side, context: &Context<'_>) {
        match self {
            Self::One(changes) => changes.apply(headers, side, context),
            Self::RemoveMatching(matcher) => {
                let names = headers.keys().filter(|name| **name != HOST);
                let names: Vec<_> = names
                    .filter(|name| matcher.matches(name.as_str().as_bytes()))
                    .cloned()
                    .collect();
                for name in names {
                    headers.remove(name);
                }
            }
        }
    }

    /// The change with its values as they are now.
    #[must_use]
    pub fn fixed(&self, context: &Context<'_>) -> Self {
        match self {
            Self::One(changes) => Self::One(changes.fixed(context)),
            Self::RemoveMatching(matcher) => Self::RemoveMatching(matcher.clone()),
        }
    }
}
