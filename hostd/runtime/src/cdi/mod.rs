//! CDI: devices that a vendor describes in files, with all that a container needs to use them.
//!
//! A device has a qualified name, `vendor.com/class=name`. What a container gets ([`Registry::inject`]): what the
//! file says for all its devices, once, and what it says for the device: environment, device files, mounts, groups.
//! A device that two files of one directory describe is in conflict and not to be had; between directories the
//! later one wins.

mod document;
mod yaml;

use crate::spec::{ContainerSpec, Device, DeviceNode, Hook, Mount, MountKind};
use document::{Document, Edits, Node};
use hostd_sys::mount::{NODEV, NOEXEC, NOSUID};
use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

/// Largest file that is read.
const LARGEST: u64 = 4 << 20;

/// The devices that are described.
#[derive(Debug, Default)]
pub struct Registry {
    devices: BTreeMap<String, Known>,
    /// What is wrong with files and directories, by path.
    errors: Vec<(PathBuf, String)>,
}

#[derive(Debug)]
struct Known {
    file: Arc<File>,
    /// Place in the file's list.
    at: usize,
    /// Place of its directory in the list.
    directory: usize,
    conflict: bool,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    document: Document,
}

impl Registry {
    /// Reads all `.json` and `.yaml` files in these directories; a directory that does not exist has none.
    pub fn load(dirs: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for (directory, dir) in dirs.iter().enumerate() {
            let mut paths: Vec<_> = match fs::read_dir(dir) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    registry.errors.push((dir.clone(), error.to_string()));
                    continue;
                }
            };
            paths.sort();
            for path in paths {
                if path.extension().is_some_and(|kind| kind == "json" || kind == "yaml") {
                    match read(&path) {
                        Ok(document) => registry.add(File { path, document }, directory),
                        Err(error) => registry.errors.push((path, error)),
                    }
                }
            }
        }
        registry
    }

    fn add(&mut self, file: File, directory: usize) {
        let file = Arc::new(file);
        for (at, device) in file.document.devices.iter().enumerate() {
            let name = format!("{}={}", file.document.kind, device.name);
            let known = Known { file: Arc::clone(&file), at, directory, conflict: false };
            match self.devices.get_mut(&name) {
                Some(other) if other.directory == directory => {
                    other.conflict = true;
                    let files = (file.path.display(), other.file.path.display());
                    let error = format!(
                        "conflicting device {name:?} (specs {:?}, {:?})",
                        files.1.to_string(),
                        files.0.to_string()
                    );
                    self.errors.push((file.path.clone(), error));
                }
                _ => drop(self.devices.insert(name, known)),
            }
        }
    }

    /// Qualified names of all devices, in order.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        self.devices.iter().filter(|(_, known)| !known.conflict).map(|(name, _)| name.as_str())
    }

    /// What is wrong with files and directories, by path.
    pub fn errors(&self) -> &[(PathBuf, String)] {
        &self.errors
    }

    /// Gives a container these devices.
    ///
    /// # Errors
    /// Names the devices that are not described, or what of a description cannot be done.
    pub fn inject(&self, spec: &mut ContainerSpec, names: &[String]) -> Result<(), String> {
        let find = |name: &String| self.devices.get(name.as_str()).filter(|known| !known.conflict);
        let missing: Vec<_> = names.iter().filter(|name| find(name).is_none()).cloned().collect();
        if !missing.is_empty() {
            return Err(format!("unresolvable CDI devices {}", missing.join(", ")));
        }
        let mut common: Vec<&Path> = Vec::new();
        for known in names.iter().filter_map(find) {
            let document = &known.file.document;
            if let Some(edits) = &document.container_edits
                && !common.contains(&known.file.path.as_path())
            {
                common.push(&known.file.path);
                apply(edits, spec)?;
            }
            apply(&document.devices[known.at].container_edits, spec)?;
        }
        spec.mounts.sort_by_key(|mount| mount.destination.matches('/').count());
        Ok(())
    }
}

fn read(path: &Path) -> Result<Document, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err("not a regular file of a sensible size".to_owned());
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let value = if path.extension().is_some_and(|kind| kind == "json") {
        serde_json::from_str(&text).map_err(|error| error.to_string())?
    } else {
        yaml::to_json(&text)?
    };
    let document: Document = serde_json::from_value(value).map_err(|error| error.to_string())?;
    document.validate().map(|()| document)
}

