//! The tasks that keep an eye on the endpoints of clusters.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::cluster::watch::{Surroundings, is_needed, run};
use crate::snapshot::Snapshot;

/// One task a cluster that needs one.
#[derive(Debug)]
pub(super) struct Watches {
    running: HashMap<Arc<str>, Running>,
    around: Surroundings,
    shutdown: CancellationToken,
}

#[derive(Debug)]
struct Running {
    cluster: watch::Sender<Arc<Cluster>>,
    token: CancellationToken,
}

impl Watches {
    pub(super) fn new(around: Surroundings, shutdown: CancellationToken) -> Self {
        Self { running: HashMap::new(), around, shutdown }
    }

    /// Starts and stops tasks, so that there is one for each cluster as it is, those among them that
    /// wait for their first checks.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) {
        let mut old = std::mem::take(&mut self.running);
        let clusters = snapshot.clusters.iter().chain(&snapshot.warming);
        for (name, cluster) in clusters.filter(|(_, cluster)| is_needed(cluster)) {
            let running = match old.remove(name) {
                Some(running) => {
                    running.cluster.send_if_modified(|current| {
                        let is_new = !Arc::ptr_eq(current, cluster);
                        *current = Arc::clone(cluster);
                        is_new
                    });
                    running
                }
                None => self.start(cluster),
            };
            self.running.insert(Arc::clone(name), running);
        }
        old.into_values().for_each(|running| running.token.cancel());
    }

    fn start(&self, cluster: &Arc<Cluster>) -> Running {
        let token = self.shutdown.child_token();
        let (sender, receiver) = watch::channel(Arc::clone(cluster));
        self.around.tasks.spawn(run(receiver, self.around.clone(), token.clone()));
        Running { cluster: sender, token }
    }
}
