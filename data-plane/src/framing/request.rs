//! The requests of a connection, one after the other.

use http::Uri;

use super::chunked::Chunked;
use super::head::Scan;
use super::{Body, Progress, Rules, Stop, Violation, line};

/// Longer targets do not fit the codec.
const TARGET_BYTES_MAX: usize = 65_534;

/// Methods that are known, unless any is allowed: those of Envoy's codec.
const METHODS: [&[u8]; 34] = [
    b"GET",
    b"POST",
    b"PUT",
    b"HEAD",
    b"DELETE",
    b"OPTIONS",
    b"PATCH",
    b"CONNECT",
    b"TRACE",
    b"ACL",
    b"BIND",
    b"CHECKOUT",
    b"COPY",
    b"LINK",
    b"LOCK",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MOVE",
    b"M-SEARCH",
    b"NOTIFY",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SOURCE",
    b"SUBSCRIBE",
    b"UNBIND",
    b"UNLINK",
    b"UNLOCK",
    b"UNSUBSCRIBE",
];

/// The requests of a connection, as far as they have come.
#[derive(Debug)]
pub struct Requests {
    state: State,
    heads: u64,
    rules: Rules,
}

#[derive(Debug)]
enum State {
    Head(Head),
    Body(Body, After),
    /// The answer to the last request decides what comes next.
    Answer,
    Broken,
}

/// What comes after a request.
#[derive(Debug, Clone, Copy)]
enum After {
    Head,
    Answer,
}

#[derive(Debug, Default)]
struct Head {
    scan: Scan,
    is_http_10: bool,
    is_connect: bool,
}

impl Requests {
    /// Nothing has come.
    pub fn new(rules: Rules) -> Self {
        Self { state: State::Head(Head::default()), heads: 0, rules }
    }

    /// Heads that have passed.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether a request is under way that the client may still be sending.
    pub fn is_within(&self) -> bool {
        !matches!(self.state, State::Head(_) | State::Answer | State::Body(Body::Rest, _))
    }

    /// The last request was answered, and what comes next is a request too.
    pub fn answered(&mut self) {
        if matches!(self.state, State::Answer) {
            self.state = State::Head(Head::default());
        }
    }

    /// From here on, bytes are of another protocol, and all of them pass.
    pub fn switched(&mut self) {
        self.state = State::Body(Body::Rest, After::Head);
    }

    /// Looks at what has come: what did not pass before, and more behind it.
    pub fn follow(&mut self, bytes: &[u8]) -> Progress {
        let mut pass = 0;
        loop {
            let rest = &bytes[pass..];
            if rest.is_empty() {
                return Progress { pass, stop: Stop::End };
            }
            match &mut self.state {
                State::Head(head) => match head.read(rest, &self.rules) {
                    Ok(None) => return Progress { pass, stop: Stop::Head },
                    Ok(Some((length, after))) => {
                        pass += length;
                        self.heads += 1;
                        self.state = after;
                    }
                    Err(violation) => {
                        self.state = State::Broken;
                        return Progress { pass, stop: Stop::BadHead(violation) };
                    }
                },
                State::Body(body, after) => match body.follow(rest, &self.rules) {
                    Ok((length, is_end)) => {
                        pass += length;
                        if is_end {
                            self.state = after.state();
                        }
                    }
                    Err(violation) => {
                        self.state = State::Broken;
                        return Progress { pass, stop: Stop::BadBody(violation) };
                    }
                },
                State::Answer => return Progress { pass, stop: Stop::Answer },
                State::Broken => return Progress { pass, stop: Stop::BadBody(Violation::Surplus) },
            }
        }
    }
}

impl After {
    fn state(self) -> State {
        match self {
            Self::Head => State::Head(Head::default()),
            Self::Answer => State::Answer,
        }
    }
}

