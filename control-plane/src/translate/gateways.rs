//! Gateways and their listeners, judged: what is refused, what conflicts, what can be served.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::finding::suggest::did_you_mean;
use crate::finding::{Finding, Severity, codes};
use crate::model::Model;
use crate::model::gateway::{Gateway, Listener, TLS_MIN_VERSION};
use crate::model::gatewayclass::{CONTROLLER, OUR_CLASS};
use crate::model::meta::Place;
use crate::translate::actions::Site;
use crate::translate::draft::ObjectRef;
use crate::translate::hostname::{ANY, intersection};
use crate::translate::problem::Problem;
use crate::translate::references::{GATEWAY_API, Referrer};

/// Our gateways, oldest first, and those of others.
#[derive(Debug, Default)]
pub(super) struct Gateways<'a> {
    /// Ours.
    pub(super) ours: Vec<GatewayPlan<'a>>,
    /// Those of other controllers, or of nobody.
    pub(super) foreign: BTreeSet<Place>,
}

/// A gateway, judged.
#[derive(Debug)]
pub(super) struct GatewayPlan<'a> {
    /// The gateway.
    pub(super) gateway: &'a Gateway,
    /// Why none of it can be served, if so.
    pub(super) refusal: Option<Problem>,
    /// Where it listens.
    pub(super) bind: IpAddr,
    /// Its listeners.
    pub(super) listeners: Vec<ListenerPlan<'a>>,
}

/// A listener, judged.
#[derive(Debug)]
pub(super) struct ListenerPlan<'a> {
    /// The listener.
    pub(super) listener: &'a Listener,
    /// Its hostname, `*` when it has none.
    pub(super) hostname: &'a str,
    /// The conflict with another listener of its gateway.
    pub(super) conflict: Option<Problem>,
    /// Why it cannot be served, if so.
    pub(super) refusal: Option<Problem>,
    /// References that lead nowhere.
    pub(super) unresolved: Vec<Problem>,
    /// Certificates that can be used.
    pub(super) secrets: Vec<Place>,
    /// Listeners whose hostnames overlap with its own, where both speak TLS on one port.
    pub(super) overlaps: Vec<&'a str>,
    /// Kinds of routes that it takes.
    pub(super) kinds: Vec<&'static str>,
    /// Routes that are accepted on it, with the hostnames they have in common.
    pub(super) attached: BTreeMap<ObjectRef, Vec<String>>,
}

impl GatewayPlan<'_> {
    /// Whether a listener of it is served.
    pub(super) fn serves(&self, listener: &ListenerPlan<'_>) -> bool {
        self.refusal.is_none() && listener.is_accepted() && listener.can_answer()
    }
}

impl ListenerPlan<'_> {
    /// Whether it is valid beside the others.
    pub(super) fn is_accepted(&self) -> bool {
        self.refusal.is_none() && self.conflict.is_none()
    }

    /// Where routes are put on it, for the virtual host of `domain`.
    pub(super) fn site<'b>(&'b self, domain: &'b str) -> Site<'b> {
        Site { port: self.listener.port, is_tls: self.is_tls(), domain, shows_certificate: None }
    }

    /// Whether it ends TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.listener.protocol == "HTTPS"
    }

    /// Whether it has what it needs to answer: with TLS, a certificate.
    fn can_answer(&self) -> bool {
        !self.is_tls() || !self.secrets.is_empty()
    }

    /// Whether only TLS 1.3 is spoken.
    pub(super) fn is_tls13_only(&self) -> bool {
        let options = self.listener.tls.as_ref().map(|tls| &tls.options);
        options.and_then(|options| options.get(TLS_MIN_VERSION)).is_some_and(|least| least == "1.3")
    }
}

