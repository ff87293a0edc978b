//! Real machines: QEMU guests, under emulation where there is no KVM, from create to rm.
//!
//! One guest is shared by the tests that only use it; those that break or restart a machine make their own.
//! The harness is libtest-mimic's, as the shared guest must be removed after the last test.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{Outcome, built, eventually, has, python, run};
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

/// A laptop: a `$BERTH_HOME` of its own.
struct Laptop {
    home: TempDir,
    berth: PathBuf,
    image: PathBuf,
}

impl Laptop {
    fn new() -> Self {
        Self::with_image(built("BERTH_TEST_IMAGE", "debian-12.qcow2").unwrap())
    }

    fn with_image(image: PathBuf) -> Self {
        Self {
            home: tempfile::Builder::new().prefix("berth-").tempdir().unwrap(),
            berth: built("BERTH_BIN", "berth").unwrap(),
            image,
        }
    }

    /// One that has berth's own image where `berth image build` puts it, so that it need not be named.
    fn with_own_image() -> Option<Self> {
        let image = built("BERTH_TEST_OWN_IMAGE", "berth.img");
        let image = image.map_err(|reason| eprintln!("skipped: {reason}")).ok()?;
        let laptop = Self::with_image(image.clone());
        let version = laptop.berth(&["--version"]).text().replace("berth ", "");
        let cache = laptop.home.path().join("cache");
        fs::create_dir(&cache).unwrap();
        for part in ["", ".kernel", ".initrd", ".toml"] {
            let name = format!("berth-{version}-{}.img{part}", std::env::consts::ARCH);
            let from = fs::canonicalize(format!("{}{part}", image.display())).unwrap();
            std::os::unix::fs::symlink(from, cache.join(name)).unwrap();
        }
        Some(laptop)
    }

    fn load_busybox(&self) {
        let busybox = built("BERTH_TEST_BUSYBOX", "busybox.tar").unwrap();
        self.berth(&["load", "-i", busybox.to_str().unwrap()]).success();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.berth);
        command
            .args(args)
            .env("BERTH_HOME", self.home.path())
            .env_remove("BERTH_MACHINE")
            .stdin(Stdio::null());
        command.env("BERTH_HOSTD", built("BERTH_HOSTD", "hostd").unwrap());
        command
    }

    fn berth(&self, args: &[&str]) -> Outcome {
        run(&mut self.command(args))
    }

    fn create_args<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        vec![
            "create",
            "--driver",
            "qemu",
            "--qemu-image",
            self.image.to_str().unwrap(),
            "--qemu-memory",
            "1024",
            name,
        ]
    }

    fn create(&self, name: &str) -> Outcome {
        self.berth(&self.create_args(name))
    }

    /// Processes that name this laptop's home: guests above all.
    fn processes(&self) -> Vec<String> {
        let mark = self.home.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.contains(&mark) {
                found.push(command);
            }
        }
        found
    }

    fn machine_dirs(&self) -> usize {
        fs::read_dir(self.home.path().join("machines")).map_or(0, |entries| entries.flatten().count())
    }
}

impl Laptop {
    fn remove_all(&self) {
        let names = self.berth(&["ls", "-q"]).stdout();
        for name in names.split_whitespace() {
            drop(self.berth(&["machine", "rm", "-f", "-y", name]));
        }
    }
}

impl Drop for Laptop {
    fn drop(&mut self) {
        self.remove_all();
    }
}

static SHARED: OnceLock<Laptop> = OnceLock::new();

/// The laptop with the guest `shared`, which is active and has the busybox image.
fn shared() -> &'static Laptop {
    SHARED.get_or_init(|| {
        let laptop = Laptop::new();
        laptop.create("shared").success();
        laptop
            .berth(&["load", "-i", built("BERTH_TEST_BUSYBOX", "busybox.tar").unwrap().to_str().unwrap()])
            .success();
        laptop
    })
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn curl(args: &[&str]) -> Outcome {
    run(Command::new("curl").args(["-sS", "--max-time", "10"]).args(args))
}

