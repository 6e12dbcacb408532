//! Compiles the filter, its policies and its matcher trees.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::{Message, Name};
use xds_proto::envoy::config::rbac::v3 as api;
use xds_proto::envoy::config::rbac::v3::permission::Rule as Permission;
use xds_proto::envoy::config::rbac::v3::principal::Identifier;
use xds_proto::envoy::extensions::filters::http::rbac::v3 as filter;
use xds_proto::envoy::r#type::v3::Int32Range;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;
use xds_proto::xds::core::v3::TypedExtensionConfig;
use xds_proto::xds::r#type::matcher::v3::Matcher;

use super::rule::Rule;
use super::{Action, Ending, Engine, Kind, Policy, Rbac, Rules};
use crate::filtering::tree;
use crate::matcher::compile::{cidr, header, metadata, path, string, uri_template};
use crate::matcher::{Pattern, StringMatcher};

pub(super) fn compile(config: filter::Rbac) -> Result<Rbac, FieldError> {
    fields!(config: filter::Rbac,
        read: [
            rules, matcher, rules_stat_prefix, shadow_rules, shadow_matcher,
            shadow_rules_stat_prefix,
        ],
        // It names statistics.
        ignore: [track_per_rule_stats],
        refuse: [],
    );
    let enforced = rules.map(self::rules).transpose().at("rules")?;
    let enforced = tree(matcher).at("matcher")?.or(enforced);
    let shadow = shadow_rules.map(self::rules).transpose().at("shadow_rules")?;
    let shadow = tree(shadow_matcher).at("shadow_matcher")?.or(shadow);
    let engine = |kind: Option<Kind>, prefix: String| {
        kind.map(|kind| Arc::new(Engine { kind, prefix: prefix.into() }))
    };
    Ok(Rbac {
        rules: engine(enforced, rules_stat_prefix),
        shadow: engine(shadow, shadow_rules_stat_prefix),
    })
}

pub(super) fn route(config: filter::RbacPerRoute) -> Result<Rbac, FieldError> {
    fields!(config: filter::RbacPerRoute, read: [rbac], ignore: [], refuse: []);
    rbac.map_or_else(|| Ok(Rbac::default()), |rbac| compile(rbac).at("rbac"))
}

pub(super) fn tree(message: Option<Matcher>) -> Result<Option<Kind>, FieldError> {
    let Some(message) = message else { return Ok(None) };
    let tree = tree::compile(message, &ending)?;
    let has_log = tree.any(&|ending| ending.action == Action::Log);
    Ok(Some(Kind::Tree { tree, has_log }))
}

/// Where a matcher tree ends.
fn ending(extension: TypedExtensionConfig) -> Result<Ending, FieldError> {
    let config = required(extension.typed_config, "typed_config")?;
    let ending = if config.type_url == api::Action::type_url() {
        api::Action::decode(config.value.as_slice())
            .map_err(|error| FieldError::invalid(error.to_string()))
            .and_then(named_action)
    } else {
        Err(FieldError::unsupported()).at("type_url")
    };
    ending.at("typed_config")
}

fn named_action(message: api::Action) -> Result<Ending, FieldError> {
    fields!(message: api::Action, read: [name, action], ignore: [], refuse: []);
    Ok(Ending { name: required_text(name, "name")?.into(), action: self::action(action)? })
}

fn action(number: i32) -> Result<Action, FieldError> {
    match api::rbac::Action::try_from(number) {
        Ok(api::rbac::Action::Allow) => Ok(Action::Allow),
        Ok(api::rbac::Action::Deny) => Ok(Action::Deny),
        Ok(api::rbac::Action::Log) => Ok(Action::Log),
        Err(_) => Err(FieldError::invalid("unknown value")).at("action"),
    }
}

pub(super) fn rules(message: api::Rbac) -> Result<Kind, FieldError> {
    fields!(message: api::Rbac,
        read: [action, policies], ignore: [], refuse: [audit_logging_options]);
    let action = self::action(action)?;
    // In order of their names, as Envoy looks at them.
    let policies: BTreeMap<_, _> = policies.into_iter().collect();
    let policies = policies
        .into_iter()
        .map(|(name, message)| policy(name.as_str().into(), message).at_key(&name).at("policies"));
    Ok(Kind::Rules(Rules { action, policies: policies.collect::<Result<_, _>>()? }))
}

fn policy(name: Box<str>, message: api::Policy) -> Result<Policy, FieldError> {
    fields!(message: api::Policy,
        read: [permissions, principals],
        ignore: [],
        refuse: [condition, checked_condition, cel_config]);
    Ok(Policy {
        name,
        permissions: some(each(permissions, "permissions", permission)?, "permissions")?,
        principals: some(each(principals, "principals", principal)?, "principals")?,
    })
}

