//! `--mount` and its options, with hostd's own runtime and with others, which get the same by other means.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{Outcome, TestHost, has, host, run};
use std::fs;
use std::path::Path;

/// The runtimes of this machine. Crun refuses v1 where controllers are on v2 too, so those are taken away.
fn runtimes(host: &TestHost) -> Vec<&'static str> {
    if Path::new("/sys/fs/cgroup/memory").exists() {
        drop(run(host.inside("umount").arg("/sys/fs/cgroup/unified")));
    }
    ["hostd", "runc", "crun"].into_iter().filter(|name| *name == "hostd" || has(name)).collect()
}

/// What a container with this mount prints.
fn with_mount(host: &TestHost, runtime: &str, mount: &str, script: &str) -> Outcome {
    let mut command = host.docker_command();
    run(command.args(["run", "--rm", "--runtime", runtime, "--mount", mount, "busybox", "sh", "-c", script]))
}

#[test]
fn a_bind_is_read_only_as_deep_as_asked() {
    let host = host!();
    let dir = host.path("tree");
    fs::create_dir_all(dir.join("below")).unwrap();
    run(host.inside("mount").args(["-t", "tmpfs", "none"]).arg(dir.join("below"))).success();
    let mount = |more: &str| {
        format!("type=bind,src={},dst=/m,readonly,bind-propagation=rprivate{more}", dir.display())
    };
    let probe = "touch /m/x 2>/dev/null && echo top; touch /m/below/x 2>/dev/null && echo below; true";
    for runtime in runtimes(&host) {
        let print = |more: &str| with_mount(&host, runtime, &mount(more), probe).success().text();
        assert_eq!(print(",bind-recursive=writable"), "below", "{runtime}");
        assert_eq!(print(",bind-recursive=readonly"), "", "{runtime}");
        assert_eq!(print(""), "", "{runtime}");
        let script = "grep -c ' /m/below ' /proc/mounts; true";
        let seen = with_mount(&host, runtime, &mount(",bind-recursive=disabled"), script).text();
        assert_eq!(seen, "0", "{runtime}");
    }
    assert!(!dir.join("x").exists());
    run(host.inside("umount").arg(dir.join("below"))).success();
    for (options, words) in [
        (serde_json::json!({ "ReadOnlyNonRecursive": true }), "!ReadOnly && ReadOnlyNonRecursive"),
        (
            serde_json::json!({ "ReadOnlyForceRecursive": true, "NonRecursive": true }),
            "!ReadOnly && ReadOnlyForceRecursive",
        ),
    ] {
        let body = serde_json::json!({ "Image": "busybox", "HostConfig": { "Mounts": [
            { "Type": "bind", "Source": dir, "Target": "/m", "BindOptions": options },
        ] } });
        let answer = host.api().call("POST", "/containers/create", Some(&body)).unwrap();
        assert_eq!(answer.status, 400);
        assert_eq!(answer.message(), format!("mount options conflict: {words}"));
    }
}

#[test]
fn a_part_of_a_volume_is_mounted_and_nothing_outside_it() {
    let host = host!();
    let whole = "type=volume,src=data,dst=/v";
    let fill = "mkdir -p /v/a/b; echo inside > /v/a/b/f; ln -s / /v/out; ln -s b /v/a/link";
    with_mount(&host, "hostd", whole, fill).success();
    for runtime in runtimes(&host) {
        let part = |path: &str, script: &str| {
            with_mount(&host, runtime, &format!("{whole},volume-subpath={path}"), script)
        };
        part("a/b", "cat /v/f; ls /v").success().says("inside\nf");
        part("a/b/f", "cat /v").success().says("inside");
        part("a/link", "cat /v/f").success().says("inside");
        part("none", "true").failure().says("cannot access path").says("/none");
        part("out/etc", "true").failure().says("path escapes from its volume");
        part("../data", "true").exits(125).says("subpath must be a relative path within the volume");
        part("a", "echo $$ > /v/written").success();
    }
    with_mount(&host, "hostd", whole, "ls /v/a").says("written");
    host.docker(["create", "--name", "box", "--mount", &format!("{whole},volume-subpath=a/b"), "busybox"])
        .success();
    assert_eq!(host.field("box", "{{(index .HostConfig.Mounts 0).VolumeOptions.Subpath}}"), "a/b");
    // Files of a container that does not run are those that it will see.
    run(host.docker_command().args(["cp", "box:/v/f", "-"])).success().says("inside");
    host.docker(["rm", "box"]).success();
    host.docker(["volume", "rm", "data"]).success();
}

#[test]
fn a_tmpfs_may_hold_programs_where_that_is_asked_for() {
    let host = host!();
    let body = |options: serde_json::Value| {
        serde_json::json!({
            "Image": "busybox", "Cmd": ["sh", "-c", "grep ' /t ' /proc/mounts"],
            "HostConfig": { "Mounts": [{ "Type": "tmpfs", "Target": "/t", "TmpfsOptions": { "Options": options } }] },
        })
    };
    let create = |name: &str, options| {
        let path = format!("/containers/create?name={name}");
        host.api().call("POST", &path, Some(&body(options))).unwrap()
    };
    assert_eq!(create("box", serde_json::json!([["exec"]])).status, 201);
    host.docker(["start", "-a", "box"]).success().says("nosuid,nodev").lacks("noexec");
    let answer = create("other", serde_json::json!([["suid"]]));
    assert_eq!(answer.status, 400);
    assert!(answer.message().contains("unknown option \"suid\""), "{}", answer.message());
}

#[test]
fn volumes_without_a_driver_of_their_own_get_the_containers() {
    let host = host!();
    let create = |options: &[&str]| {
        let mut command = host.docker_command();
        run(command.arg("create").args(options).args(["busybox", "true"]))
    };
    create(&["--volume-driver", "local", "-v", "data:/d", "--name", "box"]).success();
    assert_eq!(host.field("box", "{{.HostConfig.VolumeDriver}} {{(index .Mounts 0).Driver}}"), "local local");
    let missing = "error looking up volume plugin absent: plugin \"absent\" not found";
    create(&["--volume-driver", "absent", "-v", "other:/d"]).failure().says(missing);
    create(&["--volume-driver", "absent", "-v", "/anonymous"]).failure().says(missing);
    host.docker(["volume", "ls", "-q"]).lacks("other");
    // It says nothing about what is no volume, nor about one that names another.
    create(&["--volume-driver", "absent", "-v", "/tmp:/d"]).success();
    create(&["--volume-driver", "absent", "--mount", "type=volume,src=own,dst=/d,volume-driver=local"])
        .success();
}
