//! What a filter sees beside the message itself, and where it leaves things for later.

use std::any::Any;
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

use http::header::HOST;
use http::{Request, StatusCode};

use super::Reply;
use super::keep::ConnectionStates;
use super::on_demand::MissingHost;
use super::rate_limit::RouteRateLimits;
use crate::body::Body;
use crate::cluster::pool::Pools;
use crate::format::{Context, Flags};
use crate::matcher::header::HeaderView;
use crate::metadata::Metadata;
use crate::tls::identity::Identity;

/// What a filter sees of a request beside the request itself.
#[derive(Debug)]
pub struct Stage<'a> {
    /// Addresses, TLS, route and cluster, without what filters left.
    pub facts: Context<'a>,
    /// The certificate that the client showed and that was found good.
    pub client: Option<&'a Identity>,
    /// Whether the route sends requests to a cluster; else it answers by itself, or there is none.
    pub is_forwarded: bool,
    /// How requests of the route are counted.
    pub rate_limits: RouteRateLimits<'a>,
    /// The proxy itself.
    pub proxy: Proxy<'a>,
    /// The virtual host of the request, where it is not there but may come.
    pub missing_host: Option<MissingHost<'a>>,
    /// What filters keep for the connection.
    pub connection: &'a ConnectionStates,
    /// What filters leave for later.
    pub notes: &'a mut Notes,
    /// Which filter of the chain looks.
    pub(crate) slot: usize,
}

/// What filters see of the proxy, and do through it.
#[derive(Debug, Clone, Copy)]
pub struct Proxy<'a> {
    /// Connections to endpoints.
    pub pools: &'a Pools,
    /// The id of the node.
    pub node: &'a str,
    /// The cluster that the node belongs to.
    pub node_cluster: &'a str,
    /// Whether it is about to end.
    pub is_draining: bool,
}

/// What filters leave for later: for the way out, for one another, for the router and the log.
#[derive(Default)]
pub struct Notes {
    memory: Vec<(Owner, Box<dyn Any>)>,
    /// Values for other filters and for format strings.
    pub metadata: Metadata,
    /// What `%RESPONSE_CODE_DETAILS%` says, where the reply of a filter said it.
    pub(crate) details: Option<Cow<'static, str>>,
    /// The reply of a filter that broke off the body of the request.
    objection: Option<Objection>,
    /// Envoy's flags of what filters did, beside that of a reply.
    pub flags: Vec<&'static str>,
    /// The route is to be looked for once more: what it depends on has changed.
    pub is_route_stale: bool,
    /// The request begins again: the present configuration has what it waited for.
    pub begins_again: bool,
    /// The request is a health check of the proxy.
    pub is_health_check: bool,
    /// The endpoint that the request should go to.
    pub destination: Option<Destination>,
}

/// How the body of a request, as a filter reads it, can end the request with a reply. The body then
/// ends with an error, and the reply is sent if no response has begun.
#[derive(Debug, Clone, Default)]
pub struct Objection(Rc<RefCell<Option<Box<Reply>>>>);

impl Objection {
    /// Has the request end with this reply.
    pub fn raise(&self, reply: Reply) {
        *self.0.borrow_mut() = Some(Box::new(reply));
    }
}

/// An endpoint that a filter asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// Its address; none where what asks for it names none.
    pub address: Option<SocketAddr>,
    /// The answer where it is not there; none lets the balancer choose another.
    pub else_status: Option<StatusCode>,
}

/// Whose memory: one filter's, or everyone's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Slot(usize),
    All,
}

impl fmt::Debug for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notes")
            .field("metadata", &self.metadata)
            .field("details", &self.details)
            .field("flags", &self.flags)
            .field("is_route_stale", &self.is_route_stale)
            .field("begins_again", &self.begins_again)
            .field("is_health_check", &self.is_health_check)
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}

impl Notes {
    /// The reply of a filter that broke off the body of the request, if one did.
    pub(crate) fn objection(&self) -> Option<Box<Reply>> {
        self.objection.as_ref()?.0.borrow_mut().take()
    }

    fn find<T: 'static>(&mut self, owner: Owner) -> Option<&mut T> {
        let owned = self.memory.iter_mut().filter(|(of, _)| *of == owner);
        owned.filter_map(|(_, note)| note.downcast_mut()).next()
    }
}

