//! The responses of a connection, one after the other.

use super::chunked::Chunked;
use super::head::Scan;
use super::{Body, Progress, Rules, Stop, Violation};

/// Interim responses before the one that counts.
const INTERIM_MAX: u8 = 16;

/// The responses of a connection, as far as they have come.
#[derive(Debug)]
pub struct Responses {
    state: State,
    rules: Rules,
}

/// What was asked for, as far as the framing of the answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Anything that is answered with a body.
    Body,
    /// `HEAD`: the answer has none.
    Head,
}

#[derive(Debug)]
enum State {
    /// Nothing was asked for.
    Idle,
    Head {
        head: Head,
        asked: Asked,
        interims: u8,
    },
    Body(Body),
    Broken,
}

#[derive(Debug, Default)]
struct Head {
    scan: Scan,
    status: u16,
    is_http_10: bool,
}

impl Responses {
    /// Nothing has come.
    pub fn new(rules: Rules) -> Self {
        Self { state: State::Idle, rules }
    }

    /// Whether nothing is due.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// A request was sent.
    pub fn asked(&mut self, asked: Asked) {
        if self.is_idle() {
            self.state = State::Head { head: Head::default(), asked, interims: 0 };
        }
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
                State::Head { head, asked, interims } => {
                    match head.read(rest, &self.rules, (*asked, interims)) {
                        Ok(None) => return Progress { pass, stop: Stop::Head },
                        Ok(Some((length, after))) => {
                            pass += length;
                            self.state = after;
                        }
                        Err(violation) => {
                            self.state = State::Broken;
                            return Progress { pass, stop: Stop::BadHead(violation) };
                        }
                    }
                }
                State::Body(body) => match body.follow(rest, &self.rules) {
                    Ok((length, is_end)) => {
                        pass += length;
                        if is_end {
                            self.state = State::Idle;
                        }
                    }
                    Err(violation) => {
                        self.state = State::Broken;
                        return Progress { pass, stop: Stop::BadBody(violation) };
                    }
                },
                State::Idle | State::Broken => {
                    return Progress { pass, stop: Stop::BadHead(Violation::Surplus) };
                }
            }
        }
    }
}

impl Head {
    fn read(
        &mut self,
        bytes: &[u8],
        rules: &Rules,
        (asked, interims): (Asked, &mut u8),
    ) -> Result<Option<(usize, State)>, Violation> {
        let Self { scan, status, is_http_10 } = self;
        let read = scan.read(bytes, rules, |line| {
            (*status, *is_http_10) = start(line)?;
            Ok(())
        })?;
        if read.unwrap_or(bytes.len()) > rules.bytes_max {
            return Err(Violation::HeadSize);
        }
        let Some(length) = read else { return Ok(None) };
        Ok(Some((length, self.after(rules, (asked, interims))?)))
    }

    /// What follows the head (RFC 9112 section 6.3).
    fn after(
        &self,
        rules: &Rules,
        (asked, interims): (Asked, &mut u8),
    ) -> Result<State, Violation> {
        let framing = &self.scan.framing;
        if framing.is_chunked && (self.is_http_10 || matches!(self.status, 100..200 | 204)) {
            return Err(Violation::Encoding);
        }
        if matches!(self.status, 100..200 | 204) && framing.length.is_some_and(|length| length > 0)
        {
            return Err(Violation::LengthWithoutBody);
        }
        if framing.is_chunked && framing.length.is_some() && !rules.allows_chunked_length {
            return Err(Violation::LengthAndEncoding);
        }
        Ok(match (self.status, asked) {
            (101, _) => State::Body(Body::Rest),
            (100..200, _) => {
                *interims += 1;
                if *interims > INTERIM_MAX {
                    return Err(Violation::Surplus);
                }
                State::Head { head: Self::default(), asked, interims: *interims }
            }
            (204 | 304, _) | (_, Asked::Head) => State::Idle,
            _ if framing.is_chunked => State::Body(Body::Chunked(Chunked::default())),
            _ => match framing.length {
                None => State::Body(Body::Rest),
                Some(0) => State::Idle,
                Some(length) => State::Body(Body::Length(length)),
            },
        })
    }
}

