//! The one loop: what changed is modelled, translated, checked and published, and statuses are written.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::finding::{Finding, codes};
use crate::fleet::status::Laggard;
use crate::fleet::{Fleet, InSync};
use crate::snapshot::{Origin, Snapshot, Snapshots, Stamp};
use crate::status::FleetState;
use crate::store::Store;
use crate::store::state::{RawGroup, State};
use crate::telemetry::metrics::Metrics;

pub mod blame;
pub mod build;
pub mod fleets;
pub mod judge;
mod statuses;
pub mod translator;

use build::{Built, Held, build};
use statuses::{Told, statuses};
use translator::Translator;

/// The pause after a build, at least: changes that come in a burst are built together.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The pause after a build, at most.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// The pause between two writings of statuses, at least: ACKs of a fleet come in a burst.
const STATUS_PAUSE_MIN: Duration = Duration::from_millis(50);
/// How long proxies have to come back to a control plane that began: their backoff and some more.
const COME_BACK: Duration = Duration::from_secs(45);

/// Of what is wrong between documents, so much is told at once.
const FINDINGS_TOLD_MAX: usize = 20;

/// What the loop reads and writes.
#[derive(Debug, Clone)]
pub struct Pipeline {
    store: Arc<Store>,
    snapshots: Arc<Snapshots>,
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    translator: Arc<Translator>,
    published: Arc<watch::Sender<Release>>,
    /// How many times somebody asked for statuses that tell what nodes said up to then.
    statuses_asked: Arc<watch::Sender<u64>>,
    /// The latest such request that was served.
    statuses_written: Arc<watch::Sender<u64>>,
}

/// What nodes are due since the last publication.
#[derive(Debug, Clone, Default)]
pub struct Release {
    /// The revision that was published; `None` before the first.
    pub revision: Option<u64>,
    /// With which revision each group's or fleet's resources changed last.
    pub changed: Arc<BTreeMap<Origin, u64>>,
    /// What the documents of that revision amount to.
    pub built: Arc<Built>,
}

/// Raw groups, and the snapshots made of them.
type Groups = BTreeMap<String, (Arc<RawGroup>, Arc<Snapshot>)>;

/// What was published last.
#[derive(Debug, Default)]
struct Last {
    state: Arc<State>,
    built: Arc<Built>,
    groups: Groups,
    changed: Arc<BTreeMap<Origin, u64>>,
    is_first_done: bool,
    is_early: bool,
    told: Option<Arc<Told>>,
}

