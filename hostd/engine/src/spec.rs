//! From a record to what the runtime is asked for.

use crate::Engine;
use crate::container::Container;
use crate::create::{SecurityOptions, is_host, is_shareable, security_options, target_container};
use crate::error::{EngineError, Result};
use crate::model::{ContainerRecord, DeviceRate, MountType, Resources, Status};
use hostd_image::Snapshot;
use hostd_runtime::selinux;
use hostd_runtime::spec::{
    self, ContainerSpec, Hooks, Labels, Log, Mount, MountKind, Namespaces, NetNs, NsMode, RootFs, Stdin,
    TtySize,
};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Engine {
    /// What the runtime is to build for `record`.
    pub(crate) fn spec_of(
        &self,
        record: &ContainerRecord,
        net: NetNs,
        user: Option<OwnedFd>,
        snapshot: Snapshot,
        log: Log,
    ) -> Result<ContainerSpec> {
        let (config, host) = (&record.config, &record.host);
        // Labels are settled at create.
        let SecurityOptions { no_new_privileges, seccomp, apparmor, writable_cgroups, labels: _ } =
            security_options(host, &self.0.config.defaults.security)?;
        let selinux = labels(record);
        let mut spec = ContainerSpec {
            id: record.id.clone(),
            args: record.args.clone(),
            env: environment(record, self.linked_environment(record)?),
            cwd: if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir.clone() },
            user: config.user.clone(),
            group_add: host.group_add.clone(),
            hostname: config.hostname.clone(),
            domainname: config.domainname.clone(),
            tty: config.tty,
            console_size: host.console_size.and_then(tty_size),
            stdin: match (config.open_stdin, config.stdin_once) {
                (false, _) => Stdin::Null,
                (true, false) => Stdin::Open,
                (true, true) => Stdin::Once,
            },
            rootfs: RootFs {
                lower: snapshot.lower,
                upper: snapshot.upper,
                work: snapshot.work,
                label: selinux.mount.clone(),
            },
            read_only_rootfs: host.readonly_rootfs,
            mounts: mounts(record),
            namespaces: self.namespaces(record, net, user)?,
            id_map: self.id_map(host).cloned(),
            privileged: host.privileged,
            cap_add: host.cap_add.clone(),
            cap_drop: host.cap_drop.clone(),
            seccomp,
            no_new_privileges,
            apparmor: self.apparmor_profile(apparmor, host.privileged)?,
            masked_paths: host.masked_paths.clone(),
            readonly_paths: host.readonly_paths.clone(),
            resources: resources(&host.resources, &host.device_cgroup_rules)?,
            cgroup_parent: (!host.cgroup_parent.is_empty()).then(|| host.cgroup_parent.clone()),
            devices: devices(&host.devices)?,
            sysctls: host.sysctls.clone(),
            ulimits: self.ulimits(&host.ulimits),
            oom_score_adj: host.oom_score_adj,
            shm_size: host.shm_size.unwrap_or(64 << 20),
            no_shm: host.ipc_mode == "none",
            writable_cgroups,
            init: host.init.unwrap_or(false),
            runtime: self.0.runtimes().find(&host.runtime)?,
            annotations: host.annotations.clone(),
            hooks: Hooks::default(),
            selinux,
            log,
            scratch: Some(self.container_dir(&record.id)),
        };
        self.give_devices(&host.device_requests, &mut spec)?;
        self.give_init(host, &mut spec)?;
        Ok(spec)
    }

    /// Those asked for, and the daemon's for what was not.
    fn ulimits(&self, asked: &[(String, i64, i64)]) -> Vec<spec::Ulimit> {
        let defaults = self.0.config.defaults.ulimits.iter();
        let open = defaults.filter(|(name, ..)| !asked.iter().any(|(other, ..)| other == name));
        asked.iter().chain(open).map(ulimit).collect()
    }

    fn namespaces(&self, record: &ContainerRecord, net: NetNs, user: Option<OwnedFd>) -> Result<Namespaces> {
        let host = &record.host;
        let own_or_host = |mode: &str| if is_host(mode) { NsMode::Host } else { NsMode::Private };
        let pid = match target_container(&host.pid_mode) {
            Some(target) => NsMode::Of(self.joinable(target, "failed to join PID namespace")?.1),
            None => own_or_host(&host.pid_mode),
        };
        let ipc = match target_container(&host.ipc_mode) {
            Some(target) => NsMode::Of(self.ipc_target(target)?),
            None => own_or_host(&host.ipc_mode),
        };
        Ok(Namespaces {
            net,
            user,
            pid,
            ipc,
            uts: own_or_host(&host.uts_mode),
            cgroup: own_or_host(&host.cgroupns_mode),
        })
    }

    /// A container that runs, so that another can join a namespace of it, and its pid; Docker's refusals, after `what`.
    fn joinable(&self, target: &str, what: &str) -> Result<(Arc<Container>, i32)> {
        let container =
            self.container(target).map_err(|e| EngineError::invalid(format!("{what}: {}", e.message)))?;
        let id = &container.id;
        if container.record().state.status == Status::Restarting {
            return Err(EngineError::conflict(format!(
                "{what}: Container {id} is restarting, wait until the container is running"
            )));
        }
        let live = container.live().map_err(|e| EngineError::conflict(format!("{what}: {}", e.message)))?;
        Ok((container, live.pid()))
    }

    /// Pid of the container whose IPC namespace is to be joined.
    fn ipc_target(&self, target: &str) -> Result<i32> {
        let (container, pid) = self.joinable(target, "failed to join IPC namespace")?;
        if is_shareable(&container.record().host.ipc_mode) {
            return Ok(pid);
        }
        Err(EngineError::invalid(format!(
            "failed to join IPC namespace: container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor \
             container)",
            container.id
        )))
    }
}

