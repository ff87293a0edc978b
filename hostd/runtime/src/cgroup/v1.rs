//! The v1 hierarchies (Linux, Documentation/admin-guide/cgroup-v1).

use super::devices::Rules;
use super::files::{make_dir, write};
use super::limits::{Writer, line_of};
use super::{CgroupError, Result};
use crate::spec::{DeviceLimit, Resources};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

/// Controllers as mount options tell them; other options of a mount are not ours to repeat.
const CONTROLLERS: [&str; 13] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// One mounted hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    /// Last part of its mount point: `memory`, `cpu,cpuacct`, `systemd`.
    pub(super) name: String,
    pub(super) root: PathBuf,
    /// What mounts the same hierarchy again.
    pub(super) options: String,
}

impl Hierarchy {
    pub(super) fn from_mount(mount_point: &str, super_options: &str) -> Option<Self> {
        let wanted: Vec<_> =
            super_options.split(',').filter(|o| CONTROLLERS.contains(o) || o.starts_with("name=")).collect();
        let mut options = wanted.join(",");
        if wanted.iter().all(|option| option.starts_with("name=")) {
            options.insert_str(0, "none,");
        }
        let root = PathBuf::from(mount_point);
        let name = root.file_name()?.to_str()?.to_owned();
        (!wanted.is_empty()).then_some(Self { name, root, options })
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }
}

pub(super) fn create(hierarchies: &[Hierarchy], path: &Path) -> Result<()> {
    for hierarchy in hierarchies {
        if hierarchy.has("cpuset") {
            create_cpuset(&hierarchy.root, path)?;
        } else {
            make_dir(&hierarchy.root.join(path))?;
        }
    }
    Ok(())
}

/// A new cpuset has no CPU and takes no process until it is given some: its parent's.
fn create_cpuset(root: &Path, path: &Path) -> Result<()> {
    let mut dir = root.to_owned();
    for part in path.iter() {
        let parent = dir.clone();
        dir.push(part);
        make_dir(&dir)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let inherited = fs::read_to_string(dir.join(file)).is_ok_and(|text| !text.trim().is_empty());
            if !inherited {
                let value = fs::read_to_string(parent.join(file)).map_err(|source| CgroupError::File {
                    what: "read",
                    path: parent.join(file),
                    source,
                })?;
                write(&dir.join(file), value.trim())?;
            }
        }
    }
    Ok(())
}

/// Memory with swap may never be less than memory, at no moment: which of the two is written first depends on
/// whether the limit rises or falls, so the second order is tried when the first is refused.
pub(super) fn limit_memory(out: &mut Writer<'_>, wanted: &Resources) -> Result<()> {
    let memory =
        |out: &mut Writer<'_>| out.set("memory", "memory.limit_in_bytes", wanted.memory, "a memory limit");
    let swap = |out: &mut Writer<'_>| {
        out.set("memory", "memory.memsw.limit_in_bytes", wanted.memory_swap, "a swap limit")
    };
    if memory(out).is_err() {
        swap(out)?;
        memory(out)?;
    } else {
        swap(out)?;
    }
    let reservation = wanted.memory_reservation;
    out.set("memory", "memory.soft_limit_in_bytes", reservation, "a memory reservation")?;
    out.set("memory", "memory.swappiness", wanted.memory_swappiness, "swappiness")?;
    let tcp = wanted.kernel_memory_tcp;
    out.set("memory", "memory.kmem.tcp.limit_in_bytes", tcp, "a limit of TCP buffers")?;
    let disable = wanted.oom_kill_disable.map(u8::from);
    out.set_line("memory", "memory.oom_control", disable, "disabling the OOM killer", |text| {
        let now = text.lines().find_map(|line| line.strip_prefix("oom_kill_disable "));
        now.unwrap_or("0").to_owned()
    })
}

pub(super) fn limit_cpu(out: &mut Writer<'_>, wanted: &Resources) -> Result<()> {
    out.set("cpu", "cpu.shares", wanted.cpu_shares, "cpu shares")?;
    // As with memory: a quota must fit the period at every moment.
    let period =
        |out: &mut Writer<'_>| out.set("cpu", "cpu.cfs_period_us", wanted.cpu_period, "a cpu period");
    let quota = |out: &mut Writer<'_>| out.set("cpu", "cpu.cfs_quota_us", wanted.cpu_quota, "a cpu quota");
    if period(out).is_err() {
        quota(out)?;
        period(out)?;
    } else {
        quota(out)?;
    }
    out.set("cpu", "cpu.rt_period_us", wanted.cpu_rt_period, "a real-time period")?;
    out.set("cpu", "cpu.rt_runtime_us", wanted.cpu_rt_runtime, "a real-time runtime")
}

pub(super) fn limit_block_io(out: &mut Writer<'_>, wanted: &Resources) -> Result<()> {
    let wanted = &wanted.block_io;
    // Named after the scheduler since Linux 5.0, but where CFQ or its successor is still called by the old name.
    let own = out.has("blkio", "blkio.weight");
    let (weight, by_device) = if own {
        ("blkio.weight", "blkio.weight_device")
    } else {
        ("blkio.bfq.weight", "blkio.bfq.weight_device")
    };
    out.set("blkio", weight, wanted.weight, "a block I/O weight")?;
    let mut each = |file: &str, limits: &[DeviceLimit], what| -> Result<()> {
        for limit in limits {
            let device = format!("{}:{}", limit.major, limit.minor);
            let value = Some(format!("{device} {}", limit.value));
            out.set_line("blkio", file, value, what, |text| line_of(text, &device, "0"))?;
        }
        Ok(())
    };
    each(by_device, &wanted.device_weights, "a block I/O weight of a device")?;
    each("blkio.throttle.read_bps_device", &wanted.read_bps, "a block I/O read rate")?;
    each("blkio.throttle.write_bps_device", &wanted.write_bps, "a block I/O write rate")?;
    each("blkio.throttle.read_iops_device", &wanted.read_iops, "a block I/O read rate")?;
    each("blkio.throttle.write_iops_device", &wanted.write_iops, "a block I/O write rate")
}

pub(super) fn allow_devices(dir: &Path, rules: &Rules) -> Result<()> {
    let Rules::Only(rules) = rules else { return write(&dir.join("devices.allow"), "a") };
    write(&dir.join("devices.deny"), "a")?;
    rules.iter().try_for_each(|rule| write(&dir.join("devices.allow"), &rule.to_string()))
}

pub(super) fn is_frozen(dir: &Path) -> bool {
    fs::read_to_string(dir.join("freezer.state")).is_ok_and(|now| now.trim() != "THAWED")
}

pub(super) fn freeze(dir: &Path, frozen: bool) -> Result<()> {
    let (state, wanted) = (dir.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" });
    for _ in 0..1000 {
        // Written again each time: a process that forked meanwhile leaves the cgroup FREEZING.
        write(&state, wanted)?;
        if fs::read_to_string(&state).is_ok_and(|now| now.trim() == wanted) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    write(&state, "THAWED")?;
    Err(CgroupError::Timeout { what: "freeze", path: dir.to_owned() })
}
