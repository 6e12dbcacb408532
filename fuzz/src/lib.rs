//! What must hold for any input, one function each. They panic where it does not.

use data_plane::framing::request::Requests;
use data_plane::framing::response::{Asked, Responses};
use data_plane::framing::{Progress, Rules, Stop};
use data_plane::guard::path::{Canonical, canonical};
use data_plane::listener::http::{EscapedSlashes, HttpOptions, PathOptions};
use data_plane::matcher::regex::{Regex, RegexRewrite, literal_prefix};
use data_plane::matcher::uri_template::UriTemplate;
use data_plane::{bootstrap, compile, guard};
use xds_proto::json;
use xds_proto::resource::{Resource, ResourceType};

/// Panics where something does not hold for an input.
pub type Check = fn(&[u8]);

/// All functions by the name of their corpus.
pub const ALL: [(&str, Check); 6] = [
    ("paths", paths),
    ("requests", requests),
    ("responses", responses),
    ("matchers", matchers),
    ("bootstraps", bootstraps),
    ("resources", resources),
];

/// A canonical path is canonical: doing it again changes nothing, and what a rule of its options
/// takes away is not there. The first byte has the options.
pub fn paths(data: &[u8]) {
    let Some((&flags, path)) = data.split_first() else { return };
    let Ok(path) = std::str::from_utf8(path) else { return };
    // As codecs hand it on: what follows a `#` is gone.
    let Ok(path) = http::uri::PathAndQuery::try_from(path) else { return };
    let path = path.as_str();
    if !path.starts_with('/') {
        return;
    }
    let options = PathOptions {
        normalize: flags & 1 != 0,
        merge_slashes: flags & 2 != 0,
        escaped_slashes: match flags >> 2 & 3 {
            0 => EscapedSlashes::Keep,
            1 => EscapedSlashes::Reject,
            2 => EscapedSlashes::Redirect,
            _ => EscapedSlashes::Decode,
        },
    };
    let path = match canonical(path, options) {
        Err(_) => return,
        Ok(Canonical::Serve(path)) => path.into_owned(),
        Ok(Canonical::Redirect(path)) => path,
    };
    assert!(path.starts_with('/'), "{path}");
    assert!(http::uri::PathAndQuery::try_from(&*path).is_ok(), "{path}");
    assert_eq!(canonical(&path, options), Ok(Canonical::Serve(path.as_str().into())));
    let only = path.split('?').next().unwrap_or_default().to_ascii_lowercase();
    if options.merge_slashes {
        assert!(!only.contains("//"), "{only}");
    }
    if options.escaped_slashes != EscapedSlashes::Keep {
        assert!(!only.contains("%2f") && !only.contains("%5c"), "{only}");
    }
    if options.normalize {
        assert!(!only.contains('\\'), "{only}");
        assert!(only.split('/').all(|one| one != "." && one != ".."), "{only}");
        assert!(!only.contains("%2e"), "{only}");
    }
}

const RULES: Rules = Rules {
    bytes_max: 4096,
    fields_max: 64,
    allows_chunked_length: false,
    allows_any_method: true,
};

/// Shows `follow` all of `bytes`, a piece after the other; gives how much passed, and why no more.
fn pieces(bytes: &[u8], size: usize, mut follow: impl FnMut(&[u8]) -> Progress) -> Progress {
    let (mut passed, mut shown) = (0, 0);
    loop {
        shown = bytes.len().min(shown + size);
        let progress = follow(&bytes[passed..shown]);
        assert!(passed + progress.pass <= shown);
        passed += progress.pass;
        let is_stuck = !matches!(progress.stop, Stop::End | Stop::Head);
        if is_stuck || shown == bytes.len() {
            return Progress { pass: passed, stop: progress.stop };
        }
    }
}

/// How much passed, and why no more. Of a body that breaks a rule, more or less may have passed before
/// that was seen: its connection ends in any case.
fn told(progress: Progress) -> (Option<usize>, Stop) {
    let counts = !matches!(progress.stop, Stop::BadBody(_));
    (counts.then_some(progress.pass), progress.stop)
}

/// The first byte says how large the pieces are; the rest is what a client says. However it comes, the
/// same passes; and the first head that passes says to another parser what it says to this one.
pub fn requests(data: &[u8]) {
    let Some((&size, bytes)) = data.split_first() else { return };
    let mut whole = Requests::new(RULES);
    let all = whole.follow(bytes);
    let mut apart = Requests::new(RULES);
    let again = pieces(bytes, usize::from(size) + 1, |bytes| apart.follow(bytes));
    assert_eq!((told(all), whole.heads()), (told(again), apart.heads()));
    if whole.heads() == 0 {
        return;
    }
    // Empty lines before a request may be there, and are no part of it.
    let start = bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or_default();
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(&bytes[start..]);
    assert!(parsed.is_ok_and(|parsed| parsed.is_complete()), "a head that passed can be parsed");
    let lengths = count(request.headers, "content-length");
    let encodings = count(request.headers, "transfer-encoding");
    assert!(lengths + encodings <= 1, "{lengths} lengths and {encodings} encodings");
    for field in &*request.headers {
        assert!(http::HeaderName::try_from(field.name).is_ok(), "{}", field.name);
        assert!(http::HeaderValue::from_bytes(field.value).is_ok(), "{:?}", field.value);
    }
    let_in(&request);
}

