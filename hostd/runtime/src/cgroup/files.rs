//! Reading, writing and removing the files of cgroups.

use super::{CgroupError, Result};
use std::path::Path;
use std::{fs, io};

/// Writes a value in one write(2), as cgroup files want it.
pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|source| CgroupError::File { what: "write", path: path.to_owned(), source })
}

/// Writes a limit; a missing file means that the controller is not there.
pub(super) fn write_limit(
    path: &Path,
    value: &str,
    controller: &'static str,
    limit: &'static str,
) -> Result<()> {
    match write(path, value) {
        Err(CgroupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(CgroupError::NoController { controller, limit })
        }
        other => other,
    }
}

/// The number behind `name` in a file of `name number` lines.
pub(super) fn field(path: &Path, name: &str) -> Option<u64> {
    field_in(&fs::read_to_string(path).ok()?, name)
}

/// The same of a file's text.
pub(super) fn field_in(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Makes a directory, with those above it.
pub(super) fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| CgroupError::File {
        what: "create",
        path: path.to_owned(),
        source,
    })
}

/// Processes in a cgroup and in those nested in it.
pub(super) fn pids_below(dir: &Path) -> Vec<i32> {
    let mut pids: Vec<_> = fs::read_to_string(dir.join("cgroup.procs"))
        .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
        .unwrap_or_default();
    for nested in dirs_in(dir) {
        pids.extend(pids_below(&nested));
    }
    pids
}

/// Removes a cgroup with those nested in it; whether it is gone now.
pub(super) fn remove_tree(dir: &Path) -> bool {
    match fs::remove_dir(dir) {
        Ok(()) => return true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
        Err(_) => {}
    }
    let nested = dirs_in(dir);
    !nested.is_empty() && nested.iter().all(|dir| remove_tree(dir)) && fs::remove_dir(dir).is_ok()
}

fn dirs_in(dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
