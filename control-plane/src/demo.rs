//! `weighlock demo`: the whole product on loopback, in one process tree.

use std::path::Path;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::cli::problem::{Exit, Problem};
use crate::cli::show::{self, Mark, Style};
use crate::process::Signals;
use crate::settings::environment::Environment;

pub mod backend;
pub mod children;
pub mod folder;
pub mod load;
pub mod places;
pub mod stage;
pub mod story;

use load::Load;
use places::Places;
use stage::Stage;

/// A load that nobody watches ends after this.
const LOAD_LIMIT: Duration = Duration::from_secs(600);

/// How long a child that was killed stays away: long enough to be seen as lost.
const RESTART_PAUSE: Duration = Duration::from_secs(5);
/// A child that ends more often than anybody would kill it has a reason.
const RESTARTS_MAX: usize = 20;

/// The flags of `weighlock demo`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct DemoArgs {
    /// `fixed`: 18080, 18000, 19000, 8001 and 8002; `auto`: free ones
    #[arg(long, value_name = "PORTS", default_value = "fixed", hide_possible_values = true)]
    pub ports: Ports,
    /// Requests a second that flow by themselves; 0 for none
    #[arg(long, value_name = "RPS", default_value_t = 40)]
    pub load: u32,
    /// Tells the whole story by itself and ends: 0 if no request failed and no connection was closed
    #[arg(long)]
    pub once: bool,
}

/// Which ports the demo takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Ports {
    /// 18080, 18000, 19000, 8001 and 8002.
    Fixed,
    /// Free ones.
    Auto,
}

/// Runs the demo until Ctrl-C, or until its story is told.
///
/// # Errors
/// What keeps it from starting, or what went wrong.
pub async fn run(args: DemoArgs) -> Result<Exit, Problem> {
    let mut signals = Signals::new().map_err(|error| cannot("hear signals", &error))?;
    let style = Style::plain(show::stdout_is_terminal() && !Environment::read().no_color);
    let tasks = TaskTracker::new();
    let begun = async {
        let places = Places::choose(args.ports).await?;
        Stage::start(places, &tasks).await
    };
    let mut stage = tokio::select! {
        stage = begun => stage?,
        _ = signals.next() => return Ok(Exit::Interrupted),
    };
    let load = Load::start(args.load, stage.places.gateways, &tasks);
    let told = tokio::select! {
        told = tell(&mut stage, &load, args, style) => told,
        _ = signals.next() => Ok(if args.once { Exit::Interrupted } else { Exit::Done }),
    };
    load.stop();
    tokio::select! {
        () = stage.end() => {}
        // A second Ctrl-C: what still runs is killed as it is dropped.
        _ = signals.next() => {}
    }
    told
}

async fn tell(
    stage: &mut Stage,
    load: &Load,
    args: DemoArgs,
    style: Style,
) -> Result<Exit, Problem> {
    let waiting = stage.apply_example().await?;
    print(&block(stage, &waiting, args.load, style))?;
    if args.once {
        return story::tell(stage, load, style).await;
    }
    print(&hints(stage))?;
    tokio::select! {
        kept = keep_running(stage) => kept.map(|()| Exit::Failed),
        () = end_load(load) => std::future::pending().await,
    }
}

/// Starts again what somebody killed to see what happens; gives up when that does not help.
async fn keep_running(stage: &mut Stage) -> Result<(), Problem> {
    for _ in 0..RESTARTS_MAX {
        let (part, mut ended) = stage.child_ended().await;
        // Its log says nothing about a kill; how it ended does.
        ended.detail.truncate(1);
        let again = ended.help(format!("it is started again in {}s", RESTART_PAUSE.as_secs()));
        show::note(&again.render("!"));
        tokio::time::sleep(RESTART_PAUSE).await;
        stage.start_again(part)?;
    }
    Err(stage.child_ended().await.1)
}

async fn end_load(load: &Load) {
    tokio::time::sleep(LOAD_LIMIT).await;
    load.stop();
}

/// Where things are.
fn block(stage: &Stage, in_sync: &[String; 2], rate: u32, style: Style) -> String {
    let Places { api, gateways: [a, b], .. } = stage.places;
    let ok = style.mark(Mark::Good);
    let flowing = match rate {
        0 => "no load".to_owned(),
        rate => format!("{rate} requests a second are flowing"),
    };
    format!(
        "{ok} control plane   http://{api}\n\
         {ok} proxy a         http://{a}    {}\n\
         {ok} proxy b         http://{b}    {}\n\
         {ok} backends        shop-v1, shop-v2         {flowing}\n",
        in_sync[0], in_sync[1]
    )
}

/// What to try.
fn hints(stage: &Stage) -> String {
    let Places { api, gateways: [a, _], .. } = stage.places;
    let server = match format!("http://{api}") {
        usual if usual == crate::cli::client::DEFAULT_SERVER => String::new(),
        other => format!("    export WLCTL_SERVER={other}\n"),
    };
    let wlctl = wlctl_hint(std::env::current_exe().ok().as_deref().and_then(Path::parent));
    format!(
        "next, in another terminal:\n{wlctl}{server}\
         \x20   curl -s http://{a}/hello\n\
         \x20   wlctl shift httproute/shop shop-v1=90,shop-v2=10\n\
         \x20   wlctl status\n\
         Ctrl-C ends everything\n"
    )
}

/// How to come by `wlctl`, which is built beside this program or not at all.
fn wlctl_hint(folder: Option<&Path>) -> String {
    match folder {
        Some(folder) if folder.join("wlctl").is_file() => {
            format!("    export PATH={}:$PATH\n", folder.display())
        }
        _ => "    cargo build --release    # wlctl is not built yet\n".to_owned(),
    }
}

fn print(text: &str) -> Result<(), Problem> {
    show::print(text).map_err(|error| cannot("write to standard output", &error))
}

pub(super) fn cannot(what: &str, error: &std::io::Error) -> Problem {
    Problem::new(Exit::Failed, "", format!("the demo cannot {what}")).detail(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_says_how_to_come_by_wlctl() {
        let folder = tempfile::TempDir::new().unwrap();
        assert!(wlctl_hint(Some(folder.path())).contains("cargo build"));
        std::fs::write(folder.path().join("wlctl"), "").unwrap();
        let hint = wlctl_hint(Some(folder.path()));
        assert_eq!(hint, format!("    export PATH={}:$PATH\n", folder.path().display()));
    }
}
