//! Snapshots that were replaced. Taking a big one down takes time: whoever uses it last does it, so
//! that it must not be a worker.

use std::sync::Arc;
use std::time::Duration;

use crate::snapshot::Snapshot;

/// How often to look who still uses one: as often as workers without traffic follow the newest.
const LOOK: Duration = Duration::from_secs(1);

/// Snapshots that were replaced, and that requests may still use.
#[derive(Debug, Default)]
pub(super) struct Retired(Vec<Arc<Snapshot>>);

impl Retired {
    /// Keeps a snapshot until nobody else does.
    pub(super) fn add(&mut self, snapshot: Arc<Snapshot>) {
        self.0.push(snapshot);
    }

    /// Takes down what nobody else uses any more.
    pub(super) fn take_down(&mut self) {
        self.0.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// When to look again.
    pub(super) async fn due(&self) {
        if self.0.is_empty() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_stays_as_long_as_somebody_else_uses_it() {
        let mut retired = Retired::default();
        assert!(tokio::time::timeout(10 * LOOK, retired.due()).await.is_err());
        let used = Arc::new(Snapshot::default());
        let unused = Arc::downgrade(&used);
        retired.add(Arc::clone(&used));
        retired.take_down();
        retired.due().await;
        assert_eq!(unused.strong_count(), 2);
        drop(used);
        assert_eq!(unused.strong_count(), 1);
        retired.take_down();
        assert_eq!(unused.strong_count(), 0);
    }
}
