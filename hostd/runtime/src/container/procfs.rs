//! The host's procfs, as the process that becomes the container's sees it before it turns to the container's root.
//!
//! What is written to a process's own files and to kernel parameters goes through here and never through the
//! container's `/proc`: what stands there an image, a volume or another container may have put in place of a
//! procfs, and a write that is to confine the process would go elsewhere (CVE-2025-52881, CVE-2019-19921). Files
//! of `self` are those of whoever opens them, and parameters those of its namespaces, whichever procfs it is.

use super::rootfs::{PROC_MAGIC, must_be};
use crate::wire::{Attempt, Doing};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::os::fd::OwnedFd;

/// A procfs that nothing in a container can reach or change.
#[derive(Debug)]
pub(crate) struct Procfs(OwnedFd);

impl Procfs {
    /// To be opened while `/proc` is the host's.
    pub(crate) fn open() -> Attempt<Self> {
        let doing = || "open /proc of the host".to_owned();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open("/proc", flags, Mode::empty()).doing(doing)?;
        must_be(&dir, PROC_MAGIC).doing(doing)?;
        Ok(Self(dir))
    }

    /// Opens a file for writing; no link but `self`, and no mount, leads away.
    pub(crate) fn open_file(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(&self.0, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Writes a value in one piece, as procfs wants it.
    pub(crate) fn write(&self, path: &str, value: &str) -> rustix::io::Result<()> {
        rustix::io::write(self.open_file(path)?, value.as_bytes()).map(drop)
    }
}

/// The AppArmor profile that the program is to run under.
#[derive(Debug)]
pub(crate) struct Profile {
    name: String,
    exec: OwnedFd,
    current: OwnedFd,
}

impl Profile {
    /// Opens what takes the profile's name.
    pub(crate) fn open(proc: &Procfs, name: &str) -> Attempt<Self> {
        // The second is where kernels before 5.8 have it.
        let attribute = |name: &str| {
            let path = format!("self/attr/apparmor/{name}");
            proc.open_file(&path)
                .or_else(|_| proc.open_file(&format!("self/attr/{name}")))
                .doing(|| format!("open /proc/{path}"))
        };
        Ok(Self { name: name.to_owned(), exec: attribute("exec")?, current: attribute("current")? })
    }

    /// Has the next exec change to it.
    pub(crate) fn take_at_exec(&self) -> Attempt<()> {
        self.write(&self.exec, "exec")
    }

    /// Changes to it now.
    pub(crate) fn take_now(&self) -> Attempt<()> {
        self.write(&self.current, "changeprofile")
    }

    fn write(&self, file: &OwnedFd, how: &str) -> Attempt<()> {
        let text = format!("{how} {}", self.name);
        let written = rustix::io::write(file, text.as_bytes());
        written.map(drop).doing(|| format!("apply apparmor profile: apparmor profile {:?}", self.name))
    }
}
