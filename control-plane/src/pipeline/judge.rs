//! Whether a change may be stored: what it would make wrong between objects.

use std::collections::HashSet;

use super::translator::Translator;
use crate::finding::Finding;
use crate::store::state::{ObjectKey, State};

/// What is wrong with the written objects, and what the change makes wrong with others. What was
/// wrong elsewhere before does not stand in its way.
pub fn judge(
    translator: &Translator,
    (before, after): (&State, &State),
    written: &[ObjectKey],
) -> Vec<Finding> {
    let found = &translator.translated(&after.objects).findings;
    if found.is_empty() {
        return Vec::new();
    }
    let written: HashSet<String> = written.iter().map(ToString::to_string).collect();
    if found.iter().all(|finding| written.contains(&finding.object)) {
        return found.clone();
    }
    let before = translator.translated(&before.objects);
    let known: HashSet<&Finding> = before.findings.iter().collect();
    let is_news =
        |finding: &&Finding| written.contains(&finding.object) || !known.contains(finding);
    found.iter().filter(is_news).cloned().collect()
}
