//! Other OCI runtimes: the shim writes them a bundle, has them build the container and run processes in it, and is
//! the parent of those all the same, because what a runtime leaves behind goes to its subreaper.
//!
//! ```text
//! <bundle>/config.json    written where the root file system can be read: users are looked up there
//! <bundle>/rootfs         the overlay, in the mount namespace of the runtime's `create` and nowhere else
//! <bundle>/netns, userns  likewise: the network namespace and the user namespace, by path
//! <bundle>/shm, part-N    likewise: another container's /dev/shm, and parts of volumes
//! <bundle>/devices        likewise: the device nodes of a container whose root can make none
//! <bundle>/runtime        the runtime's own state (`--root`)
//! <bundle>/runtime.log    what it has to say about its last command
//! ```
//! The container's own mount namespace is a copy of the one of `create`, so the host has no mount to take down,
//! whatever dies. A call keeps the shim from everything else for as long as it takes: some tens of milliseconds.

use super::call::{Caller, Given, failure, kill_children, left_in, written};
use super::create::{OCCUPIED, own_part, pipes, terminal};
use super::log::Logger;
use super::maker::Maker;
use super::pins::{LayerLock, Pins};
use super::server::{Shim, Task};
use super::streams::ProcessStreams;
use crate::capabilities::CapSet;
use crate::cgroup::Cgroup;
use crate::container::identity::{self, User};
use crate::container::rootfs::{self, Make, Root, normal};
use crate::container::{Stdio, devices, mounts, remapped, resize};
use crate::oci::{self, Config, Process};
use crate::spec::{
    ContainerSpec, ExecSpec, IdMap, Labels, Mount, MountKind, NetNs, NsMode, Resources, Stdin, TtySize,
    Ulimit,
};
use crate::wire::{self, Attempt, Doing, Failure};
use crate::{Kernel, Streams};
use hostd_sys::fork::SingleThreaded;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

/// Where a runtime hands over terminals. Relative: the path of a deep exec root is too long for a socket's address.
const CONSOLE: &str = "console.sock";
const PID_FILE: &str = "process.pid";
const PROCESS_FILE: &str = "process.json";
const RESOURCES_FILE: &str = "resources.json";
/// How long a terminal may be under way once the runtime has ended.
const HANDOVER: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// A container whose processes another runtime makes.
#[derive(Debug)]
struct Other {
    caller: Caller,
    id: String,
    caps: CapSet,
    /// Those of a privileged exec.
    all_caps: CapSet,
    no_new_privileges: bool,
    ulimits: Vec<Ulimit>,
    group_add: Vec<String>,
    oom_score_adj: i32,
    apparmor: Option<String>,
    selinux: Labels,
    /// Whose ids its processes have, in a user namespace.
    id_map: Option<IdMap>,
}

/// A part of a volume: runtimes take paths, and one into a volume could be led astray on its way.
#[derive(Debug)]
struct Part {
    source: PathBuf,
    subpath: PathBuf,
    recursive: bool,
    /// Where it is for the runtime, in the bundle.
    place: PathBuf,
}

impl Part {
    /// Has the mounts that are parts of a volume come from the bundle.
    fn take_out(mounts: &mut [Mount], bundle: &str) -> Vec<Self> {
        let mut parts = Vec::new();
        for mount in mounts {
            let MountKind::Bind { source, subpath, recursive, .. } = &mut mount.kind else { continue };
            let Some(subpath) = subpath.take() else { continue };
            let place = PathBuf::from(format!("{bundle}/part-{}", parts.len()));
            let source = std::mem::replace(source, place.clone());
            parts.push(Self { source, subpath, recursive: *recursive, place });
        }
        parts
    }

    fn put_in_place(&self) -> Attempt<()> {
        let Self { source, subpath, recursive, place } = self;
        let doing = || format!("mount {}", place.display());
        let fd = mounts::clone_source(source, Some(subpath), *recursive)?;
        if rootfs::is_dir(&fd).doing(doing)? {
            fs::create_dir(place).doing(doing)?;
        } else {
            fs::write(place, "").doing(doing)?;
        }
        let at = rustix::fs::open(place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
        rootfs::move_to(&fd, &at).doing(doing)
    }
}

/// Namespaces that were made before, or are another container's.
#[derive(Debug)]
struct Joined<'a> {
    net: Option<&'a OwnedFd>,
    user: Option<&'a OwnedFd>,
}

