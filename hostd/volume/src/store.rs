//! Volumes on disk.

use crate::Volume;
use crate::copy::TreeCopy;
use crate::error::VolumeError;
use crate::image_tree::MergedDir;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const DRIVER: &str = "local";
const RECORD: &str = "volume.json";
const DATA: &str = "_data";
const NEW: &str = ".new-";
const GONE: &str = ".gone-";
/// A record is smaller than this, whatever labels it has.
const MAX_RECORD: u64 = 1 << 20;
/// Longest name of a file.
const MAX_NAME: usize = 255;

/// A volume that has left its place; what is not deleted goes at the next start.
#[derive(Debug)]
#[must_use]
pub struct Gone(PathBuf);

impl Gone {
    /// Deletes the files.
    pub fn delete(self) {
        delete(&self.0);
    }
}

/// The volumes of this host. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Volumes {
    root: PathBuf,
    /// Held while a volume is filled: the second container that uses it waits until it is.
    filling: Arc<Mutex<()>>,
    /// User and group that a new volume belongs to.
    owner: Option<(u32, u32)>,
}

impl Volumes {
    /// `<root>/<name>/_data` with its record beside it. Clears what a crash left half-made or half-deleted.
    pub fn open(root: &Path) -> Result<Self, VolumeError> {
        // Containers' users reach their volumes' files by the mount and need no way through here.
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o711);
        builder.create(root).map_err(io_error("make", root))?;
        let root = root.canonicalize().map_err(io_error("find", root))?;
        for entry in fs::read_dir(&root).map_err(io_error("read", &root))? {
            let path = entry.map_err(io_error("read", &root))?.path();
            if file_name(&path).starts_with(NEW) || file_name(&path).starts_with(GONE) {
                delete(&path);
            }
        }
        Ok(Self { root, filling: Arc::default(), owner: None })
    }

    /// From now on new volumes belong to this user and group: those who are root in containers, where they are others
    /// than on the host.
    #[must_use]
    pub fn owned_by(self, owner: Option<(u32, u32)>) -> Self {
        Self { owner, ..self }
    }

    /// The volume of that name, made when missing; `None` makes an anonymous one (64 hex digits).
    pub fn create(
        &self,
        name: Option<&str>,
        driver: &str,
        options: &BTreeMap<String, String>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Volume, VolumeError> {
        match name.filter(|name| !name.is_empty()) {
            Some(name) => self.make(name.to_owned(), false, driver, options, labels),
            None => self.make(random_name()?, true, driver, options, labels),
        }
    }

    /// An anonymous volume whose random name the caller has noted before, to find it again after a crash.
    pub fn create_anonymous(
        &self,
        name: &str,
        driver: &str,
        options: &BTreeMap<String, String>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Volume, VolumeError> {
        self.make(name.to_owned(), true, driver, options, labels)
    }

    fn make(
        &self,
        name: String,
        anonymous: bool,
        driver: &str,
        options: &BTreeMap<String, String>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Volume, VolumeError> {
        check_request(&name, driver, options)?;
        if let Some(volume) = self.read(&name)? {
            return Ok(volume);
        }
        let volume = Volume {
            mountpoint: self.root.join(&name).join(DATA),
            name,
            driver: DRIVER.into(),
            created_at: OffsetDateTime::now_utc().format(&Rfc3339).map_err(|e| {
                VolumeError::Invalid(format!("the clock of this host shows no date that can be written: {e}"))
            })?,
            labels: labels.clone(),
            options: BTreeMap::new(),
            anonymous,
        };
        self.write(volume)
    }

    /// The volume of that name.
    pub fn get(&self, name: &str) -> Result<Volume, VolumeError> {
        // A name that none can have is not looked up: it might be a path.
        let found = if name_fault(name).is_some() { None } else { self.read(name)? };
        found.ok_or_else(|| VolumeError::NotFound(name.to_owned()))
    }

    /// All volumes, by name. One whose record is damaged is left out with a warning.
    pub fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        let mut volumes = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(io_error("read", &self.root))? {
            let path = entry.map_err(io_error("read", &self.root))?.path();
            let name = file_name(&path);
            if name_fault(&name).is_some() {
                continue;
            }
            match self.read(&name) {
                Ok(volume) => volumes.extend(volume),
                Err(e) => tracing::warn!("leaving out volume {name}: {e}"),
            }
        }
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    /// Removes a volume and all that is in it. What cannot be deleted at once is tried again at the next start.
    pub fn remove(&self, name: &str) -> Result<(), VolumeError> {
        self.unlink(name).map(Gone::delete)
    }

    /// Takes a volume out of its place, which is quick; deleting what is in it may not be.
    pub fn unlink(&self, name: &str) -> Result<Gone, VolumeError> {
        if name_fault(name).is_some() {
            return Err(VolumeError::NotFound(name.to_owned()));
        }
        let path = self.root.join(name);
        let gone = self.root.join(format!("{GONE}{}", random_name()?));
        fs::rename(&path, &gone).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => VolumeError::NotFound(name.to_owned()),
            _ => VolumeError::Io { action: "remove", path, source: e },
        })?;
        self.sync_root()?;
        Ok(Gone(gone))
    }

    /// First use of an empty volume: copies what the image has at the mount path (files, owners, modes, xattrs)
    /// into it. `lower` are the image's layer directories, top first. On error the volume is as empty as before.
    pub fn populate(&self, volume: &Volume, lower: &[PathBuf], path: &str) -> Result<(), VolumeError> {
        let _filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        let data = self.get(&volume.name)?.mountpoint;
        let failed =
            |what: PathBuf, source| VolumeError::Populate { volume: volume.name.clone(), what, source };
        if !is_empty(&data).map_err(io_error("read", &data))? {
            return Ok(());
        }
        let tree = MergedDir::root(lower).and_then(|root| root.resolve(path));
        let Some(tree) = tree.map_err(|e| failed(path.into(), e))? else { return Ok(()) };

        let staging = self.staging()?;
        let copied = staging.path().join(DATA);
        make_dir(&copied)?;
        let target = File::open(&copied).map_err(io_error("open", &copied))?;
        TreeCopy::into(target.as_fd())
            .copy(&tree)
            .map_err(|(inside, e)| failed(Path::new(path).join(inside), e))?;
        move_entries(&copied, &data)?;
        copy_dir_attributes(&copied, &data).map_err(io_error("set owner and mode of", &data))
    }

    /// The record of `name`, which is a sound one.
    fn read(&self, name: &str) -> Result<Option<Volume>, VolumeError> {
        let path = self.root.join(name).join(RECORD);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(source) => return Err(VolumeError::Io { action: "open", path, source }),
        };
        let mut json = Vec::new();
        file.take(MAX_RECORD).read_to_end(&mut json).map_err(io_error("read", &path))?;
        let volume: Volume =
            serde_json::from_slice(&json).map_err(|source| VolumeError::Record { path, source })?;
        // The place it is in counts, not what the record says: the root may have been moved.
        Ok(Some(Volume { mountpoint: self.root.join(name).join(DATA), name: name.to_owned(), ..volume }))
    }

    /// Puts a volume in its place; the one that is there already, if another caller was first.
    fn write(&self, volume: Volume) -> Result<Volume, VolumeError> {
        let staging = self.staging()?;
        let data = staging.path().join(DATA);
        make_dir(&data)?;
        if let Some((uid, gid)) = self.owner {
            std::os::unix::fs::chown(&data, Some(uid), Some(gid))
                .map_err(io_error("set the owner of", &data))?;
        }
        let path = staging.path().join(RECORD);
        let json = serde_json::to_vec_pretty(&volume)
            .map_err(|source| VolumeError::Record { path: path.clone(), source })?;
        let write = || -> io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(&json)?;
            file.sync_all()?;
            fs::set_permissions(staging.path(), fs::Permissions::from_mode(0o711))?;
            File::open(staging.path())?.sync_all()
        };
        write().map_err(io_error("write", &path))?;

        let place = self.root.join(&volume.name);
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(rustix::fs::CWD, staging.path(), rustix::fs::CWD, &place, flags) {
            Ok(()) => {
                let _ = staging.keep(); // it is not there any more
                self.sync_root()?;
                Ok(volume)
            }
            Err(rustix::io::Errno::EXIST) => self.get(&volume.name),
            Err(e) => Err(VolumeError::Io { action: "make", path: place, source: e.into() }),
        }
    }

    fn staging(&self) -> Result<TempDir, VolumeError> {
        tempfile::Builder::new()
            .prefix(NEW)
            .tempdir_in(&self.root)
            .map_err(io_error("make a directory in", &self.root))
    }

    /// A rename is atomic but not durable before this.
    fn sync_root(&self) -> Result<(), VolumeError> {
        File::open(&self.root).and_then(|root| root.sync_all()).map_err(io_error("sync", &self.root))
    }
}

