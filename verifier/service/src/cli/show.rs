//! Output: tables on a terminal, tab-separated lines elsewhere. Text that came from a device is shown without control
//! characters, whoever checked it before.

use std::io::{self, IsTerminal as _, Write as _};

use appraisal::Verdict;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};

/// Whether `NO_COLOR` is not set (<https://no-color.org>: not empty).
pub(super) fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// One row of cells: text, and the verdict that colours it.
pub(super) type Row = Vec<(String, Option<Verdict>)>;

/// A cell without colour.
pub(super) fn cell(text: impl Into<String>) -> (String, Option<Verdict>) {
    (text.into(), None)
}

/// A verdict's own cell.
pub(super) fn verdict(verdict: Verdict) -> (String, Option<Verdict>) {
    (verdict.name().to_owned(), Some(verdict))
}

/// Text without anything that a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

/// Columns below which a table is not fitted to the terminal.
const NARROWEST: u16 = 40;

/// Rows under their heads.
pub(super) fn table(heads: &[&str], rows: Vec<Row>) -> String {
    if !io::stdout().is_terminal() {
        let line = |cells: Row| cells.iter().map(|(text, _)| printable(text)).collect::<Vec<_>>().join("\t") + "\n";
        return rows.into_iter().map(line).collect();
    }
    let coloured = colour_wanted();
    let mut table = Table::new();
    // Some terminals say that they are 0 wide; a table broken into letters serves nobody.
    let wrap = table.width().is_some_and(|width| width >= NARROWEST);
    let arrangement = if wrap { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
    table.load_preset(presets::NOTHING).set_content_arrangement(arrangement);
    table.set_header(heads.iter().map(|head| {
        let head = Cell::new(head);
        if coloured { head.add_attribute(Attribute::Bold) } else { head }
    }));
    for row in rows {
        table.add_row(row.into_iter().map(|(text, verdict)| {
            let cell = Cell::new(printable(&text));
            if let Some(verdict) = verdict.filter(|_| coloured) { cell.fg(colour(verdict)) } else { cell }
        }));
    }
    format!("{table}\n")
}

const fn colour(verdict: Verdict) -> Color {
    match verdict {
        Verdict::Affirmed => Color::Green,
        Verdict::Warning => Color::Yellow,
        Verdict::Unknown => Color::Magenta,
        Verdict::Contraindicated => Color::Red,
    }
}

/// Writes to stdout; a reader who has seen enough is no error.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
