//! GRPCRoute: calls, told apart by service, method and headers.

use super::{Call, Over, Row, Step, backends, gateway, get, hold, plain, route, to};

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_grpcroute_hold() {
    hold("rows_of_grpcroute_hold", rows()).await;
}

/// A call as gRPC makes it: a POST over HTTP/2.
fn call(host: &'static str, path: &'static str) -> Call {
    let call = get(host, path).method("POST").over(Over::Http2);
    call.header("content-type", "application/grpc").header("te", "trailers")
}

fn grpc(name: &str, more: &str, rules: &str) -> String {
    route("GRPCRoute", name, more, rules)
}

/// A call that no route takes.
fn unimplemented(call: Call) -> Step {
    call.with(200, &[("grpc-status", "12")])
}

fn rows() -> Vec<Row> {
    let (a, b, c) = (to("a"), to("b"), to("c"));
    let weighted = |name, weight| to(name).replace('}', &format!(", weight: {weight}}}"));
    vec![
        Row {
            name: "GRPCExactMethodMatching",
            steps: vec![
                Step::Apply(plain() + &grpc("calls", "", &format!(
                    "{{matches: [{{method: {{service: shop.Orders, method: Get}}}}], backendRefs: [{a}]}},
                     {{matches: [{{method: {{service: shop.Orders, method: List}}}}], backendRefs: [{b}]}}"))),
                Step::Says("GRPCRoute calls", "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs"),
                call("x.example", "/shop.Orders/Get").saw("a", &[("version", "HTTP/2.0"), ("path", "/shop.Orders/Get")]),
                call("x.example", "/shop.Orders/List").from("b"),
                unimplemented(call("x.example", "/shop.Orders/Other")),
                unimplemented(call("x.example", "/shop.Other/Get")),
            ],
        },
        Row {
            name: "GRPCRouteHeaderMatching",
            steps: vec![
                Step::Apply(plain() + &grpc("calls", "", &format!(
                    "{{matches: [{{headers: [{{name: version, value: one}}]}}], backendRefs: [{a}]}},
                     {{matches: [{{headers: [{{name: version, value: two}}, {{name: Color, value: red}}]}}], backendRefs: [{b}]}},
                     {{matches: [{{headers: [{{type: RegularExpression, name: version, value: \"t.*\"}}]}}], backendRefs: [{c}]}}"))),
                call("x.example", "/s.S/M").header("version", "one").from("a"),
                call("x.example", "/s.S/M").header("version", "two").header("color", "red").from("b"),
                call("x.example", "/s.S/M").header("version", "two").from("c"),
                call("x.example", "/s.S/M").header("version", "three").from("c"),
                unimplemented(call("x.example", "/s.S/M").header("version", "four")),
            ],
        },
        Row {
            name: "GRPCRouteListenerHostnameMatching",
            steps: vec![
                Step::Apply(gateway(
                    "{name: one, port: $PORT, protocol: HTTP, hostname: one.example},
                     {name: two, port: $PORT, protocol: HTTP, hostname: two.example},
                     {name: all, port: $PORT, protocol: HTTP, hostname: \"*.wide.example\"}") + &backends()
                    + &grpc("one", "parentRefs: [{name: gw, sectionName: one}],", &format!("{{backendRefs: [{a}]}}"))
                    + &grpc("two", "parentRefs: [{name: gw, sectionName: two}],", &format!("{{backendRefs: [{b}]}}"))
                    + &grpc("all", "parentRefs: [{name: gw, sectionName: all}],", &format!("{{backendRefs: [{c}]}}"))),
                call("one.example", "/s.S/M").from("a"),
                call("two.example", "/s.S/M").from("b"),
                call("x.wide.example", "/s.S/M").from("c"),
                call("y.x.wide.example", "/s.S/M").from("c"),
                unimplemented(call("other.example", "/s.S/M")),
            ],
        },
        Row {
            name: "GRPCRouteWeight",
            steps: vec![
                Step::Apply(plain() + &grpc("calls", "", &format!(
                    "{{backendRefs: [{}, {}, {}]}}", weighted("a", 70), weighted("b", 30), weighted("c", 0)))),
                Step::Shares(call("x.example", "/s.S/M").over(Over::Http1), vec![("a", 70), ("b", 30), ("c", 0)]),
            ],
        },
        Row {
            name: "GRPCRouteNamedRule",
            steps: vec![
                Step::Apply(plain() + &grpc("calls", "", &format!("{{name: main, backendRefs: [{a}]}}"))),
                call("x.example", "/s.S/M").from("a"),
            ],
        },
        Row {
            name: "a call to a missing backend is unavailable",
            steps: vec![
                Step::Apply(plain() + &grpc("calls", "", &format!("{{backendRefs: [{}]}}", to("gone")))),
                Step::Says("GRPCRoute calls", "Accepted=True Accepted, ResolvedRefs=False BackendNotFound"),
                call("x.example", "/s.S/M").with(200, &[("grpc-status", "14")]),
            ],
        },
        Row {
            name: "an HTTPRoute and a GRPCRoute do not share a hostname",
            steps: vec![
                Step::Apply(plain() + &route("HTTPRoute", "old", "hostnames: [x.example],", &format!("{{backendRefs: [{a}]}}"))),
                Step::Says("HTTPRoute old", "Accepted=True Accepted"),
                Step::Apply(grpc("young", "hostnames: [\"*.example\"],", &format!("{{backendRefs: [{b}]}}"))),
                Step::Says("GRPCRoute young", "Accepted=False HostnameConflict"),
                Step::Says("Gateway gw http", "attachedRoutes=1, supportedKinds=HTTPRoute+GRPCRoute"),
                get("x.example", "/").from("a"),
                Step::Delete("HTTPRoute old"),
                Step::Says("GRPCRoute young", "Accepted=True Accepted"),
                call("x.example", "/s.S/M").from("b"),
            ],
        },
    ]
}
