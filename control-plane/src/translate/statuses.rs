//! Statuses of gateways, classes and backends, as far as translation knows them.

use crate::model::Model;
use crate::model::gatewayclass::CONTROLLER;
use crate::translate::draft::{
    Condition, DraftBody, GatewayDraft, ListenerDraft, ListenersDraft, ObjectRef, StatusDraft,
};
use crate::translate::gateways::{GatewayPlan, Gateways};
use crate::translate::listener_sets::SetPlan;
use crate::translate::listeners::ListenerPlan;
use crate::translate::problem::{Problem, summary};

/// The statuses of classes that are ours.
pub(super) fn classes(model: &Model) -> impl Iterator<Item = StatusDraft> {
    let ours = |class: &&crate::model::gatewayclass::GatewayClass| {
        class.spec.controller_name == CONTROLLER
    };
    model.classes.values().filter(ours).map(|class| {
        let accepted = match class.spec.parameters_ref {
            None => Condition::holds("Accepted"),
            Some(_) => Condition::fails(
                "Accepted",
                "InvalidParameters",
                "spec.parametersRef: no kind of parameters is supported",
            ),
        };
        StatusDraft {
            object: ObjectRef::new("GatewayClass", class.metadata.place()),
            generation: class.metadata.generation,
            body: DraftBody::Class(vec![accepted]),
        }
    })
}

/// The statuses of backends.
pub(super) fn backends(model: &Model) -> impl Iterator<Item = StatusDraft> {
    model.backends.values().map(|backend| {
        let accepted = match backend.spec.app_protocol.as_str() {
            "https" | "kubernetes.io/wss" => Condition::fails(
                "Accepted",
                "Invalid",
                "spec.appProtocol: needs a BackendTLSPolicy, which is not supported",
            ),
            _ => Condition::holds("Accepted"),
        };
        StatusDraft {
            object: ObjectRef::new("Backend", backend.metadata.place()),
            generation: backend.metadata.generation,
            body: DraftBody::Plain(vec![accepted, Condition::holds("ResolvedRefs")]),
        }
    })
}

/// The status of a gateway.
pub(super) fn gateway(plan: &GatewayPlan<'_>, gateways: &Gateways<'_>) -> StatusDraft {
    let metadata = &plan.gateway.metadata;
    let addresses = plan.gateway.spec.addresses.iter().filter_map(|address| address.value.clone());
    let addresses = if plan.refusal.is_none() { addresses.collect() } else { Vec::new() };
    let object = plan.object();
    let is_taken = |set: &&SetPlan<'_>| {
        set.gateway == object.place
            && set.refusal.is_none()
            && plan.listeners_of(&set.object()).any(ListenerPlan::is_accepted)
    };
    let listeners = plan.listeners_of(&object).map(|listener| self::listener(plan, listener));
    StatusDraft {
        generation: metadata.generation,
        body: DraftBody::Gateway(GatewayDraft {
            addresses,
            attached_sets: gateways.sets.iter().filter(is_taken).count(),
            listeners: ListenersDraft {
                fleet: plan.gateway.fleet().to_owned(),
                conditions: gateway_conditions(plan),
                listeners: listeners.collect(),
            },
        }),
        object,
    }
}

