//! The tasks that look up the names of clusters.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::dns::Memory;
use crate::cluster::dns::resolver::Resolver;
use crate::cluster::endpoints::EndpointsConfig;
use crate::cluster::{ClusterConfig, dns};

/// What a look-up found, by cluster.
pub(super) type Answer = (Arc<str>, EndpointsConfig);

/// One task a cluster.
#[derive(Debug)]
pub(super) struct Lookups {
    running: HashMap<Arc<str>, Lookup>,
    /// Who is asked where a cluster does not say.
    resolver: Arc<Resolver>,
    answers: mpsc::Sender<Answer>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Lookups {
    pub(super) fn new(
        resolver: Resolver,
        answers: mpsc::Sender<Answer>,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        let (tasks, shutdown) = (tasks.clone(), shutdown.clone());
        Self { running: HashMap::new(), resolver: Arc::new(resolver), answers, tasks, shutdown }
    }

    /// Starts and stops tasks, so that there is one for each of `clusters` as it is.
    pub(super) fn follow<'a>(&mut self, clusters: impl Iterator<Item = &'a Arc<ClusterConfig>>) {
        let mut old = std::mem::take(&mut self.running);
        for config in clusters {
            let lookup = match old.remove(&config.name) {
                Some(lookup) if Arc::ptr_eq(&lookup.config, config) => lookup,
                Some(lookup) => {
                    lookup.token.cancel();
                    self.start(config, lookup.memory)
                }
                None => self.start(config, Memory::default()),
            };
            self.running.insert(Arc::clone(&config.name), lookup);
        }
        old.into_values().for_each(|lookup| lookup.token.cancel());
    }

    fn start(&self, config: &Arc<ClusterConfig>, memory: Memory) -> Lookup {
        let token = self.shutdown.child_token();
        let named = (Arc::clone(config), Arc::clone(&self.resolver));
        self.tasks.spawn(dns::watch(named, memory.clone(), self.answers.clone(), token.clone()));
        Lookup { config: Arc::clone(config), memory, token }
    }
}

/// What looks up the names of a cluster.
#[derive(Debug)]
struct Lookup {
    config: Arc<ClusterConfig>,
    /// What was found so far.
    memory: Memory,
    token: CancellationToken,
}
