//! Project quotas: how much the files of a directory tree may take, on ext4 and xfs.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;
const SYS_QUOTACTL_FD: libc::c_long = 443;
const PRJQUOTA: u32 = 2;
const Q_XGETQSTATV: u32 = 0x5808;
const PROJECT_LIMITS_ENFORCED: u16 = 1 << 5;

/// The project that a directory belongs to; 0 is none.
///
/// # Errors
/// `ENOTTY` or `EOPNOTSUPP` where the file system has no projects.
pub fn project(dir: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(attributes(dir)?.projid)
}

/// Puts a directory into a project, and with it all that is made in it from now on.
///
/// # Errors
/// As [`project`].
pub fn set_project(dir: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let mut attributes = attributes(dir)?;
    attributes.projid = project;
    attributes.xflags |= FS_XFLAG_PROJINHERIT;
    // SAFETY: the kernel reads one `fsxattr`, which outlives the call.
    let ret = unsafe { libc::ioctl(dir.as_raw_fd(), FS_IOC_FSSETXATTR as _, &raw const attributes) };
    if ret == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn attributes(dir: BorrowedFd<'_>) -> io::Result<FsXattr> {
    let mut attributes = FsXattr::default();
    // SAFETY: the kernel writes one `fsxattr`, which outlives the call.
    let ret = unsafe { libc::ioctl(dir.as_raw_fd(), FS_IOC_FSGETXATTR as _, &raw mut attributes) };
    if ret == -1 { Err(io::Error::last_os_error()) } else { Ok(attributes) }
}

/// Whether the file system that `on` lies on keeps projects to their limits (mounted with `prjquota` or `pquota`).
pub fn enforced(on: BorrowedFd<'_>) -> bool {
    /// `struct fs_quota_statv`, whose first fields alone are of interest.
    #[repr(C, align(8))]
    struct State {
        version: i8,
        pad: u8,
        flags: u16,
        rest: [u8; 252],
    }
    let mut state = State { version: 1, pad: 0, flags: 0, rest: [0; 252] };
    quotactl(on, Q_XGETQSTATV, 0, (&raw mut state).cast()).is_ok()
        && state.flags & PROJECT_LIMITS_ENFORCED != 0
}

/// Bytes that a project may take and takes; a limit of 0 is none.
///
/// # Errors
/// `ESRCH` where quotas are off.
pub fn usage(on: BorrowedFd<'_>, project: u32) -> io::Result<(u64, u64)> {
    let mut quota = empty();
    match quotactl(on, libc::Q_GETQUOTA as u32, project, (&raw mut quota).cast()) {
        Ok(()) => Ok((quota.dqb_bhardlimit << 10, quota.dqb_curspace)),
        // xfs has nothing on record of a project that never had files.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((0, 0)),
        Err(error) => Err(error),
    }
}

/// Sets how many bytes a project may take, in steps of 1 KiB; 0 takes the limit away.
///
/// # Errors
/// `ESRCH` where quotas are off; `EPERM`.
pub fn set_limit(on: BorrowedFd<'_>, project: u32, bytes: u64) -> io::Result<()> {
    const QIF_BLIMITS: u32 = 1;
    let mut quota = empty();
    quota.dqb_bhardlimit = bytes.div_ceil(1 << 10);
    quota.dqb_bsoftlimit = quota.dqb_bhardlimit;
    quota.dqb_valid = QIF_BLIMITS;
    quotactl(on, libc::Q_SETQUOTA as u32, project, (&raw mut quota).cast())
}

fn empty() -> libc::dqblk {
    // SAFETY: all-zero is a valid dqblk.
    unsafe { std::mem::zeroed() }
}

/// quotactl_fd(2), Linux 5.14. `data` is what `command` wants, and lives as long as the call: only called from here.
fn quotactl(on: BorrowedFd<'_>, command: u32, id: u32, data: *mut libc::c_void) -> io::Result<()> {
    let command = command << 8 | PRJQUOTA;
    // SAFETY: `data` points to the structure of `command`, by the callers above.
    let ret = unsafe { libc::syscall(SYS_QUOTACTL_FD, on.as_raw_fd(), command, id, data) };
    if ret == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
