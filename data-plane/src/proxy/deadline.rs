//! What may take how long while a request waits for the head of its response.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// The limits of an exchange; `None` is for ever.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// From the last byte of the request to the last of the response.
    pub(super) response: Option<Duration>,
    /// As `response`, of one try.
    pub(super) per_try: Option<Duration>,
    /// While nothing moves either way.
    pub(super) idle: Option<Duration>,
    /// From the first byte of the request to its last.
    pub(super) request: Option<Duration>,
    /// From the first byte of the request to the last of the response.
    pub(super) stream: Option<Duration>,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// [`Limits::response`].
    Response,
    /// [`Limits::per_try`].
    PerTry,
    /// [`Limits::idle`].
    Idle,
    /// [`Limits::request`].
    Request,
    /// [`Limits::stream`].
    Stream,
}

/// How far an exchange has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// When it began.
    pub(super) started: Instant,
    /// When the last byte of the request came; `None` when it has not.
    pub(super) request_complete: Option<Instant>,
    /// When something last moved.
    pub(super) active: Instant,
    /// When the present try began.
    pub(super) try_started: Instant,
}

impl Limits {
    /// The limit that is reached next, and when, as things stand at `now`. While the request is
    /// still coming in, limits on the response have not begun.
    pub(super) fn next(&self, progress: &Progress, now: Instant) -> Option<(Instant, Expired)> {
        let Progress { started, request_complete, active, try_started } = *progress;
        let from = request_complete.unwrap_or(now);
        let at = |limit: Option<Duration>, from: Instant, expired| {
            limit.map(|limit| (from + limit, expired))
        };
        let request = self.request.filter(|_| request_complete.is_none());
        [
            at(self.response, from, Expired::Response),
            at(self.per_try, from.max(try_started), Expired::PerTry),
            at(self.idle, active, Expired::Idle),
            at(request, started, Expired::Request),
            at(self.stream, started, Expired::Stream),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// When the response must have ended.
    pub(super) fn end(&self, progress: &Progress) -> Option<Instant> {
        let response = self.response.zip(progress.request_complete).map(|(limit, at)| at + limit);
        let stream = self.stream.map(|limit| progress.started + limit);
        response.into_iter().chain(stream).min()
    }

    /// Waits for `future` within the limits.
    ///
    /// # Errors
    /// The limit that was reached first.
    pub(super) async fn hold<T>(
        &self,
        progress: impl Fn() -> Progress,
        future: impl Future<Output = T>,
    ) -> Result<T, Expired> {
        let mut future = std::pin::pin!(future);
        loop {
            let Some((at, _)) = self.next(&progress(), Instant::now()) else {
                return Ok(future.await);
            };
            if let Ok(output) = timeout_at(at, future.as_mut()).await {
                return Ok(output);
            }
            // What was the next limit may have moved on since.
            let now = Instant::now();
            match self.next(&progress(), now) {
                Some((at, expired)) if at <= now => return Err(expired),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits {
            response: Some(15 * SECOND),
            per_try: None,
            idle: Some(300 * SECOND),
            request: Some(60 * SECOND),
            stream: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_on_the_response_begins_with_the_last_byte_of_the_request() {
        let started = Instant::now();
        let complete = Cell::new(None);
        let progress = || Progress {
            started,
            request_complete: complete.get(),
            active: Instant::now(),
            try_started: started,
        };
        let upload = async {
            tokio::time::sleep(20 * SECOND).await;
            complete.set(Some(Instant::now()));
        };
        let limits = limits();
        let (expired, ()) =
            tokio::join!(limits.hold(progress, std::future::pending::<()>()), upload);
        assert_eq!(expired, Err(Expired::Response));
        assert_eq!(started.elapsed().as_secs(), 35);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_never_ends_meets_its_own_limit() {
        let started = Instant::now();
        let progress = || Progress {
            started,
            request_complete: None,
            active: Instant::now(),
            try_started: started,
        };
        let expired = limits().hold(progress, std::future::pending::<()>()).await;
        assert_eq!(expired, Err(Expired::Request));
        assert_eq!(started.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn without_limits_there_is_no_hurry() {
        let now = Instant::now();
        let progress =
            || Progress { started: now, request_complete: None, active: now, try_started: now };
        let long = tokio::time::sleep(100_000 * SECOND);
        assert_eq!(Limits::default().hold(progress, long).await, Ok(()));
    }
}
