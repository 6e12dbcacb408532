//! Whether a change may be stored: what it would make wrong between objects.

use std::collections::HashSet;

use super::build::findings;
use crate::finding::Finding;
use crate::store::state::{ObjectKey, State};

/// What is wrong with the written objects, and what the change makes wrong with others. What was
/// wrong elsewhere before does not stand in its way.
pub fn judge(before: &State, after: &State, written: &[ObjectKey]) -> Vec<Finding> {
    let found = findings(after);
    if found.is_empty() {
        return found;
    }
    let written: HashSet<String> = written.iter().map(ToString::to_string).collect();
    if found.iter().all(|finding| written.contains(&finding.object)) {
        return found;
    }
    let known = findings(before);
    let is_news = |finding: &Finding| written.contains(&finding.object) || !known.contains(finding);
    found.into_iter().filter(is_news).collect()
}
