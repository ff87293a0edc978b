//! The container's root file system: mounting it, turning to it, and walking in it.

use super::attributes::Way;
use crate::Kernel;
use crate::spec::{ContainerSpec, MountKind, RootFs};
use crate::wire::{Attempt, Doing, Failure};
use hostd_sys::mount::{MountAttr, RDONLY};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags,
};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// `f_type` of procfs.
pub(crate) const PROC_MAGIC: u64 = 0x9fa0;
/// `f_type` of devpts.
pub(crate) const DEVPTS_MAGIC: u64 = 0x1cd1;

/// Refuses a descriptor on another file system than the one of type `magic`.
pub(crate) fn must_be(fd: &OwnedFd, magic: u64) -> io::Result<()> {
    if rustix::fs::fstatfs(fd)?.f_type as u64 == magic {
        Ok(())
    } else {
        Err(io::Error::other("something else is mounted there"))
    }
}

/// A directory that paths are resolved in and never lead out of.
#[derive(Debug)]
pub(crate) struct Root {
    dir: OwnedFd,
    way: Way,
}

/// What a path that is missing becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    Dir,
    File,
}

impl Root {
    /// The root of the mount namespace we are in.
    pub(crate) fn current() -> Attempt<Self> {
        Self::with(Way::Setattr)
    }

    /// A root file system that is mounted somewhere, by its descriptor.
    pub(crate) fn of(dir: OwnedFd, kernel: Kernel) -> Attempt<Self> {
        let way = Way::find(kernel.mount_setattr).doing(|| "open /proc/self/fd".into())?;
        Ok(Self { dir, way })
    }

    fn with(way: Way) -> Attempt<Self> {
        Ok(Self { way, ..Self::at("/")? })
    }

    /// Directory `path` as a root: the file system of a container that we are not in.
    pub(crate) fn at(path: &str) -> Attempt<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())
            .doing(|| format!("open the root directory {path}"))?;
        Ok(Self { dir, way: Way::Setattr })
    }

    /// Changes an attached mount, and those below it when `recursive`.
    pub(crate) fn change(&self, mount: &OwnedFd, change: MountAttr, recursive: bool) -> io::Result<()> {
        self.way.change(self, mount, change, recursive)
    }

    /// Opens `path`; symbolic links are followed inside the root alone, and /proc's magic ones not at all.
    pub(crate) fn open(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        self.open_with(path, flags, ResolveFlags::empty())
    }

    fn open_with(&self, path: &str, flags: OFlags, more: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        // EAGAIN: a rename elsewhere raced with "..".
        loop {
            match rustix::fs::openat2(&self.dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                result => return result,
            }
        }
    }

    /// The descriptor of the root itself.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.dir
    }

    /// Opens `path` as a place to mount on, made (with its parents) when missing.
    pub(crate) fn place(&self, path: &str, make: Make) -> Attempt<OwnedFd> {
        match self.open(path, OFlags::PATH) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(Failure::new(format!("cannot open {path}: {error}"))),
        }
        let parts = normal(path);
        let (mut parent, mut so_far) =
            (self.open("/", OFlags::PATH).doing(|| format!("open {path}"))?, String::new());
        for (at, part) in parts.iter().enumerate() {
            so_far.push('/');
            so_far.push_str(part);
            let last = at + 1 == parts.len();
            parent = match self.open(&so_far, OFlags::PATH) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => {
                    make_in(&parent, part, if last { make } else { Make::Dir })
                        .doing(|| format!("make {so_far}"))?;
                    self.open(&so_far, OFlags::PATH).doing(|| format!("open {so_far}"))?
                }
                Err(error) => return Err(Failure::new(format!("cannot open {so_far}: {error}"))),
            };
        }
        Ok(parent)
    }

    /// Attaches a mount of ours at `path`, on the way to which there must be no link: else what is written to it
    /// later would go elsewhere, or it would stand in the place of something else.
    pub(crate) fn attach_own(&self, mount: &OwnedFd, path: &str, make: Make) -> Attempt<()> {
        self.place(path, make)?;
        let place = self.open_with(path, OFlags::PATH, ResolveFlags::NO_SYMLINKS);
        move_to(mount, &place.doing(|| format!("open {path}"))?).doing(|| format!("mount on {path}"))
    }
}

