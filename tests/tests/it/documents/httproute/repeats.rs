//! Copies, further tries, and sessions.

use super::{filtered_rule, http, ruled};
use crate::documents::{Row, Step, get, plain, to};

pub(super) fn rows() -> Vec<Row> {
    let mirror = |name: &str, more: &str| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {}{more}}}}}", to(name))
    };
    let all = "---
{apiVersion: weighlock.dev/v1alpha1, kind: Backend, metadata: {name: all}, spec: {endpoints: [{ip: 127.0.0.1, port: $a}, {ip: 127.0.0.1, port: $b}, {ip: 127.0.0.1, port: $c}]}}
";
    let kept = |name, session: &str, (said, sent)| Row {
        name,
        steps: vec![
            Step::Apply(
                plain()
                    + all
                    + &http(
                        "r",
                        "",
                        &format!(
                            "{{sessionPersistence: {{{session}}}, backendRefs: [{}]}}",
                            to("all")
                        ),
                    ),
            ),
            Step::Stays(get("x.example", "/"), said, sent),
        ],
    };
    vec![
        Row {
            name: "HTTPRouteRequestMirror",
            steps: vec![
                ruled(&filtered_rule("/", &mirror("b", ""))),
                get("x.example", "/").from("a"),
                Step::Copies(get("x.example", "/"), "b", 100),
            ],
        },
        Row {
            name: "HTTPRouteRequestMultipleMirrors",
            steps: vec![
                ruled(&filtered_rule("/", &[mirror("b", ""), mirror("c", ""), mirror("gone", "")].join(","))),
                Step::Says("HTTPRoute r", "Accepted=True Accepted, ResolvedRefs=False BackendNotFound"),
                get("x.example", "/").from("a"),
                Step::Copies(get("x.example", "/"), "b", 100),
                Step::Copies(get("x.example", "/"), "c", 100),
            ],
        },
        Row {
            name: "HTTPRouteRequestPercentageMirror",
            steps: vec![
                ruled(&[
                    filtered_rule("/percent", &mirror("b", ", percent: 20")),
                    filtered_rule("/fraction", &mirror("b", ", fraction: {numerator: 1, denominator: 2}")),
                    filtered_rule("/none", &mirror("b", ", percent: 0")),
                ].join(",")),
                get("x.example", "/percent").from("a"),
                Step::Copies(get("x.example", "/percent"), "b", 20),
                Step::Copies(get("x.example", "/fraction"), "b", 50),
                Step::Copies(get("x.example", "/none"), "b", 0),
            ],
        },
        Row {
            name: "HTTPRouteRetry",
            steps: vec![
                ruled(&[
                    format!("{{retry: {{codes: [500, 502, 503, 504], attempts: 2, backoff: 1ms}}, backendRefs: [{}]}}", to("a")),
                    format!("{{matches: [{{headers: [{{name: x-plain, value: \"1\"}}]}}], backendRefs: [{}]}}", to("a")),
                ].join(",")),
                get("x.example", "/").from("a"),
                get("x.example", "/status/503").status(503),
                Step::Tries(get("x.example", "/status/500"), "a", 3),
                Step::Tries(get("x.example", "/status/502"), "a", 3),
                Step::Tries(get("x.example", "/status/503"), "a", 3),
                Step::Tries(get("x.example", "/status/504"), "a", 3),
                Step::Tries(get("x.example", "/status/501"), "a", 1),
                Step::Tries(get("x.example", "/status/200"), "a", 1),
                Step::Tries(get("x.example", "/status/503").method("POST"), "a", 1),
                Step::Tries(get("x.example", "/status/503").method("PUT"), "a", 3),
                Step::Tries(get("x.example", "/status/503").header("x-plain", "1"), "a", 1),
            ],
        },
        kept("a session is kept by a cookie", "sessionName: sid", ("set-cookie", "cookie")),
        kept(
            "a session is kept by a cookie that lasts",
            "absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}",
            ("set-cookie", "cookie"),
        ),
        kept("a session is kept by a header", "type: Header, sessionName: x-session", ("x-session", "x-session")),
    ]
}
