//! What a command said and how it ended.

use std::fmt;
use std::process::{Command, Output};

/// A finished command.
pub struct Outcome {
    command: String,
    output: Output,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "$ {}\n{}\n--- stdout\n{}--- stderr\n{}",
            self.command,
            self.output.status,
            self.stdout(),
            self.stderr()
        )
    }
}

/// Runs a command to its end.
///
/// # Panics
/// It cannot be started.
pub fn run(command: &mut Command) -> Outcome {
    let text = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ");
    let output = command.output().unwrap_or_else(|error| panic!("cannot start `{text}`: {error}"));
    Outcome { command: text, output }
}

impl Outcome {
    /// Exit code; 128 + signal when killed by one.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let status = self.output.status;
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// All that it printed on stdout.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// All that it printed on stderr.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Stdout without the white space around it, of a command that must succeed.
    #[track_caller]
    pub fn text(self) -> String {
        self.success().stdout().trim().to_owned()
    }

    /// Whether it succeeded.
    pub fn succeeded(&self) -> bool {
        self.output.status.success()
    }

    /// It must have succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        assert!(self.output.status.success(), "should succeed:\n{self:?}");
        self
    }

    /// It must have failed.
    #[track_caller]
    pub fn failure(self) -> Self {
        assert!(!self.output.status.success(), "should fail:\n{self:?}");
        self
    }

    /// It must have ended with this code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "exit code:\n{self:?}");
        self
    }

    /// It must have printed this, on stdout or stderr.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stdout().contains(text) || self.stderr().contains(text),
            "should say {text:?}:\n{self:?}"
        );
        self
    }

    /// It must not have printed this.
    #[track_caller]
    pub fn lacks(self, text: &str) -> Self {
        assert!(
            !self.stdout().contains(text) && !self.stderr().contains(text),
            "should not say {text:?}:\n{self:?}"
        );
        self
    }
}
