//! A head, line by line, as far as it has come.

use super::line::{self, End};
use super::{Rules, Violation};

/// Longer names do not fit the codec.
const NAME_BYTES_MAX: usize = 65_535;

/// How far a head has come.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Where the present line begins.
    line: usize,
    /// Up to where it is known to hold nothing but text.
    seen: usize,
    /// Whether the first line is there.
    has_start: bool,
    fields: usize,
    /// What the fields say of the framing.
    pub(super) framing: Framing,
}

/// What fields say of the framing.
#[derive(Debug, Default)]
pub(super) struct Framing {
    pub(super) length: Option<u64>,
    pub(super) is_chunked: bool,
    pub(super) has_upgrade: bool,
}

impl Scan {
    /// Whether the first line is there.
    pub(super) fn has_start(&self) -> bool {
        self.has_start
    }

    /// Reads on; `start` reads the first line. Gives the length of the head when it is whole.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        rules: &Rules,
        start: impl FnOnce(&[u8]) -> Result<(), Violation>,
    ) -> Result<Option<usize>, Violation> {
        let mut start = Some(start);
        loop {
            let end = match line::end(bytes, self.seen)? {
                End::At(end) => end,
                End::After(seen) => {
                    self.seen = seen;
                    return Ok(None);
                }
            };
            let line = &bytes[self.line..end];
            let is_first = self.line == 0;
            self.line = end + 2;
            self.seen = self.line;
            if self.has_start {
                if line.is_empty() {
                    return Ok(Some(self.line));
                }
                self.fields += 1;
                if self.fields > rules.fields_max() {
                    return Err(Violation::FieldCount);
                }
                self.framing.read(line)?;
            } else if line.is_empty() && is_first {
                // RFC 9112 section 2.2: some clients send a line end too many after a body.
            } else if let Some(start) = start.take() {
                start(line)?;
                self.has_start = true;
            }
        }
    }
}

impl Framing {
    fn read(&mut self, line: &[u8]) -> Result<(), Violation> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Violation::Line)?;
        let (name, value) = line.split_at(colon);
        if !line::is_token(name) || name.len() > NAME_BYTES_MAX {
            return Err(Violation::Line);
        }
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.has_upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => self.add_length(value)?,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.add_encoding(value)?,
            _ => {}
        }
        Ok(())
    }

    fn add_length(&mut self, value: &[u8]) -> Result<(), Violation> {
        let before = self.length.replace(length(value)?);
        if before.is_some() { Err(Violation::Length) } else { Ok(()) }
    }

    fn add_encoding(&mut self, value: &[u8]) -> Result<(), Violation> {
        let is_chunked = content(value).eq_ignore_ascii_case(b"chunked");
        let is_second = std::mem::replace(&mut self.is_chunked, true);
        if is_chunked && !is_second { Ok(()) } else { Err(Violation::Encoding) }
    }
}

/// A value without its colon and the space around it.
fn content(value: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let value = value.strip_prefix(b":").unwrap_or(value);
    let begin = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_space(byte)).map_or(begin, |last| last + 1);
    &value[begin..end]
}

/// Digits alone, below what the codec keeps for itself.
fn length(value: &[u8]) -> Result<u64, Violation> {
    let digits = content(value);
    if digits.is_empty() || digits.len() > 20 {
        return Err(Violation::Length);
    }
    digits
        .iter()
        .try_fold(0_u64, |length, digit| {
            let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            length.checked_mul(10)?.checked_add(digit)
        })
        .filter(|length| *length < u64::MAX - 2)
        .ok_or(Violation::Length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits_and_nothing_else() {
        for (value, want) in [
            (": 0", Some(0)),
            (":12\t ", Some(12)),
            (": 007", Some(7)),
            (": 18446744073709551612", Some(u64::MAX - 3)),
            (": 18446744073709551615", None),
            (": 99999999999999999999", None),
            (": 000000000000000000001", None),
            (":", None),
            (": ", None),
            (": +5", None),
            (": -5", None),
            (": 5, 5", None),
            (": 5 5", None),
            (": 0x5", None),
            (": 5.0", None),
            (": \u{665}", None),
        ] {
            assert_eq!(length(value.as_bytes()).ok(), want, "{value:?}");
        }
    }
}
