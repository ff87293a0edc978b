//! Finding what a path in a container means.

use super::{FilesError, Result};
use rustix::fs::{FileType, Mode, OFlags, RawMode, ResolveFlags, Stat};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Symlinks on one path, as many as Docker follows.
const MAX_LINKS: usize = 255;

/// What is at a path, as Docker's API tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStat {
    /// Last name of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's `os.FileMode`.
    pub mode: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Of a symlink: where it leads in the end, as a path in the container.
    pub link_target: String,
}

/// Opens `path` within `root`, magic links excluded, and retries where the kernel saw a rename elsewhere.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
}

/// Pins what is at `path`; a link at its end is not followed, as lstat(2) does it. What a kernel file system shows is not
/// among a container's files.
pub(crate) fn pin(root: BorrowedFd<'_>, path: &str) -> Result<(OwnedFd, Stat)> {
    let failed = |error| FilesError::path(path, error);
    let fd = open_in_root(root, path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW).map_err(failed)?;
    let stat = rustix::fs::fstat(&fd).map_err(failed)?;
    // Its root shows as an empty directory, by which a tree that holds it is whole.
    if is_of_kernel(fd.as_fd()) && stat.st_ino != 1 {
        return Err(FilesError::NotFound);
    }
    Ok((fd, stat))
}

/// Whether a file system is made of what the kernel tells, and not of files: reading it may block, or do something.
pub(crate) fn is_of_kernel(fd: BorrowedFd<'_>) -> bool {
    const MAGICS: [u64; 14] = [
        0x9fa0,      // proc
        0x6265_6572, // sysfs
        0x0027_e0eb, // cgroup
        0x6367_7270, // cgroup2
        0x1cd1,      // devpts
        0x1980_0202, // mqueue
        0x6462_6720, // debugfs
        0x7472_6163, // tracefs
        0x7363_6673, // securityfs
        0xcafe_4a11, // bpf
        0x6e73_6673, // nsfs
        0x6265_6570, // configfs
        0x6165_676c, // pstore
        0xde5e_81e4, // efivarfs
    ];
    rustix::fs::fstatfs(fd).is_ok_and(|stat| MAGICS.contains(&(stat.f_type as u64 & 0xffff_ffff)))
}

/// Opens again, for reading, what a pin has shown to be a regular file or a directory.
pub(crate) fn reopen(pin: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", pin.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK, Mode::empty())
}

/// What is at `path`.
///
/// # Errors
/// [`FilesError::NotFound`] when there is nothing.
pub fn stat(root: BorrowedFd<'_>, path: &str) -> Result<PathStat> {
    let (fd, stat) = pin(root, path)?;
    let link_target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => evaluate(root, path)?,
        _ => String::new(),
    };
    drop(fd);
    Ok(describe(path, &stat, link_target))
}

pub(crate) fn describe(path: &str, stat: &Stat, link_target: String) -> PathStat {
    PathStat {
        name: base(path).to_owned(),
        size: stat.st_size,
        mode: go_mode(stat.st_mode),
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        link_target,
    }
}

/// Whether the file system at a directory refuses writes. Symlinks are followed.
///
/// # Errors
/// [`FilesError::NotFound`] when there is nothing at `path`.
pub fn stat_filesystem(root: BorrowedFd<'_>, path: &str) -> Result<bool> {
    let failed = |error| FilesError::path(path, error);
    let fd = open_in_root(root, path.as_bytes(), OFlags::PATH).map_err(failed)?;
    let stat = rustix::fs::fstatvfs(&fd).map_err(failed)?;
    Ok(stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// The last name of a path: Go's `filepath.Base`.
pub(crate) fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match (trimmed.is_empty(), path.is_empty()) {
        (_, true) => ".",
        (true, false) => "/",
        _ => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

/// Go's `os.FileMode`.
fn go_mode(mode: RawMode) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    special.iter().filter(|(bit, _)| mode & bit != 0).fold(kind | (mode & 0o777), |all, (_, go)| all | go)
}

/// Where a path leads when all links in it are followed, as far as there is something: a name that does not exist stays
/// as it is. The container may have changed it when this returns, so it is only to be shown, or resolved again.
pub(crate) fn evaluate(root: BorrowedFd<'_>, path: &str) -> Result<String> {
    let names = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|b| *b == b'/').rev().filter(|n| !n.is_empty() && *n != b".").map(<[u8]>::to_vec).collect()
    };
    let (mut left, mut done, mut links) = (names(path.as_bytes()), Vec::<Vec<u8>>::new(), 0);
    while let Some(name) = left.pop() {
        if name == b".." {
            done.pop();
            continue;
        }
        done.push(name);
        let so_far = [b"/", done.join(&b'/').as_slice()].concat();
        let target = open_in_root(root, &so_far, OFlags::PATH | OFlags::NOFOLLOW)
            .and_then(|fd| rustix::fs::readlinkat(&fd, "", Vec::new()));
        // Anything else than a link: it stands for itself, or for nothing.
        let Ok(target) = target else { continue };
        links += 1;
        if links > MAX_LINKS {
            return Err(FilesError::path(path, Errno::LOOP));
        }
        done.pop();
        if target.as_bytes().starts_with(b"/") {
            done.clear();
        }
        left.extend(names(target.as_bytes()));
    }
    Ok(String::from_utf8_lossy(&[b"/", done.join(&b'/').as_slice()].concat()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn names_are_those_of_go() {
        for (path, name) in
            [("/etc/passwd", "passwd"), ("/etc/", "etc"), ("/", "/"), ("//", "/"), ("/etc/.", "."), ("", ".")]
        {
            assert_eq!(base(path), name, "{path}");
        }
    }

    #[test]
    fn modes_are_those_of_go() {
        for (mode, go) in [
            (0o100_644, 0o644),
            (0o104_755, 1 << 23 | 0o755),
            (0o041_777, 1 << 31 | 1 << 20 | 0o777),
            (0o120_777, 1 << 27 | 0o777),
            (0o020_666, 1 << 26 | 1 << 21 | 0o666),
            (0o060_660, 1 << 26 | 0o660),
            (0o010_600, 1 << 25 | 0o600),
            (0o140_700, 1 << 24 | 0o700),
        ] {
            assert_eq!(go_mode(mode), go, "{mode:o}");
        }
    }

    #[test]
    fn links_are_evaluated_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        std::fs::create_dir_all(path.join("etc/inner")).unwrap();
        for (target, link) in [
            ("/etc", "absolute"),
            ("../../../etc", "climbing"),
            ("absolute/inner", "twice"),
            ("/gone/x", "broken"),
            ("b", "a"),
            ("a", "b"),
        ] {
            symlink(target, path.join(link)).unwrap();
        }
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let at = |path| evaluate(root.as_fd(), path).unwrap();
        for (path, target) in [
            ("/absolute", "/etc"),
            ("climbing/inner", "/etc/inner"),
            ("twice", "/etc/inner"),
            ("broken", "/gone/x"),
            ("/../..", "/"),
        ] {
            assert_eq!(at(path), target, "{path}");
        }
        assert!(matches!(evaluate(root.as_fd(), "a"), Err(FilesError::Invalid(_))));
        assert_eq!(stat(root.as_fd(), "/absolute").unwrap().link_target, "/etc");
        assert_eq!(stat(root.as_fd(), "/absolute/").unwrap().link_target, "");
        assert!(matches!(stat(root.as_fd(), "nope"), Err(FilesError::NotFound)));
        assert!(matches!(stat(root.as_fd(), "a\0b"), Err(FilesError::Invalid(_))));
    }
}
