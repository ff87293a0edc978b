//! Files in and out of containers: cp, export, diff, commit, sizes.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{Outcome, TestHost, eventually, host, run};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// `docker cp`, one side of which is a path on this machine.
fn cp(host: &TestHost, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Outcome {
    host.docker(["cp", "-q", &from.as_ref().to_string_lossy(), &to.as_ref().to_string_lossy()])
}

/// One HTTP request as it stands; the answer's status and body.
fn request(host: &TestHost, line: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = UnixStream::connect(host.path("hostd.sock")).unwrap();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // A server that refuses may not read all of it.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").map(|at| answer[at + 4..].to_vec());
    (status, body.unwrap_or_default())
}

/// What tar(1) makes of files in `dir`, with further arguments.
fn tar(dir: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new("tar").arg("-C").arg(dir).args(["-cf", "-"]).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A tar of one entry with any name: tar(1) would make it harmless.
fn entry(name: &str, link: &str, kind: u8, size: u64, data: &[u8]) -> Vec<u8> {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum::<u32>() + 8 * 32;
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block[155] = b' ';
    let mut out = block.to_vec();
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

/// The three states of a container: each has its own way to its files.
fn in_every_state(host: &TestHost, options: &[&str], check: impl Fn(&str)) {
    let create = |name: &str| {
        let mut command = host.docker_command();
        run(command.args(["create", "--name", name]).args(options).args(["busybox", "sleep", "1000"]))
            .success();
    };
    for name in ["never-started", "stopped", "running"] {
        create(name);
    }
    for name in ["stopped", "running"] {
        host.docker(["start", name]).success();
    }
    host.docker(["kill", "stopped"]).success();
    for name in ["never-started", "stopped", "running"] {
        check(name);
    }
}

#[test]
fn files_and_trees_travel_both_ways_in_every_state() {
    let host = host!();
    let here = host.path("files");
    fs::create_dir_all(here.join("tree/empty")).unwrap();
    let content: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(here.join("tree/blob"), &content).unwrap();
    fs::set_permissions(here.join("tree/blob"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::hard_link(here.join("tree/blob"), here.join("tree/twin")).unwrap();
    symlink("blob", here.join("tree/link")).unwrap();
    let long = "n".repeat(200);
    fs::write(here.join("tree").join(&long), "long").unwrap();
    in_every_state(&host, &[], |name| {
        cp(&host, here.join("tree"), format!("{name}:/srv")).success();
        let back = here.join(format!("back-{name}"));
        cp(&host, format!("{name}:/srv"), &back).success();
        assert_eq!(fs::read(back.join("blob")).unwrap(), content, "{name}");
        let meta = fs::metadata(back.join("blob")).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o4750);
        assert_eq!(fs::metadata(here.join("tree/blob")).unwrap().mtime(), meta.mtime());
        assert_eq!(fs::metadata(back.join("twin")).unwrap().ino(), meta.ino(), "a hard link stays one");
        assert_eq!(fs::read_link(back.join("link")).unwrap(), Path::new("blob"));
        assert_eq!(fs::read_to_string(back.join(&long)).unwrap(), "long");
        assert!(back.join("empty").is_dir());
        // Into a directory that is there, the contents alone, and one file under another name.
        cp(&host, here.join("tree"), format!("{name}:/srv/")).success();
        cp(&host, here.join("tree/."), format!("{name}:/tmp")).success();
        cp(&host, here.join("tree/blob"), format!("{name}:/tmp/renamed")).success();
        for path in ["/srv/tree/blob", "/tmp/blob", "/tmp/renamed"] {
            let copy = here.join("copy");
            cp(&host, format!("{name}:{path}"), &copy).success();
            assert_eq!(fs::read(&copy).unwrap(), content, "{name}:{path}");
            fs::remove_file(copy).unwrap();
        }
    });
    // What was put in before a start is there after it, and the processes of a running one see it.
    host.docker(["start", "never-started"]).success();
    for name in ["never-started", "running"] {
        host.docker(["exec", name, "cmp", "/srv/blob", "/tmp/renamed"]).success();
    }
}

#[test]
fn links_are_copied_followed_and_described_as_the_cli_expects() {
    let host = host!();
    let here = host.path("files");
    fs::create_dir_all(&here).unwrap();
    let script = "ln -s /etc/passwd /tmp/absolute; ln -s ../../../etc/group /tmp/climbing; ln -s /tmp/dir /tmp/to-dir; \
                  mkdir /tmp/dir; ln -s /gone /tmp/broken; sleep 1000";
    host.docker(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).success();
    eventually("the links", || {
        (host.docker(["exec", "box", "readlink", "/tmp/broken"]).code() == 0).then_some(())
    });
    cp(&host, "box:/tmp/absolute", here.join("link")).success();
    assert_eq!(fs::read_link(here.join("link")).unwrap(), Path::new("/etc/passwd"));
    for (link, word) in [("absolute", "root:x:0:0"), ("climbing", "root:x:0:")] {
        let target = here.join(format!("followed-{link}"));
        host.docker(["cp", "-qL", &format!("box:/tmp/{link}"), &target.to_string_lossy()]).success();
        assert!(fs::read_to_string(&target).unwrap().contains(word), "{link}");
    }
    // A link to a directory is a place to copy to.
    fs::write(here.join("file"), "new").unwrap();
    cp(&host, here.join("file"), "box:/tmp/to-dir").success();
    host.docker(["exec", "box", "cat", "/tmp/dir/file"]).success().says("new");
    cp(&host, "box:/tmp/broken/x", here.join("x"))
        .failure()
        .says("Could not find the file /tmp/broken/x in container box");
}

#[test]
fn volumes_and_binds_are_there_in_every_state() {
    let host = host!();
    let (here, bound) = (host.path("files"), host.path("bound"));
    fs::create_dir_all(&here).unwrap();
    fs::create_dir_all(&bound).unwrap();
    fs::write(bound.join("from-host"), "1").unwrap();
    fs::write(here.join("file"), "2").unwrap();
    let bind = format!("{}:/deep/bound", bound.display());
    let options = ["-v", "store:/store", "-v", &bind, "-v", &format!("{}:/guarded:ro", bound.display())];
    in_every_state(&host, &options, |name| {
        cp(&host, format!("{name}:/deep/bound/from-host"), here.join("got")).success();
        cp(&host, here.join("file"), format!("{name}:/deep/bound/{name}")).success();
        assert_eq!(fs::read_to_string(bound.join(name)).unwrap(), "2");
        cp(&host, here.join("file"), format!("{name}:/store/{name}")).success();
        cp(&host, here.join("file"), format!("{name}:/guarded/x"))
            .failure()
            .says("mounted volume is marked read-only");
    });
    let seen = host.docker(["run", "--rm", "-v", "store:/s", "busybox", "ls", "/s"]).text();
    assert_eq!(seen, "never-started\nrunning\nstopped");
    assert!(!bound.join("x").exists());
}

#[test]
fn a_read_only_root_takes_no_files() {
    let host = host!();
    let file = host.path("file");
    fs::write(&file, "x").unwrap();
    in_every_state(&host, &["--read-only", "-v", "store:/store"], |name| {
        cp(&host, &file, format!("{name}:/tmp/file")).failure().says("container rootfs is marked read-only");
        cp(&host, &file, format!("{name}:/store/file")).success();
        cp(&host, format!("{name}:/etc/passwd"), "-").success();
    });
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let host = host!();
    let here = host.path("files");
    fs::create_dir_all(here.join("dir")).unwrap();
    fs::write(here.join("file"), "x").unwrap();
    host.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).success();
    cp(&host, "nobody:/etc", &here).failure().says("No such container: nobody");
    cp(&host, here.join("file"), "nobody:/x").failure().says("No such container: nobody");
    cp(&host, "box:/nope", &here).failure().says("Could not find the file /nope in container box");
    cp(&host, "box:/etc/passwd/x", &here).failure().says("not a directory");
    cp(&host, here.join("file"), "box:/nope/file")
        .failure()
        .says("Could not find the file /nope in container box");
    cp(&host, here.join("dir"), "box:/etc/passwd").failure().says("cannot copy directory");
    cp(&host, here.join("file"), "box:/etc/hosts").failure().says("device or resource busy");
    // What the kernel shows is not among the files.
    cp(&host, "box:/proc/1/environ", &here).failure().says("Could not find the file /proc/1/environ");
    cp(&host, "box:/proc", here.join("proc")).success();
    assert_eq!(fs::read_dir(here.join("proc")).unwrap().count(), 0);

    let put = |path: &str, more: &str, body: &[u8]| {
        let (status, body) = request(&host, &format!("PUT /containers/box/archive?path={path}{more}"), body);
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    let huge = entry("huge", "", b'0', 1 << 32, b"short");
    for (path, more, body, status, says) in [
        ("", "", &b""[..], 400, "bad parameter"),
        ("/nope", "", b"", 404, "Could not find the file /nope in container box"),
        ("/etc/passwd", "", b"", 400, "extraction point is not a directory"),
        ("/tmp", "", b"not a tar at all, but long enough to be looked at", 400, "invalid tar header"),
        ("/tmp", "", &huge, 400, "truncated"),
        ("/tmp", "", &entry("../../escaped", "", b'0', 1, b"x"), 400, "is outside of"),
        ("/tmp", "", &entry("/../escaped", "", b'0', 1, b"x"), 400, "is outside of"),
        ("/tmp", "", &entry("link", "../../../x", b'2', 0, b""), 400, "invalid symlink"),
        ("/tmp", "", &entry("link", "../etc/passwd", b'1', 0, b""), 400, "invalid hardlink"),
        ("/", "&noOverwriteDirNonDir=1", &entry("etc", "", b'0', 1, b"x"), 400, "cannot overwrite directory"),
        (
            "/etc",
            "&noOverwriteDirNonDir=true",
            &entry("passwd/", "", b'5', 0, b""),
            400,
            "cannot overwrite non-directory",
        ),
        ("/proc", "", &entry("x", "", b'0', 1, b"x"), 404, "Could not find the file"),
    ] {
        let (got, text) = put(path, more, body);
        assert!(got == status && text.contains(says), "{path}{more}: {got} {text}");
    }
    // An absolute target means the container's own root, and nothing of the host is reached by it.
    assert_eq!(put("/tmp", "", &entry("link", "/etc/passwd", b'2', 0, b"")).0, 200);
    assert_eq!(put("/tmp", "", b"").0, 200, "nothing is an archive of nothing");
    assert_eq!(host.docker(["exec", "box", "ls", "/tmp"]).text(), "huge\nlink");
    host.docker(["exec", "box", "sh", "-c", "test -d /etc && grep -q root /etc/passwd"]).success();
}

/// Of `/proc` much is one and the same for the machine and its containers.
#[test]
fn an_archive_does_not_change_what_the_kernel_shows() {
    let host = host!();
    host.docker(["run", "-d", "--name", "box", "busybox", "sleep", "600"]).success();
    let look = || host.docker(["exec", "box", "stat", "-c", "%a %u", "/proc/tty", "/proc"]).text();
    let before = look();
    for name in ["proc/tty/", "proc/"] {
        let (status, body) =
            request(&host, "PUT /containers/box/archive?path=%2F", &entry(name, "", b'5', 0, b""));
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    }
    assert_eq!(look(), before);
}

#[test]
fn compressed_archives_are_taken_and_owners_kept_or_given() {
    let host = host!();
    let here = host.path("files");
    fs::create_dir_all(&here).unwrap();
    fs::write(here.join("file"), "content").unwrap();
    host.docker(["run", "-d", "--name", "box", "--user", "nobody", "busybox", "sleep", "1000"]).success();
    for (flag, dir) in
        [("--owner=7", "plain"), ("-z", "gzip"), ("--zstd", "zstd"), ("-j", "bzip2"), ("-J", "xz")]
    {
        // The program that compresses may not be here.
        let made =
            Command::new("tar").arg("-C").arg(&here).args([flag, "-cf", "-", "file"]).output().unwrap();
        if !made.status.success() {
            println!("skipped: tar {flag}");
            continue;
        }
        host.docker(["exec", "-u", "root", "box", "mkdir", &format!("/tmp/{dir}")]).success();
        let line = format!("PUT /containers/box/archive?path=/tmp/{dir}");
        let (status, body) = request(&host, &line, &made.stdout);
        assert_eq!(status, 200, "{dir}: {}", String::from_utf8_lossy(&body));
        host.docker(["exec", "box", "cat", &format!("/tmp/{dir}/file")]).success().says("content");
    }
    assert_eq!(host.docker(["exec", "box", "stat", "-c", "%u", "/tmp/plain/file"]).text(), "7");
    host.docker(["cp", "-qa", &here.join("file").to_string_lossy(), "box:/tmp/mine"]).success();
    assert_eq!(host.docker(["exec", "box", "stat", "-c", "%U", "/tmp/mine"]).text(), "nobody");
}

/// CVE-2018-15664: a container swaps a directory for a link to the root, over and over, while files are copied through it.
#[test]
fn a_link_that_is_swapped_in_meanwhile_never_leads_to_the_host() {
    let host = host!();
    let here = host.path("files");
    fs::create_dir_all(&here).unwrap();
    let secret = host.path("only-on-the-host");
    fs::write(&secret, "the host's secret").unwrap();
    let folder = host.path("").to_string_lossy().into_owned();
    let folder = folder.trim_end_matches('/');
    // In the container the same path leads to a file of its own; through an absolute link, on the host it would to ours.
    let script = format!(
        "mkdir -p {folder} /real && echo own > {folder}/only-on-the-host && echo own > /real/only-on-the-host && ln -s {folder} /link && \
         echo ready; while true; do mv -T /real /swap; mv -T /link /real; mv -T /real /link; mv -T /swap /real; \
         mv -T /link /swap2; mv -T /swap2 /link; ln -sfn {folder} /flip; rm -rf /flip; mkdir /flip; cp /real/only-on-the-host /flip/; \
         rm -rf /flip; done"
    );
    host.docker(["run", "-d", "--name", "box", "busybox", "sh", "-c", &script]).success();
    eventually("the loop", || host.docker(["logs", "box"]).stdout().contains("ready").then_some(()));
    fs::write(here.join("only-on-the-host"), "from the attack").unwrap();
    let archive = tar(&here, &["only-on-the-host"]);
    let mut read = 0;
    for round in 0..300 {
        let place = ["/real", "/flip", "/link"][round % 3];
        let (status, body) =
            request(&host, &format!("GET /containers/box/archive?path={place}/only-on-the-host"), b"");
        let text = String::from_utf8_lossy(&body);
        assert!(!text.contains("the host's secret"), "round {round} read the host's file");
        read += u32::from(status == 200);
        request(&host, &format!("PUT /containers/box/archive?path={place}"), &archive);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "the host's secret", "round {round} wrote it");
    }
    assert!(read > 0, "no round met the file at all");
}

/// CVE-2019-14271: what the container has in place of libraries and programs is never loaded by the daemon.
#[test]
fn nothing_of_the_container_is_executed_to_copy_its_files() {
    let host = host!();
    let here = host.path("files");
    fs::create_dir_all(&here).unwrap();
    let script = "mkdir -p /lib/x86_64-linux-gnu /usr/bin; for f in /lib/x86_64-linux-gnu/libnss_files.so.2 \
                  /usr/bin/tar /usr/bin/xz /bin/unxz; do printf '#!/bin/sh\\ntouch /pwned' > $f; chmod 755 $f; done; \
                  echo ready; sleep 1000";
    host.docker(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).success();
    eventually("the traps", || host.docker(["logs", "box"]).stdout().contains("ready").then_some(()));
    fs::write(here.join("file"), "x").unwrap();
    cp(&host, here.join("file"), "box:/tmp/").success();
    host.docker(["cp", "-qa", &here.join("file").to_string_lossy(), "box:/tmp/mine"]).success();
    cp(&host, "box:/lib", here.join("lib")).success();
    host.docker(["exec", "box", "test", "-e", "/pwned"]).failure();
    assert!(!Path::new("/pwned").exists());
    // No thread of the daemon has stayed in the container.
    let own = fs::read_link(format!("/proc/{}/ns/mnt", host.pid())).unwrap();
    for task in fs::read_dir(format!("/proc/{}/task", host.pid())).unwrap().flatten() {
        if let Ok(namespace) = fs::read_link(task.path().join("ns/mnt")) {
            assert_eq!(namespace, own);
        }
    }
}

#[test]
fn an_export_is_the_root_file_system_alone() {
    let host = host!();
    in_every_state(&host, &["-v", "store:/store", "--tmpfs", "/scratch"], |name| {
        let mut export = host.docker_command();
        let mut child = export.args(["export", name]).stdout(Stdio::piped()).spawn().unwrap();
        let list =
            Command::new("tar").args(["-tf", "-"]).stdin(child.stdout.take().unwrap()).output().unwrap();
        assert!(child.wait().unwrap().success() && list.status.success(), "{name}");
        let names = String::from_utf8(list.stdout).unwrap();
        let names: Vec<&str> = names.lines().collect();
        assert!(names.contains(&"bin/busybox") && names.contains(&"etc/passwd"), "{name}: {names:?}");
        let below = |dir: &str| names.iter().filter(|path| path.starts_with(dir) && **path != dir).count();
        assert_eq!((below("proc/"), below("sys/"), below("store/")), (0, 0, 0), "{name}");
    });
    host.docker(["exec", "running", "sh", "-c", "echo mine > /made && rm /etc/group"]).success();
    let file = host.path("export.tar");
    host.docker(["export", "-o", &file.to_string_lossy(), "running"]).success();
    let id = host.docker(["import", &file.to_string_lossy(), "exported"]).text();
    assert!(id.starts_with("sha256:"), "{id}");
    host.docker(["run", "--rm", "exported", "sh", "-c", "cat /made; test ! -e /etc/group"])
        .success()
        .says("mine");
    host.docker(["export", "nobody"]).failure().says("No such container: nobody");
}

#[test]
fn a_diff_tells_what_was_added_changed_and_deleted() {
    let host = host!();
    let script = "echo x >> /etc/passwd; rm /etc/group; mkdir -p /new/deep; touch /new/deep/file; rm -r /home; \
                  rm -rf /root; mkdir /root; touch /root/.profile";
    host.docker(["run", "--name", "box", "busybox", "sh", "-c", script]).success();
    let diff = host.docker(["diff", "box"]).text();
    let lines: Vec<&str> = diff.lines().collect();
    for line in [
        "C /etc",
        "D /etc/group",
        "C /etc/passwd",
        "A /new",
        "A /new/deep",
        "A /new/deep/file",
        "D /home",
        "A /root/.profile",
    ] {
        assert!(lines.contains(&line), "{line} is missing:\n{diff}");
    }
    for path in ["/dev", "/proc", "/sys", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname"] {
        assert!(!lines.iter().any(|line| line[2..].starts_with(path)), "{path}:\n{diff}");
    }
    host.docker(["run", "--name", "clean", "busybox", "true"]).success();
    host.docker(["create", "--name", "new", "busybox", "true"]).success();
    for name in ["clean", "new"] {
        assert_eq!(host.docker(["diff", name]).text(), "", "{name}");
    }
    host.docker(["diff", "nobody"]).failure().says("No such container: nobody");
}

#[test]
fn a_commit_is_an_image_of_what_the_container_changed() {
    let mut host = host!();
    let script = "echo kept > /kept; rm /etc/group; rm -rf /root; mkdir -m 700 /root; echo new > /root/new; sleep 1000";
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "-e",
        "A=1",
        "-v",
        "store:/store",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .success();
    eventually("the changes", || {
        (host.docker(["exec", "box", "cat", "/root/new"]).code() == 0).then_some(())
    });
    host.docker(["exec", "box", "touch", "/store/not-mine"]).success();
    let id = host
        .docker([
            "commit",
            "-m",
            "a comment",
            "-a",
            "an author",
            "-c",
            "CMD [\"cat\", \"/kept\"]",
            "-c",
            "ENV B=$A C=3",
            "-c",
            "LABEL l=v",
            "-c",
            "EXPOSE 80",
            "-c",
            "WORKDIR /root",
            "box",
            "mine:v1",
        ])
        .text();
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(host.field("box", "{{.State.Status}}"), "running", "it was frozen only meanwhile");
    let image = |template: &str| host.docker(["image", "inspect", "-f", template, "mine:v1"]).text();
    assert_eq!(image("{{.Id}}"), id);
    assert_eq!(
        image("{{.Author}}|{{.Comment}}|{{.Config.Cmd}}|{{.Config.WorkingDir}}"),
        "an author|a comment|[cat /kept]|/root"
    );
    assert_eq!(
        image("{{.Config.Labels}} {{.Config.ExposedPorts}} {{len .RootFS.Layers}}"),
        "map[l:v] map[80/tcp:{}] 2"
    );
    assert_eq!(image("{{.Parent}}"), host.docker(["image", "inspect", "-f", "{{.Id}}", "busybox"]).text());
    // Docker before 26 tells what the image was made from.
    let old = host.call("GET", "/v1.44/images/mine:v1/json", "").1;
    let old: serde_json::Value =
        serde_json::from_str(&old[old.find('{').unwrap()..=old.rfind('}').unwrap()]).unwrap();
    assert_eq!(old["Container"].as_str().unwrap(), host.field("box", "{{.Id}}"));
    let made_from = &old["ContainerConfig"];
    assert_eq!((made_from["Image"].as_str(), made_from["Cmd"][0].as_str()), (Some("busybox"), Some("sh")));
    assert_eq!(made_from["Hostname"].as_str().unwrap(), host.field("box", "{{.Config.Hostname}}"));
    host.docker(["history", "mine:v1"]).success().says("a comment");
    // It is on the disk: a daemon that is killed knows it again.
    host.kill();
    host.up();
    assert_eq!(host.docker(["run", "--rm", "mine:v1"]).text(), "kept");
    let script =
        "echo $A $B $C; ls -A /root; test ! -e /etc/group && test ! -e /store/not-mine && stat -c %a /root";
    assert_eq!(host.docker(["run", "--rm", "mine:v1", "sh", "-c", script]).text(), "1 1 3\nnew\n700");
    host.docker(["rmi", "busybox"]).failure().says("is using its referenced image");
    host.docker(["rm", "-fv", "box"]).success();
    // The layers below stay as long as the image does.
    host.docker(["rmi", "busybox"]).success();
    assert_eq!(host.docker(["run", "--rm", "mine:v1"]).text(), "kept");
}

#[test]
fn a_commit_without_changes_adds_no_layer_and_bad_ones_make_no_image() {
    let host = host!();
    host.docker(["create", "--name", "box", "busybox", "true"]).success();
    host.docker(["commit", "box", "same"]).success();
    assert_eq!(host.docker(["image", "inspect", "-f", "{{len .RootFS.Layers}}", "same"]).text(), "1");
    let before = host.docker(["images", "-q"]).text();
    host.docker(["commit", "-c", "RUN true", "box"]).failure().says("RUN is not a valid change command");
    host.docker(["commit", "-c", "USER a b", "box"]).failure().says("USER requires exactly one argument");
    host.docker(["commit", "box", "BAD"]).failure().says("must be lowercase");
    host.docker(["commit", "nobody"]).failure().says("No such container: nobody");
    assert_eq!(host.docker(["images", "-q"]).text(), before);
    // The CLI asks up to the whole second before now.
    eventually("the commit event", || {
        let mut command = host.docker_command();
        command.args("events --since 1h --until 0s --filter event=commit --format {{.Type}}".split(' '));
        (run(&mut command).text() == "container").then_some(())
    });
}

#[test]
fn sizes_count_the_writable_layer_exactly() {
    let host = host!();
    let script =
        "dd if=/dev/zero of=/blob bs=1000 count=123 2>/dev/null; ln /blob /twin; rm /etc/group; mkdir /dir";
    host.docker(["run", "--name", "box", "busybox", "sh", "-c", script]).success();
    host.docker(["create", "--name", "new", "busybox", "true"]).success();
    let size = |name: &str| host.docker(["inspect", "-s", "-f", "{{.SizeRw}} {{.SizeRootFs}}", name]).text();
    let image: u64 = host.docker(["image", "inspect", "-f", "{{.Size}}", "busybox"]).text().parse().unwrap();
    assert_eq!(size("box"), format!("123000 {}", image + 123_000));
    assert_eq!(size("new"), format!("0 {image}"));
    host.docker(["ps", "-as", "--format", "{{.Names}} {{.Size}}"]).says("box 123kB");
}

#[test]
fn a_container_keeps_the_layers_of_an_image_that_is_removed_by_force() {
    let mut host = host!();
    host.docker(["create", "--name", "new", "busybox", "echo", "alive"]).success();
    host.docker(["run", "--name", "old", "busybox", "echo", "alive"]).success();
    let before = host.docker(["inspect", "-s", "-f", "{{.SizeRootFs}}", "new"]).text();
    host.docker(["rmi", "-f", "busybox"]).success().says("Untagged: busybox:latest");
    host.docker(["image", "inspect", "busybox"]).failure();
    host.kill();
    host.up();
    for name in ["new", "old"] {
        assert_eq!(host.docker(["start", "-a", name]).text(), "alive", "{name}");
    }
    assert_eq!(host.docker(["inspect", "-s", "-f", "{{.SizeRootFs}}", "new"]).text(), before);
    host.docker(["rm", "new", "old"]).success();
    eventually("the layers to go", || {
        (fs::read_dir(host.path("data/image/layers")).unwrap().count() == 0).then_some(())
    });
}

#[test]
fn what_is_asked_of_a_container_that_ends_just_now_is_answered_all_the_same() {
    let host = host!();
    host.docker(["create", "--name", "brief", "busybox", "true"]).success();
    for round in 0..40 {
        host.ask("POST", "/containers/brief/start", None);
        for _ in 0..3 {
            host.ask("GET", "/containers/brief/archive?path=/none", None).is(404);
            let found = host.ask("GET", "/containers/brief/archive?path=/etc/passwd", None);
            assert_eq!(found.status, 200, "round {round}: {}", found.body);
        }
    }
}
