//! What of a request is counted against a limit: descriptors, made by the actions of a route.

mod compile;

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderName;

pub(crate) use self::compile::compile;
use super::stage::Stage;
use crate::format::{Context, Template};
use crate::matcher::cidr::Cidr;
use crate::matcher::header::{HeaderMatcher, HeaderView};
use crate::matcher::query::{QueryMatcher, parameters};
use crate::metadata::Metadata;

/// How the requests of a route are counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouteRateLimits<'a> {
    /// What the route says.
    pub route: &'a [RateLimit],
    /// What its virtual host says.
    pub virtual_host: &'a [RateLimit],
    /// Whether what the virtual host says counts beside what the route says.
    pub includes_virtual_host: bool,
}

/// One way to count (`envoy.config.route.v3.RateLimit`): a descriptor of one entry an action.
#[derive(Debug, Clone)]
pub struct RateLimit {
    /// Which filter it is for.
    pub stage: u32,
    actions: Box<[Action]>,
    hits: Option<Hits>,
}

/// For how many requests one counts (`hits_addend`).
#[derive(Debug, Clone)]
enum Hits {
    Fixed(u64),
    /// As the request says; a descriptor without a number is none.
    Told(Template),
}

/// A request counts for no more.
const HITS_MAX: u64 = 1_000_000_000;

/// What makes an entry.
#[derive(Debug, Clone)]
enum Action {
    SourceCluster { key: Arc<str> },
    DestinationCluster { key: Arc<str> },
    Header { name: Name, key: Arc<str>, skips_absent: bool },
    Query { name: Box<str>, key: Arc<str>, skips_absent: bool },
    RemoteAddress { key: Arc<str> },
    MaskedRemoteAddress { key: Arc<str>, v4: u8, v6: u8 },
    Text { key: Arc<str>, value: Value },
    HeaderMatch { key: Arc<str>, value: Value, expects: bool, matchers: Box<[HeaderMatcher]> },
    QueryMatch { key: Arc<str>, value: Value, expects: bool, matchers: Box<[QueryMatcher]> },
    AddressMatch { key: Arc<str>, value: Value, ranges: Box<[Cidr]>, inverts: bool },
    Metadata(FromMetadata),
}

/// A value that filters left.
#[derive(Debug, Clone)]
struct FromMetadata {
    key: Arc<str>,
    namespace: Box<str>,
    path: Box<[Box<str>]>,
    default: Option<Box<str>>,
    skips_absent: bool,
}

/// A text, with another for when it turns out empty.
#[derive(Debug, Clone)]
struct Value {
    template: Template,
    default: Box<str>,
}

/// A header or pseudo-header.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Method,
    Path,
    Authority,
    Scheme,
    Header(HeaderName),
}

/// What is counted: `key` and `value` pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The pairs, in order.
    pub entries: Vec<Entry>,
    /// For how many requests this one counts; none where that is not said.
    pub hits: Option<u64>,
}

/// A pair of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// What it is.
    pub key: Arc<str>,
    /// What it is in this request.
    pub value: String,
}

/// What the actions read of a request.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Its headers.
    pub view: HeaderView<'a>,
    /// Its client and cluster.
    pub context: Context<'a>,
    /// The cluster of this node.
    pub node_cluster: &'a str,
    /// What filters left.
    pub metadata: &'a Metadata,
}

impl<'a> Facts<'a> {
    /// What is known on this stage.
    pub fn new(view: HeaderView<'a>, stage: &'a Stage<'_>) -> Self {
        let context = Context { request_headers: Some(view.headers), ..stage.context() };
        let node_cluster = stage.proxy.node_cluster;
        Self { view, context, node_cluster, metadata: &stage.notes.metadata }
    }
}

/// The descriptors of a request, of the rules that are for this stage. A rule whose actions do not
/// all apply makes none.
pub fn describe(rules: &[RateLimit], stage: u32, facts: &Facts<'_>, out: &mut Vec<Descriptor>) {
    for rule in rules.iter().filter(|rule| rule.stage == stage) {
        let mut entries = Vec::with_capacity(rule.actions.len());
        if !rule.actions.iter().all(|action| action.apply(facts, &mut entries)) {
            continue;
        }
        match rule.hits.as_ref().map(|hits| hits.number(facts)) {
            None => out.push(Descriptor { entries, hits: None }),
            Some(Some(hits)) => out.push(Descriptor { entries, hits: Some(hits) }),
            Some(None) => {}
        }
    }
}

