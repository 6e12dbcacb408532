//! Conditions as they are written: times move only when something flips.

use serde_json::{Value, json};

use crate::translate::PROGRAMMED;
use crate::translate::draft::Condition;

/// Condition types that are ours to write and to take away; others stay untouched.
const OURS: &[&str] = &[
    "Accepted",
    "ResolvedRefs",
    "Programmed",
    "Conflicted",
    "OverlappingTLSConfig",
    "InsecureFrontendValidationMode",
    "PartiallyInvalid",
    PROGRAMMED,
];

/// Writes conditions of one generation.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    /// The generation that was translated.
    pub(super) generation: i64,
    /// The present time.
    pub(super) now: &'a str,
}

impl Writer<'_> {
    /// Whether the condition of this type was true of this generation.
    pub(super) fn was_true(&self, condition_type: &str, previous: &Value) -> bool {
        entry(previous, condition_type).is_some_and(|entry| {
            entry["status"] == "True" && entry["observedGeneration"] == self.generation
        })
    }

    /// Our conditions, then those of others that are in `previous`.
    pub(super) fn write(&self, conditions: &[Condition], previous: &Value) -> Value {
        let ours = conditions.iter().map(|condition| self.one(condition, previous));
        let others = entries(previous)
            .iter()
            .filter(|entry| !entry["type"].as_str().is_some_and(|name| OURS.contains(&name)));
        ours.chain(others.cloned()).collect()
    }

    fn one(&self, condition: &Condition, previous: &Value) -> Value {
        let status = if condition.holds { "True" } else { "False" };
        let since = entry(previous, condition.condition_type)
            .filter(|entry| entry["status"] == status)
            .and_then(|entry| entry["lastTransitionTime"].as_str())
            .unwrap_or(self.now);
        json!({
            "type": condition.condition_type,
            "status": status,
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": self.generation,
            "lastTransitionTime": since,
        })
    }
}

fn entries(conditions: &Value) -> &[Value] {
    conditions.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn entry<'a>(conditions: &'a Value, condition_type: &str) -> Option<&'a Value> {
    entries(conditions).iter().find(|entry| entry["type"] == condition_type)
}