/// Names of listeners that are so.
fn names(
    plan: &GatewayPlan<'_>,
    owner: &ObjectRef,
    wanted: impl Fn(&ListenerPlan<'_>) -> bool,
) -> Vec<String> {
    let found = plan.listeners_of(owner).filter(|listener| wanted(listener));
    found.map(|listener| listener.listener.name.clone()).collect()
}

/// Whether what has these listeners is accepted: some of them may be invalid, not all.
fn accepted(plan: &GatewayPlan<'_>, owner: &ObjectRef) -> Condition {
    let invalid = names(plan, owner, |one| !one.is_accepted() || one.closed.is_some());
    if invalid.is_empty() {
        return Condition::holds("Accepted");
    }
    Condition {
        condition_type: "Accepted",
        holds: invalid.len() < plan.listeners_of(owner).count(),
        reason: "ListenersNotValid",
        message: format!("invalid listeners: {}", invalid.join(", ")),
    }
}

fn gateway_conditions(plan: &GatewayPlan<'_>) -> Vec<Condition> {
    let owner = plan.object();
    let mut conditions = vec![match &plan.refusal {
        Some(problem) => Condition::fails("Accepted", problem.reason, problem.text()),
        None => accepted(plan, &owner),
    }];
    let unresolved = names(plan, &owner, |one| !one.unresolved.is_empty());
    conditions.push(match &plan.client_certificate {
        Some(Err(problem)) => Condition::fails("ResolvedRefs", problem.reason, problem.text()),
        _ if unresolved.is_empty() => Condition::holds("ResolvedRefs"),
        _ => {
            let message =
                format!("listeners with unresolved references: {}", unresolved.join(", "));
            Condition::fails("ResolvedRefs", "ListenersNotResolved", message)
        }
    });
    let lets_all_in =
        |one: &ListenerPlan<'_>| one.clients.as_ref().is_some_and(|all| all.lets_all_in);
    let insecure = names(plan, &owner, lets_all_in);
    if !insecure.is_empty() {
        conditions.push(Condition {
            condition_type: "InsecureFrontendValidationMode",
            holds: true,
            reason: "ConfigurationChanged",
            message: format!("clients are let in whatever they show: {}", insecure.join(", ")),
        });
    }
    if plan.refusal.is_some() {
        conditions.push(Condition::fails("Programmed", "Invalid", "not accepted"));
    } else if !plan.listeners.iter().any(|listener| plan.serves(listener)) {
        conditions.push(Condition::fails("Programmed", "Invalid", "no listener can be served"));
    }
    conditions
}

/// The status of a listener set.
pub(super) fn listener_set(set: &SetPlan<'_>, gateways: &Gateways<'_>) -> StatusDraft {
    let object = set.object();
    let plan = gateways.position(&set.gateway).map(|index| &gateways.ours[index]);
    let body = match (&set.refusal, plan) {
        (None, Some(plan)) => set_draft(plan, &object),
        (refusal, _) => {
            let reason = refusal.as_ref().map_or("Invalid", |problem| problem.reason);
            let text = refusal.as_ref().map(Problem::text).unwrap_or_default();
            let conditions = vec![
                Condition::fails("Accepted", reason, text.clone()),
                Condition::fails("Programmed", reason, text),
            ];
            ListenersDraft { fleet: String::new(), conditions, listeners: Vec::new() }
        }
    };
    let generation = set.set.metadata.generation;
    StatusDraft { object, generation, body: DraftBody::ListenerSet(body) }
}

fn set_draft(plan: &GatewayPlan<'_>, owner: &ObjectRef) -> ListenersDraft {
    let mut conditions = vec![accepted(plan, owner)];
    if !plan.listeners_of(owner).any(|listener| plan.serves(listener)) {
        let message = "no listener can be served";
        conditions.push(Condition::fails("Programmed", "ListenersNotValid", message));
    }
    ListenersDraft {
        fleet: plan.gateway.fleet().to_owned(),
        conditions,
        listeners: plan.listeners_of(owner).map(|one| self::listener(plan, one)).collect(),
    }
}

fn listener(gateway: &GatewayPlan<'_>, plan: &ListenerPlan<'_>) -> ListenerDraft {
    let why = plan.conflict.as_ref().or(plan.refusal.as_ref()).or(plan.closed.as_ref());
    let mut conditions = vec![match why {
        None => Condition::holds("Accepted"),
        Some(problem) => Condition::fails("Accepted", problem.reason, problem.text()),
    }];
    conditions.push(match &plan.conflict {
        None => Condition::fails("Conflicted", "NoConflicts", ""),
        Some(problem) => Condition {
            condition_type: "Conflicted",
            holds: true,
            reason: problem.reason,
            message: problem.text(),
        },
    });
    conditions.push(match summary(&plan.unresolved) {
        None => Condition::holds("ResolvedRefs"),
        Some((reason, text)) => Condition::fails("ResolvedRefs", reason, text),
    });
    if !plan.overlaps.is_empty() {
        conditions.push(Condition {
            condition_type: "OverlappingTLSConfig",
            holds: true,
            reason: "OverlappingHostnames",
            message: format!("overlaps with listeners {}", plan.overlaps.join(", ")),
        });
    }
    if let Some(problem) = &plan.conflict {
        conditions.push(Condition::fails("Programmed", problem.reason, problem.text()));
    } else if why.is_some() || gateway.refusal.is_some() {
        conditions.push(Condition::fails("Programmed", "Invalid", "not accepted"));
    } else if !gateway.serves(plan) {
        conditions.push(Condition::fails("Programmed", "Invalid", "no certificate can be used"));
    }
    ListenerDraft {
        name: plan.listener.name.clone(),
        supported_kinds: plan.kinds.clone(),
        attached_routes: plan.attached.len(),
        conditions,
    }
}
