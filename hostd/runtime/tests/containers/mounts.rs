//! What a container sees of files and devices.

use crate::host::*;
use hostd_runtime::spec::*;
use std::fs;

pub(crate) async fn masked_paths_are_empty_and_read_only_ones_refuse(host: Host) {
    let script = "cat /proc/interrupts /proc/timer_list /proc/keys 2>/dev/null | wc -c; ls /sys/firmware | wc -l; \
                  echo 1 > /proc/sys/kernel/domainname; echo $?; touch /sys/x; echo $?; touch /sys/firmware/x; echo $?";
    let (_, out, err) = host.run(host.spec(script)).await;
    assert_eq!(out, "0\n0\n1\n1\n1\n", "{err}");
}

pub(crate) async fn a_read_only_root_refuses_writes(host: Host) {
    let mut spec = host.spec("touch /x 2>&1; touch /dev/shm/x && touch /t/x && echo ok");
    spec.read_only_rootfs = true;
    let kind = MountKind::Tmpfs { options: vec!["size=1m".into()] };
    spec.mounts.push(Mount { destination: "/t".into(), kind, read_only: false });
    let (_, out, err) = host.run(spec).await;
    assert_eq!(out, "touch: /x: Read-only file system\nok\n", "{err}");
}

pub(crate) async fn binds_tmpfs_and_devices_are_there(host: Host) {
    let shared = host.dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("file"), "from the host\n").unwrap();
    let mut spec = host.spec(
        "cat /a/b/file /single; echo new > /a/b/new; touch /ro/x; stat -c %a /t; echo x > /dev/null; \
         head -c 3 /dev/zero | wc -c; ls -l /dev/mine | head -c 1; ls /dev/pts /dev/shm /dev/mqueue",
    );
    let bind = |source: &std::path::Path| MountKind::Bind {
        source: source.to_owned(),
        propagation: None,
        recursive: true,
        attributes: 0,
        shallow: false,
        subpath: None,
    };
    spec.mounts = vec![
        Mount { destination: "/a/b".into(), kind: bind(&shared), read_only: false },
        Mount { destination: "/ro".into(), kind: bind(&shared), read_only: true },
        Mount { destination: "/single".into(), kind: bind(&shared.join("file")), read_only: true },
        Mount {
            destination: "/t".into(),
            kind: MountKind::Tmpfs { options: vec!["mode=0711".into()] },
            read_only: false,
        },
    ];
    spec.devices = vec![Device {
        path_on_host: "/dev/zero".into(),
        path_in_container: "/dev/mine".into(),
        permissions: "rwm".into(),
        node: None,
    }];
    let (_, out, err) = host.run(spec).await;
    assert!(out.starts_with("from the host\nfrom the host\n711\n3\nc"), "{out}{err}");
    assert!(err.contains("/ro/x: Read-only file system"), "{err}");
    assert_eq!(fs::read_to_string(shared.join("new")).unwrap(), "new\n");
}

pub(crate) async fn read_only_binds_are_so_at_every_depth_and_keep_their_options(host: Host) {
    let shared = host.dir.path().join("shared");
    let deep = shared.join("deep");
    fs::create_dir_all(&deep).unwrap();
    let flags = rustix::mount::MountFlags::NOEXEC | rustix::mount::MountFlags::NODEV;
    rustix::mount::mount("tmpfs", &deep, "tmpfs", flags, c"").unwrap();
    let mut spec = host.spec("touch /here/x; touch /here/deep/x; mount | grep ' /here'");
    let bind = |propagation: Option<&str>| {
        let propagation = propagation.map(str::to_owned);
        MountKind::Bind {
            source: shared.clone(),
            propagation,
            recursive: true,
            attributes: 0,
            shallow: false,
            subpath: None,
        }
    };
    spec.mounts = vec![Mount { destination: "/here".into(), kind: bind(None), read_only: true }];
    let (_, out, err) = host.run(spec).await;
    assert!(err.contains("/here/x: Read-only") && err.contains("/here/deep/x: Read-only"), "{out}{err}");
    assert!(out.contains("/here/deep type tmpfs (ro,nodev,noexec,"), "{out}");
    let mut spec = host.spec("touch /here/x /here/deep/x; grep -c ' /here.* master:' /proc/self/mountinfo");
    rustix::mount::mount_change(&deep, rustix::mount::MountPropagationFlags::SHARED).unwrap();
    spec.mounts = vec![Mount { destination: "/here".into(), kind: bind(Some("rslave")), read_only: false }];
    let (_, out, err) = host.run(spec).await;
    assert_eq!((out.as_str(), err.as_str()), ("1\n", ""));
    rustix::mount::unmount(&deep, rustix::mount::UnmountFlags::DETACH).unwrap();
}

