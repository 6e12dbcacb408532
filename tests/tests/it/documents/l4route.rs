//! TLSRoute and TCPRoute: connections, told apart by port and server name.

use super::{Call, Over, Row, Step, backends, gateway, get, hold, route, to};

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_tcproute_and_tlsroute_hold() {
    let mut rows = tcp();
    rows.extend(tls());
    rows.extend(broken());
    hold("rows_of_tcproute_and_tlsroute_hold", rows).await;
}

const ACCEPTED: &str = "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs";

fn weighted(name: &str, weight: u32) -> String {
    to(name).replace('}', &format!(", weight: {weight}}}"))
}

fn tcp_route(name: &str, more: &str, references: &str) -> String {
    route("TCPRoute", name, more, &format!("{{backendRefs: [{references}]}}"))
}

fn tls_route(name: &str, more: &str, references: &str) -> String {
    route("TLSRoute", name, more, &format!("{{backendRefs: [{references}]}}"))
}

/// A backend that speaks TLS, and a Secret with a certificate for a listener.
fn secure() -> String {
    "---
{apiVersion: weighlock.dev/v1alpha1, kind: Backend, metadata: {name: s}, spec: {endpoints: [{ip: 127.0.0.1, port: $s}]}}
---
{apiVersion: v1, kind: Secret, metadata: {name: cert}, type: kubernetes.io/tls, stringData: {tls.crt: $CERT, tls.key: $KEY}}
"
    .to_owned()
        + &backends()
}

/// A listener whose TLS is passed on.
fn passed(name: &str, hostname: &str, more: &str) -> String {
    format!(
        "{{name: {name}, port: $PORT, protocol: TLS, hostname: {hostname}, tls: {{mode: Passthrough}}{more}}}"
    )
}

/// A listener whose TLS ends there.
fn ended(name: &str, hostname: &str) -> String {
    format!(
        "{{name: {name}, port: $PORT, protocol: TLS, hostname: {hostname}, tls: {{certificateRefs: [{{name: cert}}]}}}}"
    )
}

fn over_tls(name: &'static str) -> Call {
    get(name, "/").over(Over::Tls(name))
}

fn tcp() -> Vec<Row> {
    let one = "{name: one, port: $PORT, protocol: TCP}";
    let two = "{name: one, port: $PORT, protocol: TCP}, {name: two, port: $PORT2, protocol: TCP}, {name: web, port: $PORT3, protocol: HTTP}";
    let at = |more: &str| format!("parentRefs: [{{name: gw{more}}}],");
    let elsewhere = |grant: &str| {
        gateway(one)
            + &backends().replace("metadata: {", "metadata: {namespace: $NS-back, ")
            + grant
            + &tcp_route("r", "", &to("b").replace('}', ", namespace: $NS-back}"))
    };
    let grant = "---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: grant, namespace: $NS-back}
spec: {from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: $NS}], to: [{group: weighlock.dev, kind: Backend}]}
";
    vec![
        Row {
            name: "TCPRouteParentRefPortAndSectionName",
            steps: vec![
                Step::Apply(
                    gateway(&(two.to_owned() + ", {name: three, port: $PORT4, protocol: TCP}"))
                        + &backends()
                        + &tcp_route("port", &at(", port: $PORT"), &to("a"))
                        + &tcp_route("section", &at(", sectionName: two"), &to("b"))
                        + &tcp_route("both", &at(", sectionName: three, port: $PORT4"), &to("c"))
                        + &tcp_route("neither", &at(", sectionName: three, port: $PORT"), &to("c")),
                ),
                get("x.example", "/").from("a"),
                get("x.example", "/").at("$PORT2").from("b"),
                get("x.example", "/").at("$PORT4").from("c"),
                Step::Says("TCPRoute neither", "Accepted=False NoMatchingParent"),
            ],
        },
        Row {
            name: "TCPRouteParentRefAttachAll",
            steps: vec![
                Step::Apply(gateway(two) + &backends() + &tcp_route("r", "", &to("a"))),
                Step::Says("TCPRoute r", ACCEPTED),
                Step::Says("Gateway gw one", "attachedRoutes=1, supportedKinds=TCPRoute"),
                Step::Says("Gateway gw two", "attachedRoutes=1"),
                Step::Says("Gateway gw web", "attachedRoutes=0"),
                get("x.example", "/").from("a"),
                get("x.example", "/").at("$PORT2").from("a"),
            ],
        },
        Row {
            name: "TCPRouteMultipleRoutesAttachment",
            steps: vec![
                Step::Apply(gateway(one) + &backends() + &tcp_route("z-old", "", &to("a"))),
                get("x.example", "/").from("a"),
                // Ages are told apart by the second.
                Step::Apply(tcp_route("z-young", "", &to("b"))),
                Step::Says("TCPRoute z-old", ACCEPTED),
                Step::Says("TCPRoute z-young", ACCEPTED),
                Step::Says("Gateway gw one", "attachedRoutes=2"),
                get("x.example", "/").from("a"),
                Step::Delete("TCPRoute z-old"),
                get("x.example", "/").from("b"),
            ],
        },
        Row {
            name: "TCPRouteInvalidNonTCPListener",
            steps: vec![
                Step::Apply(
                    gateway("{name: web, port: $PORT, protocol: HTTP}")
                        + &backends()
                        + &tcp_route("r", "", &to("a")),
                ),
                Step::Says("TCPRoute r", "Accepted=False NotAllowedByListeners"),
                Step::Says("Gateway gw web", "attachedRoutes=0"),
            ],
        },
        Row {
            name: "TCPRouteWeightedRouting",
            steps: vec![
                Step::Apply(
                    gateway(one)
                        + &backends()
                        + &tcp_route(
                            "r",
                            "",
                            &[weighted("a", 7), weighted("b", 3), weighted("c", 0)].join(","),
                        ),
                ),
                Step::Spread(get("x.example", "/"), vec![("a", 70), ("b", 30), ("c", 0)]),
            ],
        },
        Row {
            name: "TCPRouteInvalidCrossNamespaceBackendRef",
            steps: vec![
                Step::Apply(elsewhere("")),
                Step::Says(
                    "TCPRoute r",
                    "Accepted=True Accepted, ResolvedRefs=False RefNotPermitted",
                ),
                get("x.example", "/").closed(),
            ],
        },
        Row {
            name: "TCPRouteReferenceGrant",
            steps: vec![
                Step::Apply(elsewhere(grant)),
                Step::Says("TCPRoute r", ACCEPTED),
                get("x.example", "/").from("b"),
                Step::Delete("ReferenceGrant $NS-back/grant"),
                Step::Says("TCPRoute r", "ResolvedRefs=False RefNotPermitted"),
                get("x.example", "/").closed(),
            ],
        },
    ]
}

