//! Compiles `envoy.config.rbac.v3.RBAC`.

use std::collections::BTreeMap;

use xds_proto::envoy::config::rbac::v3 as api;
use xds_proto::envoy::config::rbac::v3::permission::Rule as Permission;
use xds_proto::envoy::config::rbac::v3::principal::Identifier;
use xds_proto::envoy::r#type::v3::Int32Range;
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;

use super::rule::Rule;
use super::{Action, Policy, Rules};
use crate::matcher::compile::{cidr, header, metadata, path, string};

pub(super) fn rules(message: api::Rbac) -> Result<Rules, FieldError> {
    fields!(message: api::Rbac,
        read: [action, policies], ignore: [], refuse: [audit_logging_options]);
    let action = match api::rbac::Action::try_from(action) {
        Ok(api::rbac::Action::Allow) => Action::Allow,
        Ok(api::rbac::Action::Deny) => Action::Deny,
        Ok(api::rbac::Action::Log) => Action::Log,
        Err(_) => return Err(FieldError::invalid("unknown value")).at("action"),
    };
    // In order of their names, as Envoy looks at them.
    let policies: BTreeMap<_, _> = policies.into_iter().collect();
    let policies = policies
        .into_iter()
        .map(|(name, message)| policy(name.as_str().into(), message).at_key(&name).at("policies"));
    Ok(Rules { action, policies: policies.collect::<Result<_, _>>()? })
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
        Permission::UriTemplate(_) => return Err(FieldError::unsupported()).at("uri_template"),
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

fn ports(range: &Int32Range) -> Result<std::ops::Range<u16>, FieldError> {
    match (u16::try_from(range.start), u16::try_from(range.end)) {
        (Ok(start), Ok(end)) if start < end => Ok(start..end),
        _ => Err(FieldError::invalid("must be ports, the end above the start")),
    }
}
