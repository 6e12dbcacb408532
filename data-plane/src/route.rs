//! From a request to its route: virtual host, then first match, as Envoy's `RouteConfiguration` says.

pub mod action;
pub mod condition;
pub(crate) mod host;
pub(crate) mod index;
pub mod linked;
pub mod redirect;
pub mod retry;
pub mod rewrite;
mod tree;

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};

use self::action::{Action, ClusterChoice, Forward, WeightedCluster};
use self::condition::Condition;
use self::host::HostIndex;
use self::index::{IndexEntry, PathIndex};
use crate::format::Context;
use crate::format::mutation::{HeaderMutations, Side};
use crate::matcher::header::HeaderView;

/// What routing looks at.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a Method,
    /// The authority as sent, with its port.
    pub host: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// One random number for all that is decided by chance of this request.
    pub random: u64,
}

impl<'a> RequestView<'a> {
    /// The request as header matchers see it.
    pub fn header_view(&self) -> HeaderView<'a> {
        HeaderView {
            method: Some(self.method),
            path: Some(self.path),
            host: Some(self.host),
            scheme: Some(self.scheme),
            headers: self.headers,
        }
    }

    /// The scheme the client used, as `x-forwarded-proto` says; ours where it says nothing.
    pub(crate) fn forwarded_proto(&self) -> &'a str {
        self.headers
            .get("x-forwarded-proto")
            .and_then(|value| value.to_str().ok())
            .unwrap_or(self.scheme)
    }
}

/// All virtual hosts of a listener (`RouteConfiguration`), compiled.
#[derive(Debug)]
pub struct RouteTable {
    pub(crate) name: Arc<str>,
    pub(crate) virtual_hosts: Box<[VirtualHost]>,
    pub(crate) hosts: HostIndex,
    pub(crate) clusters: Box<[Arc<str>]>,
    pub(crate) mutations: Mutations,
    pub(crate) ignore_port: bool,
    pub(crate) ignore_path_parameters: bool,
    /// Whether the most specific level is applied last, and so wins.
    pub(crate) most_specific_wins: bool,
}

/// Routes of some domains (`VirtualHost`).
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Whether upstream requests carry `x-envoy-attempt-count` (`include_request_attempt_count`).
    pub include_request_attempt_count: bool,
    /// Whether responses do (`include_attempt_count_in_response`).
    pub include_attempt_count_in_response: bool,
    pub(crate) require_tls: RequireTls,
    pub(crate) mutations: Mutations,
    pub(crate) routes: Box<[Route]>,
    pub(crate) index: PathIndex,
}

/// Which requests are sent to https first (`VirtualHost.require_tls`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum RequireTls {
    #[default]
    None,
    /// All but those marked with `x-envoy-internal`.
    ExternalOnly,
    All,
}

/// One route of a virtual host.
#[derive(Debug)]
pub struct Route {
    /// Its name; empty when it has none.
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    pub(crate) condition: Condition,
    pub(crate) mutations: Mutations,
}

/// Header changes of one level, both ways.
#[derive(Debug, Default)]
pub(crate) struct Mutations {
    pub(crate) request: HeaderMutations,
    pub(crate) response: HeaderMutations,
}

/// There is no route for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotFound {
    /// No virtual host has its domain.
    NoVirtualHost,
    /// No route of its virtual host matches.
    NoRoute,
    /// Its virtual host wants it to come by https.
    TlsRequired,
}

/// The route of a request, and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// The table.
    pub table: &'a RouteTable,
    /// The virtual host.
    pub virtual_host: &'a VirtualHost,
    /// The route.
    pub route: &'a Route,
    /// How many bytes of the path the route matched, for rewrites and redirects.
    pub matched: usize,
}

impl RouteTable {
    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The clusters it names; a [`action::ClusterIndex`] is a position here.
    pub fn cluster_names(&self) -> &[Arc<str>] {
        &self.clusters
    }

