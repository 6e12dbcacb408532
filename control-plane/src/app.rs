//! `weighlock`: what the program does when it is started by hand or by a service manager.

use std::future::Future;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::problem::{Exit, Problem};
use crate::cli::show;
use crate::demo::DemoArgs;
use crate::process;
use crate::settings::environment::Environment;
use crate::settings::{ServeArgs, Settings, SettingsError};
use crate::telemetry::logs;

pub mod serve;

/// The grammar of `weighlock`.
#[derive(Debug, Parser)]
#[command(
    name = "weighlock",
    version,
    about = "An API gateway: a control plane that serves xDS, and what belongs beside it",
    after_help = "New here? `weighlock demo` starts everything on this machine and says what to try."
)]
pub struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The control plane: HTTP API, xDS, probes and metrics
    Serve(Box<ServeArgs>),
    /// The proxy: what `weighlock-proxy` is, with the same flags
    Proxy(Box<data_plane::app::settings::Args>),
    /// The whole product on this machine: control plane, two proxies, backends and a load
    Demo(DemoArgs),
    /// Versions of this program and of what it speaks
    Version,
}

/// Runs `weighlock` with the arguments of this process.
pub fn main() -> ExitCode {
    let result = match Program::parse().command {
        Command::Serve(args) => serve(&args),
        Command::Proxy(args) => return proxy(&args),
        Command::Demo(args) => on_one_thread(crate::demo::run(args)),
        Command::Version => version(),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(problem) => {
            tell(&problem);
            problem.exit.into()
        }
    }
}

fn tell(problem: &Problem) {
    let style = show::Style::plain(show::stderr_is_terminal() && !Environment::read().no_color);
    show::note(&problem.render(&style.mark(show::Mark::Bad)));
}

fn serve(args: &ServeArgs) -> Result<Exit, Problem> {
    if args.exit_with_parent {
        process::end_with_parent().map_err(|error| {
            Problem::new(Exit::Failed, "WL0900", "--exit-with-parent").detail(error.to_string())
        })?;
    }
    let settings = Settings::load(args).map_err(settings_problem)?;
    logs::start(settings.log_level, settings.log_format);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(cannot_start)?;
    runtime.block_on(serve::run(settings))
}

fn settings_problem(error: SettingsError) -> Problem {
    let code = match &error {
        SettingsError::Unreadable { .. } => "WL0007",
        SettingsError::NotYaml { .. } => "WL0001",
        SettingsError::UnknownKey { .. } => "WL0002",
        SettingsError::WrongValue { .. } => "WL0003",
    };
    let problem = Problem::new(Exit::WrongInput, code, error.to_string());
    match error {
        SettingsError::UnknownKey { meant: Some(meant), .. } => {
            problem.help(format!("did you mean {meant}?"))
        }
        SettingsError::UnknownKey { .. } => problem.help("weighlock serve --help lists them"),
        SettingsError::Unreadable { source, .. } => {
            problem.detail(source.to_string().to_lowercase())
        }
        SettingsError::NotYaml { .. } | SettingsError::WrongValue { .. } => problem,
    }
}

fn proxy(args: &data_plane::app::settings::Args) -> ExitCode {
    match data_plane::app::run(args) {
        Ok(code) => code,
        Err(error) => {
            let mut problem = Problem::new(Exit::Failed, "", error.to_string());
            problem.detail = error.chain().skip(1).map(ToString::to_string).collect();
            tell(&problem);
            problem.exit.into()
        }
    }
}

fn on_one_thread(task: impl Future<Output = Result<Exit, Problem>>) -> Result<Exit, Problem> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot_start)?;
    runtime.block_on(task)
}

fn cannot_start(error: std::io::Error) -> Problem {
    Problem::new(Exit::Failed, "WL0900", "the program cannot start").detail(error.to_string())
}

fn version() -> Result<Exit, Problem> {
    let text = format!(
        "weighlock    {}\nGateway API  v1\nEnvoy xDS    v3 (1.40)\n",
        env!("CARGO_PKG_VERSION")
    );
    show::print(&text).map_err(cannot_start)?;
    Ok(Exit::Done)
}
