//! Users: those of containers that are others on the host (`--userns-remap`), and who a program runs as.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{Outcome, TestHost};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Where the ranges of the user `dockremap` begin.
const SHIFT: u32 = 100_000;

/// A hostd that remaps users, with an `/etc` of its own in which it may make the user that it needs.
fn remapping(args: &[&str]) -> Result<TestHost, String> {
    for program in ["useradd", "usermod", "cp", "mount"] {
        if !e2e::has(program) {
            return Err(format!("{program} is not on PATH"));
        }
    }
    TestHost::start_after(args, |host| {
        let etc = host.path("etc");
        e2e::run(std::process::Command::new("cp").arg("-a").arg("/etc").arg(&etc)).success();
        for file in ["subuid", "subgid"] {
            fs::write(etc.join(file), "").unwrap();
        }
        e2e::run(host.inside("mount").arg("--bind").arg(&etc).arg("/etc")).success();
    })
}

macro_rules! remapping {
    ($($arg:expr),* $(,)?) => {
        match remapping(&["--userns-remap=default", $($arg),*]) {
            Ok(host) => host,
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return;
            }
        }
    };
}

/// What a container of these options prints.
fn run(host: &TestHost, options: &[&str], script: &str) -> Outcome {
    let mut command = host.docker_command();
    e2e::run(command.args(["run", "--rm"]).args(options).args(["busybox", "sh", "-c", script]))
}