/// Judges all gateways.
pub(super) fn plan<'a>(model: &'a Model, findings: &mut Vec<Finding>) -> Gateways<'a> {
    let mut gateways = Gateways::default();
    for (place, gateway) in &model.gateways {
        match class_of(model, gateway) {
            Class::Ours(refusal) => gateways.ours.push(plan_one(model, gateway, refusal)),
            Class::Foreign => drop(gateways.foreign.insert(place.clone())),
            Class::Unknown => {
                gateways.foreign.insert(place.clone());
                findings.push(unknown_class(model, gateway));
            }
        }
    }
    gateways
        .ours
        .sort_by(|a, b| a.gateway.metadata.age_order().cmp(&b.gateway.metadata.age_order()));
    share_ports(&mut gateways.ours);
    for plan in &gateways.ours {
        let object = ObjectRef::new("Gateway", plan.gateway.metadata.place());
        findings.extend(plan.problems().map(|problem| problem.finding(&object)));
    }
    gateways
}

impl GatewayPlan<'_> {
    fn problems(&self) -> impl Iterator<Item = &Problem> {
        let of_listeners = self.listeners.iter().flat_map(|listener| {
            listener.refusal.iter().chain(&listener.conflict).chain(&listener.unresolved)
        });
        self.refusal.iter().chain(of_listeners)
    }
}

enum Class {
    Ours(Option<Problem>),
    Foreign,
    Unknown,
}

fn class_of(model: &Model, gateway: &Gateway) -> Class {
    let name = &gateway.spec.gateway_class_name;
    match model.classes.get(&Place::new("", name)) {
        None if name == OUR_CLASS => Class::Ours(None),
        None => Class::Unknown,
        Some(class) if class.spec.controller_name != CONTROLLER => Class::Foreign,
        Some(class) => Class::Ours(class.spec.parameters_ref.is_some().then(|| {
            let message = format!("GatewayClass {name} is not accepted");
            let field = "spec.gatewayClassName";
            Problem::new("InvalidParameters", codes::NOT_SUPPORTED, field, message)
        })),
    }
}

fn unknown_class(model: &Model, gateway: &Gateway) -> Finding {
    let name = &gateway.spec.gateway_class_name;
    let known = model.classes.keys().map(|place| place.name.as_str()).chain([OUR_CLASS]);
    Finding {
        code: codes::IGNORED_CLASS,
        severity: Severity::Warning,
        object: format!("Gateway {}", gateway.metadata.place()),
        field: "spec.gatewayClassName".to_owned(),
        message: format!("there is no GatewayClass {name}, so nobody serves this Gateway"),
        help: did_you_mean(name, known),
    }
}

fn plan_one<'a>(model: &Model, gateway: &'a Gateway, refusal: Option<Problem>) -> GatewayPlan<'a> {
    let mut listeners: Vec<ListenerPlan<'a>> = gateway
        .spec
        .listeners
        .iter()
        .enumerate()
        .map(|(index, listener)| plan_listener(model, gateway, listener, index))
        .collect();
    find_conflicts(&mut listeners);
    find_overlaps(&mut listeners);
    let (bind, unusable) = bind_address(gateway);
    let refusal = refusal.or_else(|| refused_fields(gateway)).or(unusable);
    GatewayPlan { gateway, refusal, bind, listeners }
}

/// Fields that we know and do not implement: refused by name, not left out in silence.
fn refused_fields(gateway: &Gateway) -> Option<Problem> {
    let spec = &gateway.spec;
    let parameters = spec.infrastructure.as_ref().and_then(|i| i.parameters_ref.as_ref());
    let takes_sets = spec
        .allowed_listeners
        .as_ref()
        .is_some_and(|allowed| allowed["namespaces"]["from"].as_str().is_some_and(|f| f != "None"));
    let takes_defaults = spec.default_scope.as_ref().is_some_and(|scope| scope != "None");
    let refused = [
        (parameters.is_some(), "InvalidParameters", "spec.infrastructure.parametersRef"),
        (spec.tls.is_some(), "Invalid", "spec.tls"),
        (takes_sets, "Invalid", "spec.allowedListeners"),
        (takes_defaults, "Invalid", "spec.defaultScope"),
    ];
    let (_, reason, field) = refused.into_iter().find(|(is_set, ..)| *is_set)?;
    Some(Problem::new(reason, codes::NOT_SUPPORTED, field, "not supported"))
}