/// Refuses what `create` cannot do, in Docker's words.
fn check_request(name: &str, driver: &str, options: &BTreeMap<String, String>) -> Result<(), VolumeError> {
    let invalid = |reason: String| Err(VolumeError::Invalid(format!("create {name}: {reason}")));
    if let Some(fault) = name_fault(name) {
        return invalid(fault);
    }
    if !matches!(driver, "" | DRIVER) {
        return invalid(format!("error looking up volume plugin {driver}: plugin \"{driver}\" not found"));
    }
    match options.keys().next() {
        Some(option) if ["type", "o", "device", "size"].contains(&option.as_str()) => {
            invalid(format!("option \"{option}\" of volume driver \"local\" is not supported yet"))
        }
        Some(option) => invalid(format!("invalid option: \"{option}\"")),
        None => Ok(()),
    }
}

/// What is wrong with a name, if anything.
fn name_fault(name: &str) -> Option<String> {
    if name.len() == 1 {
        return Some("volume name is too short, names should be at least two alphanumeric characters".into());
    }
    let sound = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(sound) {
        return Some(format!(
            "\"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are \
             allowed. If you intended to pass a host directory, use absolute path"
        ));
    }
    (name.len() > MAX_NAME)
        .then(|| format!("volume name is too long, at most {MAX_NAME} characters are allowed"))
}