#[test]
fn root_of_a_remapped_container_is_nobody_on_the_host() {
    let host = remapping!();
    let root = host.path("data/100000.100000");
    assert_eq!(host.docker(["info", "--format", "{{.DockerRootDir}}"]).text(), root.to_string_lossy());
    assert!(host.docker(["info", "--format", "{{.SecurityOptions}}"]).text().contains("name=userns"));
    assert!(fs::read_to_string(host.path("etc/subuid")).unwrap().contains("dockremap:100000:65536"));
    host.docker(["run", "-d", "--name", "box", "busybox", "sleep", "600"]).success();
    let pid = host.field("box", "{{.State.Pid}}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t100000\t100000") && status.contains("Gid:\t100000\t100000"), "{status}");
    let maps = fs::read_to_string(format!("/proc/{pid}/gid_map")).unwrap();
    assert_eq!(maps.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
    // Its capabilities count inside, over what the namespace owns.
    let script = "id -u; stat -c %u:%g / /bin/busybox /etc/hosts /dev/pts; touch /new && echo a >> /etc/hosts && echo fine";
    let seen = host.docker(["exec", "box", "sh", "-c", script]).text();
    assert_eq!(seen, "0\n0:0\n0:0\n0:0\n0:0\nfine");
    let id = host.field("box", "{{.Id}}");
    let new = fs::metadata(root.join("image/containers").join(id).join("diff/new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (SHIFT, SHIFT));
    run(&host, &[], "echo > /dev/null && head -c 2 /dev/zero | wc -c && : > /dev/full; ls -ln /dev/null")
        .says("0        0");
    run(&host, &[], "mknod /disk b 254 0").failure().says("Operation not permitted");
    run(&host, &["-v", "/:/host"], "cat /host/etc/shadow || touch /host/x")
        .failure()
        .says("Permission denied");
}

#[test]
fn files_that_a_remapped_container_gets_belong_to_its_users() {
    let host = remapping!();
    let dir = tempfile::tempdir().unwrap();
    let (own, missing) = (dir.path().join("own"), dir.path().join("a/b"));
    fs::create_dir(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(SHIFT + 7), Some(SHIFT)).unwrap();
    let bind = |path: &Path, to: &str| format!("{}:{to}", path.display());
    let options = [
        "-v",
        "data:/data",
        "-v",
        "/anonymous",
        "-v",
        &bind(&own, "/own"),
        "-v",
        &bind(&missing, "/missing"),
    ];
    let script = "touch /data/x /anonymous/x /own/x /missing/x && stat -c %u /data /anonymous /own /missing";
    assert_eq!(run(&host, &options, script).text(), "0\n0\n7\n0");
    let volume = host.docker(["volume", "inspect", "--format", "{{.Mountpoint}}", "data"]).text();
    for (path, uid) in
        [(own.join("x"), SHIFT), (missing.join("x"), SHIFT), (Path::new(&volume).join("x"), SHIFT)]
    {
        assert_eq!(fs::metadata(&path).unwrap().uid(), uid, "{}", path.display());
    }
    // What belongs to the host's users belongs to nobody in there.
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    let options = ["-v", &bind(&foreign, "/foreign")];
    run(&host, &options, "stat -c %u /foreign; touch /foreign/x")
        .failure()
        .says("65534")
        .says("Permission denied");
    // From the image's files to a volume.
    let seen = run(&host, &["-v", "bin:/bin"], "stat -c %u /bin /bin/busybox").text();
    assert_eq!(seen, "0\n0");
    host.docker(["volume", "rm", "data", "bin"]).success();
    // An image with a user whom nobody on the host stands for.
    let tar = dir.path().join("image.tar");
    let rootfs = dir.path().join("rootfs");
    fs::create_dir(&rootfs).unwrap();
    std::os::unix::fs::chown(&rootfs, Some(70_000), None).unwrap();
    e2e::run(std::process::Command::new("tar").arg("-C").arg(&rootfs).arg("-cf").arg(&tar).arg("."))
        .success();
    host.docker(["import", &tar.to_string_lossy()])
        .failure()
        .says("Container ID 70000 cannot be mapped to a host ID");
}

#[test]
fn a_remapped_container_has_network_terminal_and_limits_of_its_own() {
    let host = remapping!();
    let script =
        "ip addr add 10.9.9.9/32 dev lo && ip -o addr show dev lo && cat /proc/sys/net/ipv4/ip_default_ttl";
    // Not one of `net.core`: older kernels hide those from the users of such a namespace.
    run(&host, &["--cap-add", "NET_ADMIN", "--sysctl", "net.ipv4.ip_default_ttl=77"], script)
        .success()
        .says("10.9.9.9")
        .says("\n77");
    let gateway = "ping -c 1 -W 5 $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')";
    run(&host, &[], gateway).success();
    run(&host, &["--network", "none"], "ip -o link | wc -l").says("1");
    let may_mount = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"];
    run(&host, &may_mount, "mkdir /m && mount -t tmpfs x /m && echo mounted").success().says("mounted");
    run(&host, &["-t"], "stat -c %u $(tty) /dev/console; id -u").says("0\r\n0\r\n0");
    run(&host, &["-u", "1000:1000"], "echo through > /dev/stdout; id -u; id -g").says("through\n1000\n1000");
    run(&host, &["-t", "-u", "1000"], "stat -c %u $(tty)").says("1000");
    run(&host, &["--ulimit", "nofile=100:100"], "ulimit -n").says("100");
    run(&host, &["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj").says("500");
    run(&host, &["--init"], "cat /proc/1/comm; id -u").success();
    for (options, owner) in [("/t:mode=755", "0 0 755"), ("/t:uid=7,gid=8,mode=700", "7 8 700")] {
        run(&host, &["--tmpfs", options], "stat -c '%u %g %a' /t; touch /t/x && echo written")
            .success()
            .says(owner)
            .says("written");
    }
    run(&host, &["--tmpfs", "/t:uid=70000"], "true").exits(125).says("uid=70000");
    run(&host, &["--read-only", "--tmpfs", "/t", "--shm-size", "1m"], "touch /t/x /dev/shm/x && ! touch /x")
        .success();
    run(&host, &["--cgroupns", "host"], "ls /sys/fs/cgroup | wc -l; cat /proc/self/cgroup").success();
    run(&host, &["--ipc", "host"], "touch /dev/shm/hostd-test-x && rm /dev/shm/hostd-test-x").success();
    run(
        &host,
        &["--device", "/dev/null:/opt/void", "--device", "/dev/zero:/dev/a/b"],
        "echo > /opt/void && head -c1 /dev/a/b",
    )
    .success();
}

#[test]
fn exec_enters_the_user_namespace_before_and_after_a_restart_of_hostd() {
    let mut host = remapping!();
    host.docker(["run", "-d", "--name", "box", "--ulimit", "nofile=99:99", "busybox", "sleep", "600"])
        .success();
    let own =
        host.docker(["exec", "box", "sh", "-c", "readlink /proc/1/ns/user; readlink /proc/1/ns/net"]).text();
    let check = |host: &TestHost| {
        let script = "readlink /proc/self/ns/user; readlink /proc/self/ns/net; id -u; ulimit -n; cat /proc/self/uid_map";
        let seen = host.docker(["exec", "box", "sh", "-c", script]).text();
        let words: Vec<&str> = seen.split_whitespace().collect();
        assert_eq!(words[..2].join("\n"), own);
        assert_eq!(words[2..], ["0", "99", "0", "100000", "65536"]);
        host.docker(["exec", "-u", "1000", "box", "sh", "-c", "echo out > /dev/stdout; id -u"])
            .says("out\n1000");
        host.docker(["exec", "-t", "box", "sh", "-c", "stat -c %u $(tty)"]).says("0");
        host.docker(["exec", "box", "nosuch"]).exits(127);
    };
    check(&host);
    host.kill();
    host.up();
    check(&host);
    host.docker(["restart", "-t", "0", "box"]).success();
    host.docker(["exec", "box", "true"]).success();
}

#[test]
fn what_a_remapped_container_cannot_have_is_refused_and_can_be_had_without() {
    let host = remapping!();
    for (option, words) in [
        (
            &["--privileged"][..],
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        ),
        (
            &["--network", "host"],
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        (&["--pid", "host"], "cannot share the host PID namespace when user namespaces are enabled"),
    ] {
        run(&host, option, "true").exits(125).says(words);
        let mut out = vec!["--userns", "host"];
        out.extend(option);
        run(&host, &out, "set -- $(cat /proc/self/uid_map); echo $2 $3").success().says("0 4294967295");
    }
    let plain = host.docker(["run", "-d", "--userns", "host", "busybox", "sleep", "600"]).text();
    assert_eq!(host.field(&plain, "{{.HostConfig.UsernsMode}}"), "host");
    run(&host, &["--network", &format!("container:{plain}")], "true")
        .exits(125)
        .says("it runs in the host's user namespace");
}

#[test]
fn other_runtimes_run_remapped_containers() {
    let host = remapping!();
    if Path::new("/sys/fs/cgroup/memory").exists() {
        // Crun refuses v1 where controllers are on v2 too.
        drop(e2e::run(host.inside("umount").arg("/sys/fs/cgroup/unified")));
    }
    // The runtime goes to the root file system as the container's root, and the test's folder is closed to it.
    fs::set_permissions(host.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    for runtime in ["runc", "crun"].into_iter().filter(|name| e2e::has(name)) {
        let by = |more: &[&str], script: &str| run(&host, &[&["--runtime", runtime], more].concat(), script);
        let probe = "id -u; set -- $(cat /proc/self/uid_map); echo $2 $3; touch /new; stat -c %u / /etc /new";
        by(&[], probe).success().says("0\n100000 65536\n0\n0\n0");
        by(&["-w", "/made/here", "-u", "nobody"], "id -u; stat -c %u /made /made/here").says("65534\n0\n0");
        by(&["--device", "/dev/zero:/dev/other"], "head -c 3 /dev/other | wc -c; stat -c %u /dev/other")
            .success()
            .says("3\n0");
        by(&["--ipc", "host"], "ls -d /dev/mqueue").success();
        by(&["--cap-add", "NET_ADMIN"], "ip link set lo down").success();
        by(&["-t"], "tty").success().says("/dev/pts/0");
        by(&["--userns", "host"], "set -- $(cat /proc/self/uid_map); echo $2").says("0");
        let named = [
            "run",
            "-d",
            "--name",
            "box",
            "--runtime",
            runtime,
            "-v",
            "data:/data",
            "busybox",
            "sleep",
            "600",
        ];
        host.docker(named).success();
        let pid = host.field("box", "{{.State.Pid}}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Uid:\t100000\t100000"), "{status}");
        let script = "echo out; echo err >&2; echo x > /data/f; stat -c %u /data/f";
        host.docker(["exec", "box", "sh", "-c", script]).success().says("out\n0");
        let volume = host.path("data/100000.100000/volumes/data/_data/f");
        assert_eq!(fs::metadata(volume).unwrap().uid(), SHIFT);
        let joined = ["--network", "container:box", "--pid", "container:box"];
        by(&joined, "ps").success().says("sleep 600");
        // What it is made of holds its environment.
        let bundle = host.path("run/100000.100000/shims").join(host.field("box", "{{.Id}}"));
        assert_eq!(fs::metadata(bundle.join("config.json")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(bundle).unwrap().mode() & 0o777, 0o710);
        host.docker(["rm", "-f", "box"]).success();
        host.docker(["volume", "rm", "data"]).success();
    }
}

#[test]
fn remapped_containers_share_namespaces_with_each_other() {
    let host = remapping!();
    host.docker(["run", "-d", "--name", "one", "--ipc", "shareable", "busybox", "sleep", "600"]).success();
    let script = "readlink /proc/self/ns/user; readlink /proc/self/ns/KIND";
    for (option, kind) in [("--network", "net"), ("--ipc", "ipc"), ("--pid", "pid")] {
        let script = script.replace("KIND", kind);
        let theirs = host.docker(["exec", "one", "sh", "-c", &script]).text();
        assert_eq!(run(&host, &[option, "container:one"], &script).text(), theirs, "{kind}");
    }
    run(&host, &["--pid", "container:one"], "ps; ip -o link show eth0").says("sleep 600").success();
    host.docker(["exec", "one", "sh", "-c", "echo hello > /dev/shm/note"]).success();
    run(&host, &["--ipc", "container:one"], "cat /dev/shm/note").says("hello");
    let mut apart = host.docker_command();
    apart.args(["run", "--rm", "busybox", "readlink", "/proc/self/ns/user"]);
    assert_ne!(
        e2e::run(&mut apart).text(),
        host.docker(["exec", "one", "readlink", "/proc/self/ns/user"]).text()
    );
}

#[test]
fn a_user_without_ranges_is_refused_by_name() {
    let Ok(host) = TestHost::start(&[]) else { return };
    let mut hostd = host.inside(&e2e::built("BERTH_TEST_HOSTD", "hostd").unwrap().to_string_lossy());
    hostd.arg("--config-file").arg(host.path("hostd.json"));
    hostd.arg("--data-root").arg(host.path("other")).arg("--exec-root").arg(host.path("other-run"));
    hostd
        .args(["--userns-remap", "nosuchuser", "-H"])
        .arg(format!("unix://{}", host.path("o.sock").display()));
    e2e::run(&mut hostd).failure().says("Error during uid lookup for \"nosuchuser\"");
}

#[test]
fn hooks_of_a_devices_description_are_refused_in_a_user_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let edits = serde_json::json!({ "hooks": [{ "hookName": "createRuntime", "path": "/bin/true" }] });
    let devices = serde_json::json!([{ "name": "any", "containerEdits": edits }]);
    let text = serde_json::json!({ "cdiVersion": "0.6.0", "kind": "v.com/hook", "devices": devices });
    fs::write(dir.path().join("hook.json"), text.to_string()).unwrap();
    let host = remapping!(&format!("--cdi-spec-dir={}", dir.path().display()));
    let device = ["--device", "v.com/hook=any"];
    run(&host, &device, "true").failure().says("is not supported in a user namespace");
    let on_the_host = ["--userns=host", "--device", "v.com/hook=any"];
    run(&host, &on_the_host, "true").success();
}