/// The address that a gateway listens on: the one that it asks for, or all.
fn bind_address(gateway: &Gateway) -> (IpAddr, Option<Problem>) {
    let all = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let wanted = gateway.spec.addresses.iter().enumerate().filter_map(|(index, address)| {
        let value = address.value.as_deref().unwrap_or_default();
        (!value.is_empty() || address.address_type != "IPAddress")
            .then_some((index, address, value))
    });
    let unusable = |index: usize, message: &str| {
        let field = format!("spec.addresses[{index}]");
        (all, Some(Problem::new("UnsupportedAddress", codes::NOT_SUPPORTED, field, message)))
    };
    let mut bind = None;
    for (index, address, value) in wanted {
        match (address.address_type.as_str(), value.parse::<IpAddr>()) {
            ("IPAddress", Ok(ip)) if bind.is_none() => bind = Some(ip),
            ("IPAddress", Ok(_)) => {
                return unusable(index, "more than one address is not supported");
            }
            ("IPAddress", Err(_)) => return unusable(index, "the value is no IP address"),
            _ => return unusable(index, "only addresses of type IPAddress are supported"),
        }
    }
    (bind.unwrap_or(all), None)
}

fn plan_listener<'a>(
    model: &Model,
    gateway: &Gateway,
    listener: &'a Listener,
    index: usize,
) -> ListenerPlan<'a> {
    let place = format!("spec.listeners[{index}]");
    let mut plan = ListenerPlan {
        listener,
        hostname: listener.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(ANY),
        conflict: None,
        refusal: refused_listener(listener, &place),
        unresolved: Vec::new(),
        secrets: Vec::new(),
        overlaps: Vec::new(),
        kinds: Vec::new(),
        attached: BTreeMap::new(),
    };
    take_kinds(&mut plan, &place);
    if plan.is_tls() {
        let namespace = &gateway.metadata.namespace;
        take_certificates(&mut plan, Referrer { model, kind: "Gateway", namespace }, &place);
    }
    plan
}

fn refused_listener(listener: &Listener, place: &str) -> Option<Problem> {
    if !matches!(listener.protocol.as_str(), "HTTP" | "HTTPS") {
        let message = format!("protocol {} is not supported", listener.protocol);
        let field = format!("{place}.protocol");
        return Some(Problem::new("UnsupportedProtocol", codes::NOT_SUPPORTED, field, message));
    }
    let options = listener.tls.iter().flat_map(|tls| &tls.options);
    let refused = options.into_iter().find(|(key, value)| {
        key.as_str() != TLS_MIN_VERSION || !matches!(value.as_str(), "1.2" | "1.3")
    });
    refused.map(|(key, value)| {
        let message = if key == TLS_MIN_VERSION {
            format!("{value:?} is neither 1.2 nor 1.3")
        } else {
            "this option is not supported".to_owned()
        };
        let field = format!("{place}.tls.options[\"{key}\"]");
        Problem::new("UnsupportedValue", codes::NOT_SUPPORTED, field, message)
    })
}

/// The kinds of routes that a listener takes: what its protocol takes and what it lists.
fn take_kinds(plan: &mut ListenerPlan<'_>, place: &str) {
    let served: &[&'static str] = match plan.listener.protocol.as_str() {
        "HTTP" | "HTTPS" => &["HTTPRoute", "GRPCRoute"],
        _ => &[],
    };
    let listed = &plan.listener.allowed_routes.kinds;
    if listed.is_empty() {
        plan.kinds = served.to_vec();
        return;
    }
    for (index, kind) in listed.iter().enumerate() {
        let known = served.iter().find(|served| **served == kind.kind && kind.group == GATEWAY_API);
        match known {
            Some(known) if plan.kinds.contains(known) => {}
            Some(known) => plan.kinds.push(known),
            None => {
                let message = format!(
                    "{} is no kind of route that protocol {} takes",
                    kind.kind, plan.listener.protocol
                );
                let field = format!("{place}.allowedRoutes.kinds[{index}]");
                let code = codes::UNKNOWN_REFERENT;
                plan.unresolved.push(Problem::new("InvalidRouteKinds", code, field, message));
            }
        }
    }
}