/// A head that is let in names one host and says nothing of this connection; let in again, it stays as
/// it is.
fn let_in(parsed: &httparse::Request<'_, '_>) {
    let mut head = http::Request::builder()
        .method(parsed.method.unwrap_or_default())
        .uri(parsed.path.unwrap_or_default());
    for field in &*parsed.headers {
        head = head.header(field.name, field.value);
    }
    // Targets that are not URIs are for the codec to refuse.
    let Ok(mut head) = head.body(()) else { return };
    let options = HttpOptions::default();
    if guard::request(&mut head, &options, 80).is_err() {
        return;
    }
    assert_eq!(head.headers().get_all("host").iter().count(), 1);
    for name in ["transfer-encoding", "keep-alive", "proxy-connection", "http2-settings"] {
        assert!(!head.headers().contains_key(name), "{name}");
    }
    let (uri, headers) = (head.uri().clone(), head.headers().clone());
    assert!(guard::request(&mut head, &options, 80).is_ok());
    assert_eq!((head.uri(), head.headers()), (&uri, &headers));
}

/// As [`requests`], for what an endpoint says; bits of the first byte say what was asked.
pub fn responses(data: &[u8]) {
    let Some((&flags, bytes)) = data.split_first() else { return };
    let asked = if flags & 1 == 0 { Asked::Body } else { Asked::Head };
    let new = || {
        let mut responses = Responses::new(RULES);
        responses.asked(asked);
        responses
    };
    let (mut whole, mut apart) = (new(), new());
    let all = whole.follow(bytes);
    let again = pieces(bytes, usize::from(flags / 2) + 1, |bytes| apart.follow(bytes));
    assert_eq!((told(all), whole.is_idle()), (told(again), apart.is_idle()));
    if all.pass == 0 {
        return;
    }
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response.parse(bytes);
    assert!(parsed.is_ok_and(|parsed| parsed.is_complete()), "a head that passed can be parsed");
    let lengths = count(response.headers, "content-length");
    assert!(lengths + count(response.headers, "transfer-encoding") <= 1);
}

fn count(fields: &[httparse::Header<'_>], name: &str) -> usize {
    fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count()
}

/// An expression, a substitution and a text, with a line feed between them. What an expression must
/// begin with is there in all that it matches; a template is an expression too.
pub fn matchers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.splitn(3, '\n');
    let mut part = || parts.next().unwrap_or_default();
    let (pattern, substitution, text) = (part(), part(), part());
    if let Ok(regex) = Regex::compile(pattern)
        && regex.matches(text.as_bytes())
    {
        assert!(text.starts_with(literal_prefix(pattern)), "{pattern:?} {text:?}");
    }
    if let Ok(rewrite) = RegexRewrite::compile(pattern, substitution) {
        let _ = rewrite.apply(text);
    }
    if let Ok(template) = UriTemplate::parse(pattern) {
        let matched = template.regex().map(|regex| regex.matches(text.as_bytes()));
        assert!(matched.is_ok(), "{pattern}");
        if let Ok(rewrite) = template.rewrite(substitution) {
            let _ = rewrite.apply(text);
        }
    }
}

/// A bootstrap is read, or refused with a reason.
pub fn bootstraps(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    if let Err(error) = bootstrap::parse(text, &no_files) {
        assert!(!error.to_string().is_empty());
    }
}

/// A resource is taken, or refused with a reason: JSON where the first byte is even, else
/// the bytes of a message of the type that it names.
pub fn resources(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let resource = if kind % 2 == 0 {
        let Ok(value) = serde_json::from_slice(rest) else { return };
        let Ok((type_url, bytes)) = json::any_from_json(value) else { return };
        Resource::from_bytes(&type_url, &bytes)
    } else {
        let kind = ResourceType::ALL[usize::from(kind / 2) % ResourceType::ALL.len()];
        Resource::from_bytes(kind.type_url(), rest)
    };
    let Ok(resource) = resource else { return };
    let bytes = resource.body.clone();
    let again = Resource::from_bytes(resource.kind.type_url(), &bytes);
    assert_eq!(again.map(|again| again.body), Ok(bytes), "canonical bytes are canonical");
    for (_, _, error) in compile::check(&[resource]) {
        assert!(!error.to_string().is_empty());
    }
}