fn a_machine_tells_where_it_is_and_how_it_is() {
    let laptop = shared();
    laptop.berth(&["ls"]).success().says("shared").says("qemu").says("Running").says("tcp://127.0.0.1:");
    assert_eq!(laptop.berth(&["active"]).text(), "shared");
    laptop.berth(&["status", "shared"]).success().says("Running");
    assert_eq!(laptop.berth(&["ip", "shared"]).text(), "127.0.0.1");
    let url = laptop.berth(&["url", "shared"]).text();
    assert!(url.starts_with("tcp://127.0.0.1:"), "{url}");
    let listed: serde_json::Value =
        serde_json::from_str(&laptop.berth(&["ls", "--format", "json"]).text()).unwrap();
    assert!(listed.to_string().contains("shared"), "{listed}");
    let inspected: serde_json::Value =
        serde_json::from_str(&laptop.berth(&["inspect", "shared"]).text()).unwrap();
    assert!(!inspected.to_string().contains("PRIVATE KEY"), "{inspected}");
    laptop.berth(&["status", "nobody"]).failure().says("error: ").says("nobody");
    laptop.berth(&["ssh", "shared", "--", "uname", "-s"]).success().says("Linux");
    laptop.berth(&["ssh", "shared", "--", "sh", "-c", "'exit 9'"]).exits(9);
}

/// The stock docker CLI against the shared guest.
fn docker(args: &[&str]) -> Outcome {
    let mut command = shared().command(&[]);
    let program = command.get_program().to_owned();
    command = {
        let mut bash = Command::new("bash");
        bash.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        bash
    };
    command.args(["-c", "eval \"$(\"$0\" env --shell bash shared)\" && exec docker \"$@\""]).arg(program);
    run(command.args(args).stdin(Stdio::null()))
}

/// A command of root in the shared guest.
fn in_guest(command: &str) -> Outcome {
    shared().berth(&["ssh", "shared", "--", &format!("sudo sh -c '{command}'")])
}

fn limits_are_kept_on_cgroup_v2_and_systemd_knows_of_them() {
    if !has("docker") {
        eprintln!("skipped: docker is not on PATH");
        return;
    }
    assert_eq!(docker(&["info", "-f", "{{.CgroupDriver}} {{.CgroupVersion}}"]).text(), "systemd 2");
    let limits = [
        "-m",
        "64m",
        "--memory-reservation",
        "32m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "50",
        "--cpuset-cpus=0",
    ];
    let io = ["--cpu-shares", "512", "--blkio-weight", "300", "--device-read-bps", "/dev/vda:1mb"];
    let sleeper = ["busybox", "sleep", "1000"];
    let all = [&["run", "-d", "--name", "limited"][..], &limits, &io, &sleeper].concat();
    docker(&all).success();
    let id = docker(&["inspect", "-f", "{{.Id}}", "limited"]).text();
    let unit = format!("hostd-{id}.scope");
    let files =
        |names: &str| in_guest(&format!("cd /sys/fs/cgroup/system.slice/{unit} && grep . {names}")).text();
    let seen = files(
        "memory.max memory.low memory.swap.max cpu.max cpu.weight pids.max cpuset.cpus io.weight io.max",
    );
    for line in [
        "memory.max:67108864",
        "memory.low:33554432",
        "memory.swap.max:67108864",
        "cpu.max:50000 100000",
        "cpu.weight:20",
        "pids.max:50",
        "cpuset.cpus:0",
        "io.weight:default 2930",
        "rbps=1048576 wbps=max",
    ] {
        assert!(seen.contains(line), "{line} is not in\n{seen}");
    }
    docker(&[
        "update",
        "-m",
        "128m",
        "--memory-swap",
        "128m",
        "--pids-limit",
        "70",
        "--cpus",
        "1",
        "limited",
    ])
    .success();
    // What systemd knows it writes again.
    in_guest("systemctl daemon-reload").success();
    let seen = files("memory.max memory.swap.max cpu.max pids.max");
    for line in ["memory.max:134217728", "memory.swap.max:0", "cpu.max:100000 100000", "pids.max:70"] {
        assert!(seen.contains(line), "{line} is not in\n{seen}");
    }
    in_guest(&format!("systemctl show {unit} -p MemoryMax -p TasksMax -p Delegate"))
        .success()
        .says("MemoryMax=134217728")
        .says("TasksMax=70")
        .says("Delegate=yes");
    docker(&["exec", "limited", "dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1"]).exits(137);
    eventually("the exec's end to be told of", || {
        let state = docker(&["inspect", "-f", "{{.State.OOMKilled}} {{.State.Running}}", "limited"]);
        (state.stdout().trim() == "true true").then_some(())
    });
    docker(&["rm", "-f", "limited"]).success();
    eventually("systemd to forget the scope", || {
        let units = in_guest("systemctl list-units --all --plain --no-legend \"hostd-*.scope\"").stdout();
        (!units.contains(&unit)).then_some(())
    });
    let place = [
        "run",
        "--rm",
        "--cgroupns",
        "host",
        "--cgroup-parent",
        "my-test.slice",
        "busybox",
        "cat",
        "/proc/self/cgroup",
    ];
    docker(&place).success().says("/my.slice/my-test.slice/hostd-");
    docker(&["run", "--rm", "--cgroup-parent", "/x", "busybox", "true"])
        .exits(125)
        .says("cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"");
    let log = "mknod /log c 1 11; : > /log && echo open";
    docker(&["run", "--rm", "--device-cgroup-rule", "c 1:11 rwm", "busybox", "sh", "-c", log]).says("open");
    docker(&["run", "--rm", "busybox", "sh", "-c", log]).failure().says("Operation not permitted");
    docker(&["run", "--rm", "--oom-kill-disable", "-m", "64m", "busybox", "true"])
        .success()
        .says("OomKillDisable discarded");
}

fn the_stock_docker_cli_drives_the_machine_through_env() {
    let laptop = shared();
    if !has("docker") {
        eprintln!("skipped: docker is not on PATH");
        return;
    }
    let shell = format!(
        "eval \"$({} env --shell bash shared)\" && docker ps && docker version && docker run --rm busybox echo through-env",
        laptop.berth.display()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &shell]).env("BERTH_HOME", laptop.home.path());
    run(&mut command).success().says("CONTAINER ID").says("through-env");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("docker $({} config shared) images", laptop.berth.display())]);
    run(command.env("BERTH_HOME", laptop.home.path())).success().says("busybox");
}