fn tls() -> Vec<Row> {
    vec![
        Row {
            name: "TLSRouteSimpleSameNamespace",
            steps: vec![
                Step::Apply(gateway(&passed("tls", "secure.example", "")) + &secure() + &tls_route("r", "hostnames: [secure.example],", &to("s"))),
                Step::Says("TLSRoute r", ACCEPTED),
                over_tls("secure.example").saw("s", &[("server_name", "secure.example")]),
                over_tls("other.example").closed(),
            ],
        },
        Row {
            name: "TLSRouteHostnameIntersection",
            steps: vec![
                Step::Apply(gateway(&[passed("exact", "a.x.example", ""), passed("wild", "\"*.y.example\"", ""),
                        "{name: any, port: $PORT2, protocol: TLS, tls: {mode: Passthrough}}".to_owned()].join(","))
                    + &secure()
                    + &tls_route("exact", "parentRefs: [{name: gw, sectionName: exact}], hostnames: [\"*.x.example\", a.z.example],", &to("s"))
                    + &tls_route("wild", "parentRefs: [{name: gw, sectionName: wild}], hostnames: [b.y.example, \"*.c.y.example\"],", &to("s"))
                    + &tls_route("any", "parentRefs: [{name: gw, sectionName: any}], hostnames: [any.example],", &to("s"))),
                Step::Says("Gateway gw exact", "attachedRoutes=1, supportedKinds=TLSRoute"),
                over_tls("a.x.example").from("s"),
                over_tls("b.y.example").from("s"),
                over_tls("d.c.y.example").from("s"),
                over_tls("any.example").at("$PORT2").from("s"),
                over_tls("b.x.example").closed(),
                over_tls("a.z.example").closed(),
                over_tls("a.y.example").closed(),
                over_tls("other.example").at("$PORT2").closed(),
            ],
        },
        Row {
            name: "TLSRouteTerminateSimpleSameNamespace",
            steps: vec![
                Step::Apply(gateway(&ended("tls", "x.example")) + &secure() + &tls_route("r", "hostnames: [x.example],", &to("a"))),
                Step::Says("Gateway gw tls", "supportedKinds=TLSRoute, attachedRoutes=1, ResolvedRefs=True ResolvedRefs"),
                over_tls("x.example").from("a"),
            ],
        },
        Row {
            name: "TLSRouteMixedTerminationSameNamespace",
            steps: vec![
                Step::Apply(gateway(&[ended("ended", "x.example"), passed("passed", "secure.example", ""), passed("wide", "\"*.example\"", "")].join(",")) + &secure()
                    + &tls_route("ended", "hostnames: [x.example],", &to("a"))
                    + &tls_route("passed", "parentRefs: [{name: gw, sectionName: passed}], hostnames: [secure.example],", &to("s"))),
                over_tls("x.example").from("a"),
                over_tls("secure.example").from("s"),
                over_tls("other.example").closed(),
            ],
        },
        Row {
            name: "HTTPS and TLS share a port by hostname",
            steps: vec![
                Step::Apply(gateway(&[passed("passed", "secure.example", ""),
                        "{name: web, port: $PORT, protocol: HTTPS, hostname: web.example, tls: {certificateRefs: [{name: cert}]}}".to_owned()].join(",")) + &secure()
                    + &tls_route("passed", "hostnames: [secure.example],", &to("s"))
                    + &route("HTTPRoute", "web", "", &format!("{{backendRefs: [{}]}}", to("a")))),
                over_tls("secure.example").from("s"),
                over_tls("web.example").from("a"),
                get("secure.example", "/").over(Over::Tls("web.example")).status(421),
            ],
        },
        Row {
            name: "TLSRouteListenerPassthroughSupportedKinds",
            steps: vec![
                Step::Apply(gateway(&passed("tls", "secure.example", ", allowedRoutes: {kinds: [{kind: TLSRoute}, {kind: TCPRoute}]}"))),
                Step::Says("Gateway gw tls", "supportedKinds=TLSRoute, ResolvedRefs=False InvalidRouteKinds"),
            ],
        },
        Row {
            name: "TLSRouteListenerTerminateSupportedKinds",
            steps: vec![
                Step::Apply(gateway(&ended("tls", "x.example")) + &secure()),
                Step::Says("Gateway gw tls", "supportedKinds=TLSRoute, Accepted=True Accepted, ResolvedRefs=True ResolvedRefs"),
            ],
        },
    ]
}

