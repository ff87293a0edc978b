//! Machines over SSH: a real sshd, in a world of its own, becomes a machine of driver `generic`.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Laptop, Said, Sshd, in_own_world, keygen};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A laptop with a key, and a host that accepts it.
fn world() -> (Laptop, Sshd, PathBuf) {
    let laptop = Laptop::new();
    let key = laptop.dir.path().join("key");
    keygen(&key, "");
    let sshd = Sshd::start(2201, &key);
    (laptop, sshd, key)
}

fn create(laptop: &Laptop, host: &str, port: u16, extra: &[&str]) -> Command {
    let port = port.to_string();
    let mut args =
        vec!["create", "--driver", "generic", "--generic-ip-address", host, "--generic-ssh-port", &port];
    args.extend(extra);
    args.push("m");
    let mut command = laptop.command(&args);
    // Everything up to the upload happens.
    command.env("BERTH_HOSTD", "/nonexistent/hostd");
    command
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

#[test]
fn a_host_becomes_a_machine_and_provisioning_it_again_changes_nothing() {
    let Some(hostd) = hostd() else { return };
    if !in_own_world("a_host_becomes_a_machine_and_provisioning_it_again_changes_nothing") {
        return;
    }
    let (laptop, sshd, key) = world();
    let key = key.to_str().unwrap();
    let mut command = create(&laptop, "127.0.0.1", sshd.port, &["--generic-ssh-key", key]);
    Said::of(command.env("BERTH_HOSTD", &hostd)).success().says(&sshd.fingerprint()).says("ready and active");
    laptop.berth(&["ls"]).success().says("Running").says("tcp://127.0.0.1:2376");
    let pid = || fs::read_to_string("/run/hostd/berth.pid").unwrap();
    let before = pid();
    Said::of(laptop.command(&["provision", "m"]).env("BERTH_HOSTD", &hostd)).success();
    assert_eq!(pid(), before, "hostd was restarted for nothing");
    assert!(!fs::read_to_string("/etc/hostd/tls/server-key.pem").unwrap().is_empty());
    assert!(
        fs::read_dir("/var/tmp")
            .unwrap()
            .flatten()
            .all(|e| !e.file_name().to_string_lossy().starts_with(".berth"))
    );

    // Removed by hand, it comes back.
    fs::remove_file("/etc/hostd/tls/server.pem").unwrap();
    Said::of(laptop.command(&["provision", "m"]).env("BERTH_HOSTD", &hostd)).success();
    assert_ne!(pid(), before);
    laptop.berth(&["status"]).success().says("Running");

    // A hostd that does not start shows its last words.
    let broken = laptop.dir.path().join("broken");
    fs::write(&broken, "#!/bin/sh\necho the last words of hostd >&2\nexit 1\n").unwrap();
    Said::of(laptop.command(&["provision", "m"]).env("BERTH_HOSTD", &broken))
        .exits(1)
        .says("the last words of hostd");
    Said::of(laptop.command(&["provision", "m"]).env("BERTH_HOSTD", &hostd)).success();

    // The host is not ours: what was installed stays, as containers may run on it.
    laptop.berth(&["machine", "rm", "-y", "m"]).success().says("hostd and its containers stay");
    assert!(fs::metadata("/usr/local/bin/hostd").is_ok());
}

#[test]
fn a_command_runs_on_all_machines_that_are_selected() {
    if !in_own_world("a_command_runs_on_all_machines_that_are_selected") {
        return;
    }
    let (laptop, sshd, key) = world();
    let port = sshd.port.to_string();
    let host = ["--generic-ip-address", "127.0.0.1", "--generic-ssh-port", &port, "--generic-ssh-key"];
    let flags =
        [&["create", "--driver", "generic", "--label", "role=web"], &host[..], &[key.to_str().unwrap()]];
    let mut command = laptop.command(&[&flags.concat()[..], &["web-{1,2}"]].concat());
    Said::of(command.env("BERTH_HOSTD", "/nonexistent/hostd")).exits(1).says("create --resume web-1");
    let said = laptop.berth(&["ssh", "-l", "role=web", "--", "echo", "out;", "printf", "end"]).success();
    let mut lines: Vec<&str> = said.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["web-1: end", "web-1: out", "web-2: end", "web-2: out"]);
    let said = laptop.berth(&["ssh", "-l", "role=web", "echo wrong >&2; exit 7"]).exits(7);
    said.says("web-1: wrong").says("web-2: exit status 7");
    laptop.create_none("none").success();
    laptop.berth(&["label", "none", "role=web"]).success();
    laptop
        .berth(&["ssh", "-l", "role=web", "true"])
        .exits(255)
        .says("none: error: machine `none` has no SSH");
    laptop.berth(&["ssh", "-l", "role=web"]).exits(2).says("take a command");
    laptop.berth(&["ssh", "-l", "role=ci", "true"]).exits(1).says("no machine has the labels");
    laptop.berth(&["ssh"]).exits(2);
}

