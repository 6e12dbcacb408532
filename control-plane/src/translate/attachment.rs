//! Routes and listeners: which attach to which, and why others do not.

use serde_json::Value;

use crate::finding::suggest::did_you_mean;
use crate::finding::{Finding, codes};
use crate::model::Model;
use crate::model::gateway::RouteNamespaces;
use crate::model::meta::Place;
use crate::model::route::ParentRef;
use crate::translate::draft::{Condition, DraftBody, ObjectRef, ParentDraft, StatusDraft};
use crate::translate::gateways::{GatewayPlan, Gateways};
use crate::translate::hostname;
use crate::translate::listeners::ListenerPlan;
use crate::translate::plan::{RouteKind, RoutePlan};
use crate::translate::problem::{Problem, summary};
use crate::translate::references::GATEWAY_API;
use crate::translate::tables::Plans;

/// Attaches all routes, the oldest first: it keeps a hostname that a younger one of another kind
/// asks for too. Gives what their parents say of them.
pub(super) fn attach_all(
    model: &Model,
    plans: &Plans<'_>,
    gateways: &mut Gateways<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<StatusDraft> {
    let mut by_age: Vec<&RoutePlan<'_>> = plans.values().collect();
    by_age.sort_by_key(|plan| plan.metadata.age_order());
    let drafts = by_age.into_iter().map(|plan| StatusDraft {
        object: plan.object(),
        generation: plan.metadata.generation,
        body: DraftBody::Route(attach(model, plan, gateways, findings)),
    });
    drafts.collect()
}

/// Attaches a route to the listeners of its parents. Gives what each parent says of it.
fn attach(
    model: &Model,
    plan: &RoutePlan<'_>,
    gateways: &mut Gateways<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<ParentDraft> {
    let object = plan.object();
    let problems = plan.invalid().into_iter().chain(&plan.dangling);
    findings.extend(problems.map(|problem| problem.finding(&object)));
    let mut drafts = Vec::new();
    for (index, parent) in plan.parents.iter().enumerate() {
        let field = format!("spec.parentRefs[{index}]");
        match attach_to(model, plan, &parent.parent, &field, gateways) {
            Outcome::Foreign => {}
            Outcome::Unknown(problem) => findings.push(problem.finding(&object)),
            Outcome::Refused(problem) => {
                if !plan.is_all_invalid() {
                    findings.push(problem.finding(&object));
                }
                drafts.push(draft(plan, &parent.written, Err(&problem)));
            }
            Outcome::Accepted { fleet, is_served } => {
                drafts.push(draft(plan, &parent.written, Ok((fleet, is_served))));
            }
        }
    }
    drafts
}

enum Outcome {
    /// Another controller's.
    Foreign,
    /// Of a kind that is no parent here.
    Unknown(Problem),
    /// Not attached, for this reason.
    Refused(Problem),
    /// Attached.
    Accepted { fleet: String, is_served: bool },
}

fn attach_to(
    model: &Model,
    plan: &RoutePlan<'_>,
    parent: &ParentRef,
    field: &str,
    gateways: &mut Gateways<'_>,
) -> Outcome {
    let route = plan.metadata;
    let place = Place::new(parent.namespace.as_deref().unwrap_or(&route.namespace), &parent.name);
    let found = match (parent.group.as_str(), parent.kind.as_str()) {
        (GATEWAY_API, "Gateway") if gateways.foreign.contains(&place) => return Outcome::Foreign,
        (GATEWAY_API, "Gateway") => gateway(&place, gateways),
        (GATEWAY_API, "ListenerSet") => match listener_set(model, &place, gateways) {
            None => return Outcome::Foreign,
            Some(found) => found,
        },
        _ => {
            let message = format!("{} is no kind of parent that is served here", parent.kind);
            let field = format!("{field}.kind");
            return Outcome::Unknown(Problem::new("", codes::UNKNOWN_REFERENT, field, message));
        }
    };
    let (index, owner) = match found {
        Ok(found) => found,
        Err((message, help)) => {
            let (code, field) = (codes::LISTENER_MISSING, format!("{field}.name"));
            let problem = Problem::new("NoMatchingParent", code, field, message);
            return Outcome::Refused(problem.with_help(help));
        }
    };
    let gateway = &mut gateways.ours[index];
    match candidates(model, plan, (parent, field), (gateway, &owner)) {
        Err(problem) => Outcome::Refused(problem),
        Ok(_) if plan.is_all_invalid() => Outcome::Refused(all_invalid(plan)),
        Ok(found) => {
            let is_served =
                found.iter().any(|(index, _)| gateway.serves(&gateway.listeners[*index]));
            for (index, hostnames) in found {
                let attached = gateway.listeners[index].attached.entry(plan.object()).or_default();
                attached.extend(hostnames);
                attached.sort();
                attached.dedup();
            }
            Outcome::Accepted { fleet: gateway.gateway.fleet().to_owned(), is_served }
        }
    }
}

/// The place of a gateway in those of ours, and the object whose listeners are meant; or why there
/// is none, and what was meant.
type Parental = Result<(usize, ObjectRef), (String, Option<String>)>;

fn gateway(place: &Place, gateways: &Gateways<'_>) -> Parental {
    let owner = ObjectRef::new("Gateway", place.clone());
    gateways.position(place).map(|index| (index, owner)).ok_or_else(|| {
        let known = gateways.ours.iter().map(|plan| &plan.gateway.metadata);
        let names = known.filter(|other| other.namespace == place.namespace);
        let help = did_you_mean(&place.name, names.map(|other| other.name.as_str()));
        (format!("Gateway {place} does not exist"), help)
    })
}

/// None for a set of another controller.
fn listener_set(model: &Model, place: &Place, gateways: &Gateways<'_>) -> Option<Parental> {
    let set = gateways.sets.iter().find(|set| set.set.metadata.place() == *place);
    Some(match set {
        None if model.listener_sets.contains_key(place) => return None,
        None => {
            let names = model.listener_sets.keys().filter(|one| one.namespace == place.namespace);
            let help = did_you_mean(&place.name, names.map(|one| one.name.as_str()));
            Err((format!("ListenerSet {place} does not exist"), help))
        }
        Some(set) => match (&set.refusal, gateways.position(&set.gateway)) {
            (None, Some(index)) => Ok((index, set.object())),
            _ => Err((format!("ListenerSet {place} is not accepted"), None)),
        },
    })
}

/// A listener of a gateway, and the hostnames it has in common with the route.
type Candidate = (usize, Vec<String>);

/// The listeners that take the route.
fn candidates(
    model: &Model,
    plan: &RoutePlan<'_>,
    (parent, field): (&ParentRef, &str),
    (gateway, owner): (&GatewayPlan<'_>, &ObjectRef),
) -> Result<Vec<Candidate>, Problem> {
    let named: Vec<usize> = gateway
        .listeners
        .iter()
        .enumerate()
        .filter(|(_, listener)| listener.owner == *owner && is_meant(parent, listener))
        .map(|(index, _)| index)
        .collect();
    if named.is_empty() {
        return Err(no_listener(parent, field, (gateway, owner)));
    }
    let allows = |listener: &ListenerPlan<'_>| {
        listener.kinds.contains(&plan.kind.name())
            && allows_namespace(
                model,
                &listener.listener.allowed_routes.namespaces,
                &owner.place.namespace,
                &plan.metadata.namespace,
            )
    };
    let allowed: Vec<usize> =
        named.into_iter().filter(|index| allows(&gateway.listeners[*index])).collect();
    if allowed.is_empty() {
        let message = format!(
            "no listener of {owner} takes {} {} from namespace {}",
            article(plan.kind),
            plan.kind.name(),
            plan.metadata.namespace
        );
        let help = "allowedRoutes of the listener says which kinds and namespaces it takes";
        return Err(Problem::new("NotAllowedByListeners", codes::NOT_ALLOWED, field, message)
            .with_help(Some(help.to_owned())));
    }
    let common: Vec<Candidate> = allowed
        .into_iter()
        .map(|index| {
            let listener = gateway.listeners[index].hostname;
            (index, hostname::common(listener, plan.hostnames))
        })
        .filter(|(_, names)| !names.is_empty())
        .collect();
    if common.is_empty() {
        let message = format!("no listener of {owner} has a hostname in common");
        let (reason, code) = ("NoMatchingListenerHostname", codes::NO_HOSTNAME);
        return Err(Problem::new(reason, code, "spec.hostnames", message));
    }
    let mut taken = None;
    let free: Vec<Candidate> = common
        .into_iter()
        .filter(|(index, names)| {
            let other = holder(plan, names, &gateway.listeners[*index]);
            taken = taken.take().or(other.cloned());
            other.is_none()
        })
        .collect();
    match taken.filter(|_| free.is_empty()) {
        None => Ok(free),
        Some(other) => {
            let message = format!("{other} comes first and has a hostname in common");
            let (reason, code) = ("HostnameConflict", codes::HOSTNAME_TAKEN);
            Err(Problem::new(reason, code, "spec.hostnames", message))
        }
    }
}

/// The route of another kind that has one of these hostnames on a listener.
fn holder<'a>(
    plan: &RoutePlan<'_>,
    names: &[String],
    listener: &'a ListenerPlan<'_>,
) -> Option<&'a ObjectRef> {
    let others = listener.attached.iter().filter(|(route, _)| route.kind != plan.kind.name());
    let in_common = |other: &[String]| {
        other.iter().any(|one| names.iter().any(|name| hostname::intersection(one, name).is_some()))
    };
    others.filter(|(_, hostnames)| in_common(hostnames)).map(|(route, _)| route).next()
}