/// What was settled at create; nothing where the host is without SELinux now.
fn labels(record: &ContainerRecord) -> Labels {
    if record.mount_label.is_empty() || !selinux::is_enabled() {
        return Labels::default();
    }
    Labels { process: record.process_label.clone(), mount: record.mount_label.clone() }
}

pub(crate) fn tty_size((rows, cols): (u16, u16)) -> Option<TtySize> {
    (rows > 0 && cols > 0).then_some(TtySize { rows, cols })
}

/// The environment of a container's processes: the engine's part, that of its links, then the configuration's.
pub(crate) fn environment(record: &ContainerRecord, linked: Vec<String>) -> Vec<String> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={}", record.config.hostname)];
    if record.config.tty {
        env.push("TERM=xterm".to_owned());
    }
    env.extend(linked);
    override_env(&mut env, &record.config.env);
    env
}

/// Puts `more` into `env`: `NAME=value` replaces or adds, `NAME` alone takes away. The time taken grows with the lists'
/// length alone: a client may send a hundred thousand.
pub(crate) fn override_env(env: &mut Vec<String>, more: &[String]) {
    let name = |variable: &str| variable.split('=').next().unwrap_or(variable).to_owned();
    let mut slots: Vec<Option<String>> = env.drain(..).map(Some).collect();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (at, own) in slots.iter().enumerate() {
        // The first of a name counts.
        places.entry(name(own.as_deref().unwrap_or_default())).or_insert(at);
    }
    for variable in more {
        let known = places.get(&name(variable)).copied();
        match (known, variable.contains('=')) {
            (Some(at), true) => slots[at] = Some(variable.clone()),
            (Some(at), false) => {
                slots[at] = None;
                places.remove(variable);
            }
            (None, true) => {
                places.insert(name(variable), slots.len());
                slots.push(Some(variable.clone()));
            }
            (None, false) => {}
        }
    }
    env.extend(slots.into_iter().flatten());
}

