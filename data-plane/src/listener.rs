//! Listeners: where connections come in, and which filter chain each belongs to.

pub mod entry;
pub mod http;
pub mod local_reply;
pub mod log;
pub mod matching;
pub mod routing;
pub mod scopes;
pub mod sockets;
pub mod tcp;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderMap;
use xds_proto::resource::ResourceType;

use self::entry::{EntryFilter, Occupancy};
use self::http::{EscapedSlashes, HttpOptions, Underscores};
use self::local_reply::LocalReplies;
use self::log::{AccessLogConfig, LineFormat, LogFilter};
use self::matching::{ChainMatch, ConnectionFacts};
use self::routing::{Before, Filters, Routing};
use self::scopes::{LinkedScope, ScopeKey, ScopeNumber, ScopeSource, ScopedConfig, Scopes};
use self::sockets::SocketOptions;
use self::tcp::TcpConfig;
use crate::chain::{ChainConfig, Discovered, Made};
use crate::cluster::Cluster;
use crate::overload::door::Exempt;
use crate::reference::Reference;
use crate::route::RouteTable;
use crate::route::linked::LinkedRoutes;
use crate::telemetry::Registry;
use crate::telemetry::access_log::LogFile;
use crate::telemetry::stats::{Lax, ListenerStats};
use crate::tls::SecretError;
use crate::tls::secret::Secrets;
use crate::tls::server::{ServerTls, ServerTlsConfig};

/// A listener, compiled.
#[derive(Debug)]
pub struct ListenerConfig {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether `::` takes IPv4 too.
    pub ipv4_compat: bool,
    /// Its filter chains, in order.
    pub chains: Box<[Arc<FilterChainConfig>]>,
    /// The chain for connections that no other matches.
    pub default_chain: Option<Arc<FilterChainConfig>>,
    /// How long a client may take to say what chains are chosen by.
    pub hello_timeout: Option<Duration>,
    /// Bytes to read from a connection at a time, at most.
    pub buffer_bytes: usize,
    /// Connections accepted in one go.
    pub accepts_per_wake: usize,
    /// What a proxy in front says of whom it speaks for.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How the sockets of its connections are set.
    pub sockets: SocketOptions,
    /// What it does not take part in.
    pub exempt: Exempt,
    /// Its access logs: a line for each connection.
    pub logs: Box<[AccessLogConfig]>,
}

/// How connections begin (`ProxyProtocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Whether connections without a header are taken too.
    pub is_optional: bool,
}

impl ListenerConfig {
    /// All chains, the default one last.
    pub fn all_chains(&self) -> impl Iterator<Item = &Arc<FilterChainConfig>> {
        self.chains.iter().chain(&self.default_chain)
    }

    /// The settings that leave to endpoints what the proxy could do: Envoy's defaults are such.
    pub fn lax(&self) -> Vec<Lax> {
        type Rule = fn(&HttpOptions) -> bool;
        let http = self.all_chains().filter(|chain| chain.tcp.is_none());
        let options: Vec<&HttpOptions> = http.map(|chain| &chain.http.options).collect();
        let rules: [(Lax, Rule); 4] = [
            (Lax::Paths, |options| !options.path.normalize),
            (Lax::Slashes, |options| !options.path.merge_slashes),
            (Lax::EscapedSlashes, |options| options.path.escaped_slashes == EscapedSlashes::Keep),
            (Lax::Underscores, |options| options.underscores == Underscores::Allow),
        ];
        let is_lax = |rule: Rule| options.iter().any(|one| rule(one));
        rules.into_iter().filter_map(|(lax, rule)| is_lax(rule).then_some(lax)).collect()
    }

    /// Names to `visit` each resource that it names.
    pub fn references(&self, visit: &mut dyn FnMut(ResourceType, &Reference)) {
        for chain in self.all_chains() {
            match &chain.http.routes {
                RouteSource::Named(routes) => visit(ResourceType::Route, routes),
                RouteSource::Scoped(scoped) => {
                    if let ScopeSource::Discovered { scopes, .. } = &scoped.source {
                        visit(ResourceType::ScopedRoute, scopes);
                    }
                }
                RouteSource::Inline(_) => {}
            }
            let discovered = chain.http.filters.discovered();
            discovered.for_each(|filter| visit(ResourceType::ExtensionConfig, &filter.resource));
            let secrets = chain.tls.iter().flat_map(|tls| tls.secrets());
            secrets.for_each(|secret| visit(ResourceType::Secret, secret));
        }
    }

