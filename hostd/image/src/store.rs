//! The store's face: finding, naming and registering images, and writable layers on top of them.

use crate::diff::Change;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::index::{ImageFile, Index, LayerRecord, record};
use crate::layer::{Unpacked, clone_layer};
use crate::layout::Layout;
use crate::manifest::ImageConfig;
use crate::model::{Image, ImageStoreConfig, Snapshot};
use crate::reference::Reference;
use crate::registry::Registries;
use hostd_sys::idmap::IdMap;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Every image of this machine. Cheap to clone.
#[derive(Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) layout: Layout,
    pub(crate) registries: Registries,
    index: RwLock<Index>,
    /// Held by whoever changes names or images, from the decision until it is on the disk. Readers do not wait for it.
    changes: Mutex<()>,
    /// Layers that are being pulled, by chain ID: a second pull of the same waits for the first and shares its work.
    pub(crate) pulling: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

impl ImageStore {
    /// Opens or makes the store; what a crash left in `staging/` goes.
    pub async fn open(root: &Path, config: ImageStoreConfig) -> Result<Self, ImageError> {
        let root = std::path::absolute(root).map_err(ImageError::io("find", root))?;
        let id_map = config.id_map.clone();
        let registries = Registries::new(config);
        blocking(move || {
            let layout = Layout::open(&root, id_map)?;
            let index = RwLock::new(Index::read(&layout)?);
            let (changes, pulling) = (Mutex::default(), Mutex::default());
            Ok(Self { inner: Arc::new(Inner { layout, registries, index, changes, pulling }) })
        })
        .await
    }

    /// By id, unambiguous id prefix, tag or digest reference.
    pub fn get(&self, name: &str) -> Result<Image, ImageError> {
        let index = self.inner.read();
        let id = index.resolve(name)?;
        index.image(&id).ok_or_else(|| ImageError::NotFound(name.to_owned()))
    }

    /// As [`Self::get`], for `key` (a container that is being made) to use: until the lease goes, the image counts as
    /// used by it, and after a removal by force the layers stay for its snapshot.
    pub fn lease(&self, name: &str, key: &str) -> Result<(Image, Lease), ImageError> {
        check_key(key)?;
        let mut index = self.inner.write();
        let id = index.resolve(name)?;
        let image = index.image(&id).ok_or_else(|| ImageError::NotFound(name.to_owned()))?;
        index.leases.insert(key.to_owned(), id);
        Ok((image, Lease { inner: self.inner.clone(), key: key.to_owned() }))
    }

    /// All images, newest first.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let index = self.inner.read();
        let mut images: Vec<Image> = index.images.keys().filter_map(|id| index.image(id)).collect();
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    /// Gives an image one more name; an image that had it loses it.
    pub async fn tag(&self, name: &str, target: &Reference) -> Result<(), ImageError> {
        if target.wanted_digest().is_some() {
            return Err(ImageError::InvalidName("refusing to create a tag with a digest reference".into()));
        }
        let (inner, name, target) = (self.inner.clone(), name.to_owned(), target.clone());
        blocking(move || {
            let _changes = inner.change();
            let id = inner.read().resolve(&name)?;
            inner.set_names(|names| {
                names.insert(target, id);
            })
        })
        .await
    }

    /// Directories for a container's writable layer; the same again for the same key.
    pub fn snapshot(&self, container_id: &str, image_id: &str) -> Result<Snapshot, ImageError> {
        check_key(container_id)?;
        let mut index = self.inner.write();
        // One without layers lost its list in a power cut: the image still has them.
        let known = index.snapshots.get(container_id).filter(|chain| !chain.is_empty()).cloned();
        let layers = match &known {
            Some(_) => Vec::new(),
            None => {
                let id = index.resolve(image_id)?;
                index.images.get(&id).map(|image| image.layers.clone()).unwrap_or_default()
            }
        };
        let chain = match &known {
            Some(chain) => chain.clone(),
            None => layers.iter().map(|layer| layer.chain_id.clone()).collect::<Vec<_>>(),
        };
        // Said before the lock goes, so that nobody removes these layers meanwhile.
        index.snapshots.insert(container_id.to_owned(), chain.clone());
        drop(index);
        if known.is_none()
            && let Err(error) = self.inner.make_snapshot(container_id, &layers)
        {
            self.inner.write().snapshots.remove(container_id);
            return Err(error);
        }
        Ok(self.inner.snapshot_dirs(container_id, &chain))
    }

