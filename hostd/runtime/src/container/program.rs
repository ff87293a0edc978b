//! The last steps before exec: limits, identity, capabilities, the program itself, and the built-in init.

use super::Never;
use super::identity::User;
use super::procfs::{Procfs, Profile};
use crate::capabilities::CapSet;
use crate::spec::Ulimit;
use crate::wire::{Attempt, Doing, Failure};
use hostd_sys::fork::{Cloned, SingleThreaded};
use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::ffi::CString;

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the program may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Privileges<'a> {
    pub(crate) caps: CapSet,
    pub(crate) no_new_privileges: bool,
    /// Compiled system call filter; empty for none.
    pub(crate) seccomp: &'a [u8],
    /// AppArmor profile.
    pub(crate) apparmor: Option<&'a str>,
    /// SELinux label.
    pub(crate) selinux: Option<&'a str>,
}

impl Privileges<'_> {
    /// Becomes the user, with the container's capabilities and what loading the filter needs.
    pub(crate) fn take(&self, user: &User, cwd: &str, profile: &Profile) -> Attempt<()> {
        let doing = || "drop capabilities".to_owned();
        for bit in 0..63 {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            match rustix::thread::capability_is_in_bounding_set(one) {
                Ok(true) if self.caps.0 & (1 << bit) == 0 => {
                    rustix::thread::remove_capability_from_bounding_set(one).doing(doing)?;
                }
                Ok(_) => {}
                // The kernel has no more.
                Err(_) => break,
            }
        }
        // While nothing stands in the way of root; what does, such as a file server, may let the user in.
        let early = change_directory(cwd);
        let become_user = || format!("become user {}:{}", user.uid, user.gid);
        rustix::thread::set_keep_capabilities(true).doing(doing)?;
        let groups: Vec<Gid> = user.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
        rustix::thread::set_thread_groups(&groups).doing(become_user)?;
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).doing(become_user)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).doing(become_user)?;
        rustix::thread::set_keep_capabilities(false).doing(doing)?;
        stay_hidden()?;
        // A filter without no_new_privs takes CAP_SYS_ADMIN, which goes right after.
        let admin = CapabilitySet::SYS_ADMIN.bits();
        let own = rustix::thread::capabilities(None).doing(doing)?.permitted.bits();
        set_caps(CapSet((self.caps_of_user().0 | admin) & own)).doing(doing)?;
        // Under no_new_privs a profile could only be given up for a stricter one.
        profile.take_at_exec()?;
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).doing(|| "set no_new_privs".into())?;
        }
        early.or_else(|_| change_directory(cwd))
    }

    /// What of the container's capabilities its user has: as after execve(2), only root any, so that nobody else is let
    /// past permissions on the way there.
    fn caps_of_user(&self) -> CapSet {
        if rustix::process::geteuid().is_root() { self.caps } else { CapSet::EMPTY }
    }

    /// Loads the filter and leaves the container's capabilities: nothing but exec comes after.
    fn finish(&self) -> Attempt<()> {
        let own = rustix::thread::capabilities(None).doing(|| "read capabilities".into())?.permitted.bits();
        let last = CapSet(self.caps_of_user().0 & own);
        let load = || {
            if self.seccomp.is_empty() {
                return Ok(());
            }
            hostd_sys::fork::load_seccomp(self.seccomp).doing(|| "load the seccomp filter".into())
        };
        let drop_rest = || set_caps(last).doing(|| "set capabilities".into());
        if self.no_new_privileges {
            drop_rest()?;
            load()
        } else {
            load()?;
            drop_rest()
        }
    }
}

/// Keeps a process of ours from being traced by those that have become its like: with another user it is what the kernel's
/// `fs.suid_dumpable` says.
pub(crate) fn stay_hidden() -> Attempt<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .doing(|| "hide from tracers".into())
}

