//! Buckets for values that are not known beforehand: one for each that comes, up to a number.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::bucket::{Bucket, Fill};
use crate::filtering::rate_limit::Entry;

/// Buckets by value; of too many the one not used for longest goes.
///
/// A lock guards them: what clients send cannot be known beforehand, and it is held for a look-up.
#[derive(Debug)]
pub(super) struct Dynamic {
    fill: Fill,
    max: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    buckets: HashMap<Arc<[Entry]>, (Arc<Bucket>, u64)>,
    /// By their last use.
    order: BTreeMap<u64, Arc<[Entry]>>,
    uses: u64,
}

impl Dynamic {
    /// No bucket yet.
    pub(super) fn new(fill: Fill, max: usize) -> Self {
        Self { fill, max, known: Mutex::default() }
    }

    /// The bucket of these values; a full one where they are new.
    pub(super) fn bucket(&self, entries: &[Entry], now: Instant) -> Arc<Bucket> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *known;
        known.uses += 1;
        if let Some((bucket, last)) = known.buckets.get_mut(entries) {
            if let Some(entries) = known.order.remove(last) {
                known.order.insert(known.uses, entries);
            }
            *last = known.uses;
            return Arc::clone(bucket);
        }
        if known.buckets.len() >= self.max
            && let Some((_, oldest)) = known.order.pop_first()
        {
            known.buckets.remove(&oldest);
        }
        let entries: Arc<[Entry]> = entries.into();
        let bucket = Arc::new(Bucket::full(self.fill, now));
        known.order.insert(known.uses, Arc::clone(&entries));
        known.buckets.insert(entries, (Arc::clone(&bucket), known.uses));
        bucket
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn of_too_many_the_one_not_used_for_longest_goes() {
        let now = Instant::now();
        let fill = Fill { max: 1, tokens: 1, interval: Duration::from_secs(3600) };
        let buckets = Dynamic::new(fill, 2);
        let takes = |value: &str| {
            let entry = Entry { key: "user".into(), value: value.to_owned() };
            buckets.bucket(&[entry], now).take(1, now)
        };
        assert!(takes("a") && takes("b"));
        assert!(!takes("a"), "known");
        assert!(takes("c"), "takes the place of b");
        assert!(!takes("a") && takes("b"));
    }
}
