//! Routes of all kinds, judged: what is valid in them, and where their requests go.

use xds_proto::envoy::config::route::v3::RouteMatch;

use crate::model::Model;
use crate::model::filter::HttpFilter;
use crate::model::grpcroute::GrpcRoute;
use crate::model::httproute::HttpRoute;
use crate::model::l4route::L4Route;
use crate::model::meta::Metadata;
use crate::model::route::{BackendRef, Parent};
use crate::model::rule::{Retry, Rule, SessionPersistence, Timeouts};
use crate::translate::backends::Destination;
use crate::translate::draft::ObjectRef;
use crate::translate::matches::{Matcher, Specificity};
use crate::translate::problem::Problem;
use crate::translate::references::Referrer;
use crate::translate::rules::refusal;

/// A kind of route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute.
    Grpc,
    /// TLSRoute.
    Tls,
    /// TCPRoute.
    Tcp,
}

impl RouteKind {
    /// The name of the kind.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }
}

/// A route, judged.
#[derive(Debug)]
pub(super) struct RoutePlan<'a> {
    /// Its kind.
    pub(super) kind: RouteKind,
    /// Its name and age.
    pub(super) metadata: &'a Metadata,
    /// What it attaches to.
    pub(super) parents: &'a [Parent],
    /// The hostnames that it answers for; none is all of the listener.
    pub(super) hostnames: &'a [String],
    /// Its rules.
    pub(super) rules: Vec<RulePlan<'a>>,
    /// References that lead nowhere.
    pub(super) dangling: Vec<Problem>,
}

/// A rule, judged.
#[derive(Debug)]
pub(super) struct RulePlan<'a> {
    /// Its name, or its place in the route.
    pub(super) name: String,
    /// What it says.
    pub(super) rule: RuleParts<'a>,
    /// The requests it is for.
    pub(super) matches: Vec<MatchPlan>,
    /// Where its requests go, or why it is invalid.
    pub(super) shares: Result<Vec<Share<'a>>, Problem>,
    /// Where copies of its requests go.
    pub(super) copies: Vec<Copies>,
}

/// What a rule of any kind says, but for its matches.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RuleParts<'a> {
    /// What is done to its requests.
    pub(super) filters: &'a [HttpFilter],
    /// The prefix that its only match is for, if that is so.
    pub(super) prefix: Option<&'a str>,
    /// How long they may take.
    pub(super) timeouts: Timeouts,
    /// When they are sent again.
    pub(super) retry: Option<&'a Retry>,
    /// What keeps a client at its backend.
    pub(super) session: Option<&'a SessionPersistence>,
}

/// A match of a rule as Envoy has it.
#[derive(Debug)]
pub(super) struct MatchPlan {
    /// Its place in the rule.
    pub(super) index: usize,
    /// What it is sorted by.
    pub(super) specificity: Specificity,
    /// The only method that it is for.
    pub(super) method: Option<String>,
    /// The match.
    pub(super) matcher: RouteMatch,
}

/// A share of the requests of a rule.
#[derive(Debug)]
pub(super) struct Share<'a> {
    /// Its weight.
    pub(super) weight: u32,
    /// Where it goes; none when the reference leads nowhere.
    pub(super) to: Option<Destination>,
    /// What is done to it.
    pub(super) filters: &'a [HttpFilter],
}

/// Copies of the requests of a rule.
#[derive(Debug)]
pub(super) struct Copies {
    /// Where they go.
    pub(super) to: Destination,
    /// How many of a million; none is all.
    pub(super) of_a_million: Option<u32>,
}

impl RoutePlan<'_> {
    /// The route.
    pub(super) fn object(&self) -> ObjectRef {
        ObjectRef::new(self.kind.name(), self.metadata.place())
    }

    /// What is wrong with its rules.
    pub(super) fn invalid(&self) -> Vec<&Problem> {
        self.rules.iter().filter_map(|rule| rule.shares.as_ref().err()).collect()
    }

    /// Whether it has rules, and none of them is valid.
    pub(super) fn is_all_invalid(&self) -> bool {
        !self.rules.is_empty() && self.rules.iter().all(|rule| rule.shares.is_err())
    }

    /// Everything that its requests may be sent to.
    pub(super) fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let shares = self.rules.iter().filter_map(|rule| rule.shares.as_ref().ok()).flatten();
        let copies = self.rules.iter().flat_map(|rule| &rule.copies).map(|copies| &copies.to);
        shares.filter_map(|share| share.to.as_ref()).chain(copies)
    }
}

/// Judges all routes.
pub(super) fn all(model: &Model) -> Vec<RoutePlan<'_>> {
    let http = model.http_routes.values().map(|route| plan_http(model, route));
    let grpc = model.grpc_routes.values().map(|route| plan_grpc(model, route));
    let tls = model.tls_routes.values().map(|route| plan_l4(model, RouteKind::Tls, route));
    let tcp = model.tcp_routes.values().map(|route| plan_l4(model, RouteKind::Tcp, route));
    http.chain(grpc).chain(tls).chain(tcp).collect()
}