/// The guest has cgroup v2 and systemd. `BERTH_TEST_GUEST=all` runs all of the suite there, which takes a while under
/// emulation; else what is marked as quick.
fn docker_py_drives_the_machine_through_env() {
    let laptop = shared();
    let suite = match python::program("run") {
        Ok(suite) => suite,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let whole = std::env::var("BERTH_TEST_GUEST").is_ok_and(|value| value == "all");
    let script = suite.get_args().next().unwrap().to_string_lossy().into_owned();
    let shell = format!(
        "eval \"$({} env --shell bash shared)\" && exec /usr/bin/python3 {script} {}",
        laptop.berth.display(),
        if whole { "" } else { "--quick" }
    );
    let mut command = Command::new("bash");
    command.args(["-c", &shell]).env("BERTH_HOME", laptop.home.path());
    command.envs(suite.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outcome = run(&mut command).success();
    println!("{}{}", outcome.stderr(), outcome.stdout());
}

fn containers_run_on_the_machine() {
    let laptop = shared();
    laptop.berth(&["run", "--rm", "busybox", "uname", "-a"]).success().says("Linux");
    laptop.berth(&["run", "--rm", "busybox", "sh", "-c", "exit 7"]).exits(7);
    laptop.berth(&["run", "--rm", "busybox", "nope"]).exits(127).says("executable file not found");
    laptop
        .berth(&[
            "run",
            "--rm",
            "-e",
            "A=b",
            "-w",
            "/tmp",
            "-u",
            "nobody",
            "--entrypoint",
            "sh",
            "busybox",
            "-c",
            "echo $A $PWD $(id -un)",
        ])
        .success()
        .says("b /tmp nobody");
    laptop
        .berth(&["run", "-d", "--name", "life", "busybox", "sh", "-c", "echo started; exec sleep 1000"])
        .success();
    laptop.berth(&["ps"]).says("life").says("Up ");
    laptop.berth(&["logs", "life"]).says("started");
    laptop.berth(&["exec", "life", "sh", "-c", "exit 4"]).exits(4);
    let inspected: serde_json::Value =
        serde_json::from_str(&laptop.berth(&["inspect", "life"]).text()).unwrap();
    assert_eq!(inspected[0]["State"]["Running"], true, "{inspected}");
    laptop.berth(&["stop", "-t", "0", "life"]).success();
    laptop.berth(&["wait", "life"]).says("137");
    laptop.berth(&["start", "life"]).success();
    laptop.berth(&["kill", "life"]).success();
    laptop.berth(&["rm", "-f", "life"]).success();
    laptop.berth(&["tag", "busybox", "other:1"]).success();
    laptop.berth(&["images"]).says("other");
    laptop.berth(&["rmi", "other:1"]).success();
    laptop.berth(&["info"]).success().says("hostd");
}

fn a_terminal_works_through_the_laptop() {
    let laptop = shared();
    // The size may come after the start.
    let until_sized = "for i in $(seq 300); do stty size | grep -q 91 && break; sleep 0.1; done";
    let line = format!(
        "stty rows 31 cols 91; {} run --rm -it busybox sh -c '{until_sized}; stty size; exit 6'",
        laptop.berth.display()
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("BERTH_HOME", laptop.home.path()).stdin(Stdio::null());
    run(&mut command).exits(6).says("31 91");
}

fn a_published_port_answers_on_the_laptops_localhost() {
    let laptop = shared();
    let port = free_port();
    let script = "mkdir /www && echo from the machine > /www/index.html && exec httpd -f -h /www";
    laptop
        .berth(&["run", "-d", "--name", "web", "-p", &format!("{port}:80"), "busybox", "sh", "-c", script])
        .success();
    let url = format!("http://localhost:{port}/");
    eventually("the page", || curl(&["-f", &url]).stdout().contains("from the machine").then_some(()));
    laptop.berth(&["rm", "-f", "web"]).success();
    curl(&["-f", &url]).failure();
}

/// The process that forwards the guest's ports, by its lock.
fn forwarder(laptop: &Laptop, name: &str) -> Option<Pid> {
    let lock = laptop.home.path().join(format!("machines/{name}/forwarder.lock"));
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(lock).ok()?);
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let held = locks.lines().find(|line| line.contains("FLOCK") && line.contains(&format!(":{inode} ")))?;
    Pid::from_raw(held.split_whitespace().nth(4)?.parse().ok()?)
}

fn ports_that_docker_publishes_come_to_the_laptop_and_go() {
    let laptop = shared();
    if !has("docker") {
        eprintln!("skipped: docker is not on PATH");
        return;
    }
    let (port, other) = (free_port(), free_port());
    let script = "mkdir -p /www && echo from docker > /www/index.html && exec httpd -f -h /www";
    let publish = format!("{port}:80");
    let url = format!("http://localhost:{port}/");
    let answers = |url: &str| curl(&["-f", url]).stdout().contains("from docker").then_some(());
    let silent = |url: &str| (!curl(&["-f", url]).succeeded()).then_some(());
    docker(&[
        "run",
        "-d",
        "--name",
        "pub",
        "--restart",
        "always",
        "-p",
        &publish,
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .success();
    eventually("the page", || answers(&url));
    docker(&["stop", "-t", "0", "pub"]).success();
    eventually("the port to be let go of", || silent(&url));
    docker(&["start", "pub"]).success();
    eventually("the page of the container that was started again", || answers(&url));

    // Killed, it is started again by the next command that comes by, and takes up what it missed.
    kill_process(eventually("the forwarder", || forwarder(laptop, "shared")), Signal::KILL).unwrap();
    docker(&["rm", "-f", "pub"]).success();
    docker(&["run", "-d", "--name", "pub", "-p", &format!("{other}:80"), "busybox", "sh", "-c", script])
        .success();
    laptop.berth(&["info"]).success();
    eventually("the other port", || answers(&format!("http://localhost:{other}/")));
    eventually("the port that was missed", || silent(&url));
    docker(&["rm", "-f", "pub"]).success();

    // A port that somebody has is told of by name, and taken as soon as it is free.
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    docker(&["run", "-d", "--name", "late", "-p", &publish, "busybox", "sh", "-c", script]).success();
    let log = laptop.home.path().join("machines/shared/forwarder.log");
    let named = format!("port {port} of container `late`");
    eventually("the conflict to be told", || {
        fs::read_to_string(&log).unwrap().contains(&named).then_some(())
    });
    laptop.berth(&["ps"]).says(&named);
    drop(taken);
    eventually("the port that has become free", || answers(&url));
    docker(&["rm", "-f", "late"]).success();
}

fn a_port_that_is_taken_on_the_laptop_is_named() {
    let laptop = shared();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    laptop
        .berth(&["run", "-d", "--name", "clash", "-p", &format!("{port}:80"), "busybox", "sleep", "100"])
        .failure()
        .says(&port.to_string());
    laptop.berth(&["ps", "-aq"]).success().lacks("clash");
    drop(laptop.berth(&["container", "rm", "-f", "clash"]));
}

fn the_engine_answers_only_to_its_own_certificates() {
    let laptop = shared();
    let url = laptop.berth(&["url", "shared"]).text().replace("tcp://", "https://") + "/_ping";
    let dir = laptop.home.path().join("machines/shared");
    let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    curl(&["--cacert", &ca, "--cert", &cert, "--key", &key, &url]).success().says("OK");
    curl(&["--cacert", &ca, &url]).failure();
    curl(&["--cert", &cert, "--key", &key, &url]).failure();
    let other = tempfile::tempdir().unwrap();
    let text = |name: &str| other.path().join(name).to_string_lossy().into_owned();
    run(Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=other",
        ])
        .args(["-keyout", &text("key.pem"), "-out", &text("cert.pem"), "-days", "1"]))
    .success();
    curl(&["--cacert", &ca, "--cert", &text("cert.pem"), "--key", &text("key.pem"), &url]).failure();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
}

fn containers_outlive_a_killed_hostd_on_the_machine() {
    let laptop = shared();
    laptop.berth(&["run", "-d", "--name", "steady", "busybox", "sleep", "1000"]).success();
    let pid = |laptop: &Laptop| {
        let text = laptop.berth(&["container", "inspect", "steady"]).stdout();
        serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|value| value[0]["State"]["Pid"].as_i64())
    };
    let before = pid(laptop).unwrap();
    laptop
        .berth(&[
            "ssh",
            "shared",
            "--",
            "sudo",
            "systemctl",
            "kill",
            "-s",
            "KILL",
            "--kill-who=main",
            "hostd",
        ])
        .success();
    let after = eventually("systemd to start hostd again", || pid(laptop));
    assert_eq!(after, before);
    laptop.berth(&["exec", "steady", "true"]).success();
    laptop.berth(&["rm", "-f", "steady"]).success();
}

fn provisioning_again_changes_nothing() {
    let laptop = shared();
    let started = |laptop: &Laptop| {
        laptop
            .berth(&[
                "ssh",
                "shared",
                "--",
                "systemctl",
                "show",
                "-p",
                "ActiveEnterTimestampMonotonic",
                "hostd",
            ])
            .text()
    };
    let before = started(laptop);
    laptop.berth(&["provision", "shared"]).success();
    assert_eq!(started(laptop), before, "hostd was restarted for nothing");
}

fn a_machine_of_ones_own_is_stopped_broken_mended_and_removed() {
    let laptop = Laptop::new();
    laptop.create("own").success();
    laptop.create("own").failure().says("own");
    laptop
        .berth(&["load", "-i", built("BERTH_TEST_BUSYBOX", "busybox.tar").unwrap().to_str().unwrap()])
        .success();
    laptop
        .berth(&["run", "-d", "--name", "always", "--restart", "always", "busybox", "sleep", "100000"])
        .success();

    // A disk that is full: nothing is half loaded, and it goes on when there is room again.
    let fill = "sudo sh -c 'fallocate -l $(df -B1 --output=avail / | tail -1) /fill; dd if=/dev/zero of=/rest bs=1M 2>/dev/null; sync; true'";
    laptop.berth(&["ssh", "own", "--", fill]).success();
    let busybox = built("BERTH_TEST_BUSYBOX", "busybox.tar").unwrap();
    laptop.berth(&["rmi", "-f", "busybox"]).failure();
    laptop.berth(&["load", "-i", busybox.to_str().unwrap()]);
    laptop.berth(&["ssh", "own", "--", "sudo rm -f /fill /rest && sync"]).success();
    laptop.berth(&["run", "--rm", "busybox", "true"]).success();

    // A hostd that does not start shows its last words, and the next provisioning mends it.
    let broken = laptop.home.path().join("broken-hostd");
    fs::write(&broken, "#!/bin/sh\necho the last words of hostd >&2\nexit 1\n").unwrap();
    run(Command::new("chmod").arg("755").arg(&broken)).success();
    run(laptop.command(&["provision", "own"]).env("BERTH_HOSTD", &broken))
        .failure()
        .says("the last words of hostd");
    laptop.berth(&["provision", "own"]).success();
    laptop.berth(&["ps"]).says("always");

    // A forwarder goes by its machine's name, and another takes its place where that changes.
    laptop.berth(&["rename", "own", "other"]).success();
    let renamed = eventually("a forwarder of the new name", || {
        laptop.berth(&["-m", "other", "info"]).success();
        forwarder(&laptop, "other")
    });
    laptop.berth(&["rename", "other", "own"]).success();
    eventually("that forwarder to end", || rustix::process::test_kill_process(renamed).err());
    eventually("one of the old name", || {
        laptop.berth(&["-m", "own", "info"]).success();
        forwarder(&laptop, "own")
    });
    laptop.berth(&["machine", "stop", "own"]).success();
    assert_eq!(forwarder(&laptop, "own"), None, "the forwarder outlives its machine");
    laptop.berth(&["ls"]).says("Stopped");
    laptop.berth(&["ps"]).failure().says("hint: ");
    laptop.berth(&["machine", "start", "own"]).success();
    eventually("the restart policy after a reboot", || {
        laptop.berth(&["ps"]).stdout().contains("always").then_some(())
    });
    let forwarding = eventually("the forwarder", || forwarder(&laptop, "own"));
    laptop.berth(&["machine", "kill", "own"]).success();
    eventually("the forwarder to end", || rustix::process::test_kill_process(forwarding).err());
    laptop.berth(&["rm", "-y", "own"]).success();
    assert_eq!((laptop.machine_dirs(), laptop.processes()), (0, Vec::new()), "rm has left something");
}

/// Starts `berth create` and kills it when its journal has grown past what it was: at once or within the step that
/// stands there, by `delay`. `false` where it came to its end first.
fn create_killed_at_next_step(laptop: &Laptop, args: &[&str], signal: Signal, delay: Duration) -> bool {
    let journal = laptop.home.path().join("machines/torn/journal");
    let length = |path: &Path| fs::metadata(path).map_or(0, |data| data.len());
    let before = length(&journal);
    let mut command = laptop.command(args);
    let mut child: Child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "create failed by itself");
            return false;
        }
        if length(&journal) > before {
            std::thread::sleep(delay);
            let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
            // It may have ended by itself meanwhile.
            let _ = kill_process(pid, signal);
            let ended = child.wait().unwrap();
            return !ended.success();
        }
        // Quick enough to be there between two lines, each of which is synced to disk.
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn a_create_that_is_killed_at_each_step_is_resumed_to_the_end() {
    let laptop = Laptop::new();
    let mut killed =
        create_killed_at_next_step(&laptop, &laptop.create_args("torn"), Signal::KILL, Duration::ZERO);
    assert!(killed, "it was never interrupted");
    laptop.create("torn").failure().says("--resume");
    let mut rounds = 1;
    let journal = || fs::read_to_string(laptop.home.path().join("machines/torn/journal")).unwrap();
    while killed {
        let signal = if rounds % 3 == 0 { Signal::INT } else { Signal::KILL };
        // The later steps take seconds: they are interrupted in their midst too.
        let slow = journal().contains("Waiting for SSH");
        let delay = Duration::from_millis(if slow { [0, 300, 1000][rounds % 3] } else { 0 });
        killed = create_killed_at_next_step(&laptop, &["create", "--resume", "torn"], signal, delay);
        rounds += 1;
        assert!(rounds < 60, "resuming does not get on");
    }
    eprintln!("interrupted {rounds} times, the journal being\n{}", journal());
    assert!(rounds > 6, "its steps were not interrupted one by one");
    laptop.berth(&["create", "--resume", "torn"]).success();
    laptop.berth(&["ls"]).says("Running");
    laptop.berth(&["info"]).success();
    laptop.berth(&["machine", "rm", "-y", "torn"]).success();
    assert_eq!((laptop.machine_dirs(), laptop.processes()), (0, Vec::new()), "rm has left something");
}

