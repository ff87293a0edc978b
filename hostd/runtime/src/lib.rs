//! OCI runtime: specs, the shim, namespaces, cgroups, seccomp.
//!
//! - **spec** ([`spec::ContainerSpec`]): what a container is to be, as the engine asks for it;
//! - **shim**: a small process per container, hostd's binary called with [`SHIM_ARG`]; the container's parent
//!   and owner of its stdio, log and exit status, so that containers do not depend on a running hostd;
//! - **bundle**: a container's directory below the exec root, with the shim's socket and the exit status.
//!
//! ```text
//! Runtime::create ── spec, netns ──▶ shim ── clone ──▶ first process: namespaces, mounts, user … waits
//! Container::start ─────────────────▶ shim ── "go" ──▶ execve
//! Container::attach, exec ──────────▶ shim ◀─ pipes or terminal ─▶ processes     shim ──▶ log file
//! Container::wait ◀── exit status ── shim ──▶ exit.json, ends; its cgroup is gone
//! ```
//! The shim's supervisor task in hostd notices when a shim dies of itself, and then kills and reports the
//! container. It needs Linux 5.8 (setns(2) with a pidfd); for what is newer there are substitutes ([`Kernel`]).

pub mod apparmor;
pub mod capabilities;
pub mod cdi;
pub mod cgroup;
mod client;
mod container;
mod dbus;
pub mod hooks;
mod init;
mod kernel;
mod oci;
pub mod seccomp;
pub mod selinux;
mod shim;
pub mod spec;
mod state;
mod supervisor;
pub mod userns;
mod view;
mod wire;

pub use client::{Container, Exec, ExecHandle, FoundExec};
pub use container::devices::expand as expand_devices;
pub use hostd_sys::socket::unread_by_peer;
pub use init::{INIT_PATH, init_main, is_init};
pub use kernel::Kernel;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
pub use supervisor::Runtime;
use time::OffsetDateTime;
pub use view::{Access, View};

/// Where the runtime keeps things.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Where bundles, shim sockets and exit files live (`--exec-root`); a tmpfs is fine.
    pub exec_root: PathBuf,
    /// The program that becomes the shim when called with [`SHIM_ARG`] first; normally `/proc/self/exe`.
    pub shim_exe: PathBuf,
    /// Who makes the containers' cgroups.
    pub cgroup_driver: cgroup::Driver,
    /// Cgroup (below each hierarchy's root) in which containers get theirs, or a slice of systemd's.
    pub cgroup_parent: String,
    /// Runtime and period of real-time scheduling for all containers, in microseconds (cgroup v1); 0 is the kernel's.
    pub realtime: (i64, i64),
}

/// First argument that turns this program into a shim: call [`shim_main`] before anything else, threads above all.
pub const SHIM_ARG: &str = "shim";

/// Is the shim; never returns.
pub fn shim_main() -> ! {
    shim::main()
}

/// What went wrong with a container.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The program could not be executed: exit code 127 (not found) or 126 (found, not executable), Docker's message.
    #[error("{message}")]
    Exec {
        /// 126 or 127.
        code: i32,
        /// In Docker's words.
        message: String,
    },
    /// The container's cgroup.
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
    /// The container's system call filter.
    #[error(transparent)]
    Seccomp(#[from] seccomp::SeccompError),
    /// What could not be done, on this side of the shim.
    #[error("{what}")]
    Failed {
        /// What was being done, and to what.
        what: String,
        /// Why it could not be done.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is wrong with the request, or what the shim says in Docker's words.
    #[error("{0}")]
    Other(String),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 + signal when killed by one.
    pub code: i32,
    /// Whether the kernel killed one of the container's processes for want of memory.
    pub oom_killed: bool,
    /// When it ended.
    pub at: OffsetDateTime,
}

/// What became of a container while the daemon was away.
#[derive(Debug)]
pub enum Found {
    /// It runs.
    Running(Container),
    /// It has ended; 137 also where its shim was killed, and what was left of it has been killed.
    Exited(Exit),
    /// There is no such container, or it was never started and is no more.
    Gone,
}

/// Which of a process's streams a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Write to its stdin.
    pub stdin: bool,
    /// Read its stdout, or its terminal.
    pub stdout: bool,
    /// Read its stderr.
    pub stderr: bool,
}
