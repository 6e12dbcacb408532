//! The filters of an HTTP connection manager, joined: one chain for most requests, and one for each
//! set of overrides that routes have.

pub mod overrides;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use http::{Request, Response};
use xds_proto::google::protobuf::Any;

use self::overrides::{FilterSet, Level, OverrideSet, OverrideTable};
use crate::body::Body;
use crate::filter::Filter;
use crate::filter::router::Router;
use crate::filtering::keep::{FindCluster, Joined, Key, Linked, Linker, States};
use crate::filtering::stage::Stage;
use crate::filtering::{Reply, Verdict};
use crate::reference::Reference;
use crate::telemetry::why::Why;

/// The filters of a connection manager in order, the router apart: it is the proxy itself.
#[derive(Debug, Default)]
pub struct ChainConfig {
    /// The filters, those that are off by default too.
    pub filters: Box<[FilterConfig]>,
    /// What the router at the end was told; none where there is no filter at all, and so nobody who
    /// answers.
    pub router: Option<Router>,
}

/// A filter of a connection manager.
#[derive(Debug)]
pub struct FilterConfig {
    /// Its name, by which routes speak of it.
    pub name: Arc<str>,
    /// Whether only routes that say so have it.
    pub is_disabled: bool,
    /// Where its configuration is.
    pub source: FilterSource,
}

/// Where the configuration of a filter is.
#[derive(Debug)]
pub enum FilterSource {
    /// In the listener.
    Own(Made),
    /// It comes by itself (`config_discovery`).
    Discovered(Discovered),
}

/// A filter, compiled.
#[derive(Debug, Clone)]
pub struct Made {
    /// It.
    pub filter: Arc<Filter>,
    /// A hash of what it was made of.
    pub hash: u64,
}

/// A filter whose configuration comes by itself (`ExtensionConfigSource`).
#[derive(Debug)]
pub struct Discovered {
    /// The resource.
    pub resource: Reference,
    /// What stands in for it while it is not there.
    pub default: Option<Made>,
    /// Whether that may serve before the control plane was asked.
    pub needs_no_warming: bool,
    /// The messages that it may be configured by.
    pub types: Box<[Box<str>]>,
}

/// A configuration that came by itself (`TypedExtensionConfig`).
#[derive(Debug)]
pub struct Extension {
    /// The message that it is.
    pub type_name: Box<str>,
    /// The filter that it makes.
    pub made: Made,
}

/// A filter of a connection manager as it is at present.
#[derive(Debug)]
pub struct Present {
    name: Arc<str>,
    is_disabled: bool,
    /// None where its configuration has not come, and nothing stands in for it.
    made: Option<Made>,
}

impl ChainConfig {
    /// The clusters that its filters ask, as far as the listener says.
    pub fn cluster_names(&self) -> Vec<Arc<str>> {
        let own = self.filters.iter().filter_map(|filter| match &filter.source {
            FilterSource::Own(made) => Some(made),
            FilterSource::Discovered(discovered) => discovered.default.as_ref(),
        });
        own.flat_map(|made| made.filter.clusters()).collect()
    }

    /// The filters whose configuration comes by itself.
    pub fn discovered(&self) -> impl Iterator<Item = &Discovered> {
        self.filters.iter().filter_map(|filter| match &filter.source {
            FilterSource::Own(_) => None,
            FilterSource::Discovered(discovered) => Some(discovered),
        })
    }

    /// The filters as they are at present; `find` gives what came by itself, or stands in for it.
    ///
    /// # Errors
    /// The error of `find`.
    pub fn present<E>(
        &self,
        find: impl Fn(&Discovered) -> Result<Option<Made>, E>,
    ) -> Result<Vec<Present>, E> {
        let present = |filter: &FilterConfig| {
            let made = match &filter.source {
                FilterSource::Own(made) => Some(made.clone()),
                FilterSource::Discovered(discovered) => find(discovered)?,
            };
            let (name, is_disabled) = (Arc::clone(&filter.name), filter.is_disabled);
            Ok(Present { name, is_disabled, made })
        };
        self.filters.iter().map(present).collect()
    }
}

impl Discovered {
    /// Whether a filter may be configured by this message.
    pub fn takes(&self, type_name: &str) -> bool {
        self.types.iter().any(|known| **known == *type_name)
    }
}

/// A hash of a packed configuration.
pub fn hash(config: &Any) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&config.type_url, &config.value).hash(&mut hasher);
    hasher.finish()
}

/// Filters joined with what some levels say of them.
#[derive(Debug)]
pub struct Chains {
    /// Each filter as no level says anything of it, off or on.
    plain: Box<[Option<Arc<Filter>>]>,
    /// What they were joined of.
    made: Box<[Option<Arc<Filter>>]>,
    /// By [`FilterSet`]; the first is for what says nothing.
    chains: Box<[Arc<Chain>]>,
    states: States,
    joined: Joined,
}

