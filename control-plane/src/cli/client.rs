//! HTTP to the control plane: one request, one connection.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::problem::{Exit, Problem};
use crate::settings::environment::Token;

/// Where the control plane is unless one says otherwise.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:18080";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What the server gets to answer beyond the time that it was asked to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// More than any list of 200,000 objects that a person can read.
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// A control plane, and who asks it.
#[derive(Debug, Clone)]
pub struct Client {
    server: String,
    authority: String,
    connect_to: String,
    token: Option<Token>,
    /// Drives connections; they end with the answer.
    connections: TaskTracker,
}

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// The verb.
    pub method: Method,
    /// The path, without query.
    pub path: String,
    /// The query, unencoded.
    pub query: Vec<(&'static str, String)>,
    /// What form the answer should have; JSON when empty.
    pub accept: &'static str,
    /// The body and its type.
    pub body: Option<(String, Bytes)>,
    /// How long the server may wait before it answers.
    pub wait: Duration,
}

impl Ask {
    /// A question without a body.
    pub fn get(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// One more parameter.
    #[must_use]
    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    fn target(&self) -> String {
        let mut target = self.path.clone();
        for (position, (name, value)) in self.query.iter().enumerate() {
            target.push(if position == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.push_str(&encode(value));
        }
        target
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value, Problem> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Problem::new(Exit::Failed, "", "the server's answer is not JSON")
                .detail(error.to_string())
                .help("is this the API address of a Weighlock control plane?")
        })
    }
}

impl Client {
    /// A client of the server at this URL.
    ///
    /// # Errors
    /// When the URL is none that we can speak to.
    pub fn new(server: &str, token: Option<Token>) -> Result<Self, Problem> {
        let wrong = |reason: &str| {
            Problem::usage(format!("--server {server:?}: {reason}"))
                .help("write it as http://HOST:PORT, for instance http://127.0.0.1:18080")
        };
        let uri: Uri = server.parse().map_err(|_| wrong("no URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("TLS is not supported yet")),
            _ => return Err(wrong("must begin with http://")),
        }
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(wrong("must not have a path"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?.as_str().to_owned();
        let host = uri.host().unwrap_or_default();
        let connect_to = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let server = server.trim_end_matches('/').to_owned();
        Ok(Self { server, authority, connect_to, token, connections: TaskTracker::new() })
    }

    /// The server's URL.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Asks, and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// When the server is not there or the answer breaks off.
    pub async fn send(&self, ask: &Ask) -> Result<Reply, Problem> {
        let limit = ask.wait + ANSWER_TIMEOUT;
        let answer = async {
            let response = self.open(ask).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| self.broke_off(&error.to_string()))?
                .to_bytes();
            Ok(Reply { status: head.status, headers: head.headers, body })
        };
        match timeout(limit, answer).await {
            Ok(reply) => reply,
            Err(_) => Err(Problem::new(
                Exit::TimedOut,
                "",
                format!("{} did not answer within {}s", self.server, limit.as_secs()),
            )),
        }
    }

    /// Asks, and reads the answer as JSON.
    ///
    /// # Errors
    /// As [`Self::send`], and when the server refuses.
    pub async fn json(&self, ask: &Ask) -> Result<Value, Problem> {
        let reply = self.send(ask).await?;
        if reply.status.is_success() { reply.json() } else { Err(refusal(&reply)) }
    }

    /// Asks for an answer that has no end.
    ///
    /// # Errors
    /// When the server is not there or refuses.
    pub async fn stream(&self, ask: &Ask) -> Result<Lines, Problem> {
        let response = timeout(ANSWER_TIMEOUT, self.open(ask))
            .await
            .map_err(|_| self.broke_off("no answer"))??;
        if response.status().is_success() {
            return Ok(Lines { body: response.into_body(), rest: Vec::new() });
        }
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Err(refusal(&Reply { status: head.status, headers: head.headers, body }))
    }

    async fn open(&self, ask: &Ask) -> Result<Response<Incoming>, Problem> {
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.connect_to)).await;
        let socket = match connected {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return Err(self.not_there(&error.to_string())),
            Err(_) => return Err(self.not_there("no connection within 5s")),
        };
        let broke_off = |error: hyper::Error| self.broke_off(&error.to_string());
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(socket)).await.map_err(broke_off)?;
        self.connections.spawn(connection);
        let request = self.request(ask)?;
        sender.send_request(request).await.map_err(broke_off)
    }

    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, Problem> {
        let accept = if ask.accept.is_empty() { "application/json" } else { ask.accept };
        let mut request = Request::builder()
            .method(&ask.method)
            .uri(ask.target())
            .header(HOST, &self.authority)
            .header(USER_AGENT, concat!("wlctl/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, accept);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.reveal()));
        }
        let body = match &ask.body {
            Some((content_type, body)) => {
                request = request.header(CONTENT_TYPE, content_type);
                body.clone()
            }
            None => Bytes::new(),
        };
        request
            .body(Full::new(body))
            .map_err(|error| Problem::usage(format!("no request can be made of this: {error}")))
    }

    fn not_there(&self, reason: &str) -> Problem {
        Problem::new(Exit::Failed, "WL0604", format!("no control plane at {}", self.server))
            .detail(reason.split(" (os error").next().unwrap_or_default().to_lowercase())
            .help(
                "start one with `weighlock serve --open` or `weighlock demo`,\n\
                 or say where it is with --server URL or WLCTL_SERVER",
            )
    }

    fn broke_off(&self, reason: &str) -> Problem {
        Problem::new(Exit::Failed, "WL0605", "the connection broke off before the answer")
            .detail(format!("{}: {reason}", self.server))
            .help("is this the API address of a Weighlock control plane, and is it still running?")
    }
}

