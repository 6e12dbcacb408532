//! Which listeners have sockets: bound before a listener is accepted, given to the workers once it is
//! in the snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use xds_proto::field::{At, FieldError};

use crate::listener::ListenerConfig;
use crate::serve::Workers;
use crate::serve::sockets::{BindAddress, Sockets};
use crate::snapshot::Snapshot;
use crate::telemetry::stats::Lax;

/// The listeners that have sockets.
#[derive(Debug)]
pub(super) struct Listening {
    workers: Arc<Workers>,
    /// Bound for a listener that is accepted but not in the snapshot yet.
    bound: HashMap<Arc<str>, (BindAddress, Sockets)>,
    /// What the workers accept on.
    active: BTreeMap<Arc<str>, Active>,
    /// Every address that was ever bound here: the sockets of a listener that drains stay for a
    /// moment, and must not keep the address from the next one.
    ours: HashSet<SocketAddr>,
}

#[derive(Debug, Clone, Copy)]
struct Active {
    /// What the listener asked for.
    wanted: BindAddress,
    /// What it got.
    address: SocketAddr,
}

impl Listening {
    pub(super) fn new(workers: Arc<Workers>) -> Self {
        Self { workers, bound: HashMap::new(), active: BTreeMap::new(), ours: HashSet::new() }
    }

    /// Makes sure that a listener can have its address.
    pub(super) fn admit(&mut self, config: &ListenerConfig) -> Result<(), FieldError> {
        let wanted = bind_address(config);
        let is_served = self.active.get(&config.name).is_some_and(|a| a.wanted == wanted);
        let is_bound = self.bound.get(&config.name).is_some_and(|(bound, _)| *bound == wanted);
        if is_served || is_bound {
            return Ok(());
        }
        let sockets = self.bind(wanted).map_err(|error| {
            FieldError::invalid(format!("cannot bind {}: {error}", wanted.address)).at("address")
        })?;
        self.bound.insert(Arc::clone(&config.name), (wanted, sockets));
        Ok(())
    }

    fn bind(&mut self, wanted: BindAddress) -> io::Result<Sockets> {
        let sockets = self.workers.bind(wanted, self.ours.contains(&wanted.address))?;
        self.ours.insert(sockets.address);
        Ok(sockets)
    }

    /// Starts and stops accepting, so that what is in `snapshot` is served. Sockets bound for what
    /// `is_accepted` no longer knows are closed.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, is_accepted: impl Fn(&str) -> bool) {
        let mut stopping = Vec::new();
        self.active.retain(|name, active| {
            let wanted = snapshot.listeners.get(name).map(|l| bind_address(&l.config));
            let stays = wanted == Some(active.wanted);
            if !stays {
                stopping.push((Arc::clone(name), active.address));
            }
            stays
        });
        let (moving, leaving): (Vec<_>, Vec<_>) =
            stopping.into_iter().partition(|(name, _)| snapshot.listeners.contains_key(name));
        self.stop(moving);
        for (name, listener) in &snapshot.listeners {
            if !self.active.contains_key(name) {
                self.start(name, &listener.config);
            }
        }
        // An address that passes to another listener is open all the time: first in, then out.
        self.stop(leaving);
        self.bound.retain(|name, _| is_accepted(name));
    }

    fn start(&mut self, name: &Arc<str>, config: &ListenerConfig) {
        let wanted = bind_address(config);
        let sockets = match self.bound.remove(name) {
            Some((bound, sockets)) if bound == wanted => sockets,
            // It went back to an address that it had given up.
            _ => match self.bind(wanted) {
                Ok(sockets) => sockets,
                Err(error) => {
                    let address = wanted.address;
                    tracing::error!(listener = &**name, %address, %error, "listener cannot bind");
                    return;
                }
            },
        };
        let address = sockets.address;
        self.workers.listen(name, sockets);
        tracing::info!(listener = &**name, %address, "listener ready");
        let lax: Vec<_> = config.lax().into_iter().map(Lax::name).collect();
        if !lax.is_empty() {
            let settings = lax.join(", ");
            tracing::warn!(listener = &**name, settings, "listener has lax settings");
        }
        self.active.insert(Arc::clone(name), Active { wanted, address });
    }

    fn stop(&self, listeners: Vec<(Arc<str>, SocketAddr)>) {
        for (name, address) in listeners {
            self.workers.unlisten(&name);
            tracing::info!(listener = &*name, %address, "listener drains");
        }
    }

    /// The addresses that listeners have.
    pub(super) fn addresses(&self) -> BTreeMap<Arc<str>, SocketAddr> {
        self.active.iter().map(|(name, active)| (Arc::clone(name), active.address)).collect()
    }
}

fn bind_address(config: &ListenerConfig) -> BindAddress {
    BindAddress { address: config.address, ipv4_compat: config.ipv4_compat }
}
