//! The last changes, for those who watch.

use std::collections::VecDeque;

use crate::store::change::{Event, Expired};

/// How many changes are kept.
pub(crate) const WINDOW: usize = 10_000;

/// The last changes, in order.
#[derive(Debug)]
pub(crate) struct Window {
    events: VecDeque<Event>,
    /// The version that the kept events begin after.
    floor: u64,
    newest: u64,
}

impl Window {
    /// Begins after this version.
    pub(crate) fn new(version: u64) -> Self {
        Self { events: VecDeque::new(), floor: version, newest: version }
    }

    /// Takes changes in.
    pub(crate) fn extend(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.newest = event.resource_version;
            self.events.push_back(event);
            if self.events.len() > WINDOW
                && let Some(gone) = self.events.pop_front()
            {
                self.floor = gone.resource_version;
            }
        }
    }

    /// All changes after this version.
    ///
    /// # Errors
    /// When some of them are gone, or the version is none of this store's.
    pub(crate) fn after(
        &self,
        version: u64,
    ) -> Result<impl DoubleEndedIterator<Item = &Event>, Expired> {
        if version < self.floor || version > self.newest {
            return Err(Expired { asked: version, oldest: self.floor });
        }
        let start = self.events.partition_point(|event| event.resource_version <= version);
        Ok(self.events.range(start..))
    }
}
