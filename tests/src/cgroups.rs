//! Where this machine keeps limits: in the hierarchies of cgroup v1, in the one of v2, or on a hybrid host in both.

use crate::TestHost;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// Whether the host's one hierarchy is of cgroup v2.
pub fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// Whether a controller's limits are those of v2, by its name on v1.
pub fn on_v2(controller: &str) -> bool {
    is_v2() || (v1(controller).is_none() && lists(&Path::new(ROOT).join("unified"), controller))
}

/// Whether the host can keep limits of a controller, by its name on v1.
pub fn has(controller: &str) -> bool {
    // Not a controller any more: a program of the kernel's.
    let built_in = controller == "devices" && is_v2();
    built_in || v1(controller).is_some() || lists(Path::new(ROOT), controller) || on_v2(controller)
}

/// A container's directory of a controller, by its name on v1.
///
/// # Panics
/// It does not run, or there is no such controller.
pub fn dir(host: &TestHost, name: &str, controller: &str) -> PathBuf {
    let own = format!("/proc/{}/cgroup", host.field(name, "{{.State.Pid}}"));
    let text = fs::read_to_string(own).expect("the container runs");
    let wanted = if on_v2(controller) { "" } else { controller };
    let line = text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == wanted).then_some(path)
    });
    let path = line.expect("the controller is there").trim_start_matches('/');
    match v1(controller) {
        Some(root) if !on_v2(controller) => root.join(path),
        _ if is_v2() => Path::new(ROOT).join(path),
        _ => Path::new(ROOT).join("unified").join(path),
    }
}

/// Where a controller of v1 is mounted.
fn v1(controller: &str) -> Option<PathBuf> {
    let root = Path::new(ROOT).join(controller);
    root.join("cgroup.procs").exists().then_some(root)
}

fn lists(root: &Path, controller: &str) -> bool {
    let now = match controller {
        "blkio" => "io",
        "cpuacct" => "cpu",
        name => name,
    };
    fs::read_to_string(root.join("cgroup.controllers"))
        .is_ok_and(|text| text.split_whitespace().any(|known| known == now))
}
