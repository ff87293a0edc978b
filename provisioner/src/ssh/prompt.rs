//! Asking for a passphrase on the terminal, even where stdin is something else.

use rustix::termios::{self, LocalModes, OptionalActions};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};

/// What the user typed, unseen; `None` where there is no terminal.
pub(crate) fn secret(question: &str) -> io::Result<Option<String>> {
    let Ok(mut terminal) = File::options().read(true).write(true).open("/dev/tty") else { return Ok(None) };
    write!(terminal, "{question}: ")?;
    let before = termios::tcgetattr(&terminal)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    termios::tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
    let mut line = String::new();
    let read = BufReader::new(&terminal).read_line(&mut line);
    termios::tcsetattr(&terminal, OptionalActions::Flush, &before)?;
    writeln!(terminal)?;
    read?;
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}
