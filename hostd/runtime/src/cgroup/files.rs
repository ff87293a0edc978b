//! Reading, writing and removing the files of cgroups.

use super::{CgroupError, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
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
    let mut pids = Vec::new();
    // A cgroup that goes meanwhile has no processes.
    let _ = go_through(dir, Nested::Stay, |cgroup| {
        let procs =
            rustix::fs::openat(cgroup, "cgroup.procs", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let text = procs.map(|file| io::read_to_string(fs::File::from(file)));
        pids.extend(
            text.iter().flatten().flat_map(|text| text.lines()).filter_map(|line| line.parse::<i32>().ok()),
        );
    });
    pids
}

/// Removes a cgroup with those nested in it; whether it is gone now.
pub(super) fn remove_tree(dir: &Path) -> bool {
    let gone = || match fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    gone() || (go_through(dir, Nested::Go, |_| {}).is_ok() && gone())
}

/// What becomes of the nested cgroups that were visited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nested {
    Stay,
    Go,
}

/// Visits a cgroup and those nested in it, each after those below it.
///
/// A container that may write its cgroups can nest them deeper than a path or a stack is long: this holds one descriptor and
/// the names on the way down, and goes back up by `..`, which in a cgroup file system nobody can move.
fn go_through(dir: &Path, nested: Nested, mut visit: impl FnMut(&OwnedFd)) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = rustix::fs::open(dir, flags, Mode::empty())?;
    let mut below = vec![dirs_in(&here)?];
    let mut way: Vec<OsString> = Vec::new();
    while let Some(left) = below.last_mut() {
        if let Some(name) = left.pop() {
            // One that is gone is as good as visited.
            let Ok(deeper) = rustix::fs::openat(&here, &name, flags, Mode::empty()) else { continue };
            below.push(dirs_in(&deeper)?);
            way.push(name);
            here = deeper;
            continue;
        }
        visit(&here);
        below.pop();
        let Some(name) = way.pop() else { break };
        here = rustix::fs::openat(&here, "..", flags, Mode::empty())?;
        if nested == Nested::Go {
            // One that holds a process yet is found when those above it cannot go.
            let _ = rustix::fs::unlinkat(&here, &name, AtFlags::REMOVEDIR);
        }
    }
    Ok(())
}

fn dirs_in(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == FileType::Directory && ![&b"."[..], b".."].contains(&name) {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_a_path_is_gone_through_and_removed() {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().join("cgroup");
        fs::create_dir(&top).unwrap();
        let open = |at: &OwnedFd, name: &str| {
            rustix::fs::openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
        };
        let mut here: OwnedFd = fs::File::open(&top).unwrap().into();
        let name = "nested".repeat(30);
        for depth in 0..500 {
            for name in [name.as_str(), "beside"] {
                rustix::fs::mkdirat(&here, name, Mode::RWXU).unwrap();
            }
            if depth % 100 == 0 {
                let file =
                    rustix::fs::openat(&here, "cgroup.procs", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU);
                io::Write::write_all(&mut fs::File::from(file.unwrap()), format!("{depth}\n").as_bytes())
                    .unwrap();
            }
            here = open(&here, &name);
        }
        assert_eq!(pids_below(&top), [400, 300, 200, 100, 0]);
        // In a cgroup file system files go with their directory.
        assert!(!remove_tree(&top));
        let mut here: OwnedFd = fs::File::open(&top).unwrap().into();
        for _ in 0..401 {
            let _ = rustix::fs::unlinkat(&here, "cgroup.procs", AtFlags::empty());
            let Ok(deeper) = rustix::fs::openat(&here, name.as_str(), OFlags::RDONLY, Mode::empty()) else {
                break;
            };
            here = deeper;
        }
        assert!(remove_tree(&top));
        assert!(!top.exists());
    }
}
