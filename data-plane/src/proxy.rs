//! The life of one request.

pub mod connection;
pub mod edge;
pub mod tcp;
pub mod worker;
mod client_certificate;
mod deadline;
mod exchange;
mod filters;
mod forward;
mod log;
mod lookup;
mod mirror;
mod miss;
mod overrides;
mod reply;
mod selection;
mod streams;
mod timeouts;
mod upgrade;

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use self::connection::Connection;
use self::edge::Peer;
use self::exchange::{Exchange, path_of};
use self::filters::Way;
use self::forward::Plan;
use self::reply::Local;
use self::upgrade::Tunnel;
use crate::body::flow::Outgoing;
use crate::body::stall::StreamWatch;
use crate::body::{Body, BodyError, Deadlines};
use crate::chain::Passage;
use crate::filtering::Reply;
use crate::format::mutation::Side;
use crate::framing::Violation;
use crate::guard;
use crate::listener::FilterChain;
use crate::listener::http::HttpOptions;
use crate::route::action::{Action, DirectResponse};
use crate::route::{Found, NotFound, RequestView};
use crate::telemetry::why::Why;

const LOCAL_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-local-overloaded");

/// The body of a response on its way to the client. The exchange ends with it.
#[derive(Debug)]
pub struct ReplyBody {
    body: Outgoing,
    exchange: Option<Box<Exchange>>,
    /// How it broke off, until what came before is on its way.
    broken: Option<BodyError>,
}

/// Answers a request. `stream` watches over it, where a connection has several.
///
/// Request and exchange lie in boxes: what holds them on the way is moved about and kept.
pub fn serve(
    connection: &Rc<Connection>,
    request: Request<Incoming>,
    stream: Option<Rc<StreamWatch>>,
) -> impl Future<Output = Response<ReplyBody>> + use<> {
    let (mut head, incoming) = request.into_parts();
    let client = head.extensions.remove::<OnUpgrade>();
    upgrade::unify(&mut head);
    let mut exchange = Exchange::new(connection, &head);
    let mut body = Body::incoming(incoming);
    if !has_trailers(&exchange) {
        body = body.ignoring_trailers();
    }
    let body = body.watched(Rc::clone(&exchange.request), Deadlines::default());
    let request = Box::new(Request::from_parts(head, body));
    async move {
        let view = exchange.view.clone();
        let response = match view.chain() {
            Some(chain) => answer(&mut exchange, chain, request).await,
            None => Local::new(Why::InternalError).respond(),
        };
        match client {
            None => reply(exchange, response, stream.as_deref()),
            Some(client) => upgraded(exchange, client, response, stream.as_deref()),
        }
    }
}

/// Hands on the response to a client that could switch protocols.
fn upgraded(
    exchange: Box<Exchange>,
    client: OnUpgrade,
    response: Response<Body>,
    stream: Option<&StreamWatch>,
) -> Response<ReplyBody> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch(exchange, client, response);
    }
    if exchange.version != Version::HTTP_2 || !response.status().is_success() {
        return reply(exchange, response, stream);
    }
    // To the codec it has switched, so that the body is what goes through the tunnel.
    let limits = (response.body().deadlines(), Rc::clone(&exchange.activity));
    let connection = Rc::clone(&exchange.connection);
    upgrade::without_switch(connection, client, reply(exchange, response, None), limits)
}

/// Answers a request whose head broke the protocol. `request` only stands for it.
pub async fn refuse(
    connection: Rc<Connection>,
    request: Request<Incoming>,
    violation: Violation,
) -> Response<ReplyBody> {
    let mut exchange = Exchange::unread(&connection, &request.into_parts().0);
    let view = exchange.view.clone();
    let response = match view.chain() {
        Some(chain) => {
            let response = refused(&mut exchange, chain, violation.into());
            leave(&mut exchange, chain, response).await
        }
        None => Local::new(Why::InternalError).respond(),
    };
    reply(exchange, response, None)
}

/// The response, ready but for its body.
async fn answer(
    exchange: &mut Exchange,
    chain: &FilterChain,
    mut request: Box<Request<Body>>,
) -> Response<Body> {
    let response = match admit_or_shed(exchange, &chain.config.http.options, &mut request) {
        Err(refusal) => refused(exchange, chain, refusal),
        Ok(upgrade) => match route(exchange, chain, (request, upgrade)).await {
            Ok(response) => response,
            // Rare, so that it does not add to the size of every request.
            Err(Outdated(admitted)) => return Box::pin(again(exchange, admitted)).await,
        },
    };
    leave(exchange, chain, response).await
}