/// An endless answer, line by line.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    /// The next line without its end; `None` when the server ends the answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<String>, Problem> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(Problem::new(Exit::Failed, "WL0605", "the connection broke off")
                        .detail(error.to_string())
                        .help("the control plane may have ended; run the command again"));
                }
            }
        }
    }
}

/// What a refusal says, be it problem+json or a Kubernetes Status.
pub fn refusal(reply: &Reply) -> Problem {
    let exit = match reply.status.as_u16() {
        400 | 413 | 415 | 422 => Exit::WrongInput,
        409 => Exit::Conflict,
        408 | 504 => Exit::TimedOut,
        _ => Exit::Failed,
    };
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    if body.get("kind").and_then(Value::as_str) == Some("Status") {
        return status_problem(exit, &body);
    }
    let Some(title) = text("title") else {
        return Problem::new(exit, "", format!("the server answered {}", reply.status))
            .detail(String::from_utf8_lossy(&reply.body).lines().next().unwrap_or_default())
            .help("is this the API address of a Weighlock control plane?");
    };
    let mut problem = Problem::new(exit, text("code").unwrap_or_default(), title);
    let findings = body.get("errors").and_then(Value::as_array);
    for finding in findings.into_iter().flatten() {
        // What the title says already need not be said again.
        let mut finding = finding.clone();
        if finding.get("code").and_then(Value::as_str) == Some(&problem.code)
            && let Some(finding) = finding.as_object_mut()
        {
            finding.shift_remove("code");
        }
        problem.detail.extend(finding_lines(&finding));
    }
    if problem.detail.is_empty() {
        problem.detail.extend(text("detail").map(str::to_owned));
    }
    problem.help = text("help").map(str::to_owned).or_else(|| match problem.code.as_str() {
        "WL0409" => Some("read it again, then repeat the change; wlctl history says who".into()),
        "WL0404" => Some("wlctl get KIND -A lists what there is".into()),
        _ => None,
    });
    problem
}

