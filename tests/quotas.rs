//! `--storage-opt size=`: a limit of what a container writes, where the data root's file system keeps project quotas.
//!
//! The file systems are made here, in files; a kernel without their quotas is a skip.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, has, run};
use std::fs::File;
use std::path::Path;
use std::process::Command;

/// A file system of a test's own, on a loop device of which no name is left to remove.
struct Disk {
    mkfs: &'static [&'static str],
    options: &'static str,
}

const XFS: Disk = Disk { mkfs: &["mkfs.xfs", "-q"], options: "loop,prjquota" };
const EXT4: Disk = Disk {
    mkfs: &["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"],
    options: "loop,prjquota",
};

impl Disk {
    /// A host whose data root lies on it, or the reason why this machine cannot.
    fn host(&self, args: &[&str]) -> Result<TestHost, String> {
        if !has(self.mkfs[0]) {
            return Err(format!("{} is not on PATH", self.mkfs[0]));
        }
        let mut refused = None;
        let host = TestHost::start_after(args, |host| refused = self.mount(host).err())?;
        refused.map_or(Ok(host), Err)
    }

    /// Mounts it in the host's mount namespace, with which it goes.
    fn mount(&self, host: &TestHost) -> Result<(), String> {
        let image = host.path("disk");
        // The smallest that xfs takes, with room to spare; hardly any of it is ever written.
        File::create(&image).unwrap().set_len(400 << 20).unwrap();
        run(Command::new(self.mkfs[0]).args(&self.mkfs[1..]).arg(&image)).success();
        let data = host.path("data");
        std::fs::create_dir(&data).unwrap();
        let mounted = run(host.inside("mount").args(["-o", self.options]).args([&image, &data]));
        match mounted.code() {
            0 => Ok(()),
            _ => Err(format!(
                "the kernel does not mount {} with quotas: {}",
                self.mkfs[0],
                mounted.stderr().trim()
            )),
        }
    }
}

/// The host, or a return from the test with the reason.
macro_rules! host_on {
    ($disk:expr) => {
        match $disk.host(&[]) {
            Ok(host) => host,
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return;
            }
        }
    };
}

/// Writes `mib` into a file of the container's layer, and says whether there was room and how many bytes it has.
fn fill(mib: u32) -> String {
    format!("dd if=/dev/zero of=/file bs=1M count={mib} conv=fsync && echo room; stat -c %s /file")
}

/// xfs has no space left then, ext4 tells of the quota.
const FULL: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

fn a_container_writes_no_more_than_it_may(disk: &Disk) {
    let mut host = host_on!(disk);
    let full = |host: &TestHost, name: &str| {
        let outcome = host.docker(["exec", name, "sh", "-c", &fill(12)]).lacks("room");
        assert!(FULL.iter().any(|words| outcome.stderr().contains(words)), "{outcome:?}");
        outcome.stdout()
    };
    let sleeper = ["busybox", "sleep", "1000"];
    for name in ["one", "two"] {
        let options = ["run", "-d", "--name", name, "--storage-opt", "size=8M"];
        run(host.docker_command().args(options).args(sleeper)).success();
    }
    run(host.docker_command().args(["run", "-d", "--name", "free"]).args(sleeper)).success();
    let written = full(&host, "one");
    let written: u64 = written.lines().last().unwrap().trim().parse().unwrap();
    assert!((6 << 20..=8 << 20).contains(&written), "{written} bytes of 8 MiB");
    // Each has its own.
    host.docker(["exec", "two", "sh", "-c", &fill(6)]).says("room");
    host.docker(["exec", "free", "sh", "-c", &fill(20)]).says("room");
    // What is removed can be written again.
    host.docker(["exec", "one", "sh", "-c", &format!("rm /file; {}", fill(6))]).says("room");
    // It holds for files put there from outside, and after a restart of either.
    host.docker(["restart", "-t", "0", "two"]).success();
    host.kill();
    host.up();
    full(&host, "two");
    let big = host.path("big");
    run(Command::new("dd").args(["if=/dev/zero", "bs=1M", "count=12"]).arg(format!("of={}", big.display())))
        .success();
    host.docker(["cp", big.to_str().unwrap(), "two:/big"]).failure();
    assert_eq!(host.field("one", "{{json .HostConfig.StorageOpt}}"), r#"{"size":"8M"}"#);
    for name in ["one", "two", "free"] {
        host.docker(["rm", "-f", name]).success();
    }
    // A number that is free again has no limit left from its last use.
    let again = ["run", "--rm", "--storage-opt", "size=24M", "busybox", "sh", "-c", &fill(20)];
    host.docker(again).says("room");
}

#[test]
fn a_container_writes_no_more_than_it_may_on_xfs() {
    a_container_writes_no_more_than_it_may(&XFS);
}

#[test]
fn a_container_writes_no_more_than_it_may_on_ext4() {
    a_container_writes_no_more_than_it_may(&EXT4);
}

#[test]
fn a_limit_that_the_file_system_does_not_keep_is_refused() {
    let plain = Disk { mkfs: &["mkfs.ext4", "-q"], options: "loop" };
    let host = host_on!(plain);
    host.docker(["create", "--storage-opt", "size=20M", "busybox"])
        .failure()
        .says("--storage-opt is supported only for overlay over xfs with 'pquota' mount option, or ext4 with 'prjquota'");
    host.docker(["create", "--storage-opt", "inodes=5", "busybox"]).failure().says("Unknown option inodes");
    host.docker(["create", "--storage-opt", "size=much", "busybox"]).failure().says("invalid size: 'much'");
    assert_eq!(host.docker(["ps", "-aq"]).text(), "");
    assert!(Path::new(&host.path("data")).is_dir());
}
