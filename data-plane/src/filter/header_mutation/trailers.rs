//! A body whose trailers are changed.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::body::{Body, BoxError};
use crate::filtering::header_change::HeaderChange;
use crate::format::Context;
use crate::format::mutation::Side;

/// A body whose trailers are changed.
#[derive(Debug)]
pub(super) struct Changed {
    body: Body,
    changes: Vec<HeaderChange>,
    side: Side,
}

impl Changed {
    /// The changes have their values already.
    pub(super) fn new(body: Body, changes: Vec<HeaderChange>, side: Side) -> Self {
        Self { body, changes, side }
    }
}

impl http_body::Body for Changed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        Pin::new(&mut this.body).poll_frame(context).map(|frame| {
            frame.map(|frame| {
                let mut frame = frame?;
                if let Some(trailers) = frame.trailers_mut() {
                    for change in &this.changes {
                        change.apply(trailers, this.side, &Context::default());
                    }
                }
                Ok(frame)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
