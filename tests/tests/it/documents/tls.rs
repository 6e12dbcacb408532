//! TLS of a Gateway towards clients and backends.

use super::{Over, Row, Step, backends, gateway, get, hold, route, to};

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_tls_hold() {
    hold("rows_of_tls_hold", clients()).await;
}

fn listener(name: &str, port: &str) -> String {
    format!(
        "{{name: {name}, port: {port}, protocol: HTTPS, hostname: x.example, tls: {{certificateRefs: [{{name: cert}}]}}}}"
    )
}

/// A Gateway with listeners on `$PORT` and `$PORT2`, whose `spec.tls.frontend` is this.
fn asking(frontend: &str) -> String {
    let listeners = [
        listener("one", "$PORT"),
        listener("two", "$PORT2"),
        "{name: http, port: $PORT3, protocol: HTTP}".to_owned(),
    ];
    gateway(&listeners.join(",")).replace("weighlock, addr", &format!("weighlock, tls: {{frontend: {{{frontend}}}}}, addr"))
        + "---
{apiVersion: v1, kind: Secret, metadata: {name: cert}, type: kubernetes.io/tls, stringData: {tls.crt: $CERT, tls.key: $KEY}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: ca}, data: {ca.crt: $CA}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: other}, data: {ca.crt: $OTHERCA}}
"
        + &backends()
        + &route("HTTPRoute", "r", "", &format!("{{backendRefs: [{}]}}", to("a")))
}

fn validation(kind: &str, name: &str, more: &str) -> String {
    format!(
        "validation: {{caCertificateRefs: [{{group: \"\", kind: {kind}, name: {name}}}]{more}}}"
    )
}

fn clients() -> Vec<Row> {
    let ask = |port, over| get("x.example", "/").at(port).over(over);
    let (shown, other, none) =
        (Over::Shown("x.example"), Over::ShownOther("x.example"), Over::Tls("x.example"));
    let default = format!("default: {{{}}}", validation("ConfigMap", "ca", ""));
    vec![
        Row {
            name: "GatewayFrontendClientCertificateValidation",
            steps: vec![
                Step::Apply(asking(&format!(
                    "{default}, perPort: [{{port: $PORT2, tls: {{{}}}}}]",
                    validation("ConfigMap", "other", "")
                ))),
                Step::Says(
                    "Gateway gw one",
                    "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs, Programmed=True Programmed",
                ),
                ask("$PORT", shown).from("a"),
                ask("$PORT", other).closed(),
                ask("$PORT", none).closed(),
                ask("$PORT2", other).from("a"),
                ask("$PORT2", shown).closed(),
                get("x.example", "/").at("$PORT3").from("a"),
                Step::Silent("Gateway gw", "InsecureFrontendValidationMode"),
            ],
        },
        Row {
            name: "GatewayFrontendInvalidDefaultClientCertificateValidation",
            steps: vec![
                Step::Apply(asking(&format!(
                    "default: {{{}}}, perPort: [{{port: $PORT2, tls: {{}}}}]",
                    validation("ConfigMap", "gone", "")
                ))),
                Step::Says(
                    "Gateway gw one",
                    "Accepted=False NoValidCACertificate, ResolvedRefs=False InvalidCACertificateRef, Programmed=False Invalid",
                ),
                Step::Says(
                    "Gateway gw two",
                    "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs",
                ),
                Step::Says(
                    "Gateway gw http",
                    "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs",
                ),
                Step::Gone("$PORT"),
                ask("$PORT2", none).from("a"),
                get("x.example", "/").at("$PORT3").from("a"),
            ],
        },
        Row {
            name: "GatewayInvalidFrontendClientCertificateValidation",
            steps: vec![
                Step::Apply(asking(&format!(
                    "{default}, perPort: [{{port: $PORT2, tls: {{{}}}}}]",
                    validation("Secret", "cert", "")
                ))),
                Step::Says(
                    "Gateway gw two",
                    "Accepted=False NoValidCACertificate, ResolvedRefs=False InvalidCACertificateKind",
                ),
                Step::Says("Gateway gw", "ResolvedRefs=False ListenersNotResolved"),
                Step::Gone("$PORT2"),
                ask("$PORT", shown).from("a"),
                Step::Apply(asking(&format!(
                    "{default}, perPort: [{{port: $PORT2, tls: {{{}}}}}]",
                    validation("ConfigMap", "ca", "")
                        .replace("name: ca", "name: ca, namespace: $NS-other")
                ))),
                Step::Says(
                    "Gateway gw two",
                    "Accepted=False NoValidCACertificate, ResolvedRefs=False RefNotPermitted",
                ),
            ],
        },
    ]
}
