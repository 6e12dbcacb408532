//! gRPC between a real client and a real server, through a real Envoy and through our proxy.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};
use gateway_tests::process::{self, Process};
use gateway_tests::{documents, tools};
use serde_json::{Value, json};

use super::bytes::both;

const SERVER: &str = r#"
import threading, grpc
from concurrent import futures
def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-first", metadata.get("x-sent", "-")),))
    context.set_trailing_metadata((("x-last", "1"), ("x-last-bin", b"\x00\xff")))
    return request
def left(request, context):
    left = context.time_remaining()
    return b"none" if left is None or left > 1e6 else str(round(left)).encode()
def over(context):
    over = threading.Event()
    context.add_callback(over.set)
    return over
def slow(request, context):
    over(context).wait(10)
    return b"late"
def drip(request, context):
    ended = over(context)
    for _ in range(20):
        yield b"drip"
        if ended.wait(0.2): return
def fail(requests, context):
    for request in requests: pass
    context.set_trailing_metadata((("x-last", "2"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not so\n\u00e4")
def join(requests, context): return b",".join(requests)
def echo(requests, context):
    for request in requests: yield request
    context.set_trailing_metadata((("x-last", "3"),))
def refuse(requests, context):
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
    yield b""
class Service(grpc.GenericRpcHandler):
    def service(self, details):
        return {
            "/t.T/Unary": grpc.unary_unary_rpc_method_handler(unary),
            "/t.T/Left": grpc.unary_unary_rpc_method_handler(left),
            "/limit/Left": grpc.unary_unary_rpc_method_handler(left),
            "/t.T/Slow": grpc.unary_unary_rpc_method_handler(slow),
            "/late/Slow": grpc.unary_unary_rpc_method_handler(slow),
            "/limit/Slow": grpc.unary_unary_rpc_method_handler(slow),
            "/t.T/Drip": grpc.unary_stream_rpc_method_handler(drip),
            "/late/Drip": grpc.unary_stream_rpc_method_handler(drip),
            "/t.T/Fail": grpc.stream_unary_rpc_method_handler(fail),
            "/t.T/Join": grpc.stream_unary_rpc_method_handler(join),
            "/t.T/Echo": grpc.stream_stream_rpc_method_handler(echo),
            "/t.T/Refuse": grpc.stream_stream_rpc_method_handler(refuse),
        }.get(details.method)
server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 1 << 25)])
server.add_generic_rpc_handlers((Service(),))
print("port", server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"#;

const CLIENT: &str = r#"
import sys, json, queue, grpc
options = [("grpc.max_receive_message_length", 1 << 25), ("grpc.enable_retries", 0), ("grpc.ssl_target_name_override", "a.test")]
target, root = sys.argv[1], sys.argv[2]
if root: channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(root.encode()), options)
else: channel = grpc.insecure_channel(target, options)
grpc.channel_ready_future(channel).result(timeout=15)
own = ("x-first", "x-last", "x-last-bin")
def metadata(call, said): return [[key, value if isinstance(value, str) else list(value)] for key, value in said or () if key in own]
said = {}
def told(name, ask):
    got = []
    try:
        call = ask(got)
        said[name] = [got, call.code().name, call.details(), metadata(call, call.initial_metadata()), metadata(call, call.trailing_metadata())]
    except grpc.RpcError as error:
        said[name] = [got, error.code().name, error.details(), metadata(error, error.initial_metadata()), metadata(error, error.trailing_metadata())]
def unary(path, request=b"hello", timeout=20):
    def ask(got):
        answer, call = channel.unary_unary(path).with_call(request, timeout=timeout, metadata=(("x-sent", "yes"),))
        got.append(answer.decode() if len(answer) < 100 else len(answer))
        return call
    return ask
def stream(path, timeout=20, most=None):
    def ask(got):
        call = channel.unary_stream(path)(b"", timeout=timeout)
        for message in call: got.append(message.decode())
        return call
    return ask
def upload(path, requests):
    def ask(got):
        answer, call = channel.stream_unary(path).with_call(iter(requests), timeout=20)
        got.append(answer.decode() if len(answer) < 100 else len(answer))
        return call
    return ask
def in_turn(path):
    # Each message goes only once the one before came back.
    def ask(got):
        turns = queue.Queue()
        def requests():
            while (turn := turns.get(timeout=20)) is not None: yield turn
        call = channel.stream_stream(path)(requests(), timeout=20)
        turns.put(b"0")
        for message in call:
            got.append(message.decode())
            turns.put(None if len(got) == 50 else str(len(got)).encode())
        return call
    return ask
