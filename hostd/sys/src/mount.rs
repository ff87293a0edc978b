//! What rustix lacks of the mount API.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Attributes to change on a mount (`struct mount_attr`).
#[derive(Clone, Copy, Debug, Default)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or 0 to leave it.
    pub propagation: u64,
}

/// `MOUNT_ATTR_RDONLY`.
pub const RDONLY: u64 = 1;
/// `MOUNT_ATTR_NOSUID`.
pub const NOSUID: u64 = 2;
/// `MOUNT_ATTR_NODEV`.
pub const NODEV: u64 = 4;
/// `MOUNT_ATTR_NOEXEC`.
pub const NOEXEC: u64 = 8;

/// Changes the mount `fd` stands on, and those below it when `recursive`: mount_setattr(2), Linux 5.12.
///
/// # Errors
/// As mount_setattr(2).
pub fn mount_setattr(fd: BorrowedFd<'_>, attr: MountAttr, recursive: bool) -> io::Result<()> {
    let raw = libc::mount_attr {
        attr_set: attr.set,
        attr_clr: attr.clear,
        propagation: attr.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let empty: &CStr = c"";
    // SAFETY: the path is a C string and `raw` a `mount_attr` of the size passed; both outlive the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            empty.as_ptr(),
            flags,
            &raw const raw,
            size_of::<libc::mount_attr>(),
        )
    };
    if ret == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
