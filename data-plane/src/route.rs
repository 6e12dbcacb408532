//! From a request to its route: virtual host, then first match, as Envoy's `RouteConfiguration` says.

pub mod action;
mod change;
pub mod condition;
pub(crate) mod host;
pub(crate) mod index;
pub mod linked;
pub mod mirror;
pub mod redirect;
pub mod rewrite;
mod tree;
pub mod virtual_host;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method, Response, StatusCode};

use self::action::{Action, WeightedCluster};
use self::host::{DomainError, HostIndex};
use self::virtual_host::{Route, VirtualHost};
use crate::chain::overrides::{FilterSet, OverrideTable};
use crate::filtering::rate_limit::RouteRateLimits;
use crate::format::mutation::HeaderMutations;
use crate::matcher::header::HeaderView;
use crate::metadata::Metadata;

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
    /// Whether the client showed a certificate. Then it was a good one: no other is let in.
    pub is_client_known: bool,
    /// What filters left.
    pub metadata: Option<&'a Metadata>,
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
///
/// Each virtual host is a table of its own, shared by the tables before and after it that have the
/// same.
#[derive(Debug)]
pub struct RouteTable {
    pub(crate) frame: Arc<Frame>,
    virtual_hosts: Box<[Arc<VirtualHost>]>,
    hosts: Arc<HostIndex>,
}

/// What a route table says beside its virtual hosts.
#[derive(Debug, Default)]
pub struct Frame {
    pub(crate) name: Arc<str>,
    /// Whether other virtual hosts may come by themselves (`vhds`).
    pub(crate) has_discovered_hosts: bool,
    /// What it says of filters, in the second set where it says something.
    pub(crate) overrides: OverrideTable,
    pub(crate) mutations: Mutations,
    /// Headers that only requests from inside may have (`internal_only_headers`).
    pub internal_only: Box<[HeaderName]>,
    pub(crate) ignore_port: bool,
    pub(crate) ignore_path_parameters: bool,
    /// Whether the most specific level is applied last, and so wins.
    pub(crate) most_specific_wins: bool,
}

/// A domain that cannot be where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrongDomain {
    /// The number of the virtual host.
    pub(crate) host: usize,
    /// The number of the domain.
    pub(crate) domain: usize,
    pub(crate) text: Box<str>,
    pub(crate) error: DomainError,
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
    /// The number of the virtual host in the table.
    pub host: HostNumber,
    /// The place of the route in those of the virtual host.
    pub place: u32,
    /// The route.
    pub route: &'a Route,
    /// How many bytes of the path the route matched, for rewrites and redirects.
    pub matched: usize,
}

/// A place in [`RouteTable::virtual_hosts`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostNumber(pub(crate) u32);

impl HostNumber {
    /// The place.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl RouteTable {
    /// A table of these virtual hosts. What did not change since `previous` is shared with it.
    pub(crate) fn new(
        frame: Arc<Frame>,
        virtual_hosts: Vec<Arc<VirtualHost>>,
        previous: Option<&Self>,
    ) -> Result<Self, WrongDomain> {
        let is_same = |previous: &&Self| {
            let pairs = previous.virtual_hosts.iter().zip(&virtual_hosts);
            previous.virtual_hosts.len() == virtual_hosts.len()
                && pairs.into_iter().all(|(before, after)| before.domains == after.domains)
        };
        let hosts = match previous.filter(is_same) {
            Some(previous) => Arc::clone(&previous.hosts),
            None => Arc::new(HostIndex::new(&virtual_hosts)?),
        };
        Ok(Self { frame, virtual_hosts: virtual_hosts.into(), hosts })
    }

    /// A table without anything.
    pub(crate) fn empty() -> Self {
        Self { frame: Arc::default(), virtual_hosts: [].into(), hosts: Arc::default() }
    }

    /// A table without a route, for who only needs clusters.
    pub(crate) fn of_clusters(clusters: impl IntoIterator<Item = String>) -> Self {
        let clusters = clusters.into_iter().map(Into::into).collect();
        let host = VirtualHost { clusters, ..VirtualHost::new("".into(), Vec::new()) };
        let (virtual_hosts, hosts) = ([Arc::new(host)].into(), Arc::default());
        Self { frame: Arc::default(), virtual_hosts, hosts }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.frame.name
    }

