//! What a container is to be, as the engine asks for it: everything resolved but what only the rootfs can
//! tell (users, groups, the program on `PATH`), which is looked up inside the container.

pub use crate::hooks::{Hook, Hooks};
pub use hostd_sys::idmap::{Extent, IdMap};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Hidden unless the container is privileged or says otherwise.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// [`MASKED_PATHS`], and what the machine tells of each processor's heat, by which one could follow what others compute.
pub fn masked_paths() -> &'static [String] {
    static PATHS: OnceLock<Vec<String>> = OnceLock::new();
    PATHS.get_or_init(|| {
        let fixed = MASKED_PATHS.iter().map(|path| (*path).to_owned());
        fixed.chain(of_heat(Path::new("/sys/devices/system/cpu"))).collect()
    })
}

fn of_heat(processors: &Path) -> Vec<String> {
    let mut found: Vec<_> = fs::read_dir(processors)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .filter_map(|path| path.into_os_string().into_string().ok())
        .collect();
    found.sort();
    found
}

/// Read-only unless the container is privileged or says otherwise.
pub const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A container to create.
#[derive(Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// 64 hex digits.
    pub id: String,
    /// Program and arguments; the program is looked up on the container's `PATH` when it has no slash.
    pub args: Vec<String>,
    /// `NAME=value`; `HOME` and `PATH` are added when absent, `TERM` and `HOSTNAME` are the engine's to add.
    pub env: Vec<String>,
    /// Working directory, created when missing.
    pub cwd: String,
    /// As in `docker run -u`: empty, `uid[:gid]` or `name[:group]`, resolved in the rootfs.
    pub user: String,
    /// Supplementary groups by name or id.
    pub group_add: Vec<String>,
    /// Host name inside a private UTS namespace.
    pub hostname: String,
    /// NIS domain name inside a private UTS namespace; empty leaves it.
    pub domainname: String,
    /// Whether the process gets a pseudo terminal.
    pub tty: bool,
    /// Initial size of the terminal.
    pub console_size: Option<TtySize>,
    /// What the process reads.
    pub stdin: Stdin,
    /// The layers the root file system is made of.
    pub rootfs: RootFs,
    /// Mount the root file system read-only.
    pub read_only_rootfs: bool,
    /// Mounts besides the standard ones (`/proc`, `/sys`, `/dev` …), in order.
    pub mounts: Vec<Mount>,
    /// Which namespaces are its own and which are shared.
    pub namespaces: Namespaces,
    /// The ids in [`Namespaces::user`].
    #[serde(default)]
    pub id_map: Option<IdMap>,
    /// All capabilities, all devices, no masked paths, no seccomp filter.
    pub privileged: bool,
    /// Capabilities added to Docker's default set (`NET_ADMIN`, `CAP_NET_ADMIN` or `ALL`).
    pub cap_add: Vec<String>,
    /// Capabilities taken from Docker's default set.
    pub cap_drop: Vec<String>,
    /// System call filter.
    pub seccomp: Seccomp,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// AppArmor profile of its processes; `None` leaves them what hostd has.
    #[serde(default)]
    pub apparmor: Option<String>,
    /// Let it write to its own cgroup where it sees no other.
    #[serde(default)]
    pub writable_cgroups: bool,
    /// `None` means the default list.
    pub masked_paths: Option<Vec<String>>,
    /// `None` means the default list.
    pub readonly_paths: Option<Vec<String>>,
    /// Cgroup limits.
    pub resources: Resources,
    /// Parent of the container's cgroup; `None` means the runtime's own.
    pub cgroup_parent: Option<String>,
    /// Host devices to make available.
    pub devices: Vec<Device>,
    /// `net.*`, `kernel.*` … of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits of the first process.
    pub ulimits: Vec<Ulimit>,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: u64,
    /// No `/dev/shm` at all.
    #[serde(default)]
    pub no_shm: bool,
    /// Run our own init as process 1, which forwards signals and reaps.
    pub init: bool,
    /// Where the shim writes what the process prints.
    pub log: Log,
    /// Directory, on a disk, for what attached clients have not taken yet; `None`: slow clients are disconnected.
    #[serde(default)]
    pub scratch: Option<PathBuf>,
    /// Who builds the container and runs its processes; `None` is hostd's own runtime.
    #[serde(default)]
    pub runtime: Option<OciRuntime>,
    /// For another runtime, which may act on them.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Programs to run at points of its life.
    #[serde(default)]
    pub hooks: Hooks,
    /// SELinux labels; without one its processes are labelled as the host's policy has it.
    #[serde(default)]
    pub selinux: Labels,
}

/// SELinux labels of a container; empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// Of its processes.
    pub process: String,
    /// Of its files: what its file systems are mounted with.
    pub mount: String,
}

impl Labels {
    /// The processes' label, where there is one.
    pub(crate) fn process(&self) -> Option<&str> {
        Some(self.process.as_str()).filter(|label| !label.is_empty())
    }

