//! Running the program of another OCI runtime: one command of it at a time, with an end in sight.
//!
//! ```text
//! RUNTIME [args] --root <bundle>/runtime --log <bundle>/runtime.log --log-format json COMMAND …
//! ```
//! It is run by a fork of the shim, which may prepare what the command needs (in mounts of its own, where it wants
//! them) before it becomes the program. It dies with the shim. Why it failed stands in its log, or on its stderr.

use super::create::drop_others;
use crate::spec::OciRuntime;
use crate::wire::{self, Attempt, Doing, Failure};
use hostd_sys::fork::{Cloned, SingleThreaded, clone_process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::ffi::CString;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Longest that a command may take; less than what hostd gives the shim for an answer.
const PATIENCE: Duration = Duration::from_secs(40);
/// The same for taking down, which hostd waits less long for.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(5);
/// Most that is kept of what it says.
const LONGEST: usize = 4 << 10;
/// How far from the end its log is read.
const LOG_TAIL: u64 = 64 << 10;
/// Where the log is, in the bundle.
const LOG: &str = "runtime.log";
/// What a runtime finds in its environment.
const ENVIRONMENT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A runtime that is called for one container.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) runtime: OciRuntime,
    /// The container's directory, absolute; the shim's working directory.
    pub(super) bundle: String,
    pub(super) proof: SingleThreaded,
}

/// What a command is given besides its arguments.
#[derive(Default)]
pub(super) struct Given<'a> {
    /// Its standard input, output and error, which the container's process inherits; `/dev/null` and our ear.
    pub(super) stdio: Option<&'a [OwnedFd; 3]>,
    /// Whether what it prepares is mounted for it alone.
    pub(super) own_mounts: bool,
    /// What the preparation needs.
    pub(super) keep: Vec<BorrowedFd<'a>>,
}

impl Caller {
    /// Runs one command that needs nothing.
    pub(super) fn call(&self, command: &[&str]) -> Attempt<()> {
        self.call_with(command, &Given::default(), || Ok(()))
    }