/// The status, and whether it is HTTP/1.0 (RFC 9112 section 4). The space before a reason that is not
/// there may be missing.
fn start(line: &[u8]) -> Result<(u16, bool), Violation> {
    let (version, rest) = line.split_at_checked(9).ok_or(Violation::Line)?;
    let is_http_10 = match version {
        b"HTTP/1.1 " => false,
        b"HTTP/1.0 " => true,
        _ => return Err(Violation::Version),
    };
    let (code, reason) = rest.split_at_checked(3).ok_or(Violation::Line)?;
    let status = code.iter().try_fold(0_u16, |status, digit| {
        digit.is_ascii_digit().then(|| status * 10 + u16::from(digit - b'0'))
    });
    match status {
        Some(status @ 100..) if reason.is_empty() || reason.starts_with(b" ") => {
            Ok((status, is_http_10))
        }
        _ => Err(Violation::Line),
    }
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

    fn after(asked: Asked, bytes: &str) -> (Progress, bool) {
        let mut responses = Responses::new(RULES);
        responses.asked(asked);
        let progress = responses.follow(bytes.as_bytes());
        (progress, responses.is_idle())
    }

    #[test]
    fn a_response_ends_where_its_framing_says() {
        for (asked, response, ends) in [
            (Asked::Body, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
            (Asked::Body, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no", false),
            (Asked::Body, "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", true),
            (Asked::Body, "HTTP/1.0 200 OK\r\n\r\nall that comes", false),
            (Asked::Body, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", true),
            (Asked::Body, "HTTP/1.1 204 No Content\r\n\r\n", true),
            (Asked::Body, "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", true),
            (Asked::Head, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", true),
            (Asked::Head, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", true),
            (Asked::Body, "HTTP/1.1 100 Continue\r\n\r\n", false),
            (
                Asked::Body,
                "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 204 x\r\n\r\n",
                true,
            ),
            (Asked::Body, "HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n\0\n\r", false),
        ] {
            let whole = Progress { pass: response.len(), stop: Stop::End };
            assert_eq!(after(asked, response), (whole, ends), "{response:?}");
            if ends {
                let more = format!("{response}HTTP/1.1 200 OK\r\n\r\n");
                let surplus = Stop::BadHead(Violation::Surplus);
                assert_eq!(after(asked, &more).0, Progress { stop: surplus, ..whole }, "{more:?}");
            }
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_refused_before_a_byte_passes() {
        use Violation::*;
        let many = "HTTP/1.1 103 x\r\n\r\n".repeat(17);
        for (response, want) in [
            ("HTTP/1.1 200 OK\ncontent-length: 0\n\n", LineEnd),
            ("HTTP/2.0 200 OK\r\n\r\n", Version),
            ("HTTX/1.1 200 OK\r\n\r\n", Version),
            ("HTTP/1.1  200 OK\r\n\r\n", Line),
            ("HTTP/1.1 20 OK\r\n\r\n", Line),
            ("HTTP/1.1 099 OK\r\n\r\n", Line),
            ("HTTP/1.1 2000 OK\r\n\r\n", Line),
            ("HTTP/1.1 200 O\0K\r\n\r\n", Character),
            ("hello\r\n\r\n", Line),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n", Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", Length),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", Encoding),
            ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Encoding),
            ("HTTP/1.1 204 x\r\ntransfer-encoding: chunked\r\n\r\n", Encoding),
            ("HTTP/1.1 204 x\r\ncontent-length: 1\r\n\r\n", LengthWithoutBody),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
                LengthAndEncoding,
            ),
            ("HTTP/1.1 200 OK\r\na: 1\r\n b\r\n\r\n", Line),
            ("HTTP/1.1 200 OK\r\na : 1\r\n\r\n", Line),
            ("HTTP/1.1 200 OK\r\na:\r\nb:\r\nc:\r\nd:\r\n\r\n", FieldCount),
            (&many, Surplus),
        ] {
            let (progress, _) = after(Asked::Body, response);
            assert_eq!(progress.stop, Stop::BadHead(want), "{response:?}");
        }
        let (long, _) = after(Asked::Body, &format!("HTTP/1.1 200 {}", "x".repeat(300)));
        assert_eq!(long, Progress { pass: 0, stop: Stop::BadHead(HeadSize) });
        let chunk = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx";
        assert_eq!(after(Asked::Body, chunk).0.stop, Stop::BadBody(Chunk));
    }

    #[test]
    fn what_nobody_asked_for_does_not_pass() {
        let mut responses = Responses::new(RULES);
        let progress = responses.follow(b"HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(progress, Progress { pass: 0, stop: Stop::BadHead(Violation::Surplus) });
    }
}