    /// The clusters that its virtual hosts name, once for each that does.
    pub fn cluster_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.virtual_hosts.iter().flat_map(|host| &*host.clusters)
    }

    /// Headers that only requests from inside may have.
    pub fn internal_only(&self) -> &[HeaderName] {
        &self.frame.internal_only
    }

    /// Its virtual hosts, in order.
    pub fn virtual_hosts(&self) -> &[Arc<VirtualHost>] {
        &self.virtual_hosts
    }

    /// The route of a request. Allocates nothing.
    ///
    /// # Errors
    /// When there is none, and why.
    pub fn find(&self, request: &RequestView<'_>) -> Result<Found<'_>, NotFound> {
        let number = self.hosts.find(self.host(request.host)).ok_or(NotFound::NoVirtualHost)?;
        let virtual_host =
            self.virtual_hosts.get(number as usize).ok_or(NotFound::NoVirtualHost)?;
        if virtual_host.require_tls.holds(request) {
            return Err(NotFound::TlsRequired);
        }
        let path = self.path(request.path);
        let (place, route) = virtual_host.find(path, request).ok_or(NotFound::NoRoute)?;
        let matched = route.condition.path.matched(path);
        let host = HostNumber(number);
        Ok(Found { table: self, virtual_host, host, place, route, matched })
    }

    /// A host as its domains have it: without the port, where the table says so.
    pub fn host<'h>(&self, host: &'h str) -> &'h str {
        match host::port_start(host) {
            Some(port) if self.frame.ignore_port => &host[..port],
            _ => host,
        }
    }

    /// Whether there is a virtual host for this host.
    pub fn has_host(&self, host: &str) -> bool {
        self.hosts.find(self.host(host)).is_some()
    }

    /// Whether other virtual hosts may come by themselves (`vhds`).
    pub fn has_discovered_hosts(&self) -> bool {
        self.frame.has_discovered_hosts
    }

    /// The part of the path that routes match on.
    fn path<'p>(&self, path: &'p str) -> &'p str {
        let path = &path[..rewrite::path_end(path)];
        match path.find(';') {
            Some(at) if self.frame.ignore_path_parameters => &path[..at],
            _ => path,
        }
    }
}

impl<'a> Found<'a> {
    /// What is said of filters for a request that goes to the cluster picked of several, if it does.
    pub(crate) fn filters(&self, picked: Option<&WeightedCluster>) -> FilterSet {
        picked.map_or(self.route.filters, |picked| picked.filters)
    }

