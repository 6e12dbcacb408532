//! Whatever valid documents say, our proxy accepts what they become.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use xds_proto::resource::Resource;

use crate::model::Model;
use crate::model::kind::kind_of;
use crate::translate::translate;

/// What our proxy refuses of some resources.
pub(crate) fn refused(resources: &[Resource]) -> Vec<String> {
    let refused = data_plane::compile::check(resources).into_iter();
    refused.map(|(kind, name, error)| format!("{kind} {name}: {error}")).collect()
}

const HOSTS: &[&str] = &["a.example", "*.example", "b.a.example", "*.a.example", "other.test"];

fn hostnames() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::subsequence(HOSTS, 0..HOSTS.len())
}

fn gateway() -> impl Strategy<Value = Value> {
    let listener = (select(vec![80_u16, 8080]), proptest::option::of(select(HOSTS.to_vec())));
    proptest::collection::vec(listener, 1..5).prop_map(|listeners| {
        let listeners = listeners.into_iter().enumerate().map(|(index, (port, hostname))| {
            // Ports differ where hostnames may not, so that most listeners are valid.
            let port = if hostname.is_none() { port + u16::try_from(index).unwrap() } else { port };
            json!({"name": format!("l{index}"), "port": port, "protocol": "HTTP", "hostname": hostname})
        });
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "g"},
            "spec": {"gatewayClassName": "weighlock", "listeners": listeners.collect::<Vec<_>>()},
        })
    })
}

fn path() -> impl Strategy<Value = Value> {
    prop_oneof![
        "(/[a-z0-9._~-]{1,5}){0,3}/?"
            .prop_filter("a path", |path| path.starts_with('/')
                && !path.contains("/.")
                && !path.contains("//"))
            .prop_flat_map(|path| {
                select(vec!["Exact", "PathPrefix"])
                    .prop_map(move |kind| json!({"type": kind, "value": path}))
            }),
        select(vec!["/[a-z]+", "/a|/b", "/.*\\.png"])
            .prop_map(|value| json!({"type": "RegularExpression", "value": value})),
    ]
}

fn entry() -> impl Strategy<Value = Value> {
    let value = || prop_oneof![Just(("Exact", "v 1%")), Just(("RegularExpression", ".*v.*"))];
    let value = move || {
        proptest::option::of(value()).prop_map(|value| {
            let one = |(kind, value)| json!([{"name": "X-Name", "type": kind, "value": value}]);
            value.map(one)
        })
    };
    let method = proptest::option::of(select(vec!["GET", "POST", "OPTIONS"]));
    (path(), value(), value(), method).prop_map(|(path, headers, query, method)| {
        json!({"path": path, "headers": headers, "queryParams": query, "method": method})
    })
}

/// A path is replaced by prefix only where one prefix matched.
fn modifier(by_prefix: bool) -> impl Strategy<Value = Value> {
    let replacement = || select(vec!["", "/", "/x", "/x/", "/x/y", "/x\\1$1"]);
    prop_oneof![
        replacement().prop_map(|path| json!({"type": "ReplaceFullPath", "replaceFullPath": path})),
        replacement().prop_map(move |path| if by_prefix {
            json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": path})
        } else {
            json!({"type": "ReplaceFullPath", "replaceFullPath": path})
        }),
    ]
}

