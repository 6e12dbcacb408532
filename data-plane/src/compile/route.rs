//! Compiles `RouteConfiguration` into a route table. Linear in the number of routes that changed.

pub(super) mod action;
mod around;
mod condition;
mod known;
mod mirror;
mod retry;
mod split;
mod uri_template;
mod virtual_host;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use xds_proto::envoy::config::core::v3::HeaderValueOption;
use xds_proto::envoy::config::route::v3 as route;
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;
use xds_proto::version::Version;

pub(super) use self::action::header_name;
use self::around::{Inherited, Surroundings};
use self::known::Known;
use crate::compile::source::reference;
use crate::format::compile::mutations;
use crate::reference::Reference;
use crate::route::host::DomainError;
use crate::route::virtual_host::VirtualHost;
use crate::route::{Frame, Mutations, RouteTable, WrongDomain};

/// Compiles a route configuration that stands in a listener.
///
/// # Errors
/// The first field that is wrong or not supported, with its path.
pub fn compile(mut message: route::RouteConfiguration) -> Result<RouteTable, FieldError> {
    if message.vhds.is_some() {
        let reason = "needs a route configuration that comes by RDS";
        return Err(FieldError::invalid(reason)).at("vhds");
    }
    let hosts = std::mem::take(&mut message.virtual_hosts);
    let Framed { frame, inherited, .. } = frame(message)?;
    let hosts = each(hosts, "virtual_hosts", |mut message| {
        let routes = std::mem::take(&mut message.routes).into_iter().map(Ok);
        virtual_host::compile(message, routes, &inherited).map(Arc::new)
    })?;
    RouteTable::new(Arc::new(frame), hosts, None).map_err(wrong_domain)
}

/// A route configuration that came by name, compiled.
#[derive(Debug)]
pub struct RouteConfig {
    /// The table of the virtual hosts that stand in it.
    pub table: Arc<RouteTable>,
    /// Where other virtual hosts of its come from (`vhds`): the resources whose names begin with
    /// this one and a slash. None where none do.
    pub vhds: Option<Reference>,
    inherited: Inherited,
    /// The version of all but its virtual hosts.
    around: Version,
    /// What it was compiled from.
    encoded: Bytes,
}

/// Virtual hosts of a route configuration by name, each with its bytes.
type ByName<'a> = HashMap<&'a str, (&'a Arc<VirtualHost>, Bytes)>;

impl RouteConfig {
    /// Compiles an encoded route configuration; virtual hosts that `previous` has too are taken
    /// from it, and of those that changed the routes that are the same.
    ///
    /// # Errors
    /// Bytes that do not decode, or the first field that is wrong or not supported, with its path.
    pub fn compile(encoded: Bytes, previous: Option<&Self>) -> Result<Self, FieldError> {
        let (rest, hosts) = split::split(encoded.clone(), split::VIRTUAL_HOSTS)?;
        let around = Version::of_bytes(&rest);
        let message = route::RouteConfiguration::decode(rest).map_err(undecodable)?;
        let Framed { frame, inherited, vhds } = frame(message)?;
        let known = previous.into_iter().flat_map(|previous| previous.table.virtual_hosts());
        let known: HashMap<&Version, &Arc<VirtualHost>> =
            known.filter_map(|host| Some((host.source.as_ref()?, host))).collect();
        let by_name = previous.filter(|previous| previous.around == around);
        let by_name = by_name.map(Self::by_name).transpose()?.unwrap_or_default();
        let hosts = each(hosts, "virtual_hosts", |encoded| {
            let source = source(&around, &encoded);
            match known.get(&source) {
                Some(known) => Ok(Arc::clone(known)),
                None => compile_host(encoded, source, &inherited, &by_name),
            }
        })?;
        let previous = previous.map(|previous| &*previous.table);
        let table = RouteTable::new(Arc::new(frame), hosts, previous).map_err(wrong_domain)?;
        Ok(Self { table: Arc::new(table), vhds, inherited, around, encoded })
    }

    fn by_name(&self) -> Result<ByName<'_>, FieldError> {
        let (_, encoded) = split::split(self.encoded.clone(), split::VIRTUAL_HOSTS)?;
        let hosts = self.table.virtual_hosts().iter();
        Ok(hosts.zip(encoded).map(|(host, encoded)| (&*host.name, (host, encoded))).collect())
    }

    /// Compiles an encoded virtual host that belongs to it; gives `previous` where that is the same.
    ///
    /// # Errors
    /// Bytes that do not decode, or the first field that is wrong or not supported, with its path.
    pub fn virtual_host(
        &self,
        encoded: Bytes,
        previous: Option<&Arc<VirtualHost>>,
    ) -> Result<Arc<VirtualHost>, FieldError> {
        let source = source(&self.around, &encoded);
        match previous {
            Some(previous) if previous.source.as_ref() == Some(&source) => Ok(Arc::clone(previous)),
            _ => compile_host(encoded, source, &self.inherited, &ByName::new()),
        }
    }
}

