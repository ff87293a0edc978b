//! Loading archives, honest and hostile ones.

mod common;

use common::*;
use hostd_image::{ContainerConfig, ErrorKind, ImageError};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

fn base() -> Vec<u8> {
    Tar::new()
        .dir("bin/")
        .raw(tar::EntryType::Regular, "bin/sh", "", 0o4755, b"#!")
        .hardlink("bin/ash", "bin/sh")
        .dir("usr/")
        .symlink("usr/bin", "/bin")
        .file("usr/bin/through-link", "x")
        .dir("etc/")
        .file("etc/passwd", "root")
        .raw(tar::EntryType::Fifo, "fifo", "", 0o600, b"")
        .done()
}

fn top() -> Vec<u8> {
    Tar::new().dir("etc/").file("etc/.wh.passwd", "").dir("usr/").file("usr/.wh..wh..opq", "").done()
}

#[tokio::test]
async fn a_docker_archive_loads_and_its_layers_are_ready_for_overlay() {
    if !is_root() {
        return;
    }
    let test = TestStore::new().await;
    let loaded = test.load(docker_archive(&[&base(), &top()], &["busybox:1", "busybox:2"])).await.unwrap();
    assert_eq!(loaded[0].repo_tags, ["busybox:1", "busybox:2"]);
    let image = test.store.get("busybox:1").unwrap();
    assert_eq!(image.size, 2 + 1 + 4);
    assert_eq!(image.history.iter().map(|step| step.size).collect::<Vec<_>>(), [7, 0, 0]);
    let (top, base) = (&image.layers[0], &image.layers[1]);
    let sh = std::fs::metadata(base.join("bin/sh")).unwrap();
    assert_eq!((sh.mode() & 0o7777, sh.nlink(), sh.mtime()), (0o4755, 2, 1_600_000_000));
    // The symlink means the layer's own /bin, and not the machine's.
    assert!(base.join("bin/through-link").exists());
    assert!(std::fs::symlink_metadata(base.join("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(std::fs::metadata(base.join("bin")).unwrap().mtime(), 1_600_000_000);
    let whiteout = std::fs::symlink_metadata(top.join("etc/passwd")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let mut value = [0; 8];
    let n = rustix::fs::lgetxattr(top.join("usr"), "trusted.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..n], b"y");
}

#[tokio::test]
async fn a_snapshot_is_the_same_again_and_keeps_its_layers_until_it_goes() {
    if !is_root() {
        return;
    }
    let test = TestStore::new().await;
    test.load(docker_archive(&[&base()], &["busybox:1"])).await.unwrap();
    let snapshot = test.store.snapshot("c1", "busybox:1").unwrap();
    assert!(snapshot.upper.is_dir() && snapshot.work.is_dir() && snapshot.lower[0].is_dir());
    std::fs::write(snapshot.upper.join("kept"), "x").unwrap();
    assert!(test.store.snapshot("c1", "busybox:1").unwrap().upper.join("kept").exists());
    let gone = test.store.remove("busybox:1", true, true, &|_| vec![("c1".into(), false)]).await.unwrap();
    assert_eq!(gone.len(), 2, "{gone:?}");
    assert!(snapshot.lower[0].is_dir(), "the layer stays for its container");
    test.store.remove_snapshot("c1").unwrap();
    test.store.remove_snapshot("c1").unwrap();
    assert!(!snapshot.lower[0].exists());
    assert!(test.store.snapshots().unwrap().is_empty());
    assert!(test.store.snapshot("../x", "busybox:1").is_err());
}

/// An OCI layout with one image, named by `annotation`.
fn oci_layout(annotation: &str, name: &str, lie: bool) -> Vec<u8> {
    let layer = base();
    let compressed = gzip(&layer);
    let config = config(&[&layer], "amd64");
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", &sha256(bytes)[7..]);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(&config), "size": 1},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": sha256(&compressed), "size": 1}],
    })
    .to_string();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": sha256(manifest.as_bytes()),
                       "size": 1, "annotations": {annotation: name}}],
    });
    let stored = if lie { gzip(&top()) } else { compressed.clone() };
    Tar::new()
        .file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", index.to_string())
        .file(&blob(manifest.as_bytes()), &manifest)
        .file(&blob(&config), &config)
        .file(&blob(&compressed), stored)
        .done()
}