fn apply(edits: &Edits, spec: &mut ContainerSpec) -> Result<(), String> {
    for hook in edits.hooks.iter().flatten() {
        if spec.id_map.is_some() {
            let (name, path) = (&hook.hook_name, &hook.path);
            return Err(format!(
                "its {name} hook {path} is not supported in a user namespace (--userns=host has none)"
            ));
        }
        spec.hooks.add(&hook.hook_name, hook_of(hook))?;
    }
    for (asked, what) in [(&edits.intel_rdt, "intelRdt"), (&edits.net_devices, "netDevices")] {
        if asked.as_ref().is_some_and(|value| !value.is_null()) {
            return Err(format!("{what} is not supported by hostd yet"));
        }
    }
    for variable in edits.env.iter().flatten() {
        let name = variable.split_once('=').map(|(name, _)| name).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("invalid environment variable {variable:?}"))?;
        spec.env.retain(|other| other.split('=').next() != Some(name));
        spec.env.push(variable.clone());
    }
    for node in edits.device_nodes.iter().flatten() {
        let device = device(node)?;
        spec.devices.retain(|other| other.path_in_container != device.path_in_container);
        spec.devices.push(device);
    }
    for asked in edits.mounts.iter().flatten() {
        let mount = mount(asked)?;
        spec.mounts.retain(|other| other.destination != mount.destination);
        spec.mounts.push(mount);
    }
    // Group 0 is not given away by a file.
    let gids = edits.additional_gids.iter().flatten().filter(|gid| **gid != 0);
    spec.group_add.extend(gids.map(u32::to_string));
    Ok(())
}

fn hook_of(asked: &document::Hook) -> Hook {
    Hook {
        path: asked.path.clone(),
        args: asked.args.clone().unwrap_or_default(),
        env: asked.env.clone().unwrap_or_default(),
        timeout: asked.timeout,
    }
}

/// What the description leaves open is as on the host.
fn device(asked: &Node) -> Result<Device, String> {
    let host_path = asked.host_path.as_deref().unwrap_or(&asked.path);
    if !asked.path.starts_with('/') || !host_path.starts_with('/') {
        return Err(format!("invalid device path {:?}", asked.path));
    }
    let permissions = asked.permissions.as_deref().filter(|text| !text.is_empty()).unwrap_or("rwm");
    if !permissions.chars().all(|c| "rwm".contains(c)) {
        return Err(format!("device {:?} has invalid permissions {permissions:?}", asked.path));
    }
    let block = match asked.r#type.as_deref() {
        None | Some("") => None,
        Some("b") => Some(true),
        Some("c" | "u") => Some(false),
        Some(other) => return Err(format!("device {:?} has unsupported type {other:?}", asked.path)),
    };
    let node = match (block, asked.major.filter(|major| *major != 0)) {
        (Some(block), Some(major)) => {
            DeviceNode { block, major, minor: asked.minor.unwrap_or(0), mode: 0o666, owner: (0, 0) }
        }
        _ => on_host(host_path, block)?,
    };
    let owner = (asked.uid.unwrap_or(node.owner.0), asked.gid.unwrap_or(node.owner.1));
    Ok(Device {
        path_on_host: host_path.into(),
        path_in_container: asked.path.clone(),
        permissions: permissions.to_owned(),
        node: Some(DeviceNode { mode: asked.file_mode.unwrap_or(node.mode) & 0o7777, owner, ..node }),
    })
}

fn on_host(path: &str, wanted: Option<bool>) -> Result<DeviceNode, String> {
    let found =
        fs::metadata(path).map_err(|error| format!("failed to stat CDI host device {path:?}: {error}"))?;
    let kind = found.file_type();
    if !kind.is_block_device() && !kind.is_char_device() {
        return Err(format!("CDI host device {path:?} is not a device node"));
    }
    if wanted.is_some_and(|block| block != kind.is_block_device()) {
        return Err(format!("CDI device {path:?}, host type mismatch"));
    }
    Ok(DeviceNode {
        block: kind.is_block_device(),
        major: rustix::fs::major(found.rdev()),
        minor: rustix::fs::minor(found.rdev()),
        mode: found.mode() & 0o7777,
        owner: (found.uid(), found.gid()),
    })
}

