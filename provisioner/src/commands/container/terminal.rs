//! The user's terminal: raw mode, its size, and the keys that leave a session.

use crate::error::CliError;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::IsTerminal;
use std::str::FromStr;

/// The terminal hands every key to the container while this lives, and is itself again when it is dropped: on a return,
/// on an error, and on a panic.
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Switches standard input, which must be a terminal.
    pub(crate) fn enter() -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that has gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Columns and rows of the terminal, where there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Refuses a container terminal that is to be typed into where there is none on our side.
pub(crate) fn check_input(tty: bool, stdin: bool) -> Result<(), CliError> {
    if tty && stdin && !std::io::stdin().is_terminal() {
        return Err(CliError::new("the input device is not a TTY").hint("leave out -t when piping input"));
    }
    Ok(())
}

/// The keys that leave a session while its container runs on: `ctrl-p,ctrl-q`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl FromStr for DetachKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = |name: &str| match (name.as_bytes(), name.strip_prefix("ctrl-").map(str::as_bytes)) {
            ([one], _) => Ok(*one),
            (_, Some([letter @ (b'a'..=b'z' | b'@' | b'['..=b'_')])) => {
                Ok(letter.to_ascii_uppercase() - b'@')
            }
            _ => Err(format!("Unknown character: '{name}'")),
        };
        Ok(Self(text.split(',').map(key).collect::<Result<_, _>>()?))
    }
}

/// Looks for the detach keys in what is typed, and holds back what may become them.
pub(crate) struct DetachWatch {
    keys: DetachKeys,
    seen: usize,
}

impl DetachWatch {
    /// Nothing typed yet.
    pub(crate) fn new(keys: DetachKeys) -> Self {
        Self { keys, seen: 0 }
    }

    /// What is to be sent on, and whether the keys are complete.
    pub(crate) fn typed(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut send = Vec::with_capacity(input.len());
        for &byte in input {
            if self.keys.0[self.seen] == byte {
                self.seen += 1;
                if self.seen == self.keys.0.len() {
                    return (send, true);
                }
                continue;
            }
            send.extend_from_slice(&self.keys.0[..self.seen]);
            self.seen = usize::from(self.keys.0[0] == byte);
            if self.seen == 0 {
                send.push(byte);
            }
        }
        (send, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_read_as_docker_reads_them() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(DetachKeys::default()));
        assert_eq!("ctrl-@,a".parse(), Ok(DetachKeys(vec![0, b'a'])));
        assert_eq!("ctrl-]".parse(), Ok(DetachKeys(vec![0x1d])));
        assert!("ctrl-ä".parse::<DetachKeys>().is_err());
        assert!("".parse::<DetachKeys>().is_err());
    }

    #[test]
    fn detach_keys_are_found_across_reads_and_everything_else_is_sent() {
        let mut watch = DetachWatch::new(DetachKeys::default());
        assert_eq!(watch.typed(b"ls\x10"), (b"ls".to_vec(), false));
        assert_eq!(watch.typed(b"x\x10\x10"), (b"\x10x\x10".to_vec(), false));
        assert_eq!(watch.typed(b"\x11after"), (Vec::new(), true));
    }
}