    /// Whether a route takes its cluster's name from a header.
    pub(crate) fn has_cluster_header(&self) -> bool {
        self.virtual_hosts.iter().flat_map(|host| &*host.routes).any(|route| {
            matches!(&route.action, Action::Forward(forward)
                if matches!(forward.cluster, ClusterChoice::Header(_)))
        })
    }

    /// Its virtual hosts, in order.
    pub fn virtual_hosts(&self) -> &[VirtualHost] {
        &self.virtual_hosts
    }

    /// The route of a request. Allocates nothing.
    ///
    /// # Errors
    /// When there is none, and why.
    pub fn find(&self, request: &RequestView<'_>) -> Result<Found<'_>, NotFound> {
        let host = match host::port_start(request.host) {
            Some(port) if self.ignore_port => &request.host[..port],
            _ => request.host,
        };
        let virtual_host = self
            .hosts
            .find(host)
            .and_then(|number| self.virtual_hosts.get(number as usize))
            .ok_or(NotFound::NoVirtualHost)?;
        if virtual_host.require_tls.holds(request) {
            return Err(NotFound::TlsRequired);
        }
        let path = self.path(request.path);
        let route = virtual_host.find(path, request).ok_or(NotFound::NoRoute)?;
        let matched = route.condition.path.matched(path);
        Ok(Found { table: self, virtual_host, route, matched })
    }

    /// The part of the path that routes match on.
    fn path<'p>(&self, path: &'p str) -> &'p str {
        let path = &path[..rewrite::path_end(path)];
        match path.find(';') {
            Some(at) if self.ignore_path_parameters => &path[..at],
            _ => path,
        }
    }
}

impl VirtualHost {
    /// A virtual host with its routes indexed; the caller sets the rest.
    pub(crate) fn new(name: Arc<str>, routes: Vec<Route>) -> Self {
        let index = PathIndex::new(routes.iter().map(|route| IndexEntry {
            text: &route.condition.path.text,
            is_exact: matches!(route.condition.path.kind, condition::PathKind::Exact),
            case_sensitive: route.condition.path.case_sensitive,
        }));
        Self {
            name,
            include_request_attempt_count: false,
            include_attempt_count_in_response: false,
            require_tls: RequireTls::None,
            mutations: Mutations::default(),
            routes: routes.into(),
            index,
        }
    }

    /// Its routes, in order.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    fn find(&self, path: &str, request: &RequestView<'_>) -> Option<&Route> {
        let number = self.index.find(path, &mut |number| {
            self.routes.get(number as usize).is_some_and(|route| {
                route.condition.path.matches_behind(path)
                    && route.condition.rest.as_ref().is_none_or(|rest| rest.match_request(request))
            })
        })?;
        self.routes.get(number as usize)
    }
}

impl RequireTls {
    fn holds(self, request: &RequestView<'_>) -> bool {
        let is_internal =
            || request.headers.get("x-envoy-internal").is_some_and(|value| value == "true");
        match self {
            Self::None => false,
            Self::ExternalOnly => request.forwarded_proto() != "https" && !is_internal(),
            Self::All => request.forwarded_proto() != "https",
        }
    }
}

impl NotFound {
    /// The answer: 404, or the redirect to https. It has no body.
    pub fn respond(self, request: &RequestView<'_>) -> Response<()> {
        match self {
            Self::TlsRequired => redirect::to_https(request),
            Self::NoVirtualHost | Self::NoRoute => {
                let mut response = Response::new(());
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
        }
    }
}

impl Found<'_> {
    /// Changes a request on its way upstream: headers, then host, then path. With
    /// `keeps_originals` what host and path were is noted in `x-envoy-original-host` and `-path`
    /// (Envoy does unless its router has `suppress_envoy_headers`).
    pub fn rewrite_request(
        &self,
        head: &mut Parts,
        picked: Option<&WeightedCluster>,
        context: &Context<'_>,
        keeps_originals: bool,
    ) {
        if let Some(picked) = picked {
            mutate_request(head, &picked.request, context);
            if let Some(host) = &picked.host_rewrite {
                rewrite::set_host(&mut head.uri, &mut head.headers, host.clone());
            }
        }
        for level in self.levels() {
            mutate_request(head, &level.request, context);
        }
        let Action::Forward(forward) = &self.route.action else { return };
        self.rewrite_host(head, forward, keeps_originals);
        self.rewrite_path(head, forward, context, keeps_originals);
    }

