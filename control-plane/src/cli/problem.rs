//! An error as people see it: a code, one sentence, the place, and what to do.

use std::process::ExitCode;

/// What went wrong, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `WL0409`; empty where there is none.
    pub code: String,
    /// One sentence, lower case, no full stop.
    pub title: String,
    /// The place and the facts, a line each.
    pub detail: Vec<String>,
    /// What to do.
    pub help: Option<String>,
    /// What the program ends with.
    pub exit: Exit,
}

/// Why the program ends, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0.
    Done,
    /// 1: server, network, refused by permission, a proxy that refused.
    Failed,
    /// 2: the input is wrong.
    WrongInput,
    /// 4: someone else changed it.
    Conflict,
    /// 5: timed out waiting.
    TimedOut,
    /// 130: Ctrl-C.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::WrongInput => 2,
            Exit::Conflict => 4,
            Exit::TimedOut => 5,
            Exit::Interrupted => 130,
        })
    }
}

impl Problem {
    /// A failure with a code and a title.
    pub fn new(exit: Exit, code: &str, title: impl Into<String>) -> Self {
        Self { code: code.into(), title: title.into(), detail: Vec::new(), help: None, exit }
    }

    /// Wrong usage that clap cannot see.
    pub fn usage(title: impl Into<String>) -> Self {
        Self::new(Exit::WrongInput, "", title)
    }

    /// One more line about the place or the facts.
    #[must_use]
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.detail.push(line.into());
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The text, after a mark that the caller paints.
    pub fn render(&self, mark: &str) -> String {
        let mut text = mark.to_owned();
        if !self.code.is_empty() {
            text += &format!(" {}", self.code);
        }
        text += &format!(" {}\n", self.title);
        for line in self.detail.iter().flat_map(|detail| detail.lines()) {
            text += &format!("    {line}\n");
        }
        let mut label = "help";
        for line in self.help.iter().flat_map(|help| help.lines()) {
            text += &format!("    {label}  {line}\n");
            label = "    ";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_code_title_place_help() {
        let problem = Problem::new(Exit::Conflict, "WL0409", "changed by someone else")
            .detail("HTTPRoute payments/checkout: yours is based on r183")
            .help("apply again with --if-revision r184");
        let expected = "✗ WL0409 changed by someone else\n    HTTPRoute payments/checkout: yours is based on r183\n    help  apply again with --if-revision r184\n";
        assert_eq!(problem.render("✗"), expected);
    }
}