impl<'a> Joined<'a> {
    fn fds(&self) -> Vec<BorrowedFd<'a>> {
        [self.net, self.user].into_iter().flatten().map(AsFd::as_fd).collect()
    }

    /// Gives them paths in the bundle: the network's and the user's.
    fn put_in_place(&self, place: &dyn Fn(&str) -> String) -> Attempt<(Option<String>, Option<String>)> {
        let put = |fd: Option<&OwnedFd>, name: &str| {
            let Some(fd) = fd else { return Ok(None) };
            let path = place(name);
            let doing = || format!("give a namespace the path {path}");
            fs::write(&path, "").doing(doing)?;
            rustix::mount::mount_bind(format!("/proc/self/fd/{}", fd.as_raw_fd()), &path).doing(doing)?;
            Ok(Some(path))
        };
        Ok((put(self.net, "netns")?, put(self.user, "userns")?))
    }
}

/// What stands beside the spec of a container to create.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) caller: Caller,
    pub(super) caps: CapSet,
    pub(super) kernel: Kernel,
    pub(super) cgroup: Cgroup,
    /// The cgroup, as the runtime is told it.
    pub(super) cgroup_path: String,
    pub(super) listener: UnixListener,
}

/// Has the runtime build the container up to its exec. On error nothing is left behind.
pub(super) fn create(mut spec: ContainerSpec, setting: Setting) -> Attempt<Shim> {
    let Setting { caller, caps, kernel, cgroup, cgroup_path, listener } = setting;
    // Before anything is started: a child that ends at once must not be missed.
    let signals = super::server::child_signals()?;
    let log = Logger::open(&spec.log, SingleThreaded::verify().doing(|| "fork".into())?)?;
    let other = Other {
        caller,
        id: spec.id.clone(),
        caps: own_part(caps)?,
        all_caps: own_part(CapSet::all())?,
        no_new_privileges: spec.no_new_privileges,
        ulimits: spec.ulimits.clone(),
        group_add: spec.group_add.clone(),
        oom_score_adj: spec.oom_score_adj.unwrap_or(0),
        apparmor: spec.apparmor.clone(),
        id_map: spec.id_map.clone(),
        selinux: spec.selinux.clone(),
    };
    let parts = Part::take_out(&mut spec.mounts, &other.caller.bundle);
    let netns = match std::mem::replace(&mut spec.namespaces.net, NetNs::Host) {
        NetNs::Host => None,
        NetNs::Fd(fd) => Some(fd),
    };
    let user = spec.namespaces.user.take();
    let joined = Joined { net: netns.as_ref(), user: user.as_ref() };
    let layer = LayerLock::take_within(&spec.rootfs, OCCUPIED)?;
    let built = other
        .first_process(&spec, &parts, kernel, &cgroup_path, &joined)
        .and_then(|made| Ok((Pins::hold(made.0, layer)?, made)));
    let (pins, (pid, pidfd, mut streams)) = built.inspect_err(|_| {
        // The error that counts is the first one.
        let _ = other.caller.call(&["delete", "--force", &other.id]);
        kill_children();
        let _ = cgroup.remove();
    })?;
    streams.stdin_once = spec.stdin == Stdin::Once;
    streams.log = log;
    streams.scratch.clone_from(&spec.scratch);
    let container = Task::new(spec.id, pid, pidfd, streams);
    Ok(Shim::new(container, cgroup, Box::new(other), signals, listener, pins, spec.namespaces.pid))
}