pub(crate) fn make_in(parent: &OwnedFd, name: &str, make: Make) -> rustix::io::Result<()> {
    let result = match make {
        Make::Dir => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Make::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    // A container that shares the volume may have been quicker.
    if result == Err(Errno::EXIST) { Ok(()) } else { result }
}

/// The names in `path` with `.` and `..` resolved as text.
pub(crate) fn normal(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts
}

/// Puts a detached mount on `place`.
pub(crate) fn move_to(mount: &OwnedFd, place: &OwnedFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", place, "", flags)
}

/// A new, detached file system. An option without value is a flag.
pub(crate) fn filesystem(kind: &str, options: &[(&str, &str)], attrs: u64) -> Attempt<OwnedFd> {
    let doing = || format!("make a file system of type {kind}");
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).doing(doing)?;
    for (key, value) in options {
        let set = if value.is_empty() {
            rustix::mount::fsconfig_set_flag(&context, *key)
        } else {
            rustix::mount::fsconfig_set_string(&context, *key, *value)
        };
        set.map_err(|error| explain(&context, error))
            .doing(|| format!("set option {key}={value} of {kind}"))?;
    }
    rustix::mount::fsconfig_create(&context).map_err(|error| explain(&context, error)).doing(doing)?;
    let attrs = MountAttrFlags::from_bits_retain(attrs as u32);
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attrs).doing(doing)
}

/// The kernel's own words on what is wrong, where it has any.
fn explain(context: &OwnedFd, error: Errno) -> io::Error {
    let mut text = vec![0; 512];
    match rustix::io::read(context, &mut text[..]) {
        Ok(len) => {
            io::Error::other(format!("{} ({error})", String::from_utf8_lossy(&text[..len]).trim_end()))
        }
        Err(_) => error.into(),
    }
}

/// Mounts the root file system, unless it is `made`, and makes it the root; the host's mounts are gone afterwards.
pub(crate) fn enter(spec: &ContainerSpec, kernel: Kernel, made: Option<OwnedFd>) -> Attempt<Root> {
    let shared = shares_mounts(spec);
    let host = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "open the host's root".into())?;
    // What the host unmounts must go here too, so that building a container pins none of its mounts; and
    // the place that the new root is put on must be private, or the host would see it (pivot_root(2)).
    let propagation = if shared {
        MountPropagationFlags::PRIVATE
    } else {
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC
    };
    rustix::mount::mount_change("/", propagation).doing(|| "cut the mounts off from the host's".into())?;
    rustix::process::umask(Mode::empty());
    let way = Way::find(kernel.mount_setattr).doing(|| "open /proc/self/fd".into())?;
    let root = match made {
        Some(root) => put_on(root, "/")?,
        None => mount(&spec.rootfs, kernel, "/")?,
    };
    pivot(&root, &host, shared)?;
    Root::with(way)
}

/// Mounts the root file system on directory `at` for the time being: the host's mounts are there until [`turn_to`].
pub(crate) fn stage(spec: &ContainerSpec, kernel: Kernel, at: &str) -> Attempt<Root> {
    if !kernel.mount_setattr {
        return Err(Failure::new("hooks need a kernel with mount_setattr (Linux 5.12)"));
    }
    cut_off(spec, at)?;
    rustix::process::umask(Mode::empty());
    Root::of(mount(&spec.rootfs, kernel, at)?, kernel)
}

/// Makes a root that was staged the root; the host's mounts are gone afterwards.
pub(crate) fn turn_to(root: Root, spec: &ContainerSpec) -> Attempt<Root> {
    let host = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "open the host's root".into())?;
    pivot(root.fd(), &host, shares_mounts(spec))?;
    Root::current()
}

/// Swaps the roots, and takes all that is the host's out of sight.
fn pivot(root: &OwnedFd, host: &OwnedFd, shared: bool) -> Attempt<()> {
    let doing = || "turn to the root file system".to_owned();
    rustix::process::fchdir(root).doing(doing)?;
    rustix::process::pivot_root(".", ".").doing(doing)?;
    rustix::process::fchdir(host).doing(doing)?;
    if shared {
        let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change(".", flags).doing(doing)?;
    }
    rustix::mount::unmount(".", UnmountFlags::DETACH).doing(doing)?;
    rustix::process::chdir("/").doing(doing)
}

/// Whether what is mounted in one of the container's binds is to appear on the host.
fn shares_mounts(spec: &ContainerSpec) -> bool {
    spec.mounts.iter().any(
        |mount| matches!(&mount.kind, MountKind::Bind { propagation: Some(p), .. } if p.ends_with("shared")),
    )
}

/// Sees to it that what is mounted in directory `at` from now on appears in this mount namespace alone.
pub(crate) fn cut_off(spec: &ContainerSpec, at: &str) -> Attempt<()> {
    let doing = || "cut the mounts off from the host's".to_owned();
    if shares_mounts(spec) {
        // All others stay what they are, or the container's would not reach the host.
        let point = super::attributes::mount_point(at).doing(|| format!("find the mount of {at}"))?;
        return rustix::mount::mount_change(point, MountPropagationFlags::PRIVATE).doing(doing);
    }
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .doing(doing)
}

/// Makes the root file system read-only; what is mounted on it stays as it is.
pub(crate) fn read_only(root: &Root) -> Attempt<()> {
    root.change(root.fd(), MountAttr { set: RDONLY, ..MountAttr::default() }, false)
        .doing(|| "make the root file system read-only".into())
}

