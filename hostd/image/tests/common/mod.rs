//! What the tests share: a store on a temporary root, and images made on the spot.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test binary uses its part.

use hostd_image::{Image, ImageError, ImageStore, ImageStoreConfig, Progress};
use sha2::Digest as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Whiteouts are devices and opaque marks trusted attributes: without root, a test can only say so.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: unpacking layers needs root");
    }
    root
}

pub struct TestStore {
    pub dir: tempfile::TempDir,
    pub store: ImageStore,
}

impl TestStore {
    pub async fn new() -> Self {
        Self::with(ImageStoreConfig::default()).await
    }

    pub async fn with(config: ImageStoreConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path(), config).await.unwrap();
        Self { dir, store }
    }

    pub async fn load(&self, archive: Vec<u8>) -> Result<Vec<Image>, ImageError> {
        let (tx, _rx) = mpsc::channel(64);
        self.store.load(std::io::Cursor::new(archive), tx).await
    }

    /// What lies under one of the store's directories.
    pub fn files(&self, dir: &str) -> Vec<PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(self.dir.path().join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
    }

    /// Fails unless a refused image left nothing behind.
    pub fn assert_empty(&self) {
        for dir in ["layers", "images", "blobs/sha256", "staging"] {
            assert_eq!(self.files(dir), Vec::<PathBuf>::new(), "{dir} is not empty");
        }
        assert!(self.store.list().unwrap().is_empty());
    }
}

/// A channel that takes all progress of a test's pull.
pub fn progress() -> (mpsc::Sender<Progress>, mpsc::Receiver<Progress>) {
    mpsc::channel(100_000)
}

pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// The whole chain of an error, as a person would see it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Makes tars, honest or not.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Default for Tar {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    /// An entry whose name and target are taken as they are.
    pub fn raw(mut self, kind: tar::EntryType, name: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(data.len() as u64);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub fn file(self, name: &str, data: impl AsRef<[u8]>) -> Self {
        self.raw(tar::EntryType::Regular, name, "", 0o644, data.as_ref())
    }

    pub fn dir(self, name: &str) -> Self {
        self.raw(tar::EntryType::Directory, name, "", 0o755, b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(tar::EntryType::Symlink, name, target, 0o777, b"")
    }

    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(tar::EntryType::Link, name, target, 0o644, b"")
    }

    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image's configuration over these layers (uncompressed tars).
pub fn config(layers: &[&[u8]], architecture: &str) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
    let mut history: Vec<_> = layers
        .iter()
        .map(|_| serde_json::json!({"created": "2024-01-02T03:04:05Z", "created_by": "COPY"}))
        .collect();
    history.push(serde_json::json!({"created_by": "CMD [\"/bin/sh\"]", "empty_layer": true}));
    serde_json::to_vec(&serde_json::json!({
        "architecture": architecture, "os": "linux", "created": "2024-01-02T03:04:05.123456789Z",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Entrypoint": null},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
    }))
    .unwrap()
}

/// A docker-archive as `docker save` wrote it for long: `manifest.json` at the end.
pub fn docker_archive(layers: &[&[u8]], tags: &[&str]) -> Vec<u8> {
    let config = config(layers, "amd64");
    let id = sha256(&config).replace("sha256:", "");
    let mut tar = Tar::new();
    let mut names = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let name = format!("{i:064}/layer.tar");
        tar = tar.dir(&format!("{i:064}/")).file(&name, layer);
        names.push(name);
    }
    let manifest = serde_json::json!([{"Config": format!("{id}.json"), "RepoTags": tags, "Layers": names}]);
    tar.file(&format!("{id}.json"), config).file("manifest.json", manifest.to_string()).done()
}

pub fn mode(path: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::mode(&std::fs::symlink_metadata(path).unwrap())
}
