//! Cloning the container's first process, and further ones: hostd's own runtime.

use super::call::Caller;
use super::log::Logger;
use super::maker::Maker;
use super::other;
use super::pins::{LayerLock, Pins};
use super::server::{Shim, Task};
use super::streams::{CHUNK, ProcessStreams};
use crate::capabilities::CapSet;
use crate::cgroup::{Cgroup, CgroupError};
use crate::container::program::{self, Privileges};
use crate::container::remapped::FORKED;
use crate::container::{self, ExecSetup, GO, HOOKS, HookSite, READY, START, Setup, Stdio};
use crate::hooks::{Kind, Runner};
use crate::spec::{ContainerSpec, ExecSpec, IdMap, Labels, NetNs, NsMode, Stdin, Ulimit};
use crate::wire::{self, Attempt, Create, Doing, Failure, chain};
use crate::{Kernel, Streams};
use hostd_sys::fork::{Cloned, SingleThreaded, clone_process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::pipe::PipeFlags;
use rustix::process::{WaitId, WaitIdOptions};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// How long a process may take from one step of its making to the next: it may have been stopped, by one that sees it, or
/// its files do not answer. Less than what hostd gives the shim for an answer.
const PATIENCE: Duration = Duration::from_secs(40);
/// The same for a further process, whom all in the container see.
const PATIENCE_WITH_EXECS: Duration = Duration::from_secs(20);
/// How long a layer may be in use by others; less than what hostd gives the shim for the making of a container.
pub(super) const OCCUPIED: Duration = Duration::from_secs(100);
/// How long the end of a process is waited for.
const DYING: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// What the container's processes may do.
#[derive(Debug)]
struct Privileged {
    caps: CapSet,
    no_new_privileges: bool,
    seccomp: Vec<u8>,
    apparmor: Option<String>,
    selinux: Labels,
    oom_score_adj: i32,
    ulimits: Vec<Ulimit>,
    /// Groups that their users are in besides.
    group_add: Vec<String>,
    /// Whose ids they have, in a user namespace.
    id_map: Option<IdMap>,
}

/// hostd's own runtime: processes are forks of the shim.
#[derive(Debug)]
struct Own {
    privileged: Privileged,
    proof: SingleThreaded,
    /// To the first process until it is started.
    sync: Option<OwnedFd>,
    /// Where the container has hooks.
    hooks: Option<Runner>,
}

/// Builds the container up to its exec. On error nothing is left behind.
pub(super) fn create(request: Create, seccomp: Vec<u8>, fds: Vec<OwnedFd>) -> Attempt<Shim> {
    let Create { mut spec, bundle, cgroup_parent, cgroup_driver, netns, userns, caps, kernel } = request;
    let mut fds = fds.into_iter();
    if netns {
        spec.namespaces.net =
            NetNs::Fd(fds.next().ok_or_else(|| Failure::new("the network namespace got lost"))?);
    }
    if userns {
        let fd = fds.next().ok_or_else(|| Failure::new("the user namespace got lost"))?;
        spec.namespaces.user = Some(fd);
    }
    std::env::set_current_dir(&bundle).doing(|| format!("enter {bundle}"))?;
    // A relative path: that of a deep exec root would be too long for a socket's address.
    let listener = UnixListener::bind("shim.sock").doing(|| "listen on shim.sock".into())?;
    spec.devices = container::devices::expand(&spec.devices).map_err(Failure::new)?;
    if let Some(runtime) = spec.runtime.take() {
        let setting = other::Setting {
            caller: Caller::new(runtime, bundle)?,
            caps: CapSet(caps),
            kernel,
            cgroup: Cgroup::open_by(cgroup_driver, &cgroup_parent, &spec.id),
            cgroup_path: cgroup_driver.oci_path(&cgroup_parent, &spec.id),
            listener,
        };
        return other::create(spec, setting);
    }
    let runner = hooks_of(&spec, bundle)?;
    let site = runner.as_ref().map(|runner| (runner, cgroup_driver.oci_path(&cgroup_parent, &spec.id)));
    let cgroup = Cgroup::open_by(cgroup_driver, &cgroup_parent, &spec.id);
    let ready = if cgroup.needs_process() {
        Ok(())
    } else {
        Cgroup::create(&cgroup_parent, &spec.id)
            .and_then(|cgroup| cgroup.apply(&spec.resources, spec.privileged, &spec.devices))
    };
    let made = ready.map_err(|e| Failure::new(chain(&e))).and_then(|()| {
        let privileged = Privileged {
            caps: CapSet(caps),
            no_new_privileges: spec.no_new_privileges,
            seccomp,
            apparmor: spec.apparmor.clone(),
            selinux: spec.selinux.clone(),
            oom_score_adj: spec.oom_score_adj.unwrap_or(0),
            ulimits: spec.ulimits.clone(),
            group_add: spec.group_add.clone(),
            id_map: spec.id_map.clone(),
        };
        let site = site.as_ref().map(|(runner, cgroup)| HookSite { runner, cgroup });
        first_process(spec, privileged, kernel, &cgroup, listener, site)
    });
    if made.is_err() {
        if let Some(runner) = &runner {
            runner.run_all(Kind::Poststop, 0);
        }
        // The error that counts is the first one.
        let _ = cgroup.remove();
    }
    made
}

/// The capabilities among these that we have ourselves: a runtime may refuse to give away others.
pub(super) fn own_part(caps: CapSet) -> Attempt<CapSet> {
    let own = rustix::thread::capabilities(None).doing(|| "read our capabilities".into())?;
    Ok(CapSet(caps.0 & own.permitted.bits()))
}

/// The container's hooks, where it has any.
fn hooks_of(spec: &ContainerSpec, bundle: String) -> Attempt<Option<Runner>> {
    if spec.hooks.is_empty() {
        return Ok(None);
    }
    let proof = SingleThreaded::verify().doing(|| "fork".into())?;
    let (hooks, id, annotations) = (spec.hooks.clone(), spec.id.clone(), spec.annotations.clone());
    Ok(Some(Runner { hooks, id, bundle, annotations, proof }))
}

fn first_process(
    mut spec: ContainerSpec,
    privileged: Privileged,
    kernel: Kernel,
    cgroup: &Cgroup,
    listener: UnixListener,
    hooks: Option<HookSite<'_>>,
) -> Attempt<Shim> {
    let proof = SingleThreaded::verify().doing(|| "fork".into())?;
    // Before the clone: a child that ends at once must not be missed.
    let signals = super::server::child_signals()?;
    let log = Logger::open(&spec.log, proof)?;
    let (mut streams, stdio) = if spec.tty {
        (ProcessStreams::default(), Stdio::Terminal(spec.console_size))
    } else {
        pipes(spec.stdin != Stdin::Null, true, true, spec.id_map.as_ref())?
    };
    let join = foreign_namespaces(&spec)?;
    let layer = LayerLock::take_within(&spec.rootfs, OCCUPIED)?;
    let netns = match std::mem::replace(&mut spec.namespaces.net, NetNs::Host) {
        NetNs::Host => None,
        NetNs::Fd(fd) => Some(fd),
    };
    let user = spec.namespaces.user.take().zip(spec.id_map.clone());
    let (sync, theirs) = sync_pair(PATIENCE)?;
    // What an earlier run has left in the place of one that is made later is about to go.
    let enters = !cgroup.needs_process();
    let dir = if enters { into(cgroup)? } else { None };
    let setup = Setup {
        spec: &spec,
        privileges: privileged.borrow(),
        kernel,
        netns,
        join,
        cgroup: cgroup.mounts_for_container(),
        enters: (enters && cgroup.has_door()).then_some(cgroup),
        outside: None,
        stdio,
        sync: theirs,
        proof,
        hooks,
    };
    let doing = || "clone the container's first process".to_owned();
    // In a user namespace the first process is cloned by one that is there for this alone.
    let flags = if user.is_some() { 0 } else { container::clone_flags(&spec) };
    let cloned = clone_process(proof, flags, dir.as_ref().map(AsFd::as_fd));
    if spec.namespaces.pid != NsMode::Private && !matches!(cloned, Ok(Cloned::Child)) {
        fork_at_home()?;
    }
    let (mut pid, mut pidfd) = match cloned.doing(doing)? {
        Cloned::Child => {
            let mut keep: Vec<BorrowedFd<'_>> = vec![setup.sync.as_fd()];
            keep.extend(setup.netns.as_ref().map(AsFd::as_fd));
            keep.extend(setup.join.iter().map(|(_, fd)| fd.as_fd()));
            keep.extend(stdio_fds(&setup.stdio));
            keep.extend(user.as_ref().map(|(fd, _)| fd.as_fd()));
            drop_others(&keep);
            match user {
                Some((user, map)) => container::remapped::fork(setup, &map, user),
                None => container::run(setup),
            }
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(setup);
    if user.is_some() {
        (pid, pidfd, _) = await_first(&sync, &pidfd)?;
        privileged.limit(pid).inspect_err(|_| end(&pidfd))?;
    }
    let pins = Pins::hold(pid, layer).map_err(|error| {
        end(&pidfd);
        // When it had ended before, it said why, and that is the cause.
        await_exec(&sync).err().unwrap_or(error)
    })?;
    let master = settle(
        || {
            if cgroup.needs_process() {
                cgroup.start(pid, &spec.resources, spec.privileged, &spec.devices)
            } else {
                Ok(())
            }
        },
        || {
            hooks.map_or(Ok(()), |site| {
                site.runner.run(Kind::Prestart, pid).and_then(|()| site.runner.run(Kind::CreateRuntime, pid))
            })
        },
        &sync,
        &pidfd,
    )?;
    if let Some(master) = master {
        streams = terminal(master, spec.stdin != Stdin::Null)?;
    }
    streams.stdin_once = spec.stdin == Stdin::Once;
    streams.log = log;
    streams.scratch.clone_from(&spec.scratch);
    let container = Task::new(spec.id, pid, pidfd, streams);
    let maker = Own { privileged, proof, sync: Some(sync), hooks: hooks.map(|site| site.runner.clone()) };
    Ok(Shim::new(container, cgroup.clone(), Box::new(maker), signals, listener, pins, spec.namespaces.pid))
}

impl Maker for Own {
    fn start(&mut self, container: &Task) -> Attempt<()> {
        let sync = self.sync.take().ok_or_else(|| Failure::new("the container was started before"))?;
        wire::send_fds(sync.as_fd(), &[START], &[]).doing(|| "start the container's process".into())?;
        await_exec(&sync).inspect_err(|_| {
            // As a rule it says why and ends.
            if !ends(&container.pidfd) {
                kill(&container.pidfd);
            }
        })?;
        if let Some(runner) = &self.hooks {
            runner.run_all(Kind::Poststart, container.pid);
        }
        Ok(())
    }

    fn ended(&mut self) {
        if let Some(runner) = &self.hooks {
            runner.run_all(Kind::Poststop, 0);
        }
    }

    fn exec(
        &mut self,
        spec: &ExecSpec,
        attach: Option<Streams>,
        container: &Task,
        cgroup: &Cgroup,
    ) -> Attempt<Task> {
        exec(spec, attach, self, container, cgroup)
    }
}

/// Starts a further process in the container, whose first one is `container`.
fn exec(
    spec: &ExecSpec,
    attach: Option<Streams>,
    own: &Own,
    container: &Task,
    cgroup: &Cgroup,
) -> Attempt<Task> {
    let wants = attach.unwrap_or(Streams { stdin: false, stdout: false, stderr: false });
    let (mut streams, stdio) = if spec.tty {
        (ProcessStreams::default(), Stdio::Terminal(spec.console_size))
    } else {
        let map = own.privileged.id_map.as_ref();
        pipes(spec.stdin && wants.stdin, wants.stdout, wants.stderr, map)?
    };
    let (sync, theirs) = sync_pair(PATIENCE_WITH_EXECS)?;
    let mut privileges = own.privileged.borrow();
    privileges.caps = container::exec_caps(privileges.caps, spec.privileged);
    if spec.privileged {
        privileges.seccomp = &[];
        privileges.apparmor = privileges.apparmor.map(|_| "unconfined");
    }
    let (init, dir) = (container.pidfd.as_fd(), into(cgroup)?);
    let setup = ExecSetup {
        spec,
        privileges,
        init,
        pids: open_namespace(container.pid, "pid")?,
        enters: cgroup.has_door().then_some(cgroup),
        stdio,
        sync: theirs,
        remapped: own.privileged.id_map.is_some(),
        oom_score_adj: own.privileged.oom_score_adj,
        ulimits: &own.privileged.ulimits,
        group_add: &own.privileged.group_add,
        proof: own.proof,
    };
    let cloned = clone_beside(container.pid, own.proof, cgroup, dir.as_ref());
    let (pid, entering) = match cloned.doing(|| "clone a process".into())? {
        Cloned::Child => {
            let mut keep = vec![setup.sync.as_fd(), setup.pids.as_fd(), init];
            keep.extend(stdio_fds(&setup.stdio));
            drop_others(&keep);
            container::run_exec(setup)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(setup);
    if own.privileged.id_map.is_some() {
        own.privileged.limit(pid).inspect_err(|_| end(&entering))?;
    }
    if let Err(error) = wire::send_fds(sync.as_fd(), &[GO], &[]).doing(|| "let the process go on".into()) {
        end(&entering);
        // When it had ended before, it said why, and that is the cause.
        return Err(await_exec(&sync).err().unwrap_or(error));
    }
    let (pid, pidfd, master) = await_first(&sync, &entering)?;
    if let Some(master) = master {
        streams = terminal(master, spec.stdin)?;
    }
    streams.stdin_once = true;
    await_exec(&sync).inspect_err(|_| end(&pidfd))?;
    Ok(Task::new(spec.id.clone(), pid, pidfd, streams))
}

/// Has what is forked from now on live in our own pid namespace again: whatever else the shim forks (what compresses its
/// log) is a process of the host's root, and not for a container to see, stop or trace.
fn fork_at_home() -> Attempt<()> {
    let doing = || "leave the container's pid namespace".to_owned();
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    rustix::thread::move_into_thread_name_spaces(own.doing(doing)?.as_fd(), ThreadNameSpaceType::PROCESS_ID)
        .doing(doing)
}

/// What a process of the container's is cloned into.
fn into(cgroup: &Cgroup) -> Attempt<Option<OwnedFd>> {
    cgroup.dir_fd().map_err(|error| Failure::new(chain(&error)))
}

/// Clones a process into `dir`, the container's cgroup of v2, or into the one that its `first` process is in: where that
/// is an engine or an init system which passes controllers on, it has gone down into a cgroup of its own, as what passes
/// them on takes no process any more.
fn clone_beside(
    first: i32,
    proof: SingleThreaded,
    cgroup: &Cgroup,
    dir: Option<&OwnedFd>,
) -> std::io::Result<Cloned> {
    match clone_process(proof, 0, dir.map(AsFd::as_fd)) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => {
            let deeper = cgroup.dir_fd_of(first).ok_or(error)?;
            clone_process(proof, 0, Some(deeper.as_fd()))
        }
        cloned => cloned,
    }
}

/// Leaves the child of a fork with what it needs.
pub(super) fn drop_others(keep: &[BorrowedFd<'_>]) {
    if hostd_sys::fork::close_all_but(keep).is_err() {
        hostd_sys::fork::exit_now(1);
    }
}

fn stdio_fds(stdio: &Stdio) -> Vec<BorrowedFd<'_>> {
    match stdio {
        Stdio::Pipes(fds) => fds.iter().map(AsFd::as_fd).collect(),
        Stdio::Terminal(_) => Vec::new(),
    }
}

/// Lets a fresh child go on once it is placed, and waits until it is built; its terminal's master.
fn settle(
    place: impl FnOnce() -> Result<(), CgroupError>,
    hooks: impl FnMut() -> Attempt<()>,
    sync: &OwnedFd,
    pidfd: &OwnedFd,
) -> Attempt<Option<OwnedFd>> {
    let told = place()
        .map_err(|e| Failure::new(chain(&e)))
        .and_then(|()| wire::send_fds(sync.as_fd(), &[GO], &[]).doing(|| "let the process go on".into()));
    let built = match told {
        Ok(()) => await_ready(sync, hooks),
        Err(error) => {
            kill(pidfd);
            // When it had ended before, it said why, and that is the cause.
            Err(await_exec(sync).err().unwrap_or(error))
        }
    };
    built.inspect_err(|_| end(pidfd))
}

/// Waits for a process that another forks for us, the first one in a user namespace or one that has entered, and reaps
/// that other; the master of its terminal, where it has one.
fn await_first(sync: &OwnedFd, forker: &OwnedFd) -> Attempt<(i32, OwnedFd, Option<OwnedFd>)> {
    let mut text = vec![0; LONGEST];
    let mut fds = Vec::new();
    let got = receive(sync, &mut text, &mut fds);
    // It has nothing more to do, whatever it said.
    end(forker);
    let got = got?;
    let mut fds = fds.into_iter();
    match (&text[..got], fds.next()) {
        ([FORKED], Some(pidfd)) => match pid_of(&pidfd) {
            Ok(pid) => Ok((pid, pidfd, fds.next())),
            Err(error) => {
                end(&pidfd);
                Err(error)
            }
        },
        ([], _) => Err(Failure::new("the process ended before it had entered")),
        (text, _) => Err(failure(text)),
    }
}

/// The pid behind a descriptor, as our own pid namespace counts: who sent it may live in another.
fn pid_of(pidfd: &OwnedFd) -> Attempt<i32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).doing(|| format!("read {path}"))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or_else(|| Failure::new("the container's first process ended early"))
}

/// Kills a child of ours and reaps it; one that is stuck in the kernel is reaped later, with all others.
fn end(pidfd: &OwnedFd) {
    kill(pidfd);
    if ends(pidfd) {
        let _ = rustix::process::waitid(
            WaitId::PidFd(pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
    }
}

/// Waits for the end of a process, but not for ever; whether it has come.
fn ends(pidfd: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&DYING)).is_ok_and(|ready| ready > 0)
}

/// Kills a process that may have ended by itself.
fn kill(pidfd: &OwnedFd) {
    let _ = hostd_sys::fork::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
}

/// Longest message of a process that is being built.
const LONGEST: usize = 16 << 10;

/// Waits for a process to be built, and runs `hooks` when it asks for them; the master of its terminal, where it has one.
fn await_ready(sync: &OwnedFd, mut hooks: impl FnMut() -> Attempt<()>) -> Attempt<Option<OwnedFd>> {
    loop {
        let mut text = vec![0; LONGEST];
        let mut fds = Vec::new();
        let got = receive(sync, &mut text, &mut fds)?;
        match text[..got] {
            [] => return Err(Failure::new("the process ended while it was built")),
            [READY] => return Ok(fds.pop()),
            [HOOKS] => {
                hooks()?;
                wire::send_fds(sync.as_fd(), &[GO], &[]).doing(|| "let the process go on".into())?;
            }
            _ => return Err(failure(&text[..got])),
        }
    }
}

/// Waits for exec(2): its success closes the socket.
fn await_exec(sync: &OwnedFd) -> Attempt<()> {
    let mut text = vec![0; LONGEST];
    match receive(sync, &mut text, &mut Vec::new())? {
        0 => Ok(()),
        got => Err(failure(&text[..got])),
    }
}

fn failure(text: &[u8]) -> Failure {
    serde_json::from_slice(text).unwrap_or_else(|error| Failure::new(format!("garbled failure: {error}")))
}

/// One message and its length; 0 at the end.
fn receive(sync: &OwnedFd, text: &mut [u8], fds: &mut Vec<OwnedFd>) -> Attempt<usize> {
    let doing = || "hear from the process".to_owned();
    let (len, received) = match wire::recv_message(sync.as_fd(), text) {
        // It ended without reading all that it was told; what it said itself comes after that.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {
            wire::recv_message(sync.as_fd(), text).doing(doing)?
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            return Err(Failure::new(
                "the process does not get on: it is stopped, or its files do not answer",
            ));
        }
        result => result.doing(doing)?,
    };
    fds.extend(received);
    Ok(len)
}

/// A pair of sockets that keep messages apart. On the first a message is waited for only so long.
fn sync_pair(patience: Duration) -> Attempt<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .and_then(|(ours, theirs)| {
            sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(patience))?;
            Ok((ours, theirs))
        })
        .doing(|| "make a socket pair".into())
}

