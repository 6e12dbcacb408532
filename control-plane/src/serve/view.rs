//! What a client should hold of one type right now, and what keeps it from holding what is published.

use std::sync::Arc;

use tokio::time::Instant;

use crate::snapshot::table::Entry;

/// Whether something may go out. Ordered from the least to the most waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// At once.
    Open,
    /// When an answer comes, at the latest then.
    Until(Instant),
    /// Only when something else changes: what it needs was refused, or is itself waiting.
    Shut,
}

/// What a client should hold of one type right now.
#[derive(Debug, Default)]
pub struct View {
    /// The resources, sorted by name.
    pub entries: Vec<Arc<Entry>>,
    /// It differs from what is published, because something waits or was refused.
    pub is_held_back: bool,
    /// Something that the client may hold is left out, since we do not have its earlier form.
    pub has_gaps: bool,
    /// When to look again if nothing happens.
    pub wake: Option<Instant>,
}

impl View {
    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        let place = self.entries.binary_search_by(|entry| (*entry.name).cmp(name)).ok()?;
        self.entries.get(place)
    }
    /// Notes that something waits.
    pub fn hold_back(&mut self, gate: Gate) {
        self.is_held_back = true;
        if let Gate::Until(deadline) = gate {
            self.wake = Some(self.wake.map_or(deadline, |wake| wake.min(deadline)));
        }
    }
}
