//! Bodies in chunks (RFC 9112 section 7.1), without the freedoms that the grammar leaves.

use super::line::{is_text_byte, is_token_byte};
use super::{Rules, Violation};

/// Bytes of extensions in a body, in all.
const EXTENSION_BYTES_MAX: u16 = 16 * 1024;

/// Bytes of trailers.
const TRAILER_BYTES_MAX: u16 = 16 * 1024;

/// More digits than a size of 64 bits has.
const DIGITS_MAX: u8 = 16;

/// A body in chunks, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    extension_bytes: u16,
    trailer_bytes: u16,
    trailers: u16,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// A trailer or the last line begins.
    Trailer,
    Name,
    Value,
    ValueLf,
    LastLf,
}

impl Default for State {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

impl Chunked {
    /// How many of the bytes are of the body, and whether it ends with them.
    pub(super) fn follow(
        &mut self,
        bytes: &[u8],
        rules: &Rules,
    ) -> Result<(usize, bool), Violation> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if let State::Data { left } = &mut self.state {
                let here = bytes.len() - at;
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(here);
                *left -= length as u64;
                at += length;
                if *left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            at += 1;
            if matches!(self.state, State::LastLf) && *byte == b'\n' {
                return Ok((at, true));
            }
            self.state = self.step(*byte, rules)?;
        }
        Ok((at, false))
    }

    fn step(&mut self, byte: u8, rules: &Rules) -> Result<State, Violation> {
        use State::{
            Data, DataCr, DataLf, Extension, LastLf, Name, Size, SizeLf, Trailer, Value, ValueLf,
        };
        if matches!(self.state, Trailer | Name | Value | ValueLf) {
            self.trailer_bytes += 1;
            let bytes_max = rules.bytes_max.min(TRAILER_BYTES_MAX.into());
            if usize::from(self.trailer_bytes) >= bytes_max {
                return Err(Violation::Trailers);
            }
        }
        Ok(match (self.state, byte) {
            (Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < DIGITS_MAX => {
                Size { size: (size << 4) | u64::from(digit(byte)), digits: digits + 1 }
            }
            (Size { size, digits: 1.. }, b';') => Extension { size },
            (Size { size, digits: 1.. } | Extension { size }, b'\r') => SizeLf { size },
            (Extension { size }, _) if is_text_byte(byte) => {
                self.extension_bytes += 1;
                if self.extension_bytes >= EXTENSION_BYTES_MAX {
                    return Err(Violation::Chunk);
                }
                Extension { size }
            }
            (SizeLf { size: 0 }, b'\n') => Trailer,
            (SizeLf { size }, b'\n') => Data { left: size },
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => State::default(),
            (Trailer, b'\r') => LastLf,
            (Trailer, _) if is_token_byte(byte) => {
                self.trailers += 1;
                if usize::from(self.trailers) > rules.fields_max() {
                    return Err(Violation::Trailers);
                }
                Name
            }
            (Name, _) if is_token_byte(byte) => Name,
            (Name, b':') => Value,
            (Value, b'\r') => ValueLf,
            (Value, _) if is_text_byte(byte) => Value,
            (ValueLf, b'\n') => Trailer,
            (Trailer | Name | Value | ValueLf | LastLf, _) => return Err(Violation::Trailers),
            (Size { .. } | Extension { .. } | SizeLf { .. }, _) => return Err(Violation::Chunk),
            (Data { .. } | DataCr | DataLf, _) => return Err(Violation::Chunk),
        })
    }
}

fn digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        _ => (byte | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        bytes_max: 64 * 1024,
        fields_max: 3,
        allows_chunked_length: false,
        allows_any_method: false,
    };

    fn whole(body: &[u8]) -> Result<(usize, bool), Violation> {
        Chunked::default().follow(body, &RULES)
    }

    /// As [`whole`], byte by byte.
    fn dripped(body: &[u8]) -> Result<(usize, bool), Violation> {
        let (mut chunked, mut length) = (Chunked::default(), 0);
        for byte in body.chunks(1) {
            let (passed, is_end) = chunked.follow(byte, &RULES)?;
            length += passed;
            if is_end {
                return Ok((length, true));
            }
        }
        Ok((length, false))
    }

    #[test]
    fn a_well_formed_body_ends_where_it_says() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A\r\n0123456789\r\n00\r\n\r\n",
            "a;x=\"y\tz\"\r\n0123456789\r\n0;last\r\n\r\n",
            "0000000000000002\r\nab\r\n0\r\n\r\n",
            "0\r\nx-a: 1\r\nx-b:\r\n\r\n",
        ] {
            let more = format!("{body}GET / HTTP/1.1\r\n");
            assert_eq!(whole(more.as_bytes()), Ok((body.len(), true)), "{body:?}");
            assert_eq!(dripped(more.as_bytes()), Ok((body.len(), true)), "{body:?}");
            let part = &body.as_bytes()[..body.len() - 1];
            assert_eq!(whole(part), Ok((part.len(), false)), "{body:?}");
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        use Violation::{Chunk, Trailers};
        for (body, want) in [
            ("\r\n", Chunk),
            (";\r\n", Chunk),
            (" 5\r\n", Chunk),
            ("5 \r\n", Chunk),
            ("5\t\r\n", Chunk),
            ("5 ;a\r\n", Chunk),
            ("+5\r\n", Chunk),
            ("-1\r\n", Chunk),
            ("0x5\r\n", Chunk),
            ("5h\r\n", Chunk),
            ("5_0\r\n", Chunk),
            ("5\n", Chunk),
            ("5\r\r\n", Chunk),
            ("5\rx", Chunk),
            ("5;a\nb\r\n", Chunk),
            ("5;a\0\r\n", Chunk),
            ("00000000000000000\r\n", Chunk),
            ("11111111111111111\r\n", Chunk),
            ("2\r\nabc\r\n", Chunk),
            ("2\r\nab\n0\r\n\r\n", Chunk),
            ("2\r\nab\rx", Chunk),
            ("2\r\nab0\r\n\r\n", Chunk),
            ("0\r\nx : 1\r\n\r\n", Trailers),
            ("0\r\n x: 1\r\n\r\n", Trailers),
            ("0\r\n: 1\r\n\r\n", Trailers),
            ("0\r\nx\r\n\r\n", Trailers),
            ("0\r\nx: a\nb\r\n\r\n", Trailers),
            ("0\r\nx: a\0b\r\n\r\n", Trailers),
            ("0\r\n\n", Trailers),
            ("0\r\n\rx", Trailers),
            ("0\r\na:\r\nb:\r\nc:\r\nd:\r\n\r\n", Trailers),
        ] {
            assert_eq!(whole(body.as_bytes()), Err(want), "{body:?}");
            assert_eq!(dripped(body.as_bytes()), Err(want), "{body:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_have_limits_over_all_chunks() {
        let extension = "x".repeat(9000);
        let body = format!("1;{extension}\r\na\r\n1;{extension}\r\na\r\n0\r\n\r\n");
        assert_eq!(whole(body.as_bytes()), Err(Violation::Chunk));
        let body = format!("0\r\nx: {extension}\r\ny: {extension}\r\n\r\n");
        assert_eq!(whole(body.as_bytes()), Err(Violation::Trailers));
    }

    #[test]
    fn a_chunk_may_be_as_large_as_can_be_said() {
        let mut chunked = Chunked::default();
        assert_eq!(chunked.follow(b"ffffffffffffffff\r\nabc", &RULES), Ok((21, false)));
        assert!(matches!(chunked.state, State::Data { left } if left == u64::MAX - 3));
    }
}
