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

/// What the program is to be confined by: an AppArmor profile, an SELinux label, or neither.
#[derive(Debug)]
pub(crate) struct Profile {
    changes: Vec<Change>,
}

/// A change of one security module's attribute, at exec or now, and what is written for it.
#[derive(Debug)]
struct Change {
    what: String,
    exec: (OwnedFd, String),
    current: (OwnedFd, String),
}

impl Profile {
    /// Opens what takes them.
    pub(crate) fn open(proc: &Procfs, apparmor: Option<&str>, selinux: Option<&str>) -> Attempt<Self> {
        let open = |path: &str| proc.open_file(path).doing(|| format!("open /proc/{path}"));
        let mut changes = Vec::new();
        if let Some(name) = apparmor {
            // The second is where kernels before 5.8 have it.
            let attribute = |name: &str| {
                proc.open_file(&format!("self/attr/apparmor/{name}"))
                    .or_else(|_| proc.open_file(&format!("self/attr/{name}")))
                    .doing(|| format!("open /proc/self/attr/apparmor/{name}"))
            };
            changes.push(Change {
                what: format!("apply apparmor profile: apparmor profile {name:?}"),
                exec: (attribute("exec")?, format!("exec {name}")),
                current: (attribute("current")?, format!("changeprofile {name}")),
            });
        }
        if let Some(label) = selinux {
            changes.push(Change {
                what: format!("apply SELinux label {label:?}"),
                exec: (open("self/attr/exec")?, label.to_owned()),
                current: (open("self/attr/current")?, label.to_owned()),
            });
        }
        Ok(Self { changes })
    }

    /// Has the next exec change to it.
    pub(crate) fn take_at_exec(&self) -> Attempt<()> {
        self.changes.iter().try_for_each(|change| change.write(&change.exec))
    }

    /// Changes to it now.
    pub(crate) fn take_now(&self) -> Attempt<()> {
        self.changes.iter().try_for_each(|change| change.write(&change.current))
    }
}

impl Change {
    fn write(&self, (file, text): &(OwnedFd, String)) -> Attempt<()> {
        rustix::io::write(file, text.as_bytes()).map(drop).doing(|| self.what.clone())
    }
}