/// Filters that run one after the other.
#[derive(Debug, Default)]
pub struct Chain {
    /// Each with its slot: its place among those configured.
    filters: Box<[(usize, Arc<Filter>)]>,
    /// The slot of one whose configuration is missing, so that no request passes.
    broken_at: Option<usize>,
}

/// How far a request came through the filters.
#[derive(Debug)]
pub enum Passage {
    /// Through all of them.
    Through,
    /// Up to this slot: the route is to be looked for once more, and the filters that it has go on.
    Stale(usize),
    /// It begins again, with the present configuration.
    Again,
    /// One of them answers.
    Answered(Box<Reply>),
}

impl Chains {
    /// Joins the filters with what levels say of them, and with what they kept in `before`.
    pub fn link(
        present: &[Present],
        overrides: &OverrideTable,
        find: FindCluster<'_>,
        before: Option<&Self>,
    ) -> Self {
        let mut linker = Linker::new(find, before.map(|before| &before.states), None);
        let plain = |(slot, filter): (usize, &Present)| {
            let nth = nth(present, slot);
            link((filter, nth), filter.made.as_ref()?, &[], &mut linker)
        };
        let plain: Box<[_]> = present.iter().enumerate().map(plain).collect();
        let chains = chains(present, overrides, &plain, &mut linker);
        let (states, joined) = linker.finish();
        let made = present.iter().map(|filter| Some(Arc::clone(&filter.made.as_ref()?.filter)));
        Self { plain, made: made.collect(), chains, states, joined }
    }

    /// Joins them with what the levels of a virtual host say too; `self` is what they are outside
    /// of it, and shares with it what the host does not change.
    pub fn link_host(
        &self,
        present: &[Present],
        overrides: &OverrideTable,
        find: FindCluster<'_>,
        before: Option<&Self>,
    ) -> Self {
        let before = before.map(|before| &before.states);
        let mut linker = Linker::new(find, before, Some(&self.states));
        let chains = chains(present, overrides, &self.plain, &mut linker);
        let (states, joined) = linker.finish();
        Self { plain: [].into(), made: [].into(), chains, states, joined }
    }

    /// Whether they were joined of these.
    pub fn is_of(&self, present: &[Present]) -> bool {
        let mut pairs = self.made.iter().zip(present);
        self.made.len() == present.len()
            && pairs.all(|(before, now)| {
                let now = now.made.as_ref().map(|made| &made.filter);
                before.as_ref().map(Arc::as_ptr) == now.map(Arc::as_ptr)
            })
    }

    /// Whether the filters would be joined with the same clusters again.
    pub fn is_current(&self, find: FindCluster<'_>) -> bool {
        self.joined.iter().all(|(name, joined)| {
            find(name).as_ref().map(Arc::as_ptr) == joined.as_ref().map(Arc::as_ptr)
        })
    }

    /// The chain of a route.
    pub fn get(&self, set: FilterSet) -> Option<&Arc<Chain>> {
        self.chains.get(set.index())
    }
}

/// A chain for each set of overrides.
fn chains(
    present: &[Present],
    overrides: &OverrideTable,
    plain: &[Option<Arc<Filter>>],
    linker: &mut Linker<'_>,
) -> Box<[Arc<Chain>]> {
    let chain = |set: &OverrideSet| {
        let (mut filters, mut broken_at) = (Vec::new(), None);
        for (slot, (filter, plain)) in present.iter().zip(plain).enumerate() {
            let levels = set.levels(&filter.name);
            if levels.last().map_or(filter.is_disabled, |last| last.is_disabled) {
                continue;
            }
            let Some(made) = &filter.made else {
                broken_at.get_or_insert(slot);
                continue;
            };
            let filter = match levels {
                [] => plain.clone(),
                levels => link((filter, nth(present, slot)), made, levels, linker),
            };
            filters.extend(filter.map(|filter| (slot, filter)));
        }
        Arc::new(Chain { filters: filters.into(), broken_at })
    };
    overrides.sets().iter().map(chain).collect()
}

/// How many filters before this one have its name.
fn nth(present: &[Present], slot: usize) -> usize {
    let (before, rest) = present.split_at(slot);
    let name = rest.first().map(|filter| &filter.name);
    before.iter().filter(|other| Some(&other.name) == name).count()
}

