//! The hierarchies of this host, and which of them has a controller.
//!
//! ```text
//! v2       /sys/fs/cgroup itself is a cgroup2 file system, with all controllers
//! v1       a cgroup file system for each controller or a few of them: /sys/fs/cgroup/memory …
//! hybrid   the same with a cgroup2 beside them, /sys/fs/cgroup/unified: it may have controllers that none of v1 has
//! ```
//! Found out once: a controller changes its hierarchy only when no cgroup of it is left.

use super::v1::Hierarchy;
use super::{CgroupError, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const ROOT: &str = "/sys/fs/cgroup";

/// The hierarchies of this host; at least one.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) v1: Vec<Hierarchy>,
    /// Where the one of v2 is mounted.
    pub(super) unified: Option<PathBuf>,
}

/// Which hierarchy has a controller.
#[derive(Clone, Copy, Debug)]
pub(super) enum Home<'a> {
    V1(&'a Hierarchy),
    /// The root of the unified one.
    Unified(&'a Path),
}

pub(super) fn layout() -> Result<&'static Layout> {
    static LAYOUT: OnceLock<Option<Layout>> = OnceLock::new();
    LAYOUT
        .get_or_init(|| find(&fs::read_to_string("/proc/self/mountinfo").ok()?))
        .as_ref()
        .ok_or(CgroupError::NotMounted)
}

/// Reads the layout off `/proc/self/mountinfo` (proc(5)).
fn find(mountinfo: &str) -> Option<Layout> {
    let mut layout = Layout { v1: Vec::new(), unified: None };
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(4);
        let (Some(mount_point), Some(flags)) = (left.next(), left.next()) else { continue };
        let mut right = right.split(' ');
        match (right.next(), right.nth(1)) {
            (Some("cgroup2"), _) if mount_point == ROOT => {
                return Some(Layout { v1: Vec::new(), unified: Some(PathBuf::from(ROOT)) });
            }
            // One that is there to look at is none of ours.
            (Some("cgroup2"), _) if flags.split(',').any(|flag| flag == "rw") => {
                let mount_point = Path::new(mount_point);
                if mount_point.parent() == Some(Path::new(ROOT)) {
                    layout.unified.get_or_insert_with(|| mount_point.to_owned());
                }
            }
            (Some("cgroup"), Some(options)) => {
                if let Some(found) = Hierarchy::from_mount(mount_point, options)
                    && !layout.v1.iter().any(|known| known.options == found.options)
                {
                    layout.v1.push(found);
                }
            }
            _ => {}
        }
    }
    (!layout.v1.is_empty()).then_some(layout)
}

impl Layout {
    /// The hierarchy that has a controller, by its name on v1 or on v2: v1's where it is mounted.
    pub(super) fn home(&self, controller: &str) -> Option<Home<'_>> {
        if let Some(found) = self.v1.iter().find(|hierarchy| hierarchy.has(controller)) {
            return Some(Home::V1(found));
        }
        let root = self.unified.as_deref()?;
        // Of what v2 does without a controller, the host has what it needs.
        let built_in = matches!(controller, "freezer" | "devices");
        (self.v1.is_empty() || built_in || lists(root, controller)).then_some(Home::Unified(root))
    }
}

/// Whether the unified hierarchy at `root` has a controller, by its name on v1 or on v2.
pub(super) fn lists(root: &Path, controller: &str) -> bool {
    let name = match controller {
        "blkio" => "io",
        "cpuacct" => "cpu",
        name => name,
    };
    fs::read_to_string(root.join("cgroup.controllers"))
        .is_ok_and(|text| text.split_whitespace().any(|known| known == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "26 23 0:23 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
                      28 26 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                      29 26 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";

    #[test]
    fn a_host_is_v2_only_where_the_root_is() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let layout = find(v2).unwrap();
        assert!(layout.v1.is_empty());
        assert_eq!(layout.unified.as_deref(), Some(Path::new("/sys/fs/cgroup")));
        let found = find(V1).unwrap();
        let names: Vec<_> = found.v1.iter().map(|h| (h.name.as_str(), h.options.as_str())).collect();
        assert_eq!(names, [("systemd", "none,name=systemd"), ("cpu,cpuacct", "cpu,cpuacct")]);
        assert_eq!(found.unified, None);
        assert!(find("1 1 0:1 / / rw - ext4 /dev/vda rw\n").is_none());
    }

    #[test]
    fn a_hybrid_hosts_unified_hierarchy_counts_where_it_can_be_written() {
        let beside = |flags: &str| {
            let line = format!("27 26 0:24 / /sys/fs/cgroup/unified {flags} - cgroup2 cgroup2 rw\n{V1}");
            find(&line).unwrap().unified
        };
        assert_eq!(beside("rw,nosuid").as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(beside("ro,nosuid"), None);
    }

    #[test]
    fn a_controller_is_where_v1_has_it_and_else_where_the_unified_hierarchy_lists_it() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("cgroup.controllers"), "memory io\n").unwrap();
        let layout = Layout { unified: Some(temp.path().to_owned()), ..find(V1).unwrap() };
        let home = |controller: &str| match layout.home(controller) {
            Some(Home::V1(hierarchy)) => hierarchy.name.as_str(),
            Some(Home::Unified(_)) => "unified",
            None => "none",
        };
        for (controller, expected) in [
            ("cpu", "cpu,cpuacct"),
            ("memory", "unified"),
            ("blkio", "unified"),
            ("io", "unified"),
            ("pids", "none"),
            ("freezer", "unified"),
            ("devices", "unified"),
        ] {
            assert_eq!(home(controller), expected, "{controller}");
        }
    }
}
