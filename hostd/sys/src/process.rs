//! What a process inherits and how it allocates.

use rustix::process::{Pid, Resource, Rlimit};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
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
/// blocks from 256 KiB up always in mappings of their own (by default that bound grows with what was freed once). What
/// is free at the end of the heap stays up to the buffers of a transfer or two, since the kernel clears every page that
/// is given back and taken again; [`give_back_memory`] is for when all is quiet. Without effect with another malloc.
pub fn limit_malloc(arenas: i32) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes no pointers and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 4 << 20);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = arenas;
}

/// How many files this process was allowed to have open before it raised that.
static OPEN_FILES: OnceLock<Rlimit> = OnceLock::new();

/// Lets this process have as many files open as it may allow itself: the limit that it was started with is made for
/// programs that use select(2). Its children are to get theirs back by [`restore_open_files`].
///
/// # Errors
/// As setrlimit(2).
pub fn raise_open_files() -> io::Result<()> {
    let given = OPEN_FILES.get_or_init(|| rustix::process::getrlimit(Resource::Nofile));
    let raised = Rlimit { current: given.maximum, maximum: given.maximum };
    Ok(rustix::process::setrlimit(Resource::Nofile, raised)?)
}

/// Gives a child the limit that this process was started with.
///
/// # Errors
/// As prlimit(2).
pub fn restore_open_files(child: u32) -> io::Result<()> {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
    match (OPEN_FILES.get(), pid) {
        (Some(given), Some(pid)) => {
            let given = Rlimit { current: given.current, maximum: given.maximum };
            rustix::process::prlimit(Some(pid), Resource::Nofile, given)?;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// How many seconds the machine's clock is ahead of UTC at that second since 1970: localtime_r(3).
pub fn utc_offset(seconds: i64) -> i64 {
    // SAFETY: all-zero is a valid tm, and both pointers live through the call; it fails for years that no int holds.
    unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&raw const seconds, &raw mut tm).is_null() { 0 } else { tm.tm_gmtoff }
    }
}

/// Gives back to the kernel what an idle process holds for nothing: heap that is free, and the pages of its program that
/// are mapped because they were run some time. The latter stay in the page cache, and are mapped again by the
/// sixteen when they are run again.
///
/// # Errors
/// `/proc` cannot be read, or as madvise(2).
pub fn give_back_memory() -> io::Result<()> {
    crate::fork::trim_heap();
    let Some((start, end)) = own_code()? else { return Ok(()) };
    // SAFETY: the range is this program's code, as the kernel has just told: a private mapping of its file that is never
    // written to. Its pages come back from the file as they were, whichever thread runs them.
    if unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Where this very function is mapped, with all of the program's code.
fn own_code() -> io::Result<Option<(usize, usize)>> {
    let here = own_code as fn() -> io::Result<Option<(usize, usize)>> as usize;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    Ok(maps.lines().filter_map(code_range).find(|(start, end)| (*start..*end).contains(&here)))
}

/// The addresses of a line of `/proc/self/maps` (proc(5)) that is of a program's code.
fn code_range(line: &str) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    if rest.starts_with("r-xp ") { Some((number(start)?, number(end)?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped_code() -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let code = own_code().unwrap();
        let mut lines = smaps.lines();
        lines.find(|line| code_range(line) == code).unwrap();
        let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn code_that_is_not_run_any_more_is_not_mapped_and_code_still_runs() {
        let (start, end) = own_code().unwrap().unwrap();
        // SAFETY: it maps what may be mapped anyway.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_POPULATE_READ) };
        let before = mapped_code();
        give_back_memory().unwrap();
        assert!(mapped_code() < before);
    }
}
