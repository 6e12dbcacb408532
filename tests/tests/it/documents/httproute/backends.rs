//! Where requests go: backends, weights, grants.

use super::{ACCEPTED, all_to, grant, http, in_namespace, rule, ruled, weighted};
use crate::documents::{Row, Step, backends, get, plain, to};

pub(super) fn rows() -> Vec<Row> {
    let back = |grants: String| {
        plain()
            + &in_namespace("back", &backends())
            + &grants
            + &http(
                "r",
                "",
                &format!(
                    "{{matches: [{{path: {{value: /back}}}}], backendRefs: [{}]}}, {}",
                    to("b").replace('}', ", namespace: $NS-back}"),
                    rule("{path: {value: /own}}", "a")
                ),
            )
    };
    let refused = |name, grants: String| Row {
        name,
        steps: vec![
            Step::Apply(back(grants)),
            Step::Says("HTTPRoute r", "Accepted=True Accepted, ResolvedRefs=False RefNotPermitted"),
            get("x.example", "/back").status(500),
            get("x.example", "/own").from("a"),
        ],
    };
    vec![
        Row {
            name: "HTTPRouteInvalidBackendRefUnknownKind",
            steps: vec![
                ruled("{backendRefs: [{kind: NotAService, name: a, port: 80}]}"),
                Step::Says("HTTPRoute r", "Accepted=True Accepted, ResolvedRefs=False InvalidKind"),
                get("x.example", "/").status(500),
            ],
        },
        Row {
            name: "HTTPRouteInvalidNonExistentBackendRef",
            steps: vec![
                ruled(&all_to("gone")),
                Step::Says(
                    "HTTPRoute r",
                    "Accepted=True Accepted, ResolvedRefs=False BackendNotFound",
                ),
                get("x.example", "/").status(500),
            ],
        },
        refused("HTTPRouteInvalidCrossNamespaceBackendRef", String::new()),
        refused("HTTPRouteInvalidReferenceGrant: another kind", grant("GRPCRoute", "")),
        refused("HTTPRouteInvalidReferenceGrant: another name", grant("HTTPRoute", ", name: c")),
        refused(
            "HTTPRoutePartiallyInvalidViaInvalidReferenceGrant",
            grant("HTTPRoute", ", name: a"),
        ),
        Row {
            name: "HTTPRouteReferenceGrant",
            steps: vec![
                Step::Apply(back(grant("HTTPRoute", ", name: b"))),
                Step::Says("HTTPRoute r", ACCEPTED),
                get("x.example", "/back").from("b"),
                Step::Delete("ReferenceGrant $NS-back/grant"),
                Step::Says("HTTPRoute r", "ResolvedRefs=False RefNotPermitted"),
                get("x.example", "/back").status(500),
            ],
        },
        Row {
            name: "HTTPRouteNoBackendRefs",
            steps: vec![
                ruled("{matches: [{path: {value: /absent}}]}, {matches: [{path: {value: /empty}}], backendRefs: []}"),
                Step::Says("HTTPRoute r", ACCEPTED),
                get("x.example", "/absent").status(500),
                get("x.example", "/empty").status(500),
                get("x.example", "/").status(404),
            ],
        },
        Row {
            name: "HTTPRouteWeight",
            steps: vec![
                ruled(&format!(
                                "{{backendRefs: [{}, {}, {}]}}",
                                weighted("a", 70),
                                weighted("b", 30),
                                weighted("c", 0)
                            )),
                Step::Shares(get("x.example", "/"), vec![("a", 70), ("b", 30), ("c", 0)]),
            ],
        },
        Row {
            name: "an invalid backend keeps its share, which answers 500",
            steps: vec![
                ruled(&format!(
                                "{{backendRefs: [{}, {}]}}",
                                weighted("a", 1),
                                weighted("gone", 1)
                            )),
                Step::Shares(get("x.example", "/"), vec![("a", 50), ("500", 50)]),
            ],
        },
        Row {
            name: "HTTPRouteServiceTypes",
            steps: vec![
                Step::Apply(
                    plain()
                        + &service("cluster", "", "$a")
                        + &service("headless", "clusterIP: None, ", "$b")
                        + &service("manual", "", "$c").replace("selector: {app: manual}, ", "")
                        + &http("r", "", &["cluster", "headless", "manual"].map(|name| format!(
                            "{{matches: [{{path: {{value: /{name}}}}}], backendRefs: [{{name: {name}, port: 8080}}]}}")).join(",")),
                ),
                Step::Says("HTTPRoute r", ACCEPTED),
                get("x.example", "/cluster").from("a"),
                get("x.example", "/headless").from("b"),
                get("x.example", "/manual").from("c"),
                Step::Delete("EndpointSlice manual-1"),
                get("x.example", "/manual").status(503),
                Step::Delete("Service headless"),
                Step::Says("HTTPRoute r", "ResolvedRefs=False BackendNotFound"),
                get("x.example", "/headless").status(500),
            ],
        },
        Row {
            name: "HTTPRouteBackendProtocolH2C",
            steps: vec![
                Step::Apply(
                    plain().replace(
                        "name: a}, spec: {",
                        "name: a}, spec: {appProtocol: kubernetes.io/h2c, ",
                    ) + &http("r", "", &all_to("a")),
                ),
                get("x.example", "/").saw("a", &[("version", "HTTP/2.0")]),
            ],
        },
        Row {
            name: "HTTPRouteBackendProtocolWebSocket",
            steps: vec![
                Step::Apply(
                    plain().replace(
                        "name: a}, spec: {",
                        "name: a}, spec: {appProtocol: kubernetes.io/ws, ",
                    ) + &http("r", "", &all_to("a")),
                ),
                get("x.example", "/")
                    .header("connection", "upgrade")
                    .header("upgrade", "websocket")
                    .with(101, &[("upgrade", "websocket")]),
            ],
        },
    ]
}

/// A Service with one endpoint, on this port.
fn service(name: &str, more: &str, port: &str) -> String {
    format!(
        "---
{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{more}selector: {{app: {name}}}, ports: [{{name: http, port: 8080, targetPort: 3000}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
endpoints: [{{addresses: [127.0.0.1]}}]
ports: [{{name: http, port: {port}}}]
"
    )
}