#[test]
fn commands_get_stdin_and_give_their_output_and_exit_code() {
    if !in_own_world("commands_get_stdin_and_give_their_output_and_exit_code") {
        return;
    }
    let (laptop, sshd, key) = world();
    Said::of(&mut create(&laptop, "127.0.0.1", sshd.port, &["--generic-ssh-key", key.to_str().unwrap()]))
        .exits(1)
        .says("/nonexistent/hostd")
        .says("--resume m");
    laptop.berth(&["ssh", "m", "exit 7"]).exits(7);
    laptop.berth(&["ssh", "m", "--", "echo", "-n", "out;", "echo err >&2"]).success().says("out").says("err");
    let mut child = laptop
        .command(&["ssh", "m", "sha256sum"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sent = vec![7_u8; 3_000_000];
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &sent).unwrap();
    let got = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let file = laptop.dir.path().join("sent");
    fs::write(&file, &sent).unwrap();
    let same = Said::of(Command::new("sha256sum").arg(&file)).stdout;
    assert_eq!(got.split(' ').next(), same.split(' ').next());
}

#[test]
fn a_changed_host_key_is_refused_until_it_is_accepted() {
    if !in_own_world("a_changed_host_key_is_refused_until_it_is_accepted") {
        return;
    }
    let (laptop, mut sshd, key) = world();
    let first = sshd.fingerprint();
    let create = &mut create(&laptop, "127.0.0.1", sshd.port, &["--generic-ssh-key", key.to_str().unwrap()]);
    Said::of(create).exits(1).says("first contact").says(&first);
    laptop.berth(&["ssh", "m", "true"]).success();
    sshd.change_host_key();
    let second = sshd.fingerprint();
    let refused = laptop.berth(&["ssh", "m", "true"]).exits(1);
    refused
        .says("the host key of 127.0.0.1:2201 has changed")
        .says(&first)
        .says(&second)
        .says("--accept-host-key");
    let mut accept = laptop.command(&["provision", "--accept-host-key", "m"]);
    Said::of(accept.env("BERTH_HOSTD", "/nonexistent/hostd")).exits(1).says(&second);
    laptop.berth(&["ssh", "m", "true"]).success();
}

#[test]
fn a_host_that_known_hosts_knows_otherwise_is_refused_at_first_contact() {
    if !in_own_world("a_host_that_known_hosts_knows_otherwise_is_refused_at_first_contact") {
        return;
    }
    let (laptop, mut sshd, key) = world();
    let known = laptop.dir.path().join(".ssh/known_hosts");
    fs::write(&known, format!("[127.0.0.1]:2201 {}\n", sshd.host_key())).unwrap();
    Said::of(Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&known)).success();
    assert!(fs::read_to_string(&known).unwrap().starts_with("|1|"));
    let args = ["--generic-ssh-key", key.to_str().unwrap()];
    let known_already =
        Said::of(&mut create(&laptop, "127.0.0.1", sshd.port, &args)).exits(1).says("/nonexistent");
    assert!(!known_already.stderr.contains("first contact"), "{known_already:?}");
    laptop.berth(&["machine", "rm", "-y", "m"]).success();
    sshd.change_host_key();
    Said::of(&mut create(&laptop, "127.0.0.1", sshd.port, &args)).exits(1).says("has changed");
}