fn take_certificates(plan: &mut ListenerPlan<'_>, referrer: Referrer<'_>, place: &str) {
    let references = plan.listener.tls.as_ref().map(|tls| tls.certificate_refs.as_slice());
    let references = references.unwrap_or_default();
    if references.is_empty() {
        let message = "a listener of protocol HTTPS needs a certificate";
        let field = format!("{place}.tls.certificateRefs");
        let code = codes::REQUIRED;
        plan.unresolved.push(Problem::new("InvalidCertificateRef", code, field, message));
    }
    for (index, reference) in references.iter().enumerate() {
        let field = format!("{place}.tls.certificateRefs[{index}]");
        match referrer.certificate(reference, &field) {
            Ok(secret) if plan.secrets.contains(&secret) => {}
            Ok(secret) => plan.secrets.push(secret),
            Err(problem) => plan.unresolved.push(problem),
        }
    }
}

/// Why two listeners cannot share a port, if so.
fn clash(a: &Listener, b: &Listener) -> Option<&'static str> {
    let family = |listener: &Listener| match listener.protocol.as_str() {
        "HTTP" => Some(0),
        "HTTPS" | "TLS" => Some(1),
        "TCP" => Some(2),
        "UDP" => Some(3),
        _ => None,
    };
    let (Some(one), Some(other)) = (family(a), family(b)) else { return None };
    if a.port != b.port || (one == 3) != (other == 3) {
        return None;
    }
    if one != other || one >= 2 {
        return Some("ProtocolConflict");
    }
    let is_same = a.hostname.as_deref().unwrap_or(ANY) == b.hostname.as_deref().unwrap_or(ANY);
    is_same.then_some("HostnameConflict")
}

/// Within one gateway none of the listeners that conflict wins.
fn find_conflicts(listeners: &mut [ListenerPlan<'_>]) {
    for index in 0..listeners.len() {
        let this = listeners[index].listener;
        let others = listeners.iter().enumerate().filter(|(other, _)| *other != index);
        let conflict = others.into_iter().find_map(|(_, other)| {
            let reason = clash(this, other.listener)?;
            let what = match reason {
                "HostnameConflict" => "the same port and hostname",
                _ => "the same port, with a protocol that cannot share it",
            };
            let message = format!("listener {} has {what}", other.listener.name);
            let field = format!("spec.listeners[{index}]");
            Some(Problem::new(reason, codes::LISTENER_CONFLICT, field, message))
        });
        listeners[index].conflict = conflict;
    }
}

fn find_overlaps(listeners: &mut [ListenerPlan<'_>]) {
    for index in 0..listeners.len() {
        let this = &listeners[index];
        let overlaps = |other: &&ListenerPlan<'_>| {
            other.is_tls()
                && other.listener.name != this.listener.name
                && other.listener.port == this.listener.port
                && intersection(other.hostname, this.hostname).is_some()
        };
        let names: Vec<&str> = if this.is_tls() {
            listeners.iter().filter(overlaps).map(|other| other.listener.name.as_str()).collect()
        } else {
            Vec::new()
        };
        listeners[index].overlaps = names;
    }
}

/// Gateways of one fleet may share a port; where they cannot, the younger one gives way.
fn share_ports(gateways: &mut [GatewayPlan<'_>]) {
    /// A listener that has a port, with its address and gateway.
    type Holder<'a> = (&'a Listener, IpAddr, Place);
    let mut taken: BTreeMap<(&str, u16), Vec<Holder<'_>>> = BTreeMap::new();
    for plan in gateways.iter_mut().filter(|plan| plan.refusal.is_none()) {
        let place = plan.gateway.metadata.place();
        for (index, listener) in plan.listeners.iter_mut().enumerate() {
            if !listener.is_accepted() {
                continue;
            }
            let port = listener.listener.port;
            let holders = taken.entry((plan.gateway.fleet(), port)).or_default();
            let clashing = holders.iter().find(|(other, bind, holder)| {
                *holder != place
                    && (*bind != plan.bind || clash(other, listener.listener).is_some())
            });
            if let Some((other, _, holder)) = clashing {
                let message =
                    format!("port {port} is taken by listener {} of Gateway {holder}", other.name);
                let field = format!("spec.listeners[{index}].port");
                let code = codes::LISTENER_CONFLICT;
                listener.refusal = Some(Problem::new("PortUnavailable", code, field, message));
            } else {
                holders.push((listener.listener, plan.bind, place.clone()));
            }
        }
    }
}
