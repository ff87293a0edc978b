//! Control groups: where a container's processes are counted and limited (cgroups(7)).
//!
//! A container's cgroup is `<parent>/<id>` (or with [`Driver::Systemd`] `<slice>/hostd-<id>.scope`) below the root of every
//! hierarchy that is mounted: those of v1, the unified one of v2, or on a hybrid host both. There each controller is in one
//! of them, and its limits and counts are where it is ([`layout`]).
//!
//! All calls block for microseconds, but for [`Cgroup::freeze`] and [`Cgroup::remove`], which wait for the kernel.

pub(crate) mod devices;
mod files;
mod layout;
mod limits;
pub(crate) mod oom;
mod systemd;
mod v1;
mod v2;

use crate::spec::{Device, Resources};
use layout::{Home, Layout, layout};
use limits::Writer;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, thread};

/// What went wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host has no cgroups mounted.
    #[error("no cgroup file system is mounted below /sys/fs/cgroup")]
    NotMounted,
    /// The parent would lie outside the hierarchy.
    #[error("invalid cgroup parent {0:?}")]
    Parent(String),
    /// systemd did not do what it was asked.
    #[error("cannot {what} unit {unit}")]
    Systemd {
        /// `start`, `change`.
        what: &'static str,
        /// The container's unit.
        unit: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A limit was asked for that the kernel cannot keep.
    #[error("the kernel has no {controller} cgroup controller, which {limit} needs")]
    NoController {
        /// Name of the controller.
        controller: &'static str,
        /// What was asked for.
        limit: &'static str,
    },
    /// A device rule that makes no sense.
    #[error("invalid device cgroup rule {0:?}")]
    DeviceRule(String),
    /// A file of the cgroup could not be used.
    #[error("cannot {what} {}", path.display())]
    File {
        /// `create`, `write`, `read`, `remove`.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused the device filter.
    #[error("cannot install the device filter")]
    DeviceFilter(#[source] io::Error),
    /// Processes did not freeze or die in time.
    #[error("processes of cgroup {} did not {what} in time", path.display())]
    Timeout {
        /// `freeze`, `die`.
        what: &'static str,
        /// The cgroup.
        path: PathBuf,
    },
}

type Result<T> = std::result::Result<T, CgroupError>;

/// What a container sees at `/sys/fs/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupMount {
    /// One cgroup2 file system.
    V2,
    /// A tmpfs with one directory per hierarchy.
    V1 {
        /// Name and mount options of each (`cpu`, `none,name=systemd`).
        hierarchies: Vec<(String, String)>,
        /// Whether there is the unified one too, under that name.
        unified: bool,
    },
}

/// A cgroup's files that take processes in.
#[derive(Debug)]
pub struct Door(Vec<(PathBuf, fs::File)>);

impl Door {
    /// Moves the calling process, which has a single thread, into the cgroup.
    ///
    /// A thread that moves itself is the one move for which the kernel need not hold all forks and exits of the machine
    /// back. Moving another process by `cgroup.procs` takes a grace period of RCU where nobody has done it lately:
    /// 8 to 12 ms of a start's 40 and of an exec's 15, measured.
    ///
    /// # Errors
    /// The cgroup is gone, or takes no process.
    pub fn enter(self) -> Result<()> {
        self.0.into_iter().try_for_each(|(path, mut file)| {
            let written = io::Write::write_all(&mut file, b"0");
            written.map_err(|source| CgroupError::File { what: "write", path, source })
        })
    }
}

/// 1 or 2; 0 where there are none. A hybrid host counts as 1.
pub fn version() -> u8 {
    match layout() {
        Ok(layout) if layout.v1.is_empty() => 2,
        Ok(_) => 1,
        Err(_) => 0,
    }
}

/// Whether the host can keep limits of this controller, by its name on v1 (`memory`, `pids`, `cpu`, `cpuset`).
pub fn has_controller(name: &str) -> bool {
    layout().is_ok_and(|layout| match layout.home(name) {
        Some(Home::V1(_)) => true,
        // On v2 alone any file may be asked for, and shows by its absence that there is no such controller.
        Some(Home::Unified(root)) => layout::lists(root, name),
        None => false,
    })
}

/// Where the unified hierarchy of a hybrid host is mounted.
pub fn unified_beside_v1() -> Option<&'static Path> {
    let layout = layout().ok().filter(|layout| !layout.v1.is_empty())?;
    layout.unified.as_deref()
}

