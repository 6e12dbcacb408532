//! How much memory, how many files and threads a process has, and whether that grows.

use std::fmt;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway_tests::process::{resident_kib, status_of};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

const EVERY: Duration = Duration::from_secs(1);
/// The share of the time at whose end things must stand still.
const SETTLED: f64 = 0.2;
/// A run of so much is long enough for the strict rule.
const LONG: Duration = Duration::from_secs(300);
const MIB: f64 = 1024.0 * 1024.0;

#[derive(Debug, Clone, Copy)]
struct Sample {
    seconds: f64,
    rss: f64,
    files: f64,
    threads: f64,
}

/// Samples of a process, one a second.
#[derive(Debug)]
pub(crate) struct Watch {
    samples: Arc<Mutex<Vec<Sample>>>,
    task: JoinHandle<()>,
}

/// What it had, and by how much that grew.
#[derive(Debug)]
pub(crate) struct Grown {
    samples: Vec<Sample>,
}

impl Watch {
    pub(crate) fn start(process: u32) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&samples);
        let started = Instant::now();
        let task = tokio::spawn(async move {
            let mut turns = interval(EVERY);
            loop {
                turns.tick().await;
                into.lock().unwrap().push(sample(process, started.elapsed().as_secs_f64()));
            }
        });
        Self { samples, task }
    }

    pub(crate) async fn stop(self) -> Grown {
        self.task.abort();
        Grown { samples: std::mem::take(&mut *self.samples.lock().unwrap()) }
    }
}

fn sample(process: u32, seconds: f64) -> Sample {
    let files = fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
    Sample {
        seconds,
        rss: resident_kib(process) as f64 * 1024.0,
        files: files as f64,
        threads: status_of(process, "Threads:") as f64,
    }
}

impl Grown {
    /// The samples after everything was used once.
    fn settled(&self) -> &[Sample] {
        let skipped = (self.samples.len() as f64 * SETTLED) as usize;
        &self.samples[skipped..]
    }

    /// By how much a straight line through the settled samples rises from its start to its end.
    fn rise(&self, of: fn(&Sample) -> f64) -> f64 {
        let samples = self.settled();
        let count = samples.len() as f64;
        let mean_x = samples.iter().map(|sample| sample.seconds).sum::<f64>() / count;
        let mean_y = samples.iter().map(of).sum::<f64>() / count;
        let (mut over, mut under) = (0.0, 0.0);
        for sample in samples {
            over += (sample.seconds - mean_x) * (of(sample) - mean_y);
            under += (sample.seconds - mean_x).powi(2);
        }
        let span = samples.last().unwrap().seconds - samples[0].seconds;
        over / under * span
    }

    /// Panics where it is not: a long run may gain 1 MiB, 10 files and no thread. In a short one memory still
    /// settles, so that only a gross leak is one.
    pub(crate) fn must_be_flat(&self, length: Duration) {
        let (rss_max, files_max) = if length >= LONG { (MIB, 10.0) } else { (24.0 * MIB, 60.0) };
        let (rss, files) = (self.rise(|sample| sample.rss), self.rise(|sample| sample.files));
        assert!(rss < rss_max, "memory grew by {:.1} MiB\n{self}", rss / MIB);
        assert!(files < files_max, "{files:.0} more files\n{self}");
        let threads = self.settled().iter().map(|sample| sample.threads);
        let (least, most) = threads.fold((f64::MAX, 0.0f64), |(a, b), n| (a.min(n), b.max(n)));
        assert!(most - least <= 8.0, "threads {least} to {most}\n{self}");
    }
}

impl fmt::Display for Grown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.samples.last().unwrap();
        writeln!(
            f,
            "memory        {:.1} MiB at the end, {:+.2} MiB by the line through the last four fifths",
            last.rss / MIB,
            self.rise(|sample| sample.rss) / MIB
        )?;
        writeln!(
            f,
            "files         {} at the end, {:+.1}",
            last.files,
            self.rise(|sample| sample.files)
        )?;
        write!(
            f,
            "threads       {} at the end, {:+.1}",
            last.threads,
            self.rise(|sample| sample.threads)
        )?;
        let every = (self.samples.len() / 12).max(1);
        let rss = self
            .samples
            .iter()
            .step_by(every)
            .map(|sample| format!("{:.0}s {:.1}", sample.seconds, sample.rss / MIB));
        write!(f, "\nMiB over time {}", rss.collect::<Vec<_>>().join(", "))
    }
}
