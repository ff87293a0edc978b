//! Runs the program `nft`: one process per batch (2-3 ms), which is killed when it does not end in time.

use crate::error::NetworkError;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Far more than it ever takes; it waits for other programs that change the rules.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much of what it says is read.
const WORDS: u64 = 16 << 10;

/// Has it do `batch`, all of it or nothing.
pub(crate) fn run(batch: &str) -> Result<(), NetworkError> {
    let stdin = memory(batch.as_bytes()).map_err(NetworkError::NftRun)?;
    let ended = command(Command::new("nft").args(["-f", "-"]).stdin(stdin), PATIENCE)?;
    match ended.status.success() {
        true => Ok(()),
        false => Err(NetworkError::Nft(ended.stderr.split_whitespace().collect::<Vec<_>>().join(" "))),
    }
}

/// What it prints, if it succeeds.
pub(crate) fn list(args: &[&str]) -> Option<String> {
    let ended = command(Command::new("nft").args(args).stdin(Stdio::null()), PATIENCE).ok()?;
    ended.status.success().then_some(ended.stdout)
}

struct Ended {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

/// Runs it to its end. What goes in and comes out are files in memory and no pipes, so that there is nothing to wait for
/// but the process.
fn command(command: &mut Command, patience: Duration) -> Result<Ended, NetworkError> {
    let files = || io::Result::Ok((memory(&[])?, memory(&[])?));
    let (mut stdout, mut stderr) = files().map_err(NetworkError::NftRun)?;
    let copies = || io::Result::Ok((stdout.try_clone()?, stderr.try_clone()?));
    let (out, err) = copies().map_err(NetworkError::NftRun)?;
    let child = command.stdout(out).stderr(err).spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => NetworkError::NftMissing,
        _ => NetworkError::NftRun(e),
    })?;
    let status = end(child, patience)?;
    Ok(Ended { status, stdout: words(&mut stdout), stderr: words(&mut stderr) })
}

/// Waits for it; kills it when it does not end within `patience`.
fn end(mut child: Child, patience: Duration) -> Result<ExitStatus, NetworkError> {
    // It is not waited for yet, so the number is its own, even when it has ended.
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
        .map_err(|e| NetworkError::NftRun(e.into()))?;
    if !ends(&pidfd, patience).map_err(NetworkError::NftRun)? {
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        // One that hangs in the kernel does not even heed this; somebody has to wait for it all the same.
        std::thread::spawn(move || child.wait());
        return Err(NetworkError::NftTime(patience));
    }
    child.wait().map_err(NetworkError::NftRun)
}

/// Whether the process ends within `patience`.
fn ends(pidfd: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

/// A file in memory with `bytes` in it, to be read from its start.
fn memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("nft", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

fn words(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind().and_then(|()| file.take(WORDS).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed_and_one_that_ends_is_heard() {
        let mut hangs = Command::new("sleep");
        hangs.arg("1000").stdin(Stdio::null());
        let error = command(&mut hangs, Duration::from_millis(300)).err().unwrap();
        assert!(matches!(error, NetworkError::NftTime(_)), "{error}");

        let mut ends = Command::new("sh");
        ends.args(["-c", "cat; echo no >&2; exit 3"]).stdin(memory(b"said").unwrap());
        let ended = command(&mut ends, PATIENCE).unwrap();
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("said", "no\n"));
        assert_eq!(ended.status.code(), Some(3));
    }
}
