//! Which endpoints a retry does without.

use std::num::NonZeroU32;

use crate::labels::Labels;

/// What a retry asks of its endpoint (`retry_host_predicate`, `retry_priority`). By default nothing.
#[derive(Debug, Clone, Default)]
pub struct Elsewhere {
    /// Not one that was tried (`previous_hosts`).
    pub not_tried: bool,
    /// Not one that has one of these (`omit_canary_hosts`, `omit_host_metadata`).
    pub not_labelled: Box<[Labels]>,
    /// How often another one is drawn in place of one that is not to be
    /// (`host_selection_retry_max_attempts`); the last is taken, whatever it is.
    pub draws: u32,
    /// Not one of the priorities that were tried (`previous_priorities`).
    pub priorities: Option<PreviousPriorities>,
}

impl Elsewhere {
    /// Whether any endpoint will do.
    pub fn is_anywhere(&self) -> bool {
        !self.not_tried && self.not_labelled.is_empty() && self.priorities.is_none()
    }
}

/// Leaves out the priorities that were tried, as long as another one can bear anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviousPriorities {
    /// After how many tries they are found out again.
    pub every: NonZeroU32,
}

impl PreviousPriorities {
    /// Which priorities the next try does without; as bits. `tried`: the priority of each try so far, the
    /// first first; `availability`: what each priority can bear. Those beyond the 128th are never left out.
    pub fn left_out(self, tried: &[usize], availability: &[u32]) -> u128 {
        let every = self.every.get() as usize;
        let (mut out, mut begin, mut applied) = (0_u128, 0, 0_u128);
        for count in 1..=tried.len() {
            let seen = &tried[begin..count];
            if seen.len() < every {
                applied = 0;
            } else if seen.len().is_multiple_of(every) {
                out = seen.iter().fold(out, |out, priority| out | bit(*priority));
                let left = availability.iter().enumerate();
                let is_hopeless = left
                    .filter(|(priority, _)| out & bit(*priority) == 0)
                    .all(|(_, able)| *able == 0);
                if is_hopeless {
                    // All over again.
                    (out, begin) = (0, count);
                }
                applied = out;
            }
        }
        applied
    }
}

fn bit(priority: usize) -> u128 {
    u32::try_from(priority).ok().and_then(|priority| 1_u128.checked_shl(priority)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn left_out(every: u32, tried: &[usize], availability: &[u32]) -> u128 {
        PreviousPriorities { every: NonZeroU32::new(every).unwrap() }.left_out(tried, availability)
    }

    #[test]
    fn priorities_are_left_out_one_by_one_and_then_all_are_there_again() {
        let able = [100, 100, 100];
        for (tried, out) in
            [(&[][..], 0), (&[0], 0b1), (&[0, 1], 0b11), (&[0, 1, 2], 0), (&[0, 1, 2, 0], 0b1)]
        {
            assert_eq!(left_out(1, tried, &able), out, "{tried:?}");
        }
    }

    #[test]
    fn they_are_found_out_every_so_many_tries() {
        for (tried, out) in [
            (&[0][..], 0),
            (&[0, 0], 0b1),
            (&[0, 0, 1], 0b1),
            (&[0, 0, 1, 1], 0b11),
            (&[0, 0, 1, 1, 2], 0b11),
        ] {
            assert_eq!(left_out(2, tried, &[100, 100, 100]), out, "{tried:?}");
        }
    }

    #[test]
    fn what_can_bear_nothing_is_no_way_out() {
        assert_eq!(left_out(1, &[0], &[100, 0]), 0);
        assert_eq!(left_out(1, &[0], &[100, 0, 20]), 0b1);
        assert_eq!(left_out(1, &[0, 2], &[100, 0, 20]), 0);
    }

    proptest! {
        #[test]
        fn somebody_is_always_left(
            every in 1_u32..4,
            tried in prop::collection::vec(0_usize..5, 0..12),
            availability in prop::collection::vec(0_u32..101, 5),
        ) {
            let out = left_out(every, &tried, &availability);
            let is_left = |priority: usize| out & bit(priority) == 0 && availability[priority] > 0;
            prop_assert!(out == 0 || (0..5).any(is_left));
            // Nothing is left out that was not tried.
            prop_assert!((0..5).all(|priority| out & bit(priority) == 0 || tried.contains(&priority)));
        }
    }
}
