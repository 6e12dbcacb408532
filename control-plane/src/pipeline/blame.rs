//! Which documents made what a node refused, as narrowly as its words allow.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use xds_proto::envoy::config::route::v3::RouteConfiguration;
use xds_proto::resource::ResourceType;

use super::build::Built;
use crate::model::meta::Place;
use crate::translate::draft::ObjectRef;

/// A document, and its rule where that is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blamed {
    /// The document.
    pub object: ObjectRef,
    /// The name or number of the rule.
    pub rule: Option<String>,
}

impl fmt::Display for Blamed {
    /// `HTTPRoute payments/search rule api`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.object)?;
        self.rule.as_ref().map_or(Ok(()), |rule| write!(f, " rule {rule}"))
    }
}

/// Who made these resources of a fleet, of which a node said `text`.
pub fn blame(
    built: &Built,
    fleet: &str,
    (kind, names): (ResourceType, &[Arc<str>]),
    text: &str,
) -> Vec<Blamed> {
    let mut blamed = BTreeSet::new();
    for name in names {
        if let Some(found) = rule(built, fleet, (kind, name), text) {
            blamed.insert(found);
            continue;
        }
        let owners = built.translated.owners.get(&(kind, name.clone())).into_iter().flatten();
        let (main, others): (Vec<_>, Vec<_>) =
            owners.cloned().partition(|owner| makers(kind).contains(&owner.kind));
        let meant = if main.is_empty() { others } else { main };
        blamed.extend(meant.into_iter().map(|object| Blamed { object, rule: None }));
    }
    blamed.into_iter().collect()
}

/// The rule that a path such as `virtual_hosts[2].routes[0]` leads to.
fn rule(
    built: &Built,
    fleet: &str,
    (kind, resource): (ResourceType, &str),
    text: &str,
) -> Option<Blamed> {
    if kind != ResourceType::Route {
        return None;
    }
    let about = text.split(&format!("{resource}: ")).nth(1).unwrap_or(text);
    let (virtual_host, rest) = index(about, "virtual_hosts[")?;
    let (route, _) = index(rest.strip_prefix('.')?, "routes[")?;
    let entry = built.fleets.get(fleet)?.get(kind, resource)?;
    let table: RouteConfiguration = prost::Message::decode(entry.body()).ok()?;
    // `NAMESPACE/NAME/RULE/MATCH`, as translation names them.
    let name = &table.virtual_hosts.get(virtual_host)?.routes.get(route)?.name;
    let mut parts = name.split('/');
    let place = Place::new(parts.next()?, parts.next()?);
    let rule = parts.next().map(str::to_owned);
    let mut owners = built.translated.owners.get(&(kind, resource.into()))?.iter();
    let is_it = |owner: &&ObjectRef| owner.place == place && makers(kind).contains(&owner.kind);
    Some(Blamed { object: owners.find(is_it)?.clone(), rule })
}

/// The number in brackets after `start`, and what follows them.
fn index<'a>(text: &'a str, start: &str) -> Option<(usize, &'a str)> {
    let (number, rest) = text.split_once(start)?.1.split_once(']')?;
    Some((number.parse().ok()?, rest))
}

/// The kinds of documents that say most of what is in resources of a type.
fn makers(kind: ResourceType) -> &'static [&'static str] {
    match kind {
        ResourceType::Route | ResourceType::ScopedRoute | ResourceType::VirtualHost => {
            &["HTTPRoute", "GRPCRoute"]
        }
        ResourceType::Cluster | ResourceType::Endpoints | ResourceType::LbEndpoint => {
            &["Backend", "Service"]
        }
        ResourceType::Secret => &["Secret", "ConfigMap"],
        ResourceType::Listener | ResourceType::ExtensionConfig | ResourceType::Runtime => {
            &["Gateway", "ListenerSet"]
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::kind::kind_of;
    use crate::pipeline::build::build;
    use crate::pipeline::translator::Translator;
    use crate::source::documents;
    use crate::store::Store;
    use crate::store::change::{Action, Change, Write};
    use crate::store::state::ObjectKey;

    const DOCUMENTS: &str = "
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: edge, namespace: n},
 spec: {gatewayClassName: weighlock, listeners: [{name: http, port: 80, protocol: HTTP}]}}
---
{apiVersion: weighlock.dev/v1alpha1, kind: Backend, metadata: {name: b, namespace: n},
 spec: {endpoints: [{ip: 127.0.0.1, port: 1}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: one, namespace: n},
 spec: {parentRefs: [{name: edge}], rules: [{name: api, matches: [{path: {value: /long}}],
  backendRefs: [{group: weighlock.dev, kind: Backend, name: b}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: two, namespace: n},
 spec: {parentRefs: [{name: edge}], rules: [{
  backendRefs: [{group: weighlock.dev, kind: Backend, name: b}]}]}}
";

    fn built() -> Built {
        let store = Store::in_memory().unwrap();
        let mut change = Change::default();
        for document in documents::parse("f", DOCUMENTS).unwrap() {
            let mut value = document.value;
            let kind = kind_of(&value).unwrap();
            assert!(kind.check(&mut value).is_empty());
            let name = value["metadata"]["name"].as_str().unwrap().to_owned();
            let key = ObjectKey { kind, namespace: "n".into(), name };
            change.writes.push(Write::to(key, Action::Put(value)));
        }
        store.commit(&change).unwrap();
        build(&Translator::default().translated(&store.state().objects), &BTreeMap::new())
    }

    fn blamed(built: &Built, kind: ResourceType, name: &str, text: &str) -> Vec<String> {
        let (fleet, names) = (built.fleets.keys().next().unwrap(), [Arc::from(name)]);
        let blamed = blame(built, fleet, (kind, &names), text);
        blamed.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn who_is_blamed_follows_the_words_of_the_node() {
        let built = built();
        let (fleet, snapshot) = built.fleets.iter().next().unwrap();
        assert!(!fleet.is_empty());
        let table = snapshot.kind(ResourceType::Route).entries()[0].name.to_string();
        for (kind, name, text, expected) in [
            (
                ResourceType::Route,
                &*table,
                "TABLE: virtual_hosts[0].routes[0].match: no",
                vec!["HTTPRoute n/one rule api"],
            ),
            (ResourceType::Route, &table, "bad regex", vec!["HTTPRoute n/one", "HTTPRoute n/two"]),
            (
                ResourceType::Route,
                &table,
                "virtual_hosts[9].routes[0]: no",
                vec!["HTTPRoute n/one", "HTTPRoute n/two"],
            ),
            (ResourceType::Cluster, "backend/n/b", "no", vec!["Backend n/b"]),
            (ResourceType::Listener, "other", "no", vec![]),
        ] {
            let text = text.replace("TABLE", &table);
            assert_eq!(blamed(&built, kind, name, &text), expected, "{text}");
        }
    }
}
