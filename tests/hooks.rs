//! Hooks that a vendor's description of a device brings: when they run, where, what they are told, and what becomes of a
//! container whose hooks fail.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, eventually, has, run};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Writes down what it is told and what it sees; it has the kind as its first argument.
const NOTE: &str = r#"#!/bin/sh
state=$(cat)
cd DIR
{
    echo "args $0 $*"
    echo "env $HOOKED"
    echo "pids $(readlink /proc/self/ns/pid)"
    echo "mounts $(readlink /proc/self/ns/mnt)"
    echo "net $(readlink /proc/self/ns/net)"
    echo "state $state"
} > "$1.new"
mv "$1.new" "$1"
echo "$1" >> order
"#;

/// A directory with scripts, and devices whose hooks these are.
struct Vendor(TempDir);

impl Vendor {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let vendor = Self(dir);
        vendor.script("note", &NOTE.replace("DIR", vendor.dir()));
        vendor
    }

    fn dir(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir())
    }

    fn script(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Describes `v.com/hook=NAME`.
    fn device(&self, name: &str, edits: &Value) {
        let devices = json!([{ "name": name, "containerEdits": edits }]);
        let text = json!({ "cdiVersion": "0.6.0", "kind": "v.com/hook", "devices": devices });
        fs::write(self.path(&format!("{name}.json")), text.to_string()).unwrap();
    }

    /// A device with one hook.
    fn hook(&self, device: &str, kind: &str, script: &str) {
        self.script(device, script);
        self.device(device, &json!({ "hooks": [{ "hookName": kind, "path": self.path(device) }] }));
    }

    fn host(&self) -> Result<TestHost, String> {
        TestHost::start(&[&format!("--cdi-spec-dir={}", self.dir())])
    }

    /// What a hook that notes has noted.
    fn noted(&self, kind: &str) -> String {
        eventually(&format!("the {kind} hook"), || fs::read_to_string(self.path(kind)).ok())
    }
}

macro_rules! host_with {
    ($vendor:expr) => {
        match $vendor.host() {
            Ok(host) => host,
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return;
            }
        }
    };
}

/// One line of a note, without its name.
fn line<'a>(note: &'a str, name: &str) -> &'a str {
    note.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap()
}

#[test]
fn hooks_run_in_their_order_and_in_their_namespaces() {
    let vendor = Vendor::new();
    let hook = |kind: &&str| {
        // In the container's own files there is the vendor's directory, by a bind of the same name.
        json!({ "hookName": kind, "path": vendor.path("note"), "args": ["note", kind], "env": ["HOOKED=yes", "PATH=/bin"] })
    };
    let hooks: Vec<Value> = KINDS.iter().map(hook).collect();
    let dir = vendor.dir();
    let bind = json!({ "hostPath": dir, "containerPath": dir, "options": ["rw", "rbind"] });
    vendor.device("all", &json!({ "hooks": hooks, "mounts": [bind] }));
    let host = host_with!(vendor);
    let id = host.docker(["run", "-d", "--device", "v.com/hook=all", "busybox", "sleep", "600"]).text();
    let inspected = host.field(&id, "{{.State.Pid}}");
    let own = |pid: &str, kind: &str| {
        fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_string_lossy().into_owned()
    };
    let hostd = host.pid().to_string();
    for kind in &KINDS[..5] {
        let note = vendor.noted(kind);
        assert_eq!(line(&note, "args"), format!("{} {kind}", vendor.path("note")), "{kind}");
        assert_eq!(line(&note, "env"), "yes", "{kind}");
        let state: Value = serde_json::from_str(line(&note, "state")).unwrap();
        let inside = ["createContainer", "startContainer"].contains(kind);
        let of = if inside { &inspected } else { &hostd };
        for (name, namespace) in [("pids", "pid"), ("net", "net"), ("mounts", "mnt")] {
            assert_eq!(line(&note, name), own(of, namespace), "{kind} {name}");
        }
        let status = match *kind {
            "startContainer" => "created",
            "poststart" => "running",
            _ => "creating",
        };
        assert_eq!((&state["status"], &state["id"]), (&json!(status), &json!(id)), "{kind}");
        let pid = if inside { 1 } else { inspected.parse::<i64>().unwrap() };
        assert_eq!(state["pid"], pid, "{kind}");
    }
    assert!(!Path::new(&vendor.path("poststop")).exists());
    host.docker(["rm", "-f", &id]).success();
    let state: Value = serde_json::from_str(line(&vendor.noted("poststop"), "state")).unwrap();
    assert_eq!((&state["status"], state.get("pid")), (&json!("stopped"), None));
    let order = eventually("the last hook to be noted", || {
        let order = fs::read_to_string(vendor.path("order")).unwrap();
        (order.lines().count() == KINDS.len()).then_some(order)
    });
    assert_eq!(order.lines().collect::<Vec<_>>(), KINDS);
}