fn compile_host(
    encoded: Bytes,
    source: Version,
    inherited: &Inherited,
    before: &ByName<'_>,
) -> Result<Arc<VirtualHost>, FieldError> {
    let (rest, routes) = split::split(encoded, split::ROUTES)?;
    let message = route::VirtualHost::decode(rest.clone()).map_err(undecodable)?;
    let known = match before.get(&*message.name) {
        Some((host, before)) => {
            let (rest_before, encoded) = split::split(before.clone(), split::ROUTES)?;
            (rest == rest_before).then(|| Known { host: Arc::clone(host), encoded })
        }
        None => None,
    };
    let shared = match known {
        Some(known) => virtual_host::compile_changed(message.clone(), &routes, inherited, &known)?,
        None => None,
    };
    let compiled = match shared {
        Some(shared) => shared,
        None => {
            let routes = routes.into_iter().map(|encoded| decode_route(&encoded));
            virtual_host::compile(message, routes, inherited)?
        }
    };
    Ok(Arc::new(VirtualHost { source: Some(source), ..compiled }))
}

fn decode_route(encoded: &Bytes) -> Result<route::Route, FieldError> {
    route::Route::decode(encoded.clone()).map_err(undecodable)
}

/// What a virtual host is made of: its bytes, and those around it.
fn source(around: &Version, encoded: &[u8]) -> Version {
    Version::of_set([("around", around), ("host", &Version::of_bytes(encoded))])
}

fn undecodable(error: impl std::fmt::Display) -> FieldError {
    FieldError::invalid(format!("undecodable bytes: {error}"))
}

fn wrong_domain(wrong: WrongDomain) -> FieldError {
    let (host, domain) = (wrong.host, wrong.domain);
    domain_error(wrong).at_index(domain).at("domains").at_index(host).at("virtual_hosts")
}

/// What is wrong with a domain.
pub(super) fn domain_error(WrongDomain { text, error, .. }: WrongDomain) -> FieldError {
    match error {
        DomainError::Empty => FieldError::required(),
        DomainError::Duplicate => FieldError::invalid(format!(
            "only unique domains are permitted, {text:?} is there already"
        )),
    }
}

/// What a route configuration says beside its virtual hosts.
struct Framed {
    frame: Frame,
    inherited: Inherited,
    vhds: Option<Reference>,
}

/// The header changes of one level.
fn both_ways(
    (add_to_request, remove_from_request): (Vec<HeaderValueOption>, Vec<String>),
    (add_to_response, remove_from_response): (Vec<HeaderValueOption>, Vec<String>),
) -> Result<Mutations, FieldError> {
    Ok(Mutations {
        request: mutations(
            (add_to_request, "request_headers_to_add"),
            (remove_from_request, "request_headers_to_remove"),
        )?,
        response: mutations(
            (add_to_response, "response_headers_to_add"),
            (remove_from_response, "response_headers_to_remove"),
        )?,
    })
}

fn frame(message: route::RouteConfiguration) -> Result<Framed, FieldError> {
    fields!(message: route::RouteConfiguration,
    read: [
        name, virtual_hosts, request_headers_to_add, request_headers_to_remove,
        response_headers_to_add, response_headers_to_remove,
        most_specific_header_mutations_wins, max_direct_response_body_size_bytes,
        ignore_port_in_host_matching, ignore_path_parameters_in_path_matching,
        request_mirror_policies, internal_only_headers, typed_per_filter_config, vhds,
    ],
    // validate_clusters: a cluster may come later; until then cluster_not_found_response_code.
    // metadata: for the control plane's own use.
    ignore: [validate_clusters, metadata],
    refuse: [cluster_specifier_plugins, vhost_header, route_specifiers]);
    let _compiled_apart = virtual_hosts;
    let mutations = both_ways(
        (request_headers_to_add, request_headers_to_remove),
        (response_headers_to_add, response_headers_to_remove),
    )?;
    let internal_only =
        each(internal_only_headers, "internal_only_headers", |name| action::header_name(&name))?;
    let mut around = Surroundings::default();
    let filters = around.filters(typed_per_filter_config, String::new)?;
    mirror::compile(request_mirror_policies.clone(), &mut around, &Arc::from([]))?;
    let body_bytes_max = max_direct_response_body_size_bytes.map_or(4096, |bytes| bytes.value);
    let name: Arc<str> = name.into();
    let vhds = vhds.map(|message| self::vhds(&name, message)).transpose().at("vhds")?;
    let frame = Frame {
        name,
        has_discovered_hosts: vhds.is_some(),
        overrides: around.overrides,
        mutations,
        internal_only: internal_only.into(),
        ignore_port: ignore_port_in_host_matching,
        ignore_path_parameters: ignore_path_parameters_in_path_matching,
        most_specific_wins: most_specific_header_mutations_wins,
    };
    let inherited = Inherited {
        body_bytes_max: usize::try_from(body_bytes_max).unwrap_or(usize::MAX),
        overrides: frame.overrides.clone(),
        filters,
        clusters: around.cluster_names,
        mirrors: request_mirror_policies,
    };
    Ok(Framed { frame, inherited, vhds })
}

fn vhds(name: &Arc<str>, message: route::Vhds) -> Result<Reference, FieldError> {
    fields!(message: route::Vhds, read: [config_source], ignore: [], refuse: []);
    let source = required(config_source, "config_source")?;
    reference(Arc::clone(name), source).at("config_source")
}

#[cfg(test)]
mod tests;