impl Other {
    fn first_process(
        &self,
        spec: &ContainerSpec,
        parts: &[Part],
        kernel: Kernel,
        cgroup: &str,
        joined: &Joined<'_>,
    ) -> Attempt<(i32, OwnedFd, ProcessStreams)> {
        for dir in ["rootfs", "shm", "runtime"] {
            fs::create_dir(dir).doing(|| format!("make {dir} in the bundle"))?;
        }
        if let Some(map) = &spec.id_map {
            // Whom the runtime becomes before it goes to the root file system.
            let (_, gid) = remapped::root_of(map)?;
            let doing = || "open the bundle to the container's root".to_owned();
            rustix::fs::chown(".", None, Some(gid)).doing(doing)?;
            rustix::fs::chmod(".", Mode::from_raw_mode(0o710)).doing(doing)?;
        }
        let nodes = devices::gather(spec);
        let bundle = &self.caller.bundle;
        let prepare = || {
            let place = |name: &str| format!("{bundle}/{name}");
            rootfs::cut_off(spec, bundle)?;
            drop(rootfs::mount(&spec.rootfs, kernel, &place("rootfs"))?);
            let (netns, userns) = joined.put_in_place(&place)?;
            let shm = place("shm");
            parts.iter().try_for_each(Part::put_in_place)?;
            let bound_devices = match &spec.id_map {
                Some(map) => devices::bring(&nodes, map, spec.selinux.mount(), &place("devices"))?,
                None => Vec::new(),
            };
            let foreign_shm = spec.namespaces.ipc != NsMode::Private && !mounts::replaced(spec, "/dev/shm");
            if foreign_shm {
                let fd = mounts::foreign_shm(spec.namespaces.ipc)?;
                rootfs::move_to(&fd, Root::at(&shm)?.fd()).doing(|| "mount /dev/shm".into())?;
            }
            let root = Root::at(&place("rootfs"))?;
            as_root(spec, || mounts::marks(&root))?;
            let user = identity::resolve(&root, &spec.user, &spec.group_add)?;
            as_root(spec, || make_cwd(&root, spec))?;
            let config = Config {
                spec,
                kernel,
                caps: self.caps,
                user: &user,
                nodes: if spec.id_map.is_some() { &[] } else { &nodes },
                bound_devices: &bound_devices,
                rootfs: &place("rootfs"),
                cgroup,
                netns: netns.as_deref(),
                userns: userns.as_deref(),
                shm: foreign_shm.then_some(&shm),
            };
            write_json(&place("config.json"), &config.oci()?)?;
            // On the way the working directory may have changed.
            rustix::process::chdir(bundle.as_str()).doing(|| format!("enter {bundle}"))
        };
        let command = ["create", "--bundle", bundle, "--pid-file", PID_FILE];
        let wanted = Wanted {
            tty: spec.tty,
            size: spec.console_size,
            stdin: spec.stdin != Stdin::Null,
            out: true,
            err: true,
        };
        let given = Given { own_mounts: true, keep: joined.fds(), ..Given::default() };
        self.process("create", &command, wanted, given, prepare).map_err(|failure| match failure {
            failure if failure.whole => Failure {
                message: format!(
                    "failed to create task for container: failed to create shim task: {}",
                    failure.message
                ),
                ..failure
            },
            own => own,
        })
    }

    /// Has the runtime start a process and takes it over: its pid, its descriptor, its stdio.
    fn process(
        &self,
        what: &str,
        command: &[&str],
        wanted: Wanted,
        given: Given<'_>,
        prepare: impl FnOnce() -> Attempt<()>,
    ) -> Attempt<(i32, OwnedFd, ProcessStreams)> {
        let _ = fs::remove_file(PID_FILE);
        let console = if wanted.tty { Some(Console::listen()?) } else { None };
        let (mut streams, stdio) = if wanted.tty {
            (ProcessStreams::default(), None)
        } else {
            match pipes(wanted.stdin, wanted.out, wanted.err, self.id_map.as_ref())? {
                (ours, Stdio::Pipes(theirs)) => (ours, Some(theirs)),
                (ours, Stdio::Terminal(_)) => (ours, None),
            }
        };
        let mut all = command.to_vec();
        if console.is_some() {
            all.extend(["--console-socket", CONSOLE]);
        }
        all.push(&self.id);
        let called = self.caller.call_with(&all, &Given { stdio: stdio.as_ref(), ..given }, prepare);
        drop(stdio);
        called.map_err(|failure| in_words(what, failure, &streams))?;
        let pid = written(PID_FILE)?;
        let number = pid.trim().parse().ok().filter(|pid| *pid > 1);
        let number: i32 = number.ok_or_else(|| failure(&format!("it wrote {:?} as a pid", pid.trim())))?;
        // A child that has ended is there until it is reaped, and its number with it.
        let pidfd = Pid::from_raw(number)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
            .doing(|| format!("open process {number}, which {} has started", self.caller.runtime.name))?;
        if let Some(console) = console {
            streams = console.take(wanted.size).and_then(|master| terminal(master, wanted.stdin))?;
        }
        Ok((number, pidfd, streams))
    }

