//! Device nodes in the container's `/dev`.

use super::rootfs::{Make, Root, normal};
use crate::spec::{ContainerSpec, Device, DeviceNode};
use crate::wire::{Attempt, Doing, Failure};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Device number of `/dev/null`.
pub(crate) const NULL: u64 = libc::makedev(1, 3);

/// What every container has: name, major, minor.
const STANDARD: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// How deep directories of devices may be nested.
const DEEPEST: u32 = 8;

/// A device node to make.
#[derive(Debug)]
pub(crate) struct Node {
    path: String,
    node: DeviceNode,
}

impl Node {
    /// As `linux.devices` of the OCI runtime specification has it; `None` for what every runtime makes by itself.
    pub(crate) fn oci(&self) -> Option<Value> {
        if STANDARD.iter().any(|(path, ..)| *path == self.path) {
            return None;
        }
        let node = &self.node;
        Some(json!({
            "path": self.path,
            "type": if node.block { "b" } else { "c" },
            "major": node.major,
            "minor": node.minor,
            "fileMode": node.mode,
            "uid": node.owner.0,
            "gid": node.owner.1,
        }))
    }
}

/// The device file that this is; `None` where it is none.
fn node_of(of: &Metadata) -> Option<DeviceNode> {
    let kind = of.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return None;
    }
    Some(DeviceNode {
        block: kind.is_block_device(),
        major: rustix::fs::major(of.rdev()),
        minor: rustix::fs::minor(of.rdev()),
        mode: of.mode() & 0o7777,
        owner: (of.uid(), of.gid()),
    })
}

/// Looks the devices up on the host, and puts the devices in a directory in the place of the directory.
///
/// # Errors
/// Says in Docker's words which one is not there, or no device.
pub fn expand(devices: &[Device]) -> Result<Vec<Device>, String> {
    let mut all = Vec::with_capacity(devices.len());
    for device in devices {
        let path = &device.path_on_host;
        let failed = |why: &str| {
            let path = path.display();
            format!("error gathering device information while adding custom device \"{path}\": {why}")
        };
        if device.node.is_some() {
            all.push(device.clone());
            continue;
        }
        let found = fs::metadata(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => failed("no such file or directory"),
            _ => failed(&error.to_string()),
        })?;
        if let Some(node) = node_of(&found) {
            all.push(Device { node: Some(node), ..device.clone() });
            continue;
        }
        let mut nodes = Vec::new();
        if found.is_dir() {
            walk(path, &device.path_in_container, &mut nodes, 0);
        }
        if nodes.is_empty() {
            return Err(failed("not a device node"));
        }
        all.extend(nodes.into_iter().map(|Node { path, node }| Device {
            path_in_container: path,
            node: Some(node),
            ..device.clone()
        }));
    }
    Ok(all)
}

/// The devices that the container gets; those of the spec are expanded.
pub(crate) fn gather(spec: &ContainerSpec) -> Vec<Node> {
    let standard = |&(path, major, minor): &(&str, u32, u32)| Node {
        path: path.to_owned(),
        node: DeviceNode { block: false, major, minor, mode: 0o666, owner: (0, 0) },
    };
    let mut nodes: Vec<Node> = STANDARD.iter().map(standard).collect();
    if spec.privileged {
        walk(Path::new("/dev"), "/dev", &mut nodes, 0);
    }
    for device in &spec.devices {
        if let Some(node) = device.node {
            nodes.retain(|known| known.path != device.path_in_container);
            nodes.push(Node { path: device.path_in_container.clone(), node });
        }
    }
    nodes
}

/// Adds every device below a directory; one that vanishes meanwhile is passed over.
fn walk(dir: &Path, inside: &str, nodes: &mut Vec<Node>, depth: u32) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (Ok(found), Some(name)) = (entry.metadata(), entry.file_name().to_str().map(str::to_owned))
        else {
            continue;
        };
        let path = format!("{}/{name}", inside.trim_end_matches('/'));
        if found.is_dir() {
            let own = matches!(path.as_str(), "/dev/pts" | "/dev/shm" | "/dev/mqueue" | "/dev/fd");
            if !own && depth < DEEPEST {
                walk(&entry.path(), &path, nodes, depth + 1);
            }
        } else if let Some(node) = node_of(&found) {
            // The container's console is its own, and ptmx is that of its devpts.
            if !matches!(path.as_str(), "/dev/console" | "/dev/ptmx")
                && !nodes.iter().any(|known| known.path == path)
            {
                nodes.push(Node { path, node });
            }
        }
    }
}

/// Makes the nodes.
pub(crate) fn make(root: &Root, nodes: &[Node]) -> Attempt<()> {
    let dev = root.open("/dev", OFlags::PATH | OFlags::DIRECTORY).doing(|| "open /dev".into())?;
    for Node { path, node } in nodes {
        let parts = normal(path);
        let Some((name, above)) = parts.split_last() else {
            return Err(Failure::new(format!("invalid device path {path:?}")));
        };
        let parent = if above == ["dev"] { None } else { Some(root.place(&above.join("/"), Make::Dir)?) };
        let parent = parent.as_ref().unwrap_or(&dev);
        let mode = Mode::from_raw_mode(node.mode);
        let kind = if node.block { FileType::BlockDevice } else { FileType::CharacterDevice };
        let number = rustix::fs::makedev(node.major, node.minor);
        match rustix::fs::mknodat(parent, *name, kind, mode, number) {
            Ok(()) if node.owner == (0, 0) => {}
            Ok(()) => {
                let (uid, gid) = (Uid::from_raw(node.owner.0), Gid::from_raw(node.owner.1));
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(parent, *name, Some(uid), Some(gid), flags)
                    .doing(|| format!("set the owner of {path}"))?;
            }
            // The user has mounted a /dev that has it.
            Err(Errno::EXIST) => {}
            Err(error) => return Err(Failure::new(format!("cannot make device {path}: {error}"))),
        }
    }
    Ok(())
}
