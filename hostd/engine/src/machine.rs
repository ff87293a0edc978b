//! What limits this machine can keep: which cgroup controllers it has, and what they can do.

use crate::Engine;
use hostd_runtime::cgroup;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// What limits this machine can keep.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Processors.
    pub cpus: usize,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Memory.
    pub memory_limit: bool,
    /// Memory and swap together.
    pub swap_limit: bool,
    /// What memory is left with when it gets short.
    pub memory_reservation: bool,
    /// How readily a container's memory is swapped out.
    pub memory_swappiness: bool,
    /// Kernel memory.
    pub kernel_memory: bool,
    /// Kernel memory of TCP buffers.
    pub kernel_memory_tcp: bool,
    /// Switching off the OOM killer.
    pub oom_kill_disable: bool,
    /// Number of processes.
    pub pids_limit: bool,
    /// Shares of CPU time.
    pub cpu_shares: bool,
    /// Quota of CPU time.
    pub cpu_cfs: bool,
    /// CPU time of real-time scheduling.
    pub cpu_realtime: bool,
    /// Choice of CPUs and memory nodes.
    pub cpuset: bool,
    /// CPUs to choose from, such as `0-3`.
    pub cpus_available: String,
    /// Memory nodes to choose from.
    pub mems_available: String,
    /// Weight of block I/O.
    pub blkio_weight: bool,
    /// Weight of block I/O on one device.
    pub blkio_weight_device: bool,
    /// Rates of block I/O: bytes read, bytes written, reads, writes.
    pub blkio_rates: [bool; 4],
    /// Whether packets are forwarded between interfaces.
    pub ipv4_forwarding: bool,
    /// Controllers of a hybrid host's unified hierarchy that cannot be used, and why.
    pub refused: Vec<String>,
}

/// Files of the rates on v1, in the order of [`Machine::blkio_rates`].
const V1_RATES: [&str; 4] = ["read_bps_device", "write_bps_device", "read_iops_device", "write_iops_device"];
/// Keys of the same in v2's `io.max`.
const V2_RATES: [&str; 4] = ["rbps", "wbps", "riops", "wiops"];