impl Pipeline {
    /// A pipeline that has not begun.
    pub fn new(
        store: Arc<Store>,
        snapshots: Arc<Snapshots>,
        fleet: Arc<Fleet>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            store,
            snapshots,
            fleet,
            metrics,
            translator: Arc::default(),
            published: Arc::new(watch::Sender::new(Release::default())),
            statuses_asked: Arc::new(watch::Sender::new(0)),
            statuses_written: Arc::new(watch::Sender::new(0)),
        }
    }

    /// What documents amount to, for whoever judges a change before it is stored.
    pub fn translator(&self) -> &Arc<Translator> {
        &self.translator
    }

    /// Where what happens is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What was published last.
    pub fn published(&self) -> watch::Receiver<Release> {
        self.published.subscribe()
    }

    /// Waits until the connected nodes serve a revision: those for which it changed something; all
    /// that documents reach, where it changed nothing for anybody.
    ///
    /// # Errors
    /// The nodes that do not, and why; nobody when the revision was not even published in time.
    pub async fn wait_acked(&self, revision: u64, limit: Duration) -> Result<InSync, Vec<Laggard>> {
        let deadline = Instant::now() + limit;
        let mut published = self.published();
        let is_out = |release: &Release| release.revision.is_some_and(|out| out >= revision);
        let release = match timeout_at(deadline, published.wait_for(is_out)).await {
            Ok(Ok(release)) => release.clone(),
            Ok(Err(_)) | Err(_) => return Err(Vec::new()),
        };
        let changed = release.changed.iter().filter(|(_, at)| **at >= revision);
        let mut origins: Vec<Origin> = changed.map(|(origin, _)| origin.clone()).collect();
        if origins.is_empty() {
            origins = release.changed.keys().cloned().collect();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let in_sync = self.fleet.wait_in_sync(revision, Some(&origins), left).await;
        self.statuses_told(deadline).await;
        in_sync
    }

    /// Waits until statuses tell what nodes have said, so that who was answered reads them so.
    async fn statuses_told(&self, deadline: Instant) {
        let mut number = 0;
        self.statuses_asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let mut written = self.statuses_written.subscribe();
        let told = written.wait_for(|written| *written >= number);
        if timeout_at(deadline, told).await.is_err() {
            tracing::debug!("statuses are behind");
        }
    }

    /// Runs until `shutdown`. The first build is published whole before nodes are served.
    ///
    /// # Errors
    /// When a build panics: then what is published can no longer be trusted to follow the store.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), JoinError> {
        let mut stored = self.store.changed();
        let mut nodes = self.fleet.changed();
        let mut asked = self.statuses_asked.subscribe();
        let mut last = Last { is_early: true, ..Last::default() };
        let is_late = tokio::time::sleep(COME_BACK);
        tokio::pin!(is_late);
        let mut status_due: Option<Instant> = None;
        loop {
            stored.mark_unchanged();
            let state = self.store.state();
            if !last.is_first_done || is_news(&last.state, &state) {
                let began = Instant::now();
                last = self.publish(last, state).await?;
                status_due = Some(began);
                let pause = began.elapsed().clamp(PAUSE_MIN, PAUSE_MAX);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
            }
            if status_due.is_some_and(|due| due <= Instant::now()) {
                nodes.mark_unchanged();
                let number = *asked.borrow_and_update();
                status_due = None;
                last.told = self.write_statuses(&last).await?;
                self.statuses_written.send_replace(number);
            }
            let due = status_due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                changed = stored.changed() => if changed.is_err() { return Ok(()) },
                changed = nodes.changed(), if status_due.is_none() => {
                    if changed.is_err() { return Ok(()) }
                    status_due = Some(Instant::now() + STATUS_PAUSE_MIN);
                }
                asked = asked.changed() => if asked.is_ok() { status_due = Some(Instant::now()) },
                () = sleep_until(due) => {}
                () = &mut is_late, if last.is_early => {
                    last.is_early = false;
                    status_due = Some(Instant::now());
                }
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    async fn publish(&self, last: Last, state: Arc<State>) -> Result<Last, JoinError> {
        let began = Instant::now();
        let built = self.build(last.built.clone(), state.clone()).await?;
        self.metrics.snapshot_build_seconds.observe(began.elapsed().as_secs_f64());
        for held in built.held.iter().filter(|held| !last.built.held.contains(held)) {
            tell_held(held);
        }
        tell_findings(&built.translated.findings, &last.built.translated.findings);
        let stamp = Stamp { revision: state.revision, accepted_at: state.accepted_at };
        for (fleet, snapshot) in &built.fleets {
            self.snapshots.publish_fleet(fleet, snapshot.clone(), stamp);
        }
        for gone in last.built.fleets.keys().filter(|fleet| !built.fleets.contains_key(*fleet)) {
            self.snapshots.remove_fleet(gone);
        }
        let groups = self.publish_groups(&last.groups, &state, stamp);
        self.snapshots.advance(stamp);
        if !last.is_first_done {
            self.snapshots.open();
        }
        tracing::info!(
            revision = state.revision,
            objects = state.objects.len(),
            fleets = built.fleets.len(),
            elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "published"
        );
        self.metrics.revision.set(i64::try_from(state.revision).unwrap_or(i64::MAX));
        let changed = Arc::new(changed(&last, &built, &groups, state.revision));
        let release = Release {
            revision: Some(state.revision),
            changed: changed.clone(),
            built: built.clone(),
        };
        self.published.send_replace(release);
        Ok(Last { changed, state, built, groups, is_first_done: true, ..last })
    }

    /// What the state amounts to; what was built last, where its documents say the same.
    async fn build(&self, last: Arc<Built>, state: Arc<State>) -> Result<Arc<Built>, JoinError> {
        let translator = self.translator.clone();
        tokio::task::spawn_blocking(move || {
            let translated = translator.translated(&state.objects);
            if Arc::ptr_eq(&translated, &last.translated) {
                return last;
            }
            Arc::new(build(&translated, &last.fleets))
        })
        .await
    }

    /// Publishes raw groups as they are. Those that did not change are stamped anew: their nodes
    /// serve the revision, since it brings them nothing.
    fn publish_groups(&self, last: &Groups, state: &State, stamp: Stamp) -> Groups {
        let mut groups = BTreeMap::new();
        for (name, group) in &state.raw_groups {
            let snapshot = match last.get(name) {
                Some((same, snapshot)) if Arc::ptr_eq(same, group) => snapshot.clone(),
                Some((_, snapshot)) => Arc::new(snapshot.next(resources(group))),
                None => Arc::new(Snapshot::new(resources(group))),
            };
            self.snapshots.publish_raw(name, snapshot.clone(), stamp);
            groups.insert(name.clone(), (group.clone(), snapshot));
        }
        for gone in last.keys().filter(|name| !groups.contains_key(*name)) {
            self.snapshots.remove_raw(gone);
        }
        groups
    }

    async fn write_statuses(&self, last: &Last) -> Result<Option<Arc<Told>>, JoinError> {
        let now = Told {
            built: last.built.clone(),
            fleets: self.fleets(last),
            is_early: last.is_early,
            resource_version: self.store.state().resource_version,
        };
        if last.told.as_deref().is_some_and(|told| told.is_same(&now)) {
            return Ok(last.told.clone());
        }
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            let statuses = statuses(&store.state(), &now);
            if statuses.is_empty() {
                return Some(Arc::new(now));
            }
            match store.write_status(statuses) {
                // Whether this made all of them true is for the next look to say.
                Ok(_) => None,
                Err(error) => {
                    tracing::warn!(%error, "statuses are not written");
                    None
                }
            }
        })
        .await
    }

    /// What the nodes of each fleet have said.
    fn fleets(&self, last: &Last) -> BTreeMap<String, FleetState> {
        let is_raw = |fleet: &str| last.groups.contains_key(fleet);
        fleets::fleets(&self.fleet.nodes(), &last.built, last.state.revision, is_raw)
    }
}