/// Pipes for what is wanted and `/dev/null` for the rest: our ends, and the process's. They belong to the container's
/// root, who may then give them away.
pub(super) fn pipes(
    stdin: bool,
    stdout: bool,
    stderr: bool,
    map: Option<&IdMap>,
) -> Attempt<(ProcessStreams, Stdio)> {
    let (stdin_read, stdin_write) = pipe_or_null(stdin, true)?;
    let (stdout_write, stdout_read) = pipe_or_null(stdout, false)?;
    let (stderr_write, stderr_read) = pipe_or_null(stderr, false)?;
    if let Some(map) = map {
        let (uid, gid) = container::remapped::root_of(map)?;
        for (wanted, pipe) in [(stdin, &stdin_read), (stdout, &stdout_write), (stderr, &stderr_write)] {
            if wanted {
                rustix::fs::fchown(pipe, Some(uid), Some(gid)).doing(|| "give a pipe away".into())?;
            }
        }
    }
    let ours = ProcessStreams::pipes(stdin_write, stdout_read, stderr_read);
    Ok((ours, Stdio::Pipes([stdin_read, stdout_write, stderr_write])))
}

/// The process's end and ours, which does not block.
fn pipe_or_null(wanted: bool, process_reads: bool) -> Attempt<(OwnedFd, Option<OwnedFd>)> {
    let doing = || "make a pipe".to_owned();
    if !wanted {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        return Ok((null.doing(|| "open /dev/null".into())?, None));
    }
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(doing)?;
    let (theirs, ours) = if process_reads { (read, write) } else { (write, read) };
    rustix::io::ioctl_fionbio(&ours, true).doing(doing)?;
    if !process_reads {
        // Fewer turns between the two; where there is a limit below it, a pipe as usual will do.
        let _ = rustix::pipe::fcntl_setpipe_size(&ours, CHUNK);
    }
    Ok((theirs, Some(ours)))
}

