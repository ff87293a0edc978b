//! What the engine keeps on record about a container: what was asked for, and what became of it.
//!
//! The types serialise into the state database. The API has wire types of its own and translates.

use hostd_network::{Endpoint, Protocol};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use time::OffsetDateTime;

/// `80/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        write!(f, "{}/{protocol}", self.number)
    }
}

impl FromStr for Port {
    type Err = String;

    /// `80` or `80/udp`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(format!("invalid proto: {other}")),
        };
        match number.parse() {
            Ok(number) if number > 0 => Ok(Self { number, protocol }),
            _ => Err(format!("invalid port number {number:?}")),
        }
    }
}

// As a string, because ports are keys of maps.
impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a container's port is to appear on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// `None` means all addresses.
    pub host_ip: Option<IpAddr>,
    /// First and last port; `None` means any free one.
    pub host_ports: Option<(u16, u16)>,
}

/// The portable half of what a client asks for (Docker's `Config`), merged with the image's at create.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Empty means the short id.
    pub hostname: String,
    /// NIS domain.
    pub domainname: String,
    /// `uid[:gid]` or `name[:group]`.
    pub user: String,
    /// What `docker start -a` attaches to.
    pub attach_stdin: bool,
    /// See `attach_stdin`.
    pub attach_stdout: bool,
    /// See `attach_stdin`.
    pub attach_stderr: bool,
    /// Ports that the container listens on.
    pub exposed_ports: BTreeSet<Port>,
    /// Give it a pseudo terminal.
    pub tty: bool,
    /// Keep stdin open.
    pub open_stdin: bool,
    /// Close stdin when the first attached client leaves.
    pub stdin_once: bool,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `None`: the image's.
    pub cmd: Option<Vec<String>>,
    /// `None`: the image's; `[""]` resets it.
    pub entrypoint: Option<Vec<String>>,
    /// As the client named it.
    pub image: String,
    /// Paths that get an anonymous volume.
    pub volumes: BTreeSet<String>,
    /// Absolute.
    pub working_dir: String,
    /// No network at all.
    pub network_disabled: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `SIGTERM` unless set here or in the image.
    pub stop_signal: Option<String>,
    /// Seconds until a stop becomes a kill; 10 unless set.
    pub stop_timeout: Option<i64>,
    /// Default shell of the image.
    pub shell: Option<Vec<String>>,
    /// How to tell whether it is well; `None`: the image's.
    pub healthcheck: Option<Healthcheck>,
    /// What a build on an image made of it is to do first; the container itself does nothing with them.
    pub on_build: Option<Vec<String>>,
    /// Means something on Windows only; kept, since clients send back what they have read.
    pub args_escaped: bool,
}

/// How a container's health is found out, in Docker's own form. Durations in nanoseconds; zero reads as not set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", program, arguments …]`, `["CMD-SHELL", line]`; empty: the image's.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two probes; 30 s.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// What one probe may take; 30 s.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// After the start, when failures do not count yet.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two probes in the start period, until the first success; 5 s.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy; 3.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// What the probes of a container have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No probe has succeeded, and not too many have failed.
    Starting,
    /// The last probes succeeded, or not too many of them failed.
    Healthy,
    /// Too many failed in a row, or it does not run.
    Unhealthy,
}

impl HealthStatus {
    /// As clients read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The health of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// See [`HealthStatus`].
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The last probes, the oldest first.
    pub log: Vec<ProbeResult>,
}

/// How one probe ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub start: OffsetDateTime,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339")]
    pub end: OffsetDateTime,
    /// 0 is well; -1 where it did not run to its end.
    pub exit_code: i32,
    /// What it printed, cut off after some kilobytes.
    pub output: String,
}

