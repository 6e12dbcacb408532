//! Compiles what requests are hashed by.

use http::HeaderName;
use xds_proto::convert::optional_duration;
use xds_proto::envoy::config::route::v3::route_action::HashPolicy as Message;
use xds_proto::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
};
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;

use crate::matcher::compile::regex_rewrite;
use crate::matcher::hash::{CookieSource, HashPolicy, Part, Source};

/// Compiles a list of policies.
///
/// # Errors
/// The first field that is wrong, below `hash_policy`.
pub(crate) fn compile(messages: Vec<Message>) -> Result<HashPolicy, FieldError> {
    let parts = each(messages, "hash_policy", |message| {
        fields!(message: Message, read: [policy_specifier, terminal], ignore: [], refuse: []);
        let source = source(required(policy_specifier, "policy_specifier")?)?;
        Ok(source.map(|source| Part { source, is_terminal: terminal }))
    })?;
    Ok(HashPolicy::new(parts.into_iter().flatten().collect()))
}

/// Nothing, where a policy says that it hashes nothing.
fn source(specifier: PolicySpecifier) -> Result<Option<Source>, FieldError> {
    Ok(match specifier {
        PolicySpecifier::Header(message) => Some(header(message).at("header")?),
        PolicySpecifier::Cookie(message) => Some(cookie(message).at("cookie")?),
        PolicySpecifier::ConnectionProperties(message) => {
            fields!(message: ConnectionProperties, read: [source_ip], ignore: [], refuse: []);
            source_ip.then_some(Source::SourceIp)
        }
        PolicySpecifier::QueryParameter(message) => {
            fields!(message: QueryParameter, read: [name], ignore: [], refuse: []);
            Some(Source::Query(required_text(name, "name").at("query_parameter")?.into()))
        }
        PolicySpecifier::FilterState(_) => {
            return Err(FieldError::unsupported()).at("filter_state");
        }
    })
}

fn header(message: Header) -> Result<Source, FieldError> {
    fields!(message: Header, read: [header_name, regex_rewrite], ignore: [], refuse: []);
    let name = required_text(header_name, "header_name")?;
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| FieldError::invalid(format!("{name:?} is not a header name")))
        .at("header_name")?;
    let rewrite = regex_rewrite.map(self::regex_rewrite).transpose().at("regex_rewrite")?;
    Ok(Source::Header(name, rewrite))
}

fn cookie(message: Cookie) -> Result<Source, FieldError> {
    fields!(message: Cookie, read: [name, ttl, path, attributes], ignore: [], refuse: []);
    let name = required_text(name, "name")?;
    let mut suffix = String::new();
    if !path.is_empty() {
        suffix.push_str("; Path=");
        suffix.push_str(text(&path).at("path")?);
    }
    for (index, attribute) in attributes.into_iter().enumerate() {
        fields!(attribute: CookieAttribute, read: [name, value], ignore: [], refuse: []);
        for part in ["; ", text(&name).at("name").at_index(index).at("attributes")?] {
            suffix.push_str(part);
        }
        if !value.is_empty() {
            suffix.push('=');
            suffix.push_str(text(&value).at("value").at_index(index).at("attributes")?);
        }
    }
    suffix.push_str("; HttpOnly");
    Ok(Source::Cookie(CookieSource {
        name: text(&name).at("name")?.into(),
        ttl: optional_duration(ttl.as_ref(), "ttl")?,
        suffix: suffix.into(),
    }))
}

/// What may stand in a `set-cookie`.
fn text(value: &str) -> Result<&str, FieldError> {
    let is_plain = |c: char| c.is_ascii_graphic() && c != ';' && c != ',' || c == ' ';
    if value.chars().all(is_plain) {
        return Ok(value);
    }
    Err(FieldError::invalid("has characters that no cookie may have"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use xds_proto::envoy::config::route::v3::RouteAction;
    use xds_proto::json::from_yaml;

    use super::*;

    fn compiled(yaml: &str) -> Result<HashPolicy, String> {
        let action: RouteAction = from_yaml(&format!("{{hash_policy: [{yaml}]}}")).unwrap();
        compile(action.hash_policy).map_err(|error| error.to_string())
    }

    #[test]
    fn a_cookie_has_what_a_client_is_told_of_it() {
        let yaml = "{cookie: {name: sid, ttl: 60s, path: /, attributes: [{name: SameSite, value: Lax}, {name: Secure}]}}";
        let policy = compiled(yaml).unwrap();
        let text = format!("{policy:?}");
        assert!(text.contains("; Path=/; SameSite=Lax; Secure; HttpOnly"), "{text}");
        assert!(text.contains(&format!("{:?}", Some(Duration::from_secs(60)))), "{text}");
        assert!(compiled("{connection_properties: {source_ip: false}}").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        for (yaml, error) in [
            ("{}", "hash_policy[0].policy_specifier: required"),
            (
                "{header: {header_name: 'a b'}}",
                "hash_policy[0].header.header_name: \"a b\" is not a header name",
            ),
            (
                "{cookie: {name: 'a;b'}}",
                "hash_policy[0].cookie.name: has characters that no cookie may have",
            ),
            ("{filter_state: {key: k}}", "hash_policy[0].filter_state: not supported"),
            ("{query_parameter: {}}", "hash_policy[0].query_parameter.name: required"),
        ] {
            assert_eq!(compiled(yaml).unwrap_err(), error);
        }
    }
}
