//! Takes turns by weight, smoothly and without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The heaviest takes part in every round; what weighs a tenth of it, in every tenth.
const ROUND: u64 = u16::MAX as u64;

/// Takes turns by weight: in each round an element is passed over in proportion to its weight, and
/// the elements' rounds are shifted against each other. A weight counts to 1/65535 of the largest.
#[derive(Debug)]
pub(crate) struct Stride {
    next: AtomicU64,
    /// `None` when all weigh the same.
    weights: Option<Box<[u64]>>,
    count: u64,
}

impl Stride {
    /// `start` decides who is first, so that proxies that start together do not all pick the same.
    pub(crate) fn new(weights: &[u32], start: u64) -> Self {
        let max = u64::from(weights.iter().copied().max().unwrap_or(1)).max(1);
        let are_equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let scaled = || weights.iter().map(|w| (u64::from(*w) * ROUND).div_ceil(max)).collect();
        Self {
            next: AtomicU64::new(start),
            weights: (!are_equal).then(scaled),
            count: weights.len() as u64,
        }
    }

    /// Whose turn it is; 0 when there is nobody.
    pub(crate) fn take(&self) -> usize {
        if self.count < 2 {
            return 0;
        }
        loop {
            let turn = self.next.fetch_add(1, Relaxed);
            let index = turn % self.count;
            let Some(weights) = &self.weights else { return index as usize };
            let weight = weights[index as usize];
            // Each element's weight adds up round by round; it is its turn when that overflows.
            let round = turn / self.count;
            let sum = weight.wrapping_mul(round).wrapping_add(index * (ROUND / 2)) % ROUND;
            if sum + weight >= ROUND {
                return index as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(weights: &[u32], times: usize) -> Vec<usize> {
        let stride = Stride::new(weights, 0);
        (0..times).map(|_| stride.take()).collect()
    }

    #[test]
    fn equal_weights_take_turns() {
        assert_eq!(take(&[7, 7, 7], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(take(&[1], 2), [0, 0]);
        assert_eq!(take(&[], 1), [0]);
    }

    #[test]
    fn shares_follow_weights() {
        for weights in [vec![9, 1], vec![1, 2, 3, 4], vec![95, 5, 0], vec![1_000_000, 10_000]] {
            let total: u32 = weights.iter().sum();
            let times = 100_000;
            let taken = take(&weights, times);
            for (index, weight) in weights.iter().enumerate() {
                let share = taken.iter().filter(|taken| **taken == index).count() as f64;
                let expected = f64::from(*weight) / f64::from(total) * times as f64;
                assert!((share - expected).abs() <= 5.0, "{weights:?}: {index} has {share}");
            }
        }
    }

    #[test]
    fn the_light_one_is_spread_over_time() {
        let taken = take(&[9, 1], 100);
        let at: Vec<_> = (0..100).filter(|i| taken[*i] == 1).collect();
        assert!(at.windows(2).all(|pair| (8..=12).contains(&(pair[1] - pair[0]))), "{at:?}");
    }
}
