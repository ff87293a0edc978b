//! `config.json`.

use super::{Process, compact};
use crate::Kernel;
use crate::capabilities::CapSet;
use crate::cgroup::devices;
use crate::container::devices::Node;
use crate::container::identity::User;
use crate::container::mounts::replaced;
use crate::seccomp;
use crate::spec::{ContainerSpec, DeviceLimit, Extent, Mount, MountKind, NsMode, Resources, Seccomp};
use crate::spec::{MASKED_PATHS, READONLY_PATHS};
use crate::wire::{Attempt, Failure, chain};
use hostd_sys::mount::{NODEV, NOEXEC, NOSUID};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Where POSIX message queues are.
const MQUEUE: &str = "/dev/mqueue";

/// What `config.json` is made of besides the spec.
#[derive(Debug)]
pub(crate) struct Config<'a> {
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) kernel: Kernel,
    pub(crate) caps: CapSet,
    pub(crate) user: &'a User,
    /// Devices besides the standard ones.
    pub(crate) nodes: &'a [Node],
    /// Device nodes to bind, where the runtime cannot make them, and the paths that they are to have.
    pub(crate) bound_devices: &'a [(String, String)],
    /// Absolute path of the mounted root file system.
    pub(crate) rootfs: &'a str,
    /// As the runtime's cgroup manager takes it.
    pub(crate) cgroup: &'a str,
    /// A path to the network namespace; `None` is the host's.
    pub(crate) netns: Option<&'a str>,
    /// A path to the user namespace; `None` is the host's.
    pub(crate) userns: Option<&'a str>,
    /// A directory that is to be `/dev/shm`, where it is another container's.
    pub(crate) shm: Option<&'a str>,
}