fn a_create_that_is_interrupted_can_be_removed_to_nothing() {
    let laptop = Laptop::new();
    let mut killed =
        create_killed_at_next_step(&laptop, &laptop.create_args("torn"), Signal::KILL, Duration::ZERO);
    for _ in 0..7 {
        let resume = ["create", "--resume", "torn"];
        killed = killed && create_killed_at_next_step(&laptop, &resume, Signal::KILL, Duration::ZERO);
    }
    laptop.berth(&["machine", "rm", "-y", "torn"]).success();
    assert_eq!((laptop.machine_dirs(), laptop.processes()), (0, Vec::new()), "rm has left something");
    laptop.create("torn").success();
}

/// The hostd on a machine, by its checksum.
fn hostd_on(laptop: &Laptop, name: &str) -> String {
    let sum = laptop.berth(&["ssh", name, "--", "sha256sum", "/usr/local/bin/hostd"]).text();
    sum.split_whitespace().next().unwrap().to_owned()
}

fn a_machine_of_berths_own_image_needs_no_ssh_to_be_ready_and_keeps_all_over_a_restart() {
    let Some(laptop) = Laptop::with_own_image() else { return };
    let version = laptop.berth(&["--version"]).text().replace("berth ", "");
    laptop.berth(&["image", "ls"]).success().says("IMAGE").says(&version).says("yes");
    let created = laptop.berth(&["create", "--qemu-memory", "1024", "small"]).success();
    created.lacks("Waiting for SSH");
    laptop.load_busybox();
    laptop.berth(&["info"]).success().says("Cgroup Version: 2");
    laptop
        .berth(&["run", "--rm", "--memory", "32m", "busybox", "cat", "/sys/fs/cgroup/memory.max"])
        .says("33554432");
    let write = ["run", "--rm", "-v", "kept:/kept", "busybox", "sh", "-c", "echo still here >/kept/file"];
    laptop.berth(&write).success();
    let stay = ["run", "-d", "--name", "stays", "--restart", "always", "busybox", "sleep", "100000"];
    laptop.berth(&stay).success();

    // A folder of this computer is the container's too, and of what stands beside it the machine sees nothing.
    let src = laptop.home.path().join("src");
    fs::create_dir(&src).unwrap();
    fs::write(src.join("from-here"), "written here\n").unwrap();
    let volume = format!("{}:/src", src.display());
    let in_home = |args: &[&str]| run(laptop.command(args).env("HOME", laptop.home.path()));
    in_home(&["run", "--rm", "-v", &volume, "busybox", "cat", "/src/from-here"])
        .success()
        .says("written here");
    let write = "echo written there >/src/from-there && mkdir /src/sub && chmod 600 /src/from-there";
    in_home(&["run", "--rm", "-v", "~/src:/src", "busybox", "sh", "-c", write]).success();
    assert_eq!(fs::read_to_string(src.join("from-there")).unwrap(), "written there\n");
    assert!(src.join("sub").is_dir());
    in_home(&["run", "--rm", "-v", "~/src:/src:ro", "busybox", "touch", "/src/x"])
        .failure()
        .says("Read-only");
    in_home(&["run", "--rm", "-v", "~/nowhere:/x", "busybox", "true"]).exits(125).says("No such file");
    laptop.berth(&["ssh", "small", "--", "sudo", "ls", "/mnt/laptop"]).success().lacks("machines");
    let keep = ["run", "-d", "--name", "follows", "--restart", "always", "-v", "~/src:/src", "busybox", "sh"];
    in_home(&[&keep[..], &["-c", "cp /src/from-here /src/$HOSTNAME && exec sleep 100000"]].concat())
        .success();

    laptop.berth(&["machine", "stop", "small"]).success();
    fs::write(src.join("from-here"), "written while it was off\n").unwrap();
    // It was taken down in order: the guest itself powered off, with its disk in a state that needs no repair.
    let console = laptop.home.path().join("machines/small/driver/console.log");
    assert!(
        fs::read_to_string(&console).unwrap().contains("Power down"),
        "it was not powered off from within"
    );
    laptop.berth(&["machine", "start", "small"]).success();
    eventually("the restart policy after a reboot", || {
        laptop.berth(&["ps"]).stdout().contains("stays").then_some(())
    });
    laptop
        .berth(&["run", "--rm", "-v", "kept:/kept", "busybox", "cat", "/kept/file"])
        .success()
        .says("still here");
    eventually("the shared folder to be there again before the container that has it", || {
        let copies = fs::read_dir(&src).unwrap().flatten().filter(|entry| {
            fs::read_to_string(entry.path()).is_ok_and(|text| text == "written while it was off\n")
        });
        (copies.count() == 2).then_some(())
    });

    // Nothing differs, so that nothing is changed; another hostd replaces the image's, and containers go on.
    let started = || laptop.berth(&["ssh", "small", "--", "cat", "/run/berth/hostd.pid"]).text();
    let before = started();
    laptop.berth(&["provision", "small"]).success();
    assert_eq!(started(), before, "hostd was restarted for nothing");
    let of_image = hostd_on(&laptop, "small");
    let other = laptop.home.path().join("other-hostd");
    let mut program = fs::read(built("BERTH_HOSTD", "hostd").unwrap()).unwrap();
    program.push(0);
    fs::write(&other, program).unwrap();
    run(laptop.command(&["provision", "small"]).env("BERTH_HOSTD", &other)).success();
    assert_ne!(hostd_on(&laptop, "small"), of_image);
    assert_ne!(started(), before);
    laptop.berth(&["ps"]).success().says("stays");
    laptop.berth(&["rm", "-y", "small"]).success();
    assert_eq!((laptop.machine_dirs(), laptop.processes()), (0, Vec::new()), "rm has left something");
}