/// Sets the effective and permitted sets; none is inheritable or ambient.
fn set_caps(caps: CapSet) -> rustix::io::Result<()> {
    let set = CapabilitySet::from_bits_retain(caps.0);
    let sets = CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

/// Goes to the working directory and makes sure that it is inside the container (CVE-2024-21626).
fn change_directory(cwd: &str) -> Attempt<()> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    rustix::process::chdir(cwd).map_err(|error| {
        Failure::new(format!("chdir to cwd ({cwd:?}) set in config.json failed: {}", words(error)))
    })?;
    let here = rustix::process::getcwd(Vec::new()).doing(|| "find the working directory".into())?;
    if here.as_bytes().first() == Some(&b'/') {
        Ok(())
    } else {
        Err(Failure::new("current working directory is outside of container mount namespace root"))
    }
}

/// Sets the process's badness for the OOM killer.
pub(crate) fn oom_score(proc: &Procfs, score: i32) -> Attempt<()> {
    // NO_MAGICLINKS lets /proc/self pass: it is an ordinary link.
    proc.write("self/oom_score_adj", &score.to_string()).doing(|| format!("set oom_score_adj to {score}"))
}

/// Sets the resource limits, of this process unless told which.
pub(crate) fn ulimits(of: Option<Pid>, limits: &[Ulimit]) -> Attempt<()> {
    for limit in limits {
        let resource = resource(&limit.name)
            .ok_or_else(|| Failure::new(format!("invalid ulimit type: {}", limit.name)))?;
        let value = |n: i64| u64::try_from(n).ok();
        let wanted = Rlimit { current: value(limit.soft), maximum: value(limit.hard) };
        rustix::process::prlimit(of, resource, wanted)
            .doing(|| format!("set ulimit {} to {}:{}", limit.name, limit.soft, limit.hard))?;
    }
    Ok(())
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name.to_ascii_lowercase().trim_start_matches("rlimit_") {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

/// A program with all that execve(2) takes.
#[derive(Debug)]
pub(crate) struct Program {
    path: CString,
    name: String,
    args: Vec<CString>,
    env: Vec<CString>,
    search: String,
}

impl Program {
    pub(crate) fn prepare(args: &[String], env: &[String], home: &str) -> Attempt<Self> {
        let text = |s: &str| CString::new(s).doing(|| format!("pass {s:?} to the program"));
        let name = args.first().cloned().ok_or_else(|| Failure::new("no command specified"))?;
        let args = args.iter().map(|arg| text(arg)).collect::<Attempt<Vec<_>>>()?;
        let all = environment(env, home).iter().map(|var| text(var)).collect::<Attempt<Vec<_>>>()?;
        // The last of several counts, as with Docker.
        let search = env.iter().rev().find_map(|var| var.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        Ok(Self { path: CString::default(), name, args, env: all, search: search.to_owned() })
    }

    /// Finds the program, as the user that it is to run as.
    pub(crate) fn look_up(mut self) -> Attempt<Self> {
        if self.name.contains('/') {
            executable(&self.name).map_err(|error| match error {
                Errno::NOENT | Errno::NOTDIR => {
                    cannot_exec(127, &self.name, &format!("stat {}: {}", self.name, words(error)))
                }
                error => cannot_exec(126, &self.name, words(error)),
            })?;
            self.path = CString::new(self.name.as_str()).doing(|| "exec".into())?;
            return Ok(self);
        }
        let mut refused = false;
        for dir in self.search.split(':') {
            let path = format!("{}/{}", if dir.is_empty() { "." } else { dir }, self.name);
            match executable(&path) {
                Ok(()) if !self.name.is_empty() => {
                    self.path = CString::new(path).doing(|| "exec".into())?;
                    return Ok(self);
                }
                Err(Errno::ACCESS) => refused = true,
                _ => {}
            }
        }
        Err(if refused && !self.name.is_empty() {
            cannot_exec(126, &self.name, "permission denied")
        } else {
            cannot_exec(127, &self.name, "executable file not found in $PATH")
        })
    }

    /// Becomes the program; returns only when that fails.
    pub(crate) fn exec(self, privileges: &Privileges<'_>) -> Attempt<Never> {
        rustix::process::umask(Mode::from_raw_mode(0o022));
        hostd_sys::fork::reset_signals();
        hostd_sys::fork::cloexec_from(3).doing(|| "keep descriptors from the program".into())?;
        privileges.finish()?;
        let Err(error) = nix::unistd::execve(&self.path, &self.args, &self.env);
        let error = Errno::from_raw_os_error(error as i32);
        let code = if matches!(error, Errno::NOENT | Errno::NOTDIR) { 127 } else { 126 };
        Err(cannot_exec(code, &self.name, words(error)))
    }
}

/// `env` with what a program expects to find there.
pub(crate) fn environment(env: &[String], home: &str) -> Vec<String> {
    let has = |key: &str| env.iter().any(|e| e.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')));
    let mut all = env.to_vec();
    if !has("PATH") {
        all.push(format!("PATH={DEFAULT_PATH}"));
    }
    if !has("HOME") {
        all.push(format!("HOME={home}"));
    }
    all
}

/// In Docker's words.
fn cannot_exec(code: i32, name: &str, why: &str) -> Failure {
    Failure { code, ..Failure::new(format!("exec: {name:?}: {why}")) }
}

/// Whether a file can be executed.
fn executable(path: &str) -> rustix::io::Result<()> {
    let stat = rustix::fs::stat(path)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Err(Errno::ISDIR);
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

/// An error as Go (and so Docker) words it.
fn words(error: Errno) -> &'static str {
    match error {
        Errno::NOENT => "no such file or directory",
        Errno::NOTDIR => "not a directory",
        Errno::ACCESS => "permission denied",
        Errno::ISDIR => "is a directory",
        Errno::NOEXEC => "exec format error",
        Errno::TOOBIG => "argument list too long",
        Errno::LOOP => "too many levels of symbolic links",
        Errno::NAMETOOLONG => "file name too long",
        Errno::TXTBSY => "text file busy",
        Errno::PERM => "operation not permitted",
        Errno::NOMEM => "cannot allocate memory",
        _ => "input/output error",
    }
}

/// Forks: the child goes on to the program, and process 1 stays behind as init, which forwards signals,
/// reaps, and ends as the program did. It may do no more than the program.
pub(crate) fn become_init(
    proof: SingleThreaded,
    profile: &Profile,
    privileges: &Privileges<'_>,
) -> Attempt<()> {
    use nix::sys::signal::SigSet;
    SigSet::all().thread_block().doing(|| "block signals".into())?;
    let child = match hostd_sys::fork::clone_process(proof, 0, None).doing(|| "start under init".into())? {
        Cloned::Child => return Ok(()),
        Cloned::Parent { pid, .. } => pid,
    };
    // It executes nothing, at which it could change. What goes wrong here nobody hears any more.
    if profile.take_now().is_err() {
        hostd_sys::fork::exit_now(1);
    }
    // Above all the shim's socket, whose end of file tells that the program runs.
    if hostd_sys::fork::close_inherited(3).is_err() || privileges.finish().is_err() {
        hostd_sys::fork::exit_now(1);
    }
    attend(child)
}

/// Forwards signals, all of which are blocked, to `child`, reaps, and ends as `child` does.
pub(crate) fn attend(child: i32) -> ! {
    const SIGCHLD: i32 = nix::sys::signal::Signal::SIGCHLD as i32;
    loop {
        match hostd_sys::fork::wait_signal() {
            Ok(SIGCHLD) => reap_until(child),
            Ok(signal) => {
                // It may have ended; then SIGCHLD comes next.
                let _ = hostd_sys::fork::kill(child, signal);
            }
            // A filter that does not let it wait.
            Err(_) => hostd_sys::fork::exit_now(1),
        }
    }
}

/// Reaps whatever has ended, and ends as `child` did.
fn reap_until(child: i32) {
    while let Ok(Some((pid, status))) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
        if pid.as_raw_pid() == child {
            hostd_sys::fork::exit_now(exit_code(status));
        }
    }
}

/// 0 to 255, or 128 and the signal.
pub(crate) fn exit_code(status: rustix::process::WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (_, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}
