//! What the programs read from the environment: here, and nowhere else.

use std::ffi::OsString;
use std::path::PathBuf;

/// The environment variables that mean something to us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `WLCTL_SERVER`: the control plane that `wlctl` speaks to.
    pub server: Option<String>,
    /// `WLCTL_TOKEN`: the credential that `wlctl` sends.
    pub token: Option<Token>,
    /// `WLCTL_NAMESPACE`: the namespace of names that have none.
    pub namespace: Option<String>,
    /// `NO_COLOR` is set, or the terminal has no colours.
    pub no_color: bool,
    /// `COLUMNS`: how wide the terminal is.
    pub columns: Option<usize>,
}

/// A bearer token, which no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token from its text.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The text, for the header that carries it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Where temporary files belong: `TMPDIR`, else `/tmp`.
pub fn temporary_folder() -> PathBuf {
    std::env::temp_dir()
}

impl Environment {
    /// Reads the environment of this process.
    pub fn read() -> Self {
        Self::from(|name| std::env::var_os(name))
    }

    /// An empty variable counts as unset.
    fn from(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |name: &str| {
            get(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty())
        };
        Self {
            server: text("WLCTL_SERVER"),
            token: text("WLCTL_TOKEN").map(|text| Token::new(&text)),
            namespace: text("WLCTL_NAMESPACE"),
            no_color: text("NO_COLOR").is_some() || text("TERM").as_deref() == Some("dumb"),
            columns: text("COLUMNS").and_then(|columns| columns.parse().ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let environment = Environment::from(|name| match name {
            "WLCTL_SERVER" | "NO_COLOR" => Some("".into()),
            "WLCTL_TOKEN" => Some("wl_secret\n".into()),
            _ => None,
        });
        assert_eq!(environment.server, None);
        assert!(!environment.no_color);
        assert_eq!(environment.token.as_ref().map(Token::reveal), Some("wl_secret"));
        assert!(!format!("{environment:?}").contains("secret"));
    }
}