fn article(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Http => "an",
        RouteKind::Grpc | RouteKind::Tls | RouteKind::Tcp => "a",
    }
}

fn is_meant(parent: &ParentRef, plan: &ListenerPlan<'_>) -> bool {
    let section = parent.section_name.as_ref().is_none_or(|name| *name == plan.listener.name);
    section && parent.port.is_none_or(|port| port == plan.listener.port)
}

fn no_listener(
    parent: &ParentRef,
    field: &str,
    (gateway, owner): (&GatewayPlan<'_>, &ObjectRef),
) -> Problem {
    let names = gateway.listeners_of(owner).map(|plan| plan.listener.name.as_str());
    let (what, field, help) = match (&parent.section_name, parent.port) {
        (Some(name), None) => {
            (format!("listener {name}"), format!("{field}.sectionName"), did_you_mean(name, names))
        }
        (Some(name), Some(port)) => {
            (format!("listener {name} on port {port}"), field.to_owned(), None)
        }
        (None, Some(port)) => (format!("listener on port {port}"), format!("{field}.port"), None),
        (None, None) => ("listener".to_owned(), field.to_owned(), None),
    };
    let message = format!("{owner} has no {what}");
    Problem::new("NoMatchingParent", codes::LISTENER_MISSING, field, message).with_help(help)
}

/// Whether objects of the namespace `from` are let in by an object of the namespace `own`.
pub(super) fn allows_namespace(
    model: &Model,
    allowed: &RouteNamespaces,
    own: &str,
    from: &str,
) -> bool {
    match allowed.from.as_str() {
        "All" => true,
        "Same" => own == from,
        "Selector" => allowed
            .selector
            .as_ref()
            .is_some_and(|selector| selector.selects(&model.namespace_labels(from))),
        _ => false,
    }
}

fn all_invalid(plan: &RoutePlan<'_>) -> Problem {
    let invalid: Vec<Problem> = plan.invalid().into_iter().cloned().collect();
    let (reason, text) = summary(&invalid).unwrap_or(("UnsupportedValue", String::new()));
    let message = format!("no rule is valid: {text}");
    Problem::new(reason, codes::NOT_SUPPORTED, "spec.rules", message)
}

/// What one parent says.
fn draft(
    plan: &RoutePlan<'_>,
    written: &Value,
    outcome: Result<(String, bool), &Problem>,
) -> ParentDraft {
    let mut conditions = vec![match &outcome {
        Ok(_) => Condition::holds("Accepted"),
        Err(problem) => Condition::fails("Accepted", problem.reason, problem.text()),
    }];
    conditions.push(match summary(&plan.dangling) {
        None => Condition::holds("ResolvedRefs"),
        Some((reason, text)) => Condition::fails("ResolvedRefs", reason, text),
    });
    let invalid: Vec<Problem> = plan.invalid().into_iter().cloned().collect();
    if let (Ok(_), Some((reason, text))) = (&outcome, summary(&invalid)) {
        conditions.push(Condition {
            condition_type: "PartiallyInvalid",
            holds: true,
            reason,
            message: format!("Dropped Rule: {text}"),
        });
    }
    let programmed = |message: &str| Condition::fails(PROGRAMMED, "Pending", message);
    let fleet = match outcome {
        Ok((fleet, true)) => Some(fleet),
        Ok((_, false)) => {
            conditions.push(programmed("no listener that it is attached to is served"));
            None
        }
        Err(_) => {
            conditions.push(programmed("not accepted"));
            None
        }
    };
    ParentDraft { parent_ref: written.clone(), fleet, conditions }
}

/// Whether the proxies have acknowledged a route.
pub const PROGRAMMED: &str = "weighlock.dev/Programmed";
