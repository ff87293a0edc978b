//! Large files that were replaced, let go of on a thread beside.
//!
//! With the last name or descriptor of a file the kernel frees its blocks and its pages in the cache, which takes about as
//! long as it takes to write as much again. Who holds a descriptor meanwhile can write the successor at once.

use rustix::fs::{FileType, Mode, OFlags, Stat};
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// From this size on it is worth a thread, in bytes.
const LARGE: u64 = 4 << 20;

/// A thread at a time that lets go of a file; it ends before the scope does, and so does all that a file keeps in use.
pub(super) struct Replaced<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    thread: Option<ScopedJoinHandle<'scope, ()>>,
}

impl<'scope, 'env> Replaced<'scope, 'env> {
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>) -> Self {
        Self { scope, thread: None }
    }

    /// Holds the file of that name in `dir`, which is about to be removed to make place for `size` bytes: `None` where it
    /// is not large, has other names, or the disk has no room for both.
    pub(super) fn hold(dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat, size: u64) -> Option<OwnedFd> {
        let is_large = u64::try_from(stat.st_size).is_ok_and(|size| size >= LARGE);
        if !is_large || stat.st_nlink > 1 || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty()).ok()?;
        let disk = rustix::fs::fstatvfs(dir).ok()?;
        (disk.f_bavail.saturating_mul(disk.f_frsize) / 2 > size).then_some(file)
    }

    /// Lets go of a file that has been removed: here, where the thread is still at the one before.
    pub(super) fn let_go(&mut self, file: OwnedFd) {
        if self.thread.as_ref().is_none_or(ScopedJoinHandle::is_finished) {
            let thread = Builder::new().name("hostd-unlink".to_owned());
            self.thread = thread.spawn_scoped(self.scope, move || drop(file)).ok();
        }
    }
}
