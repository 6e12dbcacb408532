//! Where the program's own log goes, and how it looks.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Everything, other libraries too.
    Trace,
    /// Why things happen.
    Debug,
    /// What changed.
    Info,
    /// What got worse.
    #[value(alias = "warning")]
    Warn,
    /// What a person must act on.
    #[value(alias = "critical")]
    Error,
    /// Nothing.
    Off,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object.
    Json,
}

/// Sends the log to standard error. Without a format it is text on a terminal, else JSON.
///
/// # Errors
/// Never today; a log that somebody else started is kept.
pub(super) fn start(level: LogLevel, format: Option<LogFormat>) -> anyhow::Result<()> {
    let is_terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json });
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .with_env_filter(filter(level)?);
    let started = match format {
        LogFormat::Text => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    if started.is_err() {
        tracing::debug!("the log was started before");
    }
    Ok(())
}

/// Libraries are heard from `warn` up, but at the level `trace`.
fn filter(level: LogLevel) -> anyhow::Result<EnvFilter> {
    let directives = match level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "warn,data_plane=debug",
        LogLevel::Info => "warn,data_plane=info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
        LogLevel::Off => "off",
    };
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into());
    Ok(builder.parse(directives)?)
}
