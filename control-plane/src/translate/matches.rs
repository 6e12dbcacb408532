//! What a request must be: matches as Envoy has them, and which of two comes first.

use std::cmp::Reverse;

use xds_proto::envoy::config::route::v3::HeaderMatcher;
use xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use xds_proto::envoy::r#type::matcher::v3::StringMatcher;

use crate::model::regex::check_expression;
use crate::model::rule::{ValueMatch, ValueMatchType};
use crate::translate::envoy::{exactly, matching};
use crate::translate::plan::MatchPlan;

mod grpc;
mod http;

pub(super) use http::trimmed;

/// A match of some kind of route; the default is every request.
pub(super) trait Matcher: Default {
    /// The match at this place of its rule.
    fn plan(&self, index: usize) -> MatchPlan;

    /// The field with an expression that does not compile, and why. Our store refuses it, a cluster
    /// does not.
    fn bad_expression(&self) -> Option<(String, String)>;

    /// The prefix that the only match of a rule is for, if it is for one.
    fn only_prefix(matches: &[Self]) -> Option<&str>;
}

/// How narrow a match is, the most important thing first; the greater comes first.
pub(super) type Specificity = [usize; 5];

/// Orders matches of one virtual host; the least comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    specificity: Reverse<Specificity>,
    /// Age, namespace and name of the route.
    route: (String, String, String),
    /// Which rule of the route, and which match of the rule.
    place: (usize, usize),
}

impl Precedence {
    /// The precedence of a match of the route with this age, at this place in it.
    pub(super) fn new(
        specificity: Specificity,
        (created, namespace, name): (&str, &str, &str),
        place: (usize, usize),
    ) -> Self {
        let route = (created.to_owned(), namespace.to_owned(), name.to_owned());
        Self { specificity: Reverse(specificity), route, place }
    }
}

/// The first entry of each name; header names are compared without case.
fn first_by_name(entries: &[ValueMatch], without_case: bool) -> Vec<&ValueMatch> {
    let same = |a: &str, b: &str| if without_case { a.eq_ignore_ascii_case(b) } else { a == b };
    let mut first: Vec<&ValueMatch> = Vec::new();
    for entry in entries {
        if !first.iter().any(|other| same(&other.name, &entry.name)) {
            first.push(entry);
        }
    }
    first
}

/// Headers as Envoy matches them.
fn headers(entries: &[ValueMatch]) -> Vec<HeaderMatcher> {
    let first = first_by_name(entries, true);
    first.iter().map(|entry| header(&entry.name.to_lowercase(), value(entry))).collect()
}

/// A header whose value must be this.
pub(super) fn header(name: &str, value: StringMatcher) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(value)),
        ..Default::default()
    }
}

fn value(entry: &ValueMatch) -> StringMatcher {
    match entry.match_type {
        ValueMatchType::Exact => exactly(&entry.value),
        ValueMatchType::RegularExpression => matching(&entry.value),
    }
}

/// The field of a list with an expression that does not compile, and why.
fn bad_value(entries: &[ValueMatch], list: &str) -> Option<(String, String)> {
    entries.iter().enumerate().find_map(|(index, entry)| match entry.match_type {
        ValueMatchType::Exact => None,
        ValueMatchType::RegularExpression => {
            refused(&entry.value, format!("{list}[{index}].value"))
        }
    })
}

fn refused(expression: &str, field: String) -> Option<(String, String)> {
    check_expression(expression).err().map(|reason| (field, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrower_comes_first_then_age_name_and_place_decide() {
        let key = |narrow, route, place| Precedence::new([narrow, 0, 0, 0, 0], route, place);
        let equal = |route, place| key(0, route, place);
        assert!(key(2, ("", "b", "b"), (1, 1)) < key(1, ("", "a", "a"), (0, 0)));
        assert!(
            equal(("2026-01-01T00:00:00Z", "z", "z"), (9, 9))
                < equal(("2026-01-02T00:00:00Z", "a", "a"), (0, 0))
        );
        assert!(equal(("", "a", "a"), (9, 9)) < equal(("", "a", "b"), (0, 0)));
        assert!(equal(("", "a", "a"), (0, 1)) < equal(("", "a", "a"), (1, 0)));
    }
}
