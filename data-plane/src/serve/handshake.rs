//! From a socket to a connection that knows its filter chain: TLS where it is spoken.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use super::io::Stream;
use crate::listener::matching::ConnectionFacts;
use crate::proxy::connection::{Admitted, Serving};
use crate::telemetry::stats::Handshake;
use crate::tls::identity::Identity;

/// The first byte of a TLS record that holds a hello.
const TLS_HANDSHAKE: u8 = 0x16;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("no filter chain is for this connection")]
    NoChain,
    #[error("the client took too long")]
    Timeout,
    #[error("the socket failed")]
    Socket(#[source] io::Error),
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
    let mut facts = ConnectionFacts {
        local: socket.local_addr().map_err(HandshakeError::Socket)?,
        remote,
        is_tls: false,
        server_name: None,
        application_protocols: Box::default(),
    };
    let speaks_tls = match listener.is_tls() {
        Some(is_tls) if !listener.needs_hello() => is_tls,
        _ => {
            let hello = first_byte(&socket);
            let byte = match listener.config.hello_timeout {
                None => hello.await,
                Some(limit) => timeout(limit, hello).await.map_err(|_| HandshakeError::Timeout)?,
            };
            byte.map_err(HandshakeError::Socket)? == Some(TLS_HANDSHAKE)
        }
    };
    if speaks_tls {
        return tls(serving, socket, facts).await;
    }
    facts.is_tls = false;
    let admitted = serving.admit(facts).ok_or(HandshakeError::NoChain)?;
    let view = admitted.connection().view();
    match view.chain() {
        Some(chain) if chain.tls.is_none() => Ok((admitted, Stream::Plain(socket))),
        Some(_) | None => Err(HandshakeError::NoChain),
    }
}

async fn first_byte(socket: &TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let read = socket.peek(&mut byte).await?;
    Ok((read > 0).then_some(byte[0]))
}

async fn tls(
    serving: &Rc<Serving>,
    socket: TcpStream,
    mut facts: ConnectionFacts,
) -> Result<(Admitted, Stream), HandshakeError> {
    let listener = serving.listener();
    let acceptor = LazyConfigAcceptor::new(Acceptor::default(), socket);
    let hello = match listener.config.hello_timeout {
        None => acceptor.await,
        Some(limit) => timeout(limit, acceptor).await.map_err(|_| {
            listener.stats.handshake(Handshake::Timeout);
            HandshakeError::Timeout
        })?,
    };
    let hello = hello.map_err(|error| {
        listener.stats.handshake(Handshake::Protocol);
        HandshakeError::Tls(error)
    })?;
    let said = hello.client_hello();
    facts.is_tls = true;
    // rustls has already made it lower case.
    facts.server_name = said.server_name().map(Into::into);
    facts.application_protocols =
        said.alpn().into_iter().flatten().map(|protocol| protocol.to_vec().into()).collect();
    let admitted = serving.admit(facts).ok_or(HandshakeError::NoChain)?;
    let view = admitted.connection().view();
    let chain = view.chain().ok_or(HandshakeError::NoChain)?;
    let tls = chain.tls.as_ref().ok_or(HandshakeError::NoChain)?;
    let config = tls.acceptor_for(&said).clone();
    let own = tls.config.validation.as_ref().and_then(|_| tls.certificate_for(said));
    let handshake = hello.into_stream(config);
    let stream = match chain.config.handshake_timeout {
        None => handshake.await,
        Some(limit) => timeout(limit, handshake).await.map_err(|_| {
            listener.stats.handshake(Handshake::Timeout);
            HandshakeError::Timeout
        })?,
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