impl Machine {
    /// Asks the kernel.
    fn detect() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let mut machine = if root.join("cgroup.controllers").exists() {
            Self::v2(root)
        } else {
            let refused = cgroup::refused_controllers();
            let unified = cgroup::unified_beside_v1().map(Self::v2);
            Self::v1(root).with(unified.unwrap_or_default(), &refused)
        };
        machine.cpus = std::thread::available_parallelism().map_or(1, usize::from);
        machine
    }

    fn v1(root: &Path) -> Self {
        let has = |path: &str| root.join(path).exists();
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default().trim().to_owned();
        Self {
            cgroup_version: 1,
            memory_limit: has("memory/memory.limit_in_bytes"),
            swap_limit: has("memory/memory.memsw.limit_in_bytes"),
            memory_reservation: has("memory/memory.soft_limit_in_bytes"),
            memory_swappiness: has("memory/memory.swappiness"),
            kernel_memory: has("memory/memory.kmem.limit_in_bytes"),
            kernel_memory_tcp: has("memory/memory.kmem.tcp.limit_in_bytes"),
            oom_kill_disable: has("memory/memory.oom_control"),
            pids_limit: has("pids/cgroup.procs"),
            cpu_shares: has("cpu/cpu.shares"),
            cpu_cfs: has("cpu/cpu.cfs_quota_us"),
            cpu_realtime: has("cpu/cpu.rt_period_us"),
            cpuset: has("cpuset/cpuset.cpus"),
            cpus_available: text("cpuset/cpuset.cpus"),
            mems_available: text("cpuset/cpuset.mems"),
            blkio_weight: has("blkio/blkio.weight") || has("blkio/blkio.bfq.weight"),
            blkio_weight_device: has("blkio/blkio.weight_device") || has("blkio/blkio.bfq.weight_device"),
            blkio_rates: V1_RATES.map(|rate| has(&format!("blkio/blkio.throttle.{rate}"))),
            ..Self::default()
        }
    }

    fn v2(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default().trim().to_owned();
        let controllers = text("cgroup.controllers");
        let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
        // The root has no limits of its own: whether the kernel can do more than the controller promises shows
        // below it, if anywhere yet.
        let below: Vec<_> = fs::read_dir(root)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect();
        let below_has = |marker: &str, file: &str| {
            let mut known = below.iter().filter(|dir| dir.join(marker).exists()).peekable();
            known.peek().is_none() || known.any(|dir| dir.join(file).exists())
        };
        Self {
            cgroup_version: 2,
            memory_limit: has("memory"),
            swap_limit: has("memory") && below_has("memory.max", "memory.swap.max"),
            memory_reservation: has("memory"),
            pids_limit: has("pids"),
            cpu_shares: has("cpu"),
            cpu_cfs: has("cpu"),
            cpuset: has("cpuset"),
            cpus_available: text("cpuset.cpus.effective"),
            mems_available: text("cpuset.mems.effective"),
            blkio_weight: has("io") && weighs_io(&below),
            blkio_weight_device: has("io") && weighs_io(&below),
            blkio_rates: [has("io"); 4],
            ..Self::default()
        }
    }

    /// A machine of v1 with what its unified hierarchy has beyond that, but for controllers that cannot be used there.
    fn with(mut self, unified: Self, refused: &[(&str, std::io::Error)]) -> Self {
        let usable = |name: &str| !refused.iter().any(|(controller, _)| *controller == name);
        if !self.memory_limit && unified.memory_limit && usable("memory") {
            self.memory_limit = true;
            (self.swap_limit, self.memory_reservation) = (unified.swap_limit, unified.memory_reservation);
        }
        self.pids_limit |= unified.pids_limit && usable("pids");
        if !self.cpu_shares && unified.cpu_shares && usable("cpu") {
            (self.cpu_shares, self.cpu_cfs) = (true, true);
        }
        if !self.cpuset && unified.cpuset && usable("cpuset") {
            self.cpuset = true;
            (self.cpus_available, self.mems_available) = (unified.cpus_available, unified.mems_available);
        }
        if self.blkio_rates == [false; 4] && unified.blkio_rates[0] && usable("io") {
            self.blkio_rates = unified.blkio_rates;
            (self.blkio_weight, self.blkio_weight_device) =
                (unified.blkio_weight, unified.blkio_weight_device);
        }
        self.refused = refused.iter().map(|(name, error)| format!("{name}: {error}")).collect();
        self
    }

    #[cfg(test)]
    pub(crate) fn everything(cpus: usize) -> Self {
        Self {
            cpus,
            cgroup_version: 1,
            memory_limit: true,
            swap_limit: true,
            memory_reservation: true,
            memory_swappiness: true,
            kernel_memory: true,
            kernel_memory_tcp: true,
            oom_kill_disable: true,
            pids_limit: true,
            cpu_shares: true,
            cpu_cfs: true,
            cpu_realtime: true,
            cpuset: true,
            cpus_available: format!("0-{}", cpus - 1),
            mems_available: "0".to_owned(),
            blkio_weight: true,
            blkio_weight_device: true,
            blkio_rates: [true; 4],
            ipv4_forwarding: true,
            refused: Vec::new(),
        }
    }

    /// What is missing, in Docker's words.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let v1 = self.cgroup_version == 1;
        let named = |old: &str, new: &str| format!("No {} support", if v1 { old } else { new });
        let mut missing: Vec<(bool, String)> = [
            (self.memory_limit, "No memory limit support"),
            (self.swap_limit, "No swap limit support"),
            // v2 cannot, and nobody misses it there.
            (self.oom_kill_disable || !v1, "No oom kill disable support"),
            (self.cpu_cfs, "No cpu cfs quota support"),
            (self.cpu_cfs, "No cpu cfs period support"),
            (self.cpu_shares, "No cpu shares support"),
            (self.cpuset, "No cpuset support"),
            (self.pids_limit, "No pids limit support"),
        ]
        .map(|(has, text)| (has, text.to_owned()))
        .into();
        // v1 has none since Linux 5.0, and nobody misses it there either.
        missing.push((self.blkio_weight || v1, "No io.weight support".to_owned()));
        missing.push((self.blkio_weight_device || v1, "No io.weight (per device) support".to_owned()));
        for ((has, old), new) in self.blkio_rates.into_iter().zip(V1_RATES).zip(V2_RATES) {
            missing.push((has, named(&format!("blkio throttle.{old}"), &format!("io.max ({new})"))));
        }
        missing.push((self.ipv4_forwarding, "IPv4 forwarding is disabled".to_owned()));
        for refused in &self.refused {
            let text = format!("The unified cgroup hierarchy does not pass on its controller {refused}");
            missing.push((false, text));
        }
        missing.into_iter().filter(|(has, _)| !has).map(|(_, text)| format!("WARNING: {text}")).collect()
    }
}