fn broken() -> Vec<Row> {
    let tls = |name, references: &str, reason: &'static str| Row {
        name,
        steps: vec![
            Step::Apply(
                gateway(&passed("tls", "secure.example", ""))
                    + &secure()
                    + &tls_route("r", "hostnames: [secure.example],", references),
            ),
            Step::Says("TLSRoute r", "Accepted=True Accepted"),
            Step::Says("TLSRoute r", reason),
            over_tls("secure.example").closed(),
        ],
    };
    vec![
        Row {
            name: "TCPRouteInvalidBackendRefNonexistent",
            steps: vec![
                Step::Apply(
                    gateway("{name: one, port: $PORT, protocol: TCP}")
                        + &backends()
                        + &tcp_route("r", "", &to("gone")),
                ),
                Step::Says(
                    "TCPRoute r",
                    "Accepted=True Accepted, ResolvedRefs=False BackendNotFound",
                ),
                get("x.example", "/").closed(),
                Step::Apply(tcp_route("r", "", &[to("a"), to("gone")].join(","))),
                Step::Spread(get("x.example", "/"), vec![("a", 50), ("closed", 50)]),
            ],
        },
        tls(
            "TLSRouteInvalidBackendRefNonexistent",
            &to("gone"),
            "ResolvedRefs=False BackendNotFound",
        ),
        tls(
            "TLSRouteInvalidBackendRefUnknownKind",
            "{kind: NotAService, name: s, port: 1}",
            "ResolvedRefs=False InvalidKind",
        ),
        tls(
            "TLSRouteInvalidReferenceGrant",
            &to("s").replace('}', ", namespace: $NS-back}"),
            "ResolvedRefs=False RefNotPermitted",
        ),
        Row {
            name: "TLSRouteInvalidNoMatchingListener",
            steps: vec![
                Step::Apply(
                    gateway(
                        "{name: web, port: $PORT, protocol: HTTPS, hostname: x.example, tls: {certificateRefs: [{name: cert}]}}",
                    ) + &secure()
                        + &tls_route("web", "hostnames: [x.example],", &to("s"))
                        + &tls_route(
                            "section",
                            "parentRefs: [{name: gw, sectionName: gone}], hostnames: [x.example],",
                            &to("s"),
                        ),
                ),
                Step::Says("TLSRoute web", "Accepted=False NotAllowedByListeners"),
                Step::Says("TLSRoute section", "Accepted=False NoMatchingParent"),
                Step::Says("Gateway gw web", "attachedRoutes=0"),
            ],
        },
        Row {
            name: "TLSRouteInvalidNoMatchingListenerHostname",
            steps: vec![
                Step::Apply(
                    gateway(&passed("tls", "secure.example", ""))
                        + &secure()
                        + &tls_route("r", "hostnames: [other.example],", &to("s")),
                ),
                Step::Says("TLSRoute r", "Accepted=False NoMatchingListenerHostname"),
                Step::Says("Gateway gw tls", "attachedRoutes=0"),
            ],
        },
        Row {
            name: "HTTPRouteDisallowedKind",
            steps: vec![
                Step::Apply(
                    gateway(&passed("tls", "secure.example", ""))
                        + &secure()
                        + &route("HTTPRoute", "r", "", &format!("{{backendRefs: [{}]}}", to("a"))),
                ),
                Step::Says("HTTPRoute r", "Accepted=False NotAllowedByListeners"),
                Step::Says("Gateway gw tls", "attachedRoutes=0"),
            ],
        },
    ]
}
