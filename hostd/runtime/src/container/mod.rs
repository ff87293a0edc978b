//! What a container's first process does between clone and exec: it builds the container around itself.
//!
//! The steps, in this order: join or make namespaces; mount the root file system and turn to it (from here
//! on no path leads to the host); mount the rest; wait until it is in its cgroup; take on limits, user
//! and capabilities; look the program up; tell the shim that all is ready; wait for the start; load the
//! system call filter; exec. It is a fork of the single-threaded shim, so it may run ordinary code.
//!
//! The host's binary is out of the container's reach: the shim runs from a read-only, detached mount, so
//! that `/proc/self/exe` of a process that has yet to exec cannot be opened for writing (CVE-2019-5736),
//! and processes of ours inside the container are not dumpable. No descriptor of the host lives when the
//! program starts, nor does a working directory outside (CVE-2024-21626).

pub(crate) mod attributes;
pub(crate) mod devices;
mod hooks;
pub(crate) mod identity;
pub(crate) mod mounts;
pub(crate) mod procfs;
pub(crate) mod program;
pub(crate) mod remapped;
pub(crate) mod rootfs;

use crate::Kernel;
use crate::capabilities::CapSet;
use crate::cgroup::{Cgroup, CgroupMount, Door};
use crate::hooks::Kind;
use crate::spec::{ContainerSpec, ExecSpec, NsMode, TtySize, Ulimit};
use crate::wire::{self, Attempt, Doing, Failure};
pub(crate) use hooks::HookSite;
use hooks::own_pid;
use hostd_sys::fork::Cloned;
use nix::sched::CloneFlags;
use procfs::{Procfs, Profile};
use program::{Privileges, Program};
use remapped::{FORKED, Outside};
use rootfs::Root;
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What the shim says to the process, a byte each.
pub(crate) const GO: u8 = b'G';
pub(crate) const START: u8 = b'S';
/// What the process says when hooks are to be run in the host's namespaces; it goes on at [`GO`].
pub(crate) const HOOKS: u8 = b'H';
/// What the process says when all is built; a failure begins with `{`.
pub(crate) const READY: u8 = b'R';

/// The process's ends of its stdio.
#[derive(Debug)]
pub(crate) enum Stdio {
    Pipes([OwnedFd; 3]),
    Terminal(Option<TtySize>),
}

/// What the first process needs besides the spec.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) privileges: Privileges<'a>,
    pub(crate) kernel: Kernel,
    pub(crate) netns: Option<OwnedFd>,
    /// IPC and UTS namespaces of other containers.
    pub(crate) join: Vec<(LinkNameSpaceType, OwnedFd)>,
    pub(crate) cgroup: CgroupMount,
    /// The cgroup to enter where the clone did not put it: in the hierarchies of v1.
    pub(crate) enters: Option<&'a Cgroup>,
    /// What was made before the user namespace was entered.
    pub(crate) outside: Option<Outside>,
    pub(crate) stdio: Stdio,
    pub(crate) sync: OwnedFd,
    pub(crate) proof: hostd_sys::fork::SingleThreaded,
    /// Where there are hooks.
    pub(crate) hooks: Option<HookSite<'a>>,
}

/// Builds the container and execs; reports a failure to the shim and ends.
pub(crate) fn run(setup: Setup<'_>) -> ! {
    let sync = match rustix::io::fcntl_dupfd_cloexec(&setup.sync, 3) {
        Ok(sync) => sync,
        Err(_) => hostd_sys::fork::exit_now(126),
    };
    report(&sync, build(setup).map(|never| match never {}))
}

/// Tells the shim why there is no program, and ends.
fn report(sync: &OwnedFd, result: Attempt<()>) -> ! {
    let failure = result.err().unwrap_or_else(|| Failure::new("the program ended before it began"));
    let code = if failure.code == 0 { 1 } else { failure.code };
    if let Ok(text) = serde_json::to_vec(&failure) {
        // When the shim is gone too there is nobody to tell.
        let _ = wire::send_fds(sync.as_fd(), &text, &[]);
    }
    hostd_sys::fork::exit_now(code)
}