    /// Removes a writable layer; succeeds when it is gone already. Does not wait for the disk (renamed away, deleted behind).
    pub fn remove_snapshot(&self, container_id: &str) -> Result<(), ImageError> {
        check_key(container_id)?;
        self.inner.unlimit(container_id);
        self.inner.layout.discard(&self.inner.layout.container(container_id))?;
        let Some(chain) = self.inner.write().snapshots.remove(container_id) else { return Ok(()) };
        self.inner.remove_unused(&chain).map(drop)
    }

    /// What a writable layer changes of the layers below, parents before children; nothing where there is none.
    pub fn changes(&self, container_id: &str) -> Result<Vec<Change>, ImageError> {
        check_key(container_id)?;
        let Some(chain) = self.inner.read().snapshots.get(container_id).cloned() else {
            return Ok(Vec::new());
        };
        let lower: Vec<_> = chain.iter().rev().map(|chain_id| self.inner.layout.diff(chain_id)).collect();
        crate::diff::changes(&self.inner.layout.container(container_id).join("diff"), &lower)
    }

    /// Which ids of the host own the files of all layers, for those of containers.
    pub fn id_map(&self) -> Option<&IdMap> {
        self.inner.layout.id_map()
    }

    /// Where a writable layer's files are, if there is one, and the bytes of the layers below it.
    pub fn snapshot_size(&self, container_id: &str, image_id: &str) -> (Option<PathBuf>, u64) {
        let index = self.inner.read();
        let Some(chain) = index.snapshots.get(container_id) else {
            let image = image_id.parse().ok().and_then(|id: Digest| index.images.get(&id));
            return (None, image.map_or(0, |image| image.image.size));
        };
        let below = chain.iter().filter_map(|chain_id| index.layers.get(chain_id)).map(|layer| layer.size);
        (Some(self.inner.layout.container(container_id).join("diff")), below.sum())
    }

    /// Keys of all writable layers, for finding orphans.
    pub fn snapshots(&self) -> Result<Vec<String>, ImageError> {
        let mut keys: Vec<String> = self.inner.read().snapshots.keys().cloned().collect();
        keys.sort();
        Ok(keys)
    }
}

impl Inner {
    // A panic while a lock was held leaves maps that are whole: every change to them is one call.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes names on the disk first, then in memory. The caller holds [`Inner::change`].
    pub(crate) fn set_names(
        &self,
        edit: impl FnOnce(&mut std::collections::BTreeMap<Reference, Digest>),
    ) -> Result<(), ImageError> {
        let before = self.read().names.clone();
        let mut next = Index { names: before, ..Index::default() };
        edit(&mut next.names);
        self.layout.write(&self.layout.repositories(), &next.names_file()?)?;
        self.write().names = next.names;
        Ok(())
    }

    /// Makes an image of layers that are committed, and names it. After this it survives a power cut.
    pub(crate) fn register(
        &self,
        config_bytes: &[u8],
        config: ImageConfig,
        layers: Vec<LayerRecord>,
        names: &[Reference],
        parent: Option<&Digest>,
    ) -> Result<Image, ImageError> {
        let id = Digest::of(config_bytes);
        let _changes = self.change();
        if !self.read().images.contains_key(&id) {
            let file = serde_json::to_vec(&ImageFile { layers: layers.clone(), parent: parent.cloned() })
                .map_err(|error| ImageError::Other(error.to_string()))?;
            self.layout.write_blob(&id, config_bytes)?;
            // Layers are written without waiting for the disk; once for all of them is quicker than once per file.
            self.layout.sync()?;
            self.layout.write(&self.layout.image(&id), &file)?;
            let record = record(&self.layout, &id, config, layers, parent.cloned());
            self.write().add_image(id.clone(), record);
        }
        if !names.is_empty() {
            self.set_names(|all| all.extend(names.iter().map(|name| (name.clone(), id.clone()))))?;
        }
        self.read().image(&id).ok_or_else(|| ImageError::NotFound(id.to_string()))
    }

    /// Counts on these layers, so that they stay while an image is being put together from them.
    pub(crate) fn hold(self: &Arc<Self>, chain: &[Digest]) -> Hold {
        self.write().hold(chain);
        Hold { inner: self.clone(), chain: chain.to_vec() }
    }

