//! Lets requests in by who sends them and what they want.
//!
//! API: `envoy.extensions.filters.http.rbac.v3.RBAC`.

mod compile;
pub mod network;
mod rule;

use std::sync::Arc;

use http::Request;
use serde_json::Map;
use xds_proto::envoy::extensions::filters::http::rbac::v3 as api;
use xds_proto::field::FieldError;

use self::rule::Rule;
use super::HttpFilter;
use crate::body::Body;
use crate::filtering::Verdict;
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::Stage;
use crate::filtering::subject::Subject;
use crate::filtering::tree::Tree;
use crate::telemetry::why::Why;

/// Where Envoy leaves what log rules say.
const COMMON: &str = "envoy.common";
/// Where it leaves what was decided.
const NAMESPACE: &str = "envoy.filters.http.rbac";

/// Whom to let in.
#[derive(Debug, Clone, Default)]
pub struct Rbac {
    rules: Option<Arc<Engine>>,
    /// Rules that are only noted.
    shadow: Option<Arc<Engine>>,
}

/// Rules, and how their decisions are noted.
#[derive(Debug)]
struct Engine {
    kind: Kind,
    /// Comes before the names of what is noted.
    prefix: Box<str>,
}

#[derive(Debug)]
enum Kind {
    Rules(Rules),
    Tree { tree: Tree<Ending>, has_log: bool },
}

/// Policies, and what it means that one of them holds.
#[derive(Debug)]
struct Rules {
    action: Action,
    /// By name, in order.
    policies: Box<[Policy]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Deny,
    Log,
}

/// Holds where one of each side holds.
#[derive(Debug)]
struct Policy {
    name: Box<str>,
    permissions: Box<[Rule]>,
    principals: Box<[Rule]>,
}

/// Where a matcher tree ends.
#[derive(Debug)]
struct Ending {
    name: Box<str>,
    action: Action,
}

/// What is decided about a request.
#[derive(Debug)]
struct Decision<'a> {
    is_allowed: bool,
    /// The policy that decided.
    policy: Option<&'a str>,
    /// Whether logs are asked to note the request.
    log_hint: Option<bool>,
}

impl Decision<'_> {
    /// Why nobody was let in, as Envoy says it.
    fn details(&self) -> String {
        let name = self.policy.unwrap_or("none").replace(char::is_whitespace, "_");
        format!("rbac_access_denied_matched_policy[{name}]")
    }
}

impl HttpFilter for Rbac {
    type Config = api::Rbac;
    type RouteConfig = api::RbacPerRoute;
    type Route = Self;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        compile::compile(config)
    }

    fn compile_route(config: Self::RouteConfig) -> Result<Self, FieldError> {
        compile::route(config)
    }

    fn link(&self, routes: &[&Self], _: &mut Linker<'_>) -> Linked<Self> {
        match routes.last() {
            None => Linked::Same,
            Some(route) if route.rules.is_none() && route.shadow.is_none() => Linked::Off,
            Some(route) => Linked::New((*route).clone()),
        }
    }

    async fn on_request(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        if let Some(shadow) = &self.shadow {
            let decision = shadow.decide(&Subject::new(request, stage));
            shadow.note("shadow", &decision, stage);
        }
        let Some(rules) = &self.rules else { return Verdict::Continue };
        let decision = rules.decide(&Subject::new(request, stage));
        rules.note("enforced", &decision, stage);
        if let Some(hint) = decision.log_hint {
            let hint = [("access_log_hint".to_owned(), hint.into())];
            stage.notes.metadata.merge(COMMON, Map::from_iter(hint));
        }
        if decision.is_allowed {
            return Verdict::Continue;
        }
        let details = decision.details();
        Verdict::refuse(Why::RbacDenied).detailed(details)
    }
}

impl Kind {
    /// Whether it asks for what only a request has.
    fn asks_for_requests(&self) -> bool {
        match self {
            Self::Rules(rules) => rules.policies.iter().any(|policy| {
                let mut rules = policy.permissions.iter().chain(&policy.principals);
                rules.any(Rule::asks_for_requests)
            }),
            Self::Tree { tree, .. } => tree.asks_for_headers(),
        }
    }
}

impl Engine {
    fn decide(&self, subject: &Subject<'_>) -> Decision<'_> {
        match &self.kind {
            Kind::Rules(rules) => rules.decide(subject),
            Kind::Tree { tree, has_log } => {
                let ending = tree.find(subject);
                let action = ending.map(|ending| ending.action);
                Decision {
                    is_allowed: matches!(action, Some(Action::Allow | Action::Log)),
                    policy: ending.map(|ending| &*ending.name),
                    log_hint: action.filter(|_| *has_log).map(|action| action == Action::Log),
                }
            }
        }
    }

    /// Leaves what was decided, for the log and other filters.
    fn note(&self, kind: &str, decision: &Decision<'_>, stage: &mut Stage<'_>) {
        let prefix = &self.prefix;
        let result = if decision.is_allowed { "allowed" } else { "denied" };
        let mut values = Map::new();
        values.insert(format!("{prefix}{kind}_engine_result"), result.into());
        if let Some(policy) = decision.policy {
            values.insert(format!("{prefix}{kind}_effective_policy_id"), policy.into());
        }
        stage.notes.metadata.merge(NAMESPACE, values);
    }
}

impl Rules {
    fn decide(&self, subject: &Subject<'_>) -> Decision<'_> {
        let any = |rules: &[Rule]| rules.iter().any(|rule| rule.holds(subject));
        let matched = self
            .policies
            .iter()
            .find(|policy| any(&policy.permissions) && any(&policy.principals))
            .map(|policy| &*policy.name);
        Decision {
            is_allowed: match self.action {
                Action::Allow => matched.is_some(),
                Action::Deny => matched.is_none(),
                Action::Log => true,
            },
            policy: matched,
            log_hint: (self.action == Action::Log && matched.is_some()).then_some(true),
        }
    }
}

#[cfg(test)]
mod tests;
