//! Questions to the user.

use crate::error::CliError;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

/// Asks on the terminal; where there is none, that is the error.
pub(crate) fn confirmed(question: &str, refusal: &str) -> Result<bool, CliError> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::usage(refusal).hint("there is no terminal to ask on: say `--yes`"));
    }
    let mut stderr = std::io::stderr().lock();
    // Where the question cannot be shown, the answer cannot be yes.
    let asked = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    Ok(asked.is_ok() && read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
}
