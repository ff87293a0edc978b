//! Containers whose users are others on the host (`--userns-remap`): who they are there, and the namespaces that they need.
//!
//! All that such a daemon keeps is apart from what it keeps without: `<data-root>/<uid>.<gid>`, by the ids of the
//! containers' root. In there everything has its final owner from the moment it is unpacked or made. That works on
//! every file system and kernel, costs nothing when a container starts, and shows on the host whom a file belongs to,
//! none of which mounts with mapped ids would.

use crate::Engine;
use crate::create::{in_userns, target_container};
use crate::error::{EngineError, Result, io};
use crate::model::{ContainerRecord, HostConfig};
use hostd_runtime::spec::IdMap;
use hostd_runtime::userns;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

impl Engine {
    /// The ids of a container's users on the host, where they are others there.
    pub(crate) fn id_map(&self, host: &HostConfig) -> Option<&IdMap> {
        self.0.config.defaults.id_map.as_ref().filter(|_| in_userns(host, true))
    }

    /// The user namespace that owns the namespaces of other containers that a remapped one joins; as with Docker, it
    /// must then live in that one.
    pub(crate) fn joined_userns(&self, record: &ContainerRecord) -> Result<Option<OwnedFd>> {
        let host = &record.host;
        let mut joined: Option<File> = None;
        if self.id_map(host).is_none() {
            return Ok(None);
        }
        for target in [&host.network_mode, &host.ipc_mode, &host.pid_mode] {
            let Some(target) = target_container(target) else { continue };
            // One that does not run is refused where its namespace is opened.
            let Some((target, live)) =
                self.container(target).ok().and_then(|c| Some((c.clone(), c.live_now()?)))
            else {
                continue;
            };
            if self.id_map(&target.record().host).is_none() {
                return Err(EngineError::conflict(format!(
                    "cannot share namespaces of container {}: it runs in the host's user namespace",
                    target.id
                )));
            }
            let file = File::from(live.namespace("user")?);
            let same = |other: &File| match (other.metadata(), file.metadata()) {
                (Ok(other), Ok(file)) => other.ino() == file.ino(),
                _ => false,
            };
            if joined.as_ref().is_some_and(|other| !same(other)) {
                return Err(EngineError::conflict(
                    "cannot share namespaces of containers that are in different user namespaces",
                ));
            }
            joined = Some(file);
        }
        Ok(joined.map(OwnedFd::from))
    }
}

/// A network namespace, in the user namespace `user` or in a new one with these ids where there is a map. Blocks.
pub(crate) fn new_netns(map: Option<IdMap>, user: Option<OwnedFd>) -> Result<(OwnedFd, Option<OwnedFd>)> {
    let failed = || io("cannot make a user namespace");
    let (user, netns) = match (map, user) {
        (None, _) => return Ok((hostd_network::new_netns()?, None)),
        (Some(map), None) => userns::new(&map).map_err(failed())?,
        (Some(_), Some(user)) => {
            let netns = userns::network_in(user.as_fd()).map_err(failed())?;
            (user, netns)
        }
    };
    hostd_network::set_up_netns(netns.as_fd())?;
    Ok((netns, Some(user)))
}

/// Gives a file of ours to a container's root, where that is another than the host's.
pub(crate) fn give(path: &Path, root: Option<(u32, u32)>) -> Result<()> {
    match root {
        Some((uid, gid)) => chown(path, Some(uid), Some(gid))
            .map_err(io(format!("cannot set the owner of {}", path.display()))),
        None => Ok(()),
    }
}

/// Makes a directory and those above it; the new ones belong to a container's root.
pub(crate) fn make_dirs(path: &Path, root: Option<(u32, u32)>) -> std::io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|p| fs::symlink_metadata(p).is_err()).collect();
    fs::create_dir_all(path)?;
    match root {
        Some((uid, gid)) => missing.iter().try_for_each(|dir| chown(dir, Some(uid), Some(gid))),
        None => Ok(()),
    }
}