/// Whether the kernel weighs block I/O in any cgroup where the controller is on; taken for granted where it is
/// on in none.
fn weighs_io(dirs: &[std::path::PathBuf]) -> bool {
    let mut known = dirs.iter().filter(|dir| dir.join("io.max").exists()).peekable();
    known.peek().is_none()
        || known.any(|dir| dir.join("io.weight").exists() || dir.join("io.bfq.weight").exists())
}

/// This one may change at any time.
fn forwards() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() != "0")
}

impl Engine {
    /// What limits this machine can keep; the kernel is asked once.
    pub(crate) fn machine(&self) -> Machine {
        static MACHINE: OnceLock<Machine> = OnceLock::new();
        let machine = MACHINE.get_or_init(Machine::detect).clone();
        Machine { ipv4_forwarding: forwards(), ..machine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = temp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        temp
    }

    #[test]
    fn v1_is_judged_by_its_files() {
        let temp = tree(&[
            ("memory/memory.limit_in_bytes", ""),
            ("memory/memory.oom_control", ""),
            ("cpuset/cpuset.cpus", "0-3\n"),
            ("blkio/blkio.throttle.read_bps_device", ""),
        ]);
        let machine = Machine::v1(temp.path());
        assert!(machine.memory_limit && machine.oom_kill_disable && !machine.swap_limit);
        assert_eq!((machine.cpus_available.as_str(), machine.blkio_rates[0]), ("0-3", true));
        let warnings = machine.warnings();
        assert!(warnings.contains(&"WARNING: No swap limit support".to_owned()), "{warnings:?}");
        assert!(!warnings.iter().any(|warning| warning.contains("weight")), "{warnings:?}");
        assert!(
            warnings.contains(&"WARNING: No blkio throttle.write_bps_device support".to_owned()),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_hybrid_host_has_what_either_hierarchy_has() {
        let v1 = tree(&[("cpu/cpu.shares", ""), ("cpu/cpu.cfs_quota_us", ""), ("pids/cgroup.procs", "")]);
        let unified = tree(&[("cgroup.controllers", "memory io\n"), ("a/memory.max", ""), ("a/io.max", "")]);
        let both = |refused: &[(&str, std::io::Error)]| {
            Machine::v1(v1.path()).with(Machine::v2(unified.path()), refused)
        };
        let machine = both(&[]);
        assert!(machine.cpu_shares && machine.pids_limit && machine.memory_limit && machine.blkio_rates[2]);
        assert!(!machine.swap_limit && !machine.blkio_weight && !machine.cpuset && !machine.oom_kill_disable);
        assert_eq!(machine.cgroup_version, 1);
        let machine = both(&[("memory", std::io::Error::from_raw_os_error(22))]);
        assert!(!machine.memory_limit && machine.blkio_rates[2]);
        let told =
            "WARNING: The unified cgroup hierarchy does not pass on its controller memory: Invalid argument";
        assert!(machine.warnings().iter().any(|text| text.starts_with(told)), "{:?}", machine.warnings());
    }

    #[test]
    fn v2_is_judged_by_its_controllers_and_what_shows_below_the_root() {
        let root = ("cgroup.controllers", "cpuset cpu io memory pids\n");
        let temp = tree(&[root, ("cpuset.cpus.effective", "0-1\n"), ("a/memory.max", ""), ("a/io.max", "")]);
        let machine = Machine::v2(temp.path());
        assert!(machine.memory_limit && machine.cpu_cfs && machine.cpuset && machine.blkio_rates[3]);
        assert!(!machine.swap_limit && !machine.blkio_weight, "a kernel without these files");
        assert!(!machine.oom_kill_disable && !machine.cpu_realtime && !machine.kernel_memory_tcp);
        let temp = tree(&[
            root,
            ("a/memory.max", ""),
            ("a/memory.swap.max", ""),
            ("a/io.max", ""),
            ("a/io.weight", ""),
        ]);
        let machine = Machine { ipv4_forwarding: true, ..Machine::v2(temp.path()) };
        assert!(machine.swap_limit && machine.blkio_weight);
        assert_eq!(machine.warnings(), Vec::<String>::new());
    }
}