impl Head {
    fn read(&mut self, bytes: &[u8], rules: &Rules) -> Result<Option<(usize, State)>, Violation> {
        let Self { scan, is_http_10, is_connect } = self;
        let read = scan.read(bytes, rules, |line| {
            let start = Start::parse(line, rules)?;
            (*is_http_10, *is_connect) = (start.is_http_10, start.method == b"CONNECT");
            Ok(())
        })?;
        if read.unwrap_or(bytes.len()) > rules.bytes_max {
            let is_target = !self.scan.has_start();
            return Err(if is_target { Violation::TargetSize } else { Violation::HeadSize });
        }
        let Some(length) = read else { return Ok(None) };
        Ok(Some((length, self.after(rules)?)))
    }

    /// What follows the head.
    fn after(&self, rules: &Rules) -> Result<State, Violation> {
        let framing = &self.scan.framing;
        let may_switch = framing.has_upgrade || self.is_connect;
        let after = if may_switch { After::Answer } else { After::Head };
        if framing.is_chunked {
            if self.is_http_10 {
                return Err(Violation::Encoding);
            }
            if framing.length.is_some() && !rules.allows_chunked_length {
                return Err(Violation::LengthAndEncoding);
            }
            return Ok(State::Body(Body::Chunked(Chunked::default()), after));
        }
        Ok(match framing.length {
            None | Some(0) => after.state(),
            Some(length) => State::Body(Body::Length(length), after),
        })
    }
}

/// A request line (RFC 9112 section 3), its parts divided by one space each.
struct Start<'a> {
    method: &'a [u8],
    is_http_10: bool,
}

impl<'a> Start<'a> {
    fn parse(line: &'a [u8], rules: &Rules) -> Result<Self, Violation> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Violation::Line);
        };
        let is_allowed = || rules.allows_any_method && line::is_token(method);
        if !METHODS.contains(&method) && !is_allowed() {
            return Err(Violation::Method);
        }
        let is_http_10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(Violation::Version);
            }
            _ => return Err(Violation::Line),
        };
        check_target(method, target)?;
        Ok(Self { method, is_http_10 })
    }
}

fn check_target(method: &[u8], target: &[u8]) -> Result<(), Violation> {
    if target.len() > TARGET_BYTES_MAX {
        return Err(Violation::TargetSize);
    }
    let is_origin = line::is_path_and_query(target);
    let is_fine = match method {
        // A host and a port, and nothing else.
        b"CONNECT" => !is_origin && !target.contains(&b'/') && is_uri(target),
        _ if is_origin => true,
        b"OPTIONS" if target == b"*" => true,
        _ => return check_absolute(target),
    };
    if is_fine { Ok(()) } else { Err(Violation::Target) }
}

fn check_absolute(target: &[u8]) -> Result<(), Violation> {
    let scheme = target.windows(3).position(|three| three == b"://").ok_or(Violation::Target)?;
    let (scheme, _) = target.split_at(scheme);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(Violation::Scheme);
    }
    if target.contains(&b'#') || !is_uri(target) { Err(Violation::Target) } else { Ok(()) }
}