impl Stage<'_> {
    /// What format strings read; the headers of the message that changes are not among it.
    pub fn context(&self) -> Context<'_> {
        let flags = Flags { noted: &self.notes.flags, ..self.facts.flags };
        let details = self.notes.details.as_deref().unwrap_or(self.facts.details);
        Context { flags, details, metadata: Some(&self.notes.metadata), ..self.facts }
    }

    /// Leaves something for the same filter's way out. Costs an allocation.
    pub fn remember<T: 'static>(&mut self, note: T) {
        self.notes.memory.push((Owner::Slot(self.slot), Box::new(note)));
    }

    /// What the same filter left on the way in.
    pub fn recall<T: 'static>(&mut self) -> Option<&mut T> {
        self.notes.find(Owner::Slot(self.slot))
    }

    /// What all filters of one kind share during a request.
    pub fn share<T: Default + 'static>(&mut self, change: impl FnOnce(&mut T)) {
        if self.notes.find::<T>(Owner::All).is_none() {
            self.notes.memory.push((Owner::All, Box::<T>::default()));
        }
        if let Some(shared) = self.notes.find(Owner::All) {
            change(shared);
        }
    }

    /// What all filters of one kind share, where one of them left it.
    pub fn shared<T: 'static>(&mut self) -> Option<&mut T> {
        self.notes.find(Owner::All)
    }

    /// For a body that may end the request with a reply. Costs an allocation.
    pub fn objection(&mut self) -> Objection {
        self.notes.objection.get_or_insert_default().clone()
    }

    /// Which filter of the chain looks: filters of one kind can tell themselves apart by it.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// The headers of the request, for matchers.
    pub fn view<'r>(&'r self, request: &'r Request<Body>) -> HeaderView<'r> {
        HeaderView {
            method: Some(request.method()),
            path: Some(path(request)),
            host: request.headers().get(HOST).and_then(|host| host.to_str().ok()),
            scheme: Some(self.facts.scheme),
            headers: request.headers(),
        }
    }
}

/// The path and query of a request.
pub fn path<B>(request: &Request<B>) -> &str {
    request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
}

#[cfg(test)]
pub(crate) mod testing {
    use tokio_util::task::TaskTracker;

    use super::*;

    /// All that a stage borrows.
    #[derive(Debug)]
    pub(crate) struct Scene {
        pub(crate) pools: Pools,
        pub(crate) connection: ConnectionStates,
        pub(crate) notes: Notes,
        pub(crate) client: Option<Identity>,
        pub(crate) facts: Context<'static>,
        pub(crate) is_draining: bool,
        pub(crate) is_forwarded: bool,
        pub(crate) rate_limits: RouteRateLimits<'static>,
    }

    impl Default for Scene {
        fn default() -> Self {
            Self {
                pools: Pools::new(TaskTracker::new()),
                connection: ConnectionStates::default(),
                notes: Notes::default(),
                client: None,
                facts: Context { scheme: "http", ..Context::default() },
                is_draining: false,
                is_forwarded: true,
                rate_limits: RouteRateLimits::default(),
            }
        }
    }

    impl Scene {
        /// The stage of the first filter.
        pub(crate) fn stage(&mut self) -> Stage<'_> {
            self.stage_of(0)
        }

        /// The stage of the filter at this place.
        pub(crate) fn stage_of(&mut self, slot: usize) -> Stage<'_> {
            Stage {
                facts: self.facts,
                client: self.client.as_ref(),
                is_forwarded: self.is_forwarded,
                rate_limits: self.rate_limits,
                proxy: Proxy {
                    pools: &self.pools,
                    node: "node",
                    node_cluster: "edge",
                    is_draining: self.is_draining,
                },
                missing_host: None,
                connection: &self.connection,
                notes: &mut self.notes,
                slot,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Scene;

    #[test]
    fn each_filter_has_its_own_memory_and_kinds_share_one() {
        let mut scene = Scene::default();
        scene.stage_of(0).remember(1_u32);
        scene.stage_of(1).remember(2_u32);
        scene.stage_of(0).share(|seen: &mut Vec<u32>| seen.push(7));
        scene.stage_of(1).share(|seen: &mut Vec<u32>| seen.push(8));
        assert_eq!(scene.stage_of(0).recall::<u32>(), Some(&mut 1));
        assert_eq!(scene.stage_of(1).recall::<u32>(), Some(&mut 2));
        assert_eq!(scene.stage_of(2).recall::<u32>(), None);
        assert_eq!(scene.stage_of(2).shared::<Vec<u32>>(), Some(&mut vec![7, 8]));
        assert_eq!(scene.stage_of(2).shared::<Vec<u64>>(), None);
    }
}
