//! Gives up on streams of HTTP/2 whose readers stand still: the codec then asks the body no more.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::{Deadlines, Ended, Meter, Watch};

/// What one stream and the task that drives it share.
#[derive(Debug, Default)]
pub struct StreamWatch(RefCell<Option<Watch>>);

impl StreamWatch {
    /// A stream without an answer yet.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// The answer has begun, and has to go on within these deadlines.
    pub fn begin(&self, meter: Rc<Meter>, deadlines: Deadlines) {
        let has_any = deadlines.idle.is_some() || deadlines.end.is_some();
        *self.0.borrow_mut() = has_any.then(|| Watch { meter, deadlines, sleep: None });
    }

    fn poll_late(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut watch = self.0.borrow_mut();
        let Some(watch) = &mut *watch else { return Poll::Pending };
        watch.poll_deadlines(context).map(|kind| {
            watch.meter.ended.set(Some(Ended::Deadline(kind)));
        })
    }
}

pin_project! {
    /// Drives a stream until it ends or is too late; then the stream is reset.
    #[derive(Debug)]
    pub struct Driven<F> {
        #[pin]
        stream: Option<F>,
        watch: Rc<StreamWatch>,
    }
}

impl<F: Future> Driven<F> {
    /// Drives `stream`.
    pub fn new(stream: F, watch: Rc<StreamWatch>) -> Self {
        Self { stream: Some(stream), watch }
    }
}

impl<F: Future> Future for Driven<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(stream) = this.stream.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        if stream.poll(context).is_ready() || this.watch.poll_late(context).is_ready() {
            this.stream.set(None);
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::body::{Activity, DeadlineKind};

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_stands_still_is_dropped_once_its_answer_has_begun() {
        let watch = StreamWatch::new();
        let meter = Meter::new(Activity::new());
        let begun = Rc::clone(&watch);
        let of_stream = Rc::clone(&meter);
        let stream = async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            of_stream.activity.touch();
            let idle = Some(Duration::from_secs(5));
            begun.begin(of_stream, Deadlines { idle, end: None });
            std::future::pending::<()>().await;
        };
        let started = Instant::now();
        Driven::new(stream, watch).await;
        assert_eq!(started.elapsed().as_secs(), 65);
        assert_eq!(meter.ended(), Some(Ended::Deadline(DeadlineKind::Idle)));
    }
}