/// The machine-bound half of what a client asks for (Docker's `HostConfig`): the fields this engine honours.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    /// `source:destination[:options]`.
    pub binds: Vec<String>,
    /// The newer form of the same.
    pub mounts: Vec<MountRequest>,
    /// Path to options.
    pub tmpfs: BTreeMap<String, String>,
    /// Driver of the volumes that are made for it and name none themselves; empty is `local`.
    pub volume_driver: String,
    /// `name[:ro|rw]` of containers whose volumes it gets too.
    pub volumes_from: Vec<String>,
    /// `name[:alias]` of containers to link to; on record they stand in [`ContainerRecord::links`].
    pub links: Vec<String>,
    /// `default`, `bridge`, `host`, `none`, `container:<id>`.
    pub network_mode: String,
    /// Ports to publish.
    pub port_bindings: BTreeMap<Port, Vec<PortBinding>>,
    /// Publish all exposed ports on free ones.
    pub publish_all_ports: bool,
    /// What happens when it exits.
    pub restart_policy: RestartPolicy,
    /// Remove it, and its anonymous volumes, when it exits.
    pub auto_remove: bool,
    /// Added capabilities.
    pub cap_add: Vec<String>,
    /// Dropped capabilities.
    pub cap_drop: Vec<String>,
    /// All capabilities and devices.
    pub privileged: bool,
    /// `seccomp=…`, `no-new-privileges`, `apparmor=…`, `label=…`.
    pub security_opt: Vec<String>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// resolv.conf options.
    pub dns_options: Vec<String>,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    /// Supplementary groups.
    pub group_add: Vec<String>,
    /// `private`, `shareable`, `host`, `none`, `container:<id>` or empty.
    pub ipc_mode: String,
    /// Empty, `host` or `container:<id>`.
    pub pid_mode: String,
    /// Empty or `host`.
    pub uts_mode: String,
    /// Empty, `private` or `host`.
    pub cgroupns_mode: String,
    /// Empty, `private` or `host`.
    pub userns_mode: String,
    /// Parent cgroup.
    pub cgroup_parent: String,
    /// Root file system read-only.
    pub readonly_rootfs: bool,
    /// Bytes; 64 MiB unless set.
    pub shm_size: Option<u64>,
    /// Namespaced sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// (name, soft, hard).
    pub ulimits: Vec<(String, i64, i64)>,
    /// Our init as process 1; `None`: the daemon's default.
    pub init: Option<bool>,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// (on host, in container, permissions).
    pub devices: Vec<(String, String, String)>,
    /// Cgroup device rules.
    pub device_cgroup_rules: Vec<String>,
    /// Devices that drivers are to find.
    pub device_requests: Vec<DeviceRequest>,
    /// One of [`crate::LOG_DRIVERS`], or `none`.
    pub log_driver: String,
    /// What that driver takes.
    pub log_options: BTreeMap<String, String>,
    /// `None`: the default list.
    pub masked_paths: Option<Vec<String>>,
    /// `None`: the default list.
    pub readonly_paths: Option<Vec<String>>,
    /// (rows, columns).
    pub console_size: Option<(u16, u16)>,
    /// Limits.
    pub resources: Resources,
    /// File that got the id at create; kept for inspect.
    pub container_id_file: String,
    /// For the container's runtime, where it is not hostd's own.
    pub annotations: BTreeMap<String, String>,
    /// `size`: bytes that the writable layer may take.
    pub storage_opt: BTreeMap<String, String>,
    /// `default` where the request says so: Linux knows no other, and clients read back what they asked for.
    pub isolation: String,
    /// Name of the OCI runtime; empty on records from before there was a choice, which is hostd's own.
    pub runtime: String,
}

/// Limits, as the client gave them; zero or empty reads as not set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub memory_reservation: i64,
    /// Bytes, with swap; -1 unlimited.
    pub memory_swap: i64,
    /// 0 to 100.
    pub memory_swappiness: Option<i64>,
    /// Bytes; kept for inspect, as no kernel of today limits it.
    pub kernel_memory: i64,
    /// Bytes.
    pub kernel_memory_tcp: i64,
    /// Processes wait for memory instead of being killed; `None` where the kernel cannot.
    pub oom_kill_disable: Option<bool>,
    /// Relative weight.
    pub cpu_shares: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds.
    pub cpu_quota: i64,
    /// Microseconds.
    pub cpu_realtime_period: i64,
    /// Microseconds.
    pub cpu_realtime_runtime: i64,
    /// Billionths of a CPU.
    pub nano_cpus: i64,
    /// CPU list.
    pub cpuset_cpus: String,
    /// Memory node list.
    pub cpuset_mems: String,
    /// Processes; 0 lifts a limit that was there before.
    pub pids_limit: Option<i64>,
    /// Relative weight, 10 to 1000.
    pub blkio_weight: u16,
    /// Relative weight on one device.
    pub blkio_weight_device: Vec<DeviceRate>,
    /// Rates, in the order of [`BLKIO_RATES`].
    pub blkio_rates: [Vec<DeviceRate>; 4],
    /// For Windows; kept for inspect.
    pub cpu_count: i64,
    /// For Windows.
    pub cpu_percent: i64,
    /// For Windows.
    pub io_maximum_iops: u64,
    /// For Windows.
    pub io_maximum_bandwidth: u64,
}

/// A request for devices that a driver is to find.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    /// `cdi`, `nvidia`, or empty for whichever has the capabilities.
    pub driver: String,
    /// How many; -1 is all.
    pub count: i64,
    /// Which ones, in place of a count.
    pub device_ids: Vec<String>,
    /// Alternatives, each of them a list of what is needed together.
    pub capabilities: Vec<Vec<String>>,
    /// For the driver.
    pub options: BTreeMap<String, String>,
}