pub(crate) async fn only_allowed_devices_can_be_opened(host: Host) {
    if hostd_runtime::cgroup::version() != 2 && !hostd_runtime::cgroup::has_controller("devices") {
        println!("skipped: there is no devices controller");
        return;
    }
    // To open the kernel's log for writing takes no capability; nothing is written.
    let kmsg = |permissions: &str| Device {
        path_on_host: "/dev/kmsg".into(),
        path_in_container: "/dev/mine".into(),
        permissions: permissions.into(),
        node: None,
    };
    let refused = "can't create /dev/mine: Operation not permitted";
    let mut spec = host.spec("mknod /kin c 1 5 && head -c 1 /kin | wc -c; : > /dev/mine; echo opened");
    spec.devices = vec![kmsg("w")];
    assert_eq!(host.run(spec).await.1, "1\nopened\n");
    let mut spec = host.spec(": > /dev/mine");
    spec.devices = vec![kmsg("rm")];
    assert!(host.run(spec).await.2.contains(refused));
    let make = "mknod /dev/mine c 1 11; : > /dev/mine; echo opened";
    assert!(host.run(host.spec(make)).await.2.contains(refused));
    let mut spec = host.spec(make);
    spec.resources.device_rules = vec!["c 1:11 w".into()];
    assert_eq!(host.run(spec).await.1, "opened\n");
    let mut spec = host.spec(make);
    spec.privileged = true;
    assert_eq!(host.run(spec).await.1, "opened\n");
}

pub(crate) async fn a_link_in_the_image_leads_nowhere_outside(host: Host) {
    let outside = host.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let rootfs = host.dir.path().join("rootfs");
    std::os::unix::fs::symlink(&outside, rootfs.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../../../../../../../..", rootfs.join("up")).unwrap();
    let mut spec = host.spec("mount | grep -c /mnt-here");
    let kind = || MountKind::Tmpfs { options: Vec::new() };
    spec.mounts = vec![Mount { destination: "/up/mnt-here".into(), kind: kind(), read_only: false }];
    let (_, out, err) = host.run(spec).await;
    assert_eq!(out, "1\n", "{err}");
    let mut spec = host.spec("true");
    spec.mounts = vec![Mount { destination: "/absolute/x".into(), kind: kind(), read_only: false }];
    // The link leads to what does not exist inside.
    let _ = host.try_run(spec).await;
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let mut spec = host.spec("true");
    std::os::unix::fs::symlink("/proc/self", rootfs.join("to-proc")).unwrap();
    spec.mounts = vec![Mount { destination: "/to-proc/attr".into(), kind: kind(), read_only: false }];
    let error = host.try_run(spec).await.unwrap_err().to_string();
    assert!(error.contains("inside /proc"), "{error}");
}

pub(crate) async fn a_root_file_system_may_have_many_layers(host: Host) {
    let mut spec = host.spec("cat /last /layer150 /layer1");
    let layers = host.dir.path().join("a directory, with a long name: not to be repeated hundreds of times");
    for number in (0..200).rev() {
        let layer = layers.join(number.to_string());
        fs::create_dir_all(&layer).unwrap();
        fs::write(layer.join("last"), format!("{number}\n")).unwrap();
        fs::write(layer.join(format!("layer{number}")), format!("{number}\n")).unwrap();
        spec.rootfs.lower.insert(0, layer);
    }
    let id = spec.id.clone();
    let (exit, out, err) = host.run(spec).await;
    assert_eq!((exit.code, out.as_str(), err.as_str()), (0, "0\n150\n1\n", ""));
    host.assert_nothing_left(&id);
}

pub(crate) async fn what_a_machine_shows_of_itself_in_proc_can_be_covered(host: Host) {
    let file = host.dir.path().join("uptime");
    fs::write(&file, "12.34 56.78\n").unwrap();
    let bind = |to: &str| Mount {
        destination: to.into(),
        kind: MountKind::Bind {
            source: file.clone(),
            propagation: None,
            recursive: true,
            attributes: 0,
            shallow: false,
            subpath: None,
        },
        read_only: false,
    };
    let mut spec = host.spec("cat /proc/uptime");
    spec.mounts = vec![bind("/proc/uptime")];
    assert_eq!(host.run(spec).await.1, "12.34 56.78\n");
    for other in ["/proc/version", "/proc/self/attr/current", "/proc/sys/kernel/ostype"] {
        let mut spec = host.spec("true");
        spec.mounts = vec![bind(other)];
        let error = host.try_run(spec).await.unwrap_err().to_string();
        assert!(error.contains("inside /proc"), "{other}: {error}");
    }
}
