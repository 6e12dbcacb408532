//! Lines: where they end, and which bytes may stand in them.

use super::Violation;

/// In a line.
const TEXT: u8 = 1;
/// In a method or a field name (RFC 9110 section 5.6.2).
const TOKEN: u8 = 2;
/// In a path, as the codec takes it.
const PATH: u8 = 4;
/// In a query, as the codec takes it.
const QUERY: u8 = 8;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut index = 0;
    while index < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let byte = index as u8;
        let mut class = 0;
        if byte == b'\t' || (byte >= 0x20 && byte != 0x7f) {
            class |= TEXT;
        }
        if byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
            )
            || matches!(byte, b'`' | b'|' | b'~')
        {
            class |= TOKEN;
        }
        if byte.is_ascii_graphic() && !matches!(byte, b'#' | b'?' | b'<' | b'>' | b'`') {
            class |= PATH;
        }
        if byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>') {
            class |= QUERY;
        }
        classes[index] = class;
        index += 1;
    }
    classes
}

fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|byte| CLASSES[usize::from(*byte)] & class != 0)
}

/// Whether all bytes may stand in a token. None do not make one.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, TOKEN)
}

pub(super) fn is_token_byte(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TOKEN != 0
}

pub(super) fn is_text_byte(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TEXT != 0
}

/// Whether this is a path and a query without a fragment, in bytes that the codec takes.
pub(super) fn is_path_and_query(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|byte| *byte == b'?').unwrap_or(bytes.len());
    let (path, query) = bytes.split_at(end);
    path.first() == Some(&b'/') && all(path, PATH) && all(query, QUERY)
}

/// Where a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Before the CR that is here; LF follows.
    At(usize),
    /// Nowhere yet; the search goes on from here.
    After(usize),
}

/// Looks for the end of a line from `at` on.
///
/// # Errors
/// When something stands in it that may not.
pub(super) fn end(bytes: &[u8], mut at: usize) -> Result<End, Violation> {
    loop {
        at += text(&bytes[at..]);
        match (bytes.get(at), bytes.get(at + 1)) {
            (None, _) | (Some(b'\r'), None) => return Ok(End::After(at)),
            (Some(b'\t'), _) => at += 1,
            (Some(b'\r'), Some(b'\n')) => return Ok(End::At(at)),
            (Some(b'\r' | b'\n'), _) => return Err(Violation::LineEnd),
            (Some(_), _) => return Err(Violation::Character),
        }
    }
}

/// How many bytes are text, from the first on; a tab may end the count too.
fn text(bytes: &[u8]) -> usize {
    const LOW: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = LOW << 7;
    let (words, _) = bytes.as_chunks::<8>();
    let mut length = 0;
    for word in words {
        let word = u64::from_ne_bytes(*word);
        let is_low = word.wrapping_sub(LOW * 0x20) & !word;
        let delete = word ^ (LOW * 0x7f);
        let is_delete = delete.wrapping_sub(LOW) & !delete;
        if (is_low | is_delete) & HIGH != 0 {
            break;
        }
        length += 8;
    }
    let rest = bytes[length..].iter();
    length + rest.take_while(|byte| is_text_byte(**byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_with_cr_and_lf_and_holds_text_alone() {
        for (line, want) in [
            ("abc\r\n", Ok(End::At(3))),
            ("\r\n", Ok(End::At(0))),
            ("a long line\twith a tab \u{e9}\r\nmore", Ok(End::At(25))),
            ("a long line that goes on", Ok(End::After(24))),
            ("a long line of 32 bytes in all \r", Ok(End::After(31))),
            ("abc\n", Err(Violation::LineEnd)),
            ("abc\rd\r\n", Err(Violation::LineEnd)),
            ("abcdefghij\0\r\n", Err(Violation::Character)),
            ("abcdefghij\x7fklmnop\r\n", Err(Violation::Character)),
            ("\x1f\r\n", Err(Violation::Character)),
        ] {
            assert_eq!(end(line.as_bytes(), 0), want, "{line:?}");
        }
    }

    #[test]
    fn every_byte_is_judged_alike_wherever_it_stands() {
        for byte in 0..=255_u8 {
            for place in 0..17 {
                let mut line = [b'a'; 19];
                line[17..].copy_from_slice(b"\r\n");
                line[place] = byte;
                let want = match byte {
                    b'\r' if place == 16 => Err(Violation::LineEnd),
                    b'\r' | b'\n' => Err(Violation::LineEnd),
                    _ if is_text_byte(byte) => Ok(End::At(17)),
                    _ => Err(Violation::Character),
                };
                assert_eq!(end(&line, 0), want, "{byte} at {place}");
            }
        }
    }

    #[test]
    fn what_may_stand_in_a_target_is_what_the_codec_takes() {
        for byte in 0..=255_u8 {
            for target in [[b'/', byte, b'a'].as_slice(), &[b'/', b'?', byte]] {
                let is_kept = http::Uri::try_from(target)
                    .is_ok_and(|uri| uri.to_string().as_bytes() == target && byte.is_ascii());
                assert_eq!(is_path_and_query(target), is_kept, "{target:?}");
            }
        }
    }
}
