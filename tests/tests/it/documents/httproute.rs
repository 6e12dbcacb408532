//! HTTPRoute: attachment, matches, backends and filters.

mod attachment;
mod backends;
mod cors;
mod filters;
mod matches;
mod repeats;

use super::{Step, hold, plain, route, to};

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_httproute_hold() {
    let rows = [attachment::rows(), matches::rows(), backends::rows()];
    hold("rows_of_httproute_hold", rows.into_iter().flatten().collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_filters_of_httproute_hold() {
    let rows = [filters::rows(), repeats::rows(), cors::rows()];
    hold("rows_of_filters_of_httproute_hold", rows.into_iter().flatten().collect()).await;
}

fn http(name: &str, more: &str, rules: &str) -> String {
    route("HTTPRoute", name, more, rules)
}

/// A Gateway with the usual backends, and one route with these rules.
fn ruled(rules: &str) -> Step {
    Step::Apply(plain() + &http("r", "", rules))
}

/// A rule with a match, given in flow style, that goes to a backend.
fn rule(matches: &str, backend: &str) -> String {
    format!("{{matches: [{matches}], backendRefs: [{}]}}", to(backend))
}

/// A rule that sends every request to a backend.
fn all_to(backend: &str) -> String {
    format!("{{backendRefs: [{}]}}", to(backend))
}

fn weighted(name: &str, weight: u32) -> String {
    to(name).replace('}', &format!(", weight: {weight}}}"))
}

/// A rule for a path prefix with filters that goes to `a`.
fn filtered_rule(path: &str, filters: &str) -> String {
    format!(
        "{{matches: [{{path: {{value: {path}}}}}], filters: [{filters}], backendRefs: [{}]}}",
        to("a")
    )
}

/// A document in a namespace of this name after the row's own.
fn in_namespace(suffix: &str, document: &str) -> String {
    document.replace("metadata: {", &format!("metadata: {{namespace: $NS-{suffix}, "))
}

fn grant(kind: &str, name: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: grant, namespace: $NS-back}}
spec: {{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: $NS}}], to: [{{group: weighlock.dev, kind: Backend{name}}}]}}
"
    )
}

const ACCEPTED: &str = "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs";