/// Never returns but with a failure.
pub(crate) enum Never {}

fn build(setup: Setup<'_>) -> Attempt<Never> {
    let Setup { spec, privileges, kernel, netns, join, cgroup, enters, outside, stdio, sync, proof, hooks } =
        setup;
    let remapped = outside.is_some();
    rustix::process::setsid().doing(|| "start a session".into())?;
    let proc = Procfs::open()?;
    let profile = Profile::open(&proc, privileges.apparmor, privileges.selinux)?;
    enter_namespaces(spec, netns, join)?;
    let door = enters.map(door).transpose()?;
    let mut outside = outside.map_or_else(|| Outside::of_own(spec), Ok)?;
    (outside.proc, outside.sys) = mounts::views(spec)?;
    let staged = hooks.filter(|site| site.runner.hooks.at_creation());
    let mut root = match staged {
        Some(site) => rootfs::stage(spec, kernel, &site.rootfs()?)?,
        None => rootfs::enter(spec, kernel, outside.root.take())?,
    };
    mounts::marks(&root)?;
    mounts::standard(&root, spec, &mut outside)?;
    devices::make(&root, &outside.nodes)?;
    expect(&sync, GO)?;
    enter_cgroup(door)?;
    // Only now, because the namespace's root is the cgroup that the process is in.
    if spec.namespaces.cgroup == NsMode::Private {
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP).doing(|| "make a cgroup namespace".into())?;
    }
    mounts::cgroups(&root, spec, &cgroup, outside.cgroups.take())?;
    mounts::bind_sources(&root, spec, outside.binds, outside.mqueue)?;
    let (stdio, master) = open_stdio(&root, stdio, true)?;
    if let Some(site) = staged {
        site.run(&sync, &root, spec, &outside.nodes, privileges.caps, kernel)?;
        root = rootfs::turn_to(root, spec)?;
    }
    mounts::sysctls(&proc, spec)?;
    mounts::protect(&root, spec)?;
    // In a user namespace the shim does, since nobody in it may.
    if !remapped {
        program::oom_score(&proc, spec.oom_score_adj.unwrap_or(0))?;
        program::ulimits(None, &spec.ulimits)?;
    }
    let user = identity::resolve(&root, &spec.user, &spec.group_add)?;
    stdio.belong_to(&user);
    mounts::working_directory(&root, &spec.cwd)?;
    let program = Program::prepare(&spec.args, &spec.env, &user.home)?;
    drop((root, proc));
    privileges.take(&user, &spec.cwd, &profile)?;
    let program = program.look_up()?;
    let fds: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
    wire::send_fds(sync.as_fd(), &[READY], &fds).doing(|| "tell the shim".into())?;
    drop(master);
    expect(&sync, START)?;
    if let Some(site) = hooks {
        site.runner.run(Kind::StartContainer, own_pid())?;
    }
    if spec.init {
        program::become_init(proof, &profile, &privileges)?;
    }
    drop(profile);
    stdio.install(spec.init)?;
    program.exec(&privileges)
}

fn door(cgroup: &Cgroup) -> Attempt<Door> {
    cgroup.door().map_err(|error| Failure::new(wire::chain(&error)))
}

fn enter_cgroup(door: Option<Door>) -> Attempt<()> {
    door.map_or(Ok(()), Door::enter).map_err(|error| Failure::new(wire::chain(&error)))
}

