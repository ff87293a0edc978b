//! The store's directories, and the rules for writing into them.
//!
//! ```text
//! blobs/sha256/<hex>          configurations and manifests, named by their digest
//! images/<hex>.json           one per image: its layers and their sizes
//! repositories.json           names → images
//! layers/<chain-id>/diff      a layer's files: a `lowerdir` of the container's overlay
//! containers/<id>/            a writable layer: `diff`, `work`, and `lower.json` with the chain IDs below it
//! staging/<random>/           being written; emptied at start-up, never read
//! trash/<random>/             being deleted; emptied at start-up, never read
//! ```
//! Whatever becomes visible does so by one `rename(2)` out of `staging/`, and disappears by one into `trash/`. What an image
//! names is on the disk before the image is (`syncfs(2)`); what no image or container names is removed at start-up, so
//! that nothing that a crash left half-written is ever used.

use crate::digest::Digest;
use crate::error::ImageError;
use hostd_sys::idmap::IdMap;
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

/// The paths of one store. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    /// Who owns what users of images own.
    id_map: Option<Arc<IdMap>>,
    /// To the thread that deletes what is in the trash.
    trash: mpsc::Sender<PathBuf>,
}

impl Layout {
    /// Makes the directories, and empties staging and trash (in the background).
    pub(crate) fn open(root: &Path, id_map: Option<IdMap>) -> Result<Self, ImageError> {
        for name in ["blobs/sha256", "images", "layers", "containers", "staging", "trash"] {
            let dir = root.join(name);
            fs::create_dir_all(&dir).map_err(ImageError::io("make", &dir))?;
        }
        // Unpacked layers hold setuid files, which only containers may reach.
        let private = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o710);
        fs::set_permissions(root, private).map_err(ImageError::io("restrict", root))?;
        let (trash, doomed) = mpsc::channel();
        std::thread::Builder::new()
            .name("image-trash".into())
            .spawn(move || empty_trash(&doomed))
            .map_err(ImageError::stream("start the thread that empties the trash"))?;
        let layout = Self { root: root.to_owned(), id_map: id_map.map(Arc::new), trash };
        for name in ["staging", "trash"] {
            let dir = root.join(name);
            for child in fs::read_dir(&dir).map_err(ImageError::io("read", &dir))? {
                layout.discard(&child.map_err(ImageError::io("read", &dir))?.path())?;
            }
        }
        Ok(layout)
    }

    pub(crate) fn id_map(&self) -> Option<&IdMap> {
        self.id_map.as_deref()
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn image(&self, id: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    pub(crate) fn repositories(&self) -> PathBuf {
        self.root.join("repositories.json")
    }

    pub(crate) fn layer(&self, chain_id: &Digest) -> PathBuf {
        self.root.join("layers").join(chain_id.hex())
    }

    pub(crate) fn diff(&self, chain_id: &Digest) -> PathBuf {
        self.layer(chain_id).join("diff")
    }

    pub(crate) fn container(&self, key: &str) -> PathBuf {
        self.root.join("containers").join(key)
    }

    /// A new directory in staging, removed again unless it is committed.
    pub(crate) fn stage(&self) -> Result<Staging, ImageError> {
        let path = self.root.join("staging").join(random_name()?);
        fs::create_dir(&path).map_err(ImageError::io("make", &path))?;
        Ok(Staging { path, layout: self.clone(), committed: false })
    }

    /// Replaces a file so that a reader, and a crash at any instant, sees the old content or the new.
    pub(crate) fn write(&self, path: &Path, content: &[u8]) -> Result<(), ImageError> {
        let temporary = self.root.join("staging").join(random_name()?);
        let result = write_synced(&temporary, content)
            .map_err(ImageError::io("write", &temporary))
            .and_then(|()| fs::rename(&temporary, path).map_err(ImageError::io("write", path)));
        if result.is_err() {
            // It may not even exist; start-up removes it otherwise.
            let _ = fs::remove_file(&temporary);
        }
        result?;
        sync_dir(path.parent().unwrap_or(&self.root))
    }

    /// Keeps a small piece of content under its digest.
    pub(crate) fn write_blob(&self, digest: &Digest, content: &[u8]) -> Result<(), ImageError> {
        let path = self.blob(digest);
        if path.exists() { Ok(()) } else { self.write(&path, content) }
    }

    /// Makes `path` disappear at once, and deletes what it held behind. Succeeds when it is gone already.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), ImageError> {
        let doomed = self.root.join("trash").join(random_name()?);
        match fs::rename(path, &doomed) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(ImageError::io("remove", path)(source)),
        }
        // The thread outlives every store; if it did not, start-up would empty the trash.
        let _ = self.trash.send(doomed);
        Ok(())
    }

    /// Waits until everything that was written to the store's file system is on the disk.
    pub(crate) fn sync(&self) -> Result<(), ImageError> {
        let dir = open_dir(&self.root)?;
        rustix::fs::syncfs(&dir).map_err(ImageError::io("sync", &self.root))
    }
}

/// A directory in `staging/`.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    layout: Layout,
    committed: bool,
}

impl Staging {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory for a layer's files.
    pub(crate) fn make_diff(&self) -> Result<PathBuf, ImageError> {
        let diff = self.diff();
        fs::create_dir(&diff).map_err(ImageError::io("make", &diff))?;
        let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(&diff, mode).map_err(ImageError::io("make", &diff))?;
        if let Some((uid, gid)) = self.id_map().and_then(IdMap::root) {
            std::os::unix::fs::chown(&diff, Some(uid), Some(gid)).map_err(ImageError::io("make", &diff))?;
        }
        Ok(diff)
    }

    /// Who owns what users of images own.
    pub(crate) fn id_map(&self) -> Option<&IdMap> {
        self.layout.id_map()
    }

    pub(crate) fn diff(&self) -> PathBuf {
        self.path.join("diff")
    }

    /// Gives it its name. Where that is taken, the one who was first has the same content, and this one goes.
    pub(crate) fn commit(mut self, target: &Path) -> Result<(), ImageError> {
        match fs::rename(&self.path, target) {
            Ok(()) => self.committed = true,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
                ) => {}
            Err(source) => return Err(ImageError::io("commit", target)(source)),
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = self.layout.discard(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "staging directory stays until the next start");
        }
    }
}

fn empty_trash(doomed: &mpsc::Receiver<PathBuf>) {
    for path in doomed {
        let removed = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "cannot empty the trash");
        }
    }
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

pub(crate) fn sync_dir(path: &Path) -> Result<(), ImageError> {
    // rename(2) is atomic but not durable: without this, a power cut may lose the file while others name it.
    rustix::fs::fsync(open_dir(path)?).map_err(ImageError::io("sync", path))
}

fn open_dir(path: &Path) -> Result<std::os::fd::OwnedFd, ImageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(ImageError::io("open", path))
}

fn random_name() -> Result<String, ImageError> {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).map_err(|error| ImageError::Other(format!("no random numbers: {error}")))?;
    Ok(hex::encode(bytes))
}