impl Hits {
    fn number(&self, facts: &Facts<'_>) -> Option<u64> {
        match self {
            Self::Fixed(number) => Some(*number),
            Self::Told(template) => {
                let mut text = String::new();
                template.render(&facts.context, &mut text);
                text.parse().ok().filter(|number| *number <= HITS_MAX)
            }
        }
    }
}

impl Action {
    /// Adds its entry. Whether the descriptor may still come about.
    fn apply(&self, facts: &Facts<'_>, out: &mut Vec<Entry>) -> bool {
        let mut push = |key: &Arc<str>, value: String| {
            out.push(Entry { key: Arc::clone(key), value });
            true
        };
        match self {
            Self::SourceCluster { key } => push(key, facts.node_cluster.to_owned()),
            Self::DestinationCluster { key } => push(key, facts.context.cluster.to_owned()),
            Self::Header { name, key, skips_absent } => match name.value(&facts.view) {
                Some(value) => push(key, value),
                None => *skips_absent,
            },
            Self::Query { name, key, skips_absent } => {
                let query = query(facts.view.path);
                match parameters(query).find(|(known, _)| **known == **name) {
                    Some((_, value)) => push(key, value.to_owned()),
                    None => *skips_absent,
                }
            }
            Self::RemoteAddress { key } => {
                facts.remote().is_some_and(|remote| push(key, remote.to_string()))
            }
            Self::MaskedRemoteAddress { key, v4, v6 } => {
                facts.remote().is_some_and(|remote| push(key, masked(remote, *v4, *v6)))
            }
            Self::Text { key, value } => value.render(facts).is_some_and(|text| push(key, text)),
            Self::HeaderMatch { key, value, expects, matchers } => {
                let holds = matchers.iter().all(|matcher| matcher.matches(&facts.view));
                holds == *expects && value.render(facts).is_some_and(|text| push(key, text))
            }
            Self::QueryMatch { key, value, expects, matchers } => {
                let query = query(facts.view.path);
                let holds = matchers.iter().all(|matcher| matcher.matches(query));
                holds == *expects && value.render(facts).is_some_and(|text| push(key, text))
            }
            Self::AddressMatch { key, value, ranges, inverts } => {
                let holds = facts
                    .remote()
                    .is_some_and(|remote| ranges.iter().any(|range| range.contains(remote)));
                holds != *inverts && value.render(facts).is_some_and(|text| push(key, text))
            }
            Self::Metadata(from) => match from.value(facts.metadata) {
                Some(value) => push(&from.key, value),
                None => from.skips_absent,
            },
        }
    }
}

impl Facts<'_> {
    fn remote(&self) -> Option<IpAddr> {
        self.context.remote.map(|remote| remote.ip().to_canonical())
    }
}

impl Value {
    /// The text, or its default; none where both are empty.
    fn render(&self, facts: &Facts<'_>) -> Option<String> {
        let mut text = String::new();
        self.template.render(&facts.context, &mut text);
        if text.is_empty() {
            text.push_str(&self.default);
        }
        (!text.is_empty()).then_some(text)
    }
}

impl FromMetadata {
    fn value(&self, metadata: &Metadata) -> Option<String> {
        let value = metadata.value(&self.namespace, &self.path).and_then(|value| value.as_str());
        value.or(self.default.as_deref()).filter(|value| !value.is_empty()).map(str::to_owned)
    }
}

impl Name {
    /// The value, several lines joined; none where there is none.
    fn value(&self, view: &HeaderView<'_>) -> Option<String> {
        match self {
            Self::Method => view.method.map(ToString::to_string),
            Self::Path => view.path.map(str::to_owned),
            Self::Authority => view.host.map(str::to_owned),
            Self::Scheme => view.scheme.map(str::to_owned),
            Self::Header(name) => {
                let mut lines = view.headers.get_all(name).iter();
                let mut joined = lines.next()?.to_str().ok()?.to_owned();
                for line in lines {
                    joined.push(',');
                    joined.push_str(line.to_str().ok()?);
                }
                Some(joined)
            }
        }
    }
}