/// `file:line:column: WL0031 HTTPRoute shop: spec.…: sentence`, and its help.
pub fn finding_lines(finding: &Value) -> Vec<String> {
    let text = |name: &str| finding.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
    let mut line = String::new();
    if let Some(source) = finding.get("source") {
        line += source.get("file").and_then(Value::as_str).unwrap_or_default();
        for part in ["line", "column"] {
            if let Some(number) = source.get(part).and_then(Value::as_u64) {
                line += &format!(":{number}");
            }
        }
        line += ": ";
    }
    line += &[text("code"), text("object")].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let sentence = [text("field").or(text("pointer")), text("message").or(text("title"))];
    for part in sentence.into_iter().flatten() {
        line += if line.is_empty() || line.ends_with(": ") { "" } else { ": " };
        line += part;
    }
    let help = text("help").map(|help| format!("  help  {help}"));
    std::iter::once(line).chain(help).collect()
}

fn status_problem(exit: Exit, body: &Value) -> Problem {
    let message = body.get("message").and_then(Value::as_str).unwrap_or("refused");
    let (code, title) = match message.split_once([' ', ':']) {
        Some((code, rest)) if code.starts_with("WL") && code.len() == 6 => {
            (code, rest.trim_start_matches([':', ' ']))
        }
        _ => ("", message),
    };
    let mut problem = Problem::new(exit, code, title);
    let causes = body.pointer("/details/causes").and_then(Value::as_array);
    for cause in causes.into_iter().flatten() {
        let text = |name: &str| cause.get(name).and_then(Value::as_str).unwrap_or_default();
        problem.detail.push(format!("{}: {}", text("field"), text("message")));
    }
    problem
}

/// A query value: everything but unreserved characters percent-encoded (RFC 3986).
fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn a_server_is_a_plain_url() {
        assert_eq!(Client::new("http://h", None).unwrap().connect_to, "h:80");
        assert_eq!(Client::new("http://[::1]:7/", None).unwrap().connect_to, "[::1]:7");
        for wrong in ["h:1", "https://h", "http://h/x", "", "ftp://h"] {
            assert_eq!(Client::new(wrong, None).unwrap_err().exit, Exit::WrongInput, "{wrong}");
        }
    }

    #[test]
    fn queries_are_encoded() {
        let ask = Ask::get("/v1/x").query("reason", "why & how").query("n", "1");
        assert_eq!(ask.target(), "/v1/x?reason=why%20%26%20how&n=1");
    }

    #[test]
    fn a_problem_names_file_line_object_and_field() {
        let body = r#"{"code":"WL0031","title":"backend does not exist","errors":[{"code":"WL0031",
            "object":"HTTPRoute default/shop","pointer":"/spec/rules/0","message":"no Backend x",
            "source":{"file":"a.yaml","line":14,"column":17},"help":"did you mean y?"}]}"#;
        let problem = refusal(&reply(422, body));
        let text = "✗ WL0031 backend does not exist\n    a.yaml:14:17: HTTPRoute default/shop: /spec/rules/0: no Backend x\n      help  did you mean y?\n";
        assert_eq!((problem.render("✗").as_str(), problem.exit), (text, Exit::WrongInput));
    }

    #[test]
    fn a_status_gives_its_code_and_causes() {
        let body = r#"{"kind":"Status","message":"WL0409: changed by someone else","code":409,
            "details":{"causes":[{"field":"spec","message":"x"}]}}"#;
        let problem = refusal(&reply(409, body));
        assert_eq!((problem.code.as_str(), problem.exit), ("WL0409", Exit::Conflict));
        assert_eq!(problem.title, "changed by someone else");
        assert_eq!(problem.detail, ["spec: x"]);
    }

    #[test]
    fn an_answer_that_is_no_json_is_still_told() {
        let problem = refusal(&reply(502, "bad gateway\nmore"));
        assert_eq!(problem.title, "the server answered 502 Bad Gateway");
        assert_eq!((problem.detail, problem.exit), (vec!["bad gateway".to_owned()], Exit::Failed));
    }
}
