//! A request and its response on their way through the filters.

use std::convert::Infallible;
use std::rc::Rc;

use http::{Request, Response};
use tokio::time::Instant;

use super::deadline::Limits;
use super::exchange::Exchange;
use super::forward;
use super::reply::Local;
use super::selection;
use crate::body::Body;
use crate::chain::Passage;
use crate::filtering::on_demand::MissingHost;
use crate::filtering::stage::{Notes, Proxy, Stage};
use crate::format::{Context, Flags};
use crate::listener::FilterChain;
use crate::listener::routing::FilterPlace;
use crate::route::action::{Action, ClusterChoice, Forward, WeightedCluster};
use crate::route::{Found, NotFound};

/// The route of a request, if there is one, and the chance by which clusters are picked.
pub(super) type Way<'a> = (Result<&'a Found<'a>, NotFound>, u64);

/// Runs the filters on the way in, from a slot on.
///
/// # Errors
/// When a limit of the exchange is reached meanwhile.
pub(super) async fn on_request(
    exchange: &mut Exchange,
    chain: &FilterChain,
    (found, random): Way<'_>,
    (request, from): (&mut Request<Body>, usize),
) -> Result<Passage, Local> {
    let has_host = !matches!(found, Err(NotFound::NoVirtualHost));
    let found = found.ok();
    let picked = found.and_then(|found| {
        selection::picked(forwards(found)?, &selection::hash_view(exchange, request), random)
    });
    let scope = exchange.scope;
    exchange.filters = FilterPlace {
        scope,
        host: found.map(|found| found.host),
        set: found.map(|found| found.filters(picked)).unwrap_or_default(),
    };
    let filters = chain.routing(scope).filters(exchange.filters);
    let Some(filters) = filters.filter(|chain| !chain.is_empty()) else {
        return Ok(Passage::Through);
    };
    let limits = limits(chain, found);
    let mut notes = std::mem::take(&mut exchange.notes);
    let mut stage = stage(exchange, found, &mut notes);
    let host = exchange.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let table = &chain.routing(scope).routes.table;
    let may_come = !has_host && table.has_discovered_hosts() && !exchange.has_restarted;
    stage.missing_host = may_come.then(|| MissingHost {
        desk: &exchange.connection.worker().settings.desk,
        table: table.name(),
        host: table.host(host),
    });
    stage.facts.cluster = found.map_or("", |found| cluster(found, picked));
    let began = Instant::now();
    let run = filters.on_request((request, from), &mut stage);
    let passage = limits.hold(|| exchange.progress(began), run).await;
    exchange.notes = notes;
    passage.map_err(|expired| forward::expired(exchange, expired))
}

/// Waits for an answer where nobody gives one, until a limit of the exchange is reached.
pub(super) async fn nobody(exchange: &Exchange, chain: &FilterChain) -> Local {
    let began = Instant::now();
    let limits = limits(chain, None);
    let waited = limits.hold(|| exchange.progress(began), std::future::pending::<Infallible>());
    match waited.await {
        Ok(never) => match never {},
        Err(expired) => forward::expired(exchange, expired),
    }
}

/// Runs the filters on the way out, whoever answers.
pub(super) async fn on_response(
    exchange: &mut Exchange,
    chain: &FilterChain,
    response: &mut Response<Body>,
) {
    let filters = chain.routing(exchange.filters.scope).filters(exchange.filters);
    let Some(filters) = filters.filter(|chain| !chain.is_empty()) else {
        return;
    };
    let mut notes = std::mem::take(&mut exchange.notes);
    let status = response.status().as_u16();
    let mut stage = stage(exchange, None, &mut notes);
    stage.facts.response_code = Some(status);
    if stage.facts.details.is_empty() {
        stage.facts.details = "via_upstream";
    }
    filters.on_response(response, &mut stage).await;
    exchange.notes = notes;
}

fn stage<'a>(
    exchange: &'a Exchange,
    found: Option<&'a Found<'a>>,
    notes: &'a mut Notes,
) -> Stage<'a> {
    let connection = &exchange.connection;
    let worker: &'a Rc<_> = connection.worker();
    // What filters left is in the notes, which are theirs now.
    let flags = Flags { noted: &[], ..exchange.flags() };
    Stage {
        facts: Context { flags, metadata: None, ..exchange.context() },
        client: connection.client(),
        is_forwarded: found.and_then(forwards).is_some(),
        rate_limits: found.map(Found::rate_limits).unwrap_or_default(),
        proxy: Proxy {
            pools: &worker.pools,
            node: &worker.settings.node,
            node_cluster: &worker.settings.node_cluster,
            is_draining: worker.is_ending.get(),
        },
        missing_host: None,
        connection: &connection.states,
        notes,
        slot: 0,
    }
}

/// The cluster that the route has for the request, as far as it names it.
fn cluster<'a>(found: &Found<'a>, picked: Option<&WeightedCluster>) -> &'a str {
    let Some(forward) = forwards(found) else { return "" };
    let index = match &forward.cluster {
        ClusterChoice::One(index) => Some(*index),
        ClusterChoice::Weighted(_) => picked.map(|picked| picked.index),
        ClusterChoice::Header(_) => None,
    };
    index.and_then(|index| found.virtual_host.cluster_name(index)).map_or("", |name| name)
}

pub(super) fn forwards<'a>(found: &Found<'a>) -> Option<&'a Forward> {
    match &found.route.action {
        Action::Forward(forward) => Some(forward),
        Action::Redirect(_) | Action::Direct(_) => None,
    }
}

/// What may take how long while filters hold the request.
fn limits(chain: &FilterChain, found: Option<&Found<'_>>) -> Limits {
    let timeouts = &chain.config.http.options.timeouts;
    let forward = found.and_then(forwards);
    let own = |limit: Option<crate::route::action::Limit>, inherited| {
        limit.map_or(inherited, |limit| limit.or(inherited))
    };
    Limits {
        idle: own(forward.map(|forward| forward.idle_timeout), timeouts.stream_idle),
        request: timeouts.request,
        stream: own(forward.map(|forward| forward.max_stream_duration), timeouts.stream_age_max),
        ..Limits::default()
    }
}
