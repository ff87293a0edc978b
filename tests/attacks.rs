//! Old attacks on container engines, each staged as it was described, each failing.
//!
//! Where an attack is a race, the attacker runs all along and as fast as it can, and the test goes on only once it has
//! seen its chance; what it then gets is looked at.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{Outcome, TestHost, eventually, host};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

fn docker(host: &TestHost, args: &[&str]) -> Outcome {
    e2e::run(host.docker_command().args(args))
}

/// A file that may be executed.
fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What the attacker has written, once it has.
fn found(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))
}

/// Takes hold of any program that is none of the container's, waits until it has ended, and writes to it.
const OVERWRITE: &str = r#"
while :; do
    for p in /proc/[0-9]*; do
        if [ -e $p/exe ] && ! [ $p/exe -ef /bin/busybox ]; then
            {
                while [ -d $p ]; do :; done
                { echo overwritten >> /proc/self/fd/9; } 2> /trap/write && echo written > /trap/write
                chmod 777 /proc/self/fd/9 2> /trap/chmod && echo changed > /trap/chmod
                echo > /trap/over
                exit
            } 9< $p/exe
        fi 2> /dev/null
    done
done
"#;

/// CVE-2019-5736: the engine's own program, started in a container as the interpreter of a script, is overwritten.
#[test]
fn the_engines_program_cannot_be_overwritten_through_proc_self_exe() {
    let host = host!();
    let program = e2e::built("BERTH_TEST_HOSTD", "hostd").unwrap();
    let before = fs::read(&program).unwrap();
    // One that is linked dynamically could not run there without these.
    let libraries = ["/lib", "/lib64"].map(|dir| format!("{dir}:{dir}:ro"));
    let libraries = libraries.iter().filter(|bind| Path::new(bind.split(':').next().unwrap()).exists());
    let libraries: Vec<&str> = libraries.flat_map(|bind| ["-v", bind]).collect();
    for way in ["exec", "run"] {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        script(&dir.path().join("evil"), "#!/proc/self/exe\n");
        script(&dir.path().join("overwrite"), OVERWRITE);
        let trap = format!("{}:/trap", dir.path().display());
        let start = ["run", "-d", "--name", way, "-v", &trap];
        docker(&host, &[&start[..], &libraries, &["busybox", "sh", "/trap/overwrite"]].concat()).success();
        eventually("the attacker to have held the engine's program", || {
            match way {
                "exec" => docker(&host, &["exec", way, "/trap/evil"]),
                _ => {
                    let pid = format!("container:{way}");
                    docker(
                        &host,
                        &[
                            &["run", "--rm", "--pid", &pid, "-v", &trap][..],
                            &libraries,
                            &["busybox", "/trap/evil"],
                        ]
                        .concat(),
                    )
                }
            };
            found(&dir.path().join("over"))
        });
        let tried = |what| fs::read_to_string(dir.path().join(what)).unwrap();
        // It is busy as long as any shim runs; read-only, in the way that it is seen from there, it is for ever.
        let (write, chmod) = (tried("write"), tried("chmod"));
        assert!(
            write.contains("Text file busy") || write.contains("Read-only file system"),
            "{way}: {write}"
        );
        assert!(chmod.contains("Read-only file system"), "{way}: {chmod}");
    }
    assert!(fs::read(&program).unwrap() == before, "the program has been overwritten");
    docker(&host, &["run", "--rm", "busybox", "true"]).success();
}

/// CVE-2024-21626: a working directory that is a descriptor of the engine's leads to the host's files.
#[test]
fn no_descriptor_of_the_engine_is_a_way_out() {
    let host = host!();
    let dir = tempfile::tempdir().unwrap();
    for number in 3..24 {
        symlink(format!("/proc/self/fd/{number}"), dir.path().join(format!("link{number}"))).unwrap();
    }
    let links = format!("{}:/links", dir.path().display());
    docker(&host, &["run", "-d", "--name", "box", "-v", &links, "busybox", "sleep", "600"]).success();
    for number in 3..24 {
        for cwd in [format!("/proc/self/fd/{number}"), format!("/links/link{number}")] {
            docker(&host, &["exec", "-w", &cwd, "box", "sh", "-c", "echo inside"]).failure().lacks("inside");
        }
    }
    for number in 3..12 {
        for cwd in [format!("/proc/self/fd/{number}"), format!("/links/link{number}/tmp")] {
            docker(&host, &["run", "--rm", "-v", &links, "-w", &cwd, "busybox", "sh", "-c", "echo inside"])
                .failure()
                .lacks("inside");
        }
    }
    // Nothing is open besides the streams, and the directory that is being listed.
    let list = ["ls", "/proc/self/fd"];
    for options in
        [&["run", "--rm"][..], &["run", "--rm", "-i"], &["run", "--rm", "-t"], &["run", "--rm", "--init"]]
    {
        let seen = docker(&host, &[options, &["busybox"], &list].concat()).text();
        assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "{options:?}");
    }
    for options in [&["exec"][..], &["exec", "-t"], &["exec", "-i"], &["exec", "--privileged"]] {
        let seen = docker(&host, &[options, &["box"], &list].concat()).text();
        assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "{options:?}");
    }
    let seen = docker(&host, &["run", "--rm", "--init", "busybox", "sh", "-c", "ls /proc/1/fd"]).text();
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"]);
}