/// The response to a request that begins again, with the present configuration.
async fn again(exchange: &mut Exchange, admitted: Admitted) -> Response<Body> {
    exchange.restart();
    let view = exchange.view.clone();
    let Some(chain) = view.chain() else { return Local::new(Why::InternalError).respond() };
    let response = match route(exchange, chain, admitted).await {
        Ok(response) => response,
        // It begins again only once.
        Err(Outdated(_)) => {
            let response = Local::new(Why::InternalError).respond();
            reply::local(exchange, None, Why::InternalError, response)
        }
    };
    leave(exchange, chain, response).await
}

/// The answer to a request that is not let in. What else the client sends on an HTTP/1 connection is
/// not believed either.
fn refused(
    exchange: &mut Exchange,
    chain: &FilterChain,
    refusal: guard::Refused,
) -> Response<Body> {
    exchange.note_route(chain, None);
    let (why, details, mut response) = reply::refused(refusal);
    if why == Why::Overloaded && chain.config.http.options.tells_overload {
        response.headers_mut().insert(LOCAL_OVERLOADED, HeaderValue::from_static("true"));
    }
    exchange.notes.details = details.map(Into::into);
    exchange.ends_connection = !matches!(why, Why::DirectResponse | Why::Overloaded);
    reply::local(exchange, None, why, response)
}

/// Runs the filters on the way out.
async fn leave(
    exchange: &mut Exchange,
    chain: &FilterChain,
    mut response: Response<Body>,
) -> Response<Body> {
    filters::on_response(exchange, chain, &mut response).await;
    let options = &chain.config.http.options;
    let id = options.edge.request_id_in_response.then(|| exchange.request_id()).flatten();
    edge::response(response.headers_mut(), &options.edge, &options.server, id);
    response
}

/// A request that was let in, and the protocol that it asks to upgrade to.
type Admitted = (Box<Request<Body>>, Option<HeaderValue>);

/// Lets a request in, unless there is too much to do: that is found out first, while it costs least.
fn admit_or_shed(
    exchange: &mut Exchange,
    options: &HttpOptions,
    request: &mut Request<Body>,
) -> Result<Option<HeaderValue>, guard::Refused> {
    if exchange.connection.sheds_request() {
        if request.body().is_empty() {
            exchange.request.complete();
        }
        return Err(Why::Overloaded.into());
    }
    admit(exchange, options, request)
}

/// Lets a request in: checked, canonical, with the headers of the edge. Gives the protocol that it asks
/// to upgrade to.
fn admit(
    exchange: &mut Exchange,
    options: &HttpOptions,
    request: &mut Request<Body>,
) -> Result<Option<HeaderValue>, guard::Refused> {
    let facts = &exchange.connection.facts;
    let asks = guard::request(request, options, facts.local.port());
    // What an upgrade leads to is a part of its request.
    let is_upgrade = asks.as_ref().is_ok_and(|asks| asks.upgrade.is_some());
    if request.body().is_empty() && !is_upgrade {
        exchange.request.complete_at(exchange.started);
    }
    let asks = asks?;
    for change in &options.edge.early_changes {
        change.apply(request.headers_mut(), Side::Request, &exchange.context());
    }
    let certificate = exchange.connection.certificate_element(options.edge.certificate_details);
    let peer = Peer {
        remote: facts.remote,
        is_tls: facts.is_tls,
        own_address: exchange.connection.worker().settings.own_address,
        local_port: facts.local.port(),
        certificate: certificate.as_ref(),
    };
    let origin = edge::request(request.headers_mut(), &options.edge, peer, fastrand::u128(..))?;
    exchange.note_request(request, origin);
    Ok(asks.upgrade)
}

/// A request that begins again: the configuration has changed under it.
struct Outdated(Admitted);

