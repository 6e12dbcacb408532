//! How traffic is split over priorities when endpoints fail: Envoy's rules, as a pure function.

/// How many endpoints of a priority are in which health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) healthy: usize,
    pub(crate) degraded: usize,
    pub(crate) total: usize,
    /// How much more than its share it can bear, in percent.
    pub(crate) overprovisioning: u32,
}

/// Which endpoints of a priority take a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Healthy,
    Degraded,
    /// So few are healthy that all get traffic, lest it bring down the rest.
    Everyone,
}

/// A share of the traffic, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) priority: usize,
    pub(crate) who: Who,
    pub(crate) percent: u32,
}

/// Splits the traffic. The shares add up to 100 unless there is no endpoint at all.
///
/// The first priority takes what it can bear: its healthy part times the overprovisioning factor.
/// The next ones take the rest; then the degraded endpoints. When all together cannot bear it, the
/// shares grow to 100, and a priority whose healthy part is below the panic threshold uses all it
/// has.
pub(crate) fn split(census: &[Census], panic_below: u32) -> Vec<Share> {
    let healthy = census.iter().map(|c| part(c, c.healthy));
    let degraded = census.iter().map(|c| part(c, c.degraded));
    let sum = percent(healthy.clone().chain(degraded.clone()).map(|part| part as usize).sum());
    if sum == 0 {
        return hopeless(census, panic_below);
    }
    let mut left = 100;
    let mut shares = Vec::new();
    let spread = healthy.map(|part| (Who::Healthy, part)).enumerate();
    for (priority, (who, part)) in
        spread.chain(degraded.map(|part| (Who::Degraded, part)).enumerate())
    {
        let percent = left.min(part * 100 / sum);
        left -= percent;
        if percent > 0 {
            let who = if sum < 100 && is_panicking(census[priority], panic_below) {
                Who::Everyone
            } else {
                who
            };
            shares.push(Share { priority, who, percent });
        }
    }
    // What rounding left over goes to the first.
    if let Some(first) = shares.first_mut() {
        first.percent += left;
    }
    shares
}

/// How much of the traffic a priority can bear, in percent.
pub(crate) fn availability(census: &Census) -> u32 {
    part(census, census.healthy) + part(census, census.degraded)
}

/// What so many of its endpoints can bear.
fn part(census: &Census, count: usize) -> u32 {
    match census.total {
        0 => 0,
        total => percent(count.saturating_mul(census.overprovisioning as usize) / total),
    }
}

fn percent(value: usize) -> u32 {
    u32::try_from(value.min(100)).unwrap_or(100)
}

/// Nobody is healthy: the first priority that has endpoints takes all, if panic is allowed.
fn hopeless(census: &[Census], panic_below: u32) -> Vec<Share> {
    let first = census.iter().position(|census| census.total > 0);
    first
        .filter(|_| panic_below > 0)
        .map(|priority| Share { priority, who: Who::Everyone, percent: 100 })
        .into_iter()
        .collect()
}

/// Whether so few are healthy that all are used.
pub(crate) fn is_panicking(census: Census, panic_below: u32) -> bool {
    let usable = census.healthy.saturating_add(census.degraded).saturating_mul(100);
    census.total > 0 && usable / census.total < panic_below as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(census: &[(usize, usize, usize)]) -> Vec<(usize, Who, u32)> {
        let census: Vec<_> = census
            .iter()
            .map(|(healthy, degraded, total)| Census {
                healthy: *healthy,
                degraded: *degraded,
                total: *total,
                overprovisioning: 140,
            })
            .collect();
        let shares = split(&census, 50);
        shares.iter().map(|share| (share.priority, share.who, share.percent)).collect()
    }

    #[test]
    fn the_first_priority_takes_all_while_it_can() {
        assert_eq!(shares(&[(10, 0, 10), (10, 0, 10)]), [(0, Who::Healthy, 100)]);
        assert_eq!(shares(&[(72, 0, 100), (100, 0, 100)]), [(0, Who::Healthy, 100)]);
    }

    #[test]
    fn what_the_first_cannot_bear_goes_to_the_next() {
        let expected = [(0, Who::Healthy, 70), (1, Who::Healthy, 30)];
        assert_eq!(shares(&[(50, 0, 100), (100, 0, 100)]), expected);
        assert_eq!(shares(&[(0, 0, 100), (100, 0, 100)]), [(1, Who::Healthy, 100)]);
        assert_eq!(shares(&[(0, 0, 0), (1, 0, 1)]), [(1, Who::Healthy, 100)]);
    }

    #[test]
    fn degraded_endpoints_come_last() {
        let expected = [(0, Who::Healthy, 70), (0, Who::Degraded, 30)];
        assert_eq!(shares(&[(50, 50, 100)]), expected);
    }

    #[test]
    fn too_few_healthy_ones_are_panic() {
        assert_eq!(shares(&[(2, 0, 10)]), [(0, Who::Everyone, 100)]);
        assert_eq!(shares(&[(0, 0, 3)]), [(0, Who::Everyone, 100)]);
        // The second can help, so there is none.
        assert_eq!(
            shares(&[(2, 0, 10), (10, 0, 10)]),
            [(0, Who::Healthy, 28), (1, Who::Healthy, 72)]
        );
    }

    #[test]
    fn without_panic_nobody_is_nobody() {
        assert_eq!(split(&[Census { total: 3, ..Census::default() }], 0), []);
        assert_eq!(shares(&[]), []);
    }
}
