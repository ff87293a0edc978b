//! The Debian image of `make image`, booted by the driver and reached over SSH. Skips where it was not made.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Reported, host_with, temporary_machine};
use drivers::driver::{Driver, FlagValues, Keys, MachineState};
use drivers::registry;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn image() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/debian-12.qcow2");
    path.exists().then(|| path.canonicalize().unwrap())
}

fn key(dir: &Path, name: &str) -> (String, String) {
    let path = dir.join(name);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    (read(path.clone()), read(path.with_extension("pub")))
}

/// Runs `command` in the machine, its host key verified against the one that was delivered.
fn ssh(dir: &Path, driver: &dyn Driver, command: &str) -> Output {
    let endpoint = driver.ssh().unwrap().unwrap();
    let host_key = std::fs::read_to_string(dir.join("host.pub")).unwrap();
    std::fs::write(dir.join("known"), format!("[{}]:{} {host_key}", endpoint.host, endpoint.port)).unwrap();
    Command::new("ssh")
        .args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "ConnectTimeout=5",
        ])
        .args([
            "-o",
            &format!("UserKnownHostsFile={}", dir.join("known").display()),
            "-o",
            "IdentitiesOnly=yes",
        ])
        .arg("-i")
        .arg(dir.join("user"))
        .args(["-p", &endpoint.port.to_string()])
        .arg(format!("{}@{}", endpoint.user, endpoint.host))
        .arg(command)
        .output()
        .unwrap()
}

#[tokio::test]
async fn a_debian_machine_is_reached_over_ssh_with_the_host_key_that_was_delivered() {
    let Some(image) = image() else { return eprintln!("skipped: no build/debian-12.qcow2 (make image)") };
    if !host_with(&["ssh", "ssh-keygen", "qemu-img"]) {
        return;
    }
    let (dir, context) = temporary_machine("debian");
    let (_, authorized_key) = key(dir.path(), "user");
    let (host_private_key, host_public_key) = key(dir.path(), "host");
    let keys = Keys { authorized_key, host_private_key, host_public_key, files: Vec::new() };
    let flags = FlagValues::from([("qemu-image".into(), image.to_str().unwrap().into())]);
    let mut driver = registry::from_flags("qemu", &flags, context).unwrap();
    let reported = Reported::default();
    let began = Instant::now();
    driver.check(&reported).await.unwrap();
    driver.create(&keys, &reported, &|_| Ok(())).await.unwrap();
    eprintln!("created after {:.1} s; {:?}", began.elapsed().as_secs_f32(), reported.0.lock().unwrap());

    let deadline = Instant::now() + Duration::from_secs(300);
    let mut answer = ssh(dir.path(), &*driver, "true");
    while !answer.status.success() && Instant::now() < deadline {
        assert_eq!(driver.state().await.unwrap(), MachineState::Running);
        tokio::time::sleep(Duration::from_millis(500)).await;
        answer = ssh(dir.path(), &*driver, "true");
    }
    eprintln!("ssh answered after {:.1} s", began.elapsed().as_secs_f32());
    assert!(answer.status.success(), "{answer:?}\n{:?}", driver.console_tail().await);

    let facts = ssh(
        dir.path(),
        &*driver,
        "hostname; sudo id -u; df -BG --output=size / | tail -1; cat /etc/resolv.conf; sudo nft list ruleset; systemd-analyze; systemd-analyze blame | head -20; sudo systemctl --failed --no-legend; free -m; cat /etc/hosts",
    );
    let text = String::from_utf8_lossy(&facts.stdout);
    eprintln!("{text}{}", String::from_utf8_lossy(&facts.stderr));
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(&lines[..2], ["debian", "0"]);
    let gib: u32 = lines[2].trim_end_matches('G').parse().unwrap();
    assert!(gib >= 19, "the file system has not grown: {gib} GiB");

    driver.stop().await.unwrap();
    eprintln!("stopped after {:.1} s", began.elapsed().as_secs_f32());
    assert_eq!(driver.state().await.unwrap(), MachineState::Stopped);
    driver.remove().await.unwrap();
}
