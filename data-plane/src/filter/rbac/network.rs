//! The same rules for connections: they know no request.
//!
//! API: `envoy.extensions.filters.network.rbac.v3.RBAC`.

use std::time::Duration;

use http::HeaderMap;
use xds_proto::convert::optional_duration;
use xds_proto::envoy::extensions::filters::network::rbac::v3 as api;
use xds_proto::field::{At, FieldError, required_text};
use xds_proto::fields;

use super::{Engine, Kind, compile};
use crate::filtering::subject::Subject;
use crate::format::Context;
use crate::matcher::header::HeaderView;
use crate::metadata::Metadata;
use crate::tls::identity::Identity;

/// Which connections to let in.
#[derive(Debug)]
pub struct ConnectionRbac {
    rules: Option<Engine>,
    /// How long who is refused is kept waiting.
    pub delay: Option<Duration>,
}

impl ConnectionRbac {
    /// Compiles the filter.
    ///
    /// # Errors
    /// The first field that is missing, not implemented, or asks for what only a request has.
    pub fn compile(config: api::Rbac) -> Result<Self, FieldError> {
        fields!(config: api::Rbac,
            read: [rules, matcher, stat_prefix, delay_deny, shadow_rules, shadow_matcher],
            // What is known of a connection stays as it is: to ask once is enough.
            // The prefix names what shadow rules leave, which nothing of a connection shows.
            ignore: [enforcement_type, shadow_rules_stat_prefix],
            refuse: [],
        );
        required_text(stat_prefix, "stat_prefix")?;
        let kind = |rules, tree| -> Result<Option<Kind>, FieldError> {
            let (rules, tree): (Option<_>, Option<_>) = (rules, tree);
            let rules = rules.map(compile::rules).transpose()?;
            Ok(compile::tree(tree)?.or(rules))
        };
        // Shadow rules have to be good, and are only counted.
        kind(shadow_rules, None).at("shadow_rules")?;
        kind(None, shadow_matcher).at("shadow_matcher")?;
        let enforced = kind(None, matcher).at("matcher")?;
        let rules = match enforced {
            Some(tree) => Some(tree),
            None => kind(rules, None).at("rules")?,
        };
        if rules.as_ref().is_some_and(Kind::asks_for_requests) {
            let error = FieldError::invalid("asks for headers or a path, which no connection has");
            return Err(error).at("rules");
        }
        Ok(Self {
            rules: rules.map(|kind| Engine { kind, prefix: Box::default() }),
            delay: optional_duration(delay_deny.as_ref(), "delay_deny")?,
        })
    }

    /// Why the connection is refused; none where it may pass.
    pub fn refusal(&self, facts: &Context<'_>, client: Option<&Identity>) -> Option<String> {
        let headers = HeaderMap::new();
        let metadata = Metadata::default();
        let view =
            HeaderView { method: None, path: None, host: None, scheme: None, headers: &headers };
        let subject = Subject { view, facts, client, metadata: &metadata };
        let decision = self.rules.as_ref()?.decide(&subject);
        (!decision.is_allowed).then(|| decision.details())
    }
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    fn compiled(text: &str) -> Result<ConnectionRbac, String> {
        ConnectionRbac::compile(from_yaml(text).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn connections_are_judged_by_what_is_known_of_them() {
        let policy = |rule: &str| {
            format!(
                "{{stat_prefix: x, rules: {{action: DENY, policies: {{p q: {{permissions: [{rule}], principals: [{{any: true}}]}}}}}}}}"
            )
        };
        let filter = compiled(&policy("{requested_server_name: {exact: a.test}}")).unwrap();
        let refusal =
            |name| filter.refusal(&Context { server_name: name, ..Context::default() }, None);
        let details = "rbac_access_denied_matched_policy[p_q]";
        assert_eq!(refusal("a.test").as_deref(), Some(details));
        assert_eq!(refusal("b.test"), None);
        for rule in [
            "{header: {name: x, present_match: true}}",
            "{not_rule: {url_path: {path: {exact: /}}}}",
        ] {
            let error = compiled(&policy(rule)).unwrap_err();
            assert_eq!(error, "rules: asks for headers or a path, which no connection has");
        }
        assert_eq!(compiled("{}").unwrap_err(), "stat_prefix: required");
    }
}
