//! A route table as one filter chain serves it: with filters, and with numbers.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::scopes::ScopeNumber;
use crate::chain::overrides::FilterSet;
use crate::chain::{Chain, Chains, Present};
use crate::filtering::keep::FindCluster;
use crate::route::linked::{LinkedRoutes, Places};
use crate::route::virtual_host::VirtualHost;
use crate::route::{Found, HostNumber};
use crate::telemetry::stats::RouteStats;
use crate::telemetry::{Registry, RouteLabels};

/// A route table as one filter chain serves it.
#[derive(Debug)]
pub struct Routing {
    /// The table.
    pub routes: Arc<LinkedRoutes>,
    /// The filters of requests that no virtual host says anything about.
    outside: Arc<Chains>,
    /// By [`HostNumber`].
    hosts: Box<[HostRouting]>,
    listener: Arc<str>,
    /// The numbers of requests without a route.
    unrouted: Arc<OnceLock<Arc<RouteStats>>>,
}

/// A virtual host as one filter chain serves it.
#[derive(Debug, Clone)]
struct HostRouting {
    host: Arc<VirtualHost>,
    /// Its filters, where it or one of its routes says something of them.
    filters: Option<Arc<Chains>>,
    /// By route. Most routes of a big table are never used, so a route gets its numbers with its
    /// first request.
    stats: Arc<[OnceLock<Arc<RouteStats>>]>,
}

/// Which filters a request has: what its virtual host and its route say of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilterPlace {
    /// The route table, by its scope.
    pub scope: ScopeNumber,
    /// The virtual host; none where there is no route.
    pub host: Option<HostNumber>,
    /// What is said there.
    pub set: FilterSet,
}

/// What stood in the place of a [`Routing`].
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// It.
    pub routing: &'a Arc<Routing>,
    /// Whether its filters were configured as they are now.
    pub has_same_filters: bool,
}

/// The filters of a chain, and the clusters that they may ask.
#[derive(Clone, Copy)]
pub struct Filters<'a> {
    /// The filters.
    pub present: &'a [Present],
    /// Finds a cluster.
    pub find: FindCluster<'a>,
}

impl std::fmt::Debug for Filters<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filters").field("present", &self.present).finish_non_exhaustive()
    }
}

impl Routing {
    /// Joins routes with filters. What did not change is shared with what was before; where nothing
    /// did, that is given back.
    pub(super) fn link(
        routes: Arc<LinkedRoutes>,
        filters: Filters<'_>,
        before: Option<Before<'_>>,
        listener: &Arc<str>,
    ) -> Arc<Self> {
        let previous = before.map(|before| before.routing);
        let outside = outside(&routes, filters, before);
        let is_same_outside =
            previous.is_some_and(|previous| Arc::ptr_eq(&previous.outside, &outside));
        let places = previous.map(|previous| Places::new(&previous.hosts, |host| &host.host));
        let names = OnceLock::new();
        let named = |name: &Arc<str>| -> Option<&HostRouting> {
            let names: &HashMap<&str, &HostRouting> = names.get_or_init(|| {
                let hosts = previous.iter().flat_map(|previous| &*previous.hosts);
                hosts.map(|host| (&*host.host.name, host)).collect()
            });
            names.get(&**name).copied()
        };
        let link = |(number, host): (usize, &Arc<VirtualHost>)| {
            let known = places.as_ref().and_then(|places| places.get(number, host));
            let chains = known.and_then(|known| known.filters.as_ref());
            let is_current = is_same_outside && chains.is_none_or(|c| c.is_current(filters.find));
            if let (Some(known), true) = (known, is_current) {
                return known.clone();
            }
            let stats = known.map(|known| Arc::clone(&known.stats));
            let stats =
                stats.unwrap_or_else(|| host.routes().iter().map(|_| OnceLock::new()).collect());
            let says_something = host.overrides.sets().len() > 1;
            let chains = says_something.then(|| {
                let kept = named(&host.name).and_then(|before| before.filters.as_deref());
                let Filters { present, find } = filters;
                Arc::new(outside.link_host(present, &host.overrides, find, kept))
            });
            HostRouting { host: Arc::clone(host), filters: chains, stats }
        };
        let hosts: Box<[_]> = routes.table.virtual_hosts().iter().enumerate().map(link).collect();
        if let Some(previous) = previous
            && is_same_outside
            && Arc::ptr_eq(&previous.routes, &routes)
            && previous.hosts.iter().zip(&hosts).all(|(a, b)| a.has_same_filters(b))
        {
            return Arc::clone(previous);
        }
        let unrouted = previous.map(|previous| Arc::clone(&previous.unrouted)).unwrap_or_default();
        Arc::new(Self { routes, outside, hosts, listener: Arc::clone(listener), unrouted })
    }

    /// The filters of a request.
    pub fn filters(&self, place: FilterPlace) -> Option<&Arc<Chain>> {
        let of_host = place.host.and_then(|host| self.hosts.get(host.index())?.filters.as_ref());
        match of_host {
            Some(chains) => chains.get(place.set),
            None => self.outside.get(FilterSet::default()),
        }
    }

    /// The numbers of a route of the table, or those for requests without one.
    pub fn stats(&self, found: Option<&Found<'_>>, registry: &Registry) -> &Arc<RouteStats> {
        let of_route = found
            .and_then(|found| self.hosts.get(found.host.index())?.stats.get(found.place as usize));
        of_route.unwrap_or(&self.unrouted).get_or_init(|| {
            let (host, route) = match found {
                Some(found) => (found.virtual_host.name.clone(), found.route.name.clone()),
                None => ("_other".into(), "_none".into()),
            };
            registry.route(&RouteLabels { listener: Arc::clone(&self.listener), host, route })
        })
    }
}

impl HostRouting {
    fn has_same_filters(&self, other: &Self) -> bool {
        self.filters.as_ref().map(Arc::as_ptr) == other.filters.as_ref().map(Arc::as_ptr)
    }
}

/// The filters outside of all virtual hosts.
fn outside(routes: &LinkedRoutes, filters: Filters<'_>, before: Option<Before<'_>>) -> Arc<Chains> {
    let Filters { present, find } = filters;
    let frame = &routes.table.frame;
    if let Some(Before { routing, has_same_filters: true }) = before
        && Arc::ptr_eq(&routing.routes.table.frame, frame)
        && routing.outside.is_of(present)
        && routing.outside.is_current(find)
    {
        return Arc::clone(&routing.outside);
    }
    let kept = before.map(|before| &*before.routing.outside);
    Arc::new(Chains::link(present, &frame.overrides, find, kept))
}