    /// The clusters that its own routes and filters name.
    pub fn cluster_names(&self) -> impl Iterator<Item = Arc<str>> {
        self.all_chains().flat_map(|chain| {
            let tables: Vec<&Arc<RouteTable>> = match &chain.http.routes {
                RouteSource::Named(_) => Vec::new(),
                RouteSource::Inline(table) => vec![table],
                RouteSource::Scoped(scoped) => match &scoped.source {
                    ScopeSource::Inline(all) => all.iter().map(|(_, table)| table).collect(),
                    ScopeSource::Discovered { .. } => Vec::new(),
                },
            };
            let routed = tables.into_iter().flat_map(|table| table.cluster_names().cloned());
            routed.chain(chain.http.filters.cluster_names())
        })
    }
}

/// A filter chain, compiled.
#[derive(Debug)]
pub struct FilterChainConfig {
    /// Its name; empty where it has none.
    pub name: Arc<str>,
    /// Which connections it is for.
    pub matches: ChainMatch,
    /// TLS towards the client.
    pub tls: Option<Arc<ServerTlsConfig>>,
    /// How long the TLS handshake may take.
    pub handshake_timeout: Option<Duration>,
    /// What connections have to pass first.
    pub entry: Box<[EntryFilter]>,
    /// What happens on its connections, where they speak HTTP.
    pub http: HttpConfig,
    /// What happens where they carry bytes. Then `http` has no routes, but a table of the clusters
    /// that the bytes may go to, and the access logs.
    pub tcp: Option<TcpConfig>,
}

/// An HTTP connection manager, compiled.
#[derive(Debug)]
pub struct HttpConfig {
    /// How connections and requests are treated.
    pub options: HttpOptions,
    /// Where the routes come from.
    pub routes: RouteSource,
    /// The filters, and what the router was told.
    pub filters: ChainConfig,
    /// Its own access logs.
    pub logs: Box<[AccessLogConfig]>,
    /// How local replies are rewritten.
    pub local_replies: LocalReplies,
}

impl HttpConfig {
    /// What a chain has that speaks no HTTP: `clusters`, and logs.
    pub(crate) fn for_bytes(clusters: RouteTable, logs: Vec<AccessLogConfig>) -> Self {
        Self {
            options: HttpOptions::default(),
            routes: RouteSource::Inline(Arc::new(clusters)),
            filters: ChainConfig::default(),
            logs: logs.into(),
            local_replies: LocalReplies::default(),
        }
    }
}

/// Where the routes of a chain come from.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// They stand in the listener.
    Inline(Arc<RouteTable>),
    /// The control plane sends them.
    Named(Reference),
    /// There are several tables, and the request decides.
    Scoped(Arc<ScopedConfig>),
}

/// A listener that connections can be served by.
#[derive(Debug)]
pub struct Listener {
    /// What it was made of.
    pub config: Arc<ListenerConfig>,
    /// Its chains, the default one last.
    pub chains: Box<[FilterChain]>,
    /// Its access logs.
    pub logs: Box<[AccessLog]>,
    /// Its numbers.
    pub stats: Arc<ListenerStats>,
}

/// A filter chain that connections can be served by.
#[derive(Debug)]
pub struct FilterChain {
    /// What it was made of.
    pub config: Arc<FilterChainConfig>,
    /// TLS towards the client.
    pub tls: Option<Arc<ServerTls>>,
    /// Its routes and filters; where there are scopes, those of requests in none.
    pub routing: Arc<Routing>,
    /// Routes and filters by scope.
    pub scopes: Option<Arc<Scopes>>,
    /// Its own access logs.
    pub logs: Box<[AccessLog]>,
    /// How many connections it has, where that is limited.
    pub occupancy: Occupancy,
}

/// An access log of a chain, and the file it goes to.
#[derive(Debug)]
pub struct AccessLog {
    /// The file.
    pub file: LogFile,
    /// What a line says.
    pub format: LineFormat,
    /// Which requests are logged.
    pub filter: LogFilter,
}

/// What a listener is joined with.
pub trait ListenerParts {
    /// The routes that the control plane sent under this name.
    fn routes(&self, name: &str) -> Option<Arc<LinkedRoutes>>;

