//! Paths made canonical, so that what is matched is what upstream will understand.

use std::borrow::Cow;

use crate::listener::http::{EscapedSlashes, PathOptions};

/// A path and query, canonical.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Canonical<'a> {
    /// To be served.
    Serve(Cow<'a, str>),
    /// The client is to be sent here.
    Redirect(String),
}

/// A path that cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("path cannot be trusted")]
pub struct BadPath;

/// Makes a path and query canonical: escaped slashes, then dot segments and encoding, then slashes
/// side by side, as Envoy does. The query stays as it is.
///
/// # Errors
/// When the options refuse it.
pub fn canonical(path_and_query: &str, options: PathOptions) -> Result<Canonical<'_>, BadPath> {
    let end = path_and_query.find('?').unwrap_or(path_and_query.len());
    let (path, query) = path_and_query.split_at(end);
    let mut changed: Option<String> = None;
    let mut is_redirect = false;
    if options.escaped_slashes != EscapedSlashes::Keep
        && let Some(decoded) = decode_slashes(path)
    {
        match options.escaped_slashes {
            EscapedSlashes::Keep | EscapedSlashes::Decode => {}
            EscapedSlashes::Reject => return Err(BadPath),
            EscapedSlashes::Redirect => is_redirect = true,
        }
        changed = Some(decoded);
    }
    if options.normalize
        && let Some(normal) = normalize(changed.as_deref().unwrap_or(path))?
    {
        changed = Some(normal);
    }
    if options.merge_slashes && changed.as_deref().unwrap_or(path).contains("//") {
        changed = Some(merge_slashes(changed.as_deref().unwrap_or(path)));
    }
    Ok(match changed {
        None => Canonical::Serve(Cow::Borrowed(path_and_query)),
        Some(path) if is_redirect => Canonical::Redirect(path + query),
        Some(path) => Canonical::Serve(Cow::Owned(path + query)),
    })
}

/// `%2F` and `%5C` as slashes; `None` where there are none.
fn decode_slashes(path: &str) -> Option<String> {
    let is_slash = |at: usize| {
        let escape = path.get(at..at + 3)?;
        if escape.eq_ignore_ascii_case("%2f") {
            return Some('/');
        }
        escape.eq_ignore_ascii_case("%5c").then_some('\\')
    };
    let first = path.match_indices('%').find(|(at, _)| is_slash(*at).is_some())?.0;
    let mut decoded = String::with_capacity(path.len());
    decoded.push_str(&path[..first]);
    let mut rest = first;
    while let Some(character) = path[rest..].chars().next() {
        match is_slash(rest).filter(|_| character == '%') {
            Some(slash) => {
                decoded.push(slash);
                rest += 3;
            }
            None => {
                decoded.push(character);
                rest += character.len_utf8();
            }
        }
    }
    Some(decoded)
}

/// RFC 3986 section 6.2.2: hex digits in upper case, what needs no encoding decoded, dot segments
/// resolved; backslashes are slashes, as in URLs of browsers. `None` where nothing changes.
fn normalize(path: &str) -> Result<Option<String>, BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath);
    }
    let is_plain = !path.bytes().any(|byte| matches!(byte, b'%' | b'\\' | b';'))
        && !path.contains("/.")
        && path.is_ascii();
    if is_plain {
        return Ok(None);
    }
    let decoded = decode_unreserved(path)?;
    let normal = resolve_dots(&decoded)?;
    Ok((normal != path).then_some(normal))
}

fn decode_unreserved(path: &str) -> Result<String, BadPath> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len());
    // The whole path decoded must be text: bytes that are not may be read differently upstream.
    let mut text = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            text.push(byte);
            match byte {
                b'\\' => out.push('/'),
                0..0x80 => out.push(char::from(byte)),
                // Never sent by a client that follows RFC 3986; encoded, it means the same.
                _ => push_encoded(&mut out, byte),
            }
            at += 1;
            continue;
        }
        let digits = bytes.get(at + 1..at + 3).ok_or(BadPath)?;
        let digits = std::str::from_utf8(digits).map_err(|_| BadPath)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(BadPath);
        }
        let decoded = u8::from_str_radix(digits, 16).map_err(|_| BadPath)?;
        if decoded == 0 {
            return Err(BadPath);
        }
        text.push(decoded);
        if decoded.is_ascii_alphanumeric() || matches!(decoded, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(decoded));
        } else {
            push_encoded(&mut out, decoded);
        }
        at += 3;
    }
    if std::str::from_utf8(&text).is_err() {
        return Err(BadPath);
    }
    Ok(out)
}

