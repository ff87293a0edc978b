//! A container's files, from outside: the directory that is its root, with all that is mounted below.
//!
//! Of one that runs it is the root of its own mount namespace; of one that does not, its layers are mounted as they would
//! be, in a namespace that goes with the view. Either is entered by a thread that ends when it has opened the root, so that
//! no thread of the daemon ever works there, and nothing that lies in the container is ever executed or loaded
//! (CVE-2019-14271). What is reached through the root's descriptor must be opened with openat2(2) and
//! `RESOLVE_IN_ROOT`: the container may swap a directory for a link at any time (CVE-2018-15664).

use crate::client::{Container, failed};
use crate::container::identity;
use crate::container::mounts::open_source;
use crate::container::rootfs::{self, Root, clone_tree, filesystem, move_to};
use crate::shim::pins::LayerLock;
use crate::spec::{Mount, MountKind, RootFs};
use crate::wire::{Attempt, Doing, Failure};
use crate::{Kernel, Runtime, RuntimeError};
use nix::sched::CloneFlags;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::mount::MountPropagationFlags;
use rustix::thread::LinkNameSpaceType;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the shim of a container's last run may take to let go of its layer.
const RELEASE: Duration = Duration::from_secs(20);

/// What a view of a container that does not run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing that is done through it reaches the container's layer.
    Read,
    /// Its writable layer takes the changes. While there is such a view the container does not start, but waits.
    Write {
        /// Whether the root file system is to refuse them all the same.
        read_only_rootfs: bool,
    },
}

/// A container's files. Its mounts stay as long as it does.
#[derive(Debug)]
pub struct View {
    root: OwnedFd,
    _namespace: OwnedFd,
    /// The last field: let go of when nothing of the layer is mounted any more.
    _layer: Option<LayerLock>,
}

impl View {
    /// The root directory, opened as a path.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Uid and gid of a user (as in `docker run -u`), by the container's own files.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn user(&self, user: &str) -> Result<(u32, u32), RuntimeError> {
        let look = |error: std::io::Error| failed("cannot look for a user", error);
        let dir = self.root.try_clone().map_err(look)?;
        let found = Root::of(dir, Kernel { single_layers: true, mount_setattr: true })
            .and_then(|root| identity::resolve(&root, user, &[]));
        found.map(|user| (user.uid, user.gid)).map_err(|failure| RuntimeError::Other(failure.message))
    }
}

impl Container {
    /// Whether it can still be looked into: not once its first process is gone, be it that nobody has been told yet.
    /// Blocks for a moment.
    pub fn can_be_seen(&self) -> bool {
        self.namespace("mnt").is_ok()
    }
}

impl Runtime {
    /// The files of a running container, as its processes see them. Blocks for a moment.
    ///
    /// # Errors
    /// When it has ended.
    pub fn view(&self, container: &Container) -> Result<View, RuntimeError> {
        let namespace = container.namespace("mnt")?;
        let entered = in_thread(|| {
            enter(&namespace)?;
            open_root()
        });
        let root = entered.map_err(|failure| cannot_look(&container.inner.id, failure))?;
        Ok(View { root, _namespace: namespace, _layer: None })
    }

    /// The root file system of a running container alone, without what is mounted on it. Blocks for a moment.
    ///
    /// # Errors
    /// When it has ended.
    pub fn view_rootfs(&self, container: &Container) -> Result<View, RuntimeError> {
        let namespace = container.namespace("mnt")?;
        let entered = in_thread(|| {
            enter(&namespace)?;
            // Older kernels clone a mount only from within its own namespace.
            clone_tree(open_root()?, Path::new(""), false).doing(|| "clone the root's mount".to_owned())
        });
        let root = entered.map_err(|failure| cannot_look(&container.inner.id, failure))?;
        Ok(View { root, _namespace: namespace, _layer: None })
    }

    /// The files of a container that does not run: its layers, and the binds among `mounts`. Blocks for a moment.
    ///
    /// # Errors
    /// When something cannot be mounted.
    pub fn view_layers(
        &self,
        id: &str,
        rootfs: &RootFs,
        mounts: &[Mount],
        access: Access,
    ) -> Result<View, RuntimeError> {
        let kernel = self.kernel();
        // Of two mounts of one layer neither would see what the other does.
        let layer = match access {
            Access::Read => None,
            Access::Write { .. } => {
                Some(LayerLock::take_within(rootfs, RELEASE).map_err(|failure| cannot_look(id, failure))?)
            }
        };
        let mounted = in_thread(|| mount_layers(rootfs, mounts, access, kernel));
        let (root, namespace) = mounted.map_err(|failure| cannot_look(id, failure))?;
        Ok(View { root, _namespace: namespace, _layer: layer })
    }
}

