//! What the programs share as processes: signals, and an end with the parent.

use std::io;

use rustix::process::{Signal as Number, set_parent_process_death_signal};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a program.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From here on signals are heard, and no longer end the program by themselves.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one and says what the program ends with if it ends at once.
    pub async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}

/// From here on this process gets SIGTERM when the thread that started it ends.
///
/// # Errors
/// When the system does not know how.
pub fn end_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Number::TERM))?)
}
