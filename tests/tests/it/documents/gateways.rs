//! Gateway and GatewayClass: listeners, certificates, grants, and what is said of them.

use super::{Over, Row, Step, backends, gateway, get, hold, plain, route, to};

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_gateway_hold() {
    hold("rows_of_gateway_hold", rows()).await;
}

fn http(name: &str, more: &str) -> String {
    route("HTTPRoute", name, more, &format!("{{backendRefs: [{}]}}", to("a")))
}

/// A listener with a certificate: its references.
fn https(references: &str) -> String {
    gateway(&format!(
        "{{name: https, port: $PORT, protocol: HTTPS, hostname: x.example, tls: {{certificateRefs: [{references}]}}}}"
    ))
}

fn secret(name: &str, namespace: &str) -> String {
    format!(
        "---
{{apiVersion: v1, kind: Secret, metadata: {{name: {name}, namespace: {namespace}}}, type: kubernetes.io/tls, stringData: {{tls.crt: $CERT, tls.key: $KEY}}}}
"
    )
}

fn grant(to: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: certificates, namespace: $NS-certs}}
spec: {{from: [{{group: gateway.networking.k8s.io, kind: Gateway, namespace: $NS}}], to: [{to}]}}
"
    )
}

fn rows() -> Vec<Row> {
    let mut rows = classes();
    rows.extend(listeners());
    rows.extend(certificates());
    rows
}

fn class(controller: &str, more: &str) -> String {
    format!(
        "---
{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {{name: $NS}}, spec: {{controllerName: {controller}{more}}}}}
"
    )
}

const OURS: &str = "weighlock.dev/gateway-controller";
const PARAMETERS: &str = ", parametersRef: {group: weighlock.dev, kind: Parameters, name: p}";

fn classes() -> Vec<Row> {
    vec![
        Row {
            name: "GatewayClassObservedGenerationBump",
            steps: vec![
                Step::Apply(class(OURS, "")),
                Step::Says("GatewayClass $NS", "Accepted=True Accepted"),
                Step::Apply(class(OURS, ", description: changed")),
                Step::Current("GatewayClass $NS"),
                Step::Says("GatewayClass $NS", "Accepted=True Accepted"),
            ],
        },
        Row {
            name: "GatewayInvalidParametersRef",
            steps: vec![
                Step::Apply(class(OURS, PARAMETERS)),
                Step::Says("GatewayClass $NS", "Accepted=False InvalidParameters"),
                Step::Apply(plain().replace("weighlock, addr", "weighlock, infrastructure: {parametersRef: {group: weighlock.dev, kind: P, name: p}}, addr")),
                Step::Says("Gateway gw", "Accepted=False InvalidParameters, Programmed=False Invalid"),
            ],
        },
        Row {
            name: "a class of another controller is left alone",
            steps: vec![
                Step::Apply(class("example.com/other", "")
                    + &plain().replace("gatewayClassName: weighlock", "gatewayClassName: $NS")
                    + &http("r", "")),
                Step::Apply(class(OURS, "").replace("$NS", "$NS-ours")),
                Step::Says("GatewayClass $NS-ours", "Accepted=True Accepted"),
            ],
        },
    ]
}

