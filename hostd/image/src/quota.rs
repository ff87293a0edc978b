//! Limits on what a writable layer takes, by project quotas of the file system that the store lies on.

use crate::error::ImageError;
use crate::store::{ImageStore, Inner};
use rustix::fs::{CWD, Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// How many project numbers are tried before giving up.
const TRIES: u32 = 64;

impl ImageStore {
    /// Whether the file system keeps writable layers to a limit: xfs or ext4, mounted with project quotas.
    pub fn can_limit(&self) -> bool {
        open(&self.inner.layout.dir("containers")).is_ok_and(|dir| hostd_sys::quota::enforced(dir.as_fd()))
    }

    /// Limits the writable layer of a container to `bytes`. It must not hold files from before it had a limit.
    pub fn limit_snapshot(&self, container_id: &str, bytes: u64) -> Result<(), ImageError> {
        let place = self.inner.layout.container(container_id);
        limit(&place, container_id, bytes).map_err(ImageError::io("limit", &place))
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

fn limit(place: &Path, container_id: &str, bytes: u64) -> io::Result<()> {
    let (upper, work) = (open(&place.join("diff"))?, open(&place.join("work"))?);
    let project = match hostd_sys::quota::project(upper.as_fd())? {
        0 => free_project(&upper, container_id)?,
        own => own,
    };
    // The limit first: nothing is ever written without it.
    hostd_sys::quota::set_limit(upper.as_fd(), project, bytes)?;
    for dir in [&work, &upper] {
        hostd_sys::quota::set_project(dir.as_fd(), project)?;
    }
    Ok(())
}

/// A project number that nobody uses. Numbers come from the container's id, so that two stores on one file system hardly
/// ever meet.
fn free_project(on: &OwnedFd, container_id: &str) -> io::Result<u32> {
    let first = container_id.get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(1);
    for n in 0..TRIES {
        let project = first.wrapping_add(n).max(1);
        if hostd_sys::quota::usage(on.as_fd(), project)? == (0, 0) {
            return Ok(project);
        }
    }
    Err(io::Error::other("no project number is free"))
}

impl Inner {
    /// Takes the limit of a writable layer away, so that its number is free again.
    pub(crate) fn unlimit(&self, key: &str) {
        let Ok(upper) = open(&self.layout.container(key).join("diff")) else { return };
        // Where the file system has no projects, there is nothing to take away.
        let project = hostd_sys::quota::project(upper.as_fd()).unwrap_or(0);
        if project != 0
            && let Err(error) = hostd_sys::quota::set_limit(upper.as_fd(), project, 0)
        {
            tracing::warn!(container = key, %error, "the limit of a writable layer stays");
        }
    }
}