    /// Gives an unpacked layer its place in a stack. The caller holds `chain_id`.
    pub(crate) fn commit_layer(
        &self,
        unpacked: Unpacked,
        chain_id: &Digest,
    ) -> Result<LayerRecord, ImageError> {
        let Unpacked { staging, diff_id, size } = unpacked;
        let record = LayerRecord { diff_id, chain_id: chain_id.clone(), size };
        staging.commit(&self.layout.layer(chain_id))?;
        self.write().layers.insert(chain_id.clone(), record.clone());
        Ok(record)
    }

    /// The layer of this chain ID: as it is, or copied from where the same content stands on other layers.
    pub(crate) fn known_layer(
        &self,
        chain_id: &Digest,
        diff_id: &Digest,
    ) -> Result<Option<LayerRecord>, ImageError> {
        let twin = {
            let index = self.read();
            if let Some(layer) = index.layers.get(chain_id) {
                return Ok(Some(layer.clone()));
            }
            index.layer_with_diff(diff_id).cloned()
        };
        let Some(twin) = twin else { return Ok(None) };
        let staging = self.layout.stage()?;
        let diff = staging.make_diff()?;
        match clone_layer(&self.layout.diff(&twin.chain_id), &diff) {
            Ok(()) => {}
            // Removed meanwhile, with the image that it belonged to.
            Err(ImageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let unpacked = Unpacked { staging, diff_id: twin.diff_id, size: twin.size };
        self.commit_layer(unpacked, chain_id).map(Some)
    }

    /// Removes those of these layers that nothing uses any more; gives them, top first.
    pub(crate) fn remove_unused(&self, chain: &[Digest]) -> Result<Vec<Digest>, ImageError> {
        let mut index = self.write();
        let mut removed = Vec::new();
        for chain_id in chain.iter().rev() {
            if index.layers.contains_key(chain_id) && !index.is_used(chain_id) {
                self.layout.discard(&self.layout.layer(chain_id))?;
                index.layers.remove(chain_id);
                removed.push(chain_id.clone());
            }
        }
        Ok(removed)
    }

    /// Where a writable layer on the layers of `chain` (lowest first) is, or will be.
    pub(crate) fn snapshot_dirs(&self, key: &str, chain: &[Digest]) -> Snapshot {
        let dir = self.layout.container(key);
        Snapshot {
            lower: chain.iter().rev().map(|chain_id| self.layout.diff(chain_id)).collect(),
            upper: dir.join("diff"),
            work: dir.join("work"),
        }
    }

    pub(crate) fn make_snapshot(&self, key: &str, layers: &[LayerRecord]) -> Result<(), ImageError> {
        let staging = self.layout.stage()?;
        staging.make_diff()?;
        let (work, lower) = (staging.path().join("work"), staging.path().join("lower.json"));
        std::fs::create_dir(&work).map_err(ImageError::io("make", &work))?;
        let chain = serde_json::to_vec(layers).map_err(|error| ImageError::Other(error.to_string()))?;
        // Not synced: a container that a power cut undoes has lost nothing yet, and its key makes the same again.
        std::fs::write(&lower, chain).map_err(ImageError::io("write", &lower))?;
        staging.commit(&self.layout.container(key))
    }
}

/// An image that is in use before any container with it is on record.
pub struct Lease {
    inner: Arc<Inner>,
    key: String,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&self.key).finish()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.inner.write().leases.remove(&self.key);
    }
}

/// Layers that stay for now. When it goes, those that no image took in go too.
pub(crate) struct Hold {
    inner: Arc<Inner>,
    chain: Vec<Digest>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.inner.write().let_go(&self.chain);
        if let Err(error) = self.inner.remove_unused(&self.chain) {
            tracing::warn!(%error, "layers that no image uses stay until the next start");
        }
    }
}

/// Runs what waits for the disk where it keeps nobody else waiting.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::Other(format!("work on images ended early: {error}"))),
    }
}

/// Keys become directory names.
fn check_key(key: &str) -> Result<(), ImageError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if key.is_empty() || key.len() > 255 || key.starts_with('.') || !key.bytes().all(fits) {
        return Err(ImageError::InvalidName(format!("invalid container id {key:?}")));
    }
    Ok(())
}
