//! Matcher trees (`xds.type.matcher.v3.Matcher`): what to do with a request, by what it is.

mod compile;
mod input;

use std::collections::HashMap;

pub(crate) use self::compile::compile;
use self::input::Input;
use super::subject::Subject;
use crate::matcher::StringMatcher;
use crate::matcher::cidr::Cidr;
use crate::matcher::metadata::ValueMatcher;

/// A tree that ends in actions.
#[derive(Debug)]
pub struct Tree<A> {
    branches: Branches<A>,
    /// What is done where no branch is taken.
    otherwise: Option<Box<Branch<A>>>,
}

#[derive(Debug)]
enum Branches<A> {
    None,
    /// The first whose condition holds.
    List(Box<[(Predicate, Branch<A>)]>),
    /// That of this value.
    Exact(Input, HashMap<Box<[u8]>, Branch<A>>),
    /// That of the longest beginning of the value; longest first.
    Prefix(Input, Box<[Keyed<A>]>),
}

/// A branch and the value, or its beginning, that leads to it.
type Keyed<A> = (Box<[u8]>, Branch<A>);

#[derive(Debug)]
enum Branch<A> {
    Tree(Tree<A>),
    Action(A),
    /// Whatever it says, others are asked (`keep_matching`).
    Passed,
}

#[derive(Debug)]
enum Predicate {
    One(Input, Test),
    Any(Box<[Self]>),
    All(Box<[Self]>),
    Not(Box<Self>),
}

/// What is asked of a value.
#[derive(Debug)]
enum Test {
    Text(StringMatcher),
    Address(Box<[Cidr]>),
    Metadata { value: ValueMatcher, inverts: bool },
}

impl<A> Tree<A> {
    /// The action for the request; none where the tree has none.
    pub fn find(&self, subject: &Subject<'_>) -> Option<&A> {
        self.branches.find(subject).or_else(|| self.otherwise.as_ref()?.find(subject))
    }

    /// Whether one of its actions is such.
    pub fn any(&self, is_such: &dyn Fn(&A) -> bool) -> bool {
        let in_branches = match &self.branches {
            Branches::None => false,
            Branches::List(list) => list.iter().any(|(_, branch)| branch.any(is_such)),
            Branches::Exact(_, map) => map.values().any(|branch| branch.any(is_such)),
            Branches::Prefix(_, list) => list.iter().any(|(_, branch)| branch.any(is_such)),
        };
        in_branches || self.otherwise.as_ref().is_some_and(|branch| branch.any(is_such))
    }
}

impl<A> Tree<A> {
    /// Whether it looks at headers.
    pub fn asks_for_headers(&self) -> bool {
        let in_branches = match &self.branches {
            Branches::None => false,
            Branches::List(list) => {
                list.iter().any(|(one, next)| one.asks_for_headers() || next.asks_for_headers())
            }
            Branches::Exact(input, map) => {
                input.is_header() || map.values().any(Branch::asks_for_headers)
            }
            Branches::Prefix(input, list) => {
                input.is_header() || list.iter().any(|(_, next)| next.asks_for_headers())
            }
        };
        in_branches || self.otherwise.as_ref().is_some_and(|branch| branch.asks_for_headers())
    }
}

impl<A> Branches<A> {
    fn find(&self, subject: &Subject<'_>) -> Option<&A> {
        match self {
            Self::None => None,
            // A branch that ends nowhere counts as not taken.
            Self::List(list) => list
                .iter()
                .filter(|(predicate, _)| predicate.holds(subject))
                .find_map(|(_, branch)| branch.find(subject)),
            Self::Exact(input, map) => map.get(&*input.text(subject)?)?.find(subject),
            Self::Prefix(input, list) => {
                let text = input.text(subject)?;
                list.iter()
                    .filter(|(prefix, _)| text.starts_with(prefix))
                    .find_map(|(_, branch)| branch.find(subject))
            }
        }
    }
}

impl<A> Branch<A> {
    fn asks_for_headers(&self) -> bool {
        match self {
            Self::Tree(tree) => tree.asks_for_headers(),
            Self::Action(_) | Self::Passed => false,
        }
    }

    fn find(&self, subject: &Subject<'_>) -> Option<&A> {
        match self {
            Self::Tree(tree) => tree.find(subject),
            Self::Action(action) => Some(action),
            Self::Passed => None,
        }
    }

    fn any(&self, is_such: &dyn Fn(&A) -> bool) -> bool {
        match self {
            Self::Tree(tree) => tree.any(is_such),
            Self::Action(action) => is_such(action),
            Self::Passed => false,
        }
    }
}