fn headers(field: &'static str, kind: &'static str) -> impl Strategy<Value = Value> {
    let name = || select(vec!["X-A", "x-b", "Set-Cookie", "Cache-Control"]);
    let entry = move || (name(), select(vec!["1", "50%", "%REQ(x)%", "a, b"]));
    (entry(), entry(), name()).prop_map(move |((set, a), (add, b), remove)| {
        json!({"type": kind, field: {
            "set": [{"name": set, "value": a}], "add": [{"name": add, "value": b}],
            "remove": [remove],
        }})
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let matches = proptest::collection::vec(entry(), 1..4);
    matches.prop_flat_map(|matches| {
        let by_prefix = matches.len() == 1 && matches[0]["path"]["type"] == "PathPrefix";
        let hostname = || proptest::option::of(Just("to.example"));
        let redirect = (
            proptest::option::of(modifier(by_prefix)),
            proptest::option::of(select(vec!["http", "https"])),
            proptest::option::of(1_u16..),
            hostname(),
            select(vec![301, 302, 303, 307, 308]),
        );
        let redirect = redirect.prop_map(|(path, scheme, port, hostname, status)| {
            json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {
                "path": path, "scheme": scheme, "port": port, "hostname": hostname,
                "statusCode": status,
            }}]})
        });
        let request = || headers("requestHeaderModifier", "RequestHeaderModifier");
        let response = || headers("responseHeaderModifier", "ResponseHeaderModifier");
        let rewrite = (proptest::option::of(modifier(by_prefix)), hostname()).prop_map(
            |(path, hostname)| {
                json!({"type": "URLRewrite", "urlRewrite": {"path": path, "hostname": hostname}})
            },
        );
        let filters = (
            proptest::option::of(request()),
            proptest::option::of(response()),
            proptest::option::of(rewrite),
        );
        let reference = (
            select(vec!["ip", "host", "one", "socket", "gone"]),
            0_u32..3,
            proptest::option::of(response()),
        );
        let references = proptest::collection::vec(reference, 0..4);
        let timeouts = proptest::option::of(select(vec!["0s", "1s", "10m", "1h"]));
        let forward = (filters, references, timeouts).prop_map(|(filters, references, request)| {
            let (one, two, three) = filters;
            let filters: Vec<Value> = [one, two, three].into_iter().flatten().collect();
            let references = references.into_iter().enumerate();
            let references = references.map(|(index, (name, weight, filter))| {
                json!({
                    "group": "weighlock.dev", "kind": "Backend", "name": name,
                    "weight": weight + u32::from(index == 0),
                    "filters": filter.into_iter().collect::<Vec<_>>(),
                })
            });
            let references: Vec<Value> = references.collect();
            json!({"filters": filters, "backendRefs": references, "timeouts": {"request": request}})
        });
        prop_oneof![1 => redirect, 3 => forward].prop_map(move |mut rule| {
            rule["matches"] = json!(matches);
            rule
        })
    })
}

fn route(name: &'static str) -> impl Strategy<Value = Value> {
    (hostnames(), proptest::collection::vec(rule(), 1..4)).prop_map(move |(hostnames, rules)| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name},
            "spec": {"parentRefs": [{"name": "g"}], "hostnames": hostnames, "rules": rules},
        })
    })
}

fn backends() -> Vec<Value> {
    let backend = |name: &str, spec: Value| {
        json!({
            "apiVersion": "weighlock.dev/v1alpha1", "kind": "Backend",
            "metadata": {"name": name}, "spec": spec,
        })
    };
    vec![
        backend(
            "ip",
            json!({"endpoints": [{"ip": "::1", "port": 1}, {"ip": "10.0.0.1", "port": 2, "priority": 1}]}),
        ),
        backend(
            "host",
            json!({"appProtocol": "grpc", "endpoints": [{"host": "a", "port": 1}, {"host": "b", "port": 1}]}),
        ),
        backend(
            "one",
            json!({"endpoints": [{"host": "a", "port": 1}], "dns": {"addresses": "One"}}),
        ),
        backend("socket", json!({"endpoints": [{"unix": "/run/x.sock"}]})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_valid_documents_become_the_proxy_accepts(
        gateway in gateway(), one in route("one"), two in route("two"),
    ) {
        let mut documents = backends();
        documents.extend([one, two, gateway]);
        let mut objects = Vec::new();
        for mut document in documents {
            let kind = kind_of(&document).unwrap();
            let findings = kind.check(&mut document);
            let only_twins = findings.iter().all(|finding| finding.code == "WL0044");
            prop_assert!(only_twins, "{findings:?}");
            prop_assume!(findings.is_empty());
            objects.push((kind, document));
        }
        let model = Model::from_objects(objects.iter().map(|(kind, document)| (*kind, document)));
        prop_assert_eq!(&model.unreadable, &[]);
        let translation = translate(&model);
        for resources in translation.fleets.values() {
            let refused = refused(resources);
            prop_assert!(refused.is_empty(), "{refused:?}");
        }
    }
}