fn plan_http<'a>(model: &'a Model, route: &'a HttpRoute) -> RoutePlan<'a> {
    let HttpRoute { metadata, spec } = route;
    let kind = RouteKind::Http;
    let (rules, dangling) = plan_rules(model, (kind, metadata), &spec.rules);
    let (parents, hostnames) = (&spec.parent_refs, &spec.hostnames);
    RoutePlan { kind, metadata, parents, hostnames, rules, dangling }
}

fn plan_grpc<'a>(model: &'a Model, route: &'a GrpcRoute) -> RoutePlan<'a> {
    let GrpcRoute { metadata, spec } = route;
    let kind = RouteKind::Grpc;
    let (rules, dangling) = plan_rules(model, (kind, metadata), &spec.rules);
    let (parents, hostnames) = (&spec.parent_refs, &spec.hostnames);
    RoutePlan { kind, metadata, parents, hostnames, rules, dangling }
}

fn plan_l4<'a>(model: &'a Model, kind: RouteKind, route: &'a L4Route) -> RoutePlan<'a> {
    let L4Route { metadata, spec } = route;
    let referrer = Referrer { model, kind: kind.name(), namespace: &metadata.namespace };
    let mut dangling = Vec::new();
    let rules = spec.rules.iter().enumerate().map(|(index, rule)| {
        let place = format!("spec.rules[{index}]");
        RulePlan {
            name: rule.name.clone().unwrap_or_else(|| index.to_string()),
            rule: RuleParts::default(),
            matches: Vec::new(),
            shares: Ok(shares(&rule.backend_refs, &place, referrer, &mut dangling)),
            copies: Vec::new(),
        }
    });
    let rules = rules.collect();
    let (parents, hostnames) = (&spec.parent_refs, &spec.hostnames);
    RoutePlan { kind, metadata, parents, hostnames, rules, dangling }
}

fn plan_rules<'a, M: Matcher>(
    model: &'a Model,
    (kind, metadata): (RouteKind, &'a Metadata),
    rules: &'a [Rule<M>],
) -> (Vec<RulePlan<'a>>, Vec<Problem>) {
    let referrer = Referrer { model, kind: kind.name(), namespace: &metadata.namespace };
    let mut dangling = Vec::new();
    let plan = |(index, rule): (usize, &'a Rule<M>)| {
        let place = format!("spec.rules[{index}]");
        let parts = RuleParts {
            filters: &rule.filters,
            prefix: M::only_prefix(&rule.matches),
            timeouts: rule.timeouts,
            retry: rule.retry.as_ref(),
            session: rule.session_persistence.as_ref(),
        };
        let mut copies = Vec::new();
        let shares = match refusal(rule, parts, &place) {
            Some(problem) => Err(problem),
            None => {
                copies = plan_copies(rule, &place, referrer, &mut dangling);
                Ok(shares(&rule.backend_refs, &place, referrer, &mut dangling))
            }
        };
        let matches = match rule.matches.as_slice() {
            [] => vec![M::default().plan(0)],
            matches => matches
                .iter()
                .enumerate()
                .filter(|(_, one)| one.bad_expression().is_none())
                .map(|(index, one)| one.plan(index))
                .collect(),
        };
        let name = rule.name.clone().unwrap_or_else(|| index.to_string());
        RulePlan { name, rule: parts, matches, shares, copies }
    };
    let rules = rules.iter().enumerate().map(plan).collect();
    (rules, dangling)
}

fn shares<'a>(
    references: &'a [BackendRef],
    place: &str,
    referrer: Referrer<'_>,
    dangling: &mut Vec<Problem>,
) -> Vec<Share<'a>> {
    let share = references.iter().enumerate().map(|(index, reference)| {
        let to = referrer.backend(reference, &format!("{place}.backendRefs[{index}]"));
        let to = to.map_err(|problem| dangling.push(problem)).ok();
        Share { weight: reference.weight, to, filters: &reference.filters }
    });
    share.collect()
}

/// Copies to what leads nowhere are left out.
fn plan_copies<M>(
    rule: &Rule<M>,
    place: &str,
    referrer: Referrer<'_>,
    dangling: &mut Vec<Problem>,
) -> Vec<Copies> {
    let mirrors = rule.filters.iter().enumerate().filter_map(|(index, filter)| match filter {
        HttpFilter::RequestMirror { mirror } => Some((index, mirror)),
        _ => None,
    });
    let copies = mirrors.filter_map(|(index, mirror)| {
        let field = format!("{place}.filters[{index}].requestMirror.backendRef");
        let to = referrer.backend(&mirror.backend_ref, &field);
        let to = to.map_err(|problem| dangling.push(problem)).ok()?;
        let of_a_million = match (mirror.percent, mirror.fraction) {
            (Some(percent), _) => Some(percent * 10_000),
            (None, Some(fraction)) => {
                let (part, all) = (u64::from(fraction.numerator), u64::from(fraction.denominator));
                let rounded = (part * 1_000_000 + all / 2) / all.max(1);
                Some(u32::try_from(rounded).unwrap_or(1_000_000))
            }
            (None, None) => None,
        };
        Some(Copies { to, of_a_million })
    });
    copies.collect()
}
