//! What frames must be whatever they say, where the codec's answer has another code than RFC 9113 wants.

use super::{Frame, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE};
use crate::telemetry::stats::Fault;

/// On SETTINGS: an answer.
const ACK: u8 = 1;

/// The setting of how much may be on the way on each stream.
const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];

/// Checks the size of a frame, and the windows that it sets.
pub(super) fn check(frame: Frame, payload: &[u8]) -> Result<(), Fault> {
    let is_sized = match frame.kind {
        PRIORITY => frame.length == 5,
        RST_STREAM | WINDOW_UPDATE => frame.length == 4,
        PING => frame.length == 8,
        SETTINGS if frame.flags & ACK != 0 => frame.length == 0,
        SETTINGS => return settings(frame.length, payload),
        _ => true,
    };
    if is_sized { Ok(()) } else { Err(Fault::Size) }
}

fn settings(length: usize, payload: &[u8]) -> Result<(), Fault> {
    if !length.is_multiple_of(6) {
        return Err(Fault::Size);
    }
    // What is not there as a whole the codec finds too.
    let mut all = payload.get(..length).unwrap_or_default().chunks_exact(6);
    let is_beyond = |one: &[u8]| one[..2] == INITIAL_WINDOW_SIZE && one[2] & 0x80 != 0;
    if all.any(is_beyond) { Err(Fault::Window) } else { Ok(()) }
}
