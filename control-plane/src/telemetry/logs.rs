//! Where log lines go, and how they look.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, LogLevel};

/// Starts writing log lines to standard error. A second call changes nothing.
pub fn start(level: LogLevel, format: Option<LogFormat>) {
    let is_terminal = io::stderr().is_terminal();
    let format = format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter(level)))
        .with_writer(io::stderr)
        .with_ansi(is_terminal);
    let started = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    if started.is_err() {
        tracing::debug!("log lines are written already");
    }
}

/// Ours at the level; the libraries' from warn up, and all of them at trace.
fn filter(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "warn,control_plane=info,data_plane=info",
        LogLevel::Debug => "warn,control_plane=debug,data_plane=debug",
        LogLevel::Trace => "trace",
    }
}