/// A filter with what these levels say of it; none where it is off.
fn link(
    (filter, nth): (&Present, usize),
    made: &Made,
    levels: &[Arc<Level>],
    linker: &mut Linker<'_>,
) -> Option<Arc<Filter>> {
    let settings: Vec<_> = levels.iter().filter_map(|level| level.setting.as_ref()).collect();
    let specific = levels.iter().rev().find(|level| level.setting.is_some());
    linker.turn_to(Key {
        filter: Arc::clone(&filter.name),
        // What a route says is one thing for all filters of the name.
        nth: if specific.is_some() { 0 } else { nth },
        place: specific.map_or_else(|| "".into(), |level| Arc::clone(&level.place)),
        config: specific.map_or(made.hash, |level| level.hash),
    });
    match made.filter.link(&settings, linker) {
        Linked::Same => Some(Arc::clone(&made.filter)),
        Linked::New(linked) => Some(Arc::new(linked)),
        Linked::Off => None,
    }
}

impl Chain {
    /// Runs the filters from a slot on, on the way in; stops at the first that does not let it on.
    pub async fn on_request(
        &self,
        (request, from): (&mut Request<Body>, usize),
        stage: &mut Stage<'_>,
    ) -> Passage {
        let is_broken = |slot: usize| self.broken_at.is_some_and(|broken| broken < slot);
        for (slot, filter) in self.filters.iter().filter(|(slot, _)| *slot >= from) {
            if is_broken(*slot) {
                break;
            }
            stage.slot = *slot;
            match filter.on_request(request, stage).await {
                Verdict::Continue => {}
                Verdict::Reply(reply) => return Passage::Answered(reply),
            }
            if stage.notes.begins_again {
                return Passage::Again;
            }
            if std::mem::take(&mut stage.notes.is_route_stale) {
                return Passage::Stale(slot + 1);
            }
        }
        match self.broken_at {
            Some(broken) if broken >= from => {
                Passage::Answered(Box::new(Reply::refusal(Why::FilterConfigMissing)))
            }
            Some(_) | None => Passage::Through,
        }
    }

