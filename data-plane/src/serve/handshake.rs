//! From a socket to a connection that knows its filter chain: TLS where it is spoken.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustls::server::{Accepted, AcceptedAlert, Acceptor};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::StartHandshake;

use super::io::Stream;
use super::proxy_protocol::{self, Header};
use super::socket::Socket;
use crate::listener::matching::ConnectionFacts;
use crate::listener::{Listener, ProxyProtocol};
use crate::proxy::connection::{Admitted, Connection, Serving};
use crate::telemetry::stats::{Handshake, Refusal};
use crate::tls::identity::Identity;

/// The first byte of a TLS record that holds a hello.
const TLS_HANDSHAKE: u8 = 0x16;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("no filter chain is for this connection")]
    NoChain,
    #[error("the filter chain has as many connections as it may")]
    Full,
    #[error("the client took too long")]
    Timeout,
    #[error("the socket failed")]
    Socket(#[source] io::Error),
    #[error("the proxy in front does not say who the client is")]
    ProxyProtocol,
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
}

/// Finds the chain by what the client says first, and speaks TLS where the chain does.
pub(super) async fn establish(
    serving: &Rc<Serving>,
    socket: TcpStream,
    remote: SocketAddr,
) -> Result<(Admitted, Stream), HandshakeError> {
    let listener = serving.listener();
    let mut socket = Socket::new(socket);
    let mut facts = ConnectionFacts {
        local: socket.stream().local_addr().map_err(HandshakeError::Socket)?,
        remote,
        peer: remote,
        is_tls: false,
        server_name: None,
        application_protocols: Box::default(),
    };
    let until = listener.config.hello_timeout.map(|limit| Instant::now() + limit);
    if let Some(rules) = listener.config.proxy_protocol {
        within(until, introduce(&mut socket, &mut facts, rules)).await??;
    }
    let speaks_tls = match listener.is_tls() {
        Some(is_tls) if !listener.needs_hello() => is_tls,
        _ => {
            let byte = within(until, socket.first_byte()).await?;
            byte.map_err(HandshakeError::Socket)? == Some(TLS_HANDSHAKE)
        }
    };
    if speaks_tls {
        let is_sure = listener.is_tls() == Some(true);
        let hello = match within(until, hello(&mut socket)).await {
            Ok(hello) => hello,
            Err(late) => {
                listener.stats.handshake(Handshake::Timeout);
                return Err(late);
            }
        };
        match hello {
            Ok(hello) => return tls(serving, socket, facts, hello).await,
            Err(error) if is_sure || matches!(error, HelloError::Socket(_)) => {
                listener.stats.handshake(Handshake::Protocol);
                return Err(error.tell(&mut socket).await);
            }
            // It only began like one.
            Err(_) => {}
        }
    }
    let admitted = admit(serving, facts).await?;
    let view = admitted.connection().view();
    match view.chain() {
        Some(chain) if chain.tls.is_none() => Ok((admitted, Stream::Plain(socket))),
        Some(_) | None => Err(HandshakeError::NoChain),
    }
}

/// Takes the connection in, where its chain has room.
async fn admit(serving: &Rc<Serving>, facts: ConnectionFacts) -> Result<Admitted, HandshakeError> {
    let admitted = serving.admit(facts).ok_or(HandshakeError::NoChain)?;
    let Err(limit) = admitted.connection().take_place() else { return Ok(admitted) };
    serving.listener().stats.refused(Refusal::ListenerLimit);
    if let Some(delay) = limit.delay {
        wait(admitted.connection(), delay).await;
    }
    Err(HandshakeError::Full)
}

/// Keeps a connection waiting for its end.
pub(super) async fn wait(connection: &Connection, delay: Duration) {
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = connection.drained() => {}
        () = connection.cut_off() => {}
    }
}

async fn within<T>(
    until: Option<Instant>,
    future: impl Future<Output = T>,
) -> Result<T, HandshakeError> {
    match until {
        None => Ok(future.await),
        Some(until) => timeout_at(until, future).await.map_err(|_| HandshakeError::Timeout),
    }
}

