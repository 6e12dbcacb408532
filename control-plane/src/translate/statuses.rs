//! Statuses of gateways, classes and backends, as far as translation knows them.

use crate::model::Model;
use crate::model::gatewayclass::CONTROLLER;
use crate::translate::draft::{
    Condition, DraftBody, GatewayDraft, ListenerDraft, ObjectRef, StatusDraft,
};
use crate::translate::gateways::{GatewayPlan, ListenerPlan};
use crate::translate::problem::summary;

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
            body: DraftBody::Plain(vec![accepted]),
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
pub(super) fn gateway(plan: &GatewayPlan<'_>) -> StatusDraft {
    let metadata = &plan.gateway.metadata;
    let listeners: Vec<ListenerDraft> =
        plan.listeners.iter().map(|listener| self::listener(plan, listener)).collect();
    let addresses = plan.gateway.spec.addresses.iter().filter_map(|address| address.value.clone());
    let addresses = if plan.refusal.is_none() { addresses.collect() } else { Vec::new() };
    StatusDraft {
        object: ObjectRef::new("Gateway", metadata.place()),
        generation: metadata.generation,
        body: DraftBody::Gateway(GatewayDraft {
            fleet: plan.gateway.fleet().to_owned(),
            addresses,
            conditions: gateway_conditions(plan),
            listeners,
        }),
    }
}

fn gateway_conditions(plan: &GatewayPlan<'_>) -> Vec<Condition> {
    let names = |wanted: &dyn Fn(&ListenerPlan<'_>) -> bool| {
        let found = plan.listeners.iter().filter(|listener| wanted(listener));
        found.map(|listener| listener.listener.name.as_str()).collect::<Vec<_>>()
    };
    let invalid = names(&|listener| !listener.is_accepted());
    let unresolved = names(&|listener| !listener.unresolved.is_empty());
    let served = names(&|listener| plan.serves(listener));
    let accepted = match &plan.refusal {
        Some(problem) => Condition::fails("Accepted", problem.reason, problem.text()),
        None if invalid.is_empty() => Condition::holds("Accepted"),
        None => Condition {
            condition_type: "Accepted",
            holds: invalid.len() < plan.listeners.len(),
            reason: "ListenersNotValid",
            message: format!("invalid listeners: {}", invalid.join(", ")),
        },
    };
    let mut conditions = vec![accepted];
    conditions.push(if unresolved.is_empty() {
        Condition::holds("ResolvedRefs")
    } else {
        let message = format!("listeners with unresolved references: {}", unresolved.join(", "));
        Condition::fails("ResolvedRefs", "ListenersNotResolved", message)
    });
    if plan.refusal.is_some() {
        conditions.push(Condition::fails("Programmed", "Invalid", "not accepted"));
    } else if served.is_empty() {
        conditions.push(Condition::fails("Programmed", "Invalid", "no listener can be served"));
    }
    conditions
}

fn listener(gateway: &GatewayPlan<'_>, plan: &ListenerPlan<'_>) -> ListenerDraft {
    let why = plan.conflict.as_ref().or(plan.refusal.as_ref());
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
    } else if plan.refusal.is_some() || gateway.refusal.is_some() {
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
