//! What browsers ask before they let pages read answers.

use super::{filtered_rule, ruled};
use crate::documents::{Row, get, to};

pub(super) fn rows() -> Vec<Row> {
    let cors = |cors: &str| format!("{{type: CORS, cors: {{{cors}}}}}");
    let preflight = |path, origin, method| {
        get("x.example", path)
            .method("OPTIONS")
            .header("origin", origin)
            .header("access-control-request-method", method)
    };
    const ORIGIN: &str = "access-control-allow-origin";
    vec![Row {
        name: "HTTPRouteCORS",
        steps: vec![
            ruled(&[
                filtered_rule("/narrow", &cors("allowOrigins: [\"https://www.foo.com\", \"https://*.bar.com\"], allowMethods: [GET, OPTIONS], allowHeaders: [x-header-1, x-header-2], exposeHeaders: [x-header-3, x-header-4], allowCredentials: true, maxAge: 3600")),
                filtered_rule("/methods", &cors("allowOrigins: [\"https://www.foo.com\"], allowMethods: [\"*\"]")),
                filtered_rule("/origins", &cors("allowOrigins: [\"*\"], allowMethods: [PUT]")),
                filtered_rule("/all", &cors("allowOrigins: [\"https://www.foo.com\"], allowMethods: [\"*\"], allowHeaders: [\"*\"], allowCredentials: true")),
                format!("{{matches: [{{path: {{value: /put}}, method: PUT}}], filters: [{}], backendRefs: [{}]}}",
                    cors("allowOrigins: [\"https://www.foo.com\"], allowMethods: [PUT]"), to("a")),
            ].join(",")),
            preflight("/narrow", "https://www.foo.com", "GET").with(200, &[
                (ORIGIN, "https://www.foo.com"),
                ("access-control-allow-methods", "GET, OPTIONS"),
                ("access-control-allow-headers", "x-header-1, x-header-2"),
                ("access-control-expose-headers", "x-header-3, x-header-4"),
                ("access-control-allow-credentials", "true"),
                ("access-control-max-age", "3600"),
                ("x-backend", ""),
            ]),
            preflight("/narrow", "https://www.bar.com", "GET").with(200, &[(ORIGIN, "https://www.bar.com")]),
            preflight("/narrow", "https://xpto.www.bar.com", "GET").with(200, &[(ORIGIN, "https://xpto.www.bar.com")]),
            preflight("/narrow", "https://foobar.com", "GET").with(200, &[(ORIGIN, ""), ("x-backend", "")]),
            get("x.example", "/narrow").header("origin", "https://www.foo.com").with(200, &[
                (ORIGIN, "https://www.foo.com"),
                ("access-control-expose-headers", "x-header-3, x-header-4"),
                ("access-control-allow-credentials", "true"),
                ("x-backend", "a"),
            ]),
            get("x.example", "/narrow").header("origin", "https://foobar.com").with(200, &[(ORIGIN, ""), ("x-backend", "a")]),
            get("x.example", "/narrow").method("OPTIONS").header("origin", "https://www.foo.com").from("a"),
            preflight("/methods", "https://www.foo.com", "POST").with(200, &[
                (ORIGIN, "https://www.foo.com"),
                ("access-control-allow-credentials", ""),
                ("access-control-max-age", "5"),
            ]),
            preflight("/origins", "https://anybody.com:12345", "PUT").with(200, &[
                (ORIGIN, "https://anybody.com:12345"),
                ("access-control-allow-methods", "PUT"),
            ]),
            get("x.example", "/origins").header("origin", "https://anybody.com:12345").with(200, &[(ORIGIN, "https://anybody.com:12345")]),
            preflight("/all", "https://www.foo.com", "PUT").header("access-control-request-headers", "x-1, x-2").with(200, &[
                ("access-control-allow-methods", "PUT"),
                ("access-control-allow-headers", "x-1, x-2"),
                ("access-control-allow-credentials", "true"),
            ]),
            preflight("/put", "https://www.foo.com", "PUT").with(200, &[("access-control-allow-methods", "PUT")]),
            preflight("/put", "https://www.foo.com", "GET").status(404),
            get("x.example", "/put").method("OPTIONS").status(404),
        ],
    }]
}
