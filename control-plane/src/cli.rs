//! `wlctl`: what people and scripts say to a control plane, over HTTP only.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::settings::environment::Environment;

mod apply;
pub mod client;
pub mod clock;
mod delete;
mod events;
pub mod files;
mod get;
mod history;
pub mod problem;
mod rollout;
mod session;
mod shift;
pub mod show;
mod status;
mod target;
mod version;
pub mod weights;

use problem::{Exit, Problem};
use session::Session;

/// The grammar of `wlctl`.
#[derive(Debug, Parser)]
#[command(
    name = "wlctl",
    version,
    about = "Talks to a Weighlock control plane",
    after_help = "Environment: WLCTL_SERVER, WLCTL_TOKEN, WLCTL_NAMESPACE, NO_COLOR.\n\
        Exit codes: 0 done, 1 failed, 2 the input is wrong, 4 conflict, 5 timed out, 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// The control plane [env: WLCTL_SERVER] [default: http://127.0.0.1:18080]
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    /// A file that holds the token [env: WLCTL_TOKEN holds the token itself]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The namespace of names that have none [env: WLCTL_NAMESPACE] [default: default]
    #[arg(long, short, global = true, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// How long to wait: 500ms, 10s, 2m [default: 10s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = clock::parse)]
    timeout: Option<Duration>,
    /// How results look
    #[arg(
        long,
        short,
        global = true,
        value_name = "FORMAT",
        default_value = "table",
        hide_possible_values = false
    )]
    output: Format,
    /// When to colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: When,
    /// Only ASCII: `ok x ! ~ + - .` for `✓ ✗ ! ~ + - ·`
    #[arg(long, global = true)]
    ascii: bool,
    /// Times as RFC 3339 instead of `41s ago`
    #[arg(long, global = true)]
    absolute: bool,
}

/// How results look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Wide,
    Json,
    Yaml,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Who runs what, who refused and why
    Status(StatusArgs),
    /// Documents, with their status in columns
    Get(GetArgs),
    /// Puts documents in place, all of them as one revision
    Apply(ApplyArgs),
    /// Takes documents away, as one revision
    Delete(DeleteArgs),
    /// Moves traffic: sets the weights of a rule's backends, as one revision
    Shift(ShiftArgs),
    /// What happens, one line each, until interrupted
    Events(EventsArgs),
    /// Revisions: who changed what, when
    History(HistoryArgs),
    /// Versions of this program and of the control plane
    Version,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Only this node, with every resource type
    node: Option<String>,
    /// Shows it again on every change
    #[arg(long, short)]
    watch: bool,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// A kind: gateway, httproute, backend, secret, … or its plural or short name; or `KIND/NAME`
    kind: String,
    /// A name, or NAMESPACE/NAME
    name: Option<String>,
    /// Documents of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only documents with these labels: app=shop,tier!=test
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// Shows it again on every change
    #[arg(long, short)]
    watch: bool,
}

#[derive(Debug, Args)]
struct ApplyArgs {
    /// Files, folders (recursively), or `-` for standard input
    #[arg(long = "filename", short, required = true, num_args = 1.., value_name = "PATH")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    wait: WaitArgs,
    /// Changes nothing; says what would change
    #[arg(long)]
    dry_run: bool,
    /// Labels each document `weighlock.dev/owner: OWNER`
    #[arg(long, value_name = "OWNER")]
    owner: Option<String>,
    /// Deletes documents of that owner that are not among these
    #[arg(long, requires = "owner")]
    prune: bool,
    /// Only if this is still the current revision: r184
    #[arg(long, value_name = "rN")]
    if_revision: Option<String>,
    /// Why; goes into the revision
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Asks nothing
    #[arg(long, short)]
    yes: bool,
}

/// Whether to wait for the fleet.
#[derive(Debug, Clone, Args)]
struct WaitArgs {
    /// Waits until all connected proxies have it (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Does not wait for the proxies
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    /// A kind, or KIND/NAME
    #[arg(required_unless_present = "files")]
    kind: Option<String>,
    /// A name, or NAMESPACE/NAME
    name: Option<String>,
    /// The documents in these files, folders, or `-`
    #[arg(long = "filename", short, num_args = 1.., value_name = "PATH", conflicts_with_all = ["kind", "name"])]
    files: Vec<PathBuf>,
    #[command(flatten)]
    wait: WaitArgs,
    /// Why; goes into the revision
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Asks nothing
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
struct ShiftArgs {
    /// The route: httproute/[NAMESPACE/]NAME[/RULE]
    route: String,
    /// Weights, relative to each other: stable=90,canary=10
    #[arg(value_name = "BACKEND=WEIGHT,…")]
    weights: String,
    /// The rule, by name or by number from 0; needed where several have backends
    #[arg(long)]
    rule: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
    /// Why; goes into the revision
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
struct EventsArgs {
    /// Only these types: fleet, revision, summary
    #[arg(long, value_delimiter = ',', value_name = "TYPES")]
    types: Vec<String>,
}

#[derive(Debug, Args)]
struct HistoryArgs {
    /// At most so many
    #[arg(long, default_value_t = 20)]
    limit: u32,
}

/// Runs `wlctl` with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let environment = Environment::read();
    let style = session::style(&cli.global, &environment, show::stderr_is_terminal());
    match start(&cli, &environment) {
        Ok(exit) => exit.into(),
        Err(problem) => {
            show::note(&problem.render(&style.mark(show::Mark::Bad)));
            problem.exit.into()
        }
    }
}

fn start(cli: &Cli, environment: &Environment) -> Result<Exit, Problem> {
    let session = Session::new(&cli.global, environment)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
            Problem::new(Exit::Failed, "", "the program cannot start").detail(error.to_string())
        })?;
    runtime.block_on(run(&session, &cli.command))
}

async fn run(session: &Session, command: &Command) -> Result<Exit, Problem> {
    match command {
        Command::Status(args) => status::run(session, args).await,
        Command::Get(args) => get::run(session, args).await,
        Command::Apply(args) => apply::run(session, args).await,
        Command::Delete(args) => delete::run(session, args).await,
        Command::Shift(args) => shift::run(session, args).await,
        Command::Events(args) => events::run(session, args).await,
        Command::History(args) => history::run(session, args).await,
        Command::Version => version::run(session).await,
    }
}
