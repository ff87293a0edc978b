//! Running hooks: one after the other, each with an end in sight.

use super::{Hook, Hooks, Kind};
use crate::wire::{Attempt, Doing, Failure};
use hostd_sys::fork::{Cloned, SingleThreaded, clone_process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Longest that the hooks of one kind may take together; less than what the shim gives a container that is built.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same at the end, which hostd waits less long for.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(8);
/// Most that is kept of what one says.
const LONGEST: usize = 4 << 10;
/// What one finds in its environment that is given none.
const ENVIRONMENT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A container's hooks, and what they are told of it.
#[derive(Clone, Debug)]
pub(crate) struct Runner {
    pub(crate) hooks: Hooks,
    pub(crate) id: String,
    /// The container's directory, absolute.
    pub(crate) bundle: String,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) proof: SingleThreaded,
}

impl Runner {
    /// Runs all of a kind, up to the first that fails. `pid` is the container's, as they see it.
    pub(crate) fn run(&self, kind: Kind, pid: i32) -> Attempt<()> {
        let until = Instant::now() + PATIENCE;
        self.hooks.of(kind).iter().try_for_each(|hook| self.run_one(kind, hook, pid, until))
    }

    /// Runs all of a kind whatever becomes of them: what has happened cannot be undone by their failing.
    pub(crate) fn run_all(&self, kind: Kind, pid: i32) {
        let patience = if kind == Kind::Poststop { PATIENCE_AT_THE_END } else { PATIENCE };
        let until = Instant::now() + patience;
        for hook in self.hooks.of(kind) {
            if let Err(failure) = self.run_one(kind, hook, pid, until) {
                eprintln!("hostd shim: warning: {}", failure.message);
            }
        }
    }

    fn run_one(&self, kind: Kind, hook: &Hook, pid: i32, until: Instant) -> Attempt<()> {
        let own = hook.timeout.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        let until = own.and_then(|own| Instant::now().checked_add(own)).map_or(until, |own| own.min(until));
        let failed = |why: String| Failure::new(format!("error running {kind} hook {}: {why}", hook.path));
        let ended = self
            .call(hook, &self.state(kind, pid).to_string().into_bytes(), until)
            .map_err(|failure| failed(failure.message))?;
        match ended {
            Ended { code: Some(0), .. } => Ok(()),
            Ended { how, said, .. } => {
                Err(failed(format!("{how}, stdout and stderr: {:?}", String::from_utf8_lossy(&said).trim())))
            }
        }
    }

    fn state(&self, kind: Kind, pid: i32) -> serde_json::Value {
        state(&self.id, &self.bundle, &self.annotations, kind, pid)
    }

    fn call(&self, hook: &Hook, state: &[u8], until: Instant) -> Attempt<Ended> {
        let doing = || "start it".to_owned();
        let program = Program::of(hook).doing(doing)?;
        let (stdin, input) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(doing)?;
        let (ear, mouth) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(doing)?;
        rustix::io::ioctl_fionbio(&input, true).doing(doing)?;
        rustix::io::ioctl_fionbio(&ear, true).doing(doing)?;
        let (pid, pidfd) = match clone_process(self.proof, 0, None).doing(doing)? {
            Cloned::Child => {
                let why = program.exec(&stdin, &mouth);
                let _ = rustix::io::write(&mouth, why.as_bytes());
                hostd_sys::fork::exit_now(127)
            }
            Cloned::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop((stdin, mouth));
        let mut call = Call { pidfd, input: Some(input), left: state, ear: Some(ear), said: Vec::new() };
        let ended = call.until_end(until);
        if !matches!(ended, Ok(Ended { code: Some(0), .. })) {
            // What it started and did not take down, and itself where it has not ended.
            let _ = hostd_sys::fork::kill(-pid, libc::SIGKILL);
            let _ = hostd_sys::fork::pidfd_send_signal(call.pidfd.as_fd(), libc::SIGKILL);
        }
        if ended.is_err() {
            let _ = call.reap();
        }
        ended
    }
}

/// The container's state, as the specification has it.
fn state(
    id: &str,
    bundle: &str,
    annotations: &BTreeMap<String, String>,
    kind: Kind,
    pid: i32,
) -> serde_json::Value {
    let mut state = serde_json::json!({
        "ociVersion": "1.0.2",
        "id": id,
        "status": kind.status(),
        "bundle": bundle,
        "annotations": annotations,
    });
    if kind != Kind::Poststop {
        state["pid"] = pid.into();
    }
    state
}

/// All that execve(2) takes.
struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    parent: Pid,
}

