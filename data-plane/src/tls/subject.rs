//! Names of X.509 as text: RFC 2253, with the short names that OpenSSL has for attributes.

use std::fmt::Write as _;

/// The text of a `Name` whose outer `SEQUENCE` is off; what cannot be read is left out.
pub(super) fn render(name: &[u8]) -> String {
    let mut out = String::new();
    let sets: Vec<_> = Elements(name).collect();
    // The last comes first.
    for (index, set) in sets.iter().rev().enumerate() {
        if index > 0 {
            out.push(',');
        }
        for (index, attribute) in Elements(set.content).enumerate() {
            if index > 0 {
                out.push('+');
            }
            write_attribute(attribute.content, &mut out);
        }
    }
    out
}

/// The serial number of a certificate, in hexadecimal; empty where it cannot be read.
pub(super) fn serial(certificate: &[u8]) -> String {
    const VERSION: u8 = 0xa0;
    let body = Elements(certificate).next().and_then(|outer| Elements(outer.content).next());
    let mut fields = Elements(body.map_or(&[], |body| body.content));
    let number = fields.find(|field| field.tag != VERSION).map_or(&[][..], |field| field.content);
    let mut out = String::with_capacity(number.len() * 2);
    // A first zero only says that the number is not negative.
    for byte in number.iter().skip_while(|byte| **byte == 0) {
        push(&mut out, format_args!("{byte:02x}"));
    }
    out
}

/// The elements that stand one after the other in DER.
struct Elements<'a>(&'a [u8]);

#[derive(Clone, Copy)]
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = length.iter().try_fold(0_usize, |length, byte| {
                length.checked_mul(256)?.checked_add(usize::from(*byte))
            })?;
            (length, rest)
        };
        let (content, after) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - after.len()];
        self.0 = after;
        Some(Element { tag, content, whole })
    }
}

fn write_attribute(attribute: &[u8], out: &mut String) {
    let mut parts = Elements(attribute);
    let (Some(kind), Some(value)) = (parts.next(), parts.next()) else { return };
    let text = match short_name(kind.content) {
        Some(name) => {
            out.push_str(name);
            text(value)
        }
        None => {
            write_oid(kind.content, out);
            None
        }
    };
    out.push('=');
    match text {
        Some(text) => write_escaped(&text, out),
        None => {
            out.push('#');
            for byte in value.whole {
                push(out, format_args!("{byte:02X}"));
            }
        }
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    out.write_fmt(text).unwrap_or_default();
}

fn short_name(oid: &[u8]) -> Option<&'static str> {
    Some(match oid {
        [0x55, 0x04, 3] => "CN",
        [0x55, 0x04, 4] => "SN",
        [0x55, 0x04, 5] => "serialNumber",
        [0x55, 0x04, 6] => "C",
        [0x55, 0x04, 7] => "L",
        [0x55, 0x04, 8] => "ST",
        [0x55, 0x04, 9] => "street",
        [0x55, 0x04, 10] => "O",
        [0x55, 0x04, 11] => "OU",
        [0x55, 0x04, 12] => "title",
        [0x55, 0x04, 13] => "description",
        [0x55, 0x04, 17] => "postalCode",
        [0x55, 0x04, 41] => "name",
        [0x55, 0x04, 42] => "GN",
        [0x55, 0x04, 43] => "initials",
        [0x55, 0x04, 46] => "dnQualifier",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1] => "emailAddress",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => "UID",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => "DC",
        _ => return None,
    })
}

fn write_oid(oid: &[u8], out: &mut String) {
    let mut arc = 0_u64;
    let mut is_first = true;
    for byte in oid {
        arc = (arc << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if is_first {
            let top = (arc / 40).min(2);
            push(out, format_args!("{top}.{}", arc - top * 40));
            is_first = false;
        } else {
            push(out, format_args!(".{arc}"));
        }
        arc = 0;
    }
}

/// The characters of a string; none where it is no string.
fn text(value: Element<'_>) -> Option<String> {
    let content = value.content;
    match value.tag {
        // UTF8String
        0x0c => String::from_utf8(content.to_vec()).ok(),
        // NumericString, PrintableString, T61String, IA5String, VisibleString
        0x12..=0x14 | 0x16 | 0x1a => Some(content.iter().map(|byte| char::from(*byte)).collect()),
        // UniversalString
        0x1c => content
            .chunks(4)
            .map(|unit| char::from_u32(u32::from_be_bytes(unit.try_into().ok()?)))
            .collect(),
        // BMPString
        0x1e => content
            .chunks(2)
            .map(|unit| char::from_u32(u16::from_be_bytes(unit.try_into().ok()?).into()))
            .collect(),
        _ => None,
    }
}

fn write_escaped(text: &str, out: &mut String) {
    let last = text.len().saturating_sub(1);
    for (index, byte) in text.bytes().enumerate() {
        let is_edge =
            (byte == b' ' && (index == 0 || index == last)) || (byte == b'#' && index == 0);
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            0..0x20 | 0x7f.. => push(out, format_args!("\\{byte:02X}")),
            _ => {
                if is_edge {
                    out.push('\\');
                }
                out.push(char::from(byte));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut out = vec![tag];
        match u8::try_from(content.len()) {
            Ok(length) if length < 0x80 => out.push(length),
            Ok(length) => out.extend([0x81, length]),
            Err(_) => out.extend([0x82, (content.len() >> 8) as u8, content.len() as u8]),
        }
        out.extend(content);
        out
    }

    fn attribute(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        der(0x30, &[&der(0x06, &[oid]), &der(tag, &[value])])
    }

    #[test]
    fn names_are_written_last_first_and_escaped() {
        let country = der(0x31, &[&attribute(&[0x55, 4, 6], 0x13, b"DE")]);
        let unit = der(
            0x31,
            &[
                &attribute(&[0x55, 4, 11], 0x0c, "a=b#c é".as_bytes()),
                &attribute(&[0x55, 4, 3], 0x0c, b" cli, \"x\"; "),
            ],
        );
        let other = der(0x31, &[&attribute(&[0x2a, 0x83, 0x24], 0x0c, b"x")]);
        assert_eq!(
            render(&[country, unit, other].concat()),
            "1.2.420=#0C0178,OU=a=b#c \\C3\\A9+CN=\\ cli\\, \\\"x\\\"\\;\\ ,C=DE"
        );
        let bmp = der(0x31, &[&attribute(&[0x55, 4, 3], 0x1e, &[0, b'#', 0x20, 0xac])]);
        assert_eq!(render(&bmp), "CN=\\#\\E2\\82\\AC");
        let long = der(0x31, &[&attribute(&[0x55, 4, 10], 0x0c, &[b'x'; 300])]);
        assert_eq!(render(&long).len(), 302);
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let country = der(0x31, &[&attribute(&[0x55, 4, 6], 0x13, b"DE")]);
        for end in 0..country.len() {
            assert_eq!(render(&country[..end]), "");
        }
    }
}
