//! Device nodes in the container's `/dev`.

use super::rootfs::{Make, Root, normal};
use crate::spec::ContainerSpec;
use crate::wire::{Attempt, Doing, Failure};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::fs::{self, Metadata};
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
    kind: FileType,
    mode: u32,
    device: u64,
    owner: (u32, u32),
}

impl Node {
    /// As `linux.devices` of the OCI runtime specification has it; `None` for what every runtime makes by itself.
    pub(crate) fn oci(&self) -> Option<Value> {
        if STANDARD.iter().any(|(path, ..)| *path == self.path) {
            return None;
        }
        let kind = if self.kind == FileType::BlockDevice { "b" } else { "c" };
        Some(json!({
            "path": self.path,
            "type": kind,
            "major": rustix::fs::major(self.device),
            "minor": rustix::fs::minor(self.device),
            "fileMode": self.mode,
            "uid": self.owner.0,
            "gid": self.owner.1,
        }))
    }

    fn like(path: String, of: &Metadata) -> Option<Self> {
        let kind = of.file_type();
        let kind = match (kind.is_char_device(), kind.is_block_device()) {
            (true, _) => FileType::CharacterDevice,
            (_, true) => FileType::BlockDevice,
            _ => return None,
        };
        Some(Self { path, kind, mode: of.mode() & 0o7777, device: of.rdev(), owner: (of.uid(), of.gid()) })
    }
}

/// Looks at the host's devices that the container gets.
pub(crate) fn gather(spec: &ContainerSpec) -> Attempt<Vec<Node>> {
    let mut nodes: Vec<Node> = STANDARD
        .iter()
        .map(|&(path, major, minor)| Node {
            path: path.to_owned(),
            kind: FileType::CharacterDevice,
            mode: 0o666,
            device: rustix::fs::makedev(major, minor),
            owner: (0, 0),
        })
        .collect();
    if spec.privileged {
        walk(Path::new("/dev"), "/dev", &mut nodes, 0);
    }
    for device in &spec.devices {
        let path = &device.path_on_host;
        let gathering = || format!("error gathering device information while adding custom device {path:?}");
        let found = fs::metadata(path).map_err(|e| Failure::new(format!("{}: {e}", gathering())))?;
        if found.is_dir() {
            walk(path, &device.path_in_container, &mut nodes, 0);
        } else {
            let node = Node::like(device.path_in_container.clone(), &found)
                .ok_or_else(|| Failure::new(format!("{}: not a device node", gathering())))?;
            nodes.retain(|known| known.path != node.path);
            nodes.push(node);
        }
    }
    Ok(nodes)
}

/// Adds every device below a directory; one that vanishes meanwhile is passed over.
fn walk(dir: &Path, inside: &str, nodes: &mut Vec<Node>, depth: u32) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (Ok(found), Some(name)) = (entry.metadata(), entry.file_name().to_str().map(str::to_owned))
        else {
            continue;
        };
        let path = format!("{inside}/{name}");
        if found.is_dir() {
            let own = matches!(path.as_str(), "/dev/pts" | "/dev/shm" | "/dev/mqueue" | "/dev/fd");
            if !own && depth < DEEPEST {
                walk(&entry.path(), &path, nodes, depth + 1);
            }
        } else if let Some(node) = Node::like(path, &found) {
            // The container's console is its own, and ptmx is that of its devpts.
            if !matches!(node.path.as_str(), "/dev/console" | "/dev/ptmx")
                && !nodes.iter().any(|known| known.path == node.path)
            {
                nodes.push(node);
            }
        }
    }
}

/// Makes the nodes.
pub(crate) fn make(root: &Root, nodes: &[Node]) -> Attempt<()> {
    let dev = root.open("/dev", OFlags::PATH | OFlags::DIRECTORY).doing(|| "open /dev".into())?;
    for node in nodes {
        let parts = normal(&node.path);
        let Some((name, above)) = parts.split_last() else {
            return Err(Failure::new(format!("invalid device path {:?}", node.path)));
        };
        let parent = if above == ["dev"] { None } else { Some(root.place(&above.join("/"), Make::Dir)?) };
        let parent = parent.as_ref().unwrap_or(&dev);
        let mode = Mode::from_raw_mode(node.mode);
        match rustix::fs::mknodat(parent, *name, node.kind, mode, node.device) {
            Ok(()) if node.owner == (0, 0) => {}
            Ok(()) => {
                let (uid, gid) = (Uid::from_raw(node.owner.0), Gid::from_raw(node.owner.1));
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(parent, *name, Some(uid), Some(gid), flags)
                    .doing(|| format!("set the owner of {}", node.path))?;
            }
            // The user has mounted a /dev that has it.
            Err(Errno::EXIST) => {}
            Err(error) => return Err(Failure::new(format!("cannot make device {}: {error}", node.path))),
        }
    }
    Ok(())
}