fn query(path: Option<&str>) -> &str {
    path.and_then(|path| path.split_once('?')).map_or("", |(_, query)| query)
}

/// The network of an address, as `address/bits`.
fn masked(address: IpAddr, v4: u8, v6: u8) -> String {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(v4)).unwrap_or(0);
            format!("{}/{v4}", std::net::Ipv4Addr::from(u32::from(address) & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6)).unwrap_or(0);
            format!("{}/{v6}", std::net::Ipv6Addr::from(u128::from(address) & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::body::Body;
    use crate::filtering::stage::testing::Scene;

    fn described(actions: &str) -> Option<String> {
        let message = xds_proto::json::from_yaml(&format!("{{actions: [{actions}]}}")).unwrap();
        let rule = compile(message).unwrap();
        let request = Request::get("/p?user=ann&n=1")
            .header("host", "h.test")
            .header("x-a", "1")
            .header("x-a", "2")
            .body(Body::empty())
            .unwrap();
        let mut scene = Scene::default();
        scene.facts.remote = Some("192.0.2.130:99".parse().unwrap());
        scene.facts.cluster = "backend";
        let values = [("sub".to_owned(), "ann".into())];
        scene.notes.metadata.merge("jwt", values.into_iter().collect());
        let stage = scene.stage();
        let mut out = Vec::new();
        describe(&[rule], 0, &Facts::new(stage.view(&request), &stage), &mut out);
        let out = out.pop()?;
        Some(
            out.entries
                .iter()
                .map(|e| format!("{}={}", e.key, e.value))
                .collect::<Vec<_>>()
                .join(" "),
        )
    }

    #[test]
    fn each_action_makes_an_entry() {
        for (action, want) in [
            ("source_cluster: {}", "source_cluster=edge"),
            ("destination_cluster: {}", "destination_cluster=backend"),
            ("request_headers: {header_name: x-a, descriptor_key: k}", "k=1,2"),
            ("request_headers: {header_name: ':path', descriptor_key: k}", "k=/p?user=ann&n=1"),
            ("query_parameters: {query_parameter_name: user, descriptor_key: k}", "k=ann"),
            ("remote_address: {}", "remote_address=192.0.2.130"),
            (
                "masked_remote_address: {v4_prefix_mask_len: 25}",
                "masked_remote_address=192.0.2.128/25",
            ),
            ("generic_key: {descriptor_value: v}", "generic_key=v"),
            (
                "generic_key: {descriptor_value: '%REQ(x-none)%', default_value: d, descriptor_key: k}",
                "k=d",
            ),
            (
                "header_value_match: {descriptor_value: v, headers: [{name: x-a, present_match: true}]}",
                "header_match=v",
            ),
            (
                "query_parameter_value_match: {descriptor_value: v, expect_match: false, query_parameters: [{name: z, present_match: true}]}",
                "query_match=v",
            ),
            (
                "metadata: {descriptor_key: k, metadata_key: {key: jwt, path: [{key: sub}]}}",
                "k=ann",
            ),
        ] {
            assert_eq!(described(&format!("{{{action}}}")).as_deref(), Some(want), "{action}");
        }
    }

    #[test]
    fn a_descriptor_needs_all_its_actions() {
        let key = "{generic_key: {descriptor_value: v}}";
        let absent = "header_name: x-none, descriptor_key: k";
        assert_eq!(described(&format!("{key}, {{request_headers: {{{absent}}}}}")), None);
        assert_eq!(
            described(&format!("{key}, {{request_headers: {{{absent}, skip_if_absent: true}}}}")),
            Some("generic_key=v".into())
        );
        assert_eq!(
            described(
                "{header_value_match: {descriptor_value: v, headers: [{name: x-none, present_match: true}]}}"
            ),
            None
        );
    }
}
