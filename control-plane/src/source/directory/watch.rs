//! Watches a folder of documents, and puts what stands there into the store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Directory;
use crate::source::documents::DocumentError;
use crate::store::Store;

/// An editor that saves writes in several steps: they are read when nothing happened for this long.
const QUIET: Duration = Duration::from_millis(50);
/// And at the latest after this.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// What no event tells of (links to other folders, network file systems) is seen after this.
const RESCAN: Duration = Duration::from_secs(30);

/// Keeps the store like the files until `shutdown`. What is wrong is logged with file and line.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    store: Arc<Store>,
    directory: Directory,
    events: mpsc::Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Reads the files for the first time, and begins to watch.
    ///
    /// # Errors
    /// When the path is not there or cannot be watched.
    pub async fn start(path: &Path, store: Arc<Store>) -> io::Result<Self> {
        let (sender, events) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event| {
            if is_change(&event) {
                // One that waits already is as good as two.
                let _full = sender.try_send(());
            }
        })
        .map_err(io::Error::other)?;
        watcher.watch(watched(path)?, RecursiveMode::Recursive).map_err(io::Error::other)?;
        let directory = Directory::new(path);
        let (path, _watcher) = (path.to_owned(), watcher);
        let mut watch = Self { path, store, directory, events, _watcher };
        watch.sync().await?;
        Ok(watch)
    }

    /// Follows the files until `shutdown`.
    ///
    /// # Errors
    /// When the thread that reads them panicked.
    pub async fn run(mut self, shutdown: CancellationToken) -> io::Result<()> {
        loop {
            let rescan = Instant::now() + RESCAN;
            tokio::select! {
                event = self.events.recv() => if event.is_none() { return Ok(()) },
                () = sleep_until(rescan) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            self.quiet().await;
            if let Err(error) = self.sync().await {
                tracing::error!(path = %self.path.display(), %error, "the documents cannot be read; what was read last stays");
            }
        }
    }

    /// Waits until nothing happens for a moment.
    async fn quiet(&mut self) {
        let latest = Instant::now() + QUIET_MAX;
        while Instant::now() < latest {
            let deadline = (Instant::now() + QUIET).min(latest);
            if timeout_at(deadline, self.events.recv()).await.is_err() {
                return;
            }
        }
    }

    async fn sync(&mut self) -> io::Result<()> {
        let mut directory = std::mem::replace(&mut self.directory, Directory::new(&self.path));
        let store = self.store.clone();
        let (directory, result) = spawn_blocking(move || {
            let result = sync(&mut directory, &store);
            (directory, result)
        })
        .await?;
        self.directory = directory;
        result
    }
}

fn sync(directory: &mut Directory, store: &Store) -> io::Result<()> {
    let mut wrong = directory.read()?;
    let (change, duplicates) = directory.change(&store.state());
    wrong.extend(duplicates);
    for error in &wrong {
        tell(error);
    }
    match store.commit(&change) {
        Ok(done) if done.is_new_revision => {
            tracing::info!(revision = done.revision, "documents were read from files");
        }
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "the documents of the files are not stored"),
    }
    Ok(())
}

fn tell(error: &DocumentError) {
    tracing::error!(
        file = error.file,
        line = error.line,
        column = error.column,
        error = error.reason,
        "a file is not taken; what it held last stays"
    );
}

/// The folder to watch: a file is replaced, not written, by most editors.
fn watched(path: &Path) -> io::Result<&Path> {
    if std::fs::metadata(path)?.is_dir() {
        return Ok(path);
    }
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    Ok(parent.unwrap_or(Path::new(".")))
}

/// Reading a file is an event too, and our own reading must not wake us.
fn is_change(event: &notify::Result<Event>) -> bool {
    match event {
        Ok(event) => match event.kind {
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            EventKind::Any
            | EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Other => true,
        },
        // Events were lost: look.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn backend(port: u16) -> String {
        format!(
            "apiVersion: weighlock.dev/v1alpha1\nkind: Backend\nmetadata: {{name: a}}\n\
             spec: {{endpoints: [{{host: 127.0.0.1, port: {port}}}]}}\n"
        )
    }

    /// Waits until the stored Backend has this port.
    async fn port_is(store: &Store, wanted: u16) {
        let mut changed = store.changed();
        let found = || {
            let state = store.state();
            let object = state.objects.iter().next()?.value.pointer("/spec/endpoints/0/port")?;
            object.as_u64()
        };
        let all = async {
            while found() != Some(wanted.into()) {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
    }

    #[tokio::test]
    async fn files_are_followed_through_rewrites_renames_and_link_swaps() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, port) in [("..1", 1), ("..2", 2)] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("a.yaml"), backend(port)).unwrap();
        }
        symlink("..1", dir.path().join("..data")).unwrap();
        symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
        let store = Arc::new(Store::in_memory().unwrap());
        let watch = Watch::start(dir.path(), store.clone()).await.unwrap();
        let shutdown = CancellationToken::new();
        let running = watch.run(shutdown.clone());
        let story = async {
            port_is(&store, 1).await;
            symlink("..2", dir.path().join("..tmp")).unwrap();
            fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
            port_is(&store, 2).await;
            fs::remove_file(dir.path().join("a.yaml")).unwrap();
            fs::write(dir.path().join("a.yaml"), backend(3)).unwrap();
            port_is(&store, 3).await;
            fs::write(dir.path().join("b.yaml~"), backend(4)).unwrap();
            fs::rename(dir.path().join("b.yaml~"), dir.path().join("a.yaml")).unwrap();
            port_is(&store, 4).await;
            shutdown.cancel();
        };
        let (result, ()) = tokio::join!(running, story);
        result.unwrap();
    }

    #[tokio::test]
    async fn a_single_file_is_followed_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("one.yaml");
        fs::write(&file, backend(1)).unwrap();
        let store = Arc::new(Store::in_memory().unwrap());
        let watch = Watch::start(&file, store.clone()).await.unwrap();
        let shutdown = CancellationToken::new();
        let running = watch.run(shutdown.clone());
        let story = async {
            fs::write(&file, backend(2)).unwrap();
            port_is(&store, 2).await;
            shutdown.cancel();
        };
        let (result, ()) = tokio::join!(running, story);
        result.unwrap();
        assert!(Watch::start(Path::new("/no/such"), store).await.is_err());
    }
}
