//! Volumes on a real filesystem, filled from real layer directories.
#![allow(clippy::unwrap_used)] // helpers fail a test as the tests themselves do

use hostd_volume::{Volume, VolumeErrorKind, Volumes};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid, XattrFlags};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};

fn none() -> BTreeMap<String, String> {
    BTreeMap::new()
}

fn map(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

fn make(volumes: &Volumes, name: &str) -> Volume {
    volumes.create(Some(name), "local", &none(), &none()).unwrap()
}

/// Names in a volume store, those of no volume included.
fn entries(root: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_volume_is_made_once_and_found_again_after_a_restart() {
    let root = tempdir().unwrap();
    let volumes = Volumes::open(root.path()).unwrap();
    let made = volumes.create(Some("data"), "", &none(), &map("a", "b")).unwrap();
    assert_eq!((made.driver.as_str(), made.anonymous), ("local", false));
    assert!(made.mountpoint.ends_with("data/_data") && made.mountpoint.is_dir());
    fs::write(made.mountpoint.join("file"), "kept").unwrap();
    assert_eq!(volumes.create(Some("data"), "local", &none(), &none()).unwrap(), made);

    let anonymous = volumes.create(None, "local", &none(), &none()).unwrap();
    assert!(anonymous.anonymous && anonymous.name.len() == 64);

    let again = Volumes::open(root.path()).unwrap();
    assert_eq!(again.get("data").unwrap(), made);
    assert_eq!(again.list().unwrap().len(), 2);
    assert_eq!(fs::read_to_string(made.mountpoint.join("file")).unwrap(), "kept");
}

#[test]
fn what_cannot_be_made_is_refused_in_dockers_words() {
    let root = tempdir().unwrap();
    let volumes = Volumes::open(root.path()).unwrap();
    let refused = |name: &str, driver: &str, options: &BTreeMap<String, String>| {
        let error = volumes.create(Some(name), driver, options, &none()).unwrap_err();
        assert_eq!(error.kind(), VolumeErrorKind::Invalid);
        error.to_string()
    };
    for name in ["x/y", "../x", "..", ".hidden", "a b", "-x", "ü1"] {
        assert_eq!(
            refused(name, "local", &none()),
            format!(
                "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            )
        );
    }
    assert!(refused("a", "local", &none()).contains("too short"));
    assert!(refused(&"a".repeat(256), "local", &none()).contains("too long"));
    assert_eq!(
        refused("data", "nfs", &none()),
        "create data: error looking up volume plugin nfs: plugin \"nfs\" not found"
    );
    assert!(refused("data", "local", &map("type", "tmpfs")).contains("\"type\""));
    assert_eq!(refused("data", "local", &map("colour", "red")), "create data: invalid option: \"colour\"");
    assert!(entries(root.path()).is_empty());
}

#[test]
fn removing_takes_the_volume_and_only_that() {
    let root = tempdir().unwrap();
    let volumes = Volumes::open(root.path()).unwrap();
    let volume = make(&volumes, "data");
    let outside = tempdir().unwrap();
    fs::write(outside.path().join("precious"), "").unwrap();
    symlink(outside.path(), volume.mountpoint.join("link")).unwrap();
    volumes.remove("data").unwrap();
    assert!(entries(root.path()).is_empty());
    assert!(outside.path().join("precious").exists());
    for name in ["data", "../data", ".", ""] {
        let error = volumes.remove(name).unwrap_err();
        assert_eq!(error.to_string(), format!("get {name}: no such volume"));
        assert_eq!(volumes.get(name).unwrap_err().kind(), VolumeErrorKind::NotFound);
    }
}

#[test]
fn what_a_crash_left_is_cleared_and_a_bad_record_breaks_no_other() {
    let root = tempdir().unwrap();
    let volumes = Volumes::open(root.path()).unwrap();
    make(&volumes, "good");
    make(&volumes, "bad");
    fs::write(root.path().join("bad/volume.json"), "{\"name\":").unwrap();
    fs::create_dir_all(root.path().join(".new-1/_data")).unwrap();
    fs::create_dir_all(root.path().join(".gone-1/_data")).unwrap();
    let volumes = Volumes::open(root.path()).unwrap();
    assert_eq!(entries(root.path()), ["bad", "good"]);
    let names: Vec<_> = volumes.list().unwrap().into_iter().map(|volume| volume.name).collect();
    assert_eq!(names, ["good"]);
    assert!(volumes.get("bad").unwrap_err().to_string().starts_with("cannot understand the volume record"));
}

#[test]
fn many_who_create_the_same_volume_get_the_same_one() {
    let root = tempdir().unwrap();
    let volumes = Volumes::open(root.path()).unwrap();
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| make(&volumes, "data"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(made.iter().all(|volume| volume == &made[0]));
    assert_eq!(entries(root.path()), ["data"]);
}

/// An image of some layers and a volume to fill from it.
struct Image {
    dir: TempDir,
    layers: Vec<PathBuf>,
    volumes: Volumes,
    volume: Volume,
}

impl Image {
    /// `None`, with the reason printed, where the tests cannot run.
    fn new(layers: usize) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let dir = tempdir().unwrap();
        let layers: Vec<_> = (0..layers).map(|n| dir.path().join(format!("layer{n}"))).collect();
        for layer in &layers {
            fs::create_dir(layer).unwrap();
        }
        let volumes = Volumes::open(&dir.path().join("volumes")).unwrap();
        let volume = make(&volumes, "data");
        Some(Self { dir, layers, volumes, volume })
    }

    /// Writes a file of layer `n` (0 is the topmost).
    fn file(&self, n: usize, path: &str, content: &str) -> PathBuf {
        let file = self.layers[n].join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, content).unwrap();
        file
    }

    fn whiteout(&self, n: usize, path: &str) {
        let file = self.layers[n].join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        rustix::fs::mknodat(CWD, file, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    fn populate(&self, path: &str) -> Result<(), hostd_volume::VolumeError> {
        self.volumes.populate(&self.volume, &self.layers, path)
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.volume.mountpoint.join(path)).ok()
    }

    fn names(&self, path: &str) -> Vec<String> {
        entries(&self.volume.mountpoint.join(path))
    }
}

#[test]
fn an_empty_volume_is_filled_with_what_the_image_shows_there() {
    let Some(image) = Image::new(3) else { return };
    image.file(2, "srv/www/old", "bottom");
    image.file(2, "srv/www/deleted", "bottom");
    image.file(2, "srv/www/sub/hidden", "bottom");
    image.file(2, "srv/www/kind/inner", "bottom");
    image.file(1, "srv/www/old", "middle");
    image.file(1, "srv/www/kind", "a file now");
    image.file(0, "srv/www/sub/new", "top");
    image.whiteout(0, "srv/www/deleted");
    let opaque = image.layers[0].join("srv/www/sub");
    rustix::fs::setxattr(&opaque, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();

    image.populate("/srv/www").unwrap();
    assert_eq!(image.names(""), ["kind", "old", "sub"]);
    assert_eq!(image.names("sub"), ["new"]);
    assert_eq!(image.read("old").as_deref(), Some("middle"));
    assert_eq!(image.read("kind").as_deref(), Some("a file now"));
    assert_eq!(entries(&image.dir.path().join("volumes")), ["data"]);
    let mut value = [0; 8];
    let marks =
        rustix::fs::getxattr(image.volume.mountpoint.join("sub"), "trusted.overlay.opaque", &mut value[..]);
    assert!(marks.is_err(), "a layer's mark is no part of the file");
}

#[test]
fn owners_modes_links_and_attributes_are_kept() {
    let Some(image) = Image::new(1) else { return };
    let file = image.file(0, "data/bin/tool", "#!");
    rustix::fs::setxattr(&file, "user.note", b"hello", XattrFlags::empty()).unwrap();
    rustix::fs::chown(&file, Some(Uid::from_raw(1234)), Some(Gid::from_raw(5678))).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(&file, image.layers[0].join("data/same")).unwrap();
    let link = image.layers[0].join("data/link");
    symlink("/etc/passwd", &link).unwrap();
    rustix::fs::chownat(CWD, &link, Some(Uid::from_raw(7)), None, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    rustix::fs::mknodat(CWD, image.layers[0].join("data/pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let dir = image.layers[0].join("data");
    rustix::fs::chown(&dir, Some(Uid::from_raw(42)), None).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1770)).unwrap();

    let before = fs::metadata(&image.volume.mountpoint).unwrap().ino();
    image.populate("data/").unwrap();
    let data = &image.volume.mountpoint;
    let tool = fs::metadata(data.join("bin/tool")).unwrap();
    assert_eq!((tool.uid(), tool.gid(), tool.mode() & 0o7777, tool.nlink()), (1234, 5678, 0o4755, 2));
    assert_eq!(tool.mtime(), fs::metadata(&file).unwrap().mtime());
    assert_eq!(fs::metadata(data.join("same")).unwrap().ino(), tool.ino());
    let mut value = [0; 8];
    assert_eq!(rustix::fs::getxattr(data.join("bin/tool"), "user.note", &mut value[..]), Ok(5));
    assert_eq!(fs::read_link(data.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::symlink_metadata(data.join("link")).unwrap().uid(), 7);
    assert_eq!(fs::symlink_metadata(data.join("pipe")).unwrap().mode() & 0o777, 0o400);
    let root = fs::metadata(data).unwrap();
    assert_eq!((root.uid(), root.mode() & 0o7777, root.ino()), (42, 0o1770, before));
}

#[test]
fn links_in_the_mount_path_lead_inside_the_image_and_never_out_of_it() {
    let Some(image) = Image::new(2) else { return };
    let outside = image.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "").unwrap();
    image.file(1, "srv/real/page", "found");
    let link = |target: &str, name: &str| symlink(target, image.layers[0].join(name)).unwrap();
    link("/srv/../../../srv/real", "www");
    link(outside.to_str().unwrap(), "escape");
    link("../../../../../../../../../..", "up");
    link("loop", "loop");

    for nowhere in ["/escape", "/loop", "/missing/dir", &format!("/up{}", outside.display())] {
        image.populate(nowhere).unwrap();
        assert!(image.names("").is_empty(), "{nowhere}");
    }
    image.populate("/www").unwrap();
    assert_eq!(image.read("page").as_deref(), Some("found"));
}

#[test]
fn a_volume_with_content_is_left_alone() {
    let Some(image) = Image::new(1) else { return };
    image.file(0, "data/from-image", "");
    fs::write(image.volume.mountpoint.join("mine"), "").unwrap();
    image.populate("/data").unwrap();
    assert_eq!(image.names(""), ["mine"]);
    image.volumes.remove("data").unwrap();
    assert_eq!(image.populate("/data").unwrap_err().kind(), VolumeErrorKind::NotFound);
}

#[test]
fn a_copy_that_fails_names_the_file_and_leaves_the_volume_empty() {
    let Some(image) = Image::new(1) else { return };
    image.file(0, "data/fine", "");
    let deep = (0..300).map(|_| "d").collect::<Vec<_>>().join("/");
    image.file(0, &format!("data/{deep}/end"), "");
    let error = image.populate("/data").unwrap_err();
    assert!(error.to_string().starts_with("cannot copy /data/d/d"), "{error}");
    assert!(image.names("").is_empty());
    assert_eq!(entries(&image.dir.path().join("volumes")), ["data"]);
}
