//! What every command needs: the server, the namespace, and how results look.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::client::{Client, DEFAULT_SERVER};
use super::problem::{Exit, Problem};
use super::show::{self, Mark, Style};
use super::{Format, Global, When};
use crate::settings::environment::{Environment, Token};

/// What a command knows when it starts.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) format: Format,
    /// How results are dressed.
    pub(super) out: Style,
    /// How progress, warnings and errors are dressed.
    pub(super) err: Style,
    pub(super) timeout: Option<Duration>,
}

impl Session {
    pub(super) fn new(global: &Global, environment: &Environment) -> Result<Self, Problem> {
        let server = global.server.as_deref().or(environment.server.as_deref());
        let token = match &global.token_file {
            None => environment.token.clone(),
            Some(path) => Some(Token::new(&fs::read_to_string(path).map_err(|error| {
                Problem::new(
                    Exit::WrongInput,
                    "WL0007",
                    format!("--token-file {} cannot be read", path.display()),
                )
                .detail(error.to_string())
            })?)),
        };
        let namespace = global.namespace.as_ref().or(environment.namespace.as_ref());
        Ok(Self {
            client: Client::new(server.unwrap_or(DEFAULT_SERVER), token)?,
            namespace: namespace.map_or_else(|| "default".into(), Clone::clone),
            format: global.output,
            out: style(global, environment, show::stdout_is_terminal()),
            err: style(global, environment, show::stderr_is_terminal()),
            timeout: global.timeout,
        })
    }

    /// Prints a result.
    pub(super) fn print(&self, text: &str) -> Result<(), Problem> {
        show::print(text).map_err(|error| {
            Problem::new(Exit::Failed, "", "standard output takes no more")
                .detail(error.to_string())
        })
    }

    /// Prints what the API said, where that is wanted. False: it is to be shown as a table.
    pub(super) fn print_raw(&self, value: &Value) -> Result<bool, Problem> {
        let text = match self.format {
            Format::Table | Format::Wide => return Ok(false),
            Format::Json => serde_json::to_string_pretty(value).unwrap_or_default() + "\n",
            Format::Yaml => serde_saphyr::to_string(value).unwrap_or_default(),
        };
        self.print(&text)?;
        Ok(true)
    }

    /// A warning on standard error.
    pub(super) fn warn(&self, text: &str) {
        show::note(&format!("{} {text}\n", self.err.mark(Mark::Warn)));
    }

    /// A question on standard error.
    pub(super) fn ask(&self, text: &str) {
        show::note(text);
    }

    /// A hint on standard error.
    pub(super) fn hint(&self, text: &str) {
        show::note(&format!("{text}\n"));
    }
}

/// How text is dressed on an output that is a terminal or not.
pub(super) fn style(global: &Global, environment: &Environment, is_terminal: bool) -> Style {
    Style {
        colour: match global.color {
            When::Always => true,
            When::Never => false,
            When::Auto => is_terminal && !environment.no_color,
        },
        ascii: global.ascii,
        absolute: global.absolute,
        width: environment.columns.filter(|_| is_terminal),
        now: SystemTime::now(),
    }
}