/// Controllers of a hybrid host's unified hierarchy that the kernel does not pass on to cgroups, and why. Enables those
/// that it does, as the first container would.
pub fn refused_controllers() -> Vec<(&'static str, io::Error)> {
    unified_beside_v1().map(|root| v2::enable_controllers(root, true)).unwrap_or_default()
}

fn limit(out: &mut Writer<'_>, resources: &Resources) -> Result<()> {
    type Limit = fn(&mut Writer<'_>, &Resources) -> Result<()>;
    let each: [(_, Limit, Limit); 5] = [
        ("memory", v1::limit_memory, v2::limit_memory),
        ("cpu", v1::limit_cpu, v2::limit_cpu),
        ("cpuset", limit_cpuset, limit_cpuset),
        ("pids", limit_pids, limit_pids),
        ("blkio", v1::limit_block_io, v2::limit_block_io),
    ];
    let layout = layout()?;
    each.into_iter().try_for_each(|(controller, old, unified)| match layout.home(controller) {
        Some(Home::Unified(_)) => unified(out, resources),
        Some(Home::V1(_)) | None => old(out, resources),
    })
}

fn limit_cpuset(out: &mut Writer<'_>, wanted: &Resources) -> Result<()> {
    out.set("cpuset", "cpuset.cpus", wanted.cpuset_cpus.as_deref(), "cpuset cpus")?;
    out.set("cpuset", "cpuset.mems", wanted.cpuset_mems.as_deref(), "cpuset mems")
}

fn limit_pids(out: &mut Writer<'_>, wanted: &Resources) -> Result<()> {
    // What Docker means by "no limit".
    let max = |limit: i64| if limit <= 0 { "max".to_owned() } else { limit.to_string() };
    out.set("pids", "pids.max", wanted.pids_limit.map(max), "a pids limit")
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// We do, in the cgroup file system.
    #[default]
    Cgroupfs,
    /// systemd does: a scope per container.
    Systemd,
}

impl Driver {
    /// The one that suits this host, as dockerd has it: systemd where it runs the host and its cgroups are of v2.
    pub fn of_host() -> Self {
        let booted = fs::symlink_metadata("/run/systemd/system").is_ok_and(|found| found.is_dir());
        if booted && version() == 2 { Self::Systemd } else { Self::Cgroupfs }
    }

    /// As `native.cgroupdriver` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }

    /// As other runtimes are told it (`cgroupsPath` of the OCI runtime specification).
    pub(crate) fn oci_path(self, parent: &str, id: &str) -> String {
        match self {
            Self::Cgroupfs => format!("/{}/{id}", parent.trim_matches('/')),
            Self::Systemd => format!("{parent}:hostd:{id}"),
        }
    }

    /// Where containers go unless told.
    pub fn default_parent(self) -> &'static str {
        match self {
            Self::Cgroupfs => "hostd",
            Self::Systemd => "system.slice",
        }
    }

    /// Whether cgroups can be made below `parent`.
    ///
    /// # Errors
    /// Says in Docker's words what a parent has to be.
    pub fn check_parent(self, parent: &str) -> std::result::Result<(), String> {
        match self {
            Self::Systemd if !systemd::is_slice(parent) => {
                Err("cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\""
                    .to_owned())
            }
            Self::Cgroupfs if leads_out(parent) => Err(format!("invalid cgroup parent {parent:?}")),
            _ => Ok(()),
        }
    }
}

/// Gives the containers below `parent` time of real-time scheduling to share: runtime and period in microseconds.
/// On v1 alone: v2 has no such limit.
///
/// # Errors
/// The kernel has no real-time scheduling in cgroups, or not that much time left.
pub fn allow_realtime(parent: &str, (runtime, period): (i64, i64)) -> Result<()> {
    if (runtime, period) == (0, 0) {
        return Ok(());
    }
    let missing = || CgroupError::NoController { controller: "cpu (v1)", limit: "real-time scheduling" };
    let Some(Home::V1(hierarchy)) = layout()?.home("cpu") else { return Err(missing()) };
    let mut dir = hierarchy.root.clone();
    if leads_out(parent) {
        return Err(CgroupError::Parent(parent.to_owned()));
    }
    for part in Path::new(parent.trim_start_matches('/')) {
        dir.push(part);
        files::make_dir(&dir)?;
        for (file, value) in [("cpu.rt_period_us", period), ("cpu.rt_runtime_us", runtime)] {
            if value != 0 {
                files::write_limit(&dir.join(file), &value.to_string(), "cpu (v1)", "real-time scheduling")?;
            }
        }
    }
    Ok(())
}

