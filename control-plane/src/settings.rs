//! The settings of `weighlock serve`: one table of keys, from a file, `--set`, or a flag of the same name.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::finding::suggest::suggest;

pub mod environment;

/// Everything that `weighlock serve` can be told. All its defaults stand in [`Default`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the embedded store lies.
    pub data_dir: PathBuf,
    /// Where the HTTP API listens.
    pub api_address: SocketAddr,
    /// Where ADS and the other discovery services listen.
    pub xds_address: SocketAddr,
    /// Where probes and metrics listen.
    pub admin_address: SocketAddr,
    /// Plain text, and everyone is an admin.
    pub open: bool,
    /// A file or folder of documents that is read and watched.
    pub config: Option<PathBuf>,
    /// What keeps the documents.
    pub store: StoreKind,
    /// Which log lines are written.
    pub log_level: LogLevel,
    /// How log lines look. Unset: text on a terminal, else JSON.
    pub log_format: Option<LogFormat>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./weighlock-data"),
            api_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 18080)),
            xds_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 18000)),
            admin_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 19000)),
            open: false,
            config: None,
            store: StoreKind::Redb,
            log_level: LogLevel::Info,
            log_format: None,
        }
    }
}

/// Where documents and revisions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreKind {
    /// An embedded database in the data directory.
    Redb,
    /// Nowhere: gone when the program ends. For trials.
    Memory,
}

/// The least important log line that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// A person must act.
    Error,
    /// It degraded.
    Warn,
    /// State changed.
    Info,
    /// Why.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word for it in a filter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A setting that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// The settings file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not YAML, or not a map.
    #[error("{}: {reason}", path.display())]
    NotYaml {
        /// The settings file.
        path: PathBuf,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// No setting has this name.
    #[error("{place}: no setting is called {key:?}")]
    UnknownKey {
        /// Where it was given: the file, or `--set`.
        place: String,
        /// The name as it was given.
        key: String,
        /// The setting that was probably meant.
        meant: Option<&'static str>,
    },
    /// The value does not fit.
    #[error("{place}: {key}: {reason}")]
    WrongValue {
        /// Where it was given: the file, or `--set`.
        place: String,
        /// The setting.
        key: String,
        /// What is wrong with the value.
        reason: String,
    },
}

/// The flags of `weighlock serve`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServeArgs {
    /// Where the embedded store lies [default: ./weighlock-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the HTTP API listens; port 0 takes a free one [default: 127.0.0.1:18080]
    #[arg(long, value_name = "IP:PORT", value_parser = address)]
    pub api_address: Option<SocketAddr>,
    /// Where proxies connect (ADS) [default: 127.0.0.1:18000]
    #[arg(long, value_name = "IP:PORT", value_parser = address)]
    pub xds_address: Option<SocketAddr>,
    /// Where probes and metrics listen [default: 127.0.0.1:19000]
    #[arg(long, value_name = "IP:PORT", value_parser = address)]
    pub admin_address: Option<SocketAddr>,
    /// Plain text, and everyone is an admin; loopback addresses only
    #[arg(long)]
    pub open: bool,
    /// A file or folder of documents, read and watched; over the API they are read-only
    #[arg(long, value_name = "FILE_OR_DIR")]
    pub config: Option<PathBuf>,
    /// What keeps the documents: `redb`, or `memory`, which forgets them at the end [default: redb]
    #[arg(
        long = "store-kind",
        visible_alias = "store",
        value_name = "KIND",
        hide_possible_values = true
    )]
    pub store: Option<StoreKind>,
    /// The least important log line: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", hide_possible_values = true)]
    pub log_level: Option<LogLevel>,
    /// How log lines look: `text` or `json` [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT", hide_possible_values = true)]
    pub log_format: Option<LogFormat>,
    /// A file of settings (YAML); `--set` and flags beat it
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// One setting by its key, as in the file: store.kind=memory
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
    /// Ends when the process that started it ends.
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// One key of the settings file.
struct Key {
    name: &'static str,
    set: fn(&mut Settings, &str) -> Result<(), String>,
}

static KEYS: &[Key] = &[
    Key { name: "data-dir", set: |s, v| put(&mut s.data_dir, Ok(v.into())) },
    Key { name: "api-address", set: |s, v| put(&mut s.api_address, address(v)) },
    Key { name: "xds-address", set: |s, v| put(&mut s.xds_address, address(v)) },
    Key { name: "admin-address", set: |s, v| put(&mut s.admin_address, address(v)) },
    Key { name: "open", set: |s, v| put(&mut s.open, boolean(v)) },
    Key { name: "config", set: |s, v| put(&mut s.config, Ok(Some(v.into()))) },
    Key { name: "store.kind", set: |s, v| put(&mut s.store, word(v)) },
    Key { name: "log.level", set: |s, v| put(&mut s.log_level, word(v)) },
    Key { name: "log.format", set: |s, v| put(&mut s.log_format, word(v).map(Some)) },
];

/// Every key of the settings file, in order.
pub fn keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.name)
}

fn put<T>(target: &mut T, value: Result<T, String>) -> Result<(), String> {
    *target = value?;
    Ok(())
}

