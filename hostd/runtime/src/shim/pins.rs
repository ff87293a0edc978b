//! What keeps the end of a container's first process short: its mounts outlive it.
//!
//! The last one to leave a mount namespace takes the mounts down, and taking an overlay down writes back all that is
//! dirty on the file system below it, whoever's that is. The kernel reports the end of a process only after that: 5 to
//! 12 ms on a disk with some work to do, seconds on a busy one. The shim therefore holds the namespace too, tells of the end, and
//! leaves last. Until then nobody else may mount the same layer, which a lock on it sees to.

use crate::spec::RootFs;
use crate::wire::{Attempt, Doing, Failure};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The right to mount a container's writable layer: held by one shim at a time, however that ends, or by a view of a
/// container that does not run.
#[derive(Debug)]
pub(crate) struct LayerLock {
    /// Held for the lock on it.
    _work: OwnedFd,
}

impl LayerLock {
    /// Waits until the shim of the container's last run has let go of the layer, and who copies files into it; but no longer
    /// than `patience`.
    pub(crate) fn take_within(rootfs: &RootFs, patience: Duration) -> Attempt<Self> {
        let (work, started) = (Self::open(rootfs)?, Instant::now());
        loop {
            match rustix::fs::flock(&work, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK | Errno::INTR) if started.elapsed() < patience => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(Errno::WOULDBLOCK) => {
                    let why = "its writable layer is in use: files are being copied into it, or its last run is not over";
                    return Err(Failure::new(why));
                }
                result => return result.doing(|| locking(rootfs)).map(|()| Self { _work: work }),
            }
        }
    }

    fn open(rootfs: &RootFs) -> Attempt<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&rootfs.work, flags, Mode::empty()).doing(|| locking(rootfs))
    }
}

fn locking(rootfs: &RootFs) -> String {
    format!("lock {}", rootfs.work.display())
}

/// A container's mounts, and then its layer: let go of in this order.
#[derive(Debug)]
pub(super) struct Pins {
    _mounts: OwnedFd,
    _layer: LayerLock,
}

impl Pins {
    /// Holds the mounts of a process, a child of ours that was cloned into a mount namespace of its own.
    pub(super) fn hold(pid: i32, layer: LayerLock) -> Attempt<Self> {
        let path = format!("/proc/{pid}/ns/mnt");
        let mounts = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .doing(|| format!("open {path}"))?;
        Ok(Self { _mounts: mounts, _layer: layer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_the_layer_and_the_next_is_told_why_it_waits() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = RootFs {
            lower: Vec::new(),
            upper: dir.path().into(),
            work: dir.path().into(),
            label: String::new(),
        };
        let take = |patience| LayerLock::take_within(&rootfs, patience);
        let first = take(Duration::ZERO).unwrap();
        assert!(take(Duration::ZERO).unwrap_err().message.contains("is in use"));
        let next = std::thread::scope(|scope| {
            let next = scope.spawn(|| take(Duration::from_secs(60)));
            drop(first);
            next.join().unwrap()
        });
        assert!(next.is_ok());
    }
}
