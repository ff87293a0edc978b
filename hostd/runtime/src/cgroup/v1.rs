//! The v1 hierarchies (Linux, Documentation/admin-guide/cgroup-v1).

use super::devices::Rules;
use super::files::{make_dir, write, write_limit};
use super::{CgroupError, Result};
use crate::spec::Resources;
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

/// The directory in the hierarchy that has this controller.
pub(super) fn dir(hierarchies: &[Hierarchy], path: &Path, controller: &str) -> Option<PathBuf> {
    hierarchies.iter().find(|h| h.has(controller)).map(|h| h.root.join(path))
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

pub(super) fn limit(hierarchies: &[Hierarchy], path: &Path, wanted: &Resources) -> Result<()> {
    let set = |controller: &'static str, file: &str, value: Option<String>, limit: &'static str| match value {
        None => Ok(()),
        Some(value) => match dir(hierarchies, path, controller) {
            Some(dir) => write_limit(&dir.join(file), &value, controller, limit),
            None => Err(CgroupError::NoController { controller, limit }),
        },
    };
    limit_memory(&set, wanted)?;
    set("cpu", "cpu.shares", wanted.cpu_shares.map(|n| n.to_string()), "cpu shares")?;
    set("cpu", "cpu.cfs_period_us", wanted.cpu_period.map(|n| n.to_string()), "a cpu period")?;
    set("cpu", "cpu.cfs_quota_us", wanted.cpu_quota.map(|n| n.to_string()), "a cpu quota")?;
    set("cpuset", "cpuset.cpus", wanted.cpuset_cpus.clone(), "cpuset cpus")?;
    set("cpuset", "cpuset.mems", wanted.cpuset_mems.clone(), "cpuset mems")?;
    set("pids", "pids.max", wanted.pids_limit.map(unlimited_below_one), "a pids limit")
}

/// `max` for what Docker means by "no limit".
pub(super) fn unlimited_below_one(limit: i64) -> String {
    if limit <= 0 { "max".to_owned() } else { limit.to_string() }
}

/// Writes a limit: controller, file, value, and what to call it in an error.
type Setter<'a> = dyn Fn(&'static str, &str, Option<String>, &'static str) -> Result<()> + 'a;

/// Memory with swap may never be less than memory, at no moment: which of the two is written first depends on
/// whether the limit rises or falls, so the second order is tried when the first is refused.
fn limit_memory(set: &Setter<'_>, wanted: &Resources) -> Result<()> {
    let memory =
        || set("memory", "memory.limit_in_bytes", wanted.memory.map(|n| n.to_string()), "a memory limit");
    let swap = || {
        set(
            "memory",
            "memory.memsw.limit_in_bytes",
            wanted.memory_swap.map(|n| n.to_string()),
            "a swap limit",
        )
    };
    if memory().is_err() {
        swap()?;
        memory()?;
    } else {
        swap()?;
    }
    let reservation = wanted.memory_reservation.map(|n| n.to_string());
    set("memory", "memory.soft_limit_in_bytes", reservation, "a memory reservation")?;
    set("memory", "memory.swappiness", wanted.memory_swappiness.map(|n| n.to_string()), "swappiness")
}

pub(super) fn allow_devices(hierarchies: &[Hierarchy], path: &Path, rules: &Rules) -> Result<()> {
    let Some(dir) = dir(hierarchies, path, "devices") else {
        return Ok(()); // without the controller nothing is restricted, as with Docker
    };
    let Rules::Only(rules) = rules else { return write(&dir.join("devices.allow"), "a") };
    write(&dir.join("devices.deny"), "a")?;
    rules.iter().try_for_each(|rule| write(&dir.join("devices.allow"), &rule.to_string()))
}

pub(super) fn freeze(hierarchies: &[Hierarchy], path: &Path, frozen: bool) -> Result<()> {
    let Some(dir) = dir(hierarchies, path, "freezer") else {
        return Err(CgroupError::NoController { controller: "freezer", limit: "pause" });
    };
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
    Err(CgroupError::Timeout { what: "freeze", path: dir })
}
