//! A container in a user namespace: what only the host's root can make is made before it is entered.
//!
//! A process of the host's root, between the shim and the container's first process, makes the overlay and `/dev`,
//! clones what is to be bound, and then enters the user namespace and forks the first process, which is the shim's
//! child and not its own. What it has made is attached nowhere and reaches the first process by descriptors. All
//! namespaces but the user's are made by that fork, so that the user namespace owns them.

use super::devices::{self, Node};
use super::mounts::{self, Sources};
use super::program;
use super::rootfs::{self, clone_tree};
use super::{Never, Setup};
use crate::Kernel;
use crate::spec::{ContainerSpec, IdMap, NsMode};
use crate::wire::{self, Attempt, Doing, Failure};
use hostd_sys::fork::Cloned;
use rustix::fs::{CWD, Gid, Mode, Uid};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What that process says when the first process is there, whose descriptor comes along.
pub(crate) const FORKED: u8 = b'F';

/// What a container is made of, as far as it comes from outside.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// The root file system; to be mounted by the first process where it is not here.
    pub(crate) root: Option<OwnedFd>,
    /// `/dev` with all that is in it.
    pub(crate) dev: Option<OwnedFd>,
    /// `/proc`, which the first process makes itself, before it turns to its root.
    pub(crate) proc: Option<OwnedFd>,
    /// `/sys`, likewise.
    pub(crate) sys: Option<OwnedFd>,
    /// Device nodes to make.
    pub(crate) nodes: Vec<Node>,
    /// Device nodes elsewhere than in `/dev`, which have come along in that.
    pub(crate) elsewhere: Vec<Node>,
    pub(crate) binds: Sources,
    /// The host's `/sys/fs/cgroup`, where the container shares that namespace and cannot mount it.
    pub(crate) cgroups: Option<OwnedFd>,
    /// The host's `/dev/mqueue`, likewise.
    pub(crate) mqueue: Option<OwnedFd>,
}

impl Outside {
    /// What a container of the host's root takes from outside: it makes the rest itself.
    pub(crate) fn of_own(spec: &ContainerSpec) -> Attempt<Self> {
        let mut nodes = devices::gather(spec);
        if mounts::replaced(spec, "/dev") {
            // They would be hidden, and part of the image's layer.
            nodes.retain(|node| !node.is_in_dev());
        }
        Ok(Self { nodes, binds: mounts::open_sources(spec)?, ..Self::default() })
    }

    fn made_for(spec: &ContainerSpec, map: &IdMap, kernel: Kernel) -> Attempt<Self> {
        rustix::process::umask(Mode::empty());
        let mut outside = Self::of_own(spec)?;
        // Mounts that a container makes stay below the host's.
        outside.binds.iter_mut().for_each(mounts::Source::keep_downstream);
        let (in_dev, elsewhere): (Vec<_>, Vec<_>) =
            std::mem::take(&mut outside.nodes).into_iter().partition(Node::is_in_dev);
        outside.dev = Some(devices::dev(&in_dev, &elsewhere, map, spec.selinux.mount())?);
        outside.elsewhere = elsewhere;
        if spec.namespaces.cgroup != NsMode::Private {
            let tree = clone_tree(CWD, Path::new("/sys/fs/cgroup"), true);
            outside.cgroups = Some(tree.doing(|| "share /sys/fs/cgroup".into())?);
        }
        if spec.namespaces.ipc == NsMode::Host {
            // A host without it shares none.
            outside.mqueue = clone_tree(CWD, Path::new("/dev/mqueue"), false).ok();
        }
        outside.root = Some(rootfs::detached(&spec.rootfs, kernel)?);
        Ok(outside)
    }
}

/// Makes what is to come from outside, and forks the container's first process in the user namespace `user`.
pub(crate) fn fork(setup: Setup<'_>, map: &IdMap, user: OwnedFd) -> ! {
    let sync = match rustix::io::fcntl_dupfd_cloexec(&setup.sync, 3) {
        Ok(sync) => sync,
        Err(_) => hostd_sys::fork::exit_now(126),
    };
    super::report(&sync, fork_inside(setup, map, user).map(|never| match never {}))
}

fn fork_inside(mut setup: Setup<'_>, map: &IdMap, user: OwnedFd) -> Attempt<Never> {
    // The first process is born there.
    super::enter_cgroup(setup.enters.take().map(super::door).transpose()?)?;
    setup.outside = Some(Outside::made_for(setup.spec, map, setup.kernel)?);
    rustix::thread::move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))
        .doing(|| "enter the user namespace".into())?;
    drop(user);
    become_root()?;
    let flags = super::clone_flags(setup.spec);
    let cloned = hostd_sys::fork::clone_sibling(setup.proof, flags)
        .doing(|| "clone the container's first process".into())?;
    match cloned {
        Cloned::Child => super::run(setup),
        Cloned::Parent { pidfd, .. } => {
            wire::send_fds(setup.sync.as_fd(), &[FORKED], &[pidfd.as_fd()])
                .doing(|| "tell the shim".into())?;
            hostd_sys::fork::exit_now(0)
        }
    }
}

/// Enters the namespaces of a running container, the user's first.
pub(crate) fn enter(init: BorrowedFd<'_>, namespaces: ThreadNameSpaceType) -> Attempt<()> {
    rustix::thread::move_into_thread_name_spaces(init, namespaces | ThreadNameSpaceType::USER)
        .doing(|| "enter the container's namespaces".into())?;
    become_root()
}

/// Becomes the root of the user namespace that was entered: until then this process is nobody in it.
fn become_root() -> Attempt<()> {
    let doing = || "become root of the user namespace".to_owned();
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_groups(&[]).doing(doing)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).doing(doing)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).doing(doing)?;
    program::stay_hidden()
}

/// The user and the group on the host that stand for the container's root.
pub(crate) fn root_of(map: &IdMap) -> Attempt<(Uid, Gid)> {
    let (uid, gid) =
        map.root().ok_or_else(|| Failure::new("the container's root stands for nobody on the host"))?;
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}