fn mount(asked: &document::Mount) -> Result<Mount, String> {
    let path = &asked.container_path;
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(format!("invalid mount, container path {path:?}"));
    }
    let options = asked.options.clone().unwrap_or_default();
    match asked.r#type.as_deref() {
        Some("tmpfs") => {
            let read_only = options.iter().any(|option| option == "ro");
            return Ok(Mount { destination: path.clone(), kind: MountKind::Tmpfs { options }, read_only });
        }
        None | Some("" | "bind" | "none") => {}
        Some(other) => return Err(format!("mount on {path:?} has unsupported type {other:?}")),
    }
    if !asked.host_path.starts_with('/') {
        return Err(format!("invalid mount, host path {:?}", asked.host_path));
    }
    let (mut read_only, mut recursive, mut propagation, mut attributes) = (false, false, None, 0);
    for option in &options {
        match option.as_str() {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "bind" => recursive = false,
            "rbind" => recursive = true,
            "nosuid" => attributes |= NOSUID,
            "nodev" => attributes |= NODEV,
            "noexec" => attributes |= NOEXEC,
            "suid" => attributes &= !NOSUID,
            "dev" => attributes &= !NODEV,
            "exec" => attributes &= !NOEXEC,
            "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => {
                propagation = Some(option.clone());
            }
            "relatime" => {}
            other => return Err(format!("mount on {path:?} has unsupported option {other:?}")),
        }
    }
    let source = asked.host_path.clone().into();
    let kind = MountKind::Bind { source, propagation, recursive, attributes, shallow: false, subpath: None };
    Ok(Mount { destination: path.clone(), kind, read_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NVIDIA: &str = r#"---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/gpu0
      hostPath: /dev/null
      permissions: rw
      uid: 7
      fileMode: 0o640
- name: all
  containerEdits:
    deviceNodes:
    - {path: /dev/gpu1, type: c, major: 195, minor: 1}
containerEdits:
  env: ["NVIDIA_VISIBLE_DEVICES=void", "OLD=new"]
  mounts:
  - containerPath: /usr/lib/gpu.so
    hostPath: /usr/lib/gpu.so
    options: [ro, nosuid, nodev, rbind, rprivate]
  additionalGids: [0, 44]
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
    args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib]
    env: [NVIDIA_CTK_DEBUG=false]
"#;

    fn registry(files: &[(&str, &str)]) -> Registry {
        let temp = tempfile::tempdir().unwrap();
        let dirs = ["a", "b"].map(|name| temp.path().join(name));
        for (path, text) in files {
            let path = temp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Registry::load(&dirs)
    }

    fn spec() -> ContainerSpec {
        let rootfs = serde_json::json!({ "lower": [], "upper": "/u", "work": "/w" });
        let value = serde_json::json!({
            "id": "x", "args": [], "env": ["OLD=old"], "cwd": "/", "user": "", "group_add": [], "hostname": "",
            "domainname": "", "tty": false, "console_size": null, "stdin": "Null", "rootfs": rootfs,
            "read_only_rootfs": false, "mounts": [], "privileged": false, "cap_add": [], "cap_drop": [],
            "namespaces": { "pid": "Private", "ipc": "Private", "uts": "Private", "cgroup": "Private" },
            "seccomp": "Default", "no_new_privileges": false, "masked_paths": null, "readonly_paths": null,
            "resources": {}, "cgroup_parent": null, "devices": [], "sysctls": {}, "ulimits": [],
            "oom_score_adj": null, "shm_size": 0, "init": false, "log": {},
        });
        serde_json::from_value(value).unwrap()
    }

    fn inject(registry: &Registry, names: &[&str]) -> Result<ContainerSpec, String> {
        let mut spec = spec();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        registry.inject(&mut spec, &names).map(|()| spec)
    }

    #[test]
    fn a_device_brings_all_that_its_description_says() {
        let registry = registry(&[("a/nvidia.yaml", NVIDIA), ("a/readme.txt", "not one")]);
        assert_eq!(registry.devices().collect::<Vec<_>>(), ["nvidia.com/gpu=0", "nvidia.com/gpu=all"]);
        assert!(registry.errors().is_empty(), "{:?}", registry.errors());
        let spec = inject(&registry, &["nvidia.com/gpu=0", "nvidia.com/gpu=all"]).unwrap();
        assert_eq!(spec.env, ["NVIDIA_VISIBLE_DEVICES=void", "OLD=new"]);
        assert_eq!(spec.group_add, ["44"]);
        let hook = &spec.hooks.create_container[0];
        assert_eq!(
            (hook.path.as_str(), hook.args[1].as_str()),
            ("/usr/bin/nvidia-cdi-hook", "update-ldcache")
        );
        let nodes: Vec<_> =
            spec.devices.iter().map(|d| (d.path_in_container.as_str(), d.node.unwrap())).collect();
        assert_eq!(nodes[0].0, "/dev/gpu0");
        let null = nodes[0].1;
        assert_eq!((null.major, null.minor, null.mode, null.owner.0), (1, 3, 0o640, 7));
        assert_eq!((nodes[1].1.major, nodes[1].1.minor, nodes[1].1.mode), (195, 1, 0o666));
        assert_eq!(
            (spec.devices[0].permissions.as_str(), spec.devices[1].permissions.as_str()),
            ("rw", "rwm")
        );
        assert_eq!(spec.mounts.len(), 1, "what goes for all devices is done once");
        assert!(spec.mounts[0].read_only);
        assert!(matches!(
            &spec.mounts[0].kind,
            MountKind::Bind { recursive: true, attributes, .. } if *attributes == NOSUID | NODEV
        ));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let with = |edits: &str| {
            let text = format!(
                r#"{{"cdiVersion": "0.6.0", "kind": "v.com/c", "devices": [{{"name": "d", "containerEdits": {edits}}}]}}"#
            );
            inject(&registry(&[("a/x.json", &text)]), &["v.com/c=d"]).map(drop).unwrap_err()
        };
        for (edits, words) in [
            (
                r#"{"hooks": [{"hookName": "createContainer", "path": "bin/x"}]}"#,
                "invalid createContainer hook \"bin/x\": its path is not absolute",
            ),
            (r#"{"deviceNodes": [{"path": "dev/x"}]}"#, "invalid device path"),
            (r#"{"deviceNodes": [{"path": "/dev/no-such-device"}]}"#, "failed to stat CDI host device"),
            (r#"{"deviceNodes": [{"path": "/dev/null", "permissions": "rx"}]}"#, "invalid permissions"),
            (r#"{"mounts": [{"hostPath": "/x", "containerPath": "/../x"}]}"#, "invalid mount"),
            (
                r#"{"mounts": [{"hostPath": "/x", "containerPath": "/x", "options": ["odd"]}]}"#,
                "unsupported option",
            ),
            (r#"{"env": ["x"]}"#, "invalid environment variable"),
            (r#"{"intelRdt": {"closID": "x"}}"#, "intelRdt is not supported"),
            (r#"{"colour": "red"}"#, "unresolvable CDI devices v.com/c=d"),
        ] {
            let error = with(edits);
            assert!(error.contains(words), "{edits}: {error}");
        }
        let error = inject(&registry(&[]), &["a.com/b=1", "a.com/b=2"]).map(drop).unwrap_err();
        assert_eq!(error, "unresolvable CDI devices a.com/b=1, a.com/b=2");
    }

    #[test]
    fn the_later_directory_wins_and_a_conflict_is_nobodys() {
        let one = |env: &str| {
            format!(
                r#"{{"cdiVersion": "1.0.0", "kind": "v.com/c", "devices": [{{"name": "d", "containerEdits": {{"env": ["A={env}"]}}}}]}}"#
            )
        };
        let (low, high) = (one("low"), one("high"));
        let both = registry(&[("a/x.json", &low), ("b/x.json", &high)]);
        assert_eq!(inject(&both, &["v.com/c=d"]).unwrap().env[1], "A=high");
        let conflict = registry(&[("a/x.json", &low), ("a/y.json", &high)]);
        assert!(
            conflict.errors()[0].1.contains("conflicting device \"v.com/c=d\""),
            "{:?}",
            conflict.errors()
        );
        assert!(inject(&conflict, &["v.com/c=d"]).is_err());
        assert_eq!(conflict.devices().count(), 0);
    }
}