pub(super) fn terminal(master: OwnedFd, stdin: bool) -> Attempt<ProcessStreams> {
    let doing = || "take over the terminal".to_owned();
    rustix::io::ioctl_fionbio(&master, true).doing(doing)?;
    ProcessStreams::terminal(master, stdin).doing(doing)
}

fn open_namespace(pid: i32, name: &str) -> Attempt<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{name}");
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(|| format!("open {path}"))
}

/// Namespaces of other containers. That of pids works on the children of the process that enters it.
fn foreign_namespaces(spec: &ContainerSpec) -> Attempt<Vec<(LinkNameSpaceType, OwnedFd)>> {
    let ns = &spec.namespaces;
    let mut join = Vec::new();
    if let NsMode::Of(pid) = ns.pid {
        let fd = open_namespace(pid, "pid")?;
        rustix::thread::move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::ProcessID))
            .doing(|| "join another container's pid namespace".into())?;
    }
    let others = [
        (ns.ipc, "ipc", LinkNameSpaceType::InterProcessCommunication),
        (ns.uts, "uts", LinkNameSpaceType::HostNameAndNISDomainName),
        (ns.cgroup, "cgroup", LinkNameSpaceType::ControlGroup),
    ];
    for (mode, name, kind) in others {
        if let NsMode::Of(pid) = mode {
            join.push((kind, open_namespace(pid, name)?));
        }
    }
    Ok(join)
}

impl Privileged {
    /// Sets the limits of a process that could not do so itself.
    fn limit(&self, pid: i32) -> Attempt<()> {
        let path = format!("/proc/{pid}/oom_score_adj");
        std::fs::write(&path, self.oom_score_adj.to_string()).doing(|| format!("write {path}"))?;
        program::ulimits(rustix::process::Pid::from_raw(pid), &self.ulimits)
    }

    fn borrow(&self) -> Privileges<'_> {
        Privileges {
            caps: self.caps,
            no_new_privileges: self.no_new_privileges,
            seccomp: &self.seccomp,
            apparmor: self.apparmor.as_deref(),
            selinux: self.selinux.process(),
        }
    }
}
