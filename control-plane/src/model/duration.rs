//! Durations as the Gateway API writes them (GEP-2257): `1h30m`, `500ms`.

use std::time::Duration;

/// Reads up to four parts of one to five digits and a unit; `None` when it is not that.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 =
            rest.get(..digits).filter(|d| (1..=5).contains(&d.len()))?.parse().ok()?;
        rest = rest.get(digits..)?;
        let (unit, milliseconds) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)]
            .into_iter()
            .find(|(unit, _)| rest.starts_with(unit))?;
        rest = rest.get(unit.len()..)?;
        total += Duration::from_millis(number * milliseconds);
        parts += 1;
    }
    (1..=4).contains(&parts).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(parse("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(parse("10s500ms"), Some(Duration::from_millis(10_500)));
        assert_eq!(parse("0s"), Some(Duration::ZERO));
        for bad in ["", "1", "s", "1.5s", "123456s", "1s1s1s1s1s", "-1s", "1d"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
