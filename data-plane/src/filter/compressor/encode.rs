//! A body while it is compressed.

use std::fmt;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::Frame;

use crate::body::{Body, BoxError};

/// Bytes that Brotli takes in before it works.
const BROTLI_BUFFER: usize = 4096;

/// A way to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// RFC 1952, with a level of 0 to 9.
    Gzip(u32),
    /// RFC 7932.
    Brotli {
        /// 0 to 11.
        quality: u32,
        /// The logarithm of the window.
        window_bits: u32,
    },
    /// RFC 8878.
    Zstd {
        /// 1 to 22.
        level: i32,
        /// Whether each frame ends with a checksum.
        has_checksum: bool,
    },
}

impl Library {
    /// Its name in `content-encoding`.
    pub(super) fn encoding(self) -> &'static str {
        match self {
            Self::Gzip(_) => "gzip",
            Self::Brotli { .. } => "br",
            Self::Zstd { .. } => "zstd",
        }
    }

    fn encoder(self) -> std::io::Result<Encoder> {
        Ok(match self {
            Self::Gzip(level) => {
                let encoder = GzEncoder::new(Vec::new(), Compression::new(level));
                Encoder::Gzip(Box::new(encoder))
            }
            Self::Brotli { quality, window_bits } => {
                let out = Vec::new();
                let encoder =
                    brotli::CompressorWriter::new(out, BROTLI_BUFFER, quality, window_bits);
                Encoder::Brotli(Box::new(encoder))
            }
            Self::Zstd { level, has_checksum } => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
                encoder.include_checksum(has_checksum)?;
                Encoder::Zstd(Box::new(encoder))
            }
        })
    }
}

enum Encoder {
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "gzip",
            Self::Brotli(_) => "br",
            Self::Zstd(_) => "zstd",
        })
    }
}

impl Encoder {
    /// Takes in bytes and gives all that comes of them, so that none wait for others.
    fn encode(&mut self, data: &[u8]) -> std::io::Result<Bytes> {
        let out = match self {
            Self::Gzip(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                encoder.get_mut()
            }
            Self::Brotli(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                encoder.get_mut()
            }
            Self::Zstd(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                encoder.get_mut()
            }
        };
        Ok(std::mem::take(out).into())
    }

    /// The end.
    fn finish(self) -> std::io::Result<Bytes> {
        match self {
            Self::Gzip(encoder) => encoder.finish().map(Bytes::from),
            Self::Brotli(encoder) => Ok(encoder.into_inner().into()),
            Self::Zstd(encoder) => encoder.finish().map(Bytes::from),
        }
    }
}

/// A body, compressed.
#[derive(Debug)]
pub(super) struct Compressed {
    body: Body,
    library: Library,
    encoder: Option<Encoder>,
    /// What follows the last bytes.
    trailers: Option<Frame<Bytes>>,
    is_finished: bool,
}

impl Compressed {
    pub(super) fn new(body: Body, library: Library) -> Self {
        Self { body, library, encoder: None, trailers: None, is_finished: false }
    }

    fn encode(&mut self, data: &[u8]) -> std::io::Result<Bytes> {
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            None => self.encoder.insert(self.library.encoder()?),
        };
        encoder.encode(data)
    }

    fn finish(&mut self) -> std::io::Result<Bytes> {
        self.is_finished = true;
        match self.encoder.take() {
            Some(encoder) => encoder.finish(),
            None => self.library.encoder()?.finish(),
        }
    }
}

impl http_body::Body for Compressed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            if this.is_finished {
                return Poll::Ready(this.trailers.take().map(Ok));
            }
            let bytes = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => this.finish(),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.encode(&data),
                    Err(trailers) => {
                        this.trailers = Some(trailers);
                        this.finish()
                    }
                },
            };
            match bytes {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_finished && self.trailers.is_none()
    }
}
