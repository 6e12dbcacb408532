//! Builds the proxy, owns its tasks and runtimes, and orders its shutdown.

use std::process::ExitCode;

use anyhow::Context;
use rustix::process::{Signal, set_parent_process_death_signal};

pub mod settings;
pub mod logs;

use settings::Args;

/// Runs the proxy until a signal ends it. Blocks; must not be called on an async runtime.
///
/// # Errors
/// When it cannot start: a setting is wrong, or an address is taken.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.exit_with_parent {
        set_parent_process_death_signal(Some(Signal::TERM)).context("--exit-with-parent")?;
    }
    logs::start(args.log_level, args.log_format)?;
    let _bootstrap = settings::read(args)?;
    Ok(ExitCode::SUCCESS)
}
