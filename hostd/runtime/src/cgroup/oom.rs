//! Hearing of it when the kernel runs out of a container's memory.

use super::files;
use rustix::event::{EventfdFlags, PollFlags};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Becomes ready in poll(2) when a limit was hit. Gone with its cgroup: drop it before that.
#[derive(Debug)]
pub(crate) enum OomWatch {
    /// v1: an eventfd that the kernel writes to (cgroup-v1/memory.rst, "OOM Control").
    Counter(OwnedFd),
    /// v2: `memory.events`, and how many kills have been seen.
    Events { file: File, seen: u64 },
}

impl OomWatch {
    /// On the directory of a v1 memory cgroup.
    pub(super) fn v1(dir: &Path) -> io::Result<Self> {
        let control = File::open(dir.join("memory.oom_control"))?;
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let registration = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        fs::OpenOptions::new()
            .write(true)
            .open(dir.join("cgroup.event_control"))
            .and_then(|mut file| io::Write::write_all(&mut file, registration.as_bytes()))?;
        Ok(Self::Counter(event))
    }

    /// On the directory of a v2 cgroup.
    pub(super) fn v2(dir: &Path) -> io::Result<Self> {
        let mut watch = Self::Events { file: File::open(dir.join("memory.events"))?, seen: 0 };
        // A file that was never read counts as changed.
        watch.take();
        Ok(watch)
    }

    /// What to poll, and for what.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match self {
            Self::Counter(event) => (event.as_fd(), PollFlags::IN),
            Self::Events { file, .. } => (file.as_fd(), PollFlags::PRI),
        }
    }

    /// How often it happened since this was asked the last time.
    pub(crate) fn take(&mut self) -> u64 {
        match self {
            Self::Counter(event) => {
                let mut count = [0; 8];
                match rustix::io::read(event, &mut count) {
                    Ok(8) => u64::from_ne_bytes(count),
                    _ => 0,
                }
            }
            Self::Events { file, seen } => {
                let mut bytes = [0; 512];
                let len = file.read_at(&mut bytes, 0).unwrap_or(0);
                let text = String::from_utf8_lossy(&bytes[..len]);
                let now = files::field_in(&text, "oom_kill").unwrap_or(*seen);
                now.saturating_sub(std::mem::replace(seen, now.max(*seen)))
            }
        }
    }
}