/// What NVIDIA's toolkit does: it finds the root file system by the state, and changes files in it and mounts there.
#[test]
fn a_hook_changes_the_containers_files_before_it_starts() {
    let vendor = Vendor::new();
    let script = r#"#!/bin/sh
set -e
bundle=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/')
root=$(sed 's/.*"root":{"path":"\([^"]*\)".*/\1/' "$bundle/config.json")
test -d "$root/proc/1" && test -c "$root/dev/null" && test -e "$root/vendor/note"
ln -s /vendor/note "$root/linked"
mkdir "$root/mounted"
mount -t tmpfs none "$root/mounted"
echo in memory > "$root/mounted/file"
"#;
    vendor.script("change", script);
    let bind = json!({ "hostPath": vendor.dir(), "containerPath": "/vendor", "options": ["ro", "rbind"] });
    let hook = json!({ "hookName": "createContainer", "path": vendor.path("change") });
    vendor.device("change", &json!({ "hooks": [hook], "mounts": [bind] }));
    let host = host_with!(vendor);
    let look = "readlink /linked; cat /mounted/file; grep -c ' /mounted ' /proc/mounts; ls /proc/1/root/ | wc -l; \
                grep -c shims /proc/mounts; ls -d /proc/sys; touch /proc/sys/x";
    for runtime in ["hostd", "runc", "crun"] {
        if runtime != "hostd" && !runs(&host, runtime) {
            continue;
        }
        let args = [
            "run",
            "--rm",
            "--runtime",
            runtime,
            "--device",
            "v.com/hook=change",
            "busybox",
            "sh",
            "-c",
            look,
        ];
        let out = host.docker(args);
        assert!(out.stdout().starts_with("/vendor/note\nin memory\n1\n"), "{runtime}: {out:?}");
    }
    assert!(!Path::new("/linked").exists() && !Path::new("/mounted").exists());
    let with_tty =
        ["run", "--rm", "-t", "--init", "--device", "v.com/hook=change", "busybox", "cat", "/mounted/file"];
    assert_eq!(host.docker(with_tty).text(), "in memory");
}

/// Whether a runtime is there and takes this host's cgroups.
fn runs(host: &TestHost, runtime: &str) -> bool {
    if !has(runtime) {
        eprintln!("not with {runtime}: it is not on PATH");
        return false;
    }
    if Path::new("/sys/fs/cgroup/memory").exists() {
        // crun refuses v1 where controllers are on v2 too.
        drop(run(host.inside("umount").arg("/sys/fs/cgroup/unified")));
    }
    true
}

#[test]
fn a_container_whose_hook_fails_is_none_and_says_why() {
    let vendor = Vendor::new();
    let failing = "#!/bin/sh\necho it went wrong >&2\nexit 3\n";
    for kind in &KINDS {
        vendor.hook(kind, kind, failing);
    }
    let loud = "#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' x\nexit 1\n";
    vendor.hook("loud", "createRuntime", loud);
    vendor.device("missing", &json!({ "hooks": [{ "hookName": "prestart", "path": "/no/such/hook" }] }));
    let slow = json!({ "hookName": "createContainer", "path": "/bin/sleep", "args": ["sleep", "600"], "timeout": 1 });
    vendor.device("slow", &json!({ "hooks": [slow] }));
    vendor.device("relative", &json!({ "hooks": [{ "hookName": "prestart", "path": "bin/x" }] }));
    vendor.device("odd", &json!({ "hooks": [{ "hookName": "sometimes", "path": "/bin/x" }] }));
    let host = host_with!(vendor);
    let start = |device: &str| {
        let name = format!("v.com/hook={device}");
        host.docker(["run", "--rm", "--device", &name, "busybox", "echo", "ran"])
    };
    for kind in &KINDS[..4] {
        let out = start(kind).failure();
        // It is looked for in the container, where there is none.
        if *kind == "startContainer" {
            out.says("error running startContainer hook")
                .says("cannot execute it: No such file or directory");
        } else {
            out.says(&format!("error running {kind} hook {}: exit status 3", vendor.path(kind)))
                .says("it went wrong");
        }
    }
    // What has happened is not undone by these.
    assert_eq!(start("poststart").text(), "ran");
    assert_eq!(start("poststop").text(), "ran");
    let said = start("loud").failure();
    assert!(said.says("error running createRuntime hook").stderr().len() < 16 << 10);
    start("missing").failure().says("error running prestart hook /no/such/hook");
    start("slow").failure().says("error running createContainer hook /bin/sleep: it did not end in time");
    start("relative").failure().says("invalid prestart hook \"bin/x\": its path is not absolute");
    start("odd").failure().says("invalid hook name \"sometimes\"");
    assert_eq!(host.docker(["ps", "-aq"]).text(), "");
    eventually("the bundles to go", || {
        (fs::read_dir(host.path("run/shims")).unwrap().count() == 0).then_some(())
    });
}
