//! How long connections of clients live: by a real Envoy and by our proxy.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use gateway_tests::client::{Ask, Connection};
use gateway_tests::gateway::folder;
use gateway_tests::wait;
use gateway_tests::wire::Upstream;
use serde_json::{Value, json};

use super::bytes::both;
use super::streams::{resources, to_a};

/// What is not over by then does not end.
const PATIENCE: Duration = Duration::from_secs(4);

/// Asks so often, with a pause before each, as long as the connection lasts; then waits for its end.
/// Gives how often it was answered, whether the last answer said that it ends, and whether it did.
async fn lasts(mut connection: Connection, pauses: &[u64]) -> Value {
    let (mut answers, mut says_close) = (0, false);
    for pause in pauses {
        if closes(&connection, Duration::from_millis(*pause)).await {
            break;
        }
        let Ok(answer) = connection.ask(&Ask::get("a.test", "/")).await else { break };
        answers += 1;
        says_close = answer.header("connection") == Some("close");
    }
    json!([answers, says_close, closes(&connection, PATIENCE).await])
}

/// Whether a connection ends within this.
async fn closes(connection: &Connection, limit: Duration) -> bool {
    let closed = async || connection.is_closed().then_some(()).ok_or(());
    wait::until_or(limit, closed).await.is_ok()
}

async fn told(address: SocketAddr, pauses: &[&[u64]]) -> Result<Value> {
    let mut all = Vec::new();
    for pauses in pauses {
        let http1 = Connection::http1(address).await?;
        let http2 = Connection::http2(address).await?;
        all.push(json!({"http1": lasts(http1, pauses).await, "http2": lasts(http2, pauses).await}));
    }
    Ok(json!(all))
}

async fn same(name: &str, manager: Value, pauses: &[&[u64]]) {
    let upstream = Upstream::start([]).await;
    let folder = folder();
    let (folder, routes) = (folder.path(), to_a());
    both(
        name,
        |port, _| resources(port, upstream.address, folder, (&manager, &routes)),
        |address| told(address, pauses),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_end_after_so_many_requests() {
    let manager = json!({"drain_timeout": "0.2s", "common_http_protocol_options": {"max_requests_per_connection": 2}});
    let name = "connections_end_after_so_many_requests";
    same(name, manager, &[&[0], &[0, 0], &[0, 0, 700]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_end_when_they_are_too_old() {
    let name = "connections_end_when_they_are_too_old";
    let manager = |drain: &str, more: bool| {
        json!({"drain_timeout": drain, "http1_safe_max_connection_duration": more,
        "common_http_protocol_options": {"max_connection_duration": "0.6s"}})
    };
    same(name, manager("0.2s", false), &[&[0], &[0, 2000]]).await;
    same(name, manager("60s", false), &[&[0]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_connections_of_http1_end_with_an_answer() {
    let name = "old_connections_of_http1_end_with_an_answer";
    for safe in [false, true] {
        let manager = json!({"drain_timeout": "60s", "http1_safe_max_connection_duration": safe,
            "common_http_protocol_options": {"max_connection_duration": "0.6s"}});
        let upstream = Upstream::start([]).await;
        let folder = folder();
        let (folder, routes) = (folder.path(), to_a());
        both(
            name,
            |port, _| resources(port, upstream.address, folder, (&manager, &routes)),
            |address| async move {
                Ok(lasts(Connection::http1(address).await?, &[0, 1200, 0]).await)
            },
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_end_when_they_are_idle() {
    let manager =
        json!({"drain_timeout": "0.2s", "common_http_protocol_options": {"idle_timeout": "1.5s"}});
    same("connections_end_when_they_are_idle", manager, &[&[], &[0], &[0, 500, 500, 500, 500]])
        .await;
}
