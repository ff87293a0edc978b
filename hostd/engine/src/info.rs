//! What this machine is and can do.

use crate::devices::DiscoveredDevice;
use crate::error::{Result, joined};
use crate::machine::Machine;
use crate::model::Status;
use crate::{CgroupDriver, Engine};
use std::fs;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Counts and facts for `info`.
#[derive(Clone, Debug)]
pub struct Info {
    /// Of this installation; stays across restarts.
    pub id: String,
    /// Host name.
    pub name: String,
    /// All containers.
    pub containers: usize,
    /// Those that run.
    pub running: usize,
    /// Those that are frozen.
    pub paused: usize,
    /// All others.
    pub stopped: usize,
    /// Images.
    pub images: usize,
    /// `uname -r`.
    pub kernel_version: String,
    /// As `/etc/os-release` has it.
    pub operating_system: String,
    /// As `/etc/os-release` has it.
    pub os_version: String,
    /// `uname -m`.
    pub architecture: String,
    /// Bytes.
    pub memory: u64,
    /// Where the state is.
    pub data_root: PathBuf,
    /// Labels of the machine.
    pub labels: Vec<String>,
    /// Log driver of containers that name none.
    pub logging_driver: String,
    /// Registries spoken to without verification.
    pub insecure_registries: Vec<String>,
    /// Registries asked before Docker Hub.
    pub mirrors: Vec<String>,
    /// What limits this machine can keep.
    pub machine: Machine,
    /// Who makes the containers' cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Where CDI specifications are.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// What stands in them.
    pub discovered_devices: Vec<DiscoveredDevice>,
    /// What the machine lacks.
    pub warnings: Vec<String>,
    /// `name=seccomp,profile=builtin` …
    pub security_options: Vec<String>,
    /// Name, program and arguments of the OCI runtimes.
    pub runtimes: Vec<(String, String, Vec<String>)>,
    /// The one that a container gets which asks for none.
    pub default_runtime: String,
    /// Now.
    pub system_time: OffsetDateTime,
    /// Containers run on while no daemon does.
    pub live_restore: bool,
    /// Clients that listen to events.
    pub event_listeners: usize,
    /// Open descriptors of the daemon.
    pub descriptors: usize,
    /// Tasks of the daemon that are not over.
    pub tasks: usize,
    /// What kind of file system the layers are on, and others of the storage driver's facts.
    pub driver_status: Vec<(String, String)>,
    /// The host passes packets on.
    pub ipv4_forwarding: bool,
    /// Bridged packets pass the firewall: of IPv4, of IPv6.
    pub bridge_netfilter: (bool, bool),
    /// `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` of the daemon, without passwords.
    pub proxies: [String; 3],
}

impl Engine {
    /// The commit that runc was built from; empty where there is no runc.
    pub async fn runc_commit(&self) -> String {
        let runtimes = self.0.runtimes();
        tokio::task::spawn_blocking(move || runtimes.runc_commit()).await.unwrap_or_default()
    }

    /// Counts and facts.
    pub async fn info(&self) -> Result<Info> {
        let engine = self.clone();
        // Descriptions of devices are read for it.
        tokio::task::spawn_blocking(move || engine.look_around()).await.map_err(joined)?
    }

    fn look_around(&self) -> Result<Info> {
        let (mut running, mut paused, mut stopped) = (0, 0, 0);
        for container in self.0.index.all() {
            match container.record().state.status {
                Status::Running | Status::Restarting => running += 1,
                Status::Paused => paused += 1,
                _ => stopped += 1,
            }
        }
        let machine = self.machine();
        let mut warnings = machine.warnings();
        let (discovered_devices, complaints) = self.discover_devices();
        warnings.extend(Self::security_warnings());
        warnings.extend(complaints);
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let config = &self.0.config;
        Ok(Info {
            id: self.0.id.clone(),
            name: text(uname.nodename()),
            containers: running + paused + stopped,
            running,
            paused,
            stopped,
            images: self.0.images.list()?.len(),
            kernel_version: text(uname.release()),
            operating_system: os_field(&os_release, "PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned()),
            os_version: os_field(&os_release, "VERSION_ID").unwrap_or_default(),
            architecture: text(uname.machine()),
            memory: memory_total(),
            data_root: config.data_root.clone(),
            labels: config.labels.clone(),
            logging_driver: self.0.config.log.driver.clone(),
            insecure_registries: config.images.insecure_registries.clone(),
            mirrors: config.images.mirrors.clone(),
            warnings,
            machine,
            cgroup_driver: config.cgroup_driver,
            cdi_spec_dirs: config.cdi_spec_dirs.clone(),
            discovered_devices,
            security_options: self.security_features(),
            runtimes: self.0.runtimes().list(),
            default_runtime: self.0.runtimes().default_name().to_owned(),
            system_time: OffsetDateTime::now_utc(),
            live_restore: config.live_restore,
            event_listeners: self.0.bus.subscribers(),
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            tasks: tokio::runtime::Handle::try_current().map_or(0, |h| h.metrics().num_alive_tasks()),
            driver_status: driver_status(&config.data_root),
            ipv4_forwarding: switched_on("net/ipv4/ip_forward"),
            bridge_netfilter: (
                switched_on("net/bridge/bridge-nf-call-iptables"),
                switched_on("net/bridge/bridge-nf-call-ip6tables"),
            ),
            proxies: ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"].map(proxy),
        })
    }
}

/// A sysctl that is 0 or 1; one that is missing is off.
fn switched_on(path: &str) -> bool {
    fs::read_to_string(Path::new("/proc/sys").join(path)).is_ok_and(|text| text.trim() == "1")
}

/// The driver's facts, under the names of Docker's overlay2.
fn driver_status(data_root: &Path) -> Vec<(String, String)> {
    let magic = rustix::fs::statfs(data_root).map_or(0, |fs| fs.f_type as u32);
    let name = match magic {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0xf2f5_2010 => "f2fs",
        0x2fc1_2fc1 => "zfs",
        _ => "<unknown>",
    };
    vec![
        ("Backing Filesystem".to_owned(), name.to_owned()),
        ("Supports d_type".to_owned(), "true".to_owned()),
    ]
}

/// A proxy setting of the environment, in either case; what stands before `@` may be a password.
fn proxy(name: &str) -> String {
    let value = std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase())).unwrap_or_default();
    match value.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
        Some((scheme, (_, host))) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        None => value,
    }
}

pub(crate) fn memory_total() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// A field of `/etc/os-release`, unquoted.
fn os_field(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_unquoted() {
        let text = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID=12\n";
        assert_eq!(os_field(text, "PRETTY_NAME").unwrap(), "Debian GNU/Linux 12");
        assert_eq!(os_field(text, "VERSION_ID").unwrap(), "12");
        assert_eq!(os_field(text, "VERSION"), None);
    }
}
