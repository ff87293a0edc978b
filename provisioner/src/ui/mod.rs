//! What the user sees: tables and data on stdout, progress and messages on stderr.

mod ask;
mod progress;
mod table;
mod template;

pub(crate) use ask::confirmed;
pub(crate) use progress::{Progress, Side};
pub(crate) use table::Table;
pub(crate) use template::{Fields, Output};

use std::io::Write as _;

/// A line on stderr. Nobody listening is no reason to fail.
pub(crate) fn stderr(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Text on stdout as it is, ending a line if need be. A reader that went away (`| head`) ends the output silently.
pub(crate) fn stdout(text: &str) {
    let mut out = std::io::stdout().lock();
    let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
    let _ = write!(out, "{text}{end}").and_then(|()| out.flush());
}

/// A value as JSON on stdout.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), crate::error::CliError> {
    use crate::error::Doing as _;
    stdout(&serde_json::to_string_pretty(value).doing("cannot write JSON")?);
    Ok(())
}

/// How a command that lists things writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}