fn leads_out(parent: &str) -> bool {
    parent.contains('\0')
        || Path::new(parent).components().any(|part| part == std::path::Component::ParentDir)
}

/// A container's cgroup.
#[derive(Clone, Debug)]
pub struct Cgroup {
    /// Relative to the root of each hierarchy.
    path: PathBuf,
    /// The unit that it belongs to, where systemd makes it.
    unit: Option<systemd::Unit>,
}

impl Cgroup {
    /// Makes `<parent>/<id>` in every hierarchy; one that exists is taken over.
    ///
    /// # Errors
    /// The parent leads out of the hierarchy, or a directory cannot be made; nothing is left behind then.
    pub fn create(parent: &str, id: &str) -> Result<Self> {
        if leads_out(parent) {
            return Err(CgroupError::Parent(parent.to_owned()));
        }
        let cgroup = Self::open(parent, id);
        if let Err(error) = cgroup.make_dirs(layout()?) {
            // The error that counts is the first one.
            drop(cgroup.remove());
            return Err(error);
        }
        Ok(cgroup)
    }

    fn make_dirs(&self, layout: &Layout) -> Result<()> {
        v1::create(&layout.v1, &self.path)?;
        layout.unified.as_ref().map_or(Ok(()), |root| v2::create(root, &self.path))
    }

    /// The cgroup of that name, whether it exists or not.
    pub fn open(parent: &str, id: &str) -> Self {
        Self { path: Path::new(parent.trim_start_matches('/')).join(id), unit: None }
    }

    /// As [`Cgroup::open`], of one that `driver` makes.
    pub fn open_by(driver: Driver, parent: &str, id: &str) -> Self {
        match driver {
            Driver::Cgroupfs => Self::open(parent, id),
            Driver::Systemd => {
                let unit = systemd::Unit::of(parent, id);
                Self { path: unit.path(), unit: Some(unit) }
            }
        }
    }

    /// Whether it comes into being around a process, by [`Cgroup::start`], and not before.
    pub fn needs_process(&self) -> bool {
        self.unit.is_some()
    }

    /// Has systemd make it around a process, and applies the limits; does nothing where it is there already.
    ///
    /// # Errors
    /// systemd refuses, or as [`Cgroup::apply`].
    pub fn start(&self, pid: i32, resources: &Resources, privileged: bool, devices: &[Device]) -> Result<()> {
        let Some(unit) = &self.unit else { return Ok(()) };
        // On v1 systemd writes the devices again when it reloads; on v2 our filter stays beside any of its own.
        let rules = match devices::Rules::of(privileged, devices, &resources.device_rules)? {
            devices::Rules::Only(rules) if version() == 1 => {
                Some(devices::for_systemd(&rules, &fs::read_to_string("/proc/devices").unwrap_or_default()))
            }
            _ => None,
        };
        unit.start(pid, resources, rules).map_err(|error| self.unit_error("start", error))?;
        let layout = layout()?;
        if !layout.v1.is_empty() {
            // Hierarchies and controllers that systemd does not use.
            self.make_dirs(layout)?;
            for dir in self.dirs()? {
                files::write(&dir.join("cgroup.procs"), &pid.to_string())?;
            }
        }
        self.apply(resources, privileged, devices)
    }

    fn unit_error(&self, what: &'static str, error: crate::dbus::CallError) -> CgroupError {
        let unit = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        CgroupError::Systemd { what, unit, source: Box::new(error) }
    }

