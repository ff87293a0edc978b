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
    /// v2: `memory.events`, and how many kills have been seen; the same of the cgroup above, which counts ours too.
    Events { own: Counted, above: Option<Counted> },
}

/// The kills in a `memory.events`.
#[derive(Debug)]
pub(crate) struct Counted {
    file: File,
    seen: u64,
}

impl Counted {
    fn open(dir: &Path) -> io::Result<Self> {
        let mut counted = Self { file: File::open(dir.join("memory.events"))?, seen: 0 };
        // A file that was never read counts as changed.
        counted.more();
        Ok(counted)
    }

    /// How many there were since the last time; `None` when the cgroup is gone.
    fn more(&mut self) -> Option<u64> {
        let mut bytes = [0; 512];
        let len = self.file.read_at(&mut bytes, 0).ok()?;
        let now = files::field_in(&String::from_utf8_lossy(&bytes[..len]), "oom_kill")?;
        let more = now.saturating_sub(self.seen);
        self.seen += more;
        Some(more)
    }
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
        Ok(Self::Events {
            own: Counted::open(dir)?,
            above: dir.parent().and_then(|dir| Counted::open(dir).ok()),
        })
    }

    /// What to poll, and for what.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match self {
            Self::Counter(event) => (event.as_fd(), PollFlags::IN),
            Self::Events { own, .. } => (own.file.as_fd(), PollFlags::PRI),
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
            Self::Events { own, above } => {
                let more = own.more();
                if let (Some(_), Some(above)) = (more, above) {
                    above.more();
                }
                more.unwrap_or(0)
            }
        }
    }

    /// Whether a process that was killed may have been so for want of memory, where the cgroup is gone and cannot tell:
    /// systemd removes one that is empty, at times before its last count was read. Since then there was such a kill in the
    /// cgroup above.
    pub(crate) fn may_have_missed(&mut self) -> bool {
        match self {
            Self::Counter(_) => false,
            Self::Events { own, above } => {
                own.more().is_none() && above.as_mut().and_then(Counted::more).is_some_and(|more| more > 0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_once_and_those_of_a_cgroup_that_is_gone_are_told_by_the_one_above() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("scope");
        fs::create_dir(&dir).unwrap();
        let set = |dir: &Path, count: u32| {
            fs::write(dir.join("memory.events"), format!("low 0\noom 9\noom_kill {count}\n")).unwrap();
        };
        set(&dir, 0);
        set(temp.path(), 5);
        let mut watch = OomWatch::v2(&dir).unwrap();
        assert_eq!((watch.take(), watch.may_have_missed()), (0, false));
        set(&dir, 2);
        set(temp.path(), 7);
        assert_eq!((watch.take(), watch.take()), (2, 0));
        // A file that cannot be read stands for that of a cgroup that was removed.
        let OomWatch::Events { own, .. } = &mut watch else { panic!("of v2") };
        own.file = fs::OpenOptions::new().write(true).open(dir.join("memory.events")).unwrap();
        assert_eq!((watch.take(), watch.may_have_missed()), (0, false));
        set(temp.path(), 8);
        assert_eq!((watch.take(), watch.may_have_missed()), (0, true));
    }
}