/// Docker's names of the rates: bytes or operations per second.
pub const BLKIO_RATES: [&str; 4] =
    ["BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps"];

/// A limit or weight on one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRate {
    /// Path of the device on the host.
    pub path: String,
    /// What it is to be.
    pub rate: u64,
}

/// `HostConfig.Mounts`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MountRequest {
    /// What is mounted.
    pub kind: MountType,
    /// Host path or volume name.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// Mount read-only.
    pub read_only: bool,
    /// Bind propagation.
    pub propagation: Option<String>,
    /// Bind without the mounts below.
    pub non_recursive: bool,
    /// Make a missing bind source.
    pub create_mountpoint: bool,
    /// Do not copy the image's content into a new volume.
    pub no_copy: bool,
    /// Labels of a new volume.
    pub labels: BTreeMap<String, String>,
    /// Driver of a new volume, with its options.
    pub driver: Option<(String, BTreeMap<String, String>)>,
    /// Bytes.
    pub tmpfs_size: Option<u64>,
    /// Mode bits.
    pub tmpfs_mode: Option<u32>,
    /// Further options of a tmpfs: `[name]` or `[name, value]`.
    #[serde(default)]
    pub tmpfs_options: Vec<Vec<String>>,
    /// Read-only goes for the bind alone, and not for the mounts below it.
    #[serde(default)]
    pub read_only_non_recursive: bool,
    /// Read-only must go for the mounts below a bind too.
    #[serde(default)]
    pub read_only_force_recursive: bool,
    /// What is mounted of a volume.
    #[serde(default)]
    pub subpath: String,
}

/// Kinds of mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountType {
    /// A path of the host.
    Bind,
    /// A volume.
    Volume,
    /// Memory.
    Tmpfs,
}

/// What happens when a container exits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// Start again.
    Always,
    /// Start again unless a user stopped it.
    UnlessStopped,
    /// Start again after a failure; 0 is without end.
    OnFailure(u32),
}

/// A mount as it was resolved at create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// Kind.
    pub kind: MountType,
    /// Volume name.
    pub name: Option<String>,
    /// Path on the host.
    pub source: String,
    /// Path in the container.
    pub destination: String,
    /// Volume driver.
    pub driver: Option<String>,
    /// Option string as given.
    pub mode: String,
    /// Writable.
    pub rw: bool,
    /// Propagation.
    pub propagation: String,
    /// Mounts below the source come along.
    pub recursive: bool,
    /// tmpfs options.
    pub options: Vec<String>,
    /// Where it is read-only, the mounts below it are what they are.
    #[serde(default)]
    pub shallow: bool,
    /// What is mounted of a volume; `None` is all of it.
    #[serde(default)]
    pub subpath: Option<PathBuf>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Never started.
    Created,
    /// Its process runs.
    Running,
    /// Frozen.
    Paused,
    /// Between two runs of its restart policy.
    Restarting,
    /// Being removed.
    Removing,
    /// Ended.
    Exited,
    /// Could not be removed.
    Dead,
}

/// What can happen to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// Its program was executed.
    Started,
    /// Its program ended, or never ran although it was to run again.
    Exited,
    /// Its program ended, and its restart policy will start it again.
    WillRestart,
    /// All its processes were frozen.
    Froze,
    /// They were thawed.
    Thawed,
    /// Its removal began.
    RemovalBegan,
    /// Its removal came to a halt.
    RemovalFailed,
}

impl Status {
    /// The status after `happening`, or `None` where that has no meaning in this one.
    pub fn after(self, happening: Happening) -> Option<Self> {
        use {Happening as H, Status as S};
        match (self, happening) {
            (S::Created | S::Exited | S::Restarting, H::Started) => Some(S::Running),
            // Killed while frozen, it ends without having been thawed.
            (S::Running | S::Paused, H::Exited) => Some(S::Exited),
            (S::Running | S::Paused, H::WillRestart) => Some(S::Restarting),
            // A user stopped it between two runs, or its program cannot be executed any more.
            (S::Restarting, H::Exited) => Some(S::Exited),
            (S::Running, H::Froze) => Some(S::Paused),
            (S::Paused, H::Thawed) => Some(S::Running),
            // A removal that a crash interrupted begins again.
            (S::Created | S::Exited | S::Dead | S::Removing, H::RemovalBegan) => Some(S::Removing),
            (S::Removing, H::RemovalFailed) => Some(S::Dead),
            _ => None,
        }
    }

    /// Whether its program runs or is about to, as far as clients are concerned.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }

