//! What the running kernel can do, found out by trying.

use crate::RuntimeError;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::FsOpenFlags;
use rustix::process::PidfdFlags;
use rustix::thread::ThreadNameSpaceType;
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;

/// Ways of the kernel for which there is a substitute. (close_range(2), of Linux 5.11, has one too; where that is
/// needed, the call tells.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Overlay takes its layers one by one (`lowerdir+`, Linux 6.8).
    pub single_layers: bool,
    /// Mounts are changed by descriptor (mount_setattr(2), Linux 5.12).
    pub mount_setattr: bool,
}

impl Kernel {
    /// Makes do without all of them; for tests.
    pub const OLDEST: Self = Self { single_layers: false, mount_setattr: false };

    /// The kernel we run on.
    pub fn detect() -> Self {
        Self {
            single_layers: takes_single_layers(),
            mount_setattr: crate::container::attributes::has_setattr(),
        }
    }

    /// Refuses a kernel that lacks what has no substitute: openat2(2) and the mount API (Linux 5.6), and
    /// setns(2) with a pidfd (5.8).
    pub(crate) fn require() -> Result<(), RuntimeError> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let openat2 = rustix::fs::openat2(CWD, ".", flags, Mode::empty(), ResolveFlags::IN_ROOT);
        let fsopen = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC);
        let trials = [
            (openat2.err() != Some(Errno::NOSYS), "openat2(2)"),
            (fsopen.err() != Some(Errno::NOSYS), "fsopen(2)"),
            (enters_by_pidfd(), "setns(2) with a pidfd"),
        ];
        let Some((_, lacks)) = trials.iter().find(|(works, _)| !works) else { return Ok(()) };
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Err(RuntimeError::Other(format!(
            "this kernel (Linux {release}) is too old to run containers: it lacks {lacks}; Linux 5.8 has it"
        )))
    }
}

/// Tried without a mount, of whose refusal an older kernel would write to its log.
fn takes_single_layers() -> bool {
    let Ok(context) = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) else { return false };
    // Before Linux 6.5 overlay's options are looked at no earlier than by the mount: anything is taken till then.
    let looks_at_options = rustix::mount::fsconfig_set_flag(&context, "no-such-option").is_err();
    looks_at_options && rustix::mount::fsconfig_set_string(&context, "lowerdir+", "/").is_ok()
}

/// Tried on the namespace that this thread is in anyway.
fn enters_by_pidfd() -> bool {
    let own = ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    match rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()) {
        Ok(pidfd) => rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), own) != Err(Errno::INVAL),
        Err(error) => error != Errno::NOSYS,
    }
}