impl Predicate {
    fn asks_for_headers(&self) -> bool {
        match self {
            Self::One(input, _) => input.is_header(),
            Self::Any(all) | Self::All(all) => all.iter().any(Self::asks_for_headers),
            Self::Not(other) => other.asks_for_headers(),
        }
    }

    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::One(input, test) => test.holds(input, subject),
            Self::Any(all) => all.iter().any(|one| one.holds(subject)),
            Self::All(all) => all.iter().all(|one| one.holds(subject)),
            Self::Not(other) => !other.holds(subject),
        }
    }
}

impl Test {
    fn holds(&self, input: &Input, subject: &Subject<'_>) -> bool {
        match self {
            Self::Text(matcher) => input.text(subject).is_some_and(|text| matcher.matches(&text)),
            Self::Address(ranges) => input
                .address(subject)
                .is_some_and(|address| ranges.iter().any(|range| range.contains(address))),
            Self::Metadata { value, inverts } => value.matches(input.metadata(subject)) != *inverts,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::{Map, json};
    use xds_proto::field::FieldError;
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::body::Body;
    use crate::filtering::stage::testing::Scene;

    const INPUT: &str = "type.googleapis.com/envoy.";

    fn compiled(text: &str) -> Result<Tree<String>, String> {
        let text = text.replace("ENVOY.", INPUT);
        let action = |action: xds_proto::xds::core::v3::TypedExtensionConfig| {
            Ok::<_, FieldError>(action.name)
        };
        compile(from_yaml(&text).unwrap(), &action).map_err(|error| error.to_string())
    }

    /// The name of the action for a request with these headers.
    fn found(tree: &Tree<String>, lines: &[(&str, &str)]) -> String {
        let mut request = Request::get("/p/x?user=ann").header("host", "h.test");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let mut scene = Scene::default();
        scene.facts.remote = Some("203.0.113.9:77".parse().unwrap());
        scene.facts.direct_remote = Some("10.0.0.9:78".parse().unwrap());
        scene.facts.local = Some("10.0.0.1:8443".parse().unwrap());
        scene.facts.server_name = "api.test";
        let claims = json!({"sub": "ann", "scopes": ["read", "write"], "level": 3});
        let claims: Map<_, _> = claims.as_object().unwrap().clone();
        scene.notes.metadata.merge("jwt", claims);
        let stage = scene.stage();
        tree.find(&Subject::new(&request, &stage)).map_or("-", String::as_str).to_owned()
    }

    fn input(kind: &str) -> String {
        format!("input: {{name: i, typed_config: {{'@type': 'ENVOY.{kind}}}}}")
    }

    fn header(name: &str) -> String {
        input(&format!("type.matcher.v3.HttpRequestHeaderMatchInput', header_name: {name}"))
    }

    /// A tree of one predicate.
    fn one(predicate: &str) -> Tree<String> {
        compiled(&format!(
            "{{matcher_list: {{matchers: [{{predicate: {{{predicate}}}, on_match: {{action: {{name: yes, typed_config: {{}}}}}}}}]}}}}"
        ).replace("typed_config: {}", "typed_config: {'@type': type.googleapis.com/google.protobuf.Duration, value: 1s}"))
        .unwrap()
    }

    fn single(input: &str, test: &str) -> Tree<String> {
        one(&format!("single_predicate: {{{input}, {test}}}"))
    }

    #[test]
    fn each_input_is_read() {
        let net =
            |name: &str| input(&format!("extensions.matching.common_inputs.network.v3.{name}'"));
        for (input, text, want) in [
            (header("x-a"), "1", "yes"),
            (header("x-a"), "2", "-"),
            (header("x-none"), "1", "-"),
            (header("x-two"), "1,2", "yes"),
            (header(":path"), "/p/x?user=ann", "yes"),
            (net("SourceIPInput"), "203.0.113.9", "yes"),
            (net("SourcePortInput"), "77", "yes"),
            (net("DirectSourceIPInput"), "10.0.0.9", "yes"),
            (net("DestinationIPInput"), "10.0.0.1", "yes"),
            (net("DestinationPortInput"), "8443", "yes"),
            (net("ServerNameInput"), "api.test", "yes"),
        ] {
            let tree = single(&input, &format!("value_match: {{exact: '{text}'}}"));
            let asked = [("x-a", "1"), ("x-two", "1"), ("x-two", "2")];
            assert_eq!(found(&tree, &asked), want, "{input} {text}");
        }
    }

    #[test]
    fn addresses_and_metadata_have_tests_of_their_own() {
        let source = input("extensions.matching.common_inputs.network.v3.SourceIPInput'");
        let ip = |range: &str| {
            format!(
                "custom_match: {{name: m, typed_config: {{'@type': 'ENVOY.extensions.matching.input_matchers.ip.v3.Ip', stat_prefix: x, cidr_ranges: [{range}]}}}}"
            )
        };
        let claim = |key: &str| {
            input(&format!(
                "extensions.matching.common_inputs.network.v3.DynamicMetadataInput', filter: jwt, path: [{{key: {key}}}]"
            ))
        };
        let value = |test: &str| {
            format!(
                "custom_match: {{name: m, typed_config: {{'@type': 'ENVOY.extensions.matching.input_matchers.metadata.v3.Metadata', {test}}}}}"
            )
        };
        for (input, test, want) in [
            (&source, ip("{address_prefix: 203.0.113.0, prefix_len: 24}"), "yes"),
            (&source, ip("{address_prefix: 10.0.0.0, prefix_len: 8}"), "-"),
            (&claim("sub"), value("value: {string_match: {exact: ann}}"), "yes"),
            (&claim("sub"), value("value: {string_match: {exact: bob}}"), "-"),
            (&claim("sub"), value("value: {string_match: {exact: bob}}, invert: true"), "yes"),
            (
                &claim("scopes"),
                value("value: {list_match: {one_of: {string_match: {exact: write}}}}"),
                "yes",
            ),
            (&claim("none"), value("value: {present_match: true}"), "-"),
        ] {
            assert_eq!(found(&single(input, &test), &[]), want, "{input} {test}");
        }
    }

    #[test]
    fn predicates_are_joined() {
        let is = |value: &str| {
            format!("{{single_predicate: {{{}, value_match: {{exact: '{value}'}}}}}}", header("x"))
        };
        let (a, b) = (is("a"), is("b"));
        for (predicate, lines, want) in [
            (format!("or_matcher: {{predicate: [{a}, {b}]}}"), &[("x", "b")][..], "yes"),
            (format!("and_matcher: {{predicate: [{a}, {b}]}}"), &[("x", "b")], "-"),
            (format!("not_matcher: {a}"), &[("x", "b")], "yes"),
            (format!("not_matcher: {a}"), &[], "yes"),
        ] {
            assert_eq!(found(&one(&predicate), lines), want, "{predicate}");
        }
    }

    #[test]
    fn the_first_branch_that_ends_in_an_action_is_taken() {
        let action = |name: &str| {
            format!(
                "action: {{name: {name}, typed_config: {{'@type': type.googleapis.com/google.protobuf.Duration, value: 1s}}}}"
            )
        };
        let map = |kind: &str, otherwise: &str| {
            format!(
                "{{matcher_tree: {{{}, {kind}: {{map: {{/p: {{{}}}, /p/x: {{matcher: {{matcher_tree: {{{}, exact_match_map: {{map: {{'1': {{{}}}}}}}}}}}}}}}}}}}{otherwise}}}",
                header("x-path"),
                action("short"),
                header("x-a"),
                action("long")
            )
        };
        let otherwise = format!(", on_no_match: {{{}}}", action("other"));
        for (tree, lines, want) in [
            (map("prefix_match_map", ""), &[("x-path", "/p/x/y"), ("x-a", "1")][..], "long"),
            (map("prefix_match_map", ""), &[("x-path", "/p/x/y")], "short"),
            (map("prefix_match_map", ""), &[("x-path", "/q")], "-"),
            (map("prefix_match_map", &otherwise), &[("x-path", "/q")], "other"),
            (map("exact_match_map", ""), &[("x-path", "/p")], "short"),
            (map("exact_match_map", ""), &[("x-path", "/p/x/y")], "-"),
            (map("exact_match_map", &otherwise), &[("x-path", "/p/x")], "other"),
            (format!("{{on_no_match: {{{}}}}}", action("all")), &[], "all"),
        ] {
            assert_eq!(found(&compiled(&tree).unwrap(), lines), want, "{tree}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let tree = |predicate: &str| {
            format!(
                "{{matcher_list: {{matchers: [{{predicate: {{{predicate}}}, on_match: {{action: {{name: a}}}}}}]}}}}"
            )
        };
        let state = input("extensions.matching.common_inputs.network.v3.FilterStateInput', key: k");
        for (text, want) in [
            (tree(""), "matcher_list.matchers[0].predicate.match_type: required"),
            (
                tree(&format!("single_predicate: {{{}}}", header("x"))),
                "matcher_list.matchers[0].predicate.single_predicate.matcher: required",
            ),
            (
                tree(&format!("single_predicate: {{{state}, value_match: {{exact: a}}}}")),
                "matcher_list.matchers[0].predicate.single_predicate.input.typed_config.type_url: not supported",
            ),
            ("{matcher_list: {}}".to_owned(), "matcher_list.matchers: required"),
            ("{on_no_match: {}}".to_owned(), "on_no_match.on_match: required"),
        ] {
            assert_eq!(compiled(&text).unwrap_err(), want);
        }
    }
}
