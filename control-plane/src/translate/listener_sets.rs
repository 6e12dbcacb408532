//! ListenerSets: which of them a gateway takes.

use crate::finding::codes;
use crate::finding::suggest::did_you_mean;
use crate::model::Model;
use crate::model::gateway::Gateway;
use crate::model::listenerset::ListenerSet;
use crate::model::meta::Place;
use crate::translate::attachment::allows_namespace;
use crate::translate::draft::ObjectRef;
use crate::translate::gateways::Gateways;
use crate::translate::listeners;
use crate::translate::problem::Problem;
use crate::translate::references::{GATEWAY_API, Referrer};

/// A listener set, judged.
#[derive(Debug)]
pub(super) struct SetPlan<'a> {
    /// The set.
    pub(super) set: &'a ListenerSet,
    /// Its gateway.
    pub(super) gateway: Place,
    /// Why it is not taken, if so.
    pub(super) refusal: Option<Problem>,
}

impl SetPlan<'_> {
    /// The set.
    pub(super) fn object(&self) -> ObjectRef {
        ObjectRef::new("ListenerSet", self.set.metadata.place())
    }
}

/// Gives the gateways the listeners of their sets, the oldest set first.
pub(super) fn take<'a>(model: &'a Model, gateways: &mut Gateways<'a>) {
    let mut sets: Vec<&ListenerSet> = model.listener_sets.values().collect();
    sets.sort_by_key(|set| set.metadata.age_order());
    for set in sets {
        let parent = &set.spec.parent_ref;
        let namespace = parent.namespace.as_deref().unwrap_or(&set.metadata.namespace);
        let place = Place::new(namespace, &parent.name);
        if gateways.foreign.contains(&place) {
            continue;
        }
        let mut plan = SetPlan { set, gateway: place.clone(), refusal: None };
        match (gateways.position(&place), is_gateway(set)) {
            (Some(index), Ok(())) => {
                let gateway = &mut gateways.ours[index];
                plan.refusal = not_allowed(model, set, gateway.gateway).or_else(|| {
                    gateway.refusal.is_some().then(|| {
                        let message = format!("Gateway {place} is not accepted");
                        refusal("ParentNotAccepted", codes::NOT_SUPPORTED, "", message)
                    })
                });
                if plan.refusal.is_none() {
                    let (owner, namespace) = (plan.object(), &set.metadata.namespace);
                    let referrer = Referrer { model, kind: "ListenerSet", namespace };
                    let own = set.spec.listeners.iter().enumerate();
                    let own = own.map(|one| listeners::plan(referrer, &owner, one));
                    gateway.listeners.extend(own);
                }
            }
            (_, Err(problem)) => plan.refusal = Some(problem),
            (None, Ok(())) => {
                let known = model.gateways.keys().filter(|known| known.namespace == namespace);
                let help = did_you_mean(&parent.name, known.map(|known| known.name.as_str()));
                let message = format!("Gateway {place} does not exist");
                let problem =
                    refusal("ParentNotAccepted", codes::LISTENER_MISSING, ".name", message);
                plan.refusal = Some(problem.with_help(help));
            }
        }
        gateways.sets.push(plan);
    }
}

fn refusal(reason: &'static str, code: &'static str, field: &str, message: String) -> Problem {
    Problem::new(reason, code, format!("spec.parentRef{field}"), message)
}

fn is_gateway(set: &ListenerSet) -> Result<(), Problem> {
    let parent = &set.spec.parent_ref;
    if parent.group == GATEWAY_API && parent.kind == "Gateway" {
        return Ok(());
    }
    let message = format!("{} is no kind of parent that is served here", parent.kind);
    Err(refusal("Invalid", codes::UNKNOWN_REFERENT, ".kind", message))
}

fn not_allowed(model: &Model, set: &ListenerSet, gateway: &Gateway) -> Option<Problem> {
    let (own, from) = (&gateway.metadata.namespace, &set.metadata.namespace);
    let allowed = gateway.spec.allowed_listeners.namespaces.as_ref();
    if allowed.is_some_and(|allowed| allows_namespace(model, allowed, own, from)) {
        return None;
    }
    let message =
        format!("Gateway {} takes no ListenerSet from namespace {from}", gateway.metadata.place());
    let help = "allowedListeners of the Gateway says from which namespaces it takes them";
    let problem = refusal("NotAllowed", codes::NOT_ALLOWED, "", message);
    Some(problem.with_help(Some(help.to_owned())))
}
