//! Tests of the local rate limit.

use xds_proto::json::from_yaml;

use super::*;
use crate::filtering::keep::testing::alone;
use crate::filtering::rate_limit::{RateLimit, RouteRateLimits};
use crate::filtering::stage::testing::Scene;

const ON: &str = "filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}";
const BUCKET: &str = "token_bucket: {max_tokens: 2, tokens_per_fill: 2, fill_interval: 60s}";

fn filter(text: &str) -> LocalRateLimit {
    let base = LocalRateLimit::compile(from_yaml(&format!("{{stat_prefix: x, {text}}}")).unwrap());
    let base = base.unwrap();
    alone(|linker| base.link(&[], linker)).made().unwrap()
}

/// The status and headers of the answer; 200 where the request goes on.
async fn ask(filter: &LocalRateLimit, scene: &mut Scene, role: &str) -> (u16, String) {
    let mut request = Request::get("/").header("x-role", role).body(Body::empty()).unwrap();
    let mut response = match filter.on_request(&mut request, &mut scene.stage()).await {
        Verdict::Continue => Response::new(Body::empty()),
        Verdict::Reply(reply) => reply.response,
    };
    filter.on_response(&mut response, &mut scene.stage()).await;
    let mut said: Vec<_> = [request.headers(), response.headers()]
        .into_iter()
        .flatten()
        .filter(|(name, _)| !matches!(name.as_str(), "x-role" | "content-type"))
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
        .collect();
    said.sort();
    (response.status().as_u16(), said.join(" "))
}

async fn statuses(filter: &LocalRateLimit, scene: &mut Scene, roles: &[&str]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for role in roles {
        scene.notes = crate::filtering::stage::Notes::default();
        statuses.push(ask(filter, scene, role).await.0);
    }
    statuses
}

