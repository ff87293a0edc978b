//! Bind mounts, volumes, tmpfs.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::host;
use std::fs;

#[test]
fn a_bind_mount_shows_the_hosts_folder_both_ways() {
    let host = host!();
    let dir = host.path("shared");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("from-host"), "1").unwrap();
    let bind = format!("{}:/data", dir.display());
    host.docker([
        "run",
        "--rm",
        "-v",
        &bind,
        "busybox",
        "sh",
        "-c",
        "cat /data/from-host; echo 2 > /data/from-container",
    ])
    .success()
    .says("1");
    assert_eq!(fs::read_to_string(dir.join("from-container")).unwrap(), "2\n");
    host.docker(["run", "--rm", "-v", &format!("{bind}:ro"), "busybox", "touch", "/data/x"])
        .failure()
        .says("Read-only file system");
    host.docker(["run", "--rm", "-v", "relative/path:/data", "busybox", "true"]).exits(125);
    let missing = host.path("not-there");
    host.docker([
        "run",
        "--rm",
        "--mount",
        &format!("type=bind,src={},dst=/x", missing.display()),
        "busybox",
        "true",
    ])
    .exits(125)
    .says("bind source path does not exist");
}

#[test]
fn a_named_volume_outlives_its_containers_and_starts_as_the_images_folder() {
    let host = host!();
    host.docker([
        "run",
        "--rm",
        "-v",
        "store:/etc",
        "busybox",
        "sh",
        "-c",
        "grep -q root /etc/passwd && echo kept > /etc/mark",
    ])
    .success();
    host.docker(["run", "--rm", "-v", "store:/data", "busybox", "cat", "/data/mark"]).says("kept");
    host.docker(["run", "--rm", "-v", "bad/name:/x", "busybox", "true"]).exits(125);
}

#[test]
fn anonymous_volumes_go_with_rm_and_stay_without() {
    let host = host!();
    // By the API, not by the directory: what was removed may still be on its way out of that.
    let count = || host.docker(["volume", "ls", "-q"]).text().lines().count();
    host.docker(["run", "--rm", "-v", "/data", "busybox", "touch", "/data/x"]).success();
    assert_eq!(count(), 0, "--rm takes it along");
    host.docker(["run", "--name", "box", "-v", "/data", "busybox", "true"]).success();
    host.docker(["rm", "box"]).success();
    assert_eq!(count(), 1, "a plain rm leaves it");
}

#[test]
fn a_mount_cannot_be_led_out_of_the_rootfs_by_a_link() {
    let host = host!();
    let victim = host.path("victim");
    fs::create_dir(&victim).unwrap();
    // The container's own rootfs has the link when it starts the second time.
    let script = format!("[ -e /l ] || ln -s {} /l; rm -rf /mnt; ln -s {0} /mnt", victim.display());
    host.docker(["create", "--name", "box", "--tmpfs", "/mnt/inner", "busybox", "sh", "-c", &script])
        .success();
    drop(host.docker(["start", "-a", "box"]));
    drop(host.docker(["start", "-a", "box"]));
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "a mount point was made outside");
}

#[test]
fn volumes_are_made_listed_inspected_and_removed() {
    let host = host!();
    host.docker(["volume", "create", "--label", "app=shop", "data"]).says("data");
    host.docker(["volume", "create", "data"]).says("data");
    host.docker(["volume", "create", "other"]).success();
    assert_eq!(host.docker(["volume", "ls", "-q", "--filter", "label=app=shop"]).text(), "data");
    assert_eq!(
        host.docker(["volume", "inspect", "-f", "{{.Driver}} {{.Scope}}", "data"]).text(),
        "local local"
    );
    let place = host.docker(["volume", "inspect", "-f", "{{.Mountpoint}}", "data"]).text();
    assert!(std::path::Path::new(&place).is_dir());
    host.docker(["volume", "rm", "data"]).says("data");
    assert!(!std::path::Path::new(&place).exists());
    host.docker(["volume", "rm", "data"]).failure().says("get data: no such volume");
    host.docker(["volume", "rm", "-f", "data"]).success();
    host.docker(["volume", "inspect", "../containers"]).failure();
    host.docker(["volume", "create", "-d", "nfs", "x1"]).failure().says("nfs");
    host.docker(["volume", "create", "-o", "type=tmpfs", "x1"]).failure().says("\"type\"");
    assert_eq!(host.docker(["volume", "ls", "-q"]).text(), "other");
}

#[test]
fn a_volume_in_use_is_not_removed_and_names_its_container() {
    let host = host!();
    let id =
        host.docker(["create", "--name", "box", "-v", "data:/d", "-v", "/anon", "busybox", "true"]).text();
    host.docker(["volume", "rm", "data"]).failure().says(&format!("remove data: volume is in use - [{id}]"));
    host.docker(["volume", "prune", "-af"]).lacks("data");
    assert_eq!(host.docker(["volume", "ls", "-q"]).text().lines().count(), 2);
    host.docker(["system", "df", "-v"]).success().says("data");
    host.docker(["rm", "box"]).success();
    // Without `-a`, only those without a name.
    host.docker(["volume", "prune", "-f"]).success().lacks("data");
    assert_eq!(host.docker(["volume", "ls", "-q"]).text(), "data");
    host.docker(["volume", "prune", "-af"]).says("data");
    assert_eq!(host.docker(["volume", "ls", "-q"]).text(), "");
}