impl Config<'_> {
    /// The whole of it.
    pub(crate) fn oci(&self) -> Attempt<Value> {
        // Field by field, so that a new one cannot be forgotten here.
        let ContainerSpec {
            id: _,
            id_map,
            args,
            env,
            cwd,
            user: _,
            group_add: _,
            hostname,
            domainname,
            tty,
            console_size,
            stdin: _,
            rootfs: _,
            read_only_rootfs,
            mounts,
            namespaces,
            privileged,
            cap_add: _,
            cap_drop: _,
            seccomp,
            no_new_privileges,
            apparmor,
            writable_cgroups: _,
            masked_paths,
            readonly_paths,
            resources: limits,
            cgroup_parent: _,
            devices,
            sysctls,
            ulimits,
            oom_score_adj,
            shm_size: _,
            no_shm: _,
            init: _,
            log: _,
            scratch: _,
            runtime: _,
            annotations,
            hooks,
            selinux,
        } = self.spec;
        let process = Process {
            args,
            env,
            cwd,
            user: self.user,
            tty: *tty,
            console_size: *console_size,
            caps: self.caps,
            no_new_privileges: *no_new_privileges,
            ulimits,
            oom_score_adj: oom_score_adj.unwrap_or(0),
            apparmor: apparmor.as_deref(),
            selinux: selinux.process(),
        };
        let mut limits_and_devices = resources(limits);
        let allowed = devices::oci(*privileged, devices, &limits.device_rules);
        limits_and_devices["devices"] = json!(allowed.map_err(|error| Failure::new(chain(&error)))?);
        let filter = if *privileged && *seccomp == Seccomp::Default {
            None
        } else {
            seccomp::oci(seccomp, self.caps).map_err(|error| Failure::new(chain(&error)))?
        };
        let own_uts = namespaces.uts == NsMode::Private;
        let paths = |own: &Option<Vec<String>>, default: &[&str]| match own {
            _ if *privileged => json!([]),
            Some(own) => json!(own),
            None => json!(default),
        };
        Ok(compact(json!({
            "ociVersion": "1.0.2",
            "process": process.oci(),
            "root": { "path": self.rootfs, "readonly": read_only_rootfs },
            "hostname": own_uts.then_some(hostname),
            "mounts": self.mounts(),
            "annotations": annotations,
            "hooks": (!hooks.is_empty()).then_some(hooks),
            "linux": {
                "namespaces": self.namespaces(),
                "uidMappings": id_map.as_ref().map(|map| extents(&map.uids)),
                "gidMappings": id_map.as_ref().map(|map| extents(&map.gids)),
                "devices": self.nodes.iter().filter_map(Node::oci).collect::<Vec<_>>(),
                "cgroupsPath": self.cgroup,
                "resources": limits_and_devices,
                "rootfsPropagation": propagation(mounts),
                "seccomp": filter,
                "maskedPaths": paths(masked_paths, &MASKED_PATHS),
                "readonlyPaths": paths(readonly_paths, &READONLY_PATHS),
                "mountLabel": selinux.mount(),
                "sysctl": sysctls_with(sysctls, if own_uts { domainname } else { "" }),
            },
        })))
    }

    fn namespaces(&self) -> Value {
        let spec = &self.spec.namespaces;
        let mut list = vec![json!({ "type": "mount" })];
        for (mode, kind, file) in [
            (spec.pid, "pid", "pid"),
            (spec.ipc, "ipc", "ipc"),
            (spec.uts, "uts", "uts"),
            (spec.cgroup, "cgroup", "cgroup"),
        ] {
            match mode {
                NsMode::Private => list.push(json!({ "type": kind })),
                NsMode::Of(pid) => {
                    list.push(json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") }))
                }
                NsMode::Host => {}
            }
        }
        list.extend(self.netns.map(|path| json!({ "type": "network", "path": path })));
        list.extend(self.userns.map(|path| json!({ "type": "user", "path": path })));
        json!(list)
    }

    /// The standard ones that the user's do not stand in place of, then the user's.
    fn mounts(&self) -> Value {
        let spec = self.spec;
        let write = |writable: bool| if writable { "rw" } else { "ro" };
        let (sys, cgroup) = (write(spec.privileged), write(spec.privileged || spec.writable_cgroups));
        let standard = [
            ("/proc", "proc", "nosuid,noexec,nodev"),
            ("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
            ("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
            ("/sys", "sysfs", &format!("nosuid,noexec,nodev,{sys}")),
            ("/sys/fs/cgroup", "cgroup", &format!("nosuid,noexec,nodev,{cgroup}")),
            (MQUEUE, "mqueue", "nosuid,noexec,nodev"),
        ];
        // In a user namespace that of the host cannot be mounted anew; a host without it shares none.
        let hosts_mqueue = spec.id_map.is_some() && spec.namespaces.ipc == NsMode::Host;
        let standard = standard
            .into_iter()
            .filter(|(path, ..)| !hosts_mqueue || *path != MQUEUE || Path::new(MQUEUE).exists())
            .map(|(path, kind, options)| match path {
                MQUEUE if hosts_mqueue => entry(path, "bind", path, "rbind,nosuid,noexec,nodev"),
                _ => entry(path, kind, kind, options),
            });
        let standard = standard.chain(self.shared_memory());
        let kept =
            standard.filter(|mount| !replaced(spec, mount["destination"].as_str().unwrap_or_default()));
        let devices = self.bound_devices.iter();
        let devices = devices.map(|(node, path)| entry(path, "bind", node, "bind,rw,rprivate,nosuid,noexec"));
        kept.chain(devices).chain(spec.mounts.iter().map(|mount| self.mount(mount))).collect()
    }

    /// `/dev/shm`: its own, another container's, or none.
    fn shared_memory(&self) -> Option<Value> {
        let spec = self.spec;
        if let Some(path) = self.shm {
            return Some(entry("/dev/shm", "bind", path, "bind,rw,rprivate"));
        }
        let size = if spec.shm_size > 0 { format!(",size={}", spec.shm_size) } else { String::new() };
        let options = format!("nosuid,noexec,nodev,mode=1777{size}");
        (!spec.no_shm).then(|| entry("/dev/shm", "tmpfs", "shm", &options))
    }

    fn mount(&self, mount: &Mount) -> Value {
        let mut options: Vec<String> = Vec::new();
        let mut add = |option: &str| options.push(option.to_owned());
        let (kind, source) = match &mount.kind {
            MountKind::Bind { source, propagation, recursive, attributes, shallow, subpath: _ } => {
                for (attribute, option) in [(NOSUID, "nosuid"), (NODEV, "nodev"), (NOEXEC, "noexec")] {
                    if attributes & attribute != 0 {
                        add(option);
                    }
                }
                add(if *recursive { "rbind" } else { "bind" });
                add(if mount.read_only { "ro" } else { "rw" });
                // The mounts below it too, where the kernel can.
                if mount.read_only && *recursive && !shallow && self.kernel.mount_setattr {
                    add("rro");
                }
                let propagation = propagation.as_deref().filter(|p| !p.is_empty()).unwrap_or("rprivate");
                // Crun takes the "r" for one of the bind; where there is one mount it means nothing.
                add(if *recursive { propagation } else { propagation.trim_start_matches('r') });
                ("bind", source.to_string_lossy().into_owned())
            }
            MountKind::Tmpfs { options: wanted } => {
                // Later ones win.
                ["nosuid", "nodev", "noexec"].into_iter().for_each(&mut add);
                wanted
                    .iter()
                    .flat_map(|list| list.split(','))
                    .filter(|option| !option.is_empty())
                    .for_each(&mut add);
                if mount.read_only {
                    add("ro");
                }
                ("tmpfs", "tmpfs".to_owned())
            }
        };
        json!({ "destination": mount.destination, "type": kind, "source": source, "options": options })
    }
}

/// One of `mounts`; its options stand between commas.
fn entry(destination: &str, kind: &str, source: &str, options: &str) -> Value {
    let options: Vec<&str> = options.split(',').collect();
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

/// Ids of a user namespace. It has them already; runtimes want to know which they are.
fn extents(extents: &[Extent]) -> Value {
    let one = |extent: &Extent| json!({ "containerID": extent.container, "hostID": extent.host, "size": extent.count });
    extents.iter().map(one).collect()
}

/// How far mounts may travel: as far as the most talkative of the user's binds needs, in Docker's words.
fn propagation(mounts: &[Mount]) -> Option<&'static str> {
    let any = |kinds: [&str; 2]| {
        mounts.iter().any(|mount| {
            matches!(&mount.kind, MountKind::Bind { propagation: Some(own), .. } if kinds.contains(&own.as_str()))
        })
    };
    if any(["shared", "rshared"]) {
        Some("shared")
    } else if any(["slave", "rslave"]) {
        Some("rslave")
    } else {
        None
    }
}

/// A NIS domain name is a kernel parameter: not every runtime knows the younger field for it.
fn sysctls_with(sysctls: &BTreeMap<String, String>, domainname: &str) -> BTreeMap<String, String> {
    let mut all = sysctls.clone();
    if !domainname.is_empty() {
        all.insert("kernel.domainname".to_owned(), domainname.to_owned());
    }
    all
}

/// `linux.resources`, without devices; also what `update` takes. The specification counts as cgroup v1 does, and
/// runtimes convert.
pub(crate) fn resources(limits: &Resources) -> Value {
    let Resources {
        memory,
        memory_reservation,
        memory_swap,
        memory_swappiness,
        kernel_memory_tcp,
        oom_kill_disable,
        cpu_shares,
        cpu_quota,
        cpu_period,
        cpu_rt_period,
        cpu_rt_runtime,
        cpuset_cpus,
        cpuset_mems,
        pids_limit,
        block_io: io,
        device_rules: _,
    } = limits;
    let rates = |limits: &[DeviceLimit], name: &str| {
        let one =
            |limit: &DeviceLimit| json!({ "major": limit.major, "minor": limit.minor, name: limit.value });
        (!limits.is_empty()).then(|| limits.iter().map(one).collect::<Value>())
    };
    let mut value = compact(json!({
        "memory": {
            "limit": memory,
            "reservation": memory_reservation,
            "swap": memory_swap,
            "swappiness": memory_swappiness,
            "kernelTCP": kernel_memory_tcp,
            "disableOOMKiller": oom_kill_disable,
        },
        "cpu": {
            "shares": cpu_shares,
            "quota": cpu_quota,
            "period": cpu_period,
            "realtimePeriod": cpu_rt_period,
            "realtimeRuntime": cpu_rt_runtime,
            "cpus": cpuset_cpus,
            "mems": cpuset_mems,
        },
        // -1 is none at all to a runtime, 0 only to Docker.
        "pids": pids_limit.map(|limit| json!({ "limit": if limit == 0 { -1 } else { limit } })),
        "blockIO": {
            "weight": io.weight,
            "weightDevice": rates(&io.device_weights, "weight"),
            "throttleReadBpsDevice": rates(&io.read_bps, "rate"),
            "throttleWriteBpsDevice": rates(&io.write_bps, "rate"),
            "throttleReadIOPSDevice": rates(&io.read_iops, "rate"),
            "throttleWriteIOPSDevice": rates(&io.write_iops, "rate"),
        },
    }));
    if let Value::Object(groups) = &mut value {
        groups.retain(|_, group| group.as_object().is_none_or(|group| !group.is_empty()));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_limits_that_are_set_are_written() {
        assert_eq!(resources(&Resources::default()), json!({}));
        let limits = Resources {
            memory: Some(1 << 20),
            memory_swap: Some(-1),
            cpuset_cpus: Some("0".to_owned()),
            pids_limit: Some(7),
            ..Resources::default()
        };
        assert_eq!(
            resources(&limits),
            json!({ "memory": { "limit": 1 << 20, "swap": -1 }, "cpu": { "cpus": "0" }, "pids": { "limit": 7 } })
        );
    }

    #[test]
    fn the_widest_propagation_is_that_of_the_root() {
        let bind = |propagation: &str| Mount {
            destination: "/m".to_owned(),
            kind: MountKind::Bind {
                source: "/m".into(),
                propagation: Some(propagation.to_owned()),
                recursive: true,
                attributes: 0,
                shallow: false,
                subpath: None,
            },
            read_only: false,
        };
        assert_eq!(propagation(&[bind("rprivate")]), None);
        assert_eq!(propagation(&[bind("rslave"), bind("private")]), Some("rslave"));
        assert_eq!(propagation(&[bind("rslave"), bind("rshared")]), Some("shared"));
    }
}
