//! Ports of fleets: the resources of all listeners of one port.

use std::collections::{BTreeMap, BTreeSet};

use xds_proto::envoy::config::route::v3::RouteConfiguration;

use crate::finding::Finding;
use crate::model::Model;
use crate::translate::backends::ClusterKey;
use crate::translate::draft::ObjectRef;
use crate::translate::gateways::{GatewayPlan, ListenerPlan};
use crate::translate::listener::{Chain, ChainTls, listener, secret};
use crate::translate::output::Output;
use crate::translate::tables::{Plans, Table};

/// The listeners of one port of a fleet, with their gateways.
type Port<'a> = Vec<(&'a GatewayPlan<'a>, &'a ListenerPlan<'a>)>;

/// Emits what the ports of all fleets need. Gives the backends that each fleet uses, and the
/// routes that use them.
pub(super) fn emit(
    model: &Model,
    gateways: &[GatewayPlan<'_>],
    plans: &Plans<'_>,
    output: &mut Output,
    findings: &mut Vec<Finding>,
) {
    let mut ports: BTreeMap<(&str, u16), Port<'_>> = BTreeMap::new();
    for gateway in gateways {
        output.fleet(gateway.gateway.fleet());
        for listener in &gateway.listeners {
            // One that lacks its certificate still keeps its hostname from the others.
            if gateway.refusal.is_none() && listener.is_accepted() {
                let port = (gateway.gateway.fleet(), listener.listener.port);
                ports.entry(port).or_default().push((gateway, listener));
            }
        }
    }
    for ((fleet, port), listeners) in ports {
        emit_port(&format!("{fleet}/{port}"), fleet, &listeners, plans, (output, findings));
        for (gateway, listener) in &listeners {
            emit_secrets(model, fleet, gateway, listener, output);
        }
    }
}

fn emit_port(
    name: &str,
    fleet: &str,
    port: &Port<'_>,
    plans: &Plans<'_>,
    (output, findings): (&mut Output, &mut Vec<Finding>),
) {
    let all: Vec<&ListenerPlan<'_>> = port.iter().map(|(_, listener)| *listener).collect();
    let served: Port<'_> =
        port.iter().copied().filter(|(gateway, listener)| gateway.serves(listener)).collect();
    let Some((first, _)) = served.first() else { return };
    let plain: Port<'_> = served.iter().copied().filter(|(_, one)| !one.is_tls()).collect();
    let mut tables: Vec<(String, Port<'_>)> = Vec::new();
    if !plain.is_empty() {
        tables.push((name.to_owned(), plain));
    }
    for (gateway, listener) in served.iter().filter(|(_, listener)| listener.is_tls()) {
        let name = format!("{}/{}", gateway.gateway.metadata.place(), listener.listener.name);
        tables.push((name, vec![(gateway, listener)]));
    }
    tables.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut chains = Vec::new();
    for (name, own) in &tables {
        let table = Table {
            name: name.clone(),
            own: own.iter().map(|(_, listener)| *listener).collect(),
            all: &all,
        };
        let routes = table.build(plans, findings);
        output.add(fleet, &routes, table_owners(own));
        chains.push(chain(name, own));
        use_clusters(fleet, own, plans, &routes, output);
    }
    let owners = served.iter().map(|(gateway, _)| owner(gateway)).collect();
    let number = served.first().map_or(0, |(_, listener)| listener.listener.port);
    output.add(fleet, &listener(name, first.bind, number, &chains), owners);
}

fn chain<'a>(name: &'a str, own: &Port<'a>) -> Chain<'a> {
    let tls = own.first().filter(|(_, listener)| listener.is_tls()).map(|(_, listener)| ChainTls {
        hostname: listener.hostname,
        secrets: &listener.secrets,
        is_tls13_only: listener.is_tls13_only(),
    });
    Chain { name, tls }
}

fn owner(gateway: &GatewayPlan<'_>) -> ObjectRef {
    ObjectRef::new("Gateway", gateway.gateway.metadata.place())
}

fn routes_of<'a>(own: &'a Port<'_>) -> impl Iterator<Item = &'a ObjectRef> {
    own.iter().flat_map(|(_, listener)| listener.attached.keys())
}

fn table_owners(own: &Port<'_>) -> BTreeSet<ObjectRef> {
    let gateways = own.iter().map(|(gateway, _)| owner(gateway));
    gateways.chain(routes_of(own).cloned()).collect()
}

/// Every backend that a route of the table names, whatever its weight: it is there before a shift
/// needs it.
fn use_clusters(
    fleet: &str,
    own: &Port<'_>,
    plans: &Plans<'_>,
    table: &RouteConfiguration,
    output: &mut Output,
) {
    if table.virtual_hosts.is_empty() {
        return;
    }
    for (_, listener) in own {
        for route in listener.attached.keys() {
            let Some(plan) = plans.get(route) else { continue };
            for destination in plan.destinations() {
                let key = ClusterKey::new(destination, plan.kind, listener.site(""));
                output.use_cluster(fleet, key, route.clone());
            }
        }
    }
}

fn emit_secrets(
    model: &Model,
    fleet: &str,
    gateway: &GatewayPlan<'_>,
    listener: &ListenerPlan<'_>,
    output: &mut Output,
) {
    for place in &listener.secrets {
        if let Some(Ok(pair)) = model.secrets.get(place).map(|secret| secret.tls_pair()) {
            let owners = [ObjectRef::new("Secret", place.clone()), owner(gateway)];
            output.add(fleet, &secret(place, &pair), owners.into());
        }
    }
}