/// Finds the route, runs the filters, and does what the route says.
async fn route(
    exchange: &mut Exchange,
    chain: &FilterChain,
    (mut request, upgrade): Admitted,
) -> Result<Response<Body>, Outdated> {
    let random = fastrand::u64(..);
    let mut next = 0;
    let found = loop {
        exchange.scope = chain.scope(request.headers());
        let table = &chain.routing(exchange.scope).routes.table;
        if next == 0 && !exchange.origin.is_some_and(|origin| origin.is_internal) {
            for name in table.internal_only() {
                request.headers_mut().remove(name);
            }
        }
        let found = table.find(&view(exchange, &request, random));
        exchange.note_route(chain, found.as_ref().ok());
        let way = (found.as_ref().map_err(|error| *error), random);
        // As in Envoy before any filter, and whatever the route does.
        if next == 0
            && let (Some(protocol), Ok(found)) = (&upgrade, &found)
            && !is_allowed(protocol, found, &chain.config.http.options)
        {
            let local = Local::new(Why::UpgradeRefused);
            return Ok(answered(exchange, way, request, local.into()));
        }
        let reply = match filters::on_request(exchange, chain, way, (&mut request, next)).await {
            Ok(Passage::Through) => break found,
            Ok(Passage::Stale(slot)) => {
                next = slot;
                continue;
            }
            Ok(Passage::Again) => return Err(Outdated((request, upgrade))),
            Ok(Passage::Answered(reply)) => *reply,
            Err(local) => local.into(),
        };
        return Ok(answered(exchange, way, request, reply));
    };
    let way = (found.as_ref().map_err(|error| *error), random);
    if chain.config.http.filters.router.is_none() {
        let local = filters::nobody(exchange, chain).await;
        return Ok(answered(exchange, way, request, local.into()));
    }
    let found = match &found {
        Ok(found) => found,
        Err(not_found) => return Ok(no_route(exchange, *not_found, request)),
    };
    Ok(match &found.route.action {
        Action::Forward(forward) => {
            let is_upgrade = upgrade.is_some();
            let retry = forward.retry.as_deref();
            let routes = &*chain.routing(exchange.scope).routes;
            let plan = Plan { chain, routes, found, forward, is_upgrade, random, retry };
            forward::forward(exchange, plan, request).await
        }
        Action::Redirect(redirect) => {
            let response = redirect.respond(&view(exchange, &request, random), found.matched);
            direct(exchange, found, request, response.map(|()| Body::empty()))
        }
        Action::Direct(response) => direct(exchange, found, request, fixed(response)),
    })
}

/// A reply before the request went anywhere.
fn answered(
    exchange: &mut Exchange,
    (found, random): Way<'_>,
    request: Box<Request<Body>>,
    reply: Reply,
) -> Response<Body> {
    let taken = found.ok().and_then(|found| {
        let forward = filters::forwards(found)?;
        let view = selection::hash_view(exchange, &request);
        Some((found, selection::picked(forward, &view, random)))
    });
    exchange.headers = request.into_parts().0.headers;
    exchange.notes.details = reply.details;
    if reply.is_final {
        return reply::last(exchange, reply.why, reply.response);
    }
    reply::local(exchange, taken, reply.why, reply.response)
}

fn fixed(direct: &DirectResponse) -> Response<Body> {
    let mut response = Response::new(Body::full(direct.body.clone()));
    *response.status_mut() = direct.status;
    if let Some(kind) = &direct.content_type {
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    response
}

fn view<'a>(exchange: &'a Exchange, request: &'a Request<Body>, random: u64) -> RequestView<'a> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let is_https = exchange.origin.is_some_and(|origin| origin.is_https);
    RequestView {
        method: request.method(),
        host: host.unwrap_or_default(),
        path: path_of(request.uri()),
        headers: request.headers(),
        scheme: if is_https { "https" } else { "http" },
        random,
        is_client_known: exchange.connection.client().is_some(),
        metadata: Some(&exchange.notes.metadata),
    }
}

fn no_route(
    exchange: &mut Exchange,
    not_found: NotFound,
    request: Box<Request<Body>>,
) -> Response<Body> {
    let (why, response) = match not_found {
        NotFound::NoVirtualHost | NotFound::NoRoute => {
            (Why::NoRoute, Local::new(Why::NoRoute).respond())
        }
        NotFound::TlsRequired => {
            let response = not_found.respond(&view(exchange, &request, 0));
            (Why::DirectResponse, response.map(|()| Body::empty()))
        }
    };
    exchange.headers = request.into_parts().0.headers;
    reply::local(exchange, None, why, response)
}

