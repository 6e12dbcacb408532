//! The programs that the demo starts: its own binary again, as control plane and as proxy.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child as Process, Command};
use tokio::time::timeout;

use super::cannot;
use crate::cli::problem::{Exit, Problem};

/// How long a child may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How much of a child's log is shown when it ends unasked.
const LOG_LINES: usize = 5;

/// A running child. It is killed when this is dropped, and ends when the demo is gone.
#[derive(Debug)]
pub struct Child {
    name: String,
    log: PathBuf,
    process: Process,
}

impl Child {
    /// Starts this program again, with these arguments; its log goes to a file in `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, folder: &Path, arguments: &[String]) -> Result<Self, Problem> {
        let log = folder.join(format!("{}.log", name.replace(' ', "-")));
        let start = || -> io::Result<Process> {
            let file = File::options().create(true).append(true).open(&log)?;
            Command::new(std::env::current_exe()?)
                .args(arguments)
                .arg("--exit-with-parent")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(file)
                .kill_on_drop(true)
                // Ctrl-C goes to the demo, which ends its children in order.
                .process_group(0)
                .spawn()
        };
        let process = start().map_err(|error| cannot(&format!("start the {name}"), &error))?;
        Ok(Self { name: name.to_owned(), log, process })
    }

    /// Waits until it ends, which it should not.
    pub async fn ended(&mut self) -> Problem {
        let how = match self.process.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let mut problem = Problem::new(Exit::Failed, "", format!("the {} ended", self.name));
        problem.detail.push(how);
        problem.detail.extend(
            lines.iter().skip(lines.len().saturating_sub(LOG_LINES)).map(|line| (*line).to_owned()),
        );
        problem
    }

    /// Kills it as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// When it was gone already.
    pub async fn kill(&mut self) -> Result<(), Problem> {
        let what = format!("kill the {}", self.name);
        self.process.kill().await.map_err(|error| cannot(&what, &error))
    }

    /// Asks it to end, and waits; kills it when it does not.
    pub async fn end(&mut self) {
        if let Some(id) = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed()))
            && let Err(error) = kill_process(id, Signal::TERM)
        {
            tracing::debug!(%error, "it ended by itself");
        }
        let ended: Result<io::Result<ExitStatus>, _> =
            timeout(END_LIMIT, self.process.wait()).await;
        if !matches!(ended, Ok(Ok(_))) {
            drop(self.process.kill().await);
        }
    }
}