    /// The routes of a listener itself, joined with the clusters; `previous` is what stood in their
    /// place.
    fn inline(
        &self,
        table: &Arc<RouteTable>,
        previous: Option<&Arc<LinkedRoutes>>,
    ) -> Arc<LinkedRoutes>;

    /// The scopes that the control plane sent.
    ///
    /// # Errors
    /// When they have not come yet, or the routes of one have not.
    fn scopes(&self) -> Result<Vec<Arc<LinkedScope>>, Missing>;

    /// A cluster that filters ask.
    fn cluster(&self, name: &str) -> Option<Arc<Cluster>>;

    /// A filter whose configuration comes by itself, or what stands in for it.
    ///
    /// # Errors
    /// When it is still to come.
    fn discovered(&self, filter: &Discovered) -> Result<Option<Made>, Missing>;

    /// The secrets that are known.
    fn secrets(&self) -> &Secrets;
}

/// Why a listener cannot be served yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Its routes have not arrived.
    #[error("route configuration {0:?} is missing")]
    Routes(Arc<str>),
    /// Its scopes have not arrived.
    #[error("scoped routes are missing")]
    Scopes,
    /// The configuration of a filter has not arrived.
    #[error("configuration {0:?} is missing")]
    Extension(Arc<str>),
    /// A secret has not arrived, or is no use.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl Listener {
    /// Joins a listener with its routes and secrets. Gives `previous` when nothing changed.
    ///
    /// # Errors
    /// What it waits for.
    pub fn link(
        config: &Arc<ListenerConfig>,
        parts: &dyn ListenerParts,
        previous: Option<&Arc<Self>>,
        registry: &Registry,
    ) -> Result<Arc<Self>, Missing> {
        let mut chains = Vec::new();
        let mut is_new = previous.is_none_or(|previous| !Arc::ptr_eq(&previous.config, config));
        for (position, chain) in config.all_chains().enumerate() {
            let before = previous.and_then(|previous| previous.counterpart(chain, position));
            let chain = FilterChain::link(chain, parts, before, &config.name, registry)?;
            is_new |= before.is_none_or(|before| !chain.is_same(before));
            chains.push(chain);
        }
        if let Some(previous) = previous
            && !is_new
        {
            return Ok(Arc::clone(previous));
        }
        let stats = registry.listener(&config.name);
        stats.set_lax(&config.lax());
        let logs = config.logs.iter().filter_map(|log| AccessLog::link(log, registry)).collect();
        Ok(Arc::new(Self { config: Arc::clone(config), chains: chains.into(), logs, stats }))
    }

    /// The chain that was what `chain` is: of its name, or where it has none in its place.
    fn counterpart(&self, chain: &FilterChainConfig, position: usize) -> Option<&FilterChain> {
        if chain.name.is_empty() {
            return self.chains.get(position);
        }
        self.chains.iter().find(|before| before.config.name == chain.name)
    }

    /// The chain for a connection; `None` when there is none and the connection is to be closed.
    pub fn select(&self, facts: &ConnectionFacts) -> Option<usize> {
        let matches = self.config.chains.iter().map(|chain| &chain.matches);
        matching::select(matches, facts)
            .or_else(|| self.config.default_chain.as_ref().map(|_| self.config.chains.len()))
    }

    /// Whether what a TLS hello says is needed to choose a chain.
    pub fn needs_hello(&self) -> bool {
        self.config.chains.iter().any(|chain| chain.matches.needs_hello())
    }

    /// Whether all connections, or none, speak TLS; `None` when that differs.
    pub fn is_tls(&self) -> Option<bool> {
        let mut kinds = self.chains.iter().map(|chain| chain.tls.is_some());
        let first = kinds.next().unwrap_or_default();
        kinds.all(|kind| kind == first).then_some(first)
    }
}