    fn call(&self, what: &str, command: &[&str]) -> Attempt<()> {
        self.caller.call(command).map_err(|failure| in_words(what, failure, &ProcessStreams::default()))
    }
}

impl Maker for Other {
    fn start(&mut self, _container: &Task) -> Attempt<()> {
        self.call("start", &["start", &self.id])
    }

    fn exec(
        &mut self,
        spec: &ExecSpec,
        attach: Option<Streams>,
        container: &Task,
        _cgroup: &Cgroup,
    ) -> Attempt<Task> {
        let wants = attach.unwrap_or(Streams { stdin: false, stdout: false, stderr: false });
        let init = container.pid;
        let prepare = || {
            let root = Root::at(&format!("/proc/{init}/root"))?;
            let user = identity::resolve(&root, &spec.user, &self.group_add)?;
            write_json(PROCESS_FILE, &self.exec_process(spec, &user).oci())
        };
        let command = ["exec", "--detach", "--process", PROCESS_FILE, "--pid-file", PID_FILE];
        let wanted = Wanted {
            tty: spec.tty,
            size: spec.console_size,
            stdin: spec.stdin && (spec.tty || wants.stdin),
            out: wants.stdout,
            err: wants.stderr,
        };
        let made = self.process("exec", &command, wanted, Given::default(), prepare);
        // It holds an environment, and with it secrets.
        let _ = fs::remove_file(PROCESS_FILE);
        let (pid, pidfd, mut streams) = made?;
        streams.stdin_once = true;
        Ok(Task::new(spec.id.clone(), pid, pidfd, streams))
    }

    fn kill(&mut self, signal: i32, container: &Task) -> Attempt<()> {
        let asked = self.call("kill", &["kill", &self.id, &signal.to_string()]);
        if asked.is_err() && signal == libc::SIGKILL {
            // A runtime that is out of order must not keep it alive.
            return hostd_sys::fork::pidfd_send_signal(container.pidfd.as_fd(), signal)
                .doing(|| "kill the container".into());
        }
        asked
    }

    fn freeze(&mut self, frozen: bool, _cgroup: &Cgroup) -> Attempt<()> {
        let command = if frozen { "pause" } else { "resume" };
        self.call(command, &[command, &self.id])
    }

    fn update(&mut self, resources: &Resources, _cgroup: &Cgroup) -> Attempt<()> {
        write_json(RESOURCES_FILE, &oci::resources(resources))?;
        self.call("update", &["update", "--resources", RESOURCES_FILE, &self.id])
    }

    fn ended(&mut self) {
        if let Err(failure) = self.call("delete", &["delete", "--force", &self.id]) {
            eprintln!("hostd shim: {}", failure.message);
        }
    }
}

impl Other {
    fn exec_process<'a>(&'a self, spec: &'a ExecSpec, user: &'a User) -> Process<'a> {
        Process {
            args: &spec.args,
            env: &spec.env,
            cwd: &spec.cwd,
            user,
            tty: spec.tty,
            console_size: spec.console_size,
            caps: if spec.privileged { self.all_caps } else { self.caps },
            no_new_privileges: self.no_new_privileges,
            ulimits: &self.ulimits,
            oom_score_adj: self.oom_score_adj,
            apparmor: self.apparmor.as_deref().map(|own| if spec.privileged { "unconfined" } else { own }),
            selinux: self.selinux.process(),
        }
    }
}

