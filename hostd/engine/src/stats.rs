//! What a running container takes, from its cgroup and its network namespace.

use crate::Engine;
use crate::error::{Result, joined};
use hostd_runtime::cgroup::Cgroup;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// The kernel counts times for users in hundredths of a second, on all platforms that hostd runs on.
const TICK: u64 = 10_000_000;

/// One look at a container. All zero but `at` for one that does not run.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// When; `None` for a container that does not run.
    pub at: Option<OffsetDateTime>,
    /// CPU time of its processes so far.
    pub cpu: CpuSample,
    /// Bytes in use.
    pub memory: u64,
    /// Most bytes in use so far, where the kernel tells.
    pub memory_peak: Option<u64>,
    /// Bytes that it may use: of its limit, or of the machine.
    pub memory_limit: u64,
    /// The kernel's further numbers about memory, by its own names.
    pub memory_details: BTreeMap<String, u64>,
    /// Processes and threads.
    pub pids: u64,
    /// How many it may have; `None` is no limit.
    pub pids_limit: Option<u64>,
    /// By interface.
    pub networks: BTreeMap<String, NetworkSample>,
    /// How often the limit of memory was hit, where the kernel tells.
    pub memory_failures: u64,
    /// Bytes of each device.
    pub io: Vec<IoCounter>,
    /// Operations of each device, where the kernel counts them by kind (cgroup v1).
    pub io_operations: Option<Vec<IoCounter>>,
}

/// A counter of a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoCounter {
    /// Device number.
    pub major: u64,
    /// Device number.
    pub minor: u64,
    /// What is counted: on cgroup v1 `Read`, `Write`, `Sync`, `Async`, `Discard` and `Total`, on v2 `read` and `write`.
    pub kind: String,
    /// Bytes or operations.
    pub value: u64,
}

/// CPU time, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct CpuSample {
    /// In all.
    pub total: u64,
    /// On each processor, where the kernel tells (cgroup v1).
    pub each: Vec<u64>,
    /// In programs.
    pub user: u64,
    /// In the kernel.
    pub kernel: u64,
    /// Of everything on this machine.
    pub system: u64,
    /// Processors.
    pub online: usize,
    /// Periods of a CPU limit.
    pub periods: u64,
    /// Those in which it was held back.
    pub throttled_periods: u64,
    /// How long it was.
    pub throttled: u64,
}

/// Counters of an interface: bytes, packets, errors, drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkSample {
    /// Received.
    pub received: [u64; 4],
    /// Sent.
    pub sent: [u64; 4],
}

impl Engine {
    /// What a container takes now.
    pub async fn sample(&self, name: &str) -> Result<Sample> {
        let container = self.container(name)?;
        let Some(live) = container.live_now() else { return Ok(Sample::default()) };
        let cpus = self.machine().cpus;
        let machine_memory = crate::info::memory_total();
        let look = move || Sample::of(live.pid(), live.cgroup(), cpus, machine_memory);
        tokio::task::spawn_blocking(look).await.map_err(joined)
    }
}

impl Sample {
    fn of(pid: i32, cgroup: &Cgroup, cpus: usize, machine_memory: u64) -> Self {
        let mut sample =
            Self { at: Some(OffsetDateTime::now_utc()), memory_limit: machine_memory, ..Self::default() };
        sample.read(|controller| cgroup.files_of(controller));
        sample.memory_limit = sample.memory_limit.min(machine_memory);
        sample.cpu.online = cpus;
        sample.cpu.system = machine_time(&text(Path::new("/proc/stat")));
        sample.networks = networks(&text(Path::new(&format!("/proc/{pid}/net/dev"))));
        sample
    }