/// What a further process needs besides its spec.
#[derive(Debug)]
pub(crate) struct ExecSetup<'a> {
    pub(crate) spec: &'a ExecSpec,
    pub(crate) privileges: Privileges<'a>,
    /// The container's first process.
    pub(crate) init: BorrowedFd<'a>,
    /// The container's pid namespace.
    pub(crate) pids: OwnedFd,
    /// As in [`Setup`].
    pub(crate) enters: Option<&'a Cgroup>,
    pub(crate) stdio: Stdio,
    pub(crate) sync: OwnedFd,
    /// Whether it runs in a user namespace.
    pub(crate) remapped: bool,
    /// The container's.
    pub(crate) oom_score_adj: i32,
    /// The container's.
    pub(crate) ulimits: &'a [Ulimit],
    /// The container's.
    pub(crate) group_add: &'a [String],
    pub(crate) proof: hostd_sys::fork::SingleThreaded,
}

/// Enters the container and forks the process that execs there: into the container's pid namespace, where others see it
/// and with CAP_SYS_PTRACE could take it over, it is born only when all that leads to the host is behind it.
pub(crate) fn run_exec(setup: ExecSetup<'_>) -> ! {
    let sync = match rustix::io::fcntl_dupfd_cloexec(&setup.sync, 3) {
        Ok(sync) => sync,
        Err(_) => hostd_sys::fork::exit_now(126),
    };
    report(&sync, enter(setup).map(|never| match never {}))
}

fn enter(setup: ExecSetup<'_>) -> Attempt<Never> {
    let ExecSetup {
        spec,
        privileges,
        init,
        pids,
        enters,
        stdio,
        sync,
        remapped,
        oom_score_adj,
        ulimits,
        group_add,
        proof,
    } = setup;
    expect(&sync, GO)?;
    enter_cgroup(enters.map(door).transpose()?)?;
    let proc = Procfs::open()?;
    let profile = Profile::open(&proc, privileges.apparmor, privileges.selinux)?;
    let all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::CONTROL_GROUP;
    if remapped {
        remapped::enter(init, all)?;
    } else {
        program::oom_score(&proc, oom_score_adj)?;
        program::ulimits(None, ulimits)?;
        rustix::thread::move_into_thread_name_spaces(init, all)
            .doing(|| "enter the container's namespaces".into())?;
    }
    let root = Root::current()?;
    let (stdio, master) = open_stdio(&root, stdio, false)?;
    let user = identity::resolve(&root, &spec.user, group_add)?;
    stdio.belong_to(&user);
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    let program = Program::prepare(&spec.args, &spec.env, &user.home)?;
    drop((root, proc));
    privileges.take(&user, cwd, &profile)?;
    drop(profile);
    let program = program.look_up()?;
    rustix::thread::move_into_link_name_space(pids.as_fd(), Some(LinkNameSpaceType::ProcessID))
        .doing(|| "enter the container's pid namespace".into())?;
    drop(pids);
    match hostd_sys::fork::clone_sibling(proof, 0).doing(|| "clone a process".into())? {
        Cloned::Child => {}
        Cloned::Parent { pidfd, .. } => {
            let fds: Vec<BorrowedFd<'_>> =
                std::iter::once(pidfd.as_fd()).chain(master.iter().map(AsFd::as_fd)).collect();
            wire::send_fds(sync.as_fd(), &[FORKED], &fds).doing(|| "tell the shim".into())?;
            hostd_sys::fork::exit_now(0)
        }
    }
    drop(master);
    rustix::process::setsid().doing(|| "start a session".into())?;
    stdio.install(false)?;
    program.exec(&privileges)
}

/// Waits for one byte from the shim.
fn expect(sync: &OwnedFd, byte: u8) -> Attempt<()> {
    let mut got = [0];
    match rustix::io::retry_on_intr(|| rustix::io::read(sync, &mut got)) {
        Ok(1) if got[0] == byte => Ok(()),
        // The shim is gone or gives up.
        _ => hostd_sys::fork::exit_now(1),
    }
}