/// A response that the route itself has, with the route's changes.
fn direct(
    exchange: &mut Exchange,
    found: &Found<'_>,
    request: Box<Request<Body>>,
    mut response: Response<Body>,
) -> Response<Body> {
    exchange.headers = request.into_parts().0.headers;
    let context = crate::format::Context {
        response_code: Some(response.status().as_u16()),
        ..exchange.context()
    };
    found.mutate_response(response.headers_mut(), None, &context);
    reply::local(exchange, None, Why::DirectResponse, response)
}

/// Whether route and listener allow an upgrade to `protocol`.
fn is_allowed(protocol: &HeaderValue, found: &Found<'_>, options: &HttpOptions) -> bool {
    let protocol = protocol.to_str().unwrap_or_default();
    let by_route = match &found.route.action {
        Action::Forward(forward) => forward.allows_upgrade(protocol),
        Action::Redirect(_) | Action::Direct(_) => None,
    };
    by_route.unwrap_or_else(|| {
        let mut upgrades = options.upgrades.iter();
        upgrades.any(|known| known.enabled && known.protocol.eq_ignore_ascii_case(protocol))
    })
}

/// Hands the response to the codec; the exchange ends with its body.
fn reply(
    mut exchange: Box<Exchange>,
    mut response: Response<Body>,
    stream: Option<&StreamWatch>,
) -> Response<ReplyBody> {
    // Envoy too waits for no rest of a request that is answered already.
    let ends = exchange.ends_connection || !exchange.is_request_complete();
    let is_http1 = exchange.version < Version::HTTP_2;
    if is_http1 && ends || exchange.connection.says_close(exchange.version) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    reply::fit_body(&mut response, &exchange.method);
    if response.body().is_empty() {
        exchange.response.complete();
    }
    // Who went away with half a request has no answer.
    if exchange.why != Some(Why::ClientClosed) {
        exchange.note_response(response.status(), response.headers());
    }
    // A connection of HTTP/2 has no flow of its own: its streams have.
    let flow = is_http1.then(|| Arc::clone(&exchange.connection.flow));
    let has_trailers = has_trailers(&exchange);
    response.map(|mut body| {
        if !has_trailers {
            body = body.without_trailers();
        }
        if let Some(stream) = stream
            && !body.is_empty()
        {
            stream.begin(Rc::clone(&exchange.response), body.deadlines());
        }
        ReplyBody { body: Outgoing::new(body, flow), exchange: Some(exchange), broken: None }
    })
}

/// Whether messages on the client's connection have trailers.
fn has_trailers(exchange: &Exchange) -> bool {
    let takes = |chain: &FilterChain| chain.config.http.options.http1.trailers;
    exchange.version >= Version::HTTP_2 || exchange.view.chain().is_some_and(takes)
}

/// Switches protocols: the exchange ends with the tunnel.
fn switch(
    mut exchange: Box<Exchange>,
    client: OnUpgrade,
    mut response: Response<Body>,
) -> Response<ReplyBody> {
    let Some(upstream) = response.extensions_mut().remove::<OnUpgrade>() else {
        let local = Local::new(Why::UpstreamProtocolError).respond();
        let local = reply::local(&mut exchange, None, Why::UpstreamProtocolError, local);
        return reply(exchange, local, None);
    };
    exchange.note_response(response.status(), response.headers());
    let (mut head, upstream_body) = response.into_parts();
    upgrade::answer(&mut head, exchange.version);
    let tunnel = Tunnel { client, upstream, upstream_body };
    if exchange.version < Version::HTTP_2 {
        exchange.connection.begin_tunnel();
    }
    let tasks = exchange.connection.worker().tasks.clone();
    tasks.spawn_local(tunnel.run(exchange));
    Response::from_parts(head, ReplyBody::done())
}

impl ReplyBody {
    /// Nothing, of an exchange that ends elsewhere.
    fn done() -> Self {
        Self { body: Outgoing::new(Body::empty(), None), exchange: None, broken: None }
    }

    fn is_http1(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.version < Version::HTTP_2)
    }
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(error) = this.broken.take() {
            this.exchange = None;
            return Poll::Ready(Some(Err(error)));
        }
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Err(error))) if this.is_http1() => {
                // The codec drops all at once; a turn later, what it was given is sent.
                this.broken = Some(error);
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            end @ Poll::Ready(None | Some(Err(_))) => {
                this.exchange = None;
                end
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