impl FilterChain {
    fn link(
        config: &Arc<FilterChainConfig>,
        parts: &dyn ListenerParts,
        previous: Option<&Self>,
        listener: &Arc<str>,
        registry: &Registry,
    ) -> Result<Self, Missing> {
        let routes = match &config.http.routes {
            RouteSource::Inline(table) => {
                parts.inline(table, previous.map(|previous| &previous.routing.routes))
            }
            RouteSource::Named(Reference { name, .. }) => {
                parts.routes(name).ok_or_else(|| Missing::Routes(Arc::clone(name)))?
            }
            RouteSource::Scoped(_) => {
                let previous = previous.map(|previous| &previous.routing.routes);
                let table = previous.map(|previous| Arc::clone(&previous.table));
                parts.inline(&table.unwrap_or_else(|| Arc::new(RouteTable::empty())), previous)
            }
        };
        let tls = match &config.tls {
            None => None,
            Some(tls) => {
                let previous = previous.and_then(|previous| previous.tls.as_ref());
                Some(ServerTls::link(tls, parts.secrets(), previous)?)
            }
        };
        let logs = config.http.logs.iter().filter_map(|log| AccessLog::link(log, registry));
        let logs = logs.collect();
        let before = previous.map(|previous| Before {
            routing: &previous.routing,
            has_same_filters: Arc::ptr_eq(&previous.config, config),
        });
        let find = |name: &str| parts.cluster(name);
        let present = config.http.filters.present(|filter| parts.discovered(filter))?;
        let filters = Filters { present: &present, find: &find };
        let routing = Routing::link(routes, filters, before, listener);
        let scopes = match &config.http.routes {
            RouteSource::Scoped(scoped) => {
                Some(Self::scopes(scoped, (parts, filters), (previous, config), listener)?)
            }
            RouteSource::Inline(_) | RouteSource::Named(_) => None,
        };
        let occupancy = previous.map(|previous| previous.occupancy.clone()).unwrap_or_default();
        Ok(Self { config: Arc::clone(config), tls, routing, scopes, logs, occupancy })
    }

    fn scopes(
        scoped: &ScopedConfig,
        (parts, filters): (&dyn ListenerParts, Filters<'_>),
        (previous, config): (Option<&Self>, &Arc<FilterChainConfig>),
        listener: &Arc<str>,
    ) -> Result<Arc<Scopes>, Missing> {
        let known = previous.and_then(|previous| previous.scopes.as_ref());
        let before = |key: &ScopeKey| known.and_then(|known| known.of(key));
        let has_same_filters = previous.is_some_and(|before| Arc::ptr_eq(&before.config, config));
        let link = |key: &ScopeKey, routes| {
            let before = before(key).map(|routing| Before { routing, has_same_filters });
            (key.clone(), Routing::link(routes, filters, before, listener))
        };
        let all = match &scoped.source {
            ScopeSource::Inline(all) => all
                .iter()
                .map(|(key, table)| {
                    let previous = before(key).map(|routing| &routing.routes);
                    link(key, parts.inline(table, previous))
                })
                .collect(),
            ScopeSource::Discovered { .. } => parts
                .scopes()?
                .iter()
                .map(|linked| link(&linked.scope.key, Arc::clone(&linked.routes)))
                .collect(),
        };
        let scopes = Scopes::new(Arc::clone(&scoped.key), all);
        Ok(match known {
            Some(known) if known.is_same(&scopes) => Arc::clone(known),
            _ => Arc::new(scopes),
        })
    }

    /// The scope of a request.
    pub fn scope(&self, headers: &HeaderMap) -> ScopeNumber {
        self.scopes.as_ref().map(|scopes| scopes.find(headers)).unwrap_or_default()
    }

    /// The routes and filters of a scope.
    pub fn routing(&self, scope: ScopeNumber) -> &Arc<Routing> {
        let scoped = self.scopes.as_ref().and_then(|scopes| scopes.get(scope));
        scoped.unwrap_or(&self.routing)
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
            && Arc::ptr_eq(&self.routing, &other.routing)
            && self.scopes.as_ref().map(Arc::as_ptr) == other.scopes.as_ref().map(Arc::as_ptr)
            && self.tls.as_ref().map(Arc::as_ptr) == other.tls.as_ref().map(Arc::as_ptr)
    }
}

impl AccessLog {
    fn link(config: &AccessLogConfig, registry: &Registry) -> Option<Self> {
        let file = log_file(registry, &config.path)?;
        Some(Self { file, format: config.format.clone(), filter: config.filter.clone() })
    }
}

/// A file for a log; where there are too many, the log is not kept, and that is said.
fn log_file(registry: &Registry, path: &Path) -> Option<LogFile> {
    let logs = registry.access_logs()?;
    let file = logs.file(path);
    if file.is_none() {
        tracing::warn!(path = %path.display(), "too many access logs; this one is not written");
    }
    file
}
