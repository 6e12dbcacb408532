//! Gateways, judged: who serves them, what is refused, where they listen.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::finding::suggest::did_you_mean;
use crate::finding::{Finding, Severity, codes};
use crate::model::Model;
use crate::model::gateway::Gateway;
use crate::model::gatewayclass::{CONTROLLER, OUR_CLASS};
use crate::model::meta::{Metadata, Place};
use crate::translate::conflicts;
use crate::translate::draft::ObjectRef;
use crate::translate::listener_sets::{self, SetPlan};
use crate::translate::listeners::{self, ListenerPlan, Protocol};
use crate::translate::problem::Problem;
use crate::translate::references::Referrer;

/// Our gateways, oldest first, and those of others.
#[derive(Debug, Default)]
pub(super) struct Gateways<'a> {
    /// Ours.
    pub(super) ours: Vec<GatewayPlan<'a>>,
    /// Those of other controllers, or of nobody.
    pub(super) foreign: BTreeSet<Place>,
    /// Listener sets of ours, and of no gateway that exists.
    pub(super) sets: Vec<SetPlan<'a>>,
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
    /// The secret with the certificate that it shows backends, or why there is none.
    pub(super) client_certificate: Option<Result<Place, Problem>>,
    /// Its listeners, then those of its sets.
    pub(super) listeners: Vec<ListenerPlan<'a>>,
}

impl<'a> GatewayPlan<'a> {
    /// The gateway.
    pub(super) fn object(&self) -> ObjectRef {
        ObjectRef::new("Gateway", self.gateway.metadata.place())
    }

    /// Whether a listener of it is served.
    pub(super) fn serves(&self, listener: &ListenerPlan<'_>) -> bool {
        self.refusal.is_none() && listener.is_accepted() && listener.can_answer()
    }

    /// The listeners of an object.
    pub(super) fn listeners_of<'b>(
        &'b self,
        owner: &'b ObjectRef,
    ) -> impl Iterator<Item = &'b ListenerPlan<'a>> {
        self.listeners.iter().filter(move |listener| listener.owner == *owner)
    }
}

impl Gateways<'_> {
    /// The place in `ours` of a gateway.
    pub(super) fn position(&self, place: &Place) -> Option<usize> {
        self.ours.iter().position(|plan| plan.gateway.metadata.place() == *place)
    }
}

/// Judges all gateways and listener sets.
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
    listener_sets::take(model, &mut gateways);
    for plan in &mut gateways.ours {
        conflicts::find_conflicts(&mut plan.listeners);
        conflicts::find_overlaps(&mut plan.listeners);
        apply_tls(model, plan);
    }
    conflicts::share_ports(&mut gateways.ours);
    findings.extend(gateways.findings());
    gateways
}

impl Gateways<'_> {
    fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for plan in &self.ours {
            let object = plan.object();
            let certificate = plan.client_certificate.as_ref().and_then(|one| one.as_ref().err());
            let own = plan.refusal.iter().chain(certificate);
            findings.extend(own.map(|problem| problem.finding(&object)));
            for listener in &plan.listeners {
                findings.extend(
                    listener.problems().map(|one| one.finding(owner_of(listener, one, &object))),
                );
            }
        }
        for set in &self.sets {
            findings.extend(set.refusal.as_ref().map(|problem| problem.finding(&set.object())));
        }
        findings
    }
}

/// Whose document a problem is about: what a gateway asks of clients stands in the gateway.
fn owner_of<'a>(
    listener: &'a ListenerPlan<'_>,
    problem: &Problem,
    gateway: &'a ObjectRef,
) -> &'a ObjectRef {
    if problem.field.starts_with("spec.tls.") { gateway } else { &listener.owner }
}

/// What the gateway says of TLS, for all its listeners.
fn apply_tls(model: &Model, plan: &mut GatewayPlan<'_>) {
    let metadata = &plan.gateway.metadata;
    let referrer = Referrer { model, kind: "Gateway", namespace: &metadata.namespace };
    let tls = &plan.gateway.spec.tls;
    let field = "spec.tls.backend.clientCertificateRef";
    let certificate = tls.backend.client_certificate_ref.as_ref();
    plan.client_certificate = certificate.map(|reference| {
        referrer.certificate(reference, field).map_err(|problem| match problem.reason {
            "RefNotPermitted" => problem,
            _ => Problem { reason: "InvalidClientCertificateRef", ..problem },
        })
    });
    let shows = matches!(plan.client_certificate, Some(Ok(_))).then(|| metadata.place());
    for listener in &mut plan.listeners {
        listener.shows_certificate.clone_from(&shows);
        let Some(frontend) = &tls.frontend else { continue };
        let port = listener.listener.port;
        let named = frontend.per_port.iter().position(|named| named.port == port);
        let field = match named {
            Some(index) => format!("spec.tls.frontend.perPort[{index}].tls.validation"),
            None => "spec.tls.frontend.default.validation".to_owned(),
        };
        if let Some(validation) = frontend.of_port(port)
            && listener.protocol() == Protocol::Https
        {
            listeners::ask_clients(listener, validation, (referrer, &field));
        }
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
    let Metadata { namespace, .. } = &gateway.metadata;
    let referrer = Referrer { model, kind: "Gateway", namespace };
    let owner = ObjectRef::new("Gateway", gateway.metadata.place());
    let listeners = gateway.spec.listeners.iter().enumerate();
    let listeners = listeners.map(|listener| listeners::plan(referrer, &owner, listener)).collect();
    let (bind, unusable) = bind_address(gateway);
    let refusal = refusal.or_else(|| refused_fields(gateway)).or(unusable);
    GatewayPlan { gateway, refusal, bind, client_certificate: None, listeners }
}

/// Fields that we know and do not implement: refused by name, not left out in silence.
fn refused_fields(gateway: &Gateway) -> Option<Problem> {
    let spec = &gateway.spec;
    let parameters = spec.infrastructure.as_ref().and_then(|i| i.parameters_ref.as_ref());
    let takes_defaults = spec.default_scope.as_ref().is_some_and(|scope| scope != "None");
    let refused = [
        (parameters.is_some(), "InvalidParameters", "spec.infrastructure.parametersRef"),
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