    /// Reads each controller where it is: a directory, and whether its files are those of v2.
    fn read(&mut self, place: impl Fn(&str) -> Option<(PathBuf, bool)>) {
        match place("cpuacct") {
            Some((dir, false)) => self.read_cpu_v1(&dir),
            Some((dir, true)) => self.read_cpu_v2(&dir),
            None => {}
        }
        match place("cpu") {
            Some((dir, false)) => self.read_throttling(&dir, "throttled_time", 1),
            Some((dir, true)) => self.read_throttling(&dir, "throttled_usec", 1000),
            None => {}
        }
        match place("memory") {
            Some((dir, false)) => self.read_memory_v1(&dir),
            Some((dir, true)) => self.read_memory_v2(&dir),
            None => {}
        }
        match place("blkio") {
            Some((dir, false)) => self.read_io_v1(&dir),
            Some((dir, true)) => self.read_io_v2(&dir),
            None => {}
        }
        if let Some((dir, _)) = place("pids") {
            self.pids = number(&dir.join("pids.current")).unwrap_or(0);
            self.pids_limit = number(&dir.join("pids.max"));
        }
    }

    fn read_cpu_v1(&mut self, dir: &Path) {
        let times = fields(&text(&dir.join("cpuacct.stat")));
        self.cpu.total = number(&dir.join("cpuacct.usage")).unwrap_or(0);
        let each = text(&dir.join("cpuacct.usage_percpu"));
        self.cpu.each = each.split_whitespace().filter_map(|time| time.parse().ok()).collect();
        self.cpu.user = times.get("user").copied().unwrap_or(0) * TICK;
        self.cpu.kernel = times.get("system").copied().unwrap_or(0) * TICK;
    }

    fn read_cpu_v2(&mut self, dir: &Path) {
        let cpu = fields(&text(&dir.join("cpu.stat")));
        let micros = |name: &str| cpu.get(name).copied().unwrap_or(0).saturating_mul(1000);
        self.cpu.total = micros("usage_usec");
        self.cpu.user = micros("user_usec");
        self.cpu.kernel = micros("system_usec");
    }

    fn read_memory_v1(&mut self, dir: &Path) {
        self.memory = number(&dir.join("memory.usage_in_bytes")).unwrap_or(0);
        self.memory_peak = number(&dir.join("memory.max_usage_in_bytes"));
        self.memory_failures = number(&dir.join("memory.failcnt")).unwrap_or(0);
        self.memory_limit = number(&dir.join("memory.limit_in_bytes")).unwrap_or(u64::MAX);
        self.memory_details = fields(&text(&dir.join("memory.stat")));
    }

    fn read_memory_v2(&mut self, dir: &Path) {
        self.memory = number(&dir.join("memory.current")).unwrap_or(0);
        // Absent and `max` are no limit.
        self.memory_limit = number(&dir.join("memory.max")).unwrap_or(u64::MAX);
        self.memory_details = fields(&text(&dir.join("memory.stat")));
    }

    fn read_io_v1(&mut self, dir: &Path) {
        self.io = io_counters(&text(&dir.join("blkio.throttle.io_service_bytes_recursive")));
        self.io_operations = Some(io_counters(&text(&dir.join("blkio.throttle.io_serviced_recursive"))));
    }

    fn read_io_v2(&mut self, dir: &Path) {
        for line in text(&dir.join("io.stat")).lines() {
            // `8:0 rbytes=4096 wbytes=0 rios=1 …`
            let Some((device, counters)) = line.split_once(' ') else { continue };
            let Some((major, minor)) = numbers(device) else { continue };
            for (key, kind) in [("rbytes=", "read"), ("wbytes=", "write")] {
                let bytes =
                    counters.split_whitespace().find_map(|counter| counter.strip_prefix(key)?.parse().ok());
                let value = bytes.unwrap_or(0);
                self.io.push(IoCounter { major, minor, kind: kind.to_owned(), value });
            }
        }
    }

    fn read_throttling(&mut self, dir: &Path, time: &str, unit: u64) {
        let stat = fields(&text(&dir.join("cpu.stat")));
        let get = |name: &str| stat.get(name).copied().unwrap_or(0);
        self.cpu.periods = get("nr_periods");
        self.cpu.throttled_periods = get("nr_throttled");
        self.cpu.throttled = get(time).saturating_mul(unit);
    }
}