/// Mounts the overlay on directory `at`.
pub(crate) fn mount(rootfs: &RootFs, kernel: Kernel, at: &str) -> Attempt<OwnedFd> {
    if kernel.single_layers { put_on(overlay(rootfs)?, at) } else { overlay_in_one_page(rootfs, at) }
}

/// The root file system as a mount that is attached nowhere.
pub(crate) fn detached(rootfs: &RootFs, kernel: Kernel) -> Attempt<OwnedFd> {
    if kernel.single_layers {
        return overlay(rootfs);
    }
    let doing = || "take the root file system off again".to_owned();
    // mount(2) makes no mount that is attached nowhere, and the host must not see this one.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).doing(|| "make a mount namespace".into())?;
    let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", propagation).doing(|| "cut the mounts off from the host's".into())?;
    let mounted = overlay_in_one_page(rootfs, "/")?;
    let clone = clone_tree(&mounted, Path::new(""), false).doing(doing)?;
    rustix::process::fchdir(&mounted).doing(doing)?;
    drop(mounted);
    rustix::mount::unmount(".", UnmountFlags::DETACH).doing(doing)?;
    rustix::process::chdir("/").doing(doing)?;
    Ok(clone)
}

fn put_on(mount: OwnedFd, at: &str) -> Attempt<OwnedFd> {
    rustix::mount::move_mount(&mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .doing(|| "mount the root file system".into())?;
    Ok(mount)
}

/// Makes the overlay.
fn overlay(rootfs: &RootFs) -> Attempt<OwnedFd> {
    let doing = || "make the overlay of the root file system".to_owned();
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).doing(doing)?;
    for layer in &rootfs.lower {
        rustix::mount::fsconfig_set_string(&context, "lowerdir+", layer)
            .map_err(|error| explain(&context, error))
            .doing(|| format!("add layer {}", layer.display()))?;
    }
    let dirs: [(&str, &Path); 2] = [("upperdir", &rootfs.upper), ("workdir", &rootfs.work)];
    for (key, path) in dirs {
        rustix::mount::fsconfig_set_string(&context, key, path)
            .map_err(|error| explain(&context, error))
            .doing(|| format!("set {key} to {}", path.display()))?;
    }
    rustix::mount::fsconfig_set_string(&context, "source", "overlay").doing(doing)?;
    if !rootfs.label.is_empty() {
        rustix::mount::fsconfig_set_string(&context, "context", rootfs.label.as_str())
            .doing(|| format!("set the SELinux label {:?}", rootfs.label))?;
    }
    // The kernel's own defaults differ: with these on, a layer does not say by itself what it holds.
    for feature in ["redirect_dir", "metacopy"] {
        rustix::mount::fsconfig_set_string(&context, feature, "off")
            .map_err(|error| explain(&context, error))
            .doing(|| format!("switch off {feature}"))?;
    }
    rustix::mount::fsconfig_create(&context).map_err(|error| explain(&context, error)).doing(doing)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).doing(doing)
}

/// As [`overlay`], for kernels that take all options in one page: named by their descriptors, with
/// `/proc/self/fd` as the working directory, all of the 500 layers that overlay allows fit in there.
fn overlay_in_one_page(rootfs: &RootFs, at: &str) -> Attempt<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| {
        rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open {}", path.display()))
    };
    let lower = rootfs.lower.iter().map(|layer| open(layer)).collect::<Attempt<Vec<_>>>()?;
    let (upper, work) = (open(&rootfs.upper)?, open(&rootfs.work)?);
    let names: Vec<String> = lower.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let label = match rootfs.label.as_str() {
        "" => String::new(),
        // Between categories stands what stands between options.
        label => format!(",context=\"{label}\""),
    };
    let options = CString::new(format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off{label}",
        names.join(":"),
        upper.as_raw_fd(),
        work.as_raw_fd()
    ))
    .doing(|| "name the layers".into())?;
    let doing = || "mount the overlay of the root file system".to_owned();
    rustix::process::chdir("/proc/self/fd").doing(doing)?;
    rustix::mount::mount("overlay", at, "overlay", MountFlags::empty(), options.as_c_str()).doing(doing)?;
    // "/" alone is still what it was; ".." goes on to what is mounted there.
    open(Path::new(if at == "/" { "/.." } else { at }))
}

/// Clones the mount (or the part of it) at `path` as a detached one.
pub(crate) fn clone_tree(at: impl AsFd, path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    use rustix::mount::OpenTreeFlags as F;
    let mut flags = F::OPEN_TREE_CLONE | F::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= F::AT_RECURSIVE;
    }
    if path.as_os_str().is_empty() {
        flags |= F::AT_EMPTY_PATH;
    }
    rustix::mount::open_tree(at, path, flags)
}

/// Whether there is a directory behind a descriptor.
pub(crate) fn is_dir(fd: &OwnedFd) -> rustix::io::Result<bool> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}
