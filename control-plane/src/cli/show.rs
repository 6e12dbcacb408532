//! How results look: marks, colours, tables and ages.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::clock;

/// What a mark says. Colour only repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// `✓`
    Good,
    /// `✗`
    Bad,
    /// `!`
    Warn,
    /// `·`
    Quiet,
}

/// How text is dressed for one output.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Whether to use colours.
    pub colour: bool,
    /// Whether only ASCII may be written.
    pub ascii: bool,
    /// Whether times are written in full.
    pub absolute: bool,
    /// How wide a line may be; unset where nothing is cut.
    pub width: Option<usize>,
    /// What `41s ago` counts from.
    pub now: SystemTime,
}

impl Style {
    /// Marks as they are, times relative to the present.
    pub fn plain(colour: bool) -> Self {
        Self { colour, ascii: false, absolute: false, width: None, now: SystemTime::now() }
    }

    /// The mark, painted.
    pub fn mark(&self, mark: Mark) -> String {
        let (fancy, plain, colour) = match mark {
            Mark::Good => ("✓", "ok", "32"),
            Mark::Bad => ("✗", "x", "31"),
            Mark::Warn => ("!", "!", "33"),
            Mark::Quiet => ("·", ".", "2"),
        };
        self.paint(colour, if self.ascii { plain } else { fancy })
    }

    /// Text in the mark's colour.
    pub fn tone(&self, mark: Mark, text: &str) -> String {
        match mark {
            Mark::Good => self.paint("32", text),
            Mark::Bad => self.paint("31", text),
            Mark::Warn => self.paint("33", text),
            Mark::Quiet => self.paint("2", text),
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// `41s ago`, or RFC 3339.
    pub fn ago(&self, then: SystemTime) -> String {
        if self.absolute { rfc3339(then) } else { format!("{} ago", self.age(then)) }
    }

    /// `6d`, or RFC 3339.
    pub fn age(&self, then: SystemTime) -> String {
        if self.absolute {
            return rfc3339(then);
        }
        clock::show_age(self.now.duration_since(then).unwrap_or(Duration::ZERO))
    }
}

/// Reads RFC 3339.
pub fn instant(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
}

fn rfc3339(then: SystemTime) -> String {
    let whole =
        OffsetDateTime::from(then).replace_millisecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    whole.format(&Rfc3339).unwrap_or_default()
}

/// Rows under a header, in columns as wide as their content.
#[derive(Debug, Clone, Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// One field of a table.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    tone: Option<Mark>,
}

impl Cell {
    /// A field with a mark before it.
    pub fn marked(style: &Style, mark: Mark, text: &str) -> Self {
        let plain = Style { colour: false, ..*style };
        Self { text: format!("{} {text}", plain.mark(mark)), tone: Some(mark) }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        let text: String = text.into();
        Self { text: if text.is_empty() { "-".into() } else { text }, tone: None }
    }
}

impl Table {
    /// A table with these columns.
    pub fn new<T: Into<String>>(header: impl IntoIterator<Item = T>) -> Self {
        Self { header: header.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// One more row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text of the table.
    pub fn render(&self, style: &Style) -> String {
        let widths = self.widths();
        let header = self.header.iter().map(|name| Cell::from(name.as_str())).collect::<Vec<_>>();
        let mut out = line(&header, &widths, style);
        for row in &self.rows {
            out += &line(row, &widths, style);
        }
        out
    }

    /// The text of the rows alone, in the same columns.
    pub fn render_rows(&self, style: &Style) -> String {
        let widths = self.widths();
        self.rows.iter().map(|row| line(row, &widths, style)).collect()
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.header.iter().map(|name| name.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        widths
    }
}

fn line(cells: &[Cell], widths: &[usize], style: &Style) -> String {
    let mut out = String::new();
    let mut used = 0;
    for (position, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let is_last = position + 1 == cells.len();
        let mut text = cell.text.clone();
        if let (true, Some(room)) = (is_last, style.width) {
            text = cut(&text, room.saturating_sub(used).max(1), style);
        }
        let padding = if is_last { 0 } else { (width + 2).saturating_sub(text.chars().count()) };
        out += &cell.tone.map_or_else(|| text.clone(), |tone| style.tone(tone, &text));
        out += &" ".repeat(padding);
        used += text.chars().count() + padding;
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn cut(text: &str, room: usize, style: &Style) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let end = if style.ascii { '.' } else { '…' };
    text.chars().take(room.saturating_sub(1)).chain([end]).collect()
}

/// Writes to standard output. A reader that went away is no error.
///
/// # Errors
/// When the output takes no more for another reason, a full disk for instance.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result,
    }
}

/// Writes to standard output; whoever reads it may be gone.
///
/// # Errors
/// When nobody reads.
pub fn print_quietly(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Writes to standard error, where progress, warnings and hints belong.
pub fn note(text: &str) {
    // Nobody is left to tell when standard error is gone.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

/// Whether standard output is a terminal.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether standard error is a terminal.
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// No colours, and a clock that stands still at 1,000,000 s.
    pub(crate) fn plain() -> Style {
        Style {
            colour: false,
            ascii: false,
            absolute: false,
            width: None,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_content() {
        let mut table = Table::new(["NAME", "STATE", "AGE"]);
        table.row([
            Cell::from("a-long-name"),
            Cell::marked(&plain(), Mark::Good, "synced"),
            "".into(),
        ]);
        table.row(["b".into(), Cell::marked(&plain(), Mark::Bad, "NACK"), "6d".into()]);
        let text =
            "NAME         STATE     AGE\na-long-name  ✓ synced  -\nb            ✗ NACK    6d\n";
        assert_eq!(table.render(&plain()), text);
        let ascii = Style { ascii: true, ..plain() };
        assert_eq!(Cell::marked(&ascii, Mark::Good, "synced").text, "ok synced");
    }

    #[test]
    fn colour_does_not_move_columns() {
        let style = Style { colour: true, ..plain() };
        let mut table = Table::new(["A", "B"]);
        table.row([Cell::marked(&style, Mark::Bad, "no"), "x".into()]);
        assert_eq!(table.render(&style), "A     B\n\x1b[31m✗ no\x1b[0m  x\n");
    }

    #[test]
    fn the_last_column_is_cut_on_a_narrow_terminal() {
        let mut table = Table::new(["A", "B"]);
        table.row(["a".into(), "a long sentence".into()]);
        let narrow = Style { width: Some(9), ..plain() };
        assert_eq!(table.render(&narrow), "A  B\na  a lon…\n");
    }

    #[test]
    fn times_are_relative_or_absolute() {
        let then = plain().now - Duration::from_secs(41);
        assert_eq!(plain().ago(then), "41s ago");
        let absolute = Style { absolute: true, ..plain() };
        assert_eq!(absolute.ago(then), "1970-01-12T13:46:00Z".replace("46:00", "45:59"));
        assert_eq!(instant("1970-01-12T13:45:59Z"), Some(then));
    }
}