fn cannot_look(id: &str, failure: Failure) -> RuntimeError {
    failed(format!("cannot look into container {id}"), failure.message)
}

/// Runs `work` on a thread that shares neither root nor working directory with the others, and that ends with it.
fn in_thread<T: Send>(work: impl FnOnce() -> Attempt<T> + Send) -> Attempt<T> {
    std::thread::scope(|scope| {
        let run = || {
            nix::sched::unshare(CloneFlags::CLONE_FS).doing(|| "part from the other threads".to_owned())?;
            work()
        };
        let spawned = std::thread::Builder::new().name("hostd-view".to_owned()).spawn_scoped(scope, run);
        let thread = spawned.doing(|| "start a thread".to_owned())?;
        thread.join().unwrap_or_else(|_| Err(Failure::new("the thread panicked")))
    })
}

fn enter(namespace: &OwnedFd) -> Attempt<()> {
    // The new root and working directory are the namespace's, whatever its processes have made of theirs by chroot(2).
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .doing(|| "enter its mount namespace".to_owned())
}

fn open_root() -> Attempt<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, Mode::empty()).doing(|| "open its root".to_owned())
}

fn mount_layers(
    rootfs: &RootFs,
    mounts: &[Mount],
    access: Access,
    kernel: Kernel,
) -> Attempt<(OwnedFd, OwnedFd)> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).doing(|| "make a mount namespace".to_owned())?;
    // Ours do not show on the host, and what the host unmounts goes here too.
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", downstream).doing(|| "cut the mounts off from the host's".to_owned())?;
    let open = |path: &str, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
    let namespace =
        open("/proc/thread-self/ns/mnt", OFlags::RDONLY).doing(|| "open the namespace".to_owned())?;
    let sources = mounts.iter().filter(|mount| exists(mount)).map(|mount| open_source(mount, None, None));
    let sources = sources.collect::<Attempt<Vec<_>>>()?;
    let top = match access {
        Access::Read => over_scratch(rootfs, kernel)?,
        Access::Write { .. } => rootfs::mount(rootfs, kernel, "/")?,
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(&top, ".", flags, Mode::empty()).doing(|| "open its root".to_owned())?;
    let root = Root::of(top, kernel)?;
    for source in sources {
        let place = source.place(&root)?;
        source.attach(&root, &place)?;
    }
    if access == (Access::Write { read_only_rootfs: true }) {
        rootfs::read_only(&root)?;
    }
    Ok((dir, namespace))
}

/// A tmpfs shows nothing before the start, and neither does a file that the start is to make.
fn exists(mount: &Mount) -> bool {
    matches!(&mount.kind, MountKind::Bind { source, .. } if source.exists())
}

/// Mounts the same layers under an upper directory of no consequence, in memory: mount points can be made in it.
fn over_scratch(rootfs: &RootFs, kernel: Kernel) -> Attempt<OwnedFd> {
    let doing = || "make room for mount points".to_owned();
    let scratch = filesystem("tmpfs", &[("source", "tmpfs"), ("mode", "700"), ("size", "16m")], 0)?;
    // An overlay takes only directories of mounts that are attached. On the root it covers nothing: the root itself is
    // looked up without stepping on what is mounted there.
    let place = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    move_to(&scratch, &place).doing(doing)?;
    for name in ["upper", "work"] {
        rustix::fs::mkdirat(&scratch, name, Mode::from_raw_mode(0o755)).doing(doing)?;
    }
    // The upper directory is what the root shows of itself.
    let stat = rustix::fs::stat(&rootfs.upper).doing(doing)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(&scratch, "upper", Some(uid), Some(gid), AtFlags::empty()).doing(doing)?;
    rustix::fs::chmodat(&scratch, "upper", Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())
        .doing(doing)?;
    let base = PathBuf::from(format!("/proc/self/fd/{}", scratch.as_raw_fd()));
    let lower = std::iter::once(&rootfs.upper).chain(&rootfs.lower).cloned().collect();
    let over = RootFs { lower, upper: base.join("upper"), work: base.join("work"), label: String::new() };
    rootfs::mount(&over, kernel, "/")
}