impl Program {
    fn of(hook: &Hook) -> Result<Self, std::ffi::NulError> {
        let texts = |list: &[String], without: &str| match list {
            [] => Ok(vec![CString::new(without)?]),
            list => list.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>(),
        };
        Ok(Self {
            path: CString::new(hook.path.as_str())?,
            args: texts(&hook.args, &hook.path)?,
            env: texts(&hook.env, ENVIRONMENT)?,
            parent: rustix::process::getpid(),
        })
    }

    /// Becomes the program; returns why that failed.
    fn exec(&self, stdin: &OwnedFd, mouth: &OwnedFd) -> String {
        let set_up = || {
            rustix::process::setpgid(None, None)?;
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() != Some(self.parent) {
                return Err(Errno::SRCH);
            }
            rustix::process::umask(Mode::from_raw_mode(0o022));
            hostd_sys::fork::reset_signals();
            rustix::stdio::dup2_stdin(stdin)?;
            rustix::stdio::dup2_stdout(mouth)?;
            rustix::stdio::dup2_stderr(mouth)
        };
        if let Err(error) = set_up() {
            return format!("cannot set its process up: {error}");
        }
        if let Err(error) = hostd_sys::fork::cloexec_from(3) {
            return format!("cannot keep descriptors from it: {error}");
        }
        let Err(error) = nix::unistd::execve(&self.path, &self.args, &self.env);
        format!("cannot execute it: {}", error.desc())
    }
}

/// How one ended.
struct Ended {
    code: Option<i32>,
    how: String,
    said: Vec<u8>,
}

/// Our side of one that runs.
struct Call<'a> {
    pidfd: OwnedFd,
    /// Where the state goes, until all of it is written.
    input: Option<OwnedFd>,
    left: &'a [u8],
    ear: Option<OwnedFd>,
    said: Vec<u8>,
}

impl Call<'_> {
    fn until_end(&mut self, until: Instant) -> Attempt<Ended> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::new("it did not end in time"));
            }
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            fds.extend(self.ear.as_ref().map(|ear| PollFd::new(ear, PollFlags::IN)));
            fds.extend(self.input.as_ref().map(|input| PollFd::new(input, PollFlags::OUT)));
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).doing(|| "wait for it".into()),
            }
            let over = !fds[0].revents().is_empty();
            drop(fds);
            self.write();
            self.hear();
            if over {
                self.hear();
                return self.reap();
            }
        }
    }

    /// Writes what the pipe takes of the state; one that does not read it is none the worse.
    fn write(&mut self) {
        let Some(input) = &self.input else { return };
        match rustix::io::write(input, self.left) {
            Ok(len) if len < self.left.len() => self.left = &self.left[len..],
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => self.input = None,
        }
    }

    /// Reads all that is there, and keeps the beginning.
    fn hear(&mut self) {
        let mut buffer = [0; 1024];
        while let Some(ear) = &self.ear {
            match rustix::io::read(ear, &mut buffer) {
                Ok(0) => self.ear = None,
                Ok(len) => {
                    let room = LONGEST - self.said.len();
                    self.said.extend_from_slice(&buffer[..len.min(room)]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.ear = None,
            }
        }
    }

    fn reap(&mut self) -> Attempt<Ended> {
        let id = WaitId::PidFd(self.pidfd.as_fd());
        let status = rustix::process::waitid(id, WaitIdOptions::EXITED).doing(|| "wait for it".into())?;
        let code = status.as_ref().and_then(|status| status.exit_status());
        let signal = status.as_ref().and_then(|status| status.terminating_signal());
        let how = match (code, signal) {
            (Some(code), _) => format!("exit status {code}"),
            (_, Some(signal)) => format!("signal {signal}"),
            _ => "an end that nobody saw".to_owned(),
        };
        Ok(Ended { code, how, said: std::mem::take(&mut self.said) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_says_where_the_container_is() {
        let of = |kind| state("x", "/b", &BTreeMap::new(), kind, 7);
        let creating = of(Kind::CreateContainer);
        assert_eq!((&creating["status"], &creating["pid"]), (&"creating".into(), &7.into()));
        assert_eq!((&creating["id"], &creating["bundle"]), (&"x".into(), &"/b".into()));
        let stopped = of(Kind::Poststop);
        assert_eq!((&stopped["status"], stopped.get("pid")), (&"stopped".into(), None));
    }
}