#[test]
fn a_wrong_key_an_encrypted_key_and_an_unreachable_host_are_told_apart() {
    if !in_own_world("a_wrong_key_an_encrypted_key_and_an_unreachable_host_are_told_apart") {
        return;
    }
    let (laptop, sshd, key) = world();
    let wrong = laptop.dir.path().join("wrong");
    keygen(&wrong, "");
    let wrong = wrong.to_str().unwrap();
    Said::of(&mut create(&laptop, "127.0.0.1", sshd.port, &["--generic-ssh-key", wrong]))
        .exits(1)
        .says("root cannot log in to 127.0.0.1:2201")
        .says(wrong);
    laptop.berth(&["machine", "rm", "-y", "m"]).success();
    let sealed = laptop.dir.path().join("sealed");
    keygen(&sealed, "secret");
    let mut command = Command::new("setsid");
    let args = create(&laptop, "127.0.0.1", sshd.port, &["--generic-ssh-key", sealed.to_str().unwrap()]);
    command.arg("-w").arg(args.get_program()).args(args.get_args());
    command.env("HOME", laptop.dir.path()).env("BERTH_HOME", laptop.home()).env_remove("SSH_AUTH_SOCK");
    Said::of(command.stdin(Stdio::null())).exits(1).says("is encrypted").says("ssh-add");
    laptop.berth(&["machine", "rm", "-y", "m"]).success();
    Said::of(&mut create(&laptop, "127.0.0.1", 9, &["--generic-ssh-key", key.to_str().unwrap()]))
        .exits(1)
        .says("cannot reach 127.0.0.1:9")
        .says("refused");
    laptop.berth(&["machine", "rm", "-y", "m"]).success();
    assert_eq!(fs::read_dir(laptop.home().join("machines")).unwrap().count(), 0);
}

#[test]
fn the_users_ssh_configuration_leads_through_a_jump_host() {
    if !in_own_world("the_users_ssh_configuration_leads_through_a_jump_host") {
        return;
    }
    let (laptop, sshd, key) = world();
    let jump = Sshd::start(2202, &key);
    let config = |jump_port: u16| {
        let key = key.display();
        let text = format!(
            "Host inner\n HostName 127.0.0.1\n Port {}\n ProxyJump bastion\nHost bastion\n HostName 127.0.0.1\n Port \
             {jump_port}\n User root\nHost *\n IdentityFile {key}\n",
            sshd.port
        );
        fs::write(laptop.dir.path().join(".ssh/config"), text).unwrap();
    };
    config(jump.port);
    Said::of(&mut create(&laptop, "inner", 22, &[]))
        .exits(1)
        .says("first contact with jump host bastion:2202")
        .says("/nonexistent/hostd");
    laptop.berth(&["ssh", "m", "echo $SSH_CONNECTION"]).success().says(" 2201");
    assert!(jump.log().contains("Accepted publickey"), "{}", jump.log());
    config(9);
    laptop.berth(&["ssh", "m", "true"]).exits(1).says("cannot reach jump host bastion:9");
    config(jump.port);
    drop(sshd);
    laptop
        .berth(&["ssh", "m", "true"])
        .exits(1)
        .says("cannot reach 127.0.0.1:2201 through jump host bastion:2202");
}

#[test]
fn a_full_disk_on_the_machine_is_named_and_nothing_half_written_stays() {
    if !in_own_world("a_full_disk_on_the_machine_is_named_and_nothing_half_written_stays") {
        return;
    }
    let (laptop, sshd, key) = world();
    let hostd = laptop.dir.path().join("hostd");
    fs::write(&hostd, vec![b'x'; 3 << 20]).unwrap();
    let tmpfs = |on: &str| {
        Said::of(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs", on])).success();
    };
    tmpfs("/var/tmp");
    let mut command = create(&laptop, "127.0.0.1", sshd.port, &["--generic-ssh-key", key.to_str().unwrap()]);
    Said::of(command.env("BERTH_HOSTD", &hostd))
        .exits(1)
        .says("the machine's disk is full")
        .says("/var/tmp/");
    assert_eq!(fs::read_dir("/var/tmp").unwrap().count(), 0);

    Said::of(Command::new("umount").arg("/var/tmp")).success();
    tmpfs("/usr/local/bin");
    let mut resume = laptop.command(&["create", "--resume", "m"]);
    Said::of(resume.env("BERTH_HOSTD", &hostd))
        .exits(1)
        .says("No space left on device")
        .says("free some space");
    assert_eq!(fs::read_dir("/usr/local/bin").unwrap().count(), 0);
    let left = fs::read_dir("/var/tmp").unwrap().flatten();
    assert_eq!(left.filter(|entry| entry.file_name().to_string_lossy().starts_with(".berth-")).count(), 0);
}
