//! Changing what a mount allows and whom it tells of mounts below it: by mount_setattr(2), or by mount(2) where
//! the kernel has none.

use super::rootfs::Root;
use hostd_sys::mount::{MountAttr, RDONLY, mount_setattr};
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The way to change mounts.
#[derive(Debug)]
pub(super) enum Way {
    Setattr,
    /// mount(2) takes paths: those in `/proc/self/fd`, whose directory this is, cannot be led astray.
    Remount(OwnedFd),
}

impl Way {
    /// To be found while the host's `/proc` is in reach.
    pub(super) fn find(setattr: bool) -> io::Result<Self> {
        if setattr {
            return Ok(Self::Setattr);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self::Remount(rustix::fs::open("/proc/self/fd", flags, Mode::empty())?))
    }

    /// Changes an attached mount, and those below it when `recursive`. The working directory is `/` then.
    ///
    /// `change.set` may hold [`RDONLY`] alone, and nothing is cleared.
    pub(super) fn change(
        &self,
        root: &Root,
        mount: &OwnedFd,
        change: MountAttr,
        recursive: bool,
    ) -> io::Result<()> {
        let fds = match self {
            Self::Setattr => return mount_setattr(mount.as_fd(), change, recursive),
            Self::Remount(fds) => fds,
        };
        if change.set & !RDONLY != 0 || change.clear != 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let below = if recursive { mounts_below(root, fds, mount)? } else { Vec::new() };
        rustix::process::fchdir(fds)?;
        let changed = remount(mount, &below, change, recursive);
        rustix::process::chdir("/")?;
        changed
    }
}

/// With `/proc/self/fd` as the working directory.
fn remount(mount: &OwnedFd, below: &[OwnedFd], change: MountAttr, recursive: bool) -> io::Result<()> {
    if change.propagation != 0 {
        let mut flags = MountPropagationFlags::from_bits_retain(change.propagation as u32);
        flags.set(MountPropagationFlags::REC, recursive);
        rustix::mount::mount_change(mount.as_raw_fd().to_string(), flags)?;
    }
    if change.set & RDONLY != 0 {
        for fd in std::iter::once(mount).chain(below) {
            let flags = MountFlags::BIND | MountFlags::RDONLY | kept(rustix::fs::fstatvfs(fd)?.f_flag);
            rustix::mount::mount_remount(fd.as_raw_fd().to_string(), flags, c"")?;
        }
    }
    Ok(())
}

/// What a remount would take away if it did not name it.
fn kept(now: StatVfsMountFlags) -> MountFlags {
    use {MountFlags as M, StatVfsMountFlags as S};
    let pairs = [
        (S::NOSUID, M::NOSUID),
        (S::NODEV, M::NODEV),
        (S::NOEXEC, M::NOEXEC),
        (S::NOATIME, M::NOATIME),
        (S::NODIRATIME, M::NODIRATIME),
        (S::RELATIME, M::RELATIME),
    ];
    pairs.into_iter().filter(|(flag, _)| now.contains(*flag)).fold(M::empty(), |all, (_, flag)| all | flag)
}

/// Every mount that stands below another, opened.
fn mounts_below(root: &Root, fds: &OwnedFd, mount: &OwnedFd) -> io::Result<Vec<OwnedFd>> {
    let read = |path: String| {
        let mut text = String::new();
        let file = rustix::fs::openat(fds, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        File::from(file).read_to_string(&mut text).map(|_| text)
    };
    let info = read(format!("../fdinfo/{}", mount.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
    let id = id.ok_or_else(|| io::Error::other("a mount has no number"))?;
    let table = read("../mountinfo".to_owned())?;
    points_below(&table, id)
        .into_iter()
        .map(|path| root.open(&path, OFlags::PATH).map_err(io::Error::from))
        .collect()
}

/// The mount points below the mount of number `id`, from a `/proc/self/mountinfo`.
fn points_below(table: &str, id: &str) -> Vec<String> {
    let rows: Vec<_> = table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            Some((fields.next()?, fields.next()?, fields.nth(2)?))
        })
        .collect();
    let (mut ids, mut points, mut at) = (vec![id], Vec::new(), 0);
    while at < ids.len() {
        for (child, parent, point) in &rows {
            if *parent == ids[at] && !ids.contains(child) {
                ids.push(child);
                points.push(unescape(point));
            }
        }
        at += 1;
    }
    points
}

/// The mount point of the mount that `path` is on.
pub(super) fn mount_point(path: &str) -> io::Result<String> {
    let dir = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", dir.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let row = table.lines().find(|line| line.split(' ').next() == id);
    let point = row.and_then(|line| line.split(' ').nth(4)).map(unescape);
    point.ok_or_else(|| io::Error::other("a mount has no place"))
}

/// Space, tab, newline and backslash stand in mountinfo as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// Whether the kernel has mount_setattr(2).
pub(crate) fn has_setattr() -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::openat(CWD, "/", flags, Mode::empty()) else { return false };
    // It changes nothing.
    match mount_setattr(root.as_fd(), MountAttr::default(), false) {
        Err(error) => error.raw_os_error() != Some(libc::ENOSYS),
        Ok(()) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_are_found_at_every_depth() {
        let table = "20 1 0:1 / / rw - overlay overlay rw\n\
                     31 20 0:2 / /a rw - ext4 /dev/vda rw\n\
                     35 33 0:5 / /a/b/c\\040d rw - tmpfs tmpfs rw\n\
                     33 31 0:3 / /a/b rw - tmpfs tmpfs rw\n\
                     34 20 0:4 / /other rw - tmpfs tmpfs rw\n";
        assert_eq!(points_below(table, "31"), ["/a/b", "/a/b/c d"]);
        assert!(points_below(table, "34").is_empty());
    }
}
