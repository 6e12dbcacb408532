//! Follows the bytes of HTTP messages, and judges them before the codec reads them.
//!
//! The rules are narrower than RFC 9112's: what two parsers could read differently is refused. Nothing
//! is changed on the way, nothing copied.

pub mod http2;
pub mod request;
pub mod response;
mod chunked;
mod head;
mod line;

use self::chunked::Chunked;

/// Header fields that the codec takes where nobody says how many, at no cost. Told a number, it fills
/// a table of that size for every head.
pub const CODEC_FIELDS: usize = 100;

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A line is not what the grammar wants here.
    #[error("malformed line")]
    Line,
    /// A line does not end with CR and LF, or CR stands elsewhere.
    #[error("CR or LF alone")]
    LineEnd,
    /// A control character.
    #[error("control character")]
    Character,
    /// A method that is none, or that is not known here.
    #[error("unknown method")]
    Method,
    /// A request target that is none.
    #[error("malformed target")]
    Target,
    /// An absolute target of a scheme other than HTTP's.
    #[error("unknown scheme")]
    Scheme,
    /// A version other than 1.0 and 1.1.
    #[error("unknown version")]
    Version,
    /// A length that is none, or more than one.
    #[error("malformed content-length")]
    Length,
    /// An encoding other than `chunked` alone, or one where there may be none.
    #[error("malformed transfer-encoding")]
    Encoding,
    /// A length and an encoding.
    #[error("both content-length and transfer-encoding")]
    LengthAndEncoding,
    /// The length of a message that has no body.
    #[error("content-length where there is no body")]
    LengthWithoutBody,
    /// More fields than allowed.
    #[error("too many fields")]
    FieldCount,
    /// A head of more bytes than allowed.
    #[error("head too large")]
    HeadSize,
    /// A request target of more bytes than allowed.
    #[error("target too long")]
    TargetSize,
    /// A chunk whose size or end is malformed.
    #[error("malformed chunk")]
    Chunk,
    /// Trailers that are malformed or too large.
    #[error("malformed trailers")]
    Trailers,
    /// The connection ended within a head.
    #[error("cut short")]
    CutShort,
    /// Bytes that belong to no message.
    #[error("bytes that nobody asked for")]
    Surplus,
    /// The head did not come in time.
    #[error("the head took too long")]
    Timeout,
}

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Bytes of a head.
    pub bytes_max: usize,
    /// Fields of a head.
    pub fields_max: usize,
    /// A length beside an encoding is allowed; the length does not count.
    pub allows_chunked_length: bool,
    /// Methods that are tokens are allowed, known or not.
    pub allows_any_method: bool,
}

/// More fields than these have no room in a header map.
const FIELDS_MAX: usize = 16 * 1024;

impl Rules {
    fn fields_max(&self) -> usize {
        self.fields_max.min(FIELDS_MAX)
    }
}

/// How far bytes may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// So many bytes may pass. The rest is to be shown again, with more behind it.
    pub pass: usize,
    /// Why no more.
    pub stop: Stop,
}

/// Why bytes go no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// There are no more.
    End,
    /// A head is not there as a whole.
    Head,
    /// What comes next depends on the answer to the last request.
    Answer,
    /// A head is wrong.
    BadHead(Violation),
    /// A body is wrong.
    BadBody(Violation),
}

/// What follows a head.
#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(Chunked),
    /// All that comes.
    Rest,
}

impl Body {
    /// How many of the bytes are of the body, and whether it ends with them.
    fn follow(&mut self, bytes: &[u8], rules: &Rules) -> Result<(usize, bool), Violation> {
        match self {
            Self::Rest => Ok((bytes.len(), false)),
            Self::Chunked(chunked) => chunked.follow(bytes, rules),
            Self::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= length as u64;
                Ok((length, *left == 0))
            }
        }
    }
}
