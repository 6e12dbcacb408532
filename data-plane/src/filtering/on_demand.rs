//! Requests whose virtual host is not there yet: where they wait, and whom they ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// How many requests may wait for their virtual hosts, of all workers.
pub const HELD_MAX: usize = 1024;

/// How long a request waits for its virtual host.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The longest host that is asked for; DNS has none that is longer, and a port adds 6.
const HOST_BYTES_MAX: usize = 261;

/// A virtual host that a request waits for.
#[derive(Debug)]
pub struct Ask {
    /// The route table.
    pub table: Arc<str>,
    /// The host, in lower case.
    pub host: Box<str>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// What became of an [`Ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is there: the present snapshot has it.
    There,
    /// There is none.
    Absent,
    /// Too much has been asked.
    Full,
    /// There was no answer in time.
    TooLate,
}

/// Where virtual hosts are asked for. Clones are the same desk.
#[derive(Debug, Clone)]
pub struct Desk {
    asks: mpsc::Sender<Ask>,
    held: Arc<AtomicUsize>,
}

impl Desk {
    /// A desk, and where what is asked comes out.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, inbox) = mpsc::channel(HELD_MAX);
        (Self { asks, held: Arc::default() }, inbox)
    }

    async fn ask(&self, table: &Arc<str>, host: &str) -> Answer {
        if self.held.fetch_add(1, Relaxed) >= HELD_MAX {
            self.held.fetch_sub(1, Relaxed);
            return Answer::Full;
        }
        let _held = Held(&self.held);
        let (reply, answer) = oneshot::channel();
        let ask = Ask { table: Arc::clone(table), host: host.into(), reply };
        if self.asks.try_send(ask).is_err() {
            return Answer::Full;
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            // Nobody is there who could say; or it took too long.
            Ok(Err(_)) | Err(_) => Answer::TooLate,
        }
    }
}

/// A request that waits. Dropped, it waits no longer.
struct Held<'a>(&'a AtomicUsize);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A virtual host that is not there, and may come if it is asked for.
#[derive(Debug)]
pub struct MissingHost<'a> {
    /// Where to ask.
    pub desk: &'a Desk,
    /// The route table.
    pub table: &'a Arc<str>,
    /// The host, without the port where the table has none.
    pub host: &'a str,
}

impl MissingHost<'_> {
    /// Asks for it, and waits.
    pub async fn ask(&self) -> Answer {
        if self.host.is_empty() || self.host.len() > HOST_BYTES_MAX || self.host.contains('/') {
            return Answer::Absent;
        }
        self.desk.ask(self.table, &self.host.to_ascii_lowercase()).await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn missing<'a>(desk: &'a Desk, table: &'a Arc<str>, host: &'a str) -> MissingHost<'a> {
        MissingHost { desk, table, host }
    }

    #[tokio::test]
    async fn a_request_asks_and_gets_its_answer() {
        let (desk, mut asks) = Desk::new();
        let table: Arc<str> = "r".into();
        let missing = missing(&desk, &table, "A.test");
        let answered = async {
            let ask = asks.recv().await.unwrap();
            assert_eq!((&*ask.table, &*ask.host), ("r", "a.test"));
            ask.reply.send(Answer::There).unwrap();
        };
        assert_eq!(tokio::join!(missing.ask(), answered).0, Answer::There);
        assert_eq!(desk.held.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let (desk, _asks) = Desk::new();
        let table = "r".into();
        assert_eq!(missing(&desk, &table, "a").ask().await, Answer::TooLate);
        assert_eq!(desk.held.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn what_no_host_can_be_is_not_asked_for() {
        let (desk, mut asks) = Desk::new();
        let table = "r".into();
        let long = "a".repeat(300);
        for host in ["", "a/b", &long] {
            assert_eq!(missing(&desk, &table, host).ask().await, Answer::Absent);
        }
        assert!(asks.try_recv().is_err());
    }

    #[tokio::test]
    async fn only_so_many_wait() {
        let (desk, mut asks) = Desk::new();
        let table: Arc<str> = "r".into();
        let one = missing(&desk, &table, "a");
        let mut waiting: Vec<_> = (0..HELD_MAX).map(|_| Box::pin(one.ask())).collect();
        for ask in &mut waiting {
            assert!(ask.now_or_never().is_none());
        }
        assert_eq!(one.ask().await, Answer::Full);
        waiting.pop();
        // One has given up, but what it asked is not read yet.
        assert_eq!(one.ask().await, Answer::Full);
        asks.recv().await.unwrap();
        assert!(one.ask().now_or_never().is_none());
    }
}
