//! The store under races, crashes and damage, with machines of driver `none`, which cost nothing.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Laptop, Said, has};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

fn names(laptop: &Laptop) -> Vec<String> {
    laptop.berth(&["ls", "-q"]).success().stdout.lines().map(str::to_owned).collect()
}

#[test]
fn ten_creates_at_once_make_ten_machines_of_which_one_is_active() {
    let laptop = Laptop::new();
    let children: Vec<_> = (0..10)
        .map(|n| {
            let name = format!("m{n}");
            let args = ["create", "--driver", "none", "--none-url", "tcp://127.0.0.1:1", &name];
            laptop.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(names(&laptop), (0..10).map(|n| format!("m{n}")).collect::<Vec<_>>());
    assert!(laptop.berth(&["active"]).success().stdout.starts_with('m'));
    assert_eq!(fs::metadata(laptop.home()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn of_ten_creates_of_one_name_one_wins() {
    let laptop = Laptop::new();
    let args = ["create", "--driver", "none", "--none-url", "tcp://127.0.0.1:1", "same"];
    let children: Vec<_> = (0..10)
        .map(|_| laptop.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        .collect();
    let won = children.into_iter().map(|child| child.wait_with_output().unwrap().status.success());
    assert_eq!(won.filter(|won| *won).count(), 1);
    assert_eq!(names(&laptop), ["same"]);
    laptop.berth(&["inspect", "same"]).success().says("\"ready\"");
}

#[test]
fn a_truncated_record_is_an_error_of_its_machine_alone() {
    let laptop = Laptop::new();
    laptop.create_none("good").success();
    laptop.create_none("torn").success();
    let record = laptop.home().join("machines/torn/machine.toml");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, &text[..text.len() / 2]).unwrap();
    let listed: serde_json::Value =
        serde_json::from_str(&laptop.berth(&["ls", "--format", "json"]).success().stdout).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["error"]), (&"good".into(), &serde_json::Value::Null));
    assert_eq!(listed[1]["name"], "torn");
    assert!(listed[1]["error"].as_str().unwrap().contains("machine.toml"), "{listed}");
    laptop.berth(&["url", "good"]).success().says("tcp://127.0.0.1:1");
    laptop.create_none("torn").exits(1).says("already exists");
    laptop.berth(&["machine", "rm", "-y", "torn"]).exits(1).says("--force");
    laptop.berth(&["machine", "rm", "-f", "torn"]).success();
    assert_eq!(names(&laptop), ["good"]);
}

#[test]
fn a_record_of_a_newer_berth_is_refused_and_kept() {
    let laptop = Laptop::new();
    laptop.create_none("m").success();
    let record = laptop.home().join("machines/m/machine.toml");
    let text = fs::read_to_string(&record).unwrap().replace("schema = 1", "schema = 99");
    fs::write(&record, &text).unwrap();
    laptop.berth(&["url", "m"]).exits(1).says("schema 99").says("hint: use a newer berth");
    assert_eq!(fs::read_to_string(&record).unwrap(), text);
}

#[test]
fn a_create_that_is_killed_at_each_step_is_resumed_or_removed() {
    let laptop = Laptop::new();
    let journal = laptop.home().join("machines/m/journal");
    let length = || fs::metadata(&journal).map_or(0, |data| data.len());
    let mut args = vec!["create", "--driver", "none", "--none-url", "tcp://127.0.0.1:1", "m"];
    for _ in 0..40 {
        let before = length();
        let mut child = laptop.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && length() == before {
            std::thread::yield_now();
        }
        // It may have come to its end first.
        let _ = child.kill();
        if child.wait().unwrap().success() {
            break;
        }
        args = vec!["create", "--resume", "m"];
        if !journal.exists() {
            args = vec!["create", "--driver", "none", "--none-url", "tcp://127.0.0.1:1", "m"];
        }
    }
    laptop.berth(&["create", "--resume", "m"]).success();
    laptop.berth(&["inspect", "m"]).success().says("\"ready\"");
    laptop.berth(&["machine", "rm", "-y", "m"]).success();
    assert_eq!(fs::read_dir(laptop.home().join("machines")).unwrap().count(), 0);
    laptop.berth(&["active"]).exits(1).says("hint: ");
}

#[test]
fn a_machine_that_is_being_changed_names_the_process_that_does() {
    let laptop = Laptop::new();
    laptop.create_none("m").success();
    let lock = laptop.home().join("locks/m");
    fs::write(&lock, format!("{}\n", std::process::id())).unwrap();
    let held = fs::File::open(&lock).unwrap();
    held.lock().unwrap();
    let holder = format!("process {}", std::process::id());
    laptop.berth(&["machine", "rm", "-y", "m"]).exits(1).says(&holder);
    // Reading needs no lock.
    laptop.berth(&["ls"]).success().says("m ");
    drop(held);
    laptop.berth(&["machine", "rm", "-y", "m"]).success();
}

#[test]
fn reading_commands_never_write() {
    let laptop = Laptop::new();
    for args in [&["ls"][..], &["version"], &["ls", "-q"], &["ls", "--format", "json"]] {
        laptop.berth(args).success();
    }
    laptop.berth(&["url", "m"]).exits(1).says("no such machine: m").says("hint: ");
    laptop.berth(&["active"]).exits(1);
    assert!(!laptop.home().exists());
}

#[test]
fn wrong_usage_says_what_is_right() {
    let laptop = Laptop::new();
    laptop.berth(&["create", "a_b"]).exits(2).says("invalid machine name `a_b`");
    laptop.berth(&["create", "--driver", "nne", "x"]).exits(2).says("did you mean `none`?");
    laptop.berth(&["create", "--driver", "none", "x"]).exits(2).says("--none-url");
    laptop.berth(&["create", "--driver", "none", "--qemu-memory", "1", "x"]).exits(2);
    let missing =
        ["create", "--driver", "generic", "--generic-ip-address", "h", "--generic-ssh-key", "/nowhere", "x"];
    laptop.berth(&missing).exits(3).says("/nowhere");
    assert!(!laptop.home().join("machines").exists());
    laptop.create_none("m").success();
    laptop.berth(&["machine", "stop", "m"]).exits(1).says("none");
    laptop.berth(&["machine", "rm", "m"]).exits(2).says("--yes");
    laptop.berth(&["stop", "m", "web"]).exits(2).says("berth machine stop");
    laptop.berth(&["stop", "web"]).exits(1).says("127.0.0.1:1");
    laptop.berth(&["ssh", "m"]).exits(1).says("has no SSH");
}

#[test]
fn what_this_host_cannot_do_is_told_before_anything_is_made() {
    let laptop = Laptop::new();
    let create = |flags: &[&str]| {
        let mut args = vec!["create", "--driver", "qemu"];
        args.extend(flags);
        args.push("m");
        laptop.command(&args)
    };
    let said = Said::of(create(&[]).env("PATH", "/nonexistent")).exits(3);
    said.says("error: qemu-system-").says("hint: install it");
    assert!(!laptop.home().join("machines").exists());
    if !["qemu-img", "qemu-system-x86_64"].iter().all(|program| has(program)) {
        eprintln!("skipped: QEMU is missing");
        return;
    }
    let page = laptop.dir.path().join("page.qcow2");
    fs::write(&page, "<html>Not found</html>").unwrap();
    let image = page.to_str().unwrap();
    Said::of(&mut create(&["--qemu-image", image])).exits(3).says("it is a web page").says("hint: ");
    Said::of(&mut create(&["--qemu-image", "/nowhere"])).exits(3).says("no image at /nowhere");
    assert!(!laptop.home().join("machines").exists());
    assert_eq!(names(&laptop), Vec::<String>::new());
}

#[test]
fn env_sets_what_a_shell_and_docker_need_and_unset_takes_it_back() {
    let laptop = Laptop::new();
    laptop.create_none("m").success();
    let script = format!(
        "eval \"$({0} env --shell sh m)\"; echo $DOCKER_HOST $BERTH_MACHINE; eval \"$({0} env --shell sh -u)\"; echo [$DOCKER_HOST]",
        env!("CARGO_BIN_EXE_berth")
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("BERTH_HOME", laptop.home()).env("HOME", laptop.dir.path());
    let said = Said::of(&mut command).success();
    assert_eq!(said.stdout, "tcp://127.0.0.1:1 m\n[]\n");
    laptop.berth(&["env", "--shell", "fish", "m"]).success().says("set -gx DOCKER_HOST 'tcp://127.0.0.1:1';");
    laptop.berth(&["env", "--shell", "cmd", "m"]).success().says("SET BERTH_MACHINE=m");
}
