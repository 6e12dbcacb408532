//! What a message has beside head and body, and answers that come before the answer: by a real Envoy and by our proxy.

use gateway_tests::gateway::folder;
use gateway_tests::wire::{Script, Then, Upstream};
use serde_json::{Value, json};

use super::bytes::both;
use super::streams::{get, resources, same, to_a, told};

#[tokio::test(flavor = "multi_thread")]
async fn an_expectation_goes_upstream_where_that_is_asked_for() {
    let interim = |before: &'static str| Script {
        before,
        ..Script::answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Then::Next)
    };
    let refused = "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n";
    let upstream = Upstream::start([
        ("/100", interim("HTTP/1.1 100 Continue\r\n\r\n")),
        ("/twice", interim("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")),
        ("/refused", Script::early(refused, Then::Stall)),
    ])
    .await;
    let expecting = |path: &str| -> &'static str {
        format!("POST {path} HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
            .leak()
    };
    let asks = [
        ("100", vec![expecting("/100"), "abc"]),
        ("twice", vec![expecting("/twice"), "abc"]),
        ("refused", vec![expecting("/refused")]),
        ("direct", vec![expecting("/direct")]),
    ];
    let name = "an_expectation_goes_upstream_where_that_is_asked_for";
    same(name, upstream, json!({"proxy_100_continue": true}), &asks).await;
}

fn http1(options: &Value) -> Value {
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({name: {"@type": format!("type.googleapis.com/{name}"),
        "explicit_http_config": {"http_protocol_options": options}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_http1_pass_where_both_sides_have_them_on() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n";
    let ask = "POST /trailers HTTP/1.1\r\nhost: a.test\r\nte: trailers\r\ntrailer: x-sent\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sent: 2\r\n\r\n";
    for (downstream, to) in [(false, false), (false, true), (true, false), (true, true)] {
        let upstream = Upstream::start([("/trailers", Script::answer(ANSWER, Then::Next))]).await;
        let manager = json!({"http_protocol_options": {"enable_trailers": downstream}});
        let (routes, folder) = (to_a(), folder());
        let (upstream, folder) = (&upstream, folder.path());
        let mut asks = vec![
            ("trailers", vec![ask]),
            ("HEAD", vec!["HEAD /none HTTP/1.1\r\nhost: a.test\r\n\r\n"]),
        ];
        // Where they would pass, Envoy sends them unasked too; we do not.
        if !(downstream && to) {
            asks.push(("none asked for", vec![get("/trailers")]));
        }
        both(
            "trailers_of_http1_pass_where_both_sides_have_them_on",
            |port, _| {
                let mut all = resources(port, upstream.address, folder, (&manager, &routes));
                all[2]["typed_extension_protocol_options"] = http1(&json!({"enable_trailers": to}));
                all
            },
            |address| told(address, upstream, folder, &asks),
        )
        .await;
    }
}