fn random_name() -> Result<String, VolumeError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| VolumeError::Io {
        action: "read",
        path: "/dev/urandom".into(),
        source: io::Error::other(e.to_string()),
    })?;
    Ok(hex::encode(bytes))
}

fn make_dir(path: &Path) -> Result<(), VolumeError> {
    fs::create_dir(path).map_err(io_error("make", path))?;
    // Whatever our umask is.
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(io_error("set the mode of", path))
}

fn is_empty(dir: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(dir)?.next().is_none())
}

/// Moves what is in `from` to `to`: no copying, so quick that nobody sees half of it. The directory `to` itself stays
/// the same one, since a container may have it mounted.
fn move_entries(from: &Path, to: &Path) -> Result<(), VolumeError> {
    for entry in fs::read_dir(from).map_err(io_error("read", from))? {
        let entry = entry.map_err(io_error("read", from))?;
        let place = to.join(entry.file_name());
        fs::rename(entry.path(), &place).map_err(io_error("make", &place))?;
    }
    Ok(())
}

fn copy_dir_attributes(from: &Path, to: &Path) -> io::Result<()> {
    crate::copy::copy_attributes(File::open(from)?.as_fd(), File::open(to)?.as_fd())
}

/// Deletes what is not part of any volume any more.
fn delete(path: &Path) {
    if let Err(e) = fs::remove_dir_all(path) {
        tracing::warn!("cannot delete {} yet: {e}", path.display());
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// An error about a path, for `map_err`.
fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { action, path, source }
}
