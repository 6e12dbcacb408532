//! The conversions inside `%START_TIME(…)%`: strftime, and Envoy's `%s` and `%3f`.

use ::time::OffsetDateTime;
use xds_proto::field::FieldError;

use super::push;

/// A time format, in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TimeFormat(Box<[Item]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Text(Box<str>),
    Year,
    YearOfCentury,
    Month,
    MonthName,
    Day,
    DayOfYear,
    WeekdayName,
    Hour,
    Minute,
    Second,
    /// Seconds with this many digits of their fraction behind a dot.
    FractionalSecond(u8),
    /// This many digits of the second's fraction.
    Fraction(u8),
    /// Seconds since 1970.
    Unix,
}

const DEFAULT: &str = "%Y-%m-%dT%H:%M:%E3SZ";

impl TimeFormat {
    /// Compiles a format; empty is Envoy's default, RFC 3339 with milliseconds.
    pub(super) fn compile(format: &str) -> Result<Self, FieldError> {
        let mut items = Vec::new();
        compile_into(if format.is_empty() { DEFAULT } else { format }, &mut items)?;
        Ok(Self(items.into()))
    }

    pub(super) fn write(&self, at: OffsetDateTime, out: &mut String) {
        for item in &self.0 {
            item.write(at, out);
        }
    }
}

fn compile_into(format: &str, items: &mut Vec<Item>) -> Result<(), FieldError> {
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        if at > 0 {
            items.push(Item::Text(rest[..at].into()));
        }
        rest = &rest[at + 1..];
        match rest.as_bytes() {
            [b'E', digits @ b'1'..=b'9', b'S', ..] => {
                items.push(Item::FractionalSecond(digits - b'0'));
                rest = &rest[3..];
                continue;
            }
            [digits @ b'1'..=b'9', b'f', ..] => {
                items.push(Item::Fraction(digits - b'0'));
                rest = &rest[2..];
                continue;
            }
            _ => {}
        }
        let mut chars = rest.chars();
        let conversion = chars.next();
        rest = chars.as_str();
        match conversion {
            Some('T') => compile_into("%H:%M:%S", items)?,
            Some('F') => compile_into("%Y-%m-%d", items)?,
            other => items.push(other.and_then(item).ok_or_else(|| {
                let other = other.map(String::from).unwrap_or_default();
                FieldError::invalid(format!("%START_TIME%: unknown conversion %{other}"))
            })?),
        }
    }
    if !rest.is_empty() {
        items.push(Item::Text(rest.into()));
    }
    Ok(())
}

fn item(conversion: char) -> Option<Item> {
    Some(match conversion {
        'Y' => Item::Year,
        'y' => Item::YearOfCentury,
        'm' => Item::Month,
        'b' | 'h' => Item::MonthName,
        'd' => Item::Day,
        'j' => Item::DayOfYear,
        'a' => Item::WeekdayName,
        'H' => Item::Hour,
        'M' => Item::Minute,
        'S' => Item::Second,
        's' => Item::Unix,
        'f' => Item::Fraction(9),
        'z' => Item::Text("+0000".into()),
        'Z' => Item::Text("UTC".into()),
        '%' => Item::Text("%".into()),
        _ => return None,
    })
}

impl Item {
    fn write(&self, at: OffsetDateTime, out: &mut String) {
        let fraction =
            |digits: u8| at.nanosecond() / 10_u32.pow(9_u32.saturating_sub(digits.into()));
        match self {
            Self::Text(text) => out.push_str(text),
            Self::Year => push(out, format_args!("{:04}", at.year())),
            Self::YearOfCentury => push(out, format_args!("{:02}", at.year().rem_euclid(100))),
            Self::Month => push(out, format_args!("{:02}", u8::from(at.month()))),
            Self::MonthName => push(out, format_args!("{:.3}", at.month().to_string())),
            Self::Day => push(out, format_args!("{:02}", at.day())),
            Self::DayOfYear => push(out, format_args!("{:03}", at.ordinal())),
            Self::WeekdayName => push(out, format_args!("{:.3}", at.weekday().to_string())),
            Self::Hour => push(out, format_args!("{:02}", at.hour())),
            Self::Minute => push(out, format_args!("{:02}", at.minute())),
            Self::Second => push(out, format_args!("{:02}", at.second())),
            Self::FractionalSecond(digits) => {
                let width = usize::from(*digits);
                push(out, format_args!("{:02}.{:0width$}", at.second(), fraction(*digits)));
            }
            Self::Fraction(digits) => {
                let width = usize::from(*digits);
                push(out, format_args!("{:0width$}", fraction(*digits)));
            }
            Self::Unix => push(out, format_args!("{}", at.unix_timestamp())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_conversion_writes_what_strftime_writes() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_789).unwrap();
        for (format, want) in [
            ("", "2023-11-14T22:13:20.123Z"),
            ("%F %T", "2023-11-14 22:13:20"),
            ("%d/%b/%Y:%H:%M:%S %z", "14/Nov/2023:22:13:20 +0000"),
            ("%a %j %y %Z %%", "Tue 318 23 UTC %"),
            ("%s.%3f %6f %9f %f", "1700000000.123 123456 123456789 123456789"),
            ("%E6S", "20.123456"),
        ] {
            let mut out = String::new();
            TimeFormat::compile(format).unwrap().write(at, &mut out);
            assert_eq!(out, want, "{format}");
        }
    }
}
