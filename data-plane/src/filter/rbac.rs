//! Lets requests in by who sends them and what they want.
//!
//! API: `envoy.extensions.filters.http.rbac.v3.RBAC`.

mod compile;
mod rule;

use std::sync::Arc;

use http::Request;
use serde_json::Map;
use xds_proto::envoy::extensions::filters::http::rbac::v3 as api;
use xds_proto::field::{At, FieldError};
use xds_proto::fields;

use self::rule::{Rule, Subject};
use super::HttpFilter;
use crate::body::Body;
use crate::filtering::Verdict;
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::Stage;
use crate::telemetry::why::Why;

/// Where Envoy leaves what log rules say.
const COMMON: &str = "envoy.common";
/// Where it leaves what shadow rules say.
const NAMESPACE: &str = "envoy.filters.http.rbac";

/// Whom to let in.
#[derive(Debug, Clone, Default)]
pub struct Rbac {
    rules: Option<Arc<Rules>>,
    /// Rules that are only noted.
    shadow: Option<Arc<Rules>>,
    shadow_prefix: Arc<str>,
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

impl HttpFilter for Rbac {
    type Config = api::Rbac;
    type RouteConfig = api::RbacPerRoute;
    type Route = Self;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        fields!(config: api::Rbac,
            read: [rules, shadow_rules, shadow_rules_stat_prefix],
            // These name statistics.
            ignore: [rules_stat_prefix, track_per_rule_stats],
            refuse: [matcher, shadow_matcher],
        );
        let rules = rules.map(compile::rules).transpose().at("rules")?;
        let shadow = shadow_rules.map(compile::rules).transpose().at("shadow_rules")?;
        Ok(Self {
            rules: rules.map(Arc::new),
            shadow: shadow.map(Arc::new),
            shadow_prefix: shadow_rules_stat_prefix.into(),
        })
    }

    fn compile_route(config: Self::RouteConfig) -> Result<Self, FieldError> {
        fields!(config: api::RbacPerRoute, read: [rbac], ignore: [], refuse: []);
        rbac.map_or_else(|| Ok(Self::default()), |rbac| Self::compile(rbac).at("rbac"))
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
            self.note(shadow, request, stage);
        }
        let Some(rules) = &self.rules else { return Verdict::Continue };
        let matched = rules.matched(&Subject::new(request, stage));
        let is_denied = match rules.action {
            Action::Allow => matched.is_none(),
            Action::Deny => matched.is_some(),
            Action::Log => {
                let hint = [("access_log_hint".to_owned(), matched.is_some().into())];
                stage.notes.metadata.merge(COMMON, Map::from_iter(hint));
                false
            }
        };
        if !is_denied {
            return Verdict::Continue;
        }
        let name = matched.unwrap_or("none").replace(char::is_whitespace, "_");
        stage.notes.details =
            Some(format!("rbac_access_denied_matched_policy[{name}]").into_boxed_str());
        Verdict::refuse(Why::RbacDenied)
    }
}

impl Rbac {
    /// What shadow rules say, for the log and other filters.
    fn note(&self, rules: &Rules, request: &Request<Body>, stage: &mut Stage<'_>) {
        let matched = rules.matched(&Subject::new(request, stage));
        let is_allowed = match rules.action {
            Action::Allow => matched.is_some(),
            Action::Deny => matched.is_none(),
            Action::Log => return,
        };
        let result = if is_allowed { "allowed" } else { "denied" };
        let prefix = &self.shadow_prefix;
        let mut values = Map::new();
        values.insert(format!("{prefix}shadow_engine_result"), result.into());
        if let Some(name) = matched {
            values.insert(format!("{prefix}shadow_effective_policy_id"), name.into());
        }
        stage.notes.metadata.merge(NAMESPACE, values);
    }
}

