//! HTTP clients that see their own connections: one request, or many on one connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// No answer within this is a failure.
const LIMIT: Duration = Duration::from_secs(10);

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The backend that answered, or "-".
    pub fn backend(&self) -> &str {
        self.header("x-backend").unwrap_or("-")
    }

    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// What to ask.
#[derive(Debug, Clone)]
pub struct Ask {
    pub method: Method,
    pub host: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Ask {
    /// A GET.
    pub fn get(host: &str, path: &str) -> Self {
        Self {
            method: Method::GET,
            host: host.into(),
            path: path.into(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With a method.
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }
}

/// One connection.
pub enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2 { send: http2::SendRequest<Full<Bytes>>, scheme: &'static str },
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http1(_) => "HTTP/1.1",
            Self::Http2 { .. } => "HTTP/2",
        })
    }
}

impl Connection {
    /// Plain HTTP/1.1.
    pub async fn http1(address: SocketAddr) -> Result<Self> {
        Self::handshake1(connect(address).await?).await
    }

    /// HTTP/2 with prior knowledge.
    pub async fn http2(address: SocketAddr) -> Result<Self> {
        Self::handshake2(connect(address).await?, "http").await
    }

    /// TLS with SNI and ALPN; gives the server's certificate too. Trusts whatever it gets: tests look at it.
    pub async fn tls(
        address: SocketAddr,
        name: &str,
        alpn: &[&str],
    ) -> Result<(Self, CertificateDer<'static>)> {
        Self::tls_as(address, name, alpn, None).await
    }

    /// As [`Connection::tls`]; shows a certificate if it has one.
    pub async fn tls_as(
        address: SocketAddr,
        name: &str,
        alpn: &[&str],
        own: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> Result<(Self, CertificateDer<'static>)> {
        let mut config = crate::tls::Looker::default().config(own);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned())?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = timeout(LIMIT, connector.connect(name, connect(address).await?)).await??;
        let session = stream.get_ref().1;
        let certificate = session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .context("no certificate")?
            .clone()
            .into_owned();
        let connection = match session.alpn_protocol() {
            Some(b"h2") => Self::handshake2(stream, "https").await?,
            _ => Self::handshake1(stream).await?,
        };
        Ok((connection, certificate))
    }

    async fn handshake1(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self> {
        let (send, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(Self::Http1(send))
    }

    async fn handshake2(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        scheme: &'static str,
    ) -> Result<Self> {
        let (send, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self::Http2 { send, scheme })
    }

    /// The same connection once more, for requests at the same time: HTTP/2 only.
    pub fn shared(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2 { send, scheme } => Some(Self::Http2 { send: send.clone(), scheme }),
        }
    }

    /// Whether the server has closed it.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Http1(send) => send.is_closed(),
            Self::Http2 { send, .. } => send.is_closed(),
        }
    }

    /// Asks, and reads the whole answer.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Answer> {
        timeout(LIMIT, self.ask_without_limit(ask)).await.context("no answer in time")?
    }

    async fn ask_without_limit(&mut self, ask: &Ask) -> Result<Answer> {
        let mut request = Request::builder().method(ask.method.clone());
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        let body = Full::new(ask.body.clone());
        let response = match self {
            Self::Http1(send) => {
                let request = request.uri(ask.path.parse::<Uri>()?).header("host", &ask.host);
                send.ready().await?;
                send.send_request(request.body(body)?).await?
            }
            Self::Http2 { send, scheme } => {
                let uri = format!("{scheme}://{}{}", ask.host, ask.path).parse::<Uri>()?;
                send.ready().await?;
                send.send_request(request.version(Version::HTTP_2).uri(uri).body(body)?).await?
            }
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status, version: head.version, headers: head.headers, body })
    }
}

/// One GET on a connection of its own.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> Result<Answer> {
    ask(address, &Ask::get(host, path)).await
}

/// One request on a connection of its own.
pub async fn ask(address: SocketAddr, ask: &Ask) -> Result<Answer> {
    Connection::http1(address).await?.ask(ask).await
}

/// A request with a JSON (or any) body to an API, on a connection of its own.
pub async fn call(
    method: Method,
    address: SocketAddr,
    path: &str,
    content_type: &str,
    body: impl Into<Bytes>,
) -> Result<Answer> {
    let mut ask =
        Ask::get(&address.to_string(), path).method(method).header("content-type", content_type);
    ask.body = body.into();
    self::ask(address, &ask).await
}

/// A GET that must answer 200 with JSON.
pub async fn json(address: SocketAddr, path: &str) -> Result<serde_json::Value> {
    let answer = get(address, &address.to_string(), path).await?;
    ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
    Ok(serde_json::from_slice(&answer.body)?)
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = timeout(LIMIT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
