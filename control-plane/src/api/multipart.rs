//! `multipart/form-data` (RFC 7578) of a body that is in memory: one part per file.

/// A part.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Its file name, else its field name.
    pub name: String,
    /// Its content.
    pub content: &'a [u8],
}

/// Takes a body apart.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse<'a>(content_type: &str, body: &'a [u8]) -> Result<Vec<Part<'a>>, &'static str> {
    let boundary = content_type
        .split(';')
        .find_map(|parameter| parameter.trim().strip_prefix("boundary="))
        .map(|boundary| boundary.trim_matches('"'))
        .filter(|boundary| !boundary.is_empty() && boundary.len() <= 70)
        .ok_or("multipart/form-data needs a boundary")?;
    let delimiter = format!("\r\n--{boundary}");
    // The first boundary may stand at the very beginning.
    let mut rest = match body.strip_prefix(delimiter.get(2..).unwrap_or_default().as_bytes()) {
        Some(rest) => rest,
        None => cut(body, delimiter.as_bytes()).ok_or("the boundary is not in the body")?.1,
    };
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        let (head, after) = cut(rest, b"\r\n\r\n").ok_or("a part has no content")?;
        let (content, after) = cut(after, delimiter.as_bytes()).ok_or("a part has no end")?;
        let head = std::str::from_utf8(head).map_err(|_| "the head of a part is no text")?;
        parts.push(Part { name: name(head).ok_or("a part has no name")?, content });
        rest = after;
    }
    Ok(parts)
}

fn cut<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(separator.len()).position(|window| window == separator)?;
    let (before, after) = text.split_at_checked(at)?;
    Some((before, after.split_at_checked(separator.len())?.1))
}

fn name(head: &str) -> Option<String> {
    let disposition = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    let parameter = |name: &str| {
        // A name before which something stands is another's end: `name=` in `filename=`.
        let marks = [format!("; {name}=\""), format!(";{name}=\"")];
        let text = marks.iter().find_map(|mark| Some(disposition.split_once(mark.as_str())?.1))?;
        // Browsers and curl write %22 or \" for a quote.
        let mut value = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => return Some(value.replace("%22", "\"")),
                '\\' => value.extend(chars.next()),
                c => value.push(c),
            }
        }
        None
    };
    parameter("filename").or_else(|| parameter("name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_files_by_name() {
        let body = b"--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a/x.yaml\"\r\nContent-Type: application/yaml\r\n\r\na: 1\r\n--b\r\ncontent-disposition: form-data;name=\"g\"\r\n\r\n\r\n--b--\r\n";
        let parts = parse("multipart/form-data; boundary=b", body).unwrap();
        let expected = [
            Part { name: "a/x.yaml".into(), content: b"a: 1" },
            Part { name: "g".into(), content: b"" },
        ];
        assert_eq!(parts, expected);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        for (kind, body) in [
            ("multipart/form-data", "--b--"),
            ("multipart/form-data; boundary=b", "x"),
            ("multipart/form-data; boundary=b", "--b\r\nx"),
            ("multipart/form-data; boundary=b", "--b\r\nx: y\r\n\r\nz"),
            ("multipart/form-data; boundary=b", "--b\r\nx: y\r\n\r\nz\r\n--b--"),
        ] {
            assert!(parse(kind, body.as_bytes()).is_err(), "{body:?}");
        }
    }
}
