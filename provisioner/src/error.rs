//! What a command fails with, and how the user gets to see it: what, caused by, hint.

use std::error::Error as StdError;
use std::fmt;
use std::process::ExitCode;

/// Exit code of an ordinary failure.
pub(crate) const FAILURE: u8 = 1;
/// Exit code of wrong usage, the same that clap uses.
pub(crate) const USAGE: u8 = 2;
/// Exit code where the check before `create` says that this host cannot do it; nothing was made.
pub(crate) const PRECHECK: u8 = 3;

type BoxError = Box<dyn StdError + Send + Sync>;

/// The failure of a command: a lower-case phrase that names the object, its cause, and what to do about it.
#[derive(Debug)]
pub(crate) struct CliError {
    what: String,
    source: Option<BoxError>,
    hint: Option<String>,
    code: u8,
}

impl CliError {
    /// A failure with exit code 1.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None, hint: None, code: FAILURE }
    }

    /// Wrong usage: exit code 2.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(what).code(USAGE)
    }

    /// Adds what lies below; printed after `caused by:`, with its own causes.
    pub(crate) fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the user can do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a second thing that the user can do.
    pub(crate) fn also_hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        self.hint = Some(match self.hint {
            Some(before) => format!("{before}\nhint: {hint}"),
            None => hint,
        });
        self
    }

    /// Another exit code than 1.
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    /// The phrase and its causes on one line, for a table's cell.
    pub(crate) fn one_line(&self) -> String {
        let mut line = self.what.clone();
        for cause in causes(self) {
            line.push_str(": ");
            line.push_str(&cause);
        }
        line.replace('\n', " ")
    }

    /// The same with what the user can do about it, for those who see one text alone.
    pub(crate) fn with_hint(&self) -> String {
        let line = self.one_line();
        match &self.hint {
            Some(hint) => format!("{line} ({})", hint.replace('\n', "; ")),
            None => line,
        }
    }

    /// Tells the user, in three steps.
    pub(crate) fn print(&self) {
        crate::ui::stderr(&format!("error: {}", self.what));
        for cause in causes(self) {
            crate::ui::stderr(&format!("caused by: {cause}"));
        }
        if let Some(hint) = &self.hint {
            crate::ui::stderr(&format!("hint: {hint}"));
        }
    }
}

/// The texts below an error; one that only repeats the text above it is left out.
fn causes(error: &CliError) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut next = StdError::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        let above = texts.last().unwrap_or(&error.what);
        if !text.is_empty() && !above.ends_with(text.as_str()) {
            texts.push(text);
        }
        next = cause.source();
    }
    texts
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl StdError for CliError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<drivers::driver::DriverError> for CliError {
    fn from(error: drivers::driver::DriverError) -> Self {
        use drivers::driver::ErrorKind;
        let code = match error.kind {
            ErrorKind::Usage => USAGE,
            ErrorKind::Precheck => PRECHECK,
            ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Failed => FAILURE,
        };
        Self { what: error.what, source: error.source, hint: error.hint, code }
    }
}

/// Says what was being done when something failed.
pub(crate) trait Doing<T> {
    /// The error becomes the cause of `what`.
    fn doing(self, what: impl Into<String>) -> Result<T, CliError>;
}

impl<T, E: Into<BoxError>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T, CliError> {
        self.map_err(|source| CliError::new(what).because(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_repeats_the_text_above_it_is_left_out() {
        let error =
            CliError::new("cannot read x: gone").because(CliError::new("gone").because("disk on fire"));
        assert_eq!(error.one_line(), "cannot read x: gone: disk on fire");
    }
}
