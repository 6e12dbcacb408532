//! gRPC messages on an HTTP/2 stream: requests as they come, and responses whose large part all streams share.
//!
//! A stream that waits holds no buffer: thousands of them do.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;

use crate::serve::response::Resources;
use crate::snapshot::table::{RESOURCES_TAG, field_len, put_field};

/// A flag for compression, and the length of the message.
const PREFIX_BYTES: usize = 5;

/// What a client sends.
#[derive(Debug)]
pub struct Requests {
    body: Body,
    /// The beginning of a message whose end has not come yet.
    partial: BytesMut,
    max_bytes: usize,
}

impl Requests {
    /// Reads the messages of a body, each of at most `max_bytes`.
    pub fn new(body: Body, max_bytes: usize) -> Self {
        Self { body, partial: BytesMut::new(), max_bytes }
    }

    /// The next message. `None` when the client half-closed the stream. Can be dropped while it
    /// waits without losing anything.
    ///
    /// # Errors
    /// When the stream breaks, or what comes is no message.
    pub async fn message<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else {
                return if self.partial.is_empty() {
                    Ok(None)
                } else {
                    Err(Status::internal("the stream ended within a message"))
                };
            };
            let Ok(data) = frame?.into_data() else { continue };
            self.partial.extend_from_slice(&data);
        }
    }

    fn take<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let Some((prefix, rest)) = self.partial.split_at_checked(PREFIX_BYTES) else {
            return Ok(None);
        };
        let (compressed, mut length) = prefix.split_at(1);
        let length = usize::try_from(length.get_u32()).unwrap_or(usize::MAX);
        if compressed != [0] {
            return Err(Status::unimplemented("compressed requests are not supported"));
        }
        if length > self.max_bytes {
            let problem = format!("a request of {length} bytes, more than {}", self.max_bytes);
            return Err(Status::out_of_range(problem));
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let message = M::decode(message).map_err(|error| Status::internal(error.to_string()))?;
        self.partial.advance(PREFIX_BYTES + length);
        if self.partial.is_empty() {
            self.partial = BytesMut::new();
        }
        Ok(Some(message))
    }
}

/// A message in pieces, prefix included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    head: Bytes,
    shared: Option<Bytes>,
}

impl Pieces {
    /// A discovery response: `head` has all fields but the resources.
    pub fn new(head: &impl Message, resources: &Resources) -> Self {
        let (own, shared): (&[Bytes], _) = match resources {
            Resources::Some(own) => (own, None),
            Resources::Whole(table, form) => (&[], Some(table.whole(*form).clone())),
        };
        let own_bytes: usize = own.iter().map(|one| field_len(RESOURCES_TAG, one.len())).sum();
        let in_head = head.encoded_len() + own_bytes;
        let length = in_head + shared.as_ref().map_or(0, Bytes::len);
        let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + in_head);
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        head.encode_raw(&mut bytes);
        for one in own {
            put_field(RESOURCES_TAG, one, &mut bytes);
        }
        Self { head: bytes.freeze(), shared }
    }
}

/// The body of a response: what comes through a channel, then how the stream ended.
#[derive(Debug)]
pub struct Responses {
    source: mpsc::Receiver<Result<Pieces, Status>>,
    waiting: VecDeque<Bytes>,
    is_over: bool,
}

impl Responses {
    /// Sends what comes out of `source`.
    pub fn new(source: mpsc::Receiver<Result<Pieces, Status>>) -> Self {
        Self { source, waiting: VecDeque::new(), is_over: false }
    }
}

impl http_body::Body for Responses {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Some(piece) = this.waiting.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if this.is_over {
            return Poll::Ready(None);
        }
        let status = match ready!(this.source.poll_recv(context)) {
            Some(Ok(Pieces { head, shared })) => {
                this.waiting.extend(shared);
                return Poll::Ready(Some(Ok(Frame::data(head))));
            }
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        this.is_over = true;
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::message::DeltaDiscoveryResponse;
    use crate::serve::testing::{Cluster, cluster};
    use crate::snapshot::Snapshot;
    use crate::snapshot::table::Form;
    use http_body_util::StreamBody;
    use tonic::Code;
    use xds_proto::envoy::service::discovery::v3 as envoy;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Names {
        #[prost(string, repeated, tag = "2")]
        names: Vec<String>,
    }

    fn names(count: usize) -> Names {
        Names { names: (0..count).map(|n| format!("name-{n}")).collect() }
    }

    fn encoded(message: &Names) -> Vec<u8> {
        Pieces::new(message, &Resources::Some(Vec::new())).head.to_vec()
    }

    fn requests(bytes: &[u8], piece: usize, max_bytes: usize) -> Requests {
        let frames: Vec<_> = bytes
            .chunks(piece)
            .map(|chunk| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        Requests::new(Body::new(StreamBody::new(tokio_stream::iter(frames))), max_bytes)
    }

    #[tokio::test]
    async fn messages_come_whole_however_they_are_cut() {
        let bytes = [encoded(&names(3)), encoded(&names(0)), encoded(&names(40))].concat();
        for piece in [1, 2, 5, 7, 64, bytes.len()] {
            let mut requests = requests(&bytes, piece, 1024);
            for count in [3, 0, 40] {
                assert_eq!(requests.message().await.unwrap(), Some(names(count)));
            }
            assert_eq!(requests.message::<Names>().await.unwrap(), None);
            assert_eq!(requests.partial.capacity(), 0);
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let bytes = encoded(&names(3));
        let refused = async |bytes: &[u8], max_bytes| {
            requests(bytes, 9, max_bytes).message::<Names>().await.unwrap_err().code()
        };
        assert_eq!(refused(&bytes, 8).await, Code::OutOfRange);
        assert_eq!(refused(&bytes[..bytes.len() - 1], 1024).await, Code::Internal);
        assert_eq!(refused(&[&[1], &bytes[1..]].concat(), 1024).await, Code::Unimplemented);
        assert_eq!(refused(&[0, 0, 0, 0, 1, 7], 1024).await, Code::Internal);
    }

    #[tokio::test]
    async fn shared_resources_and_own_ones_read_the_same() {
        let snapshot = Snapshot::new(vec![cluster("a", 0), cluster("b", 0)]);
        let table = snapshot.kind(Cluster);
        let whole = Resources::Whole(table.clone(), Form::Wrapped);
        let head = DeltaDiscoveryResponse { nonce: "7".into(), ..Default::default() };
        for resources in [Resources::Some(whole.each()), whole] {
            let Pieces { head, shared } = Pieces::new(&head, &resources);
            let bytes = [head, shared.unwrap_or_default()].concat();
            let read: envoy::DeltaDiscoveryResponse =
                requests(&bytes, 4, 1024).message().await.unwrap().unwrap();
            let names: Vec<_> = read.resources.iter().map(|one| one.name.as_str()).collect();
            assert_eq!((read.nonce.as_str(), names), ("7", vec!["a", "b"]));
        }
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_status() {
        let (sender, source) = mpsc::channel(2);
        let pieces = Pieces::new(&names(1), &Resources::Some(Vec::new()));
        sender.send(Ok(pieces.clone())).await.unwrap();
        sender.send(Err(Status::unavailable("going down"))).await.unwrap();
        drop(sender);
        let collected = Responses::new(source).collect().await.unwrap();
        let trailers = collected.trailers().unwrap().clone();
        assert_eq!(collected.to_bytes(), pieces.head);
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"14".parse().unwrap(), &"going%20down".parse().unwrap())
        );
    }
}
