//! Which listeners take a route, and for which hostnames.

use super::{ACCEPTED, all_to, http, in_namespace, rule, ruled};
use crate::documents::{Over, Row, Step, backends, gateway, get, plain};

pub(super) fn rows() -> Vec<Row> {
    let gw = |more: &str| format!("parentRefs: [{{name: gw{more}}}],");
    vec![
        Row {
            name: "HTTPRouteSimpleSameNamespace",
            steps: vec![
                ruled(&all_to("a")),
                Step::Says("HTTPRoute r", "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs, weighlock.dev/Programmed=True Programmed"),
                get("x.example", "/").from("a"),
            ],
        },
        Row {
            name: "GatewayWithAttachedRoutes",
            steps: vec![
                Step::Apply(gateway(
                    "{name: http, port: $PORT, protocol: HTTP}, {name: more, port: $PORT2, protocol: HTTP},
                     {name: https, port: $PORT3, protocol: HTTPS, tls: {certificateRefs: [{name: gone}]}}") + &backends()
                    + &http("one", &gw(", sectionName: http"), &all_to("a"))),
                Step::Says("Gateway gw http", "attachedRoutes=1"),
                Step::Says("Gateway gw more", "attachedRoutes=0"),
                Step::Apply(http("two", "", &rule("{path: {value: /two}}", "b"))),
                Step::Says("Gateway gw http", "attachedRoutes=2"),
                Step::Says("Gateway gw more", "attachedRoutes=1"),
                Step::Says("Gateway gw https", "attachedRoutes=1, ResolvedRefs=False InvalidCertificateRef"),
            ],
        },
        Row {
            name: "HTTPRouteCrossNamespace",
            steps: vec![
                Step::Apply(gateway("{name: http, port: $PORT, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}")
                    + &in_namespace("team", &(backends() + &http("r", &gw(", namespace: $NS"), &all_to("a"))))),
                Step::Says("HTTPRoute $NS-team/r", ACCEPTED),
                get("x.example", "/").from("a"),
            ],
        },
        Row {
            name: "a listener selects namespaces by their labels",
            steps: vec![
                Step::Apply("{apiVersion: v1, kind: Namespace, metadata: {name: $NS-team, labels: {edge: \"yes\"}}}\n".to_owned()
                    + &gateway("{name: http, port: $PORT, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {edge: \"yes\"}}}}}")
                    + &in_namespace("team", &(backends() + &http("r", &gw(", namespace: $NS"), &all_to("a"))))
                    + &backends() + &http("own", "", &all_to("b"))),
                Step::Says("HTTPRoute $NS-team/r", ACCEPTED),
                Step::Says("HTTPRoute own", "Accepted=False NotAllowedByListeners"),
                get("x.example", "/").from("a"),
            ],
        },
        Row {
            name: "HTTPRouteInvalidCrossNamespaceParentRef",
            steps: vec![
                Step::Apply(plain() + &in_namespace("team", &(backends() + &http("r", &gw(", namespace: $NS"), &all_to("a"))))),
                Step::Says("HTTPRoute $NS-team/r", "Accepted=False NotAllowedByListeners"),
                Step::Says("Gateway gw http", "attachedRoutes=0, Programmed=True Programmed"),
                get("x.example", "/").status(404),
            ],
        },
        Row {
            name: "HTTPRouteInvalidParentRefNotMatchingSectionName",
            steps: vec![
                Step::Apply(plain() + &http("r", &gw(", sectionName: htp"), &all_to("a"))),
                Step::Says("HTTPRoute r", "Accepted=False NoMatchingParent"),
                Step::Says("Gateway gw http", "attachedRoutes=0"),
            ],
        },
        Row {
            name: "HTTPRouteInvalidParentRefNotMatchingListenerPort",
            steps: vec![
                Step::Apply(plain() + &http("r", &gw(", port: 81"), &all_to("a"))),
                Step::Says("HTTPRoute r", "Accepted=False NoMatchingParent"),
            ],
        },
        Row {
            name: "HTTPRouteInvalidParentRefSectionNameNotMatchingPort",
            steps: vec![
                Step::Apply(plain() + &http("r", &gw(", port: 81, sectionName: http"), &all_to("a"))),
                Step::Says("HTTPRoute r", "Accepted=False NoMatchingParent"),
            ],
        },
        Row {
            name: "HTTPRouteListenerPortMatching",
            steps: vec![
                Step::Apply(gateway("{name: one, port: $PORT, protocol: HTTP}, {name: two, port: $PORT2, protocol: HTTP}") + &backends()
                    + &http("one", &gw(", port: $PORT"), &all_to("a")) + &http("two", &gw(", port: $PORT2"), &all_to("b"))),
                get("x.example", "/").from("a"),
                get("x.example", "/").at("$PORT2").from("b"),
            ],
        },
        Row {
            name: "HTTPRouteMultipleGateways",
            steps: vec![
                Step::Apply(plain() + &gateway("{name: http, port: $PORT2, protocol: HTTP}").replace("name: gw", "name: gw2")
                    + &http("both", "parentRefs: [{name: gw}, {name: gw2}],", &rule("{path: {value: /both}}", "a"))
                    + &http("own", "parentRefs: [{name: gw2}],", &rule("{path: {value: /own}}", "b"))),
                Step::Says("HTTPRoute both parents[0]", ACCEPTED),
                Step::Says("HTTPRoute both parents[1]", ACCEPTED),
                get("x.example", "/both").from("a"),
                get("x.example", "/both").at("$PORT2").from("a"),
                get("x.example", "/own").at("$PORT2").from("b"),
                get("x.example", "/own").status(404),
            ],
        },
        Row {
            name: "HTTPRouteObservedGenerationBump",
            steps: vec![
                ruled(&all_to("a")),
                Step::Says("HTTPRoute r", ACCEPTED),
                Step::Apply(http("r", "", &all_to("b"))),
                Step::Current("HTTPRoute r"),
                get("x.example", "/").from("b"),
            ],
        },
        Row {
            name: "HTTPRouteHostnameIntersection",
            steps: vec![
                Step::Apply(gateway(
                    "{name: exact, port: $PORT, protocol: HTTP, hostname: very.specific.example},
                     {name: wild, port: $PORT, protocol: HTTP, hostname: \"*.wild.example\"},
                     {name: other, port: $PORT, protocol: HTTP, hostname: \"*.other.example\"}") + &backends()
                    + &http("exact", &(gw("") + "hostnames: [non.matching.example, very.specific.example],"), &all_to("a"))
                    + &http("wild", &(gw("") + "hostnames: [wild.example, foo.wild.example, \"*.deep.wild.example\"],"), &all_to("b"))
                    + &http("wider", &(gw("") + "hostnames: [\"*.example\"],"), &rule("{path: {value: /wider}}", "c"))
                    + &http("none", &(gw("") + "hostnames: [elsewhere.test],"), &all_to("c"))),
                Step::Says("HTTPRoute none", "Accepted=False NoMatchingListenerHostname"),
                Step::Says("Gateway gw exact", "attachedRoutes=2"),
                Step::Says("Gateway gw wild", "attachedRoutes=2"),
                Step::Says("Gateway gw other", "attachedRoutes=1"),
                get("very.specific.example", "/").from("a"),
                get("foo.wild.example", "/").from("b"),
                get("x.deep.wild.example", "/").from("b"),
                get("any.other.example", "/wider").from("c"),
                get("very.specific.example", "/wider").from("c"),
                get("non.matching.example", "/").status(404),
                get("bar.wild.example", "/").status(404),
                get("wild.example", "/").status(404),
                get("elsewhere.test", "/").status(404),
            ],
        },
        Row {
            name: "HTTPRouteListenerHostnameMatching",
            steps: vec![
                Step::Apply(gateway(
                    "{name: one, port: $PORT, protocol: HTTP, hostname: one.example}, {name: two, port: $PORT, protocol: HTTP, hostname: two.example},
                     {name: wide, port: $PORT, protocol: HTTP, hostname: \"*.wide.example\"}") + &backends()
                    + &http("one", &gw(", sectionName: one"), &all_to("a"))
                    + &http("two", &gw(", sectionName: two"), &all_to("b"))
                    + &http("wide", &gw(", sectionName: wide"), &all_to("c"))),
                get("one.example", "/").from("a"),
                get("two.example", "/").from("b"),
                get("x.wide.example", "/").from("c"),
                get("y.x.wide.example", "/").from("c"),
                get("wide.example", "/").status(404),
            ],
        },
        Row {
            name: "GatewayHTTPListenerIsolation",
            steps: vec![
                Step::Apply(gateway(
                    "{name: any, port: $PORT, protocol: HTTP}, {name: wide, port: $PORT, protocol: HTTP, hostname: \"*.example\"},
                     {name: exact, port: $PORT, protocol: HTTP, hostname: x.a.example}") + &backends()
                    + &http("any", &gw(", sectionName: any"), &rule("{path: {value: /any}}", "a"))
                    + &http("wide", &gw(", sectionName: wide"), &rule("{path: {value: /wide}}", "b"))
                    + &http("exact", &gw(", sectionName: exact"), &rule("{path: {value: /exact}}", "c"))),
                get("other.test", "/any").from("a"),
                get("y.example", "/wide").from("b"),
                get("x.a.example", "/exact").from("c"),
                get("y.example", "/any").status(404),
                get("x.a.example", "/wide").status(404),
                get("x.a.example", "/any").status(404),
                get("other.test", "/wide").status(404),
            ],
        },
        Row {
            name: "HTTPRouteHTTPSListener",
            steps: vec![
                Step::Apply(gateway("{name: https, port: $PORT, protocol: HTTPS, hostname: x.example, tls: {certificateRefs: [{name: c}]}}") + &backends()
                    + "---\n{apiVersion: v1, kind: Secret, metadata: {name: c}, type: kubernetes.io/tls, stringData: {tls.crt: $CERT, tls.key: $KEY}}\n"
                    + &http("r", "", &all_to("a"))),
                Step::Silent("Gateway gw https", "OverlappingTLSConfig"),
                get("x.example", "/").over(Over::Tls("x.example")).saw("a", &[("x-forwarded-proto", "https")]),
            ],
        },
        Row {
            name: "HTTPRouteHTTPSListenerDetectMisdirectedRequests",
            steps: vec![
                Step::Apply(gateway(
                    "{name: x, port: $PORT, protocol: HTTPS, hostname: x.example, tls: {certificateRefs: [{name: c}]}},
                     {name: all, port: $PORT, protocol: HTTPS, hostname: \"*.example\", tls: {certificateRefs: [{name: c}]}}") + &backends()
                    + "---\n{apiVersion: v1, kind: Secret, metadata: {name: c}, type: kubernetes.io/tls, stringData: {tls.crt: $CERT, tls.key: $KEY}}\n"
                    + &http("x", &gw(", sectionName: x"), &all_to("a")) + &http("all", &gw(", sectionName: all"), &all_to("b"))),
                Step::Says("Gateway gw x", "OverlappingTLSConfig=True OverlappingHostnames"),
                get("x.example", "/").over(Over::Tls("x.example")).from("a"),
                get("y.example", "/").over(Over::Tls("y.example")).from("b"),
                get("y.example", "/").over(Over::Tls("x.example")).status(421),
                get("x.example", "/").over(Over::Tls("y.example")).status(421),
                get("other.test", "/").over(Over::Tls("x.example")).status(404),
            ],
        },
    ]
}
