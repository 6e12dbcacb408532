//! Looks at resources once in a while, and says what is to be done about too much work.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::overload::Overload;
use crate::overload::memory::{GroupMemory, OwnMemory, ratio};
use crate::overload::plan::{Action, Plan, Resource};
use crate::telemetry::Registry;

/// Looks at what a plan names.
#[derive(Debug)]
pub(super) struct Sampler {
    plan: Plan,
    probes: Vec<Option<Probe>>,
    pressures: Vec<f64>,
    overload: Arc<Overload>,
    registry: Arc<Registry>,
}

#[derive(Debug)]
enum Probe {
    Own(OwnMemory, u64),
    Group(GroupMemory),
    File(std::path::PathBuf),
}

impl Probe {
    fn open(resource: &Resource) -> std::io::Result<Self> {
        Ok(match resource {
            Resource::Own(max) => Self::Own(OwnMemory::open()?, *max),
            Resource::Group(max) => Self::Group(GroupMemory::open(*max)?),
            Resource::File(path) => Self::File(path.clone()),
        })
    }

    fn pressure(&self) -> Option<f64> {
        match self {
            Self::Own(memory, max) => memory.bytes().map(|bytes| ratio(bytes, *max)),
            Self::Group(memory) => memory.pressure(),
            Self::File(path) => {
                let said: f64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
                (0.0..=1.0).contains(&said).then_some(said)
            }
        }
    }
}

impl Sampler {
    /// What cannot be looked at is said, and counts as at rest.
    pub(super) fn new(plan: Plan, overload: Arc<Overload>, registry: Arc<Registry>) -> Self {
        let open = |monitor: &crate::overload::plan::Monitor| {
            let probe = Probe::open(&monitor.resource);
            probe
                .inspect_err(|error| {
                    tracing::warn!(resource = &*monitor.name, %error, "cannot be watched");
                })
                .ok()
        };
        let probes = plan.monitors.iter().map(open).collect();
        let pressures = vec![0.0; plan.monitors.len()];
        Self { plan, probes, pressures, overload, registry }
    }

    /// Looks until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        if self.plan.monitors.is_empty() {
            return;
        }
        let mut ticks = tokio::time::interval(self.plan.refresh);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            self.look();
        }
    }

    fn look(&mut self) {
        let watched = self.plan.monitors.iter().zip(&self.probes).zip(&mut self.pressures);
        for ((monitor, probe), pressure) in watched {
            // What cannot be read just then is as it was.
            if let Some(now) = probe.as_ref().and_then(Probe::pressure) {
                *pressure = now;
            }
            self.registry.proxy().pressure(&monitor.name, *pressure);
        }
        for reaction in &self.plan.reactions {
            self.take(reaction.action, reaction.share(&self.pressures));
        }
    }

    fn take(&self, action: Action, share: f64) {
        let before = self.overload.set(action, share);
        let name = action.name();
        self.registry.proxy().overload_action(name, share);
        if before == 0.0 && share > 0.0 {
            tracing::warn!(action = name, share, pressures = ?self.pressures, "overloaded");
        } else if before > 0.0 && share == 0.0 {
            tracing::info!(action = name, "no longer overloaded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overload::plan::{Limits, Monitor, Trigger};

    #[test]
    fn what_a_file_says_is_done_and_undone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pressure");
        let monitors =
            vec![Monitor { name: "told".into(), resource: Resource::File(file.clone()) }];
        let mut plan = Plan { monitors, ..Plan::default() };
        plan.react(Action::StopRequests, Trigger { monitor: 0, from: 0.5, to: 0.5 });
        let overload = Overload::new(Limits::default());
        let registry = Arc::new(Registry::default());
        let mut sampler = Sampler::new(plan, Arc::clone(&overload), Arc::clone(&registry));
        for (said, is_taken) in [("", false), ("0.5\n", true), ("nonsense", true), ("0.4", false)] {
            std::fs::write(&file, said).unwrap();
            sampler.look();
            assert_eq!(overload.takes(Action::StopRequests), is_taken, "{said:?}");
        }
        let page = registry.render();
        assert!(page.contains("weighlock_overload_pressure{resource=\"told\"} 0.400\n"), "{page}");
        let action = "weighlock_overload_action{action=\"stop_accepting_requests\"} 0.000\n";
        assert!(page.contains(action), "{page}");
    }
}