/// Of lines like `8:0 Read 4096`; the last line, a sum over all devices, has no device.
fn io_counters(text: &str) -> Vec<IoCounter> {
    let counter = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let ((major, minor), (kind, value)) = (numbers(device)?, rest.split_once(' ')?);
        Some(IoCounter { major, minor, kind: kind.to_owned(), value: value.trim().parse().ok()? })
    };
    text.lines().filter_map(counter).collect()
}

/// A controller that is missing has no files: it counts nothing.
fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(path: &Path) -> Option<u64> {
    text(path).trim().parse().ok()
}

/// `8:0`
fn numbers(device: &str) -> Option<(u64, u64)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines of a name and a number.
fn fields(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect()
}

/// Time of all processors, as `/proc/stat` counts it; guests' is in the user's.
fn machine_time(stat: &str) -> u64 {
    let line = stat.lines().next().unwrap_or("");
    let ticks: u64 =
        line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse::<u64>().ok()).sum();
    ticks.saturating_mul(TICK)
}

/// `/proc/net/dev` without the loopback.
fn networks(text: &str) -> BTreeMap<String, NetworkSample> {
    let lines = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    lines
        .map(|(name, counters)| (name.trim().to_owned(), counters))
        .filter(|(name, _)| name != "lo")
        .map(|(name, counters)| {
            let numbers: Vec<u64> =
                counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let from = |at: usize| [0, 1, 2, 3].map(|offset| numbers.get(at + offset).copied().unwrap_or(0));
            (name, NetworkSample { received: from(0), sent: from(8) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_without_the_loopback() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let expected = NetworkSample { received: [10, 2, 3, 4], sent: [50, 6, 7, 8] };
        assert_eq!(networks(text), BTreeMap::from([("eth0".to_owned(), expected)]));
    }

    #[test]
    fn each_controller_is_read_where_it_is() {
        let temp = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("cpuacct/cpuacct.usage", "70\n"),
            ("cpuacct/cpuacct.usage_percpu", "30 40 \n"),
            ("unified/cpu.stat", "usage_usec 9\nnr_periods 5\nnr_throttled 2\nthrottled_usec 3\n"),
            ("unified/memory.current", "4096\n"),
            ("unified/memory.max", "max\n"),
            ("unified/pids.current", "3\n"),
            ("unified/pids.max", "50\n"),
            ("blkio/blkio.throttle.io_service_bytes_recursive", "8:0 Read 5\nTotal 5\n"),
        ] {
            let path = temp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut hybrid = Sample::default();
        hybrid.read(|controller| {
            let v1 = ["cpuacct", "blkio"].contains(&controller);
            Some((temp.path().join(if v1 { controller } else { "unified" }), !v1))
        });
        assert_eq!((hybrid.cpu.total, hybrid.cpu.each), (70, vec![30, 40]));
        assert_eq!((hybrid.cpu.periods, hybrid.cpu.throttled_periods, hybrid.cpu.throttled), (5, 2, 3000));
        assert_eq!((hybrid.memory, hybrid.memory_limit), (4096, u64::MAX));
        assert_eq!((hybrid.pids, hybrid.pids_limit), (3, Some(50)));
        assert_eq!((hybrid.io.len(), hybrid.io_operations), (1, Some(Vec::new())));
        let mut none = Sample::default();
        none.read(|_| None);
        assert_eq!((none.cpu.total, none.memory, none.pids), (0, 0, 0));
    }

    #[test]
    fn the_machines_time_leaves_guests_out() {
        assert_eq!(machine_time("cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 1\n"), 36 * TICK);
        assert_eq!(fields("user 5\nsystem 7\nodd\n").len(), 2);
        assert_eq!(numbers("8:16"), Some((8, 16)));
        let counters = io_counters("8:0 Read 5\n8:0 Total 9\nTotal 9\n");
        assert_eq!(counters.len(), 2);
        assert_eq!((counters[0].kind.as_str(), counters[0].value), ("Read", 5));
    }
}