fn a_create_from_berths_own_image_that_is_killed_is_resumed_to_the_end() {
    let Some(laptop) = Laptop::with_own_image() else { return };
    let create = ["create", "--qemu-memory", "1024", "torn"];
    let mut killed = create_killed_at_next_step(&laptop, &create, Signal::KILL, Duration::ZERO);
    let mut rounds = 1;
    while killed {
        let resume = ["create", "--resume", "torn"];
        killed = create_killed_at_next_step(&laptop, &resume, Signal::KILL, Duration::ZERO);
        rounds += 1;
        assert!(rounds < 60, "resuming does not get on");
    }
    assert!(rounds > 4, "its steps were not interrupted one by one");
    laptop.berth(&["create", "--resume", "torn"]).success();
    laptop.berth(&["info"]).success();
    laptop.berth(&["machine", "rm", "-y", "torn"]).success();
    assert_eq!((laptop.machine_dirs(), laptop.processes()), (0, Vec::new()), "rm has left something");
}

/// Makes a test of a function that panics when it fails.
fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        std::panic::catch_unwind(test).map_err(|cause| {
            let text = cause.downcast_ref::<String>().cloned();
            Failed::from(
                text.or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default(),
            )
        })
    })
}

macro_rules! trials {
    ($($test:ident),* $(,)?) => { vec![$(trial(stringify!($test), $test)),*] };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A guest under emulation keeps a core busy.
    arguments.test_threads.get_or_insert(2);
    let lacking = [
        ("BERTH_BIN", "berth"),
        ("BERTH_HOSTD", "hostd"),
        ("BERTH_TEST_IMAGE", "debian-12.qcow2"),
        ("BERTH_TEST_BUSYBOX", "busybox.tar"),
    ]
    .iter()
    .find_map(|(variable, name)| built(variable, name).err())
    .or_else(|| (!has("qemu-system-x86_64")).then(|| "qemu-system-x86_64 is not on PATH".to_owned()));
    if let Some(reason) = lacking {
        eprintln!("skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    let conclusion = libtest_mimic::run(
        &arguments,
        trials![
            a_machine_of_berths_own_image_needs_no_ssh_to_be_ready_and_keeps_all_over_a_restart,
            a_create_from_berths_own_image_that_is_killed_is_resumed_to_the_end,
            a_machine_of_ones_own_is_stopped_broken_mended_and_removed,
            a_machine_tells_where_it_is_and_how_it_is,
            the_stock_docker_cli_drives_the_machine_through_env,
            docker_py_drives_the_machine_through_env,
            containers_run_on_the_machine,
            limits_are_kept_on_cgroup_v2_and_systemd_knows_of_them,
            a_terminal_works_through_the_laptop,
            a_published_port_answers_on_the_laptops_localhost,
            ports_that_docker_publishes_come_to_the_laptop_and_go,
            a_port_that_is_taken_on_the_laptop_is_named,
            the_engine_answers_only_to_its_own_certificates,
            provisioning_again_changes_nothing,
            containers_outlive_a_killed_hostd_on_the_machine,
            a_create_that_is_interrupted_can_be_removed_to_nothing,
            a_create_that_is_killed_at_each_step_is_resumed_to_the_end,
        ],
    );
    // A static is never dropped.
    if let Some(laptop) = SHARED.get() {
        laptop.remove_all();
    }
    conclusion.exit_code()
}
