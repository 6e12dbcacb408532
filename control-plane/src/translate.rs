//! Objects to xDS resources and statuses: a pure function of the model.

use std::collections::BTreeMap;

use xds_proto::resource::Resource;

use crate::finding::Finding;
use crate::model::Model;

mod ports;
mod output;
mod statuses;
mod connections;
mod gateways;
mod listener_sets;
mod attachment;
mod conflicts;
mod tables;
mod listener;
mod listeners;
mod actions;
mod retry;
mod plan;
mod rules;
mod session;
mod cors;
mod references;
mod http_filters;
mod cluster;
mod endpoints;
mod backends;
mod filters;
mod matches;
mod hostname;
mod problem;
pub mod draft;
pub mod features;
mod envoy;

use draft::{Owners, StatusDraft};
use output::Output;
use tables::Plans;

pub use attachment::PROGRAMMED;

/// What a model amounts to.
#[derive(Debug, Clone, Default)]
pub struct Translation {
    /// The resources of each fleet that a Gateway asks for.
    pub fleets: BTreeMap<String, Vec<Resource>>,
    /// The statuses, but for what only the fleet can tell.
    pub statuses: Vec<StatusDraft>,
    /// What is wrong between objects.
    pub findings: Vec<Finding>,
    /// Which objects made each resource.
    pub owners: Owners,
}

/// Translates a model. Equal models give equal translations.
pub fn translate(model: &Model) -> Translation {
    let mut findings = model.unreadable.clone();
    let mut gateways = gateways::plan(model, &mut findings);
    let plans: Plans<'_> = plan::all(model).into_iter().map(|plan| (plan.object(), plan)).collect();
    let mut routes = attachment::attach_all(model, &plans, &mut gateways, &mut findings);
    routes.sort_by(|a, b| a.object.cmp(&b.object));
    let mut output = Output::default();
    ports::emit(model, &gateways.ours, &plans, &mut output, &mut findings);
    output.add_clusters(model);
    let (fleets, owners, failures) = output.finish();
    findings.extend(failures);
    sort(&mut findings);
    let statuses = statuses::classes(model)
        .chain(statuses::backends(model))
        .chain(gateways.ours.iter().map(|plan| statuses::gateway(plan, &gateways)))
        .chain(gateways.sets.iter().map(|set| statuses::listener_set(set, &gateways)))
        .chain(routes)
        .collect();
    Translation { fleets, statuses, findings, owners }
}

/// Errors first, then by object and field; what two tables say alike is said once.
fn sort(findings: &mut Vec<Finding>) {
    findings.sort_by(|a, b| {
        let key = |finding: &Finding| (finding.severity, finding.object.clone());
        let place = |finding: &Finding| (finding.field.clone(), finding.code);
        key(a).cmp(&key(b)).then_with(|| place(a).cmp(&place(b)))
    });
    findings.dedup_by(|a, b| (a.code, &a.object, &a.field) == (b.code, &b.object, &b.field));
}

#[cfg(test)]
pub(crate) mod property;