/// The files that hostd makes, then what the client asked for, so that it may cover them.
pub(crate) fn mounts(record: &ContainerRecord) -> Vec<Mount> {
    let bind = |source: &str, destination: &str| Mount {
        destination: destination.to_owned(),
        kind: MountKind::Bind {
            source: source.into(),
            propagation: None,
            recursive: true,
            attributes: 0,
            shallow: false,
            subpath: None,
        },
        read_only: false,
    };
    let mut mounts = Vec::with_capacity(record.mounts.len() + 4);
    let covered = |path: &str| record.mounts.iter().any(|mount| mount.destination == path);
    for (source, destination) in [
        (&record.hostname_path, "/etc/hostname"),
        (&record.hosts_path, "/etc/hosts"),
        (&record.resolv_conf_path, "/etc/resolv.conf"),
    ] {
        if !covered(destination) {
            mounts.push(bind(source, destination));
        }
    }
    if record.host.ipc_mode == "host" && !covered("/dev/shm") {
        mounts.push(bind("/dev/shm", "/dev/shm"));
    }
    for (path, options) in &record.host.tmpfs {
        // Docker's defaults; later options win in the kernel.
        let defaults = ["noexec", "nosuid", "nodev"].map(str::to_owned);
        let asked = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned);
        let asked: Vec<String> = asked.collect();
        let read_only = asked.iter().any(|option| option == "ro");
        let keep = |option: &String| !asked.iter().any(|own| option.strip_prefix("no") == Some(own.as_str()));
        let options = defaults
            .into_iter()
            .filter(keep)
            .chain(asked.iter().filter(|o| *o != "ro" && *o != "rw").cloned());
        let kind = MountKind::Tmpfs { options: options.collect() };
        mounts.push(Mount { destination: path.clone(), kind, read_only });
    }
    mounts.extend(record.mounts.iter().map(|point| Mount {
        destination: point.destination.clone(),
        read_only: !point.rw,
        kind: match point.kind {
            MountType::Tmpfs => MountKind::Tmpfs { options: point.options.clone() },
            MountType::Bind | MountType::Volume => MountKind::Bind {
                source: PathBuf::from(&point.source),
                propagation: (!point.propagation.is_empty()).then(|| point.propagation.clone()),
                recursive: point.recursive,
                attributes: 0,
                shallow: point.shallow,
                subpath: point.subpath.clone(),
            },
        },
    }));
    // A parent that is mounted after its child would hide it.
    mounts.sort_by_key(|mount| mount.destination.matches('/').count());
    mounts
}

/// Looked up on the host, so that other runtimes get them in the same way.
fn devices(asked: &[(String, String, String)]) -> Result<Vec<spec::Device>> {
    let asked: Vec<_> = asked.iter().map(device).collect();
    hostd_runtime::expand_devices(&asked).map_err(EngineError::internal)
}

fn device((path_on_host, path_in_container, permissions): &(String, String, String)) -> spec::Device {
    spec::Device {
        path_on_host: path_on_host.into(),
        path_in_container: path_in_container.clone(),
        permissions: permissions.clone(),
        node: None,
    }
}

fn ulimit((name, soft, hard): &(String, i64, i64)) -> spec::Ulimit {
    spec::Ulimit { name: name.clone(), soft: *soft, hard: *hard }
}