    /// Runs `command` once `prepare` has succeeded, in the process that the runtime is then run by.
    pub(super) fn call_with(
        &self,
        command: &[&str],
        given: &Given<'_>,
        prepare: impl FnOnce() -> Attempt<()>,
    ) -> Attempt<()> {
        let _ = std::fs::remove_file(LOG);
        let (sync, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .doing(|| "make a socket pair".into())?;
        let (ear, mouth) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .doing(|| "make a pipe".into())?;
        let program = self.program(command)?;
        let flags = if given.own_mounts { libc::CLONE_NEWNS } else { 0 };
        let parent = rustix::process::getpid();
        let doing = || format!("fork for {}", self.runtime.name);
        let (pid, pidfd) = match clone_process(self.proof, flags, None).doing(doing)? {
            Cloned::Child => {
                let mut keep = vec![theirs.as_fd(), mouth.as_fd()];
                keep.extend(given.keep.iter().copied());
                keep.extend(given.stdio.into_iter().flatten().map(AsFd::as_fd));
                drop_others(&keep);
                let Err(failure) = prepare().and_then(|()| become_runtime(&program, given, &mouth, parent));
                if let Ok(text) = serde_json::to_vec(&failure) {
                    // When the shim is gone there is nobody to tell.
                    let _ = wire::send_fds(theirs.as_fd(), &text, &[]);
                }
                hostd_sys::fork::exit_now(1)
            }
            Cloned::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop((theirs, mouth));
        let patience = if command[0] == "delete" { PATIENCE_AT_THE_END } else { PATIENCE };
        let ended =
            Listening { sync: Some(sync), ear, said: Vec::new(), failure: None }.until_end(&pidfd, patience);
        let outcome = ended.and_then(|said| self.outcome(&pidfd, &said));
        if outcome.is_err() {
            // What it started and did not take down; all of it, where the command itself did not end.
            let _ = hostd_sys::fork::kill(-pid, libc::SIGKILL);
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        }
        outcome
    }

    /// The program with all its arguments.
    fn program(&self, command: &[&str]) -> Attempt<Vec<CString>> {
        let text =
            |text: &str| CString::new(text).doing(|| format!("pass {text:?} to {}", self.runtime.name));
        let state = format!("{}/runtime", self.bundle);
        let log = format!("{}/{LOG}", self.bundle);
        let path = self.runtime.path.to_string_lossy();
        let common = ["--root", &state, "--log", &log, "--log-format", "json"];
        let args = std::iter::once(&*path).chain(self.runtime.args.iter().map(String::as_str));
        args.chain(common).chain(command.iter().copied()).map(text).collect()
    }

    /// What became of a command that has ended.
    fn outcome(&self, pidfd: &OwnedFd, said: &str) -> Attempt<()> {
        let status = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
            .doing(|| format!("wait for {}", self.runtime.name))?;
        let how = match status.as_ref().map(|status| (status.exit_status(), status.terminating_signal())) {
            Some((Some(0), _)) => return Ok(()),
            Some((Some(code), _)) => format!("exit status {code}"),
            Some((_, Some(signal))) => format!("signal {signal}"),
            _ => "an end that nobody saw".to_owned(),
        };
        let words = last_error(File::open(LOG)).filter(|words| !words.is_empty()).unwrap_or_else(|| {
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            format!("{} did not terminate successfully: {how}{said}", self.runtime.name)
        });
        Err(failure(&words))
    }
}

/// A failure in a runtime's own words.
pub(super) fn failure(words: &str) -> Failure {
    // As Go spells them: clients look for these.
    let message = words
        .replace("No such file or directory", "no such file or directory")
        .replace("Permission denied", "permission denied");
    Failure { code: exit_code(&message), whole: true, ..Failure::new(message) }
}

/// The exit code that Docker reads out of such words: 127 not found, 126 not executable, 0 anything else.
fn exit_code(words: &str) -> i32 {
    let says = |any: &[&str]| any.iter().any(|part| words.contains(part));
    if says(&["executable file not found", "no such file or directory", "not found in $PATH"]) {
        127
    } else if says(&["permission denied", "is a directory", "exec format error"]) {
        126
    } else {
        0
    }
}

/// Becomes the program; returns only when that fails.
fn become_runtime(
    program: &[CString],
    given: &Given<'_>,
    mouth: &OwnedFd,
    parent: Pid,
) -> Attempt<std::convert::Infallible> {
    let doing = || "set up the runtime's process".to_owned();
    // Half-way done, what it does would be nobody's to take down.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).doing(doing)?;
    if rustix::process::getppid() != Some(parent) {
        return Err(Failure::new("the shim is gone"));
    }
    rustix::process::setpgid(None, None).doing(doing)?;
    // The shim's own score must not be the container's.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    rustix::process::umask(Mode::from_raw_mode(0o022));
    hostd_sys::fork::reset_signals();
    match given.stdio {
        Some([stdin, stdout, stderr]) => {
            rustix::stdio::dup2_stdin(stdin).doing(doing)?;
            rustix::stdio::dup2_stdout(stdout).doing(doing)?;
            rustix::stdio::dup2_stderr(stderr).doing(doing)?;
        }
        None => {
            let null =
                rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
            rustix::stdio::dup2_stdin(&null).doing(doing)?;
            rustix::stdio::dup2_stdout(&null).doing(doing)?;
            rustix::io::ioctl_fionbio(mouth, false).doing(doing)?;
            rustix::stdio::dup2_stderr(mouth).doing(doing)?;
        }
    }
    hostd_sys::fork::cloexec_from(3).doing(doing)?;
    let environment = [CString::new(ENVIRONMENT).doing(doing)?];
    let Err(error) = nix::unistd::execve(&program[0], program, &environment);
    Err(Failure {
        whole: true,
        ..Failure::new(format!("cannot run {}: {error}", program[0].to_string_lossy()))
    })
}

/// The shim's side of a running command.
struct Listening {
    /// Brings a failure, or its end when the runtime runs.
    sync: Option<OwnedFd>,
    ear: OwnedFd,
    said: Vec<u8>,
    failure: Option<Failure>,
}

impl Listening {
    /// Waits for the end of the process; what it said on stderr.
    fn until_end(mut self, pidfd: &OwnedFd, patience: Duration) -> Attempt<String> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failure(&format!("it did not end within {} seconds", patience.as_secs())));
            }
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = vec![PollFd::new(pidfd, PollFlags::IN), PollFd::new(&self.ear, PollFlags::IN)];
            fds.extend(self.sync.as_ref().map(|sync| PollFd::new(sync, PollFlags::IN)));
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Failure::new(format!("cannot wait for a runtime: {error}"))),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            if ready.get(2) == Some(&true) {
                self.hear_failure();
            }
            let open = ready[1] && self.hear();
            // An ear that nobody speaks into any more would be ready for ever.
            if ready[0] || (ready[1] && !open && self.wait_deaf(pidfd, deadline)) {
                break;
            }
        }
        self.hear_failure();
        while self.hear() {}
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(String::from_utf8_lossy(&self.said).trim().to_owned()),
        }
    }

    /// Waits for the process alone; whether it has ended.
    fn wait_deaf(&self, pidfd: &OwnedFd, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
    }

    fn hear_failure(&mut self) {
        let Some(sync) = self.sync.take() else { return };
        let mut text = vec![0; LONGEST * 4];
        if let Ok((len @ 1.., _)) = wire::recv_message(sync.as_fd(), &mut text) {
            let garbled = |error| Failure::new(format!("garbled failure: {error}"));
            self.failure = Some(serde_json::from_slice(&text[..len]).unwrap_or_else(garbled));
        }
    }

    /// Reads what it says, and keeps the beginning; whether there may be more.
    fn hear(&mut self) -> bool {
        let mut buffer = [0; 1024];
        match rustix::io::read(&self.ear, &mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(len) => {
                let room = LONGEST - self.said.len();
                self.said.extend_from_slice(&buffer[..len.min(room)]);
                true
            }
        }
    }
}

