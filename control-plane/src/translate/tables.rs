//! Virtual hosts: which routes answer for which hostnames of a port.

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use xds_proto::envoy::config::route::v3::route::Action;
use xds_proto::envoy::config::route::v3::route_match::PathSpecifier;
use xds_proto::envoy::config::route::v3::{Route, RouteConfiguration, RouteMatch, VirtualHost};

use crate::finding::{Finding, Severity, codes};
use crate::translate::actions;
use crate::translate::draft::ObjectRef;
use crate::translate::hostname::covers;
use crate::translate::listeners::ListenerPlan;
use crate::translate::plan::RoutePlan;
use crate::translate::retry;

/// Plans of routes.
pub(super) type Plans<'a> = BTreeMap<ObjectRef, RoutePlan<'a>>;

/// The routes of some listeners of a port, of all that there are on it.
#[derive(Debug)]
pub(super) struct Table<'a> {
    /// Its name.
    pub(super) name: String,
    /// The listeners that it is for.
    pub(super) own: Vec<&'a ListenerPlan<'a>>,
    /// All listeners of the port.
    pub(super) all: &'a [&'a ListenerPlan<'a>],
}

impl Table<'_> {
    /// The table, and matches in it that can never be reached.
    pub(super) fn build(
        &self,
        plans: &Plans<'_>,
        findings: &mut Vec<Finding>,
    ) -> RouteConfiguration {
        let mut hosts: BTreeMap<String, VirtualHost> = BTreeMap::new();
        for listener in &self.own {
            for (domain, routes) in domains(listener, self.all) {
                let routes: Vec<&RoutePlan<'_>> =
                    routes.into_iter().filter_map(|route| plans.get(route)).collect();
                let routes = self.routes(listener, &domain, &routes, findings);
                hosts.insert(domain.clone(), virtual_host(&domain, routes));
            }
        }
        for other in self.all {
            if other.has_server_name() && !hosts.contains_key(other.hostname) {
                hosts.insert(other.hostname.to_owned(), misdirected(other.hostname));
            }
        }
        RouteConfiguration {
            name: self.name.clone(),
            virtual_hosts: hosts.into_values().collect(),
            ignore_port_in_host_matching: true,
            ..Default::default()
        }
    }

    fn routes(
        &self,
        listener: &ListenerPlan<'_>,
        domain: &str,
        plans: &[&RoutePlan<'_>],
        findings: &mut Vec<Finding>,
    ) -> Vec<Route> {
        let site = listener.site(domain);
        let mut sorted: Vec<(ObjectRef, actions::Sorted)> = Vec::new();
        for plan in plans {
            let object = plan.object();
            let routes = actions::routes(plan, site).into_iter();
            sorted.extend(routes.map(|route| (object.clone(), route)));
        }
        sorted.sort_by(|(_, a), (_, b)| a.precedence.cmp(&b.precedence));
        let mut seen: HashMap<Vec<u8>, String> = HashMap::new();
        for (object, sorted) in &sorted {
            let Some(key) = sorted.key.as_ref().map(Message::encode_to_vec) else { continue };
            let name = sorted.route.name.clone();
            if let Some(first) = seen.get(&key) {
                findings.push(shadowed(object, &sorted.field, first));
            } else {
                seen.insert(key, name);
            }
        }
        sorted.into_iter().map(|(_, sorted)| sorted.route).collect()
    }
}

/// The hostnames that a listener answers for, with the routes of each. Its own is one of them even
/// without routes, so that no less specific listener of those of its port, `all`, answers in its
/// place; what a more specific listener covers is not.
pub(super) fn domains<'b>(
    listener: &'b ListenerPlan<'_>,
    all: &[&ListenerPlan<'_>],
) -> BTreeMap<String, Vec<&'b ObjectRef>> {
    let mut domains: BTreeMap<String, Vec<&ObjectRef>> = BTreeMap::new();
    domains.insert(listener.hostname.to_owned(), Vec::new());
    for (route, hostnames) in &listener.attached {
        for hostname in hostnames {
            domains.entry(hostname.clone()).or_default().push(route);
        }
    }
    domains.retain(|domain, _| {
        !all.iter().any(|other| {
            other.hostname != listener.hostname
                && covers(listener.hostname, other.hostname)
                && covers(other.hostname, domain)
        })
    });
    domains
}

fn virtual_host(domain: &str, routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: domain.to_owned(),
        domains: vec![domain.to_owned()],
        retry_policy: routes.iter().any(forwards).then(retry::by_default),
        routes,
        ..Default::default()
    }
}

fn forwards(route: &Route) -> bool {
    matches!(route.action, Some(Action::Route(_)))
}

/// A request that came over the connection of another server name (RFC 9110, section 15.5.20).
fn misdirected(domain: &str) -> VirtualHost {
    let route = Route {
        name: "misdirected".to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        ..actions::answer(421)
    };
    virtual_host(domain, vec![route])
}

fn shadowed(object: &ObjectRef, field: &str, first: &str) -> Finding {
    Finding {
        code: codes::SHADOWED,
        severity: Severity::Warning,
        object: object.to_string(),
        field: field.to_owned(),
        message: format!("can never match: {first} is equal and comes first"),
        help: None,
    }
}