/// Puts a link where another container's null device is, and the device back, without end.
const FLIP_NULL: &str = "
mknod /shared/real c 1 3
while :; do
    ln -s /proc/sysrq-trigger /shared/link && mv /shared/link /shared/null
    cp -a /shared/real /shared/copy && mv /shared/copy /shared/null
    : > /shared/flipping
done
";

/// CVE-2025-31133: what covers masked paths is replaced while they are being masked.
#[test]
fn masked_paths_stay_masked_while_the_null_device_is_replaced() {
    let host = host!();
    docker(&host, &["run", "-d", "--name", "flip", "-v", "dev:/shared", "busybox", "sh", "-c", FLIP_NULL])
        .success();
    eventually("the attacker to flip", || {
        docker(&host, &["exec", "flip", "test", "-e", "/shared/flipping"]).succeeded().then_some(())
    });
    let look = "head -c 1 /proc/kcore | wc -c; head -c 1 /proc/timer_list | wc -c; \
                ( echo h > /proc/sysrq-trigger ) 2> /x || echo denied";
    for attempt in 0..12 {
        let run = docker(&host, &["run", "--rm", "-v", "dev:/dev", "busybox", "sh", "-c", look]);
        // It either sees through the swap, or masks with the device that it has made sure of.
        if run.succeeded() {
            let seen = run.text();
            assert_eq!(
                seen.split_whitespace().collect::<Vec<_>>(),
                ["0", "0", "denied"],
                "attempt {attempt}"
            );
        } else {
            run.exits(125).says("/dev/null");
        }
    }
    docker(&host, &["rm", "-f", "flip"]).success();
    // And with no race at all.
    docker(
        &host,
        &["run", "--rm", "-v", "dev:/d", "busybox", "sh", "-c", "rm /d/null; ln -s /etc/passwd /d/null"],
    )
    .success();
    docker(&host, &["run", "--rm", "-v", "dev:/dev", "busybox", "true"]).exits(125).says("/dev/null");
}

/// CVE-2025-52565: the place of the console, or the terminal that is put there, is replaced by a link.
#[test]
fn the_console_is_put_on_no_link() {
    let host = host!();
    for (name, prepare) in [
        ("console", "ln -s /proc/version /d/console; mknod -m 666 /d/null c 1 3"),
        ("pts", "ln -s /proc /d/pts; mknod -m 666 /d/null c 1 3"),
        ("shm", "ln -s /proc/self/attr /d/shm; mknod -m 666 /d/null c 1 3"),
    ] {
        let volume = format!("{name}:/d");
        docker(&host, &["run", "--rm", "-v", &volume, "busybox", "sh", "-c", prepare]).success();
        let volume = format!("{name}:/dev");
        docker(&host, &["run", "--rm", "-t", "-v", &volume, "busybox", "true"])
            .exits(125)
            .says("symbolic links");
    }
    // A /dev of one's own is no attack.
    let prepare = "mknod -m 666 /d/null c 1 3; mknod -m 666 /d/tty c 5 0";
    docker(&host, &["run", "--rm", "-v", "fine:/d", "busybox", "sh", "-c", prepare]).success();
    docker(
        &host,
        &[
            "run",
            "--rm",
            "-t",
            "-v",
            "fine:/dev",
            "busybox",
            "sh",
            "-c",
            "tty; ls /dev/shm; test -c /dev/console && echo there",
        ],
    )
    .success()
    .says("/dev/pts/0")
    .says("there");
}

/// CVE-2025-52881, CVE-2019-16884, CVE-2019-19921: what is to go to procfs goes to a file that only looks like it.
#[test]
fn writes_to_procfs_are_not_led_elsewhere() {
    let host = host!();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("self/attr")).unwrap();
    symlink("/proc/self", dir.path().join("to-proc")).unwrap();
    let bind = |to: &str| format!("{}:{to}", dir.path().display());
    let sysctl = ["run", "--rm", "--sysctl", "net.core.somaxconn=99"];
    let run = |options: &[&str]| {
        docker(&host, &[&sysctl, options, &["busybox", "cat", "/proc/sys/net/core/somaxconn"]].concat())
    };
    run(&["-v", &bind("/proc")]).exits(125).says("not of type proc");
    run(&["--tmpfs", "/proc"]).exits(125).says("not of type proc");
    run(&["-v", "data:/proc"]).exits(125).says("not of type proc");
    for inside in ["/proc/self/attr", "/proc/sys/net", "/proc/1"] {
        run(&["-v", &bind(inside)]).exits(125);
        run(&["--tmpfs", inside]).exits(125);
    }
    run(&["-v", &bind("/links"), "--tmpfs", "/links/to-proc/attr"]).exits(125).says("inside /proc");
    // The parameter is that of the container, whichever procfs it looks at.
    let own = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    run(&[]).success().says("99");
    run(&["-v", "/proc:/proc"]).success().says("99");
    assert_eq!(fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap(), own);
    let score = [
        "run",
        "--rm",
        "--oom-score-adj",
        "321",
        "-v",
        "/proc:/proc",
        "busybox",
        "cat",
        "/proc/self/oom_score_adj",
    ];
    docker(&host, &score).success().says("321");
    // Nothing has been written into what stood in its place.
    assert_eq!(fs::read_dir(dir.path().join("self/attr")).unwrap().count(), 0);
}