def cancelled(path):
    def ask(got):
        call = channel.unary_stream(path)(b"", timeout=20)
        got.append(next(call).decode())
        call.cancel()
        for message in call: pass
        return call
    return ask
told("unary", unary("/t.T/Unary"))
told("large", unary("/t.T/Unary", b"x" * 5_000_000))
told("unknown", unary("/t.T/None"))
told("stream cut by its deadline", lambda got: stream("/t.T/Drip", timeout=1)(got[:0]))
told("cancelled", cancelled("/t.T/Drip"))
told("uploaded", upload("/t.T/Join", [b"a", b"b", b"c"]))
told("much uploaded", upload("/t.T/Join", [b"y" * 100_000] * 50))
told("failed", upload("/t.T/Fail", [b"a"]))
told("in turn", in_turn("/t.T/Echo"))
told("refused", in_turn("/t.T/Refuse"))
told("deadline", unary("/t.T/Slow", timeout=0.5))
told("time that is left", unary("/t.T/Left", timeout=10))
told("no limit", unary("/t.T/Left", timeout=None))
told("limited", unary("/limit/Left", timeout=10))
told("limited without a deadline", unary("/limit/Left", timeout=None))
told("late", unary("/late/Slow"))
told("stream that is late", lambda got: stream("/late/Drip")(got[:0]))
told("no route", unary("/nowhere/x"))
told("no endpoint", unary("/down/x"))
for status in (400, 401, 403, 404, 429, 502, 503, 504, 418): told(str(status), unary("/status/%d" % status))
# Who notices first that it is over has its own words for it.
for one in said.values():
    if one[1] == "DEADLINE_EXCEEDED": one[2] = ""
print(json.dumps(said))
"#;

async fn server() -> (Process, SocketAddr) {
    let mut server = Process::start("grpc", Command::new(tools::python()).args(["-c", SERVER]));
    server.printed("port ").await;
    let port = server.output().trim().trim_start_matches("port ").parse().unwrap();
    (server, SocketAddr::from(([127, 0, 0, 1], port)))
}

fn resources(port: u16, server: SocketAddr, tls: Option<&Value>) -> Vec<Value> {
    let mut listener = documents::raw_listener("l", port, "r", &[]);
    if let Some(tls) = tls {
        listener["filter_chains"][0]["transport_socket"] = tls.clone();
    }
    let status = |code: u16| json!({"match": {"path": format!("/status/{code}")}, "direct_response": {"status": code}});
    let mut routes: Vec<_> = [400, 401, 403, 404, 429, 502, 503, 504, 418].map(status).to_vec();
    let to = |prefix: &str, cluster: &str, more: Value| {
        let mut route =
            json!({"match": {"prefix": prefix}, "route": {"cluster": cluster, "timeout": "0s"}});
        for (key, value) in more.as_object().into_iter().flatten() {
            route["route"][key] = value.clone();
        }
        route
    };
    routes.push(to("/late/", "g", json!({"timeout": "0.5s"})));
    routes.push(to(
        "/limit/",
        "g",
        json!({"max_stream_duration": {"grpc_timeout_header_max": "3s"}}),
    ));
    routes.push(to("/down/", "down", json!({})));
    routes.push(to("/t.T/", "g", json!({})));
    let mut all = vec![listener, documents::raw_routes("r", &json!(routes))];
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    for (cluster, address) in [("g", server), ("down", SocketAddr::from(([127, 0, 0, 1], 9)))] {
        let mut cluster = documents::raw_cluster(cluster, address);
        cluster[0]["typed_extension_protocol_options"] = json!({name: {
            "@type": format!("type.googleapis.com/{name}"),
            "explicit_http_config": {"http2_protocol_options": {}}}});
        all.extend(cluster);
    }
    all
}

/// What the client says of its calls.
async fn calls(address: SocketAddr, root: &str) -> Result<Value> {
    let mut client = Command::new(tools::python());
    client.args(["-c", CLIENT, &address.to_string(), root]);
    let output = tokio::task::spawn_blocking(move || process::run(&mut client)).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_all_kinds_pass_as_through_envoy() {
    let name = "calls_of_all_kinds_pass_as_through_envoy";
    if tools::offline(name) {
        return;
    }
    let (_server, server) = server().await;
    both(name, |port, _| resources(port, server, None), |address| calls(address, "")).await;
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let tls = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"alpn_protocols": ["h2"], "tls_certificates": [{
            "certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}}]}}});
    both(
        name,
        |port, _| resources(port, server, Some(&tls)),
        |address| calls(address, &certificate),
    )
    .await;
}
