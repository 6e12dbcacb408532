//! Stands in for a DNS server: answers by UDP and by TCP what a test says, and keeps what it was asked.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use crate::ports;

/// What is answered to questions about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Those of the addresses that are of the kind asked for, good for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// As `Addresses`, of the name that this one is another name for.
    Alias(String, Vec<IpAddr>, u32),
    /// That there is no such name.
    NoSuchName,
    /// That the server failed.
    Failure,
    /// Nothing.
    Silence,
}

impl Reply {
    /// Addresses as text.
    pub fn addresses(addresses: &[&str], ttl: u32) -> Self {
        Self::Addresses(addresses.iter().map(|ip| ip.parse().unwrap()).collect(), ttl)
    }
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// In lower case, without the last dot.
    pub name: String,
    /// Whether for IPv6 addresses.
    pub is_v6: bool,
    pub by_tcp: bool,
}

#[derive(Debug, Default)]
struct State {
    replies: HashMap<String, Reply>,
    asked: Vec<Question>,
}

/// A stand-in for a DNS server.
#[derive(Debug)]
pub struct StandInDns {
    /// Where it is asked, by UDP and by TCP.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    tasks: [JoinHandle<()>; 2],
}

impl StandInDns {
    /// Starts one that knows no name.
    pub async fn start() -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
        let udp = UdpSocket::bind(address).await.unwrap();
        let tcp = TcpListener::bind(address).await.unwrap();
        let state: Arc<Mutex<State>> = Arc::default();
        let by_udp = tokio::spawn(serve_udp(udp, Arc::clone(&state)));
        let by_tcp = tokio::spawn(serve_tcp(tcp, Arc::clone(&state)));
        Self { address, state, tasks: [by_udp, by_tcp] }
    }

    /// Answers so from here on.
    pub fn say(&self, name: &str, reply: Reply) {
        self.state.lock().unwrap().replies.insert(name.to_owned(), reply);
    }

    /// What it was asked about a name.
    pub fn asked(&self, name: &str) -> Vec<Question> {
        let state = self.state.lock().unwrap();
        state.asked.iter().filter(|question| question.name == name).cloned().collect()
    }
}

impl Drop for StandInDns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve_udp(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(answer) = answer(&buffer[..length], false, &state) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(converse(stream, Arc::clone(&state)));
    }
}

async fn converse(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; length.into()];
        if stream.read_exact(&mut question).await.is_err() {
            return;
        }
        if let Some(answer) = answer(&question, true, &state) {
            let mut framed = u16::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
            framed.extend(answer);
            if stream.write_all(&framed).await.is_err() {
                return;
            }
        }
    }
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
/// The header of RFC 1035, 4.1.1.
const HEADER: usize = 12;
const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NAME_ERROR: u8 = 3;

/// The answer to a question, which is kept.
fn answer(message: &[u8], by_tcp: bool, state: &Mutex<State>) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at + 1..=at + length)?).to_lowercase());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes([*message.get(at + 1)?, *message.get(at + 2)?]);
    let question = message.get(HEADER..at + 5)?;
    let name = labels.join(".");
    let reply = {
        let mut state = state.lock().unwrap();
        if kind == A || kind == AAAA {
            state.asked.push(Question { name: name.clone(), is_v6: kind == AAAA, by_tcp });
        }
        state.replies.get(&name).cloned().unwrap_or(Reply::NoSuchName)
    };
    let (code, alias, addresses, ttl) = match reply {
        Reply::Addresses(addresses, ttl) => (NO_ERROR, None, addresses, ttl),
        Reply::Alias(alias, addresses, ttl) => (NO_ERROR, Some(alias), addresses, ttl),
        Reply::NoSuchName => (NAME_ERROR, None, Vec::new(), 0),
        Reply::Failure => (SERVER_FAILURE, None, Vec::new(), 0),
        Reply::Silence => return None,
    };
    let mut records = Vec::new();
    // A pointer to the name of the question.
    let mut owner = vec![0xc0, HEADER as u8];
    if let Some(alias) = alias {
        let target = encoded(&alias);
        records.push(record(&owner, CNAME, ttl, &target));
        owner = target;
    }
    for address in addresses {
        match address {
            IpAddr::V4(ip) if kind == A => records.push(record(&owner, A, ttl, &ip.octets())),
            IpAddr::V6(ip) if kind == AAAA => records.push(record(&owner, AAAA, ttl, &ip.octets())),
            _ => {}
        }
    }
    let mut answer = message[..2].to_vec();
    // An answer, with recursion wanted and available; one question.
    answer.extend([0x81, 0x80 | code, 0, 1]);
    answer.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(question);
    answer.extend(records.concat());
    Some(answer)
}

fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = owner.to_vec();
    record.extend(kind.to_be_bytes());
    record.extend([0, 1]);
    record.extend(ttl.to_be_bytes());
    record.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    record.extend(data);
    record
}

fn encoded(name: &str) -> Vec<u8> {
    let mut encoded = Vec::new();
    for label in name.split('.') {
        encoded.push(u8::try_from(label.len()).unwrap());
        encoded.extend(label.as_bytes());
    }
    encoded.push(0);
    encoded
}