/// Reads what a proxy in front says of the connection.
async fn introduce(
    socket: &mut Socket,
    facts: &mut ConnectionFacts,
    rules: ProxyProtocol,
) -> Result<(), HandshakeError> {
    loop {
        match proxy_protocol::read(socket.ahead()) {
            Header::Whole(length, ends) => {
                socket.consume(length);
                if let Some(ends) = ends {
                    facts.remote = ends.source;
                    facts.local = ends.destination;
                }
                return Ok(());
            }
            Header::Absent if rules.is_optional => return Ok(()),
            Header::Absent | Header::Malformed => return Err(HandshakeError::ProxyProtocol),
            Header::Partial => {
                if socket.read_ahead().await.map_err(HandshakeError::Socket)? == 0 {
                    return Err(HandshakeError::ProxyProtocol);
                }
            }
        }
    }
}

/// Why there is no hello.
enum HelloError {
    Socket(io::Error),
    Malformed(rustls::Error, AcceptedAlert),
}

impl HelloError {
    /// Tells the client what is wrong, as far as that is possible.
    async fn tell(self, socket: &mut Socket) -> HandshakeError {
        match self {
            Self::Socket(error) => HandshakeError::Tls(error),
            Self::Malformed(error, mut alert) => {
                let mut bytes = Vec::new();
                // Writing to memory does not fail, and the connection ends in any case.
                alert.write_all(&mut bytes).unwrap_or_default();
                socket.write_all(&bytes).await.unwrap_or_default();
                HandshakeError::Tls(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }
}

/// A hello, and how many bytes rustls has read for it.
type Hello = (Accepted, usize);

/// Reads the hello; its bytes stay ahead.
async fn hello(socket: &mut Socket) -> Result<Hello, HelloError> {
    let mut acceptor = Acceptor::default();
    let mut known = 0;
    loop {
        while known < socket.ahead().len() {
            let mut new = &socket.ahead()[known..];
            known += acceptor.read_tls(&mut new).map_err(HelloError::Socket)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok((accepted, known)),
                Ok(None) => {}
                Err((error, alert)) => return Err(HelloError::Malformed(error, alert)),
            }
        }
        if socket.read_ahead().await.map_err(HelloError::Socket)? == 0 {
            return Err(HelloError::Socket(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

async fn tls(
    serving: &Rc<Serving>,
    mut socket: Socket,
    mut facts: ConnectionFacts,
    (accepted, bytes): Hello,
) -> Result<(Admitted, Stream), HandshakeError> {
    let listener = serving.listener();
    let said = accepted.client_hello();
    facts.is_tls = true;
    // rustls has already made it lower case.
    facts.server_name = said.server_name().map(Into::into);
    facts.application_protocols =
        said.alpn().into_iter().flatten().map(|protocol| protocol.to_vec().into()).collect();
    let admitted = admit(serving, facts).await?;
    let view = admitted.connection().view();
    let chain = view.chain().ok_or(HandshakeError::NoChain)?;
    let Some(tls) = &chain.tls else {
        // The chain takes the bytes as they are, to pass them on.
        return Ok((admitted, Stream::Plain(socket)));
    };
    let config = tls.acceptor_for(&said).clone();
    let own = tls.config.validation.as_ref().and_then(|_| tls.certificate_for(said));
    socket.consume(bytes);
    let handshake = StartHandshake::from_parts(accepted, socket).into_stream(config);
    let stream = match chain.config.handshake_timeout {
        None => handshake.await,
        Some(limit) => match timeout(limit, handshake).await {
            Ok(stream) => stream,
            Err(_) => return Err(late(&listener)),
        },
    };
    match stream {
        Ok(stream) => {
            listener.stats.handshake(Handshake::Ok);
            let shown = stream.get_ref().1.peer_certificates().and_then(Identity::new);
            if let Some(client) = shown {
                admitted.connection().identify(client, own);
            }
            Ok((admitted, Stream::Tls(Box::new(stream))))
        }
        Err(error) => {
            listener.stats.handshake(kind(&error));
            Err(HandshakeError::Tls(error))
        }
    }
}

fn late(listener: &Listener) -> HandshakeError {
    listener.stats.handshake(Handshake::Timeout);
    HandshakeError::Timeout
}

fn kind(error: &io::Error) -> Handshake {
    use rustls::Error;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => {
            Handshake::ClientCertificate
        }
        Some(Error::General(text)) if text.contains("no server certificate chain resolved") => {
            Handshake::NoCertificate
        }
        _ => Handshake::Protocol,
    }
}