    /// The files' label, where there is one.
    pub(crate) fn mount(&self) -> Option<&str> {
        Some(self.mount.as_str()).filter(|label| !label.is_empty())
    }
}

/// A program that keeps to the OCI runtime specification: `create`, `start`, `exec`, `kill`, `delete` …
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciRuntime {
    /// As users call it.
    pub name: String,
    /// The program: absolute, or looked up on `PATH`.
    pub path: PathBuf,
    /// What stands before every command.
    #[serde(default)]
    pub args: Vec<String>,
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Height in characters.
    pub rows: u16,
    /// Width in characters.
    pub cols: u16,
}

/// What a process reads on its standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// `/dev/null`.
    Null,
    /// Attached clients may write; stays open when they leave.
    Open,
    /// Attached clients may write; closed when the first of them leaves.
    Once,
}

/// An overlay mount that the container makes inside its own mount namespace (so that nothing is left behind
/// on the host when it dies).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RootFs {
    /// Lower directories, top layer first.
    pub lower: Vec<PathBuf>,
    /// Writable layer.
    pub upper: PathBuf,
    /// Overlay's work directory, on the same file system as `upper`.
    pub work: PathBuf,
    /// SELinux label of all files in it; empty: each has its own.
    #[serde(default)]
    pub label: String,
}

/// One mount inside the container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container; created when missing, never followed out of the rootfs.
    pub destination: String,
    /// What is mounted.
    pub kind: MountKind,
    /// Mount it read-only (recursively, for a bind).
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of the host.
    Bind {
        /// Absolute path on the host; must exist.
        source: PathBuf,
        /// `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`; `None` is `rprivate`.
        propagation: Option<String>,
        /// Whether mounts below the source come along.
        recursive: bool,
        /// `MOUNT_ATTR_*` besides read-only, for the mount and those below it.
        #[serde(default)]
        attributes: u64,
        /// Where it is read-only, the mounts below it are what they are.
        #[serde(default)]
        shallow: bool,
        /// What is mounted of it: a path below `source`, which no link leads out of.
        #[serde(default)]
        subpath: Option<PathBuf>,
    },
    /// A fresh tmpfs.
    Tmpfs {
        /// As for mount(8): `size=64m`, `mode=1777`, `noexec` …
        options: Vec<String>,
    },
}

/// The namespaces of a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Namespaces {
    /// Network.
    #[serde(skip, default = "NetNs::host")]
    pub net: NetNs,
    /// Users: one made before ([`crate::userns`]) or another container's, which then owns the others; `None` is the
    /// host's.
    #[serde(skip)]
    pub user: Option<OwnedFd>,
    /// Process ids.
    pub pid: NsMode,
    /// System V IPC and POSIX message queues.
    pub ipc: NsMode,
    /// Host name.
    pub uts: NsMode,
    /// Cgroup root.
    pub cgroup: NsMode,
}

/// The network namespace to enter.
#[derive(Debug)]
pub enum NetNs {
    /// The host's.
    Host,
    /// One made before, by the network crate.
    Fd(OwnedFd),
}

impl NetNs {
    /// What stands in a spec on its way to the shim, beside which the descriptor travels.
    fn host() -> Self {
        Self::Host
    }
}

/// Where a namespace comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NsMode {
    /// A new one.
    Private,
    /// The host's.
    Host,
    /// That of another container, by the pid of its first process.
    Of(i32),
}

/// System call filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Seccomp {
    /// Docker's default profile, depending on the capabilities.
    Default,
    /// No filter.
    Unconfined,
    /// A profile in Docker's JSON format.
    Profile(String),
}

/// Cgroup limits; `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory limit in bytes.
    pub memory: Option<i64>,
    /// Soft limit in bytes.
    pub memory_reservation: Option<i64>,
    /// Memory and swap together in bytes; -1 is unlimited swap.
    pub memory_swap: Option<i64>,
    /// 0 to 100 (cgroup v1).
    pub memory_swappiness: Option<u64>,
    /// Kernel memory of TCP buffers in bytes (cgroup v1).
    pub kernel_memory_tcp: Option<i64>,
    /// Processes wait for memory instead of being killed (cgroup v1).
    pub oom_kill_disable: Option<bool>,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds of a period of real-time scheduling (cgroup v1).
    pub cpu_rt_period: Option<u64>,
    /// Microseconds of real-time scheduling per such period (cgroup v1).
    pub cpu_rt_runtime: Option<i64>,
    /// List of CPUs such as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// List of memory nodes.
    pub cpuset_mems: Option<String>,
    /// Number of processes; -1 is unlimited.
    pub pids_limit: Option<i64>,
    /// Limits on block devices.
    pub block_io: BlockIo,
    /// Device cgroup rules such as `c 1:3 mr`.
    pub device_rules: Vec<String>,
}

