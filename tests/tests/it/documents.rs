//! From documents to traffic: rows of the Gateway API's conformance list, each through our proxy and
//! through a real Envoy.
//!
//! A row is data: documents, and what must then be said of them and served. Its name is that of the
//! test of Gateway API v1.6.1 whose demand it holds, or a sentence of our own.

mod gateways;
mod grpcroute;
mod httproute;
mod l4route;
mod listenersets;
mod scene;
mod tls;

use std::fmt::Write;

use gateway_tests::tools;
use scene::{Scene, Side};

/// One row.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) steps: Vec<Step>,
}

/// What is done, or must be so. Texts may hold `$NS`, a namespace of the row's own, `$FLEET`, `$PORT`
/// and `$PORT2` to `$PORT9`, free ports, `$a`, `$b`, `$c`, the ports of three backends, `$s` that of one
/// that speaks TLS as `secure.example` and `spiffe://test/s`, and shown by `$CA`, `$CERT` and `$KEY`, a
/// certificate for `*.example` and its key, of that authority, and `$OTHERCA`, another authority.
pub(crate) enum Step {
    /// Documents are written one by one, as by a controller; a namespace that is not given is `$NS`.
    Apply(String),
    /// A document is refused, with this code.
    Refused(String, &'static str),
    /// `HTTPRoute NAME` or `HTTPRoute NAMESPACE/NAME` is deleted.
    Delete(&'static str),
    /// Of `HTTPRoute NAME`, `HTTPRoute NAME parents[1]` or `Gateway NAME LISTENER` this is said, with
    /// commas between: `Accepted=True Accepted`, or a field such as `attachedRoutes=1`.
    Says(&'static str, &'static str),
    /// Nothing is said of the type of condition.
    Silent(&'static str, &'static str),
    /// A list of the status has so many entries.
    Count(&'static str, &'static str, usize),
    /// Every condition is of the object's present generation.
    Current(&'static str),
    /// Nobody listens on the port.
    Gone(&'static str),
    /// What is asked is answered so.
    Answers(Call, Answer),
    /// Of many requests each backend gets so many in a hundred, give or take five.
    Shares(Call, Vec<(&'static str, u32)>),
    /// The same, of connections.
    Spread(Call, Vec<(&'static str, u32)>),
    /// One request makes so many at this backend.
    Tries(Call, &'static str, usize),
    /// Of many requests so many in a hundred reach this backend too, give or take five.
    Copies(Call, &'static str, u32),
    /// Who comes back with this header of the answer, sent as that header, stays at its backend.
    Stays(Call, &'static str, &'static str),
}

/// A request.
#[derive(Clone)]
pub(crate) struct Call {
    /// `$PORT`, or another.
    pub(crate) port: &'static str,
    pub(crate) method: &'static str,
    pub(crate) host: &'static str,
    pub(crate) path: &'static str,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) over: Over,
}

/// What carries a request.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Over {
    Http1,
    Http2,
    /// TLS for this server name, HTTP/2 by ALPN.
    Tls(&'static str),
    /// The same, by a client that shows a certificate of `$CA`.
    Shown(&'static str),
    /// The same, by a client that shows a certificate of `$OTHERCA`.
    ShownOther(&'static str),
}

/// An answer.
pub(crate) enum Answer {
    /// From this backend.
    From(&'static str),
    /// From this backend, which saw what is given: `path`, `host`, `method`, `version`, `server_name`,
    /// `certificate`, or a header; an empty text stands for nothing there.
    Saw(&'static str, Vec<(&'static str, &'static str)>),
    /// The connection is closed.
    Closed,
    /// With this status.
    Status(u16),
    /// With this status and these headers; an empty text stands for a header that is not there.
    With(u16, Vec<(&'static str, &'static str)>),
}

/// A GET of `path` at `host` on `$PORT`.
pub(crate) fn get(host: &'static str, path: &'static str) -> Call {
    let over = Over::Http1;
    Call { port: "$PORT", method: "GET", host, path, headers: Vec::new(), over }
}

impl Call {
    pub(crate) fn at(self, port: &'static str) -> Self {
        Self { port, ..self }
    }

    pub(crate) fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn over(self, over: Over) -> Self {
        Self { over, ..self }
    }

    pub(crate) fn from(self, backend: &'static str) -> Step {
        Step::Answers(self, Answer::From(backend))
    }

    pub(crate) fn saw(self, backend: &'static str, seen: &[(&'static str, &'static str)]) -> Step {
        Step::Answers(self, Answer::Saw(backend, seen.to_vec()))
    }

    pub(crate) fn status(self, status: u16) -> Step {
        Step::Answers(self, Answer::Status(status))
    }

    pub(crate) fn closed(self) -> Step {
        Step::Answers(self, Answer::Closed)
    }

    pub(crate) fn with(self, status: u16, headers: &[(&'static str, &'static str)]) -> Step {
        Step::Answers(self, Answer::With(status, headers.to_vec()))
    }
}

/// A Gateway `gw` of the row's fleet, with these listeners.
pub(crate) fn gateway(listeners: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gw, annotations: {{weighlock.dev/fleet: $FLEET}}}}
spec: {{gatewayClassName: weighlock, addresses: [{{value: 127.0.0.1}}], listeners: [{listeners}]}}
"
    )
}

/// Backends `a`, `b` and `c`, which say who they are.
pub(crate) fn backends() -> String {
    let one = |name: &str| {
        format!(
            "---
{{apiVersion: weighlock.dev/v1alpha1, kind: Backend, metadata: {{name: {name}}}, spec: {{endpoints: [{{ip: 127.0.0.1, port: ${name}}}]}}}}
"
        )
    };
    ["a", "b", "c"].map(one).concat()
}

/// [`gateway`] with one listener `http` on `$PORT`, and [`backends`].
pub(crate) fn plain() -> String {
    gateway("{name: http, port: $PORT, protocol: HTTP}") + &backends()
}

/// A route of `gw`: its rules in YAML flow style, and more of its spec.
pub(crate) fn route(kind: &str, name: &str, more: &str, rules: &str) -> String {
    let parents = if more.contains("parentRefs") { "" } else { "parentRefs: [{name: gw}], " };
    let version = if kind == "HTTPRoute" { "v1beta1" } else { "v1" };
    format!(
        "---
apiVersion: gateway.networking.k8s.io/{version}
kind: {kind}
metadata: {{name: {name}}}
spec: {{{parents}{more} rules: [{rules}]}}
"
    )
}

/// A backendRef to a Backend.
pub(crate) fn to(name: &str) -> String {
    format!("{{group: weighlock.dev, kind: Backend, name: {name}}}")
}

/// Runs rows on both sides, and tells all that went wrong.
pub(crate) async fn hold(test: &str, rows: Vec<Row>) {
    let mut sides = vec![Side::Ours];
    if !tools::offline(&format!("{test} through Envoy")) {
        sides.push(Side::Envoy);
    }
    let scene = Scene::start(&sides).await;
    let mut wrong = String::new();
    for row in &rows {
        for side in &sides {
            if let Err(error) = scene.run(row, *side).await {
                writeln!(wrong, "{} through {side:?}: {error:#}", row.name).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "of {} rows:\n{wrong}", rows.len());
}