/// The last error in a runtime's log: lines of JSON with `level` and `msg`, or plain text.
fn last_error(log: std::io::Result<File>) -> Option<String> {
    let mut file = log.ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL))).ok()?;
    let mut text = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut plain = None;
    for line in text.lines().rev().filter(|line| !line.trim().is_empty()) {
        match serde_json::from_str::<serde_json::Value>(line) {
            Ok(entry) if matches!(entry["level"].as_str(), Some("error" | "fatal")) => {
                return entry["msg"].as_str().map(shortened);
            }
            Ok(_) => {}
            Err(_) => plain = plain.or(Some(line)),
        }
    }
    plain.map(shortened)
}

/// At most [`LONGEST`] bytes of it.
fn shortened(text: &str) -> String {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].trim().to_owned()
}

/// Kills and reaps all children: what a runtime that failed has left to its subreaper.
pub(super) fn kill_children() {
    let until = Instant::now() + PATIENCE_AT_THE_END;
    while Instant::now() < until {
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // It may have ended by itself.
            let _ = hostd_sys::fork::kill(pid, libc::SIGKILL);
        }
        match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Err(_) => return,
        }
    }
}

/// Reads what is left in a pipe that nobody may hold open for long: the beginning.
pub(super) fn left_in(pipe: BorrowedFd<'_>) -> String {
    let mut text = vec![0; LONGEST];
    let len = rustix::io::read(pipe, &mut text[..]).unwrap_or(0);
    String::from_utf8_lossy(&text[..len]).trim().to_owned()
}

/// Reads a small file that a runtime was told to write.
pub(super) fn written(path: &str) -> Attempt<String> {
    let doing = || format!("read {path}, which the runtime writes");
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(failure(&format!("it said nothing is wrong, and wrote no {path}")))
        }
        result => result.doing(doing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn logged(text: &str) -> Option<String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        last_error(Ok(file))
    }

    #[test]
    fn the_last_error_of_a_log_is_the_reason() {
        let json = "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"runc create failed: x\"}\n{\"level\":\"debug\",\"msg\":\"bye\"}\n";
        assert_eq!(logged(json).unwrap(), "runc create failed: x");
        assert_eq!(logged("it went wrong\n\n").unwrap(), "it went wrong");
        assert_eq!(logged(""), None);
        assert_eq!(
            logged(&format!("{{\"level\":\"error\",\"msg\":\"{}\"}}", "é".repeat(9000))).unwrap().len(),
            LONGEST
        );
    }

    #[test]
    fn exit_codes_are_read_out_of_the_words() {
        for (words, code) in [
            (
                r#"runc create failed: unable to start container process: exec: "nope": executable file not found in $PATH"#,
                127,
            ),
            ("executable file `nope` not found in $PATH: No such file or directory", 127),
            ("open executable: Permission denied", 126),
            (r#"exec: "/etc": is a directory"#, 126),
            ("cannot set up namespaces", 0),
        ] {
            assert_eq!(failure(words).code, code, "{words}");
        }
        assert!(failure("x: No such file or directory").message.ends_with("no such file or directory"));
    }
}
