//! Waiting for a condition, with a deadline.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(10);

/// Asks `check` until it says `Ok`; fails with the last `Err` after `limit`.
pub async fn until<T, E: Debug, F: Future<Output = Result<T, E>>>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + limit;
    loop {
        match check().await {
            Ok(value) => return value,
            Err(error) if Instant::now() >= end => panic!("waited {limit:?} for {what}: {error:?}"),
            Err(_) => sleep(EVERY).await,
        }
    }
}
