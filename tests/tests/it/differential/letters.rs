//! How names of headers are written in HTTP/1: a real Envoy and our proxy must do the same.

use std::time::Duration;

use anyhow::Result;
use gateway_tests::documents;
use gateway_tests::raw::{Recorder, Reply};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bytes::both;

const T: &str = "type.googleapis.com/envoy.extensions";
const ASKED: &[u8] = b"GET /path HTTP/1.1\r\nHost: h.test\r\nX-MiXed: 1\r\nx-lower: 2\r\nX-TWICE: 3\r\nX-TWICE: 4\r\nConnection: close\r\n\r\n";
const ANSWERED: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-LENGTH: 2\r\nX-Answer: 1\r\nx-lower: 2\r\nSeRver: s\r\n\r\nok";

/// The names of headers that the test itself sends, as they are written, in order of the alphabet.
fn names(text: &str) -> Vec<&str> {
    let lines = text.split("\r\n\r\n").next().unwrap_or_default().lines();
    let names = lines.filter_map(|line| Some(line.split_once(':')?.0));
    let known = ["host", "x-mixed", "x-lower", "x-twice", "content-length", "x-answer", "server"];
    let mut names: Vec<_> =
        names.filter(|name| known.contains(&&*name.to_ascii_lowercase())).collect();
    names.sort_unstable();
    names
}

async fn talk(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(ASKED).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await??;
    Ok(String::from_utf8(answer)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_headers_are_kept_as_written_where_that_is_asked_for() {
    let format = json!({"header_key_format": {"stateful_formatter": {"name": "preserve_case", "typed_config": {
        "@type": format!("{T}.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig")}}}});
    for (by_listener, by_cluster, retries) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (true, true, false),
        (true, true, true),
    ] {
        let backend = Recorder::start().await;
        let name = format!("listener {by_listener}, cluster {by_cluster}, retries {retries}");
        let resources = |port, _| {
            let mut listener = documents::raw_listener("l", port, "r", &[]);
            let [mut cluster, endpoints] = documents::raw_cluster("a", backend.address);
            let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
            manager["server_header_transformation"] = "PASS_THROUGH".into();
            if by_listener {
                manager["http_protocol_options"] = format.clone();
            }
            if by_cluster {
                cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": format!("{T}.upstreams.http.v3.HttpProtocolOptions"),
                    "explicit_http_config": {"http_protocol_options": format}}});
            }
            let mut route = json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}});
            if retries {
                route["route"]["retry_policy"] = json!({"retry_on": "5xx", "num_retries": 1});
            }
            vec![listener, documents::raw_routes("r", &json!([route])), cluster, endpoints]
        };
        let answer = |bytes: &[u8]| backend.answer(Reply::Send(vec![bytes.to_vec()]));
        let backend = &backend;
        both(&name, resources, |address| async move {
            let bad = String::from_utf8_lossy(ANSWERED).replace("200 OK", "500 Bad");
            answer(if retries { bad.as_bytes() } else { ANSWERED });
            backend.forget();
            let heard = talk(&mut TcpStream::connect(address).await?).await?;
            let seen = backend.all();
            let tries: Vec<Value> =
                seen.split("GET /path").skip(1).map(|one| json!(names(one))).collect();
            Ok(json!({"upstream": tries, "client": names(&heard)}))
        })
        .await;
    }
}
