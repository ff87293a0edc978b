//! Looking after machines: other names, logs, upgrades, and what is wrong with them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Laptop, Said, Sshd, in_own_world, keygen};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn a_renamed_machine_keeps_its_identity_and_stays_active() {
    let laptop = Laptop::new();
    laptop.create_none("old").success();
    laptop.create_none("other").success();
    let id = |name: &str| {
        let said = laptop.berth(&["machine", "inspect", name]).success();
        let all: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(all[0]["record"]["name"], name);
        all[0]["record"]["id"].clone()
    };
    let before = id("old");
    laptop.berth(&["rename", "old", "other"]).exits(1).says("machine `other` already exists");
    laptop.berth(&["rename", "nobody", "new"]).exits(1).says("no such machine: nobody");
    laptop.berth(&["rename", "old", "a_b"]).exits(2).says("invalid machine name");
    laptop.berth(&["resize", "old", "--cpus", "1"]).exits(1).says("driver `none` cannot resize machines");
    laptop.berth(&["rename", "old", "old"]).exits(2).says("has that name already");
    assert_eq!(laptop.berth(&["rename", "old", "new"]).success().stdout, "new\n");
    assert_eq!(id("new"), before);
    assert_eq!(laptop.berth(&["active"]).success().stdout, "new\n");
    assert_eq!(laptop.berth(&["ls", "-q"]).success().stdout, "new\nother\n");
    assert!(!laptop.home().join("machines/new/renamed-from").exists());
    // One that is not active does not become it.
    laptop.berth(&["rename", "other", "third"]).success();
    assert_eq!(laptop.berth(&["active"]).success().stdout, "new\n");
}

#[test]
fn a_machine_that_is_being_changed_or_made_is_not_renamed() {
    let laptop = Laptop::new();
    laptop.create_none("m").success();
    for held in ["m", "n"] {
        let lock = fs::File::create(laptop.home().join("locks").join(held)).unwrap();
        lock.lock().unwrap();
        laptop.berth(&["rename", "m", "n"]).exits(1).says(&format!("`{held}` is being changed"));
    }
    let record = laptop.home().join("machines/m/machine.toml");
    let whole = fs::read_to_string(&record).unwrap();
    fs::write(&record, whole.replace("state = \"ready\"", "state = \"creating\"")).unwrap();
    laptop.berth(&["rename", "m", "n"]).exits(1).says("berth create --resume m");
    fs::write(&record, &whole).unwrap();
    laptop.berth(&["rename", "m", "n"]).success();
}

#[test]
fn a_rename_that_is_killed_leaves_the_old_name_or_the_new_one() {
    let laptop = Laptop::new();
    laptop.create_none("old").success();
    let machines = laptop.home().join("machines");
    let (mut from, mut to) = ("old", "new");
    for round in 0..30 {
        let mut child = laptop
            .command(&["rename", from, to])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // At the mark, at the directory's rename, or at some instant between and after.
        let mark = machines.join(if round % 2 == 0 { from } else { to }).join("renamed-from");
        while child.try_wait().unwrap().is_none() && !mark.exists() {
            std::thread::yield_now();
        }
        let _ = child.kill();
        child.wait().unwrap();
        let names = laptop.berth(&["ls", "-q"]).success().stdout;
        assert!(names == format!("{from}\n") || names == format!("{to}\n"), "{names}");
        // Commands that name no machine go on finding it.
        let active = laptop.berth(&["active"]).success().stdout;
        assert_eq!(active, names);
        laptop.berth(&["url"]).success().says("tcp://127.0.0.1:1");
        if machines.join(from).exists() || machines.join(to).join("renamed-from").exists() {
            laptop.berth(&["rename", from, to]).success();
        }
        assert_eq!(laptop.berth(&["active"]).success().stdout, format!("{to}\n"));
        assert!(!machines.join(to).join("renamed-from").exists());
        std::mem::swap(&mut from, &mut to);
    }
}

#[test]
fn logs_are_those_of_a_machine_where_the_name_is_one() {
    let laptop = Laptop::new();
    laptop.create_none("m").success();
    laptop.berth(&["logs", "m"]).exits(1).says("machine `m` has no SSH");
    laptop.berth(&["logs", "--console", "m"]).exits(1).says("no console to show");
    laptop.berth(&["logs", "web"]).exits(1).says("127.0.0.1:1");
    laptop.berth(&["logs", "--tail", "some", "m"]).exits(2).says("neither a number nor `all`");
    laptop.berth(&["machine", "logs", "--console", "--since", "1m", "m"]).exits(2);
    let _: &Said = &laptop.berth(&["logs"]).exits(2).says("needs a name");
}