/// Docker's numbers, where zero is "not set", to the runtime's options.
pub(crate) fn resources(from: &Resources, device_rules: &[String]) -> Result<spec::Resources> {
    const PERIOD: i64 = 100_000;
    let set = |value: i64| (value != 0).then_some(value);
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    let (quota, period) = match from.nano_cpus {
        0 => (set(from.cpu_quota), positive(from.cpu_period)),
        // Billionths of a CPU to microseconds of every tenth of a second.
        nano => (Some(nano / (1_000_000_000 / PERIOD)), positive(PERIOD)),
    };
    Ok(spec::Resources {
        memory: set(from.memory),
        memory_reservation: set(from.memory_reservation),
        memory_swap: set(from.memory_swap).filter(|_| from.memory > 0),
        memory_swappiness: from.memory_swappiness.and_then(|value| u64::try_from(value).ok()),
        kernel_memory_tcp: set(from.kernel_memory_tcp),
        oom_kill_disable: from.oom_kill_disable.filter(|disable| *disable),
        cpu_shares: positive(from.cpu_shares),
        cpu_quota: quota,
        cpu_period: period,
        cpu_rt_period: positive(from.cpu_realtime_period),
        cpu_rt_runtime: set(from.cpu_realtime_runtime),
        cpuset_cpus: text(&from.cpuset_cpus),
        cpuset_mems: text(&from.cpuset_mems),
        pids_limit: from.pids_limit,
        block_io: block_io(from)?,
        device_rules: device_rules.to_vec(),
    })
}

fn block_io(from: &Resources) -> Result<spec::BlockIo> {
    let [read_bps, write_bps, read_iops, write_iops] = &from.blkio_rates;
    Ok(spec::BlockIo {
        weight: Some(from.blkio_weight).filter(|weight| *weight > 0),
        device_weights: device_limits(&from.blkio_weight_device)?,
        read_bps: device_limits(read_bps)?,
        write_bps: device_limits(write_bps)?,
        read_iops: device_limits(read_iops)?,
        write_iops: device_limits(write_iops)?,
    })
}

/// Looks the devices up, whose numbers may change from one boot to the next.
fn device_limits(rates: &[DeviceRate]) -> Result<Vec<spec::DeviceLimit>> {
    let limit = |device: &DeviceRate| {
        let path = &device.path;
        let stat = rustix::fs::stat(path.as_str()).map_err(|errno| match errno {
            rustix::io::Errno::NOENT => {
                EngineError::invalid(format!("stat {path}: no such file or directory"))
            }
            errno => EngineError::invalid(format!("stat {path}")).caused_by(std::io::Error::from(errno)),
        })?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::BlockDevice {
            return Err(EngineError::invalid(format!("{path} is not a block device")));
        }
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        Ok(spec::DeviceLimit { major, minor, value: device.rate })
    };
    rates.iter().map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    #[test]
    fn the_environment_is_dockers() {
        let mut record = record("aa", "web");
        record.config.hostname = "box".to_owned();
        record.config.tty = true;
        record.config.env =
            vec!["TERM=dumb".to_owned(), "A=1=2".to_owned(), "PATH".to_owned(), "NONE".to_owned()];
        assert_eq!(environment(&record, Vec::new()), ["HOSTNAME=box", "TERM=dumb", "A=1=2"]);
    }

    #[test]
    fn cpus_become_a_quota() {
        let got = resources(&Resources { nano_cpus: 1_500_000_000, ..Resources::default() }, &[]).unwrap();
        assert_eq!((got.cpu_quota, got.cpu_period), (Some(150_000), Some(100_000)));
        assert_eq!(resources(&Resources::default(), &[]).unwrap(), spec::Resources::default());
        let rate = DeviceRate { path: "/dev/null".to_owned(), rate: 1 };
        let odd = Resources { blkio_weight_device: vec![rate], ..Resources::default() };
        assert_eq!(resources(&odd, &[]).unwrap_err().message, "/dev/null is not a block device");
    }

    #[test]
    fn mounts_come_parents_first_and_cover_the_engines_files() {
        let mut record = record("aa", "web");
        record.host.tmpfs.insert("/etc".to_owned(), "exec,size=1m".to_owned());
        let got = mounts(&record);
        assert_eq!(got[0].destination, "/etc");
        assert!(
            matches!(&got[0].kind, MountKind::Tmpfs { options } if *options == ["nosuid", "nodev", "exec", "size=1m"])
        );
        assert_eq!(got.len(), 4);
    }
}