/// Looks for a file of the host through every process that is still the engine's: by its root, its working directory,
/// and whatever directory it has open.
const PEEK: &str = r#"
while :; do
    for p in /proc/[0-9]*; do
        if { read -r name < $p/comm; } 2> /dev/null && [ "$name" = hostd-shim ]; then
            echo >> /trap/seen
            for way in $p/root $p/cwd $p/fd/* $p/fd/*/1/root; do
                if [ -e $way$1 ]; then echo $way >> /trap/got; fi
            done
        fi
    done
done
"#;

/// CVE-2016-9962: a process of the engine that enters a container is looked into before it has let go of the host.
#[test]
fn a_process_that_enters_is_no_way_to_the_host() {
    let host = host!();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    script(&dir.path().join("peek"), PEEK);
    let (mark, trap) = (dir.path().join("peek"), format!("{}:/trap", dir.path().display()));
    let mark = mark.to_str().unwrap();
    docker(&host, &["run", "-d", "--name", "peek", "-v", &trap, "busybox", "sh", "/trap/peek", mark])
        .success();
    eventually("the attacker to have seen many enter", || {
        docker(&host, &["exec", "peek", "true"]).success();
        docker(&host, &["run", "--rm", "--pid", "container:peek", "busybox", "true"]).success();
        let seen = fs::read_to_string(dir.path().join("seen")).unwrap_or_default();
        (seen.lines().count() > 10).then_some(())
    });
    let got = fs::read_to_string(dir.path().join("got")).unwrap_or_default();
    assert!(got.is_empty(), "{got}");
}

/// The same where the attacker may trace: what enters is not to be seen before it has let go.
#[test]
fn a_process_that_enters_is_no_way_to_the_host_for_one_that_may_trace() {
    let host = host!();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    script(&dir.path().join("peek"), PEEK);
    let (mark, trap) = (dir.path().join("peek"), format!("{}:/trap", dir.path().display()));
    let mark = mark.to_str().unwrap();
    let traces =
        ["run", "-d", "--cap-add", "SYS_PTRACE", "--security-opt", "apparmor=unconfined", "--name", "peek"];
    let args: Vec<&str> =
        traces.iter().chain(&["-v", &trap, "busybox", "sh", "/trap/peek", mark]).copied().collect();
    docker(&host, &args).success();
    eventually("the attacker to have seen many enter", || {
        docker(&host, &["exec", "peek", "true"]).success();
        docker(&host, &["exec", "-u", "1000", "peek", "true"]).success();
        let seen = fs::read_to_string(dir.path().join("seen")).unwrap_or_default();
        (seen.lines().count() > 10).then_some(())
    });
    let got = fs::read_to_string(dir.path().join("got")).unwrap_or_default();
    assert!(got.is_empty(), "{got}");
}

/// Swaps a directory on the way to a mount point for a link to the root, and back.
const FLIP_LINK: &str = "
mkdir /shared/dir
while :; do
    ln -s / /shared/way && mv /shared/way /shared/x; rm /shared/x
    mv /shared/dir /shared/x && mv /shared/x /shared/dir
    : > /shared/flipping
done
";

/// CVE-2021-30465: a mount point is exchanged for a link between being checked and being mounted on.
#[test]
fn a_mount_point_that_is_exchanged_leads_nowhere_outside() {
    let host = host!();
    docker(&host, &["run", "-d", "--name", "flip", "-v", "shared:/shared", "busybox", "sh", "-c", FLIP_LINK])
        .success();
    eventually("the attacker to flip", || {
        docker(&host, &["exec", "flip", "test", "-e", "/shared/flipping"]).succeeded().then_some(())
    });
    for _ in 0..8 {
        let look = "ls / /shared/x; cat /proc/self/mountinfo | wc -l";
        // Whichever of the two it meets, it stays inside; or it finds neither.
        let run = docker(
            &host,
            &["run", "--rm", "-v", "shared:/shared", "-v", "inner:/shared/x/y", "busybox", "sh", "-c", look],
        );
        for outside in ["boot", "lost+found", "usr", "srv"] {
            assert!(!run.stdout().lines().any(|line| line == outside), "{run:?}");
        }
    }
}
