//! Objects to xDS resources and statuses: a pure function of the model.

use std::collections::BTreeMap;

use xds_proto::resource::Resource;

use crate::finding::Finding;
use crate::model::Model;

pub mod draft;

use draft::{Owners, StatusDraft};

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
    Translation { findings: model.unreadable.clone(), ..Translation::default() }
}
