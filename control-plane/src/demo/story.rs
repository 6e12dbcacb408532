//! `weighlock demo --once`: 0, 10, 50, 100 %, with the control plane killed and restarted in between.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::load::{Load, Tally};
use super::print;
use super::stage::Stage;
use crate::cli::problem::{Exit, Problem};
use crate::cli::show::{Mark, Style, Table};

/// How long each step is watched.
const STEP: Duration = Duration::from_secs(2);

/// What one step served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Served {
    v1: usize,
    v2: usize,
    failed: usize,
    closed: usize,
}

impl Served {
    fn read(tally: &Tally) -> Self {
        let count = |counter: &std::sync::atomic::AtomicUsize| counter.load(Ordering::Relaxed);
        Self {
            v1: count(&tally.v1),
            v2: count(&tally.v2),
            failed: count(&tally.failed),
            closed: count(&tally.closed),
        }
    }
}

/// One step, and what it must not serve.
#[derive(Debug, Clone, Copy)]
struct Step {
    name: &'static str,
    allows_v1: bool,
    allows_v2: bool,
}

const STEPS: [Step; 6] = [
    Step { name: "shop-v2 at 0%", allows_v1: true, allows_v2: false },
    Step { name: "shop-v2 at 10%", allows_v1: true, allows_v2: true },
    Step { name: "10%, control plane killed", allows_v1: true, allows_v2: true },
    Step { name: "10%, control plane back", allows_v1: true, allows_v2: true },
    Step { name: "shop-v2 at 50%", allows_v1: true, allows_v2: true },
    Step { name: "shop-v2 at 100%", allows_v1: false, allows_v2: true },
];

/// Tells the story, and prints what each step served.
///
/// # Errors
/// When a step cannot be taken.
pub async fn tell(stage: &mut Stage, load: &Load, style: Style) -> Result<Exit, Problem> {
    for (number, step) in STEPS.iter().enumerate() {
        // What was on its way while the traffic shifted belongs to no step.
        load.begin_step(STEPS.len());
        take(stage, number).await?;
        load.begin_step(number);
        print(&format!("{} {}\n", style.mark(Mark::Quiet), step.name))?;
        tokio::time::sleep(STEP).await;
    }
    load.begin_step(STEPS.len());
    load.stop();
    let served: Vec<Served> =
        (0..=STEPS.len()).map(|step| Served::read(load.tally(step))).collect();
    let (text, exit) = report(&served, style);
    print(&text)?;
    Ok(exit)
}

async fn take(stage: &mut Stage, number: usize) -> Result<(), Problem> {
    match number {
        1 => drop(stage.shift(90, 10).await?),
        2 => stage.kill_control_plane().await?,
        3 => stage.restart_control_plane().await?,
        4 => drop(stage.shift(50, 50).await?),
        5 => drop(stage.shift(0, 100).await?),
        _ => {}
    }
    Ok(())
}

/// The table and the verdict. The last entry is what was served while the traffic shifted.
fn report(served: &[Served], style: Style) -> (String, Exit) {
    let mut table = Table::new(["STEP", "SHOP-V1", "SHOP-V2", "FAILED", "CLOSED"]);
    let names = STEPS.iter().map(|step| step.name).chain(["on the way between steps"]);
    let mut total = Served::default();
    for (name, step) in names.zip(served) {
        let numbers = [step.v1, step.v2, step.failed, step.closed];
        table.row(std::iter::once(name.into()).chain(numbers.map(|n| n.to_string().into())));
        total.v1 += step.v1;
        total.v2 += step.v2;
        total.failed += step.failed;
        total.closed += step.closed;
    }
    let strays: usize = STEPS
        .iter()
        .zip(served)
        .map(|(step, served)| {
            (if step.allows_v1 { 0 } else { served.v1 })
                + (if step.allows_v2 { 0 } else { served.v2 })
        })
        .sum();
    let requests = total.v1 + total.v2 + total.failed;
    let is_good = total.failed == 0 && total.closed == 0 && strays == 0;
    let mark = style.mark(if is_good { Mark::Good } else { Mark::Bad });
    let mut text = table.render(&style);
    text += &format!(
        "{mark} {requests} requests: {} failed, {} connections closed",
        total.failed, total.closed
    );
    if strays > 0 {
        text += &format!(", {strays} went to a backend without weight");
    }
    text.push('\n');
    (text, if is_good { Exit::Done } else { Exit::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_each_step_served() {
        let mut served = [Served { v1: 70, v2: 10, ..Served::default() }; 7];
        served[0].v2 = 0;
        served[5].v1 = 0;
        let style = Style::plain(false);
        let (text, exit) = report(&served, style);
        assert_eq!(exit, Exit::Done, "{text}");
        assert!(text.starts_with("STEP                       SHOP-V1  SHOP-V2  FAILED  CLOSED\nshop-v2 at 0%              70       0        0       0\n"), "{text}");
        assert!(text.ends_with("✓ 480 requests: 0 failed, 0 connections closed\n"), "{text}");
        served[6].closed = 1;
        assert_eq!(report(&served, style).1, Exit::Failed);
    }

    #[test]
    fn a_backend_without_weight_must_serve_nothing() {
        let mut served = [Served::default(); 7];
        served[5].v1 = 1;
        let (text, exit) = report(&served, Style::plain(false));
        assert!(text.contains("1 went to a backend without weight"), "{text}");
        assert_eq!(exit, Exit::Failed);
    }
}