fn listeners() -> Vec<Row> {
    vec![
        Row {
            name: "GatewayInvalidRouteKind",
            steps: vec![
                Step::Apply(gateway(
                    "{name: none, port: $PORT, protocol: HTTP, allowedRoutes: {kinds: [{kind: InvalidRoute}]}},
                     {name: one, port: $PORT2, protocol: HTTP, allowedRoutes: {kinds: [{kind: InvalidRoute}, {kind: HTTPRoute}]}}") + &backends() + &http("r", "")),
                Step::Says("Gateway gw none", "ResolvedRefs=False InvalidRouteKinds, supportedKinds=, attachedRoutes=0"),
                Step::Says("Gateway gw one", "ResolvedRefs=False InvalidRouteKinds, supportedKinds=HTTPRoute, attachedRoutes=1"),
                get("x.example", "/").at("$PORT2").from("a"),
            ],
        },
        Row {
            name: "GatewayListenerUnsupportedProtocol",
            steps: vec![
                Step::Apply(gateway("{name: odd, port: $PORT, protocol: example.com/odd}")),
                Step::Says("Gateway gw odd", "Accepted=False UnsupportedProtocol, Programmed=False Invalid"),
                Step::Says("Gateway gw", "Accepted=False ListenersNotValid, Programmed=False Invalid"),
                Step::Apply(gateway(
                    "{name: odd, port: $PORT, protocol: example.com/odd}, {name: http, port: $PORT2, protocol: HTTP}") + &backends() + &http("r", "")),
                Step::Says("Gateway gw", "Accepted=True ListenersNotValid, Programmed=True Programmed"),
                Step::Says("Gateway gw http", "Accepted=True Accepted, Programmed=True Programmed"),
                get("x.example", "/").at("$PORT2").from("a"),
            ],
        },
        Row {
            name: "GatewayModifyListeners",
            steps: vec![
                Step::Apply(plain() + &http("r", "")),
                get("x.example", "/").from("a"),
                Step::Apply(gateway("{name: http, port: $PORT, protocol: HTTP}, {name: more, port: $PORT2, protocol: HTTP}")),
                Step::Says("Gateway gw more", "Programmed=True Programmed, attachedRoutes=1"),
                get("x.example", "/").at("$PORT2").from("a"),
                get("x.example", "/").from("a"),
                Step::Apply(gateway("{name: more, port: $PORT2, protocol: HTTP}")),
                Step::Gone("$PORT"),
                get("x.example", "/").at("$PORT2").from("a"),
            ],
        },
        Row {
            name: "GatewayObservedGenerationBump",
            steps: vec![
                Step::Apply(plain()),
                Step::Says("Gateway gw", "Accepted=True Accepted, Programmed=True Programmed"),
                Step::Apply(gateway("{name: http, port: $PORT, protocol: HTTP, hostname: x.example}")),
                Step::Current("Gateway gw"),
                Step::Current("Gateway gw http"),
                Step::Says("Gateway gw", "Accepted=True Accepted, Programmed=True Programmed"),
            ],
        },
        Row {
            name: "listeners of one port and hostname conflict",
            steps: vec![
                Step::Apply(gateway(
                    "{name: one, port: $PORT, protocol: HTTP}, {name: two, port: $PORT, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}},
                     {name: other, port: $PORT2, protocol: HTTP}") + &backends() + &http("r", "")),
                Step::Says("Gateway gw one", "Accepted=False ProtocolConflict, Conflicted=True ProtocolConflict, Programmed=False ProtocolConflict"),
                Step::Says("Gateway gw two", "Accepted=False ProtocolConflict, Conflicted=True ProtocolConflict"),
                Step::Says("Gateway gw other", "Accepted=True Accepted, Conflicted=False NoConflicts"),
                get("x.example", "/").at("$PORT2").from("a"),
            ],
        },
    ]
}

fn certificates() -> Vec<Row> {
    let own = "{name: c}";
    let elsewhere = "{name: c, namespace: $NS-certs}";
    let served = |name, grants: String| Row {
        name,
        steps: vec![
            Step::Apply(
                https(elsewhere)
                    + &secret("c", "$NS-certs")
                    + &grants
                    + &backends()
                    + &http("r", ""),
            ),
            Step::Says(
                "Gateway gw https",
                "ResolvedRefs=True ResolvedRefs, Programmed=True Programmed",
            ),
            get("x.example", "/").over(Over::Tls("x.example")).from("a"),
        ],
    };
    let refused = |name, grants: String| Row {
        name,
        steps: vec![
            Step::Apply(https(elsewhere) + &secret("c", "$NS-certs") + &grants),
            Step::Says(
                "Gateway gw https",
                "Accepted=True Accepted, ResolvedRefs=False RefNotPermitted, Programmed=False Invalid",
            ),
            Step::Says(
                "Gateway gw",
                "Accepted=True Accepted, ResolvedRefs=False ListenersNotResolved",
            ),
        ],
    };
    let broken = |name, documents: String| Row {
        name,
        steps: vec![
            Step::Apply(documents),
            Step::Says(
                "Gateway gw https",
                "ResolvedRefs=False InvalidCertificateRef, Programmed=False Invalid",
            ),
        ],
    };
    vec![
        broken("GatewayInvalidTLSConfiguration: missing", https(own)),
        broken(
            "GatewayInvalidTLSConfiguration: of another type",
            https(own)
                + "---\n{apiVersion: v1, kind: Secret, metadata: {name: c}, stringData: {tls.crt: none, tls.key: none}}\n",
        ),
        Row {
            name: "GatewayInvalidTLSConfiguration: malformed",
            steps: vec![Step::Refused(secret("c", "$NS").replace("$KEY", "$CERT"), "WL0201")],
        },
        broken(
            "GatewayInvalidTLSConfiguration: of another kind",
            https("{name: c, group: weighlock.dev, kind: Backend}"),
        ),
        refused("GatewaySecretMissingReferenceGrant", String::new()),
        refused(
            "GatewaySecretInvalidReferenceGrant",
            grant("{group: \"\", kind: Secret, name: other}"),
        ),
        served("GatewaySecretReferenceGrantAllInNamespace", grant("{group: \"\", kind: Secret}")),
        served(
            "GatewaySecretReferenceGrantSpecific",
            grant("{group: \"\", kind: Secret, name: c}"),
        ),
    ]
}