#[test]
fn a_virtual_machine_runs_on_under_its_new_name_and_is_resized_when_it_is_stopped() {
    if !["qemu-img", "qemu-system-x86_64"].iter().all(|program| common::has(program)) {
        eprintln!("skipped: QEMU is missing");
        return;
    }
    let laptop = Laptop::new();
    let image = laptop.dir.path().join("empty.qcow2");
    let make = ["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "64M"];
    Said::of(Command::new("qemu-img").args(make)).success();
    let image = ["--qemu-image", image.to_str().unwrap(), "--qemu-disk-size", "64", "--qemu-memory", "128"];
    let create = [&["create", "--driver", "qemu"][..], &image, &["m"]].concat();
    let mut child = laptop.command(&create).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // It has nothing to boot, so that it is no more than a process that runs.
    let socket = laptop.home().join("machines/m/driver/qmp.sock");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while !laptop.berth(&["status", "m"]).stdout.contains("Running") {
        assert!(child.try_wait().unwrap().is_none() && std::time::Instant::now() < until, "it does not run");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(socket.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let record = laptop.home().join("machines/m/machine.toml");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("\"creating\"", "\"ready\"")).unwrap();
    let pid =
        |name: &str| fs::read_to_string(laptop.home().join("machines").join(name).join("driver/qemu.pid"));
    let before = pid("m").unwrap();
    laptop.berth(&["rename", "m", "n"]).success();
    assert_eq!(pid("n").unwrap(), before);
    laptop.berth(&["status", "n"]).success().says("Running");
    laptop.berth(&["logs", "--console", "n"]).success();
    laptop.berth(&["resize", "n", "--memory", "256"]).exits(1).says("only when stopped").says("berth stop n");
    laptop.berth(&["machine", "kill", "n"]).success();
    laptop.berth(&["status", "n"]).exits(1).says("Stopped");

    let has = |text: &str| laptop.berth(&["machine", "inspect", "n"]).success().stdout.contains(text);
    laptop.berth(&["resize", "n"]).exits(2);
    laptop.berth(&["resize", "n", "--cpus", "0"]).exits(2).says("--cpus");
    laptop.berth(&["resize", "n", "--memory", "lots"]).exits(2).says("invalid value `lots` for --memory");
    laptop.berth(&["resize", "n", "--cpus", "1", "--disk", "32"]).exits(2).says("cannot become smaller");
    assert!(has("\"cpu-count\": 2") && has("\"memory-mib\": 128") && has("\"disk-mib\": 64"));
    for _ in 0..2 {
        laptop.berth(&["resize", "n", "--cpus", "1", "--memory", "256", "--disk", "1G"]).success();
        assert!(has("\"cpu-count\": 1") && has("\"memory-mib\": 256") && has("\"disk-mib\": 1024"));
    }
    let disk = laptop.home().join("machines/n/driver/disk.qcow2");
    Said::of(Command::new("qemu-img").arg("info").arg(&disk)).success().says("1 GiB");
    laptop.berth(&["machine", "rm", "-y", "n"]).success();
}

/// The hostd that is to be installed, where it has been built.
fn hostd() -> Option<PathBuf> {
    let built = std::env::var_os("BERTH_HOSTD").map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_BIN_EXE_berth")).with_file_name("hostd");
    let found = built.unwrap_or(beside);
    if !found.is_file() {
        eprintln!("skipped: hostd has not been built");
        return None;
    }
    Some(found)
}

/// A machine `m` of driver generic with this hostd.
fn machine_with(hostd: &Path) -> (Laptop, Sshd) {
    let laptop = Laptop::new();
    let key = laptop.dir.path().join("key");
    keygen(&key, "");
    let sshd = Sshd::start(2201, &key);
    let flags = ["--generic-ip-address", "127.0.0.1", "--generic-ssh-port", "2201", "--generic-ssh-key"];
    let create = [&["create", "--driver", "generic"][..], &flags, &[key.to_str().unwrap(), "m"]].concat();
    Said::of(laptop.command(&create).env("BERTH_HOSTD", hostd)).success();
    (laptop, sshd)
}

/// A program of this text.
fn program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The same hostd with another checksum: what follows an ELF file's end is not loaded.
fn another(hostd: &Path, path: &Path) {
    fs::copy(hostd, path).unwrap();
    let mut file = fs::File::options().append(true).open(path).unwrap();
    std::io::Write::write_all(&mut file, b"another").unwrap();
}

fn same(one: &Path, other: &str) -> bool {
    Said::of(Command::new("cmp").arg("-s").arg(one).arg(other)).code == Some(0)
}

#[test]
fn an_upgrade_brings_another_hostd_and_one_that_does_not_answer_is_taken_back() {
    let Some(hostd) = hostd() else { return };
    let name = "an_upgrade_brings_another_hostd_and_one_that_does_not_answer_is_taken_back";
    if !in_own_world(name) {
        return;
    }
    let (laptop, _sshd) = machine_with(&hostd);
    let pid = || fs::read_to_string("/run/hostd/berth.pid").unwrap();
    let journal = laptop.home().join("machines/m/upgrade");
    let upgrade = |file: &Path, more: &[&str]| {
        laptop.berth(&[&["upgrade", "m", "--hostd", file.to_str().unwrap()], more].concat())
    };

    laptop.berth(&["doctor", "m"]).success().says("machine `m` is well");

    // The same is left alone.
    let first = pid();
    upgrade(&hostd, &[]).success().says("has hostd 0.1.0 already");
    assert_eq!(pid(), first);

    let image = laptop.dir.path().join("busybox.tar");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/busybox-image");
    Said::of(Command::new("python3").arg(script).arg(&image)).success();
    laptop.berth(&["-m", "m", "load", "-q", "-i", image.to_str().unwrap()]).success();
    laptop.berth(&["-m", "m", "run", "-d", "--name", "web", "busybox", "sleep", "1000"]).success();
    let container = || {
        let said = laptop.berth(&["container", "inspect", "-m", "m", "web"]).success();
        let all: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(all[0]["State"]["Running"], true);
        (all[0]["State"]["Pid"].clone(), all[0]["State"]["StartedAt"].clone())
    };
    let run = container();

    let second = laptop.dir.path().join("second");
    another(&hostd, &second);
    upgrade(&second, &[]).success().says("hostd 0.1.0 is now 0.1.0");
    assert!(same(&second, "/usr/local/bin/hostd") && same(&hostd, "/usr/local/bin/hostd.old"));
    assert_ne!(pid(), first);
    assert!(!journal.exists());
    assert_eq!(container(), run);

    // One that ends at once: back comes the one before, which answers.
    let broken = laptop.dir.path().join("broken");
    let tells = |version: &str| {
        format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && {{ echo hostd {version}; exit 0; }}\necho last words >&2\nexit 1\n"
        )
    };
    program(&broken, &tells("9.9.9"));
    upgrade(&broken, &[]).exits(1).says("does not answer").says("last words").says("the old hostd is back");
    assert!(same(&second, "/usr/local/bin/hostd"));
    assert!(!journal.exists());
    laptop.berth(&["status", "m"]).success();
    laptop.berth(&["-m", "m", "ps"]).success();

    // What does not run at all, and what is older, is refused before anything is touched.
    let before = pid();
    program(&broken, "#!/bin/sh\nexit 1\n");
    upgrade(&broken, &[]).exits(1).says("does not run on the machine");
    program(&broken, &tells("0.0.1"));
    upgrade(&broken, &[]).exits(1).says("hostd 0.0.1 is older than the machine's 0.1.0").says("--force");
    upgrade(Path::new("/nonexistent/hostd"), &[]).exits(1).says("/nonexistent/hostd");
    laptop.berth(&["upgrade", "m", "--version", "7.7.7"]).exits(1).says("cannot find hostd 7.7.7");
    assert_eq!(pid(), before);
    assert!(!journal.exists() && !Path::new("/usr/local/bin/.hostd-new").exists());
    upgrade(&broken, &["--force"]).exits(1).says("the old hostd is back");
    assert_eq!(container(), run);
    laptop.berth(&["-m", "m", "container", "rm", "-f", "web"]).success();

    // hostd's log is the machine's, and of what was said it shows as much as is asked for.
    let all = laptop.berth(&["logs", "m"]).success().stdout;
    assert!(all.contains("last words") && all.lines().count() > 2, "{all}");
    let last = laptop.berth(&["logs", "--tail", "2", "m"]).success().stdout;
    assert_eq!(last.lines().count(), 2);
    assert_eq!(laptop.berth(&["logs", "--since", "2099-01-01", "m"]).success().stdout, "");
    let recent = laptop.berth(&["logs", "--since", "24h", "m"]).success().stdout;
    assert!(recent.contains("ready"), "{recent}");
    let mut follow = laptop.command(&["logs", "-f", "--tail", "0", "m"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut log = fs::File::options().append(true).open("/var/log/hostd.log").unwrap();
    std::thread::spawn(move || {
        // Until the test has ended, and its world with it.
        while std::io::Write::write_all(&mut log, b"a line that comes later\n").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(follow.stdout.take().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line, "a line that comes later\n");
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn an_upgrade_that_is_killed_at_each_step_is_completed_by_the_next() {
    let Some(hostd) = hostd() else { return };
    if !in_own_world("an_upgrade_that_is_killed_at_each_step_is_completed_by_the_next") {
        return;
    }
    let (laptop, _sshd) = machine_with(&hostd);
    let journal = laptop.home().join("machines/m/upgrade");
    let lines = || fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    let second = laptop.dir.path().join("second");
    another(&hostd, &second);
    let (mut wanted, mut before) = (&second, &hostd);
    // Planned and done of three steps, of which the last ends the journal.
    for stop_at in 1..=5 {
        let args = ["upgrade", "m", "--hostd", wanted.to_str().unwrap()];
        let mut child = laptop.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && lines() < stop_at {
            std::thread::yield_now();
        }
        let _ = child.kill();
        child.wait().unwrap();
        laptop.berth(&args).success();
        assert!(same(wanted, "/usr/local/bin/hostd"), "killed at {stop_at}");
        // Never one that was not verified.
        assert!(same(before, "/usr/local/bin/hostd.old"), "killed at {stop_at}");
        assert!(!journal.exists());
        laptop.berth(&["-m", "m", "ps"]).success();
        std::mem::swap(&mut wanted, &mut before);
    }
}

/// What a shell offers after these words: bash itself runs what berth printed for it.
fn offered(laptop: &Laptop, words: &[&str]) -> Vec<String> {
    let script = r#"
        source <("$0" completion bash) || exit 1
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
        _clap_complete_berth "$1" "${@: -1}" ""
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut command = Command::new("bash");
    command.args(["-c", script, env!("CARGO_BIN_EXE_berth")]).args(words);
    command.env("HOME", laptop.dir.path()).env("BERTH_HOME", laptop.home()).env_remove("BERTH_MACHINE");
    let said = Said::of(&mut command).success();
    said.stdout.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn shells_complete_commands_options_and_names_of_machines() {
    let laptop = Laptop::new();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        laptop.berth(&["completion", shell]).success().says("BERTH_COMPLETE");
    }
    laptop.berth(&["completion", "tcsh"]).exits(2).says("powershell");
    assert!(!laptop.home().exists(), "completion has written to the store");
    for name in ["dev", "deep", "web-1"] {
        laptop.create_none(name).success();
    }
    assert_eq!(offered(&laptop, &["berth", "upg"]), ["upgrade"]);
    assert_eq!(offered(&laptop, &["berth", "doctor", "de"]), ["deep", "dev"]);
    assert_eq!(offered(&laptop, &["berth", "machine", "rename", "w"]), ["web-1"]);
    assert_eq!(offered(&laptop, &["berth", "-m", "w"]), ["web-1"]);
    // Where machines and containers are both possible, a machine that is down has none to offer.
    assert_eq!(offered(&laptop, &["berth", "stop", "d"]), ["deep", "dev"]);
    assert!(offered(&laptop, &["berth", "logs", "--f"]).contains(&"--follow".to_owned()));
}

#[test]
fn every_command_has_a_manual_page() {
    let laptop = Laptop::new();
    laptop.berth(&["man"]).success().says(".TH berth 1").says("doctor");
    let dir = laptop.dir.path().join("man/man1");
    laptop.berth(&["man", dir.to_str().unwrap()]).success();
    for page in ["berth.1", "berth-create.1", "berth-machine-upgrade.1", "berth-container-logs.1"] {
        let text = fs::read_to_string(dir.join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}: {text}");
    }
    assert!(fs::read_to_string(dir.join("berth-create.1")).unwrap().contains("qemu\\-memory"));
    laptop.berth(&["man", "/proc/nowhere"]).exits(1).says("cannot write manual pages to /proc/nowhere");
}