    /// As clients read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

/// The changing half of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// See [`Status`].
    pub status: Status,
    /// Host pid while running, else 0.
    pub pid: i32,
    /// Of the last run.
    pub exit_code: i32,
    /// Why the last start failed.
    pub error: String,
    /// The kernel killed it for want of memory.
    pub oom_killed: bool,
    /// Last start.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// Last end.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// A user stopped it: restart policies leave it alone.
    pub stopped_by_user: bool,
    /// Its anonymous volumes go with it: how a removal that a crash interrupted is to go on.
    #[serde(default)]
    pub remove_volumes: bool,
    /// Of the last run, where health checks are asked for.
    #[serde(default)]
    pub health: Option<Health>,
    /// Milliseconds that the last pause before a restart took; 0: there was none since a good run.
    #[serde(default)]
    pub last_pause: u64,
}

impl State {
    /// Of a container that never ran.
    pub(crate) fn new() -> Self {
        Self {
            status: Status::Created,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: None,
            finished_at: None,
            stopped_by_user: false,
            remove_volumes: false,
            health: None,
            last_pause: 0,
        }
    }
}

/// A container that another finds by a name of its own (`--link`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Id of the container that is linked to.
    pub target: String,
    /// What it is called in the other.
    pub alias: String,
}

/// One container on record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// 64 hex digits.
    pub id: String,
    /// Without the slash that the API puts before it.
    pub name: String,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Image id, `sha256:…`.
    pub image_id: String,
    /// Merged with the image's.
    pub config: ContainerConfig,
    /// As asked, defaults filled in.
    pub host: HostConfig,
    /// Program and arguments that run.
    pub args: Vec<String>,
    /// Resolved mounts.
    pub mounts: Vec<MountPoint>,
    /// The connection to its network while it runs.
    pub endpoint: Option<Endpoint>,
    /// How often its restart policy has started it.
    pub restart_count: u32,
    /// json-file log, empty with another driver.
    pub log_path: String,
    /// Paths on the host of the files that hostd makes for it.
    pub hostname_path: String,
    /// See `hostname_path`.
    pub hosts_path: String,
    /// See `hostname_path`.
    pub resolv_conf_path: String,
    /// A MAC address that was asked for.
    #[serde(default)]
    pub mac_address: Option<String>,
    /// Containers that it finds by other names (`--link`).
    #[serde(default)]
    pub links: Vec<Link>,
    /// SELinux label of its processes; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub process_label: String,
    /// SELinux label of its files; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mount_label: String,
    /// Changing half.
    pub state: State,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transition_is_the_one_intended() {
        use {Happening as H, Status as S};
        let all = [S::Created, S::Running, S::Paused, S::Restarting, S::Removing, S::Exited, S::Dead];
        // In the order of `all`; `None` where the happening has no meaning.
        let table: [(H, [Option<S>; 7]); 7] = [
            (H::Started, [Some(S::Running), None, None, Some(S::Running), None, Some(S::Running), None]),
            (H::Exited, [None, Some(S::Exited), Some(S::Exited), Some(S::Exited), None, None, None]),
            (H::WillRestart, [None, Some(S::Restarting), Some(S::Restarting), None, None, None, None]),
            (H::Froze, [None, Some(S::Paused), None, None, None, None, None]),
            (H::Thawed, [None, None, Some(S::Running), None, None, None, None]),
            (
                H::RemovalBegan,
                [
                    Some(S::Removing),
                    None,
                    None,
                    None,
                    Some(S::Removing),
                    Some(S::Removing),
                    Some(S::Removing),
                ],
            ),
            (H::RemovalFailed, [None, None, None, None, Some(S::Dead), None, None]),
        ];
        for (happening, expected) in table {
            for (status, expected) in all.into_iter().zip(expected) {
                assert_eq!(status.after(happening), expected, "{status:?} after {happening:?}");
            }
        }
    }

    #[test]
    fn ports_read_and_write_as_docker_has_them() {
        for (text, written) in [("80", "80/tcp"), ("53/UDP", "53/udp"), ("9/sctp", "9/sctp")] {
            assert_eq!(text.parse::<Port>().unwrap().to_string(), written);
        }
        for bad in ["", "0", "65536", "80/", "80/quic", "a/tcp"] {
            assert!(bad.parse::<Port>().is_err(), "{bad}");
        }
        let map = BTreeMap::from([("80".parse::<Port>().unwrap(), 1)]);
        let json = serde_json::to_string(&map).unwrap();
        assert_eq!(json, r#"{"80/tcp":1}"#);
        assert_eq!(serde_json::from_str::<BTreeMap<Port, i32>>(&json).unwrap(), map);
    }
}
