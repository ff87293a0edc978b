//! What containers leave on a machine: looked at before, and once all of them are removed.

use e2e::{TestHost, eventually, run};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Seconds that the containers of this test sleep, and by which their processes are known.
pub(crate) const MARK: &str = "86753090";

/// What was there before the first container.
#[derive(Debug)]
pub(crate) struct Remains {
    rules: String,
}

impl Remains {
    pub(crate) fn of(host: &TestHost) -> Self {
        Self { rules: rules(host) }
    }

    /// Waits until no more is there than before.
    pub(crate) fn are_all_that_is_left(&self, host: &TestHost) {
        host.docker(["volume", "prune", "-a", "-f"]).success();
        let mut left = Vec::new();
        for _ in 0..600 {
            left = self.left(host);
            if left.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("removed containers have left: {left:#?}");
    }

    fn left(&self, host: &TestHost) -> Vec<String> {
        let mut left = host.leftovers();
        left.extend(shims(host).into_iter().map(|(pid, id)| format!("shim {pid} of {id}")));
        left.extend(sleepers(host).into_iter().map(|pid| format!("process {pid} of a container")));
        for dir in ["data/removing", "data/volumes", "run/shims", "run/engine"] {
            let entries = fs::read_dir(host.path(dir)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        let rules = rules(host);
        if rules != self.rules {
            left.push(format!("firewall rules: {rules}\nbefore: {}", self.rules));
        }
        left.extend(cgroups().into_iter().map(|dir| format!("cgroup {}", dir.display())));
        left.extend(namespaces_held(host));
        left
    }
}

fn rules(host: &TestHost) -> String {
    eventually("the rules of the firewall", || {
        let rules = run(host.inside("nft").args(["list", "table", "ip", "hostd"]));
        (rules.code() == 0).then(|| rules.text())
    })
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Pids of this host's shims, which stand in their containers' directories, and the ids of those.
pub(crate) fn shims(host: &TestHost) -> Vec<(u32, String)> {
    let bundles = host.path("run/shims");
    processes()
        .filter_map(|pid| {
            let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
            let id = cwd.strip_prefix(&bundles).ok()?.to_str()?.trim_end_matches(" (deleted)").to_owned();
            (!id.is_empty()).then_some((pid, id))
        })
        .collect()
}

/// Processes of containers of this host: those that sleep as only this test does, on a root of this host.
fn sleepers(host: &TestHost) -> Vec<u32> {
    let dir = host.path("data").to_string_lossy().into_owned();
    let of_ours = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(MARK) && mounts.contains(&dir)
    };
    processes().filter(of_ours).collect()
}

/// Ids of all containers there have been; other tests' containers have their cgroups beside those of ours.
static IDS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Notes that there was a container.
pub(crate) fn remember(id: &str) {
    IDS.lock().unwrap().insert(id.to_owned());
}

/// Cgroups of our containers, and scopes of systemd's, in whichever hierarchy and below whichever parent they are.
fn cgroups() -> Vec<PathBuf> {
    fn walk(dir: &Path, ids: &BTreeSet<String>, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = name.strip_suffix(".scope").unwrap_or(&name);
            if ids.contains(name.rsplit('-').next().unwrap_or(name)) {
                found.push(entry.path());
            }
            walk(&entry.path(), ids, found);
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &IDS.lock().unwrap(), &mut found);
    found
}

/// Network namespaces that hostd keeps open.
fn namespaces_held(host: &TestHost) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{}/fd", host.pid())).into_iter().flatten().flatten();
    let links = fds.filter_map(|fd| fs::read_link(fd.path()).ok()).map(|link| link.display().to_string());
    links.filter(|link| link.starts_with("net:")).map(|link| format!("hostd holds {link}")).collect()
}
