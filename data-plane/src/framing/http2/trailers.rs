//! Finds pseudo-header fields in trailers, where they have no place (RFC 9113 section 8.1). The codec
//! drops them in silence.

const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// The last entry of the static table whose name begins with a colon (RFC 7541 appendix A).
const LAST_PSEUDO_INDEX: usize = 14;

/// Whether trailers have a pseudo-header field. Only what is there as a whole is looked at, and no name
/// that the client had put into its table before.
pub(super) fn have_pseudo_fields(flags: u8, payload: &[u8], length: usize) -> bool {
    payload.get(..length).and_then(|payload| block(flags, payload)).is_some_and(has_pseudo)
}

/// The fields, without padding and priority.
fn block(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    let (padding, mut block) = match payload.split_first() {
        Some((padding, rest)) if flags & PADDED != 0 => (usize::from(*padding), rest),
        _ => (0, payload),
    };
    if flags & PRIORITY != 0 {
        block = block.get(5..)?;
    }
    block.get(..block.len().checked_sub(padding)?)
}

fn has_pseudo(mut block: &[u8]) -> bool {
    while let Some(first) = block.first().copied() {
        let is_pseudo = match first {
            0x80.. => number(&mut block, 7).map(is_pseudo_index),
            0x40.. => field(&mut block, 6),
            0x20.. => number(&mut block, 5).map(|_| false),
            _ => field(&mut block, 4),
        };
        match is_pseudo {
            Some(false) => {}
            Some(true) => return true,
            // Malformed, which is the codec's to say.
            None => return false,
        }
    }
    false
}

fn is_pseudo_index(index: usize) -> bool {
    (1..=LAST_PSEUDO_INDEX).contains(&index)
}

/// Skips a literal field, and tells whether its name is a pseudo one.
fn field(block: &mut &[u8], bits: u32) -> Option<bool> {
    let index = number(block, bits)?;
    let is_pseudo = if index == 0 {
        let is_coded = block.first()? & 0x80 != 0;
        let name = text(block)?.first().copied();
        // The code of a colon has seven bits (RFC 7541 appendix B).
        name.is_some_and(|first| if is_coded { first >> 1 == 0x5c } else { first == b':' })
    } else {
        is_pseudo_index(index)
    };
    text(block)?;
    Some(is_pseudo)
}

/// Takes a string, as it is coded.
fn text<'a>(block: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = number(block, 7)?;
    let (text, rest) = block.split_at_checked(length)?;
    *block = rest;
    Some(text)
}

/// Takes a number whose first byte has so many bits of it (RFC 7541 section 5.1).
fn number(block: &mut &[u8], bits: u32) -> Option<usize> {
    let (first, mut rest) = block.split_first()?;
    let mask = (1_usize << bits) - 1;
    let mut number = usize::from(*first) & mask;
    if number == mask {
        for shift in [0, 7, 14, 21] {
            let (next, behind) = rest.split_first()?;
            rest = behind;
            number += usize::from(next & 0x7f) << shift;
            if next & 0x80 == 0 {
                *block = rest;
                return Some(number);
            }
        }
        return None;
    }
    *block = rest;
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudo_fields_are_found_however_they_are_written() {
        for (block, is_found) in [
            (&b"\x82"[..], true),
            (b"\xbe\x8e", true),
            (b"\x8f", false),
            (b"\x44\x01/", true),
            (b"\x04\x01/", true),
            (b"\x14\x01/", true),
            (b"\x50\x01/", false),
            (b"\x00\x07:method\x03GET", true),
            (b"\x40\x07:method\x03GET", true),
            (b"\x00\x04x-ab\x03:pa\x00\x05:path\x01/", true),
            (b"\x00\x04x-ab\x03:pa", false),
            // `:method`, coded.
            (b"\x00\x85\xb9\x49\x53\x39\xe4\x03GET", true),
            (b"\x3f\xe1\x1f\x82", true),
            (b"", false),
            (b"\x00\x7f", false),
        ] {
            assert_eq!(have_pseudo_fields(0, block, block.len()), is_found, "{block:x?}");
        }
        assert!(have_pseudo_fields(PADDED, b"\x01\x82\x00", 3));
        assert!(!have_pseudo_fields(PADDED, b"\x01\x8f\x82", 3));
        assert!(have_pseudo_fields(PRIORITY, b"\0\0\0\0\x10\x82", 6));
        assert!(!have_pseudo_fields(0, b"\x8f\x82", 3));
    }
}