/// Limits on block devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockIo {
    /// Relative weight, 10 to 1000.
    pub weight: Option<u16>,
    /// Relative weight on one device, 10 to 1000.
    pub device_weights: Vec<DeviceLimit>,
    /// Bytes per second.
    pub read_bps: Vec<DeviceLimit>,
    /// Bytes per second.
    pub write_bps: Vec<DeviceLimit>,
    /// Operations per second.
    pub read_iops: Vec<DeviceLimit>,
    /// Operations per second.
    pub write_iops: Vec<DeviceLimit>,
}

/// A limit on one block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLimit {
    /// Device number.
    pub major: u32,
    /// Device number.
    pub minor: u32,
    /// The limit; of a rate, 0 is none.
    pub value: u64,
}

/// A host device in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path on the host.
    pub path_on_host: PathBuf,
    /// Path in the container.
    pub path_in_container: String,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
    /// What is made in the container; `None` is a device like that on the host.
    #[serde(default)]
    pub node: Option<DeviceNode>,
}

/// A device file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// A block device, or else a character device.
    pub block: bool,
    /// Device number.
    pub major: u32,
    /// Device number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Its owner's user and group id.
    pub owner: (u32, u32),
}

/// A resource limit (setrlimit(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// Soft limit; -1 is unlimited.
    pub soft: i64,
    /// Hard limit; -1 is unlimited.
    pub hard: i64,
}

/// Where output goes besides attached clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// A file that can be read back: the log itself, or what is kept of one that a service gets.
    pub file: Option<LogFile>,
    /// A service.
    pub service: Option<LogService>,
    /// How many bytes may wait for the service (without one: for the file); what is more is dropped. `None`: the
    /// container waits.
    pub buffer: Option<u64>,
}

/// A log in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    /// Created 0640, its rotated elders beside it as `.1`, `.2` …
    pub path: PathBuf,
    /// What stands in it.
    pub format: LogFormat,
    /// Rotate when it would grow past that many bytes.
    pub max_size: Option<u64>,
    /// How many files to keep, this one included.
    pub max_files: u32,
    /// Compress those that were rotated: `.1.gz`, `.2.gz` …
    pub compress: bool,
}

/// Formats of log files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// Docker's json-file: one `{"log":…,"stream":…,"attrs":…,"time":…}` a line.
    Json {
        /// A JSON object for each entry; empty for none.
        attrs: String,
    },
    /// Docker's `local`: protobuf messages between their lengths.
    Local,
}

/// A service that gets a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogService {
    /// A syslog server.
    Syslog(Syslog),
    /// systemd's journal on this machine.
    Journald(Journald),
}

/// A syslog server and what it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syslog {
    /// Where it is.
    pub address: SyslogAddress,
    /// 0 (`kern`) to 23 (`local7`).
    pub facility: u8,
    /// How messages look.
    pub format: SyslogFormat,
    /// What they are marked with.
    pub tag: String,
    /// Encrypt, over TCP.
    pub tls: Option<SyslogTls>,
}

/// Addresses of syslog servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyslogAddress {
    /// The machine's own, wherever it listens.
    Local,
    /// A stream socket.
    Unix(PathBuf),
    /// A datagram socket.
    Unixgram(PathBuf),
    /// A host; the first address that works.
    Udp(Vec<SocketAddr>),
    /// A host; the first address that works.
    Tcp(Vec<SocketAddr>),
}

/// Shapes of syslog messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyslogFormat {
    /// As syslog(3) writes to its socket.
    Unix,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424; over TLS with lengths (RFC 5425).
    Rfc5424,
    /// RFC 5424 with microseconds.
    Rfc5424Micro,
}

/// How a syslog server proves itself, and this machine to it. PEM files, read when a container starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyslogTls {
    /// Name in its certificate.
    pub name: String,
    /// Authority of its certificate; `None`: those that the machine trusts.
    pub ca: Option<PathBuf>,
    /// This machine's certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Whether its certificate is looked at.
    pub verify: bool,
}

/// What every message to the journal says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journald {
    /// Names (capital letters, digits, underscores) and values.
    pub fields: Vec<(String, String)>,
}

/// A further process in a running container (`docker exec`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecSpec {
    /// What the shim tells about it to a daemon that finds the container again; empty for one that needs no finding.
    #[serde(default)]
    pub note: String,
    /// 64 hex digits.
    pub id: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<String>,
    /// Working directory; `/` when empty.
    pub cwd: String,
    /// As in [`ContainerSpec::user`].
    pub user: String,
    /// Whether the process gets a pseudo terminal.
    pub tty: bool,
    /// Initial size of the terminal.
    pub console_size: Option<TtySize>,
    /// Whether it may read from the attached client.
    pub stdin: bool,
    /// All capabilities, no seccomp filter.
    pub privileged: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heat_of_every_processor_is_masked() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["cpu0/thermal_throttle", "cpu11/thermal_throttle", "cpu2/topology", "power"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let base = dir.path().to_str().unwrap();
        let expected = ["cpu0", "cpu11"].map(|name| format!("{base}/{name}/thermal_throttle"));
        assert_eq!(of_heat(dir.path()), expected);
        assert!(masked_paths().iter().any(|path| path == "/proc/kcore"));
    }
}
