//! Durations and ages as people write and read them.

use std::time::Duration;

/// Reads `500ms`, `10s`, `2m`, `1h` or `1m30s`.
///
/// # Errors
/// What was expected instead.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration like 500ms, 10s or 2m");
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        total += Duration::from_millis(number.checked_mul(millis).ok_or_else(wrong)?);
        rest = tail;
    }
    Ok(total)
}

/// `38ms`, `41s`, `1m38s`, `3h`, `6d`.
pub fn show(duration: Duration) -> String {
    let (millis, seconds) = (duration.as_millis(), duration.as_secs());
    match seconds {
        0 => format!("{millis}ms"),
        1..10 if millis % 1000 >= 100 => format!("{seconds}.{}s", millis % 1000 / 100),
        1..60 => format!("{seconds}s"),
        60..3600 if seconds % 60 != 0 => format!("{}m{}s", seconds / 60, seconds % 60),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// An age: whole units only, as `41s`, `2m`, `3h` or `6d`.
pub fn show_age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, millis) in
            [("500ms", 500), ("10s", 10_000), ("1m30s", 90_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "10x", "ten", "-1s", "99999999999999999999s"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for (millis, text) in
            [(38, "38ms"), (2_800, "2.8s"), (41_000, "41s"), (98_000, "1m38s"), (120_000, "2m")]
        {
            assert_eq!(show(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn ages_are_whole_units() {
        for (seconds, text) in [(41, "41s"), (150, "2m"), (10_000, "2h"), (600_000, "6d")] {
            assert_eq!(show_age(Duration::from_secs(seconds)), text);
        }
    }
}
