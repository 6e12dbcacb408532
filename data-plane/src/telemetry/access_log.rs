//! Access logs: lines gather in a worker and go to files in another thread, which never holds up
//! a request. What does not fit is dropped and counted.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::instrument::Counter;

/// Chunks that may wait for the disk; at 16 KiB each, 16 MiB.
const QUEUE: usize = 1024;

/// A worker hands its lines over at this size.
const CHUNK_BYTES: usize = 16 * 1024;

/// How many files there may be, so that a changing configuration cannot use up all file handles.
const FILES_MAX: usize = 256;

/// Where lines go: a place in the table of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogFile(usize);

/// The one writer of all access logs. The last clone of it to go ends the thread.
#[derive(Debug, Clone)]
pub struct AccessLogs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: SyncSender<Message>,
    files: Mutex<Vec<PathBuf>>,
    dropped: Arc<Counter>,
}

enum Message {
    Lines { file: LogFile, path: Option<PathBuf>, text: String, lines: u64 },
    Flush(SyncSender<()>),
}

impl AccessLogs {
    /// Starts the writer. Lines that are lost count in `dropped`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(dropped: Arc<Counter>) -> io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let counter = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || Writer { files: HashMap::new(), dropped: counter }.run(&messages))?;
        Ok(Self(Arc::new(Shared { queue, files: Mutex::default(), dropped })))
    }

    /// The file at `path`; `-` and `/dev/stdout` are standard output. It is opened when the first
    /// line is written. `None` when there are too many files.
    pub fn file(&self, path: &Path) -> Option<LogFile> {
        let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = files.iter().position(|known| known == path) {
            return Some(LogFile(known));
        }
        if files.len() == FILES_MAX {
            return None;
        }
        files.push(path.to_owned());
        Some(LogFile(files.len() - 1))
    }

    /// The part of a worker.
    pub fn worker(&self) -> WorkerLog {
        WorkerLog { logs: self.clone(), buffers: RefCell::default() }
    }

    /// Waits until all that was handed over is written, at most for `patience`.
    pub fn flush(&self, patience: Duration) {
        let (done, wait) = sync_channel(1);
        if self.0.queue.send(Message::Flush(done)).is_ok() {
            // Too slow, or gone: either way there is nothing left to wait for.
            wait.recv_timeout(patience).unwrap_or_default();
        }
    }

    fn path(&self, file: LogFile) -> Option<PathBuf> {
        self.0.files.lock().unwrap_or_else(PoisonError::into_inner).get(file.0).cloned()
    }
}

/// Gathers the lines of one worker.
#[derive(Debug)]
pub struct WorkerLog {
    logs: AccessLogs,
    buffers: RefCell<Vec<Buffer>>,
}

#[derive(Debug, Default)]
struct Buffer {
    text: String,
    lines: u64,
    is_known: bool,
}

impl WorkerLog {
    /// Adds what `write` appends, a line with its end. Says whether lines wait that nobody has been
    /// told of: then [`WorkerLog::flush`] is to be called soon.
    pub fn write(&self, file: LogFile, write: impl FnOnce(&mut String)) -> bool {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() <= file.0 {
            buffers.resize_with(file.0 + 1, Buffer::default);
        }
        let buffer = &mut buffers[file.0];
        let was_empty = buffer.text.is_empty();
        write(&mut buffer.text);
        buffer.lines += 1;
        if buffer.text.len() >= CHUNK_BYTES {
            self.hand_over(file, buffer);
            return false;
        }
        was_empty
    }

    /// Hands over what waits.
    pub fn flush(&self) {
        for (index, buffer) in self.buffers.borrow_mut().iter_mut().enumerate() {
            if !buffer.text.is_empty() {
                self.hand_over(LogFile(index), buffer);
            }
        }
    }

    fn hand_over(&self, file: LogFile, buffer: &mut Buffer) {
        // The writer opens a file by the first path it hears of.
        let path = if buffer.is_known { None } else { self.logs.path(file) };
        let text = std::mem::replace(&mut buffer.text, String::with_capacity(CHUNK_BYTES + 1024));
        let lines = std::mem::take(&mut buffer.lines);
        match self.logs.0.queue.try_send(Message::Lines { file, path, text, lines }) {
            Ok(()) => buffer.is_known = true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.logs.0.dropped.add(lines);
            }
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The thread's side.
struct Writer {
    files: HashMap<usize, Output>,
    dropped: Arc<Counter>,
}

enum Output {
    Stdout,
    File(File),
    Broken(PathBuf),
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            match messages.recv_timeout(Duration::from_secs(3600)) {
                Ok(Message::Lines { file, path, text, lines }) => {
                    self.write(file, path, &text, lines);
                }
                // Whoever asked may have stopped waiting.
                Ok(Message::Flush(done)) => done.try_send(()).unwrap_or_default(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write(&mut self, file: LogFile, path: Option<PathBuf>, text: &str, lines: u64) {
        if let Some(path) = path {
            self.files.entry(file.0).or_insert_with(|| Output::open(path));
        }
        let Some(output) = self.files.get_mut(&file.0) else {
            self.dropped.add(lines);
            return;
        };
        let written = match output {
            Output::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
            }
            Output::File(open) => open.write_all(text.as_bytes()),
            Output::Broken(path) => {
                *output = Output::open(path.clone());
                match output {
                    Output::File(open) => open.write_all(text.as_bytes()),
                    Output::Stdout | Output::Broken(_) => {
                        self.dropped.add(lines);
                        return;
                    }
                }
            }
        };
        if let Err(error) = written {
            self.dropped.add(lines);
            tracing::warn!(%error, "access log cannot be written");
        }
    }
}

impl Output {
    fn open(path: PathBuf) -> Self {
        if path == Path::new("-") || path == Path::new("/dev/stdout") {
            return Self::Stdout;
        }
        match OpenOptions::new().append(true).create(true).open(&path) {
            Ok(file) => Self::File(file),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "access log cannot be opened");
                Self::Broken(path)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_their_file_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let logs = AccessLogs::start(Arc::default()).unwrap();
        let file = logs.file(&folder.path().join("a.log")).unwrap();
        assert_eq!(logs.file(&folder.path().join("a.log")), Some(file));
        let worker = logs.worker();
        assert!(worker.write(file, |line| line.push_str("one\n")));
        assert!(!worker.write(file, |line| line.push_str("two\n")));
        worker.flush();
        worker.write(file, |line| line.push_str("three\n"));
        drop(worker);
        logs.flush(Duration::from_secs(10));
        let text = std::fs::read_to_string(folder.path().join("a.log")).unwrap();
        assert_eq!(text, "one\ntwo\nthree\n");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let dropped = Arc::new(Counter::default());
        let logs = AccessLogs::start(Arc::clone(&dropped)).unwrap();
        let file = logs.file(Path::new("/nowhere/at/all")).unwrap();
        let worker = logs.worker();
        worker.write(file, |line| line.push_str("one\n"));
        worker.flush();
        worker.write(file, |line| line.push_str("two\n"));
        worker.flush();
        logs.flush(Duration::from_secs(10));
        assert_eq!(dropped.value(), 2);
    }

    #[test]
    fn there_are_not_endless_files() {
        let logs = AccessLogs::start(Arc::default()).unwrap();
        for n in 0..FILES_MAX {
            assert!(logs.file(Path::new(&n.to_string())).is_some());
        }
        assert!(logs.file(Path::new("one more")).is_none());
    }
}