#[tokio::test]
async fn it_does_nothing_until_it_is_told_to() {
    let silent = filter(BUCKET);
    assert_eq!(statuses(&silent, &mut Scene::default(), &[""; 4]).await, [200; 4]);
    let unenforced = filter(&format!(
        "{BUCKET}, filter_enabled: {{default_value: {{numerator: 100}}}},
         request_headers_to_add_when_not_enforced: [{{header: {{key: x-over, value: 'yes'}}}}]"
    ));
    let mut scene = Scene::default();
    assert_eq!(ask(&unenforced, &mut scene, "").await, (200, String::new()));
    assert_eq!(ask(&unenforced, &mut scene, "").await, (200, String::new()));
    assert_eq!(ask(&unenforced, &mut scene, "").await, (200, "x-over=yes".into()));
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_tokens_are_refused_and_told_when_to_come_back() {
    let filter = filter(&format!(
        "{BUCKET}, {ON}, status: {{code: ServiceUnavailable}}, enable_x_ratelimit_headers: DRAFT_VERSION_03,
         enable_retry_after_header: true, response_headers_to_add: [{{header: {{key: x-rl, value: '1'}}}}]"
    ));
    let said = |remaining, reset| {
        format!("x-ratelimit-limit=2 x-ratelimit-remaining={remaining} x-ratelimit-reset={reset}")
    };
    assert_eq!(ask(&filter, &mut Scene::default(), "").await, (200, said(1, 0)));
    assert_eq!(ask(&filter, &mut Scene::default(), "").await, (200, said(0, 30)));
    let refused = format!("{} x-rl=1", said(0, 30));
    assert_eq!(ask(&filter, &mut Scene::default(), "").await, (503, refused));
    tokio::time::advance(std::time::Duration::from_secs(31)).await;
    assert_eq!(ask(&filter, &mut Scene::default(), "").await.0, 200);
}

#[tokio::test]
async fn retry_after_goes_with_429_and_replaces_none() {
    let one = "token_bucket: {max_tokens: 1, fill_interval: 60s}, enable_retry_after_header: true";
    let plain = filter(&format!("{one}, {ON}"));
    assert_eq!(ask(&plain, &mut Scene::default(), "").await.0, 200);
    assert_eq!(ask(&plain, &mut Scene::default(), "").await, (429, "retry-after=60".into()));
    let own = filter(&format!(
        "{one}, {ON}, response_headers_to_add: [{{header: {{key: Retry-After, value: '7'}}}}]"
    ));
    assert_eq!(ask(&own, &mut Scene::default(), "").await.0, 200);
    assert_eq!(ask(&own, &mut Scene::default(), "").await, (429, "retry-after=7".into()));
    let never = filter(&format!("{}, {ON}", one.replace("max_tokens: 1", "max_tokens: 0")));
    assert_eq!(ask(&never, &mut Scene::default(), "").await, (429, String::new()));
}

#[tokio::test]
async fn an_open_value_has_a_bucket_for_each_that_comes() {
    let filter = filter(&format!(
        "{ON}, max_dynamic_descriptors: 2, rate_limits: [{{actions: [{{request_headers: {{header_name: x-role, descriptor_key: role}}}}]}}],
         descriptors: [{{entries: [{{key: role}}], token_bucket: {{max_tokens: 1, fill_interval: 60s}}}},
           {{entries: [{{key: role, value: admin}}], token_bucket: {{max_tokens: 2, fill_interval: 60s}}}}]"
    ));
    let roles = ["a", "a", "b", "b", "admin", "admin", "admin", "c", "a"];
    let statuses = statuses(&filter, &mut Scene::default(), &roles).await;
    assert_eq!(statuses, [200, 429, 200, 429, 200, 200, 429, 200, 200]);
}

#[tokio::test]
async fn a_request_may_count_for_several() {
    let filter = filter(&format!(
        "{ON}, rate_limits: [{{actions: [{{generic_key: {{descriptor_value: v}}}}], hits_addend: {{format: '%REQ(x-role)%'}}}}],
         descriptors: [{{entries: [{{key: generic_key, value: v}}], token_bucket: {{max_tokens: 5, fill_interval: 60s}}}}]"
    ));
    let hits = ["3", "3", "2", "none", "1"];
    let statuses = statuses(&filter, &mut Scene::default(), &hits).await;
    assert_eq!(statuses, [200, 429, 200, 200, 429]);
}

#[tokio::test]
async fn each_connection_may_have_its_own_tokens() {
    let filter =
        filter(&format!("{BUCKET}, {ON}, local_rate_limit_per_downstream_connection: true"));
    let (mut one, mut other) = (Scene::default(), Scene::default());
    assert_eq!(statuses(&filter, &mut one, &[""; 3]).await, [200, 200, 429]);
    assert_eq!(statuses(&filter, &mut other, &[""; 3]).await, [200, 200, 429]);
}

#[tokio::test]
async fn descriptors_of_the_route_have_their_own_tokens() {
    let rules: &'static [RateLimit] = Box::leak(Box::new([rate_limit(
        "{actions: [{request_headers: {header_name: x-role, descriptor_key: role}}]}",
    )]));
    let rate_limits = RouteRateLimits { route: rules, ..RouteRateLimits::default() };
    let mut scene = Scene { rate_limits, ..Scene::default() };
    let descriptors = "descriptors: [{entries: [{key: role, value: guest}], token_bucket: {max_tokens: 1, fill_interval: 60s}}]";
    let roles = ["guest", "guest", "admin", "admin", "admin"];
    let both = filter(&format!("{BUCKET}, {ON}, {descriptors}"));
    assert_eq!(statuses(&both, &mut scene, &roles).await, [200, 429, 200, 429, 429]);
    let apart = filter(&format!(
        "{BUCKET}, {ON}, {descriptors}, always_consume_default_token_bucket: false"
    ));
    assert_eq!(statuses(&apart, &mut scene, &roles).await, [200, 429, 200, 200, 429]);
    let own = filter(&format!(
        "{BUCKET}, {ON}, {descriptors}, rate_limits: [{{actions: [{{generic_key: {{descriptor_value: x}}}}]}}]"
    ));
    assert_eq!(statuses(&own, &mut scene, &roles).await, [200, 200, 429, 429, 429]);
}

fn rate_limit(text: &str) -> RateLimit {
    crate::filtering::rate_limit::compile(from_yaml(text).unwrap()).unwrap()
}

#[test]
fn what_is_wrong_is_named() {
    let error = |text: &str, is_route: bool| {
        let config = from_yaml(&format!("{{stat_prefix: x, {text}}}")).unwrap();
        let compile =
            if is_route { LocalRateLimit::compile_route } else { LocalRateLimit::compile };
        compile(config).unwrap_err().to_string()
    };
    assert_eq!(
        error("token_bucket: {max_tokens: 1, fill_interval: 0.01s}", false),
        "token_bucket.fill_interval: must be at least 50 ms"
    );
    assert_eq!(
        error("token_bucket: {tokens_per_fill: 0, fill_interval: 1s}", false),
        "token_bucket.tokens_per_fill: must be above 0"
    );
    let twice = "{entries: [{key: a, value: b}], token_bucket: {max_tokens: 1, fill_interval: 1s}}";
    assert_eq!(
        error(&format!("descriptors: [{twice}, {twice}]"), false),
        "descriptors[1]: is there twice"
    );
    assert_eq!(error("", true), "token_bucket: required");
    assert_eq!(
        error("local_cluster_rate_limit: {}", false),
        "local_cluster_rate_limit: not supported"
    );
}