/// With which revision the resources of each group and fleet changed last.
fn changed(last: &Last, built: &Built, groups: &Groups, revision: u64) -> BTreeMap<Origin, u64> {
    let fleets = built.fleets.iter().map(|(name, snapshot)| {
        (Origin::Fleet(name.as_str().into()), snapshot, last.built.fleets.get(name))
    });
    let groups = groups.iter().map(|(name, (_, snapshot))| {
        let before = last.groups.get(name).map(|(_, snapshot)| snapshot);
        (Origin::Raw(name.as_str().into()), snapshot, before)
    });
    fleets
        .chain(groups)
        .map(|(origin, snapshot, before)| {
            let is_same = before.is_some_and(|before| before.is_same(snapshot));
            let since = last.changed.get(&origin).copied().filter(|_| is_same);
            (origin, since.unwrap_or(revision))
        })
        .collect()
}

/// Whether content changed; statuses alone are none.
fn is_news(last: &State, state: &State) -> bool {
    last.revision != state.revision
}

fn resources(group: &RawGroup) -> Vec<xds_proto::resource::Resource> {
    group.resources.values().cloned().collect()
}

/// Says what is wrong between documents that was not before: who writes by files or one by one
/// may look nowhere else.
fn tell_findings(found: &[Finding], before: &[Finding]) {
    let known: HashSet<&Finding> = before.iter().collect();
    // What is held back is told as that.
    let is_held =
        |finding: &Finding| finding.code == codes::NOT_SUPPORTED && finding.field.is_empty();
    let is_news = |finding: &&Finding| !known.contains(finding) && !is_held(finding);
    let news: Vec<&Finding> = found.iter().filter(is_news).collect();
    for finding in news.iter().take(FINDINGS_TOLD_MAX) {
        let Finding { code, object, field, message, .. } = finding;
        tracing::warn!(object, field, error = format!("{code} {message}"), "documents do not fit");
    }
    let untold = news.len().saturating_sub(FINDINGS_TOLD_MAX);
    if untold > 0 {
        tracing::warn!(count = untold, "more documents do not fit");
    }
}

fn tell_held(held: &Held) {
    let owners: Vec<String> = held.owners.iter().map(ToString::to_string).collect();
    tracing::error!(
        fleet = held.fleet,
        type_url = held.kind.type_url(),
        resource = &*held.name,
        owners = owners.join(", "),
        error = %held.error,
        "a resource that our own proxy would refuse is held back"
    );
}
