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
    check: impl FnMut() -> F,
) -> T {
    match until_or(limit, check).await {
        Ok(value) => value,
        Err(error) => panic!("waited {limit:?} for {what}: {error:?}"),
    }
}

/// As [`until`]; gives the last `Err` after `limit`.
pub async fn until_or<T, E, F: Future<Output = Result<T, E>>>(
    limit: Duration,
    mut check: impl FnMut() -> F,
) -> Result<T, E> {
    let end = Instant::now() + limit;
    loop {
        match check().await {
            Err(_) if Instant::now() < end => sleep(EVERY).await,
            done => return done,
        }
    }
}