impl Rules {
    /// The first policy that holds.
    fn matched(&self, subject: &Subject<'_>) -> Option<&str> {
        let any = |rules: &[Rule]| rules.iter().any(|rule| rule.holds(subject));
        self.policies
            .iter()
            .find(|policy| any(&policy.permissions) && any(&policy.principals))
            .map(|policy| &*policy.name)
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::filtering::stage::testing::Scene;
    use crate::tls::identity::Identity;

    fn filter(text: &str) -> Rbac {
        Rbac::compile(from_yaml(text).unwrap()).unwrap()
    }

    fn one(action: &str, permission: &str, principal: &str) -> Rbac {
        filter(&format!(
            "{{rules: {{action: {action}, policies: {{'my policy': {{permissions: [{permission}], principals: [{principal}]}}}}}}}}"
        ))
    }

    fn scene() -> Scene {
        let mut scene = Scene::default();
        scene.context.remote = Some("203.0.113.9:0".parse().unwrap());
        scene.context.direct_remote = Some("10.1.2.3:55".parse().unwrap());
        scene.context.local = Some("10.0.0.1:8443".parse().unwrap());
        scene.context.server_name = "api.test";
        scene
    }

    async fn lets_in(filter: &Rbac, scene: &mut Scene) -> bool {
        let mut request = Request::post("/admin/x?y=1")
            .header("host", "h.test")
            .header("x-role", "ops")
            .body(Body::empty())
            .unwrap();
        let verdict = filter.on_request(&mut request, &mut scene.stage()).await;
        matches!(verdict, Verdict::Continue)
    }

    #[tokio::test]
    async fn permissions_say_what_is_wanted() {
        for (permission, want) in [
            ("{any: true}", true),
            ("{header: {name: ':method', string_match: {exact: POST}}}", true),
            ("{header: {name: ':method', string_match: {exact: GET}}}", false),
            ("{url_path: {path: {exact: /admin/x}}}", true),
            ("{url_path: {path: {suffix: y=1}}}", false),
            ("{destination_port: 8443}", true),
            ("{destination_port: 443}", false),
            ("{destination_port_range: {start: 8000, end: 8443}}", false),
            ("{destination_port_range: {start: 8000, end: 8444}}", true),
            ("{destination_ip: {address_prefix: 10.0.0.0, prefix_len: 24}}", true),
            ("{requested_server_name: {exact: api.test}}", true),
            ("{not_rule: {any: true}}", false),
            ("{and_rules: {rules: [{any: true}, {destination_port: 1}]}}", false),
            ("{or_rules: {rules: [{destination_port: 1}, {any: true}]}}", true),
        ] {
            let filter = one("ALLOW", permission, "{any: true}");
            assert_eq!(lets_in(&filter, &mut scene()).await, want, "{permission}");
        }
    }

    #[tokio::test]
    async fn principals_say_who_asks() {
        for (principal, want) in [
            ("{remote_ip: {address_prefix: 203.0.113.0, prefix_len: 24}}", true),
            ("{remote_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}", false),
            ("{direct_remote_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}", true),
            ("{source_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}", true),
            ("{header: {name: x-role, string_match: {exact: ops}}}", true),
            ("{url_path: {path: {prefix: /admin}}}", true),
            ("{authenticated: {}}", false),
            ("{not_id: {authenticated: {}}}", true),
            (
                "{metadata: {filter: jwt, path: [{key: sub}], value: {string_match: {exact: ann}}}}",
                true,
            ),
            ("{and_ids: {ids: [{any: true}, {authenticated: {}}]}}", false),
            ("{or_ids: {ids: [{authenticated: {}}, {any: true}]}}", true),
        ] {
            let filter = one("ALLOW", "{any: true}", principal);
            let mut scene = scene();
            let claims = [("sub".to_owned(), "ann".into())];
            scene.notes.metadata.merge("jwt", Map::from_iter(claims));
            assert_eq!(lets_in(&filter, &mut scene).await, want, "{principal}");
        }
    }

    fn certificate() -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let uri = rcgen::SanType::URI("spiffe://test/a".try_into().unwrap());
        params.subject_alt_names.push(uri);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "a");
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[tokio::test]
    async fn a_client_is_known_by_its_certificate() {
        for (name, want) in [
            ("{}", true),
            ("{principal_name: {exact: 'spiffe://test/a'}}", true),
            ("{principal_name: {exact: a.test}}", true),
            ("{principal_name: {exact: 'CN=a'}}", true),
            ("{principal_name: {exact: b.test}}", false),
        ] {
            let filter = one("ALLOW", "{any: true}", &format!("{{authenticated: {name}}}"));
            let mut scene = scene();
            scene.client = Identity::new(&[certificate()]);
            assert_eq!(lets_in(&filter, &mut scene).await, want, "{name}");
        }
    }

    #[tokio::test]
    async fn the_details_name_the_policy() {
        let mut scene = scene();
        assert!(!lets_in(&one("DENY", "{any: true}", "{any: true}"), &mut scene).await);
        let details = "rbac_access_denied_matched_policy[my_policy]";
        assert_eq!(scene.notes.details.as_deref(), Some(details));
        assert!(!lets_in(&filter("{rules: {policies: {}}}"), &mut scene).await);
        let details = "rbac_access_denied_matched_policy[none]";
        assert_eq!(scene.notes.details.as_deref(), Some(details));
    }

    #[tokio::test]
    async fn without_rules_everybody_is_let_in_and_shadow_rules_are_noted() {
        let shadow = filter(
            "{shadow_rules: {policies: {p: {permissions: [{destination_port: 1}], principals: [{any: true}]}}}, shadow_rules_stat_prefix: s_}",
        );
        let mut scene = scene();
        assert!(lets_in(&shadow, &mut scene).await);
        let noted = scene.notes.metadata.namespace(NAMESPACE).unwrap();
        assert_eq!(noted["s_shadow_engine_result"], "denied");
        assert!(lets_in(&one("LOG", "{any: true}", "{any: true}"), &mut scene).await);
        assert_eq!(scene.notes.metadata.namespace(COMMON).unwrap()["access_log_hint"], true);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let rules = |text: &str| {
            let text = format!("{{rules: {{policies: {{p: {text}}}}}}}");
            Rbac::compile(from_yaml(&text).unwrap()).unwrap_err().to_string()
        };
        assert_eq!(
            rules("{principals: [{any: true}]}"),
            "rules.policies[\"p\"].permissions: required"
        );
        assert_eq!(
            rules(
                "{permissions: [{any: true}], principals: [{filter_state: {key: x, string_match: {exact: y}}}]}"
            ),
            "rules.policies[\"p\"].principals[0].filter_state: not supported"
        );
        assert_eq!(
            rules("{permissions: [{destination_port: 70000}], principals: [{any: true}]}"),
            "rules.policies[\"p\"].permissions[0].destination_port: must be at most 65535"
        );
    }
}