    fn rewrite_host(&self, head: &mut Parts, forward: &Forward, keeps_originals: bool) {
        let Some(rewrite) = &forward.host_rewrite else { return };
        let host =
            rewrite.host(path_of(&head.uri), &head.headers).map(std::borrow::Cow::into_owned);
        if let Some(host) = host {
            replace_host(head, forward, host, keeps_originals);
        }
    }

    fn rewrite_path(
        &self,
        head: &mut Parts,
        forward: &Forward,
        context: &Context<'_>,
        keeps_originals: bool,
    ) {
        let Some(rewrite) = &forward.path_rewrite else { return };
        let path = path_of(&head.uri);
        let context = Context {
            request_headers: Some(&head.headers),
            method: Some(&head.method),
            path,
            ..*context
        };
        let Some(new) = rewrite.apply(path, self.matched, &context) else { return };
        if keeps_originals {
            let old = path.to_owned();
            rewrite::keep_path(&mut head.headers, &old);
        }
        rewrite::set_path(&mut head.uri, &new);
    }

    /// Sets the host of the endpoint that was chosen, where the route asks for it
    /// (`auto_host_rewrite`).
    pub fn rewrite_host_to(&self, head: &mut Parts, host: &HeaderValue, keeps_originals: bool) {
        if let Action::Forward(forward) = &self.route.action
            && matches!(forward.host_rewrite, Some(rewrite::HostRewrite::Auto))
        {
            replace_host(head, forward, host.clone(), keeps_originals);
        }
    }

    /// Changes a response on its way to the client, an upstream's or our own.
    pub fn mutate_response(
        &self,
        headers: &mut HeaderMap,
        picked: Option<&WeightedCluster>,
        context: &Context<'_>,
    ) {
        if let Some(picked) = picked {
            picked.response.apply(headers, Side::Response, context);
        }
        for level in self.levels() {
            level.response.apply(headers, Side::Response, context);
        }
    }

    /// The changes of all levels in the order they are applied; the last one wins. A weighted
    /// cluster's come before all of them.
    fn levels(&self) -> [&Mutations; 3] {
        let (route, virtual_host, table) =
            (&self.route.mutations, &self.virtual_host.mutations, &self.table.mutations);
        match self.table.most_specific_wins {
            true => [table, virtual_host, route],
            false => [route, virtual_host, table],
        }
    }
}

/// Changes the headers of a request; templates see it as it is.
fn mutate_request(head: &mut Parts, mutations: &HeaderMutations, context: &Context<'_>) {
    if mutations.is_empty() {
        return;
    }
    let host = rewrite::host_of(&head.uri, &head.headers);
    let context = Context {
        method: Some(&head.method),
        path: path_of(&head.uri),
        host: host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or(context.host),
        ..*context
    };
    mutations.apply(&mut head.headers, Side::Request, &context);
}

fn path_of(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |path| path.as_str())
}

fn replace_host(head: &mut Parts, forward: &Forward, host: HeaderValue, keeps_originals: bool) {
    if let Some(old) = rewrite::host_of(&head.uri, &head.headers) {
        if forward.append_x_forwarded_host {
            rewrite::append_forwarded_host(&mut head.headers, &old);
        }
        if keeps_originals {
            rewrite::keep_host(&mut head.headers, &old);
        }
    }
    rewrite::set_host(&mut head.uri, &mut head.headers, host);
}
