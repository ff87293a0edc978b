//! What a process inherits and how it allocates.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// First descriptor that systemd passes (`SD_LISTEN_FDS_START`).
const LISTEN_FDS_START: RawFd = 3;

/// Takes the `count` descriptors that a service manager passed, and makes them close-on-exec. Empty when called again.
///
/// # Errors
/// One of them is not open.
pub fn take_listen_fds(count: u16) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let mut fds = Vec::with_capacity(usize::from(count));
    for fd in LISTEN_FDS_START..LISTEN_FDS_START + RawFd::from(count) {
        // SAFETY: no pointers are passed; a descriptor that is not open makes it fail.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is open, as fcntl(2) has just told, and ours: the service manager opened it for this process, and
        // `TAKEN` keeps it from being taken twice.
        fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    Ok(fds)
}

/// Keeps glibc's malloc from holding on to what was freed: at most `arenas` arenas instead of one per thread, and
/// blocks from 128 KiB up always in mappings of their own (by default that bound grows with what was freed once).
/// Without effect with another malloc.
pub fn limit_malloc(arenas: i32) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes no pointers and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 10);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = arenas;
}
