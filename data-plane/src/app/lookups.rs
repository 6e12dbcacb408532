//! The tasks that look up the names of clusters.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::endpoints::EndpointsConfig;
use crate::cluster::{ClusterConfig, dns};

/// What a look-up found, by cluster.
pub(super) type Answer = (Arc<str>, EndpointsConfig);

/// One task a cluster.
#[derive(Debug)]
pub(super) struct Lookups {
    running: HashMap<Arc<str>, (Arc<ClusterConfig>, CancellationToken)>,
    answers: mpsc::Sender<Answer>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Lookups {
    pub(super) fn new(
        answers: mpsc::Sender<Answer>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self { running: HashMap::new(), answers, tasks, shutdown }
    }

    /// Starts and stops tasks, so that there is one for each of `clusters` as it is.
    pub(super) fn follow<'a>(&mut self, clusters: impl Iterator<Item = &'a Arc<ClusterConfig>>) {
        let mut old = std::mem::take(&mut self.running);
        for config in clusters {
            let entry = match old.remove(&config.name) {
                Some(entry) if Arc::ptr_eq(&entry.0, config) => entry,
                other => {
                    stop(other);
                    let token = self.shutdown.child_token();
                    let (config_of_task, answers) = (Arc::clone(config), self.answers.clone());
                    self.tasks.spawn(dns::watch(config_of_task, answers, token.clone()));
                    (Arc::clone(config), token)
                }
            };
            self.running.insert(Arc::clone(&config.name), entry);
        }
        old.into_values().for_each(|entry| stop(Some(entry)));
    }
}

fn stop(entry: Option<(Arc<ClusterConfig>, CancellationToken)>) {
    if let Some((_, token)) = entry {
        token.cancel();
    }
}