    /// Runs the chain on the way out, last filter first. As in Envoy, all of it runs, however far
    /// the request came.
    pub async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
        for (slot, filter) in self.filters.iter().rev() {
            stage.slot = *slot;
            filter.on_response(response, stage).await;
        }
    }

    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty() && self.broken_at.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use xds_proto::envoy::config::route::v3::{
        FilterConfig as RouteFilterConfig, RouteConfiguration,
    };
    use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::filter;
    use crate::filtering::stage::testing::Scene;

    const LIMIT: &str = "'@type': type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: x,
        token_bucket: {max_tokens: 1, fill_interval: 60s}, filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}";

    /// A chain of one filter.
    fn config(filter: &str, is_disabled: bool) -> ChainConfig {
        let message: HttpFilter = from_yaml(&format!("{{typed_config: {{{filter}}}}}")).unwrap();
        let Some(xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType::TypedConfig(any)) =
            message.config_type
        else {
            unreachable!()
        };
        let made = Made { filter: Arc::new(filter::compile(&any).unwrap()), hash: hash(&any) };
        let filter =
            FilterConfig { name: "f".into(), is_disabled, source: FilterSource::Own(made) };
        ChainConfig { filters: [filter].into(), ..ChainConfig::default() }
    }

    /// What a level says of the filter.
    #[derive(Clone, Copy)]
    enum Say<'a> {
        Nothing,
        Off,
        On,
        This(&'a str),
    }

    fn levels(say: Say<'_>, place: &str) -> overrides::Levels {
        let switch = |config: RouteFilterConfig| xds_proto::json::pack(&config).unwrap();
        let any = match say {
            Say::Nothing => return Vec::new(),
            Say::Off => switch(RouteFilterConfig { disabled: true, ..Default::default() }),
            Say::On => {
                switch(RouteFilterConfig { config: Some(Any::default()), ..Default::default() })
            }
            Say::This(text) => {
                let text = format!("{{typed_per_filter_config: {{f: {{{text}}}}}}}");
                let message: RouteConfiguration = from_yaml(&text).unwrap();
                return overrides::compile(message.typed_per_filter_config, &place.into()).unwrap();
            }
        };
        overrides::compile(HashMap::from([("f".into(), any)]), &place.into()).unwrap()
    }

    /// What a table of two levels says of the filter, and the set of the inner one.
    fn overrides(host: Say<'_>, route: Say<'_>) -> (OverrideTable, FilterSet) {
        let mut table = OverrideTable::default();
        let host = table.join(FilterSet::default(), levels(host, "host")).unwrap();
        let route = table.join(host, levels(route, "host/route")).unwrap();
        (table, route)
    }

    /// How many of five requests pass.
    async fn passes(chains: &Chains, set: FilterSet) -> usize {
        let mut count = 0;
        for _ in 0..5 {
            let (mut request, mut scene) = (Request::new(Body::empty()), Scene::default());
            let chain = chains.get(set).unwrap();
            let passage = chain.on_request((&mut request, 0), &mut scene.stage()).await;
            count += usize::from(matches!(passage, Passage::Through));
        }
        count
    }

    fn joined(config: &ChainConfig, table: &OverrideTable, before: Option<&Chains>) -> Chains {
        Chains::link(&present(config), table, &|_| None, before)
    }

    fn present(config: &ChainConfig) -> Vec<Present> {
        config.present(|_| Ok::<_, ()>(None)).unwrap()
    }

    #[tokio::test]
    async fn a_filter_is_on_or_off_as_the_most_specific_level_says() {
        for (number, (is_disabled, host, route, want)) in [
            (false, Say::Nothing, Say::Nothing, 1),
            (true, Say::Nothing, Say::Nothing, 5),
            (false, Say::Off, Say::Nothing, 5),
            (false, Say::Off, Say::On, 1),
            (true, Say::On, Say::Nothing, 1),
            (true, Say::On, Say::Off, 5),
            (true, Say::Nothing, Say::This(LIMIT), 1),
        ]
        .into_iter()
        .enumerate()
        {
            let (table, set) = overrides(host, route);
            let chains = joined(&config(LIMIT, is_disabled), &table, None);
            assert_eq!(passes(&chains, set).await, want, "{number}");
            let plain = if is_disabled { 5 } else { 1 };
            let chains = joined(&config(LIMIT, is_disabled), &table, None);
            assert_eq!(passes(&chains, FilterSet::default()).await, plain);
        }
    }

    #[tokio::test]
    async fn what_filters_keep_survives_what_does_not_concern_them() {
        let three = LIMIT.replace("max_tokens: 1", "max_tokens: 3");
        let (table, set) = overrides(Say::Nothing, Say::This(&three));
        let config = config(LIMIT, false);
        let first = joined(&config, &table, None);
        assert_eq!(passes(&first, FilterSet::default()).await, 1);
        assert_eq!(passes(&first, set).await, 3);
        let (same, set) = overrides(Say::Nothing, Say::This(&three));
        let second = joined(&config, &same, Some(&first));
        assert_eq!(passes(&second, FilterSet::default()).await, 0);
        assert_eq!(passes(&second, set).await, 0);
        let slower = three.replace("60s", "61s");
        let (changed, set) = overrides(Say::Nothing, Say::This(&slower));
        let third = joined(&config, &changed, Some(&second));
        assert_eq!(passes(&third, FilterSet::default()).await, 0);
        assert_eq!(passes(&third, set).await, 3);
    }

    #[tokio::test]
    async fn routes_of_a_virtual_host_share_what_it_says() {
        let (mut table, host) = overrides(Say::This(LIMIT), Say::Nothing);
        let mut of_another = levels(Say::Off, "host/route");
        of_another[0].0 = "g".into();
        let route = table.join(host, of_another).unwrap();
        let chains = joined(&config(LIMIT, false), &table, None);
        assert_eq!(passes(&chains, host).await + passes(&chains, route).await, 1);
        assert!(chains.is_current(&|_| None));
    }

    #[tokio::test]
    async fn virtual_hosts_share_what_is_said_around_them() {
        let mut table = OverrideTable::default();
        let around = table.join(FilterSet::default(), levels(Say::This(LIMIT), "")).unwrap();
        let config = config(LIMIT, true);
        let outside = joined(&config, &table, None);
        let (mut one, mut other) = (table.clone(), table);
        let own = one.join(around, levels(Say::On, "one")).unwrap();
        let own_limit = other.join(around, levels(Say::This(LIMIT), "other")).unwrap();
        let one = outside.link_host(&present(&config), &one, &|_| None, None);
        let again = outside.link_host(&present(&config), &other, &|_| None, None);
        assert_eq!(passes(&one, own).await, 1);
        assert_eq!(passes(&again, around).await, 0);
        assert_eq!(passes(&again, own_limit).await, 1);
        let next = outside.link_host(&present(&config), &other, &|_| None, Some(&again));
        assert_eq!(passes(&next, own_limit).await, 0);
    }

    #[tokio::test]
    async fn a_filter_that_is_missing_lets_nothing_pass_where_it_is_on() {
        let missing = |is_disabled| FilterConfig {
            name: "m".into(),
            is_disabled,
            source: FilterSource::Discovered(Discovered {
                resource: Reference::new("m".into()),
                default: None,
                needs_no_warming: false,
                types: [].into(),
            }),
        };
        for (is_disabled, want) in [(false, 0), (true, 5)] {
            let config = ChainConfig { filters: [missing(is_disabled)].into(), router: None };
            let chains = joined(&config, &OverrideTable::default(), None);
            assert_eq!(passes(&chains, FilterSet::default()).await, want);
        }
    }
}
