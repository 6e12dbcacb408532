//! Which requests a rule is for.

use super::{http, rule, ruled};
use crate::documents::{Row, Step, get, plain};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row {
            name: "HTTPRouteExactPathMatching",
            steps: vec![
                ruled(&[
                    rule("{path: {type: Exact, value: /one}}", "a"), rule("{path: {type: Exact, value: /two}}", "b"),
                ].join(",")),
                get("x.example", "/one").from("a"),
                get("x.example", "/two?x=1").from("b"),
                get("x.example", "/one/").status(404),
                get("x.example", "/One").status(404),
                get("x.example", "/").status(404),
                get("x.example", "/one/example").status(404),
            ],
        },
        Row {
            name: "HTTPRouteHeaderMatching",
            steps: vec![
                ruled(&[
                    rule("{headers: [{name: version, value: one}]}", "a"),
                    rule("{headers: [{name: version, value: two}, {name: Color, value: orange}]}", "b"),
                    rule("{headers: [{name: color, value: blue}]}, {headers: [{name: color, value: green}]}", "c"),
                ].join(",")),
                get("x.example", "/").header("version", "one").from("a"),
                get("x.example", "/").header("VERSION", "one").from("a"),
                get("x.example", "/").header("version", "two").header("color", "orange").from("b"),
                get("x.example", "/").header("version", "two").status(404),
                get("x.example", "/").header("color", "green").from("c"),
                get("x.example", "/").header("color", "Green").status(404),
            ],
        },
        Row {
            name: "HTTPRouteMatching",
            steps: vec![
                ruled(&[
                    rule("{path: {value: /}}, {headers: [{name: version, value: one}]}", "a"),
                    rule("{path: {value: /v2}}, {headers: [{name: version, value: two}]}", "b"),
                ].join(",")),
                get("x.example", "/").from("a"),
                get("x.example", "/example").from("a"),
                get("x.example", "/").header("version", "one").from("a"),
                get("x.example", "/v2").from("b"),
                get("x.example", "/v2/x").from("b"),
                get("x.example", "/v2example").from("a"),
                get("x.example", "/").header("version", "two").from("b"),
            ],
        },
        Row {
            name: "HTTPRouteMatchingAcrossRoutes",
            steps: vec![
                Step::Apply(plain()
                    + &http("one", "hostnames: [x.example, y.example],", &[rule("{path: {value: /}}", "a"), rule("{path: {value: /v2}, headers: [{name: version, value: two}]}", "c")].join(","))
                    + &http("two", "hostnames: [x.example],", &rule("{path: {value: /v2}}", "b"))),
                get("x.example", "/").from("a"),
                get("x.example", "/v2").from("b"),
                get("x.example", "/v2").header("version", "two").from("c"),
                get("y.example", "/v2").from("a"),
            ],
        },
        Row {
            name: "HTTPRoutePathMatchOrder",
            steps: vec![
                ruled(&[
                    rule("{path: {value: /match}}", "a"),
                    rule("{path: {value: /match/prefix}}", "b"),
                    rule("{path: {type: Exact, value: /match/exact}}, {path: {value: /match/prefix/one}}", "c"),
                    rule("{path: {type: RegularExpression, value: \"/match/[a-z]+/regex\"}}", "c"),
                ].join(",")),
                get("x.example", "/match/x").from("a"),
                get("x.example", "/match/prefix/x").from("b"),
                get("x.example", "/match/exact").from("c"),
                get("x.example", "/match/prefix/one/x").from("c"),
                get("x.example", "/match/prefix/regex").from("c"),
                get("x.example", "/match/prefix/regex/more").from("b"),
            ],
        },
        Row {
            name: "HTTPRouteMethodMatching",
            steps: vec![
                ruled(&[
                    rule("{method: POST}", "a"), rule("{method: GET}", "b"), rule("{path: {value: /path}, method: GET}", "c"),
                ].join(",")),
                get("x.example", "/").method("POST").from("a"),
                get("x.example", "/").from("b"),
                get("x.example", "/path").from("c"),
                get("x.example", "/").method("HEAD").status(404),
            ],
        },
        Row {
            name: "HTTPRouteQueryParamMatching",
            steps: vec![
                ruled(&[
                    rule("{queryParams: [{name: animal, value: whale}]}", "a"),
                    rule("{queryParams: [{name: animal, value: dolphin}, {name: color, value: blue}]}", "b"),
                    rule("{queryParams: [{type: RegularExpression, name: animal, value: \"sh.*\"}]}", "c"),
                ].join(",")),
                get("x.example", "/?animal=whale").from("a"),
                get("x.example", "/?x=1&animal=whale&animal=shark").from("a"),
                get("x.example", "/?animal=dolphin&color=blue").from("b"),
                get("x.example", "/?animal=shark").from("c"),
                get("x.example", "/?animal=dolphin").status(404),
                get("x.example", "/?Animal=whale").status(404),
                get("x.example", "/").status(404),
            ],
        },
        Row {
            name: "HTTPRouteNamedRule",
            steps: vec![
                ruled(&[
                    rule("{path: {value: /named}}", "a").replace("{matches", "{name: named, matches"), rule("{path: {value: /other}}", "b"),
                ].join(",")),
                get("x.example", "/named").from("a"),
                get("x.example", "/other").from("b"),
            ],
        },
    ]
}
