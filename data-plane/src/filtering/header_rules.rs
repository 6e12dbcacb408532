//! Which headers a service may change (`envoy.config.common.mutation_rules.v3.HeaderMutationRules`).

use xds_proto::envoy::config::common::mutation_rules::v3 as api;
use xds_proto::envoy::r#type::matcher::v3::RegexMatcher;
use xds_proto::field::{At, FieldError};
use xds_proto::fields;
use xds_proto::google::protobuf::BoolValue;

use crate::matcher::compile::regex;
use crate::matcher::regex::Regex;

/// Which headers a service may change. The default has no rule.
#[derive(Debug, Clone, Default)]
pub struct HeaderRules(Option<Rules>);

#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent rules, as the API has them")]
struct Rules {
    allows_routing: bool,
    allows_envoy: bool,
    disallows_system: bool,
    disallows_all: bool,
    allowed: Option<Regex>,
    disallowed: Option<Regex>,
    is_error: bool,
}

/// What becomes of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// It is made.
    Make,
    /// It is left out.
    Skip,
    /// The request fails.
    Fail,
}

impl HeaderRules {
    /// Compiles the rules.
    ///
    /// # Errors
    /// An expression that is none.
    pub(crate) fn compile(message: api::HeaderMutationRules) -> Result<Self, FieldError> {
        fields!(message: api::HeaderMutationRules,
            read: [
                allow_all_routing, allow_envoy, disallow_system, disallow_all, allow_expression,
                disallow_expression, disallow_is_error,
            ],
            ignore: [],
            refuse: []);
        let is_set = |flag: Option<BoolValue>| flag.is_some_and(|flag| flag.value);
        let expression = |matcher: Option<RegexMatcher>, field: &'static str| {
            matcher.map(|matcher| Ok(regex(matcher)?.0)).transpose().at(field)
        };
        Ok(Self(Some(Rules {
            allows_routing: is_set(allow_all_routing),
            allows_envoy: is_set(allow_envoy),
            disallows_system: is_set(disallow_system),
            disallows_all: is_set(disallow_all),
            allowed: expression(allow_expression, "allow_expression")?,
            disallowed: expression(disallow_expression, "disallow_expression")?,
            is_error: is_set(disallow_is_error),
        })))
    }

    /// Whether there are rules.
    pub fn are_set(&self) -> bool {
        self.0.is_some()
    }

    /// What becomes of a change of the header of this name, in lower case.
    pub fn rule(&self, name: &str) -> Ruling {
        match &self.0 {
            Some(rules) if !rules.allow(name) && rules.is_error => Ruling::Fail,
            Some(rules) if !rules.allow(name) => Ruling::Skip,
            Some(_) | None => Ruling::Make,
        }
    }
}

impl Rules {
    fn allow(&self, name: &str) -> bool {
        let matches = |regex: &Option<Regex>| {
            regex.as_ref().is_some_and(|regex| regex.matches(name.as_bytes()))
        };
        let is_routing = matches!(name, "host" | ":authority" | ":scheme" | ":method");
        if matches(&self.disallowed) {
            return false;
        }
        if matches(&self.allowed) {
            return true;
        }
        !(self.disallows_all
            || (self.disallows_system && name.starts_with(':'))
            || (!self.allows_routing && is_routing)
            || (!self.allows_envoy && name.starts_with("x-envoy")))
    }
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    #[test]
    fn rules_say_which_headers_may_change() {
        let rulings = |text: &str| {
            let rules = HeaderRules::compile(from_yaml(text).unwrap()).unwrap();
            ["x-a", "x-envoy-a", "host", ":path"].map(|name| rules.rule(name))
        };
        use Ruling::{Fail, Make, Skip};
        for (text, want) in [
            ("{}", [Make, Skip, Skip, Make]),
            ("{allow_all_routing: true, allow_envoy: true}", [Make; 4]),
            ("{disallow_system: true}", [Make, Skip, Skip, Skip]),
            ("{disallow_all: true, allow_expression: {regex: x-a}}", [Make, Skip, Skip, Skip]),
            ("{disallow_expression: {regex: x-a}, allow_envoy: true}", [Skip, Make, Skip, Make]),
            ("{disallow_is_error: true}", [Make, Fail, Fail, Make]),
        ] {
            assert_eq!(rulings(text), want, "{text}");
        }
        assert_eq!(HeaderRules::default().rule("host"), Make);
    }
}
