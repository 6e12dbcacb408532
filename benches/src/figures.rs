//! Figures out of many measurements.

use std::time::Duration;

/// The value that `part` (0 to 1) of the measurements do not exceed.
pub fn quantile(sorted: &[Duration], part: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    let place = (part * last as f64).ceil() as usize;
    sorted.get(place.min(last)).copied().unwrap_or_default()
}

/// p50, p99 and the worst of many measurements, in milliseconds.
pub fn spread(mut all: Vec<Duration>) -> String {
    all.sort();
    let ms = |part| quantile(&all, part).as_secs_f64() * 1e3;
    format!(
        "p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms, of {}",
        ms(0.5),
        ms(0.99),
        ms(1.0),
        all.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measurements() {
        let all: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&all, 0.5), Duration::from_millis(51));
        assert_eq!(quantile(&all, 0.99), Duration::from_millis(100));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