    /// Sets limits and the devices that may be used.
    ///
    /// # Errors
    /// Names the limit that the kernel refuses or has no controller for.
    pub fn apply(&self, resources: &Resources, privileged: bool, devices: &[Device]) -> Result<()> {
        let rules = devices::Rules::of(privileged, devices, &resources.device_rules)?;
        let find = |controller: &str| self.controller_dir(controller);
        limit(&mut Writer::new(&find), resources)?;
        match layout()?.home("devices") {
            Some(Home::V1(hierarchy)) => v1::allow_devices(&hierarchy.root.join(&self.path), &rules),
            Some(Home::Unified(root)) => v2::allow_devices(&root.join(&self.path), &rules),
            None => Ok(()), // without the controller nothing is restricted, as with Docker
        }
    }

    /// Changes the limits of a running container; those that are `None` stay. All or none.
    ///
    /// # Errors
    /// As [`Cgroup::apply`].
    pub fn update(&self, resources: &Resources) -> Result<()> {
        let find = |controller: &str| self.controller_dir(controller);
        let mut writer = Writer::remembering(&find);
        let told = limit(&mut writer, resources).and_then(|()| match &self.unit {
            Some(unit) => unit.update(resources).map_err(|error| self.unit_error("change", error)),
            None => Ok(()),
        });
        told.inspect_err(|_| writer.undo())
    }

    /// Where the files of a controller are, by its name on v1 or on v2, and whether they are those of v2; `None` where the
    /// host has no such controller.
    pub fn files_of(&self, controller: &str) -> Option<(PathBuf, bool)> {
        match layout().ok()?.home(controller)? {
            Home::V1(hierarchy) => Some((hierarchy.root.join(&self.path), false)),
            Home::Unified(root) => Some((root.join(&self.path), true)),
        }
    }

    fn controller_dir(&self, controller: &str) -> Option<PathBuf> {
        self.files_of(controller).map(|(dir, _)| dir)
    }

    /// Whether a process has to enter by itself: a clone puts it into the unified hierarchy alone.
    pub fn has_door(&self) -> bool {
        layout().is_ok_and(|layout| !layout.v1.is_empty())
    }

