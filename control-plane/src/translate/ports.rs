//! Ports of fleets: the resources of all listeners of one port.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::Finding;
use crate::model::Model;
use crate::translate::backends::ClusterKey;
use crate::translate::connections::{closed_chain, tcp_chain, tls_chains};
use crate::translate::draft::ObjectRef;
use crate::translate::gateways::GatewayPlan;
use crate::translate::hostname::ANY;
use crate::translate::listener::{Chain, ChainTls, Work, authorities, listener, secret};
use crate::translate::listeners::{ListenerPlan, Protocol};
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
    let is = |protocol| move |(_, one): &&(_, &ListenerPlan<'_>)| one.protocol() == protocol;
    let plain: Port<'_> = served.iter().filter(is(Protocol::Http)).copied().collect();
    let mut tables: Vec<(String, Port<'_>)> = Vec::new();
    if !plain.is_empty() {
        tables.push((name.to_owned(), plain));
    }
    for one in served.iter().filter(is(Protocol::Https)) {
        tables.push((listener_name(one.1), vec![*one]));
    }
    let mut chains = Vec::new();
    for (name, own) in &tables {
        let table = Table {
            name: name.clone(),
            own: own.iter().map(|(_, listener)| *listener).collect(),
            all: &all,
        };
        let routes = table.build(plans, findings);
        output.add(fleet, &routes, table_owners(own));
        chains.push(http_chain(name, own));
        if !routes.virtual_hosts.is_empty() {
            use_clusters(fleet, own, plans, output);
        }
    }
    for (gateway, listener) in port {
        let name = listener_name(listener);
        let is_served = gateway.serves(listener);
        match listener.protocol() {
            Protocol::Http | Protocol::Other => continue,
            Protocol::Https if is_served => continue,
            Protocol::Passthrough | Protocol::Terminate if is_served => {
                chains.extend(tls_chains(&name, listener, &all, plans));
            }
            Protocol::Tcp if is_served => chains.push(tcp_chain(&name, listener, plans)),
            Protocol::Tcp => continue,
            Protocol::Https | Protocol::Terminate | Protocol::Passthrough => {
                chains.push(closed_chain(&name, listener));
            }
        }
        use_clusters(fleet, &vec![(*gateway, *listener)], plans, output);
    }
    chains.sort_by(|a, b| a.name.cmp(&b.name));
    let owners = served.iter().map(|(gateway, one)| [owner(gateway), one.owner.clone()]);
    let mut owners: BTreeSet<ObjectRef> = owners.flatten().collect();
    // Routes of connections stand in the listener itself.
    let bytes = served
        .iter()
        .filter(|(_, one)| !matches!(one.protocol(), Protocol::Http | Protocol::Https));
    owners.extend(bytes.flat_map(|(_, one)| one.attached.keys().cloned()));
    let number = served.first().map_or(0, |(_, listener)| listener.listener.port);
    output.add(fleet, &listener(name, first.bind, number, &chains), owners);
}

/// The name of what a listener alone has on the wire.
fn listener_name(listener: &ListenerPlan<'_>) -> String {
    let ObjectRef { kind, place } = &listener.owner;
    let of_set = if *kind == "ListenerSet" { "listenerset/" } else { "" };
    format!("{of_set}{place}/{}", listener.listener.name)
}

fn http_chain<'a>(name: &str, own: &Port<'a>) -> Chain<'a> {
    let of_tls = own.first().filter(|(_, one)| one.protocol() == Protocol::Https);
    Chain {
        name: name.to_owned(),
        server_name: of_tls.map_or(ANY, |(_, one)| one.hostname).to_owned(),
        is_for_tls: false,
        tls: of_tls.map(|(_, one)| ChainTls {
            secrets: &one.secrets,
            is_tls13_only: one.is_tls13_only(),
            alpn: &["h2", "http/1.1"],
            clients: one.clients.as_ref(),
        }),
        work: Work::Http,
    }
}

fn owner(gateway: &GatewayPlan<'_>) -> ObjectRef {
    gateway.object()
}

fn routes_of<'a>(own: &'a Port<'_>) -> impl Iterator<Item = &'a ObjectRef> {
    own.iter().flat_map(|(_, listener)| listener.attached.keys())
}

fn table_owners(own: &Port<'_>) -> BTreeSet<ObjectRef> {
    let gateways = own.iter().flat_map(|(gateway, one)| [owner(gateway), one.owner.clone()]);
    gateways.chain(routes_of(own).cloned()).collect()
}

/// Every backend that a route of the listeners names, whatever its weight: it is there before a
/// shift needs it.
fn use_clusters(fleet: &str, own: &Port<'_>, plans: &Plans<'_>, output: &mut Output) {
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
            let owners = [ObjectRef::new("Secret", place.clone()), listener.owner.clone()];
            output.add(fleet, &secret(place, &pair), owners.into());
        }
    }
    let Some(clients) = listener.clients.as_ref().filter(|one| !one.authorities.is_empty()) else {
        return;
    };
    let places = &clients.authorities;
    let maps = places.iter().filter_map(|place| model.config_maps.get(place)?.authorities().ok());
    let owners = places.iter().map(|place| ObjectRef::new("ConfigMap", place.clone()));
    let owners = owners.chain([owner(gateway)]).collect();
    output.add(fleet, &authorities(places, bundle(maps)), owners);
}

/// Certificates in one text.
fn bundle<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.map(|text| format!("{}\n", text.trim_end())).collect()
}
