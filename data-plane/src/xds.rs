//! The client side of xDS: what the proxy asks for, what it made of the answers, and what it keeps.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use xds_proto::envoy::config::core::v3::Node;
use xds_proto::field::{At, FieldError};
use xds_proto::resource::{Resource, ResourceType};

use crate::compile::Rejected;
use crate::xds::subscription::Wanted;

pub mod client;
pub mod delta;
pub mod sotw;
pub mod disk;
pub mod cache;
pub mod subscription;

/// One response, taken apart.
#[derive(Debug)]
pub struct Update {
    /// The type it is about.
    pub kind: ResourceType,
    /// Added or changed resources.
    pub added: Vec<Resource>,
    /// Resources that the server says are gone.
    pub removed: Vec<Arc<str>>,
    /// Resources that the server names and does not send: it has none, or ours has not changed.
    pub bodiless: Vec<Arc<str>>,
    /// Other names that resources were asked for by, and their own.
    pub aliases: Vec<(Arc<str>, Arc<str>)>,
    /// Whether the response holds all there is, so that what is missing is gone.
    pub is_complete: bool,
    /// What is wrong with the response itself.
    pub refused: Vec<Rejected>,
}

/// What an answer must refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The type URL of the response.
    pub type_url: String,
    /// The nonce of the response.
    pub nonce: String,
    /// The version that a state-of-the-world response gives its set.
    pub version: String,
}

/// A response on its way in.
#[derive(Debug)]
pub struct Incoming {
    /// What the answer must refer to.
    pub receipt: Receipt,
    /// What it says, or why nothing can be made of it.
    pub update: Result<Update, String>,
}

/// What a new stream begins with.
#[derive(Debug, Default)]
pub struct Start {
    /// What to ask for.
    pub wanted: Wanted,
    /// The versions that are applied, by type in the order of [`ResourceType::ALL`].
    pub versions: [HashMap<String, String>; ResourceType::ALL.len()],
}

/// The steps of one variant of the protocol. Pure: what goes out is returned, not sent.
pub trait Protocol {
    /// What goes out.
    type Request;
    /// What comes in.
    type Response;

    /// The first requests of a stream.
    fn start(&mut self, start: Start) -> Vec<Self::Request>;

    /// Takes a response apart.
    fn read(&mut self, response: Self::Response) -> Incoming;

    /// Asks for what is wanted by now.
    fn follow(&mut self, wanted: &Wanted) -> Vec<Self::Request>;

    /// Answers a response, with the reason if it is refused, and asks for what is wanted by now.
    fn settle(
        &mut self,
        receipt: &Receipt,
        refusal: Option<&str>,
        wanted: &Wanted,
    ) -> Vec<Self::Request>;
}

/// The node, as often as the server needs it.
#[derive(Debug, Clone)]
pub struct Introduction {
    node: Node,
    once_a_stream: bool,
    is_due: bool,
}

impl Introduction {
    /// Introduces `node` in every request, or in the first of each stream.
    pub fn new(node: Node, once_a_stream: bool) -> Self {
        Self { node, once_a_stream, is_due: true }
    }

    fn begin_stream(&mut self) {
        self.is_due = true;
    }

    fn next(&mut self) -> Option<Node> {
        let is_due = self.is_due;
        self.is_due = !self.once_a_stream;
        is_due.then(|| self.node.clone())
    }
}

/// `google.rpc.Code.INVALID_ARGUMENT`, which every NACK carries.
const INVALID_ARGUMENT: i32 = 3;

/// A NACK holds at most this many bytes of text, so that a thousand bad routes fit one message.
const NACK_BYTES_MAX: usize = 16 << 10;

/// The text of a NACK: each refused resource by name, path and reason.
pub fn nack_text(all: &[Rejected]) -> String {
    let mut text = String::new();
    for (i, rejected) in all.iter().enumerate() {
        if text.len() > NACK_BYTES_MAX {
            text.push_str(&format!("; and {} more", all.len() - i));
            break;
        }
        if i > 0 {
            text.push_str("; ");
        }
        if !rejected.name.is_empty() {
            text.push_str(&rejected.name);
            text.push_str(": ");
        }
        text.push_str(&rejected.error.to_string());
    }
    text
}

/// Sorts out one resource of a response: its name, or what is wrong with it.
fn named(
    index: usize,
    kind: ResourceType,
    type_url: &str,
    body: &[u8],
) -> Result<Arc<str>, Rejected> {
    let refuse = |reason: String| Rejected {
        name: "".into(),
        error: FieldError::invalid(reason).at_index(index).at("resources"),
    };
    if type_url != kind.type_url() {
        return Err(refuse(format!("is {type_url:?}, not {}", kind.type_url())));
    }
    xds_proto::resource::name_of(body).map_err(|error| refuse(error.to_string()))
}

/// Refuses every resource whose name an earlier one of the response has.
fn refuse_duplicates(added: &mut Vec<Resource>, refused: &mut Vec<Rejected>) {
    let mut seen = HashSet::new();
    added.retain(|resource| {
        let is_new = seen.insert(Arc::clone(&resource.name));
        if !is_new {
            let error = FieldError::invalid("stands twice in the response");
            refused.push(Rejected { name: Arc::clone(&resource.name), error });
        }
        is_new
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nack_names_every_refused_resource() {
        let rejected = |name: &str| Rejected {
            name: name.into(),
            error: FieldError::required().at("match").at_index(0).at("routes"),
        };
        assert_eq!(
            nack_text(&[rejected("a"), rejected("b")]),
            "a: routes[0].match: required; b: routes[0].match: required"
        );
        let many: Vec<_> = (0..1000).map(|_| rejected(&"n".repeat(100))).collect();
        let text = nack_text(&many);
        assert!(text.len() < NACK_BYTES_MAX + 200 && text.contains("; and 8"), "{}", text.len());
    }
}