#[tokio::test]
async fn an_oci_layout_loads_by_either_annotation_and_compressed() {
    if !is_root() {
        return;
    }
    for (annotation, name) in [
        ("io.containerd.image.name", "docker.io/library/app:1"),
        ("org.opencontainers.image.ref.name", "app:1"),
    ] {
        let plain = oci_layout(annotation, name, false);
        for archive in [plain.clone(), gzip(&plain), zstd::encode_all(&plain[..], 1).unwrap()] {
            let test = TestStore::new().await;
            assert_eq!(test.load(archive).await.unwrap()[0].repo_tags, ["app:1"]);
            assert!(test.store.get("app:1").unwrap().layers[0].join("bin/sh").exists());
        }
    }
    let test = TestStore::new().await;
    let error = test.load(oci_layout("x", "y", true)).await.unwrap_err();
    assert!(matches!(error, ImageError::WrongDigest { .. }), "{}", chain(&error));
    test.assert_empty();
}

#[tokio::test]
async fn the_same_layer_twice_and_layers_that_are_links_load() {
    if !is_root() {
        return;
    }
    let layer = Tar::new().dir("same/").file("same/x", vec![7; 10_000]).done();
    let empty = vec![0; 1024];
    let config = config(&[&layer, &layer, &empty, &empty], "amd64");
    let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": ["twice:1"],
        "Layers": ["a/layer.tar", "b/layer.tar", "empty.tar", "empty.tar"]}]);
    let archive = Tar::new()
        .file("a/layer.tar", &layer)
        .symlink("b/layer.tar", "../a/layer.tar")
        .file("empty.tar", &empty)
        .file("c.json", config)
        .file("manifest.json", manifest.to_string())
        .done();
    let test = TestStore::new().await;
    let image = &test.load(archive.clone()).await.unwrap()[0];
    assert_eq!(image.layers.len(), 4);
    for dir in &image.layers[2..] {
        assert_eq!(std::fs::read(dir.join("same/x")).unwrap().len(), 10_000);
        assert_eq!(std::fs::metadata(dir.join("same")).unwrap().mtime(), 1_600_000_000);
    }
    // Again, onto what is there.
    assert_eq!(test.load(archive).await.unwrap()[0].id, image.id);
    assert_eq!(test.files("layers").len(), 4);
}