    /// Opens the way in for a process that is to enter by itself, while the host's hierarchies are in its reach.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn door(&self) -> Result<Door> {
        let open = |hierarchy: &v1::Hierarchy| {
            let path = hierarchy.root.join(&self.path).join("tasks");
            match fs::OpenOptions::new().write(true).open(&path) {
                Ok(file) => Ok((path, file)),
                Err(source) => Err(CgroupError::File { what: "open", path, source }),
            }
        };
        Ok(Door(layout()?.v1.iter().map(open).collect::<Result<_>>()?))
    }

    /// Its directory in the unified hierarchy, for `CLONE_INTO_CGROUP`; `None` where there is v1 alone.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn dir_fd(&self) -> Result<Option<OwnedFd>> {
        let Some(root) = &layout()?.unified else { return Ok(None) };
        let path = root.join(&self.path);
        match fs::File::open(&path) {
            Ok(dir) => Ok(Some(dir.into())),
            Err(source) => Err(CgroupError::File { what: "open", path, source }),
        }
    }

    /// The directory of the cgroup below this one that process `pid` has moved to, as [`Cgroup::dir_fd`].
    pub fn dir_fd_of(&self, pid: i32) -> Option<OwnedFd> {
        let root = layout().ok()?.unified.as_ref()?;
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let below = Path::new(path).starts_with(&self.path) && !leads_out(path);
        below.then(|| fs::File::open(root.join(path)).ok().map(Into::into))?
    }

    /// Stops all processes where they are; returns once they stand still.
    ///
    /// # Errors
    /// No freezer, or they do not stop within ten seconds.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// No freezer.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        match self.files_of("freezer") {
            Some((dir, false)) => v1::freeze(&dir, frozen),
            Some((dir, true)) => v2::freeze(&dir, frozen),
            None => Err(CgroupError::NoController { controller: "freezer", limit: "pause" }),
        }
    }

    /// Whether they are stopped, or about to.
    pub fn is_frozen(&self) -> bool {
        match self.files_of("freezer") {
            Some((dir, false)) => v1::is_frozen(&dir),
            Some((dir, true)) => files::field(&dir.join("cgroup.events"), "frozen") == Some(1),
            None => false,
        }
    }

    /// How many processes the kernel has killed here for want of memory; 0 where that is not counted.
    pub fn oom_kills(&self) -> u64 {
        let file = self
            .files_of("memory")
            .map(|(dir, unified)| dir.join(if unified { "memory.events" } else { "memory.oom_control" }));
        file.and_then(|file| files::field(&file, "oom_kill")).unwrap_or(0)
    }

    /// Hears of it when memory runs out; `None` where the kernel does not tell.
    pub(crate) fn watch_oom(&self) -> Option<oom::OomWatch> {
        let (dir, unified) = self.files_of("memory")?;
        if unified { oom::OomWatch::v2(&dir) } else { oom::OomWatch::v1(&dir) }.ok()
    }

    /// Its processes, those of nested cgroups included.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<_> =
            self.dirs().unwrap_or_default().iter().flat_map(|dir| files::pids_below(dir)).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Sends SIGKILL to everything in it, frozen processes included.
    pub fn kill_all(&self) {
        if let Ok(Layout { v1, unified: Some(root) }) = layout()
            && fs::write(root.join(&self.path).join("cgroup.kill"), "1").is_ok()
            && v1.is_empty()
        {
            return; // Linux 5.14: at once, and a fork cannot outrun it
        }
        for pid in self.pids() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                // It may have ended by itself meanwhile.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.thaw(); // a frozen process dies only when it thaws; an absent freezer freezes nothing
    }

    /// Removes it, killing what is left; succeeds when it is gone already.
    ///
    /// # Errors
    /// A process does not die within five seconds.
    pub fn remove(&self) -> Result<()> {
        for attempt in 0.. {
            let left: Vec<_> = self.dirs()?.into_iter().filter(|dir| !files::remove_tree(dir)).collect();
            let Some(dir) = left.first() else {
                if let Some(unit) = &self.unit {
                    unit.end();
                }
                return Ok(());
            };
            if attempt == 500 {
                return Err(CgroupError::Timeout { what: "die", path: dir.clone() });
            }
            self.kill_all();
            // The kernel tells nobody when the last process is reaped: 10 ms is what a dying one takes.
            thread::sleep(Duration::from_millis(if attempt < 5 { 2 } else { 10 }));
        }
        Ok(())
    }

    /// What is to be mounted at the container's `/sys/fs/cgroup`.
    pub fn mounts_for_container(&self) -> CgroupMount {
        match layout() {
            Ok(layout) if !layout.v1.is_empty() => CgroupMount::V1 {
                hierarchies: layout.v1.iter().map(|h| (h.name.clone(), h.options.clone())).collect(),
                unified: layout.unified.is_some(),
            },
            Ok(_) | Err(_) => CgroupMount::V2,
        }
    }

    /// Its directory in each hierarchy.
    fn dirs(&self) -> Result<Vec<PathBuf>> {
        let layout = layout()?;
        let roots = layout.v1.iter().map(|hierarchy| &hierarchy.root).chain(&layout.unified);
        Ok(roots.map(|root| root.join(&self.path)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_cannot_lead_out() {
        assert!(matches!(Cgroup::create("../../x", "id"), Err(CgroupError::Parent(_))));
    }

    #[test]
    fn limits_are_set_counted_and_removed() {
        if !rustix::process::geteuid().is_root() || layout().is_err() {
            eprintln!("skipped: needs root and a mounted cgroup file system");
            return;
        }
        let cgroup = Cgroup::create(&format!("hostd-test-{}", std::process::id()), "limits").unwrap();
        let resources = Resources {
            memory: has_controller("memory").then_some(64 << 20),
            pids_limit: has_controller("pids").then_some(20),
            ..Resources::default()
        };
        cgroup.apply(&resources, false, &[]).unwrap();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        for dir in cgroup.dirs().unwrap() {
            files::write(&dir.join("cgroup.procs"), &child.id().to_string()).unwrap();
        }
        assert_eq!(cgroup.pids(), [child.id() as i32]);
        cgroup.freeze().unwrap();
        cgroup
            .update(&Resources {
                memory: has_controller("memory").then_some(32 << 20),
                ..Resources::default()
            })
            .unwrap();
        let killer = cgroup.clone();
        let removal = thread::spawn(move || killer.remove());
        child.wait().unwrap();
        removal.join().unwrap().unwrap();
        assert!(cgroup.dirs().unwrap().iter().all(|dir| !dir.exists()));
        cgroup.remove().unwrap();
        for dir in cgroup.dirs().unwrap() {
            fs::remove_dir(dir.parent().unwrap()).unwrap();
        }
    }
}
