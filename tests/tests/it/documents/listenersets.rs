//! ListenerSet: more listeners of a Gateway.

use super::{Over, Row, Step, backends, gateway, get, hold, route, to};

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_listenerset_hold() {
    let mut rows = taken();
    rows.extend(in_conflict());
    rows.extend(routed());
    hold("rows_of_listenerset_hold", rows).await;
}

/// A Gateway that takes sets from these namespaces.
fn open_gateway(from: &str) -> String {
    gateway("{name: http, port: $PORT, protocol: HTTP}").replace(
        "weighlock, addr",
        &format!("weighlock, allowedListeners: {{namespaces: {{{from}}}}}, addr"),
    )
}

fn set(name: &str, namespace: &str, listeners: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{parentRef: {{name: gw, namespace: $NS}}, listeners: [{listeners}]}}
"
    )
}

const MORE: &str = "{name: more, port: $PORT2, protocol: HTTP}";

fn http(name: &str, more: &str, path: &str, backend: &str) -> String {
    let rule =
        format!("{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{}]}}", to(backend));
    route("HTTPRoute", name, more, &rule)
}

fn taken() -> Vec<Row> {
    let refused =
        |object| Step::Says(object, "Accepted=False NotAllowed, Programmed=False NotAllowed");
    let accepted =
        |object| Step::Says(object, "Accepted=True Accepted, Programmed=True Programmed");
    vec![
        Row {
            name: "ListenerSetDefaultNotAllowed",
            steps: vec![
                Step::Apply(gateway("{name: http, port: $PORT, protocol: HTTP}") + &set("set", "$NS", MORE)),
                refused("ListenerSet set"),
                Step::Says("Gateway gw", "attachedListenerSets=0, Accepted=True Accepted"),
            ],
        },
        Row {
            name: "ListenerSetAllowedNamespaceNone",
            steps: vec![
                Step::Apply(open_gateway("from: None") + &set("set", "$NS", MORE)),
                refused("ListenerSet set"),
                Step::Says("Gateway gw", "attachedListenerSets=0"),
            ],
        },
        Row {
            name: "ListenerSetAllowedNamespaceSame",
            steps: vec![
                Step::Apply(open_gateway("from: Same") + &set("set", "$NS", MORE) + &set("set", "$NS-other", "{name: more, port: $PORT3, protocol: HTTP}")),
                accepted("ListenerSet set"),
                refused("ListenerSet $NS-other/set"),
                Step::Says("Gateway gw", "attachedListenerSets=1"),
            ],
        },
        Row {
            name: "ListenerSetAllowedNamespaceSelector",
            steps: vec![
                Step::Apply("{apiVersion: v1, kind: Namespace, metadata: {name: $NS-yes, labels: {sets: \"yes\"}}}\n".to_owned()
                    + &open_gateway("from: Selector, selector: {matchLabels: {sets: \"yes\"}}")
                    + &set("set", "$NS-yes", MORE) + &set("set", "$NS", "{name: more, port: $PORT3, protocol: HTTP}")),
                accepted("ListenerSet $NS-yes/set"),
                refused("ListenerSet set"),
                Step::Says("Gateway gw", "attachedListenerSets=1"),
            ],
        },
        Row {
            name: "ListenerSetReferenceGrant",
            steps: vec![
                Step::Apply(open_gateway("from: All")
                    + "---
{apiVersion: v1, kind: Secret, metadata: {name: c, namespace: $NS-certs}, type: kubernetes.io/tls, stringData: {tls.crt: $CERT, tls.key: $KEY}}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: grant, namespace: $NS-certs}
spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: $NS}], to: [{group: \"\", kind: Secret}]}
" + &set("set", "$NS", "{name: https, port: $PORT2, protocol: HTTPS, hostname: x.example, tls: {certificateRefs: [{name: c, namespace: $NS-certs}]}}")
                    + &backends() + &http("r", "parentRefs: [{kind: ListenerSet, name: set}],", "/", "a")),
                Step::Says("ListenerSet set https", "ResolvedRefs=False RefNotPermitted, Programmed=False Invalid"),
                Step::Apply("apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: grant, namespace: $NS-certs}
spec: {from: [{group: gateway.networking.k8s.io, kind: ListenerSet, namespace: $NS}], to: [{group: \"\", kind: Secret}]}
".to_owned()),
                Step::Says("ListenerSet set https", "ResolvedRefs=True ResolvedRefs, Programmed=True Programmed"),
                get("x.example", "/").at("$PORT2").over(Over::Tls("x.example")).from("a"),
            ],
        },
    ]
}

fn in_conflict() -> Vec<Row> {
    let row = |name, theirs: &str, reason: &'static str| Row {
        name,
        steps: vec![
            Step::Apply(
                open_gateway("from: Same")
                    + &backends()
                    + &set("a-first", "$NS", MORE)
                    + &set(
                        "b-second",
                        "$NS",
                        &format!("{theirs}, {{name: own, port: $PORT3, protocol: HTTP}}"),
                    )
                    + &http("gateway", "", "/", "a")
                    + &http("first", "parentRefs: [{kind: ListenerSet, name: a-first}],", "/", "b")
                    + &http(
                        "second",
                        "parentRefs: [{kind: ListenerSet, name: b-second}],",
                        "/",
                        "c",
                    ),
            ),
            Step::Says("ListenerSet b-second gateways", reason),
            Step::Says("ListenerSet b-second sets", reason),
            Step::Says(
                "ListenerSet b-second own",
                "Accepted=True Accepted, Programmed=True Programmed, Conflicted=False NoConflicts",
            ),
            Step::Says("ListenerSet b-second", "Accepted=True ListenersNotValid"),
            Step::Says(
                "Gateway gw http",
                "Accepted=True Accepted, Conflicted=False NoConflicts, Programmed=True Programmed",
            ),
            Step::Says(
                "ListenerSet a-first more",
                "Accepted=True Accepted, Conflicted=False NoConflicts, Programmed=True Programmed",
            ),
            get("x.example", "/").from("a"),
            get("x.example", "/").at("$PORT2").from("b"),
            get("x.example", "/").at("$PORT3").from("c"),
        ],
    };
    vec![
        row(
            "ListenerSetHostnameConflict",
            "{name: gateways, port: $PORT, protocol: HTTP}, {name: sets, port: $PORT2, protocol: HTTP}",
            "Accepted=False HostnameConflict, Conflicted=True HostnameConflict, Programmed=False HostnameConflict",
        ),
        row(
            "ListenerSetProtocolConflict",
            "{name: gateways, port: $PORT, protocol: TCP}, {name: sets, port: $PORT2, protocol: TCP}",
            "Accepted=False ProtocolConflict, Conflicted=True ProtocolConflict, Programmed=False ProtocolConflict",
        ),
    ]
}

fn routed() -> Vec<Row> {
    let of_set = "parentRefs: [{kind: ListenerSet, name: set}],";
    vec![
        Row {
            name: "ListenerSetHTTPRouting",
            steps: vec![
                Step::Apply(
                    open_gateway("from: Same")
                        + &backends()
                        + &set(
                            "set",
                            "$NS",
                            &format!(
                                "{MORE}, {{name: host, port: $PORT, protocol: HTTP, hostname: set.example}}"
                            ),
                        )
                        + &http("gateway", "", "/", "a")
                        + &http("set", of_set, "/", "b")
                        + &http(
                            "section",
                            "parentRefs: [{kind: ListenerSet, name: set, sectionName: more}],",
                            "/section",
                            "c",
                        ),
                ),
                Step::Says(
                    "HTTPRoute set",
                    "Accepted=True Accepted, weighlock.dev/Programmed=True Programmed",
                ),
                Step::Says("ListenerSet set more", "attachedRoutes=2"),
                Step::Says("ListenerSet set host", "attachedRoutes=1"),
                Step::Says("Gateway gw http", "attachedRoutes=1"),
                get("x.example", "/").from("a"),
                get("set.example", "/").from("b"),
                get("x.example", "/").at("$PORT2").from("b"),
                get("x.example", "/section").at("$PORT2").from("c"),
                Step::Delete("ListenerSet set"),
                Step::Gone("$PORT2"),
                get("set.example", "/").from("a"),
            ],
        },
        Row {
            name: "ListenerSetAllowedRoutesNamespaces",
            steps: vec![
                Step::Apply(
                    open_gateway("from: All")
                        + &set(
                            "set",
                            "$NS-sets",
                            "{name: same, port: $PORT2, protocol: HTTP}, {name: all, port: $PORT3, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}",
                        )
                        + &backends().replace("metadata: {", "metadata: {namespace: $NS-sets, ")
                        + &backends()
                        + &http("own", of_set, "/", "a")
                            .replace("metadata: {", "metadata: {namespace: $NS-sets, ")
                        + &http(
                            "other",
                            "parentRefs: [{kind: ListenerSet, name: set, namespace: $NS-sets}],",
                            "/other",
                            "b",
                        ),
                ),
                Step::Says("ListenerSet $NS-sets/set same", "attachedRoutes=1"),
                Step::Says("ListenerSet $NS-sets/set all", "attachedRoutes=2"),
                get("x.example", "/other").at("$PORT2").from("a"),
                get("x.example", "/other").at("$PORT3").from("b"),
            ],
        },
        Row {
            name: "ListenerSetAllowedRoutesSupportedKinds",
            steps: vec![
                Step::Apply(
                    open_gateway("from: Same")
                        + &set(
                            "set",
                            "$NS",
                            "{name: http, port: $PORT2, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}, {kind: TCPRoute}]}}, {name: tcp, port: $PORT3, protocol: TCP}",
                        ),
                ),
                Step::Says(
                    "ListenerSet set http",
                    "supportedKinds=HTTPRoute, ResolvedRefs=False InvalidRouteKinds",
                ),
                Step::Says(
                    "ListenerSet set tcp",
                    "supportedKinds=TCPRoute, ResolvedRefs=True ResolvedRefs",
                ),
            ],
        },
        Row {
            name: "ListenerSetDualParentRefIndependence",
            steps: vec![
                Step::Apply(
                    open_gateway("from: Same")
                        + &backends()
                        + &set("set", "$NS", MORE)
                        + &http(
                            "r",
                            "parentRefs: [{name: gw, sectionName: gone}, {kind: ListenerSet, name: set}],",
                            "/",
                            "a",
                        ),
                ),
                Step::Says("HTTPRoute r parents[0]", "Accepted=False NoMatchingParent"),
                Step::Says("HTTPRoute r parents[1]", "Accepted=True Accepted"),
                get("x.example", "/").at("$PORT2").from("a"),
            ],
        },
        Row {
            name: "ListenerSetGatewayParentSectionNameNotFound",
            steps: vec![
                Step::Apply(
                    open_gateway("from: Same")
                        + &backends()
                        + &set("set", "$NS", MORE)
                        + &http("r", "parentRefs: [{name: gw, sectionName: more}],", "/", "a"),
                ),
                Step::Says("HTTPRoute r", "Accepted=False NoMatchingParent"),
                Step::Says("ListenerSet set more", "attachedRoutes=0"),
            ],
        },
        Row {
            name: "ListenerSetRouteStatusScopedToParentRef",
            steps: vec![
                Step::Apply(
                    open_gateway("from: Same")
                        + &backends()
                        + &set("set", "$NS", MORE)
                        + &http("r", of_set, "/", "a"),
                ),
                Step::Says("HTTPRoute r", "Accepted=True Accepted"),
                Step::Count("HTTPRoute r", "parents", 1),
                Step::Apply(http(
                    "r",
                    "parentRefs: [{kind: ListenerSet, name: set}, {name: gw}],",
                    "/",
                    "a",
                )),
                Step::Says("HTTPRoute r parents[1]", "Accepted=True Accepted"),
                Step::Apply(http("r", "", "/", "a")),
                Step::Count("HTTPRoute r", "parents", 1),
            ],
        },
    ]
}