/// Whether the codec takes it.
fn is_uri(target: &[u8]) -> bool {
    target.is_ascii() && Uri::try_from(target).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        bytes_max: 200,
        fields_max: 3,
        allows_chunked_length: false,
        allows_any_method: false,
    };

    fn follow(rules: Rules, bytes: &[u8]) -> (Progress, u64) {
        let mut requests = Requests::new(rules);
        let progress = requests.follow(bytes);
        (progress, requests.heads())
    }

    #[test]
    fn requests_follow_one_another() {
        let all = concat!(
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "\r\nPOST /b?c=d HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            "PUT http://a.test/x HTTP/1.1\r\ntransfer-ENCODING:\tChunked \r\n\r\n1\r\na\r\n0\r\n\r\n",
            "OPTIONS * HTTP/1.0\r\n\r\n",
        );
        let whole = Progress { pass: all.len(), stop: Stop::End };
        assert_eq!(follow(RULES, all.as_bytes()), (whole, 4));
        // In whatever pieces they come.
        for size in 1..40 {
            let (mut requests, mut held) = (Requests::new(RULES), Vec::new());
            let mut passed = Vec::new();
            for piece in all.as_bytes().chunks(size) {
                held.extend_from_slice(piece);
                let progress = requests.follow(&held);
                assert!(matches!(progress.stop, Stop::End | Stop::Head), "{progress:?}");
                passed.extend(held.drain(..progress.pass));
            }
            assert_eq!((passed.as_slice(), requests.heads()), (all.as_bytes(), 4), "{size}");
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        use Violation::*;
        for (request, want) in [
            ("GET / HTTP/1.1\nhost: a\n\n", LineEnd),
            ("GET / HTTP/1.1\r\nhost: a\n\r\n", LineEnd),
            ("GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n", LineEnd),
            ("GET / HTTP/1.1\r\nhost: a\0b\r\n\r\n", Character),
            ("GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n", Line),
            ("GET / HTTP/1.1\r\n a: b\r\n\r\n", Line),
            ("GET / HTTP/1.1\r\na : b\r\n\r\n", Line),
            ("GET / HTTP/1.1\r\n: b\r\n\r\n", Line),
            ("GET / HTTP/1.1\r\nab\r\n\r\n", Line),
            ("GET / HTTP/1.1\r\na(b: c\r\n\r\n", Line),
            ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", Line),
            ("\nGET / HTTP/1.1\r\n\r\n", LineEnd),
            ("GET  / HTTP/1.1\r\n\r\n", Line),
            ("GET / HTTP/1.1 \r\n\r\n", Line),
            (" GET / HTTP/1.1\r\n\r\n", Line),
            ("GET\t/\tHTTP/1.1\r\n\r\n", Line),
            ("GET /a b HTTP/1.1\r\n\r\n", Line),
            ("GET /\r\n\r\n", Line),
            ("GET / http/1.1\r\n\r\n", Line),
            ("GET / HTTP/1.10\r\n\r\n", Line),
            ("GET / HTTP/2.0\r\n\r\n", Version),
            ("GET / HTTP/1.2\r\n\r\n", Version),
            ("get / HTTP/1.1\r\n\r\n", Method),
            ("FOO / HTTP/1.1\r\n\r\n", Method),
            ("GET a HTTP/1.1\r\n\r\n", Target),
            ("GET * HTTP/1.1\r\n\r\n", Target),
            ("GET /a#b HTTP/1.1\r\n\r\n", Target),
            ("GET /\u{e9} HTTP/1.1\r\n\r\n", Target),
            ("GET http:// HTTP/1.1\r\n\r\n", Target),
            ("GET http://a/#b HTTP/1.1\r\n\r\n", Target),
            ("GET ftp://a/ HTTP/1.1\r\n\r\n", Scheme),
            ("CONNECT / HTTP/1.1\r\n\r\n", Target),
            ("CONNECT http://a/ HTTP/1.1\r\n\r\n", Target),
            ("POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\n", Length),
            ("POST / HTTP/1.1\r\ncontent-length: 5, 5\r\n\r\n", Length),
            ("POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n", Length),
            ("POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", Encoding),
            ("POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n", Encoding),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked, chunked\r\n\r\n", Encoding),
            ("POST / HTTP/1.1\r\ntransfer-encoding:\r\n\r\n", Encoding),
            ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", Encoding),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
                Encoding,
            ),
            (
                "POST / HTTP/1.1\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n",
                LengthAndEncoding,
            ),
            ("GET / HTTP/1.1\r\na:\r\nb:\r\nc:\r\nd:\r\n\r\n", FieldCount),
            ("\u{16}\u{3}\u{1}\0\u{5}hello\r\n", Character),
        ] {
            let (progress, heads) = follow(RULES, request.as_bytes());
            assert_eq!((progress.stop, heads), (Stop::BadHead(want), 0), "{request:?}");
            assert_eq!(progress.pass, 0, "{request:?}");
        }
    }

    #[test]
    fn a_head_has_a_limit_whole_or_not() {
        let long = "a".repeat(300);
        let size = |request: &str| follow(RULES, request.as_bytes()).0.stop;
        assert_eq!(size(&format!("GET /{long}")), Stop::BadHead(Violation::TargetSize));
        let head = format!("GET / HTTP/1.1\r\na: {long}");
        assert_eq!(size(&head), Stop::BadHead(Violation::HeadSize));
        assert_eq!(size(&format!("{head}\r\n\r\n")), Stop::BadHead(Violation::HeadSize));
    }

    #[test]
    fn a_good_request_passes_before_a_bad_one() {
        let (good, bad) = ("GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\na : b\r\n\r\n");
        let (progress, heads) = follow(RULES, format!("{good}{bad}").as_bytes());
        let stop = Stop::BadHead(Violation::Line);
        assert_eq!((progress, heads), (Progress { pass: good.len(), stop }, 1));
        let body = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        let (progress, heads) = follow(RULES, format!("{body}1\r\nab\r\n").as_bytes());
        assert_eq!((progress.stop, heads), (Stop::BadBody(Violation::Chunk), 1));
    }

    #[test]
    fn what_follows_an_upgrade_waits_for_the_answer() {
        let upgrade = "GET / HTTP/1.1\r\nupgrade: x\r\ncontent-length: 1\r\n\r\na";
        let early = "GET /admin HTTP/1.1\r\n\r\n";
        let all = format!("{upgrade}{early}");
        let mut requests = Requests::new(RULES);
        let held = Progress { pass: upgrade.len(), stop: Stop::Answer };
        assert_eq!(requests.follow(all.as_bytes()), held);
        requests.answered();
        let passed = Progress { pass: early.len(), stop: Stop::End };
        assert_eq!((requests.follow(early.as_bytes()), requests.heads()), (passed, 2));

        let mut requests = Requests::new(RULES);
        assert_eq!(requests.follow(all.as_bytes()), held);
        requests.switched();
        let bytes = Progress { pass: 3, stop: Stop::End };
        assert_eq!((requests.follow(b"\0\n\r"), requests.heads()), (bytes, 1));

        let connect = b"CONNECT a.test:80 HTTP/1.1\r\n\r\nx";
        assert_eq!(follow(RULES, connect).0.stop, Stop::Answer);
    }

    #[test]
    fn rules_can_be_loosened() {
        let rules = Rules { allows_chunked_length: true, allows_any_method: true, ..RULES };
        let request =
            "FOO / HTTP/1.1\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        let whole = Progress { pass: request.len(), stop: Stop::End };
        assert_eq!(follow(rules, request.as_bytes()), (whole, 1));
        let stop = follow(rules, b"F(O / HTTP/1.1\r\n\r\n").0.stop;
        assert_eq!(stop, Stop::BadHead(Violation::Method));
    }

    proptest::proptest! {
        /// What passes the codec's own parser takes too, and reads alike.
        #[test]
        fn the_codec_takes_what_passes(
            method in "(GET|POST|get|M-SEARCH|O_X)",
            target in "(/[ -~]{0,6}|https?://[a-z:@.0-9]{0,6}/?|\\*)",
            fields in proptest::collection::vec("[a-zA-Z-]{1,6}:[ -~\t\u{e9}]{0,6}", 0..3),
        ) {
            let head = format!("{method} {target} HTTP/1.1\r\n{}\r\n",
                fields.iter().map(|field| format!("{field}\r\n")).collect::<String>());
            let rules = Rules { allows_any_method: true, ..RULES };
            let (progress, heads) = follow(rules, head.as_bytes());
            if heads == 1 {
                proptest::prop_assert_eq!(progress.pass, head.len());
                proptest::prop_assert!(http::Method::from_bytes(method.as_bytes()).is_ok());
                proptest::prop_assert!(Uri::try_from(target.as_str()).is_ok());
                for field in fields {
                    let (name, value) = field.split_once(':').unwrap();
                    proptest::prop_assert!(http::HeaderName::from_bytes(name.as_bytes()).is_ok());
                    proptest::prop_assert!(http::HeaderValue::from_bytes(value.trim().as_bytes()).is_ok());
                }
            }
        }
    }
}
