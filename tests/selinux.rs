//! SELinux: the labels of containers, of their files and of what they mount. Skipped where the host has none.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{Outcome, TestHost, eventually, has, run};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{PoisonError, RwLock};

const ENFORCE: &str = "/sys/fs/selinux/enforce";

/// Held for writing while the policy is enforced, which goes for all containers of the machine.
static MACHINE: RwLock<()> = RwLock::new(());

/// A hostd that labels, or the reason why there can be none here.
fn labelling(args: &[&str]) -> Result<TestHost, String> {
    if !Path::new(ENFORCE).exists() {
        return Err("this host has no SELinux".to_owned());
    }
    let known =
        |label: &str| Command::new("runcon").args([label, "true"]).status().is_ok_and(|s| s.success());
    if !known("system_u:system_r:container_t:s0:c1,c2") {
        return Err("this host's policy has no container_t (tests/containers.cil)".to_owned());
    }
    let args: Vec<&str> = ["--selinux-enabled"].iter().chain(args).copied().collect();
    TestHost::start(&args)
}

macro_rules! labelling {
    ($($arg:expr),*) => {
        match labelling(&[$($arg),*]) {
            Ok(host) => host,
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return;
            }
        }
    };
}

fn docker(host: &TestHost, args: &[&str]) -> Outcome {
    run(host.docker_command().args(args))
}

/// A container that runs, with these options: its id, its label, that of its files.
fn start(host: &TestHost, options: &[&str]) -> (String, String, String) {
    let args: Vec<&str> =
        ["run", "-d"].iter().chain(options).chain(&["busybox", "sleep", "600"]).copied().collect();
    let id = docker(host, &args).text();
    let (process, mount) = (host.field(&id, "{{.ProcessLabel}}"), host.field(&id, "{{.MountLabel}}"));
    (id, process, mount)
}

/// The label of a process, as it sees it itself.
fn label_in(host: &TestHost, id: &str) -> String {
    docker(host, &["exec", id, "cat", "/proc/self/attr/current"]).text().trim_end_matches('\0').to_owned()
}

fn level(label: &str) -> &str {
    label.splitn(4, ':').nth(3).unwrap()
}

/// The label of a file on this machine.
fn label_of(path: &Path) -> String {
    run(Command::new("stat").args(["-c", "%C"]).arg(path)).text()
}

#[test]
fn every_container_has_categories_of_its_own() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let mut host = labelling!();
    assert!(host.docker(["info", "--format", "{{.SecurityOptions}}"]).text().contains("name=selinux"));
    let (one, process, mount) = start(&host, &["--name", "one", "--tmpfs", "/memory", "--ipc", "shareable"]);
    assert!(process.starts_with("system_u:system_r:container_t:s0:c"), "{process}");
    assert_eq!(mount, format!("system_u:object_r:container_file_t:{}", level(&process)));
    assert_eq!(label_in(&host, &one), process);
    let first =
        fs::read_to_string(format!("/proc/{}/attr/current", host.field(&one, "{{.State.Pid}}"))).unwrap();
    assert_eq!(first.trim_end_matches('\0'), process);
    let mounts = host.docker(["exec", "one", "cat", "/proc/mounts"]).text();
    let labelled = mounts.lines().filter(|line| line.contains(&format!("context=\"{mount}\"")));
    let labelled: Vec<&str> = labelled.filter_map(|line| line.split(' ').nth(1)).collect();
    for path in ["/", "/dev", "/dev/pts", "/dev/shm", "/memory"] {
        assert!(labelled.contains(&path), "{path}: {mounts}");
    }
    let hosts = host.field(&one, "{{.HostsPath}}");
    assert_eq!(label_of(Path::new(&hosts)), mount);
    let (_, other, _) = start(&host, &["--name", "two"]);
    assert_ne!(level(&other), level(&process));
    let (_, shared, _) =
        start(&host, &["--name", "three", "--ipc", "container:one", "--pid", "container:one"]);
    assert_eq!(shared, process);
    docker(&host, &["run", "--rm", "--ipc", "container:one", "--pid", "container:two", "busybox", "true"])
        .exits(125)
        .says("--ipc and --pid containers SELinux labels aren't the same");
    // On record, and taken, for a daemon that comes after.
    host.kill();
    host.up();
    assert_eq!(host.field("one", "{{.ProcessLabel}}"), process);
    docker(&host, &["restart", "-t", "0", "one"]).success();
    assert_eq!(label_in(&host, "one"), process);
    let (init, of_init, _) = start(&host, &["--init"]);
    let status = docker(&host, &["exec", &init, "cat", "/proc/1/attr/current"]).text();
    assert_eq!(status.trim_end_matches('\0'), of_init);
}