fn push_encoded(out: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

/// A segment that is a dot segment once its `;parameters` are gone would be one to some servers and
/// none to others.
fn resolve_dots(path: &str) -> Result<String, BadPath> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let name = segment.split(';').next().unwrap_or_default();
        if matches!(name, "." | "..") && name != segment {
            return Err(BadPath);
        }
        match segment {
            "." => {}
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            _ => {
                out.push('/');
                out.push_str(segment);
                continue;
            }
        }
        if is_last {
            out.push('/');
        }
    }
    Ok(out)
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !out.ends_with('/') {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(path: &str, options: PathOptions) -> Option<String> {
        match canonical(path, options) {
            Ok(Canonical::Serve(path)) => Some(path.into_owned()),
            Ok(Canonical::Redirect(path)) => Some(format!("to {path}")),
            Err(BadPath) => None,
        }
    }

    #[test]
    fn paths_stay_as_they_are_unless_asked() {
        for path in ["/a/../b", "//a", "/%2e%2f", "/a%5c?x=/../y"] {
            assert_eq!(serve(path, PathOptions::default()).as_deref(), Some(path));
        }
    }

    #[test]
    fn normal_paths_have_no_dots_and_no_needless_escapes() {
        let options = PathOptions { normalize: true, ..PathOptions::default() };
        for (path, normal) in [
            ("/a/b", Some("/a/b")),
            ("/a/../b", Some("/b")),
            ("/a/b/..", Some("/a/")),
            ("/a/./b/.", Some("/a/b/")),
            ("/..", Some("/")),
            ("/../../etc", Some("/etc")),
            ("/%2e%2E/x", Some("/x")),
            ("/%41%2f%7e%7E", Some("/A%2F~~")),
            ("/a\\..\\b", Some("/b")),
            ("/a/...", Some("/a/...")),
            ("/.hidden", Some("/.hidden")),
            ("/a?b=/../c", Some("/a?b=/../c")),
            ("/%c3%a9", Some("/%C3%A9")),
            ("/a;v=1/b", Some("/a;v=1/b")),
            ("/a//b", Some("/a//b")),
            ("/a/..;x/b", None),
            ("/a/.;/b", None),
            ("/a%00", None),
            ("/%ff", None),
            ("/%4", None),
            ("/%zz", None),
            ("*", None),
        ] {
            assert_eq!(serve(path, options).as_deref(), normal, "{path}");
        }
    }

    #[test]
    fn slashes_merge_after_dots_are_resolved() {
        let options =
            PathOptions { normalize: true, merge_slashes: true, ..PathOptions::default() };
        assert_eq!(serve("//a///b?c=//", options).as_deref(), Some("/a/b?c=//"));
        assert_eq!(serve("/a//../b", options).as_deref(), Some("/a/b"));
    }

    #[test]
    fn escaped_slashes_stay_go_or_move_the_client() {
        let with = |escaped_slashes| PathOptions { escaped_slashes, ..PathOptions::default() };
        let path = "/a%2Fb%5cc?d=%2f";
        assert_eq!(serve(path, with(EscapedSlashes::Keep)).as_deref(), Some(path));
        assert_eq!(serve(path, with(EscapedSlashes::Reject)), None);
        assert_eq!(serve(path, with(EscapedSlashes::Decode)).as_deref(), Some("/a/b\\c?d=%2f"));
        assert_eq!(
            serve(path, with(EscapedSlashes::Redirect)).as_deref(),
            Some("to /a/b\\c?d=%2f")
        );
        assert_eq!(serve("/a%2", with(EscapedSlashes::Reject)).as_deref(), Some("/a%2"));
    }

    proptest::proptest! {
        #[test]
        fn a_normal_path_stays_itself(path in "/[a-zA-Z0-9./%;\\\\é]{0,24}") {
            let options = PathOptions {
                normalize: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Decode,
            };
            if let Ok(Canonical::Serve(first)) = canonical(&path, options) {
                proptest::prop_assert!(!first.contains("//"));
                proptest::prop_assert!(!first.split('/').any(|part| part == ".."));
                if !first.to_ascii_lowercase().contains("%2f") && !first.to_ascii_lowercase().contains("%5c") {
                    let second = canonical(&first, options).map_err(|e| proptest::test_runner::TestCaseError::fail(e.to_string()))?;
                    proptest::prop_assert_eq!(second, Canonical::Serve(Cow::Borrowed(&*first)));
                }
            }
        }
    }
}
