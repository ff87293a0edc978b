//! Device nodes in the container's `/dev`.

use super::mounts::{DEV_OPTIONS, dev_links, labelled};
use super::remapped::root_of;
use super::rootfs::{Make, Root, clone_tree, filesystem, move_to, normal};
use crate::spec::{ContainerSpec, Device, DeviceNode, IdMap};
use crate::wire::{Attempt, Doing, Failure};
use hostd_sys::mount::NOSUID;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
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
#[derive(Clone, Debug)]
pub(crate) struct Node {
    path: String,
    node: DeviceNode,
}

impl Node {
    /// As `linux.devices` of the OCI runtime specification has it; `None` for what every runtime makes by itself.
    pub(crate) fn oci(&self) -> Option<Value> {
        if self.is_standard() {
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

    /// Where it is to be.
    fn is_standard(&self) -> bool {
        STANDARD.iter().any(|(path, ..)| *path == self.path)
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn is_in_dev(&self) -> bool {
        normal(&self.path).first() == Some(&"dev")
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
    let mut dev = None;
    for Node { path, node } in nodes {
        let parts = normal(path);
        let Some((name, above)) = parts.split_last() else {
            return Err(Failure::new(format!("invalid device path {path:?}")));
        };
        let elsewhere;
        let parent = match (above == ["dev"], &mut dev) {
            (false, _) => {
                elsewhere = root.place(&above.join("/"), Make::Dir)?;
                &elsewhere
            }
            (true, Some(dev)) => dev,
            (true, none) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                none.insert(root.open("/dev", flags).doing(|| "open /dev".into())?)
            }
        };
        let mode = Mode::from_raw_mode(node.mode);
        let kind = if node.block { FileType::BlockDevice } else { FileType::CharacterDevice };
        let number = rustix::fs::makedev(node.major, node.minor);
        match rustix::fs::mknodat(parent, *name, kind, mode, number) {
            Ok(()) if node.owner == (0, 0) => {}
            Ok(()) => {
                let (uid, gid) = (Uid::from_raw(node.owner.0), Gid::from_raw(node.owner.1));
                let flags = AtFlags::SYMLINK_NOFOLLOW;
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

/// Puts nodes in their places that a `/dev` of [`dev`] has brought along.
pub(crate) fn bind(root: &Root, dev: &OwnedFd, elsewhere: &[Node]) -> Attempt<()> {
    for (number, node) in elsewhere.iter().enumerate() {
        let doing = || format!("bind device {}", node.path);
        let name = brought_along(number);
        let clone = clone_tree(dev, Path::new(&name), false).doing(doing)?;
        let place = root.place(&node.path, Make::File)?;
        move_to(&clone, &place).doing(doing)?;
        // Not before: what is gone cannot be mounted any more.
        rustix::fs::unlinkat(dev, &name, AtFlags::empty()).doing(doing)?;
    }
    Ok(())
}

/// Makes the nodes besides the standard ones in the directory `at`, for another runtime to bind: the container's root
/// can make none. Each with the path that it is to have.
pub(crate) fn bring(
    nodes: &[Node],
    map: &IdMap,
    label: Option<&str>,
    at: &str,
) -> Attempt<Vec<(String, String)>> {
    let own: Vec<Node> = nodes.iter().filter(|node| !node.is_standard()).cloned().collect();
    if own.is_empty() {
        return Ok(Vec::new());
    }
    let made = dev(&[], &own, map, label)?;
    fs::create_dir(at).doing(|| format!("make {at}"))?;
    move_to(&made, Root::at(at)?.fd()).doing(|| format!("mount {at}"))?;
    let one = |(number, node): (usize, &Node)| (format!("{at}/{}", brought_along(number)), node.path.clone());
    Ok(own.iter().enumerate().map(one).collect())
}

/// What a node is called in `/dev` until it is put elsewhere.
fn brought_along(number: usize) -> String {
    format!(".elsewhere-{number}")
}

/// A whole `/dev`, attached nowhere, for a container whose root cannot make nodes; owned by that root. Those that are to
/// be elsewhere come along in it.
///
/// It belongs to the host's user namespace, without which its nodes could not be opened.
pub(crate) fn dev(nodes: &[Node], elsewhere: &[Node], map: &IdMap, label: Option<&str>) -> Attempt<OwnedFd> {
    let doing = || "make /dev".to_owned();
    let (uid, gid) = root_of(map)?;
    let dev = filesystem("tmpfs", &labelled(DEV_OPTIONS.to_vec(), label), NOSUID)?;
    rustix::fs::chownat(&dev, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).doing(doing)?;
    dev_links(&dev)?;
    for node in nodes {
        let parts = normal(&node.path);
        let Some((name, above)) = parts.get(1..).and_then(|parts| parts.split_last()) else { continue };
        let mut parent = rustix::io::fcntl_dupfd_cloexec(&dev, 3).doing(doing)?;
        for part in above {
            match rustix::fs::mkdirat(&parent, *part, Mode::from_raw_mode(0o755)) {
                Ok(()) => own(&parent, part, (uid, gid)).doing(doing)?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error).doing(doing),
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            parent = rustix::fs::openat(&parent, *part, flags, Mode::empty()).doing(doing)?;
        }
        make_for(&parent, name, node, map)?;
    }
    for (number, node) in elsewhere.iter().enumerate() {
        make_for(&dev, &brought_along(number), node, map)?;
    }
    Ok(dev)
}

/// Makes a node for the users of a user namespace.
fn make_for(parent: &OwnedFd, name: &str, Node { path, node }: &Node, map: &IdMap) -> Attempt<()> {
    let doing = || format!("make device {path}");
    let kind = if node.block { FileType::BlockDevice } else { FileType::CharacterDevice };
    let device = rustix::fs::makedev(node.major, node.minor);
    rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(node.mode), device).doing(doing)?;
    // Who stands for nobody inside gives way to root.
    let (uid, gid) = root_of(map)?;
    let uid = map.host_uid(node.owner.0).map_or(uid, Uid::from_raw);
    let gid = map.host_gid(node.owner.1).map_or(gid, Gid::from_raw);
    own(parent, name, (uid, gid)).doing(doing)
}

fn own(parent: &OwnedFd, name: &str, (uid, gid): (Uid, Gid)) -> rustix::io::Result<()> {
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}
