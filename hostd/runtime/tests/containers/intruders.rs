//! What a container can do to the processes of ours that live in it, and what they could do for it.

use crate::host::*;
use hostd_runtime::Access;
use hostd_runtime::spec::*;
use rustix::fs::FlockOperation;
use std::fs;
use std::time::Duration;

/// Pid of the shim whose child this is.
fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub(crate) async fn init_may_do_no_more_than_the_program(host: Host) {
    let look = "grep -E 'Cap|Seccomp:|NoNewPrivs' /proc";
    for user in ["", "web"] {
        let mut spec = host.spec(&format!("{look}/1/status; echo; {look}/self/status"));
        spec.init = true;
        spec.user = user.into();
        let (_, out, err) = host.run(spec).await;
        let (init, program) = out.split_once("\n\n").unwrap();
        assert_eq!(init, program.trim_end(), "{user:?}: {err}");
        assert!(init.contains("Seccomp:\t2"), "{init}");
    }
}

pub(crate) async fn what_the_shim_forks_after_an_exec_is_not_in_the_container(host: Host) {
    let first = host.spec("exec sleep 1000");
    let id = first.id.clone();
    let container = host.up(first).await;
    let mut guest = host.spec("exec sleep 1000");
    guest.namespaces.pid = NsMode::Of(container.pid());
    let other = guest.id.clone();
    let guest = host.up(guest).await;
    assert_eq!(host.exec(&container, &["true"]).await.0, 0);
    for of in [&container, &guest] {
        let shim = parent(of.pid());
        let link = |name: &str| fs::read_link(format!("/proc/{shim}/ns/{name}")).unwrap();
        assert_eq!(link("pid_for_children"), link("pid"));
        assert_eq!(link("pid"), fs::read_link("/proc/self/ns/pid").unwrap());
    }
    // It still finds its way in.
    let (_, out, _) = host.exec(&container, &["sh", "-c", "readlink /proc/self/ns/pid"]).await;
    let inside = fs::read_link(format!("/proc/{}/ns/pid", container.pid())).unwrap();
    assert_eq!(out.trim(), inside.to_str().unwrap());
    for id in [other, id] {
        host.runtime.remove(&id).await.unwrap();
    }
}

pub(crate) async fn a_container_that_stops_who_enters_it_can_be_killed(host: Host) {
    let stop_all = "while :; do for p in /proc/[0-9]*; do n=${p#/proc/}; \
                    [ $n = 1 ] || kill -STOP $n; done; done 2> /dev/null";
    let spec = host.spec(stop_all);
    let id = spec.id.clone();
    let container = host.up(spec).await;
    let mut execs = Vec::new();
    // Until one has been caught on its way in.
    loop {
        let (of, spec) = (container.clone(), exec_spec(&["true"]));
        let mut exec = tokio::spawn(async move { of.exec(spec, None).await.is_ok() });
        let answered = tokio::time::timeout(Duration::from_secs(3), &mut exec).await;
        execs.push(exec);
        if answered.is_err() {
            break;
        }
    }
    limited(container.kill(9)).await.unwrap();
    assert_eq!(limited(container.wait()).await.unwrap().code, 137);
    host.runtime.remove(&id).await.unwrap();
    host.assert_nothing_left(&id);
}

pub(crate) async fn a_layer_that_is_written_to_from_outside_is_not_mounted_by_a_shim(host: Host) {
    let spec = host.spec("ls /tmp");
    let (rootfs, id) = (spec.rootfs.clone(), spec.id.clone());
    let view = |access| {
        let (runtime, rootfs, id) = (host.runtime.clone(), rootfs.clone(), id.clone());
        async move {
            let work = move || runtime.view_layers(&id, &rootfs, &[], access);
            limited(tokio::task::spawn_blocking(work)).await.unwrap().unwrap()
        }
    };
    let work = fs::File::open(&rootfs.work).unwrap();
    let free = || {
        let free = rustix::fs::flock(&work, FlockOperation::NonBlockingLockExclusive).is_ok();
        rustix::fs::flock(&work, FlockOperation::Unlock).unwrap();
        free
    };
    let reader = view(Access::Read).await;
    assert!(free());
    drop(reader);
    let writer = view(Access::Write { read_only_rootfs: false }).await;
    assert!(!free());
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    rustix::fs::openat(writer.root(), "tmp/put", flags, rustix::fs::Mode::RUSR).unwrap();
    drop(writer);
    assert!(free());
    assert_eq!(host.run(spec).await.1, "put\n");
}

pub(crate) async fn a_mounted_dev_leaves_the_images_alone(host: Host) {
    let mut spec = host.spec("test -c /dev/null && test -c /mine && ls /dev/pts");
    let kind = MountKind::Bind {
        source: "/dev".into(),
        propagation: None,
        recursive: false,
        attributes: 0,
        shallow: false,
        subpath: None,
    };
    spec.mounts = vec![Mount { destination: "/dev".into(), kind, read_only: false }];
    let device = |path: &str| Device {
        path_on_host: "/dev/zero".into(),
        path_in_container: path.into(),
        permissions: "rwm".into(),
        node: None,
    };
    spec.devices = vec![device("/mine"), device("/dev/theirs")];
    let upper = spec.rootfs.upper.clone();
    let (exit, out, err) = host.run(spec).await;
    assert_eq!((exit.code, out.as_str()), (0, "ptmx\n"), "{err}");
    assert_eq!(fs::read_dir(upper.join("dev")).unwrap().count(), 0);
}
