//! Files that are whole or absent: written beside, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The name under which `path` is being made. Fixed, so that what a crash left is overwritten by the next try.
pub(crate) fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Makes a directory that is its owner's alone, with its parents.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A new, empty file that its owner alone may read.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    // A left-over may have another mode: remove rather than truncate.
    remove_if_there(path)?;
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Writes a file for its owner alone, atomically and durably.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = partial(path);
    let mut file = create_private(&partial)?;
    file.write_all(content)?;
    drop(file);
    commit(&partial, path)
}

/// Syncs `partial` and puts it in the place of `path`.
pub(crate) fn commit(partial: &Path, path: &Path) -> io::Result<()> {
    File::open(partial)?.sync_all()?;
    fs::rename(partial, path)?;
    // rename(2) is atomic but not durable before the directory is synced.
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes a file; none is fine.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Removes a directory with all in it; none is fine.
pub(crate) fn remove_dir_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Bytes that can still be written where `path` (or its nearest existing parent) stands.
pub(crate) fn free_space(path: &Path) -> io::Result<u64> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_private_file_is_for_its_owner_alone_even_over_a_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(partial(&path), "left over").unwrap();
        fs::write(&path, "old and open to all").unwrap();
        write_private(&path, b"secret").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!partial(&path).exists());
    }
}
