//! Counts what an endpoint sends on an HTTP/2 connection without answering anything.

use super::{DATA, END_STREAM, HEADERS, PING, Reader, SETTINGS};
use crate::framing::Violation;

/// Heads of one stream that do not end it: that of the response, and interim ones.
const HEADS_MAX: u32 = 17;

/// Frames that ask for an answer, beside one for each frame that answers.
const CONTROL_MAX: u64 = 1000;

/// More of them for each second of the connection.
const CONTROL_A_SECOND: u64 = 100;

/// A connection to an endpoint, as far as its frames have come.
#[derive(Debug, Default)]
pub struct Answers {
    reader: Reader,
    /// The stream of the last head that did not end it, and how many of them came in a row.
    heads: (u32, u32),
    useful: u64,
    control: u64,
}

impl Answers {
    /// Bytes came; `seconds` is how old the connection is.
    ///
    /// # Errors
    /// Where there are too many frames that answer nothing.
    pub fn received(
        &mut self,
        mut bytes: &[u8],
        seconds: impl Fn() -> u64,
    ) -> Result<(), Violation> {
        while let Some(frame) = self.reader.next(&mut bytes) {
            match frame.kind {
                DATA => self.useful += 1,
                HEADERS if frame.flags & END_STREAM != 0 => self.useful += 1,
                HEADERS => {
                    let (stream, heads) = self.heads;
                    let heads = if stream == frame.stream { heads + 1 } else { 1 };
                    self.heads = (frame.stream, heads);
                    self.useful += u64::from(heads == 1);
                    if heads > HEADS_MAX {
                        return Err(Violation::Surplus);
                    }
                }
                SETTINGS | PING if frame.flags & END_STREAM == 0 => {
                    self.control += 1;
                    let free = CONTROL_MAX + self.useful;
                    if self.control > free && self.control > free + CONTROL_A_SECOND * seconds() {
                        return Err(Violation::Surplus);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8) -> [u8; 9] {
        [0, 0, 0, kind, flags, 0, 0, 0, stream]
    }

    /// How often the bytes may come, up to ten thousand times.
    fn times(bytes: &[u8]) -> usize {
        let mut answers = Answers::default();
        (0..10_000).take_while(|_| answers.received(bytes, || 0).is_ok()).count()
    }

    #[test]
    fn what_answers_nothing_has_a_limit() {
        assert_eq!(times(&frame(HEADERS, 4, 1)), 17);
        assert_eq!(times(&frame(PING, 0, 0)), 1000);
        assert_eq!(times(&frame(SETTINGS, 0, 0)), 1000);
        assert_eq!(times(&frame(PING, END_STREAM, 0)), 10_000);
        assert_eq!(times(&[frame(PING, 0, 0), frame(DATA, 0, 1)].concat()), 10_000);
        assert_eq!(times(&[frame(HEADERS, 4, 1), frame(HEADERS, 4, 3)].concat()), 10_000);
    }
}