#[tokio::test]
async fn hostile_archives_are_refused_and_leave_nothing() {
    if !is_root() {
        return;
    }
    let layer = base();
    let manifest = |layer: &str| {
        serde_json::json!([{"Config": "c.json", "RepoTags": ["x:1"], "Layers": [layer]}]).to_string()
    };
    let big = || vec![b'#'; 10_000];
    let with = |tar: Tar| {
        tar.file("c.json", config(&[&base()], "amd64")).file("manifest.json", manifest("l.tar")).done()
    };
    let whole = docker_archive(&[&layer], &["x:1"]);
    for (archive, words) in [
        (with(Tar::new().file("../l.tar", &layer)), "leads out"),
        (with(Tar::new().file("/l.tar", &layer)), "absolute path"),
        (with(Tar::new().symlink("l.tar", "../../etc/passwd")), "leads out"),
        (with(Tar::new().symlink("l.tar", "/etc/passwd")), "absolute path"),
        (with(Tar::new().hardlink("l.tar", "../../etc/passwd")), "leads out"),
        (with(Tar::new().symlink("l.tar", "l.tar")), "too many links"),
        (with(Tar::new()), "it has no l.tar"),
        (with(Tar::new().file("l.tar", top())), "expected digest"),
        (with(Tar::new().file("l.tar", big())), "not a tar"),
        (with(Tar::new().file("l.tar", gzip(&big()))), "invalid tar header"),
        (with(Tar::new().file("l.tar", &gzip(&layer)[..200])), "truncated"),
        (with(Tar::new().raw(tar::EntryType::Char, "l.tar", "", 0o600, b"")), "no such entries"),
        (Tar::new().file("manifest.json", "[]").done(), "names no image"),
        (Tar::new().file("manifest.json", "{").done(), "malformed manifest.json"),
        (Tar::new().file("readme", "x").done(), "neither a manifest.json nor an index.json"),
        (Tar::new().file("manifest.json", r#"[{"Config":"../x","Layers":[]}]"#).done(), "it has no ../x"),
        (b"this is not an archive".to_vec(), "invalid tar header"),
        (Vec::new(), "empty"),
        (whole[..whole.len() / 3].to_vec(), "truncated"),
    ] {
        let test = TestStore::new().await;
        let error = test.load(archive).await.unwrap_err();
        assert!(chain(&error).contains(words), "{} lacks {words:?}", chain(&error));
        assert_eq!(test.files("staging"), Vec::<std::path::PathBuf>::new());
        test.assert_empty();
    }
}

#[tokio::test]
async fn entries_of_a_layer_cannot_lead_out_of_it() {
    if !is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    for (layer, words) in [
        (Tar::new().file("../../x", "x"), "leads out"),
        (Tar::new().hardlink("x", "../../../etc/passwd"), "leads out"),
        (Tar::new().symlink("a", "../../../etc"), "invalid symlink"),
        (Tar::new().file(".wh...", ""), "names no file"),
        (Tar::new().file("a/.wh.", ""), "names no file"),
        (Tar::new().hardlink("x", "/etc/passwd"), "No such file"),
        (Tar::new().pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/")]).dir("x/"), "overlay's own"),
        (Tar::new().raw(tar::EntryType::new(b'S'), "s", "", 0o644, b""), "sparse"),
    ] {
        let test = TestStore::new().await;
        let error = test.load(docker_archive(&[&layer.done()], &["x:1"])).await.unwrap_err();
        assert!(chain(&error).contains(words), "{} lacks {words:?}", chain(&error));
        test.assert_empty();
    }
    // Absolute names and links mean the layer's own root.
    let layer =
        Tar::new().dir(&target[1..]).symlink("out", target).file("out/x", "in").file("/abs", "in").done();
    let test = TestStore::new().await;
    let image = &test.load(docker_archive(&[&layer], &["x:1"])).await.unwrap()[0];
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(image.layers[0].join(&target[1..]).join("x").exists() && image.layers[0].join("abs").exists());
}

#[tokio::test]
async fn attributes_times_and_replaced_entries_come_out_as_they_stand() {
    if !is_root() {
        return;
    }
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = Tar::new()
        .pax(&[("SCHILY.xattr.security.capability", &capability), ("mtime", b"1600000000.123456789")])
        .raw(tar::EntryType::Regular, "ping", "", 0o4755, b"x")
        .file("twice", "one")
        .symlink("twice", "ping")
        .file(".wh.dir", "")
        .dir("dir/")
        .dir("gone/")
        .file("gone/x", "x")
        .file("gone", "a file now")
        .done();
    let test = TestStore::new().await;
    let image = &test.load(docker_archive(&[&layer], &["x:1"])).await.unwrap()[0];
    let root = &image.layers[0];
    let meta = std::fs::metadata(root.join("ping")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime_nsec()), (0o4755, 123_456_789));
    let mut value = [0; 64];
    let n = rustix::fs::lgetxattr(root.join("ping"), "security.capability", &mut value[..]).unwrap();
    assert_eq!(&value[..n], capability);
    assert_eq!(std::fs::read_link(root.join("twice")).unwrap().to_str(), Some("ping"));
    assert_eq!(std::fs::read(root.join("gone")).unwrap(), b"a file now");
    // A directory in the place of one that it hides.
    let n = rustix::fs::lgetxattr(root.join("dir"), "trusted.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..n], b"y");
}

#[tokio::test]
async fn an_import_makes_an_image_of_one_layer() {
    if !is_root() {
        return;
    }
    let test = TestStore::new().await;
    let config = ContainerConfig { cmd: Some(vec!["/bin/sh".into()]), ..ContainerConfig::default() };
    let reference = "imported:1".parse().unwrap();
    let rootfs = std::io::Cursor::new(gzip(&base()));
    let image = test.store.import(rootfs, Some(&reference), config.clone(), "by hand").await.unwrap();
    assert_eq!(
        (image.repo_tags, image.config, image.comment),
        (vec!["imported:1".to_owned()], config, "by hand".into())
    );
    assert!(image.layers[0].join("bin/sh").exists());
    let error = test.store.import(&b"junk"[..], None, ContainerConfig::default(), "").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn an_archive_of_nothing_but_names_is_refused() {
    let (name, target) = ("n/".repeat(2000), "t/".repeat(2000));
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..8600 {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("{number}/{name}x"), format!("{target}x")).unwrap();
    }
    let test = TestStore::new().await;
    let error = test.load(tar.into_inner().unwrap()).await.unwrap_err();
    assert!(chain(&error).contains("the names in it"), "{}", chain(&error));
    test.assert_empty();
}