    /// How the request is counted.
    pub(crate) fn rate_limits(&self) -> RouteRateLimits<'a> {
        let virtual_host = &*self.virtual_host.rate_limits;
        match &self.route.action {
            Action::Forward(forward) => RouteRateLimits {
                route: &forward.rate_limits,
                virtual_host,
                includes_virtual_host: forward.includes_virtual_host_rate_limits,
            },
            Action::Redirect(_) | Action::Direct(_) => {
                RouteRateLimits { virtual_host, ..RouteRateLimits::default() }
            }
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::LazyLock;

    use http::HeaderName;
    use proptest::prelude::*;

    use super::action::DirectResponse;
    use super::condition::{Condition, OtherConditions, PathCondition, PathKind};
    use super::virtual_host::RequireTls;
    use super::*;
    use crate::matcher::header::{HeaderMatcher, HeaderTest, MatchedName};
    use crate::matcher::query::{QueryMatcher, QueryTest};
    use crate::matcher::regex::{Regex, literal_prefix};
    use crate::matcher::{Pattern, StringMatcher};

    /// A route as Envoy's words have it, from which the compiled one and the reference are made.
    #[derive(Debug, Clone)]
    struct Plan {
        kind: u8,
        text: String,
        case_sensitive: bool,
        header: Option<(String, bool)>,
        query: Option<String>,
        millionths: Option<u32>,
    }

    const EXACT: u8 = 0;
    const PREFIX: u8 = 1;
    const SEPARATED: u8 = 2;

    /// Few letters and short paths, so that routes overlap.
    const PATH: &str = "(/[aAb]{0,2}){0,3}";

    const REGEXES: [&str; 9] = [
        "/[ab]+",
        "/a?/b",
        "/aa*/?",
        "/a/(b|B).*",
        "/a|/b/a",
        "(?i)/a.*",
        "^/b{0,1}$",
        "/aab?",
        ".*b",
    ];

    /// The same, compiled once: as the reference uses them, and as routes do.
    static COMPILED: LazyLock<HashMap<&str, (::regex::Regex, Regex)>> = LazyLock::new(|| {
        let reference = |text| ::regex::Regex::new(&format!("^(?:{text})$")).unwrap();
        let both = |text| (reference(text), Regex::compile(text).unwrap());
        REGEXES.iter().map(|text| (*text, both(text))).collect()
    });

    fn plan() -> impl Strategy<Value = Plan> {
        let regex = proptest::sample::select(&REGEXES);
        let path = (0..4_u8, PATH, regex).prop_map(|(kind, text, regex)| {
            let text = if kind > SEPARATED { regex.to_owned() } else { text };
            (kind, text)
        });
        let header = proptest::option::weighted(0.3, ("[12]", any::<bool>()));
        let query = proptest::option::weighted(0.2, "[12]");
        let millionths = proptest::option::weighted(0.1, 0..1_000_000_u32);
        (path, any::<bool>(), header, query, millionths).prop_map(
            |((kind, text), case_sensitive, header, query, millionths)| Plan {
                kind,
                text,
                case_sensitive,
                header,
                query,
                millionths,
            },
        )
    }

    fn exact(text: &str) -> StringMatcher {
        StringMatcher::new(Pattern::Exact(text.into()), false)
    }

    fn compiled(number: usize, plan: &Plan) -> Route {
        let (kind, text, case_sensitive) = match plan.kind {
            EXACT => (PathKind::Exact, plan.text.clone(), plan.case_sensitive),
            PREFIX => (PathKind::Prefix, plan.text.clone(), plan.case_sensitive),
            SEPARATED => (PathKind::SeparatedPrefix, plan.text.clone(), plan.case_sensitive),
            _ => {
                let regex = COMPILED[plan.text.as_str()].1.clone();
                (PathKind::Regex(regex), literal_prefix(&plan.text).to_owned(), true)
            }
        };
        let text = if case_sensitive { text } else { text.to_ascii_lowercase() };
        let header = plan.header.as_ref().map(|(value, invert)| {
            let name = MatchedName::parse("x").unwrap();
            HeaderMatcher::new(name, HeaderTest::Text(exact(value)), *invert, false)
        });
        let query =
            plan.query.as_ref().map(|value| QueryMatcher::new("q", QueryTest::Text(exact(value))));
        let rest = OtherConditions {
            headers: header.into_iter().collect(),
            query: query.into_iter().collect(),
            millionths: plan.millionths,
            ..OtherConditions::default()
        };
        Route {
            name: number.to_string().into(),
            action: Action::Direct(Box::new(DirectResponse {
                status: StatusCode::OK,
                body: bytes::Bytes::new(),
                content_type: None,
            })),
            condition: Condition {
                path: PathCondition { kind, text: text.into(), case_sensitive },
                rest: (!rest.is_empty()).then(|| Box::new(rest)),
            },
            mutations: Mutations::default(),
            filters: FilterSet::default(),
        }
    }

    /// What Envoy does: each route in order, each condition in full.
    fn is_match(
        plan: &Plan,
        path: &str,
        header: Option<&str>,
        query: Option<&str>,
        random: u64,
    ) -> bool {
        let fold = |text: &str| {
            if plan.case_sensitive { text.to_owned() } else { text.to_ascii_lowercase() }
        };
        let (folded, text) = (fold(path), fold(&plan.text));
        let path_holds = match plan.kind {
            EXACT => folded == text,
            PREFIX => folded.starts_with(&text),
            SEPARATED => folded
                .strip_prefix(&text)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            _ => COMPILED[plan.text.as_str()].0.is_match(path),
        };
        let header_holds = match (&plan.header, header) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((want, invert)), Some(value)) => (want == value) != *invert,
        };
        path_holds
            && header_holds
            && plan.query.as_deref().is_none_or(|want| query == Some(want))
            && plan.millionths.is_none_or(|part| random % 1_000_000 < u64::from(part))
    }

    fn table(routes: Vec<Route>) -> RouteTable {
        table_of(VirtualHost::new("v".into(), routes), Frame::default())
    }

    fn table_of(host: VirtualHost, frame: Frame) -> RouteTable {
        let host = VirtualHost { domains: ["*".into()].into(), ..host };
        RouteTable::new(Arc::new(frame), vec![Arc::new(host)], None).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_index_finds_the_first_match(
            plans in proptest::collection::vec(plan(), 0..24),
            requests in proptest::collection::vec(
                (
                    PATH,
                    proptest::option::of("[123]"),
                    proptest::option::of("[12]"),
                    any::<u64>(),
                ),
                1..12,
            ),
        ) {
            let table =
                table(plans.iter().enumerate().map(|(n, plan)| compiled(n, plan)).collect());
            for (path, header, query, random) in requests {
                let headers: HeaderMap = header
                    .iter()
                    .map(|value| (HeaderName::from_static("x"), value.parse().unwrap()))
                    .collect();
                let whole = query
                    .as_ref()
                    .map_or_else(|| path.clone(), |query| format!("{path}?q={query}"));
                let found = table.find(&RequestView {
                    method: &Method::GET,
                    host: "h",
                    path: &whole,
                    headers: &headers,
                    scheme: "http",
                    random, is_client_known: false, metadata: None
                });
                let want = plans.iter().position(|plan| {
                    is_match(plan, &path, header.as_deref(), query.as_deref(), random)
                });
                let got = found.ok().map(|found| found.route.name.parse::<usize>().unwrap());
                prop_assert_eq!(got, want, "{} {:?}", whole, headers);
            }
        }
    }

    fn ask<'a>(table: &'a RouteTable, path: &str) -> Result<Found<'a>, NotFound> {
        table.find(&RequestView {
            method: &Method::GET,
            host: "h",
            path,
            headers: &HeaderMap::new(),
            scheme: "http",
            random: 0,
            is_client_known: false,
            metadata: None,
        })
    }

    #[test]
    fn path_parameters_are_left_out_when_asked_for() {
        let plan = Plan {
            kind: EXACT,
            text: "/a".into(),
            case_sensitive: true,
            header: None,
            query: None,
            millionths: None,
        };
        let table = |ignore_path_parameters| {
            let host = VirtualHost::new("v".into(), vec![compiled(0, &plan)]);
            table_of(host, Frame { ignore_path_parameters, ..Frame::default() })
        };
        assert_eq!(ask(&table(false), "/a;v=1").err(), Some(NotFound::NoRoute));
        assert!(ask(&table(true), "/a;v=1?q").is_ok());
    }

    #[test]
    fn a_virtual_host_may_require_https() {
        let (internal, https) = (("x-envoy-internal", "true"), ("x-forwarded-proto", "https"));
        for (require, line, redirects) in [
            (RequireTls::All, internal, true),
            (RequireTls::All, https, false),
            (RequireTls::ExternalOnly, internal, false),
            (RequireTls::ExternalOnly, ("x", ""), true),
            (RequireTls::None, ("x", ""), false),
        ] {
            let host = VirtualHost::new("v".into(), Vec::new());
            let host = VirtualHost { require_tls: require, ..host };
            let table = table_of(host, Frame::default());
            let headers: HeaderMap =
                [(HeaderName::from_static(line.0), line.1.parse().unwrap())].into_iter().collect();
            let view = RequestView {
                method: &Method::GET,
                host: "h:80",
                path: "/x?y",
                headers: &headers,
                scheme: "http",
                random: 0,
                is_client_known: false,
                metadata: None,
            };
            let error = table.find(&view).err().unwrap();
            let want = if redirects { NotFound::TlsRequired } else { NotFound::NoRoute };
            assert_eq!(error, want, "{require:?} {line:?}");
            let response = error.respond(&view);
            let location = response.headers().get("location").and_then(|to| to.to_str().ok());
            assert_eq!(location, redirects.then_some("https://h:80/x?y"));
        }
    }
}