fn enter_namespaces(
    spec: &ContainerSpec,
    netns: Option<OwnedFd>,
    join: Vec<(LinkNameSpaceType, OwnedFd)>,
) -> Attempt<()> {
    for (kind, fd) in join {
        rustix::thread::move_into_link_name_space(fd.as_fd(), Some(kind))
            .doing(|| format!("join the namespace {kind:?} of another container"))?;
    }
    if let Some(fd) = netns {
        rustix::thread::move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))
            .doing(|| "enter the network namespace".into())?;
    }
    if spec.namespaces.uts == NsMode::Private {
        rustix::system::sethostname(spec.hostname.as_bytes())
            .doing(|| format!("set the host name {:?}", spec.hostname))?;
        if !spec.domainname.is_empty() {
            rustix::system::setdomainname(spec.domainname.as_bytes())
                .doing(|| format!("set the domain name {:?}", spec.domainname))?;
        }
    }
    Ok(())
}

/// Stdio as descriptors: 0, 1 and 2 to be.
#[derive(Debug)]
struct OpenStdio {
    fds: Vec<OwnedFd>,
    terminal: bool,
}

/// Opens the terminal where there is one; its master is for the shim.
fn open_stdio(root: &Root, stdio: Stdio, console: bool) -> Attempt<(OpenStdio, Option<OwnedFd>)> {
    let size = match stdio {
        Stdio::Pipes(fds) => return Ok((OpenStdio { fds: fds.into(), terminal: false }, None)),
        Stdio::Terminal(size) => size,
    };
    let doing = || "open a terminal".to_owned();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let pts = root.open("/dev/pts", OFlags::PATH | OFlags::DIRECTORY).doing(doing)?;
    rootfs::must_be(&pts, rootfs::DEVPTS_MAGIC).doing(doing)?;
    let master = rustix::fs::openat(&pts, "ptmx", flags, Mode::empty()).doing(doing)?;
    rustix::pty::unlockpt(&master).doing(doing)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC,
    )
    .doing(doing)?;
    if let Some(size) = size {
        resize(master.as_fd(), size).doing(|| "set the terminal's size".into())?;
    }
    if console {
        mounts::console(root, &slave)?;
    }
    Ok((OpenStdio { fds: vec![slave], terminal: true }, Some(master)))
}

/// Sets a terminal's size.
pub(crate) fn resize(master: BorrowedFd<'_>, size: TtySize) -> rustix::io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size)
}

impl OpenStdio {
    /// Lets the user open `/dev/stdout` and its like.
    fn belong_to(&self, user: &identity::User) {
        for fd in &self.fds {
            let is_null = rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_rdev == devices::NULL);
            if !is_null {
                // One that cannot be given away is still open for reading and writing.
                let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(user.uid)), None);
            }
        }
    }

    /// Makes them 0, 1 and 2; a terminal becomes the session's, a new session's when `session` is asked for.
    fn install(self, session: bool) -> Attempt<()> {
        let doing = || "set up stdio".to_owned();
        if self.terminal {
            if session {
                rustix::process::setsid().doing(doing)?;
            }
            rustix::process::ioctl_tiocsctty(&self.fds[0]).doing(doing)?;
        }
        let at = |i: usize| self.fds.get(i).unwrap_or(&self.fds[0]);
        rustix::stdio::dup2_stdin(at(0)).doing(doing)?;
        rustix::stdio::dup2_stdout(at(1)).doing(doing)?;
        rustix::stdio::dup2_stderr(at(2)).doing(doing)
    }
}

/// All namespaces that the container's first process is cloned into.
pub(crate) fn clone_flags(spec: &ContainerSpec) -> i32 {
    let ns = &spec.namespaces;
    [(ns.pid, libc::CLONE_NEWPID), (ns.ipc, libc::CLONE_NEWIPC), (ns.uts, libc::CLONE_NEWUTS)]
        .into_iter()
        .filter(|(mode, _)| *mode == NsMode::Private)
        .fold(libc::CLONE_NEWNS, |flags, (_, flag)| flags | flag)
}

/// The capabilities of an exec.
pub(crate) fn exec_caps(container: CapSet, privileged: bool) -> CapSet {
    if privileged { CapSet::all() } else { container }
}
