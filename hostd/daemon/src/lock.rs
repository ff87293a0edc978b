//! One daemon per data root: two would ruin each other's state.

use crate::Result;
use crate::failure::Failure;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::{DirBuilder, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a lock that is held may take to become free.
const PATIENCE: Duration = Duration::from_secs(1);

/// Held for the life of the daemon. The kernel lets go of it even after `kill -9`.
pub(crate) struct Lock {
    _data_root: File,
    _pidfile: File,
    path: PathBuf,
}

impl Lock {
    /// Locks the data root and the pid file, and writes the process id into both.
    pub(crate) fn take(data_root: &Path, pidfile: &Path) -> Result<Self> {
        make_dir(data_root, 0o710)?;
        if let Some(parent) = pidfile.parent() {
            make_dir(parent, 0o711)?;
        }
        let root = lock(&data_root.join("hostd.lock"), &format!("data root {}", data_root.display()))?;
        let pid = lock(pidfile, &format!("pid file {}", pidfile.display()))?;
        Ok(Self { _data_root: root, _pidfile: pid, path: pidfile.to_owned() })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While still locked, so that it is our own. A stale one does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| Failure::new(format!("cannot create {}", path.display())).because(error))
}

/// Takes the lock. One that is held may be that of a daemon which was killed while it started a process: until that
/// process has executed its program, it holds what its parent held.
fn patiently(file: &File) -> Result<(), Errno> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < give_up => std::thread::sleep(PATIENCE / 50),
            locked => return locked,
        }
    }
}

fn lock(path: &Path, what: &str) -> Result<File> {
    let failed =
        |error: std::io::Error| Failure::new(format!("cannot lock {}", path.display())).because(error);
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    match patiently(&file) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(Failure::new(format!("{what} is in use by another hostd (process {})", pid.trim()))
                .hint("stop that one, or give this one another --data-root, --exec-root and --pidfile"));
        }
        Err(error) => return Err(failed(error.into())),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(failed)?;
    Ok(file)
}
