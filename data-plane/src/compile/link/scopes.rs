//! Scopes that came by themselves (SRDS), and their routes.

use std::sync::Arc;

use xds_proto::resource::ResourceType;

use super::{ByName, Linker};
use crate::cluster::Cluster;
use crate::compile::Waiting;
use crate::listener::scopes::{LinkedScope, Scope, ScopeRoutes};
use crate::route::linked::LinkedRoutes;

impl Linker<'_> {
    /// The scopes with their routes. One whose routes are on their way leaves the one in its place
    /// that serves; one that is gone without routes is in no scope.
    pub(super) fn scopes(
        &mut self,
        clusters: &ByName<Cluster>,
        routes: &ByName<LinkedRoutes>,
    ) -> ByName<LinkedScope> {
        let mut linked = ByName::new();
        for (name, scope) in self.tables.scopes.iter() {
            let previous = self.previous.scopes.get(name);
            let found = match &scope.routes {
                ScopeRoutes::Named(table) => self.named(name, table, routes),
                ScopeRoutes::Inline(_) => self.inline(name, scope, clusters, previous),
            };
            let found = match found {
                Ok(found) => found.map(|routes| (scope, routes)),
                Err(waiting) => {
                    self.waits(waiting);
                    previous.map(|previous| (&previous.scope, Arc::clone(&previous.routes)))
                }
            };
            let Some((scope, routes)) = found else { continue };
            let is_same = |previous: &&Arc<LinkedScope>| {
                Arc::ptr_eq(&previous.scope, scope) && Arc::ptr_eq(&previous.routes, &routes)
            };
            let new = match previous.filter(is_same) {
                Some(previous) => Arc::clone(previous),
                None => Arc::new(LinkedScope { scope: Arc::clone(scope), routes }),
            };
            linked.insert(Arc::clone(name), new);
        }
        linked
    }

    /// None where the routes were waited for long enough.
    fn named(
        &self,
        scope: &Arc<str>,
        table: &Arc<str>,
        routes: &ByName<LinkedRoutes>,
    ) -> Result<Option<Arc<LinkedRoutes>>, Waiting> {
        if let Some(found) = routes.get(table) {
            return Ok(Some(Arc::clone(found)));
        }
        let (user, name) = (Arc::clone(scope), Arc::clone(table));
        let waiting = Waiting { user, kind: ResourceType::Route, name };
        if self.tables.given_up.contains(&waiting) { Ok(None) } else { Err(waiting) }
    }

    fn inline(
        &self,
        name: &Arc<str>,
        scope: &Scope,
        clusters: &ByName<Cluster>,
        previous: Option<&Arc<LinkedScope>>,
    ) -> Result<Option<Arc<LinkedRoutes>>, Waiting> {
        let ScopeRoutes::Inline(table) = &scope.routes else { return Ok(None) };
        let previous = previous.map(|previous| &previous.routes);
        let is_new = previous.is_none_or(|previous| !Arc::ptr_eq(&previous.own, table));
        if is_new {
            let before = previous.into_iter().flat_map(|previous| previous.own.virtual_hosts());
            let hosts = table.virtual_hosts().iter();
            if let Some(waiting) = self.first_missing(name, hosts, before, clusters) {
                return Err(waiting);
            }
        }
        Ok(Some(LinkedRoutes::link(Arc::clone(table), clusters, previous)))
    }
}
