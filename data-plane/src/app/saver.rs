//! Saves what was accepted, a moment after it was, off the config loop.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::admin::dump::Dump;
use crate::xds::disk::{Disk, Saved};

/// How long changes are gathered before they are written.
const DEBOUNCE: Duration = Duration::from_millis(250);

/// Writes the state whenever it changed.
#[derive(Debug)]
pub(super) struct Saver {
    pub(super) disk: Disk,
    pub(super) node_id: String,
    pub(super) node_cluster: String,
    /// Told by the config loop.
    pub(super) changed: Arc<Notify>,
    /// Asks the config loop for what is applied.
    pub(super) dumps: mpsc::Sender<oneshot::Sender<Dump>>,
}

impl Saver {
    /// Saves until `shutdown`; a change that came before it is still saved.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = shutdown.cancelled() => return,
            }
            shutdown.run_until_cancelled(tokio::time::sleep(DEBOUNCE)).await;
            let (reply, dump) = oneshot::channel();
            if self.dumps.send(reply).await.is_err() {
                return;
            }
            let Ok(dump) = dump.await else { return };
            let saved = Saved {
                resources: dump.cache.applied().cloned().collect(),
                node_id: self.node_id.clone(),
                node_cluster: self.node_cluster.clone(),
            };
            let disk = self.disk.clone();
            match tokio::task::spawn_blocking(move || disk.save(&saved)).await {
                Ok(Ok(())) => tracing::debug!("state saved"),
                Ok(Err(error)) => tracing::warn!(%error, "state not saved"),
                Err(error) => tracing::warn!(%error, "state not saved"),
            }
        }
    }
}
