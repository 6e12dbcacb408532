//! `weighlock demo`: the whole product on loopback, in one process tree.

use crate::cli::problem::{Exit, Problem};

/// The flags of `weighlock demo`.
#[derive(Debug, Clone, clap::Args)]
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
    let _args = args;
    tokio::task::yield_now().await;
    Ok(Exit::Done)
}