#[expect(deprecated, reason = "Envoy still takes metadata, and so do control planes send it")]
fn permission(message: api::Permission) -> Result<Rule, FieldError> {
    Ok(match required(message.rule, "rule")? {
        Permission::AndRules(set) => Rule::All(permissions(set).at("and_rules")?),
        Permission::OrRules(set) => Rule::OneOf(permissions(set).at("or_rules")?),
        Permission::Any(any) => always(any)?,
        Permission::Header(message) => Rule::Header(header(message).at("header")?),
        Permission::UrlPath(message) => Rule::Path(path(message).at("url_path")?),
        Permission::DestinationIp(range) => Rule::LocalAddress(cidr(range).at("destination_ip")?),
        Permission::DestinationPort(number) => {
            Rule::LocalPort(port(number).at("destination_port")?)
        }
        Permission::DestinationPortRange(range) => {
            ports(&range).map(Rule::LocalPorts).at("destination_port_range")?
        }
        Permission::Metadata(message) => Rule::Metadata(metadata(message).at("metadata")?),
        Permission::NotRule(rule) => Rule::Not(Box::new(permission(*rule).at("not_rule")?)),
        Permission::RequestedServerName(message) => {
            Rule::ServerName(string(message).at("requested_server_name")?)
        }
        Permission::SourcedMetadata(message) => sourced(message).at("sourced_metadata")?,
        Permission::Matcher(_) => return Err(FieldError::unsupported()).at("matcher"),
        Permission::UriTemplate(message) => {
            let template = uri_template(message).and_then(|template| template.regex());
            Rule::Path(StringMatcher::new(Pattern::Regex(template.at("uri_template")?), false))
        }
    })
}

#[expect(
    deprecated,
    reason = "Envoy still takes source_ip and metadata, and so do control planes send them"
)]
fn principal(message: api::Principal) -> Result<Rule, FieldError> {
    Ok(match required(message.identifier, "identifier")? {
        Identifier::AndIds(set) => Rule::All(principals(set).at("and_ids")?),
        Identifier::OrIds(set) => Rule::OneOf(principals(set).at("or_ids")?),
        Identifier::Any(any) => always(any)?,
        Identifier::Authenticated(message) => {
            let name = message.principal_name.map(string).transpose();
            Rule::Authenticated(name.at("principal_name").at("authenticated")?)
        }
        Identifier::SourceIp(range) => Rule::DirectRemote(cidr(range).at("source_ip")?),
        Identifier::DirectRemoteIp(range) => {
            Rule::DirectRemote(cidr(range).at("direct_remote_ip")?)
        }
        Identifier::RemoteIp(range) => Rule::Remote(cidr(range).at("remote_ip")?),
        Identifier::Header(message) => Rule::Header(header(message).at("header")?),
        Identifier::UrlPath(message) => Rule::Path(path(message).at("url_path")?),
        Identifier::Metadata(message) => Rule::Metadata(metadata(message).at("metadata")?),
        Identifier::NotId(id) => Rule::Not(Box::new(principal(*id).at("not_id")?)),
        Identifier::SourcedMetadata(message) => sourced(message).at("sourced_metadata")?,
        Identifier::FilterState(_) => return Err(FieldError::unsupported()).at("filter_state"),
        Identifier::Custom(_) => return Err(FieldError::unsupported()).at("custom"),
    })
}

fn always(any: bool) -> Result<Rule, FieldError> {
    if any { Ok(Rule::Any) } else { Err(FieldError::invalid("must be true")).at("any") }
}

fn permissions(set: api::permission::Set) -> Result<Box<[Rule]>, FieldError> {
    some(each(set.rules, "rules", permission)?, "rules")
}

fn principals(set: api::principal::Set) -> Result<Box<[Rule]>, FieldError> {
    some(each(set.ids, "ids", principal)?, "ids")
}

fn some(rules: Vec<Rule>, field: &'static str) -> Result<Box<[Rule]>, FieldError> {
    if rules.is_empty() { Err(FieldError::required()).at(field) } else { Ok(rules.into()) }
}

fn sourced(message: api::SourcedMetadata) -> Result<Rule, FieldError> {
    fields!(message: api::SourcedMetadata,
        read: [metadata_matcher], ignore: [], refuse: [metadata_source]);
    let matcher = required(metadata_matcher, "metadata_matcher")?;
    metadata(matcher).map(Rule::Metadata).at("metadata_matcher")
}

fn port(number: u32) -> Result<u16, FieldError> {
    u16::try_from(number).map_err(|_| FieldError::invalid("must be at most 65535"))
}

fn ports(range: &Int32Range) -> Result<std::ops::Range<u32>, FieldError> {
    // The end is no part of it, and so may be one above the last port.
    match (u32::try_from(range.start), u32::try_from(range.end)) {
        (Ok(start), Ok(end)) if start < end && end <= 65536 => Ok(start..end),
        _ => Err(FieldError::invalid("must be ports, the end above the start")),
    }
}