#[test]
fn label_options_mean_what_they_mean_to_docker() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let host = labelling!();
    let (id, process, mount) = start(&host, &["--security-opt", "label=level:s0:c5,c6"]);
    assert_eq!((level(&process), level(&mount)), ("s0:c5,c6", "s0:c5,c6"));
    assert_eq!(label_in(&host, &id), process);
    let (_, process, _) = start(
        &host,
        &[
            "--security-opt",
            "label=type:unconfined_t",
            "--security-opt",
            "label=role:unconfined_r",
            "--security-opt",
            "label=user:unconfined_u",
        ],
    );
    assert!(process.starts_with("unconfined_u:unconfined_r:unconfined_t:s0:c"), "{process}");
    let (_, _, mount) = start(&host, &["--security-opt", "label=filetype:tmp_t"]);
    assert!(mount.contains(":tmp_t:"), "{mount}");
    for open in
        [["--security-opt", "label=disable"], ["--pid", "host"], ["--ipc", "host"], ["--privileged", "-t"]]
    {
        let (id, process, mount) = start(&host, &open);
        assert_eq!((process.as_str(), level(&mount)), ("", "s0:c1022,c1023"), "{open:?}");
        assert!(!label_in(&host, &id).contains("container_t"), "{open:?}");
    }
    for bad in ["label=purple", "label=nested", "label=user:"] {
        docker(&host, &["run", "--rm", "--security-opt", bad, "busybox", "true"])
            .exits(125)
            .says("bad label option");
    }
    docker(&host, &["run", "--rm", "--security-opt", "label=type:no_such_t", "busybox", "true"])
        .failure()
        .says("no_such_t");
}

#[test]
fn mounts_are_relabelled_where_asked_for_and_never_the_hosts_own() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let host = labelling!();
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("below");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("file"), "").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", below.join("link")).unwrap();
    let (before, passwd) = (label_of(&below), label_of(Path::new("/etc/passwd")));
    let bind = |mode: &str| format!("{}:/data{mode}", dir.path().display());
    start(&host, &["-v", &bind("")]);
    assert_eq!(label_of(&below), before);
    let (_, _, mount) = start(&host, &["-v", &bind(":Z")]);
    for file in ["below", "below/file", "below/link"] {
        assert_eq!(label_of(&dir.path().join(file)), mount, "{file}");
    }
    assert_eq!(label_of(Path::new("/etc/passwd")), passwd);
    start(&host, &["-v", &bind(":ro,z")]);
    assert_eq!(label_of(&below.join("file")), "system_u:object_r:container_file_t:s0");
    for path in ["/usr", "/etc", "/home", "/"] {
        let bind = format!("{path}:/data:z");
        docker(&host, &["run", "--rm", "-v", &bind, "busybox", "true"])
            .failure()
            .says(&format!("SELinux relabeling of {path} is not allowed"));
    }
    start(&host, &["--mount", "type=volume,src=vol,dst=/vol"]);
    let place = host.docker(["volume", "inspect", "-f", "{{.Mountpoint}}", "vol"]).text();
    assert_eq!(label_of(Path::new(&place)), "system_u:object_r:container_file_t:s0");
}

#[test]
fn other_runtimes_get_the_labels_too() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let host = labelling!();
    for runtime in ["runc", "crun"] {
        if !has(runtime) {
            eprintln!("not with {runtime}: it is not on PATH");
            continue;
        }
        let (id, process, mount) = start(&host, &["--runtime", runtime]);
        assert_eq!(label_in(&host, &id), process, "{runtime}");
        let mounts = docker(&host, &["exec", &id, "cat", "/proc/mounts"]).text();
        let labelled = mounts.lines().filter(|line| line.contains(&mount)).count();
        assert!(labelled > 2, "{runtime}: {mounts}");
    }
}

#[test]
fn without_the_option_nothing_is_labelled() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    if let Err(reason) = labelling(&[]) {
        eprintln!("skipped: {reason}");
        return;
    }
    let host = e2e::host!();
    let (_, process, mount) = start(&host, &[]);
    assert_eq!((process.as_str(), mount.as_str()), ("", ""));
    assert!(!host.docker(["info", "--format", "{{.SecurityOptions}}"]).text().contains("selinux"));
}

/// Lets the policy be enforced for as long as it lives.
struct Enforcing;

impl Enforcing {
    fn new() -> Self {
        fs::write(ENFORCE, "1").unwrap();
        Self
    }
}

impl Drop for Enforcing {
    fn drop(&mut self) {
        fs::write(ENFORCE, "0").unwrap();
    }
}

#[test]
fn a_container_reads_no_other_containers_files() {
    let _machine = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let host = labelling!();
    let enforced = fs::read_to_string(ENFORCE).unwrap() == "1";
    if !enforced && std::env::var_os("BERTH_TEST_ENFORCE").is_none_or(|allowed| allowed.is_empty()) {
        eprintln!("skipped: the policy is not enforced, and BERTH_TEST_ENFORCE does not allow that it be");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "of the first\n").unwrap();
    let bind = |mode: &str| format!("{}:/data{mode}", dir.path().display());
    let (one, _, _) = start(&host, &["-v", &bind(":Z")]);
    let (two, _, _) = start(&host, &["-v", &bind("")]);
    let (open, _, _) = start(&host, &["-v", &bind(""), "--security-opt", "label=disable"]);
    let read = |id: &str| docker(&host, &["exec", id, "cat", "/data/secret"]);
    assert_eq!(read(&two).text(), "of the first");
    let enforcing = (!enforced).then(Enforcing::new);
    // The kernel forgets by and by what it allowed before.
    eventually("the policy to be enforced", || (!read(&two).succeeded()).then_some(()));
    read(&two).failure().says("Permission denied");
    assert_eq!(read(&one).text(), "of the first");
    assert_eq!(read(&open).text(), "of the first");
    drop(enforcing);
}