impl Settings {
    /// Flags over `--set` over the file over defaults.
    ///
    /// # Errors
    /// When the file cannot be read, a key is unknown or a value does not fit.
    pub fn load(args: &ServeArgs) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        if let Some(path) = &args.settings {
            let text = std::fs::read_to_string(path)
                .map_err(|source| SettingsError::Unreadable { path: path.clone(), source })?;
            settings.read(path, &text)?;
        }
        for (key, value) in &args.set {
            settings.set("--set", key, value)?;
        }
        settings.take_flags(args);
        Ok(settings)
    }

    fn read(&mut self, path: &Path, text: &str) -> Result<(), SettingsError> {
        let not_yaml = |reason: String| SettingsError::NotYaml { path: path.to_owned(), reason };
        if text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#')) {
            return Ok(());
        }
        let value: Value =
            serde_saphyr::from_str(text).map_err(|error| not_yaml(error.to_string()))?;
        let Value::Object(_) = value else {
            return Err(not_yaml("must be a map of settings".into()));
        };
        let mut entries = Vec::new();
        flatten("", &value, &mut entries);
        let place = path.display().to_string();
        for (key, value) in entries {
            match value {
                Some(value) => self.set(&place, &key, &value)?,
                None => {
                    let reason = "must be one value, not a list".to_owned();
                    return Err(SettingsError::WrongValue { place, key, reason });
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, place: &str, key: &str, value: &str) -> Result<(), SettingsError> {
        let Some(known) = KEYS.iter().find(|known| known.name == key) else {
            return Err(SettingsError::UnknownKey {
                place: place.to_owned(),
                key: key.to_owned(),
                meant: suggest(key, KEYS.iter().map(|known| known.name)),
            });
        };
        (known.set)(self, value).map_err(|reason| SettingsError::WrongValue {
            place: place.to_owned(),
            key: key.to_owned(),
            reason,
        })
    }

    fn take_flags(&mut self, args: &ServeArgs) {
        fn take<T: Clone>(target: &mut T, flag: Option<&T>) {
            if let Some(value) = flag {
                value.clone_into(target);
            }
        }
        take(&mut self.data_dir, args.data_dir.as_ref());
        take(&mut self.api_address, args.api_address.as_ref());
        take(&mut self.xds_address, args.xds_address.as_ref());
        take(&mut self.admin_address, args.admin_address.as_ref());
        take(&mut self.store, args.store.as_ref());
        take(&mut self.log_level, args.log_level.as_ref());
        self.open |= args.open;
        self.config = args.config.clone().or(self.config.take());
        self.log_format = args.log_format.or(self.log_format);
    }
}

/// `{store: {kind: memory}}` as `store.kind`, `memory`. A list has no value.
fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, Option<String>)>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, out);
            }
        }
        Value::String(text) => out.push((prefix.to_owned(), Some(text.clone()))),
        Value::Bool(_) | Value::Number(_) => out.push((prefix.to_owned(), Some(value.to_string()))),
        Value::Array(_) | Value::Null => out.push((prefix.to_owned(), None)),
    }
}

/// `127.0.0.1:18080` or `localhost:18080`.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.replacen("localhost:", "127.0.0.1:", 1)
        .parse()
        .map_err(|_| format!("{text:?} is no address and port like 127.0.0.1:18080"))
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

fn word<T: clap::ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let possible: Vec<_> = T::value_variants()
            .iter()
            .filter_map(|value| Some(value.to_possible_value()?.get_name().to_owned()))
            .collect();
        format!("{text:?} is none of {}", possible.join(", "))
    })
}

fn assignment(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .ok_or_else(|| format!("{text:?} lacks a value; write key=value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(text: &str) -> Result<Settings, SettingsError> {
        let mut settings = Settings::default();
        settings.read(Path::new("weighlock.yaml"), text)?;
        Ok(settings)
    }

    #[test]
    fn a_flag_beats_set_which_beats_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("weighlock.yaml");
        let text =
            "api-address: 127.0.0.1:1\nxds-address: 127.0.0.1:2\nadmin-address: localhost:3\n";
        std::fs::write(&file, text).unwrap();
        let args = ServeArgs {
            settings: Some(file),
            set: vec![
                ("api-address".into(), "127.0.0.1:11".into()),
                ("xds-address".into(), "127.0.0.1:12".into()),
            ],
            api_address: Some("127.0.0.1:21".parse().unwrap()),
            ..Default::default()
        };
        let settings = Settings::load(&args).unwrap();
        let ports =
            [settings.api_address, settings.xds_address, settings.admin_address].map(|a| a.port());
        assert_eq!(ports, [21, 12, 3]);
        assert_eq!(settings.data_dir, Settings::default().data_dir);
    }

    #[test]
    fn nested_and_dotted_keys_are_the_same() {
        let nested = from_file("store:\n  kind: memory\nlog:\n  level: debug\n").unwrap();
        assert_eq!(nested, from_file("store.kind: memory\nlog.level: debug\n").unwrap());
        assert_eq!((nested.store, nested.log_level), (StoreKind::Memory, LogLevel::Debug));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_one_that_was_meant() {
        let error = from_file("store:\n  kinds: memory\n").unwrap_err();
        assert_eq!(error.to_string(), "weighlock.yaml: no setting is called \"store.kinds\"");
        assert!(matches!(error, SettingsError::UnknownKey { meant: Some("store.kind"), .. }));
    }

    #[test]
    fn a_value_that_does_not_fit_says_what_would() {
        let error = from_file("store:\n  kind: disk\n").unwrap_err().to_string();
        assert_eq!(error, "weighlock.yaml: store.kind: \"disk\" is none of redb, memory");
        let error = from_file("api-address: 18080\n").unwrap_err().to_string();
        assert!(error.contains("no address and port like 127.0.0.1:18080"), "{error}");
        assert!(from_file("- a\n").is_err() && from_file("config: [a]\n").is_err());
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        assert_eq!(from_file("# nothing\n\n").unwrap(), Settings::default());
    }
}