/// Which stdio a process is to have.
#[derive(Clone, Copy)]
struct Wanted {
    tty: bool,
    size: Option<TtySize>,
    stdin: bool,
    out: bool,
    err: bool,
}

/// What failed, in Docker's words around the runtime's; what the runtime said into the process's stderr where it
/// said nothing else.
fn in_words(what: &str, failure: Failure, streams: &ProcessStreams) -> Failure {
    if !failure.whole {
        return failure;
    }
    let message = &failure.message;
    let more = match streams.stderr() {
        Some(pipe) if message.contains(" did not terminate successfully") => left_in(pipe),
        _ => String::new(),
    };
    let colon = if more.is_empty() { "" } else { ": " };
    Failure { message: format!("OCI runtime {what} failed: {message}{colon}{more}"), ..failure }
}

/// Makes files as the container's root would, whose they then are.
fn as_root(spec: &ContainerSpec, make: impl FnOnce() -> Attempt<()>) -> Attempt<()> {
    use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
    let Some(map) = &spec.id_map else { return make() };
    let (uid, gid) = remapped::root_of(map)?;
    // This process becomes the runtime, which is to be the host's root.
    let (own_gid, own_uid) = (setfsgid(Gid::from_raw(gid.as_raw())), setfsuid(Uid::from_raw(uid.as_raw())));
    let made = make();
    setfsuid(own_uid);
    setfsgid(own_gid);
    made
}

/// Makes the working directory where it is missing and no mount will bring it.
fn make_cwd(root: &Root, spec: &ContainerSpec) -> Attempt<()> {
    let cwd = normal(&spec.cwd);
    let mounted = spec.mounts.iter().any(|mount| cwd.starts_with(&normal(&mount.destination)));
    let own = matches!(cwd.first(), Some(&("proc" | "sys" | "dev")));
    if mounted || own { Ok(()) } else { root.place(&format!("/{}", cwd.join("/")), Make::Dir).map(drop) }
}

/// Environments hold secrets, and the bundle may be open to others.
fn write_json(path: &str, value: &serde_json::Value) -> Attempt<()> {
    let mut options = fs::File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(value.to_string().as_bytes())).doing(|| format!("write {path}"))
}

/// The socket that a terminal's master is handed over on.
struct Console {
    listener: UnixListener,
}

impl Console {
    fn listen() -> Attempt<Self> {
        let _ = fs::remove_file(CONSOLE);
        let listener = UnixListener::bind(CONSOLE).doing(|| format!("listen on {CONSOLE}"))?;
        Ok(Self { listener })
    }

    /// The master, which the runtime has sent before it ended.
    fn take(self, size: Option<TtySize>) -> Attempt<OwnedFd> {
        let late = || failure("it handed over no terminal");
        let arrives = |fd: &dyn AsFd| {
            poll(&mut [PollFd::new(&fd.as_fd(), PollFlags::IN)], Some(&HANDOVER)).is_ok_and(|ready| ready > 0)
        };
        if !arrives(&self.listener) {
            return Err(late());
        }
        let (connection, _) = self.listener.accept().doing(|| "take over the terminal".into())?;
        if !arrives(&connection) {
            return Err(late());
        }
        // Beside the descriptor comes its name, of which nobody here makes use.
        let mut name = [0; 4096];
        let fds = wire::recv_fds(connection.as_fd(), &mut name).doing(|| "take over the terminal".into())?;
        let master =
            fds.and_then(|mut fds| fds.pop()).filter(|fd| rustix::termios::isatty(fd)).ok_or_else(late)?;
        if let Some(size) = size {
            resize(master.as_fd(), size).doing(|| "set the terminal's size".into())?;
        }
        Ok(master)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(CONSOLE);
    }
}

impl Caller {
    /// For the container whose bundle is the working directory.
    pub(super) fn new(runtime: crate::spec::OciRuntime, bundle: String) -> Attempt<Self> {
        let proof = SingleThreaded::verify().doing(|| "fork".into())?;
        Ok(Self { runtime, bundle, proof })
    }
}
