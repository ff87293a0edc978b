//! `docker load` and `docker import`: images from a stream.
//!
//! An archive is read once, front to back. What looks like a layer is unpacked into staging as it passes, since the manifest
//! that says so mostly comes last; the rest is small and kept in memory. Only then is it put together: [`docker`]
//! reads `manifest.json`, [`oci`] reads `index.json`. Nothing is ever written under a name from the archive.

mod contents;
mod docker;
mod import;
mod oci;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::index::LayerRecord;
use crate::layer::unpack_layer;
use crate::manifest::ImageConfig;
use crate::model::{Image, ProgressSink};
use crate::reference::Reference;
use crate::store::{ImageStore, Inner, blocking};
use crate::stream::feed;
use contents::{Contents, Item};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncRead;

/// An image as an archive describes it.
struct Described {
    config: Vec<u8>,
    /// Where each layer lies in the archive, base first.
    layers: Vec<PathBuf>,
    names: Vec<Reference>,
}

impl ImageStore {
    /// `docker load`: a docker-archive or OCI layout, plain or compressed. Gives each image; its `repo_tags` are the names
    /// that the archive gave it.
    pub async fn load(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        progress: ProgressSink,
    ) -> Result<Vec<Image>, ImageError> {
        let (feed, reader) = feed();
        let inner = self.inner.clone();
        // Together in one future: whoever drops it ends the stream, and with it the thread.
        let (images, ()) =
            tokio::join!(blocking(move || load(&inner, reader, &progress)), feed.send_all(archive));
        images
    }
}

fn load(
    inner: &Arc<Inner>,
    reader: impl std::io::Read + Send,
    progress: &ProgressSink,
) -> Result<Vec<Image>, ImageError> {
    let mut contents = Contents::read(inner, reader, progress)?;
    let described = if contents.has("manifest.json") {
        docker::describe(&contents)?
    } else if contents.has("index.json") {
        oci::describe(&contents)?
    } else {
        return Err(ImageError::InvalidArchive(
            "invalid archive: it has neither a manifest.json nor an index.json".into(),
        ));
    };
    // All are checked before the first is registered: an archive is taken whole or not at all.
    let mut ready = Vec::new();
    for image in described {
        let config = ImageConfig::parse(&image.config)?;
        let diff_ids = config.rootfs.diff_ids.clone();
        if diff_ids.len() != image.layers.len() {
            return Err(ImageError::InvalidArchive(format!(
                "invalid manifest, layers length mismatch: expected {}, got {}",
                diff_ids.len(),
                image.layers.len()
            )));
        }
        let chain = Digest::chain(&diff_ids);
        let hold = inner.hold(&chain);
        let mut layers = Vec::new();
        for (i, path) in image.layers.iter().enumerate() {
            layers.push(take_layer(inner, &mut contents, path, &diff_ids[i], &chain[i])?);
        }
        ready.push((hold, image, config, layers));
    }
    let mut images = Vec::new();
    for (_hold, image, config, layers) in ready {
        let mut loaded = inner.register(&image.config, config, layers, &image.names, None)?;
        loaded.repo_tags = image.names.iter().map(Reference::familiar).collect();
        images.push(loaded);
    }
    Ok(images)
}

/// Finds one layer in the store or the archive, and gives it its place.
fn take_layer(
    inner: &Arc<Inner>,
    contents: &mut Contents,
    path: &Path,
    diff_id: &Digest,
    chain_id: &Digest,
) -> Result<LayerRecord, ImageError> {
    let path = contents.follow(path)?;
    let wrong = |got: &Digest| ImageError::WrongDigest {
        what: format!("layer {}", path.display()),
        expected: diff_id.to_string(),
        got: got.to_string(),
    };
    match contents.item(&path)? {
        Item::Layer { diff_id: got, .. } if got != diff_id => return Err(wrong(got)),
        Item::Known(got) if got != diff_id => return Err(wrong(got)),
        Item::Layer { .. } | Item::Known(_) => {}
        Item::Small(bytes) => {
            // Too short to have been taken for a layer while it passed, as an empty one is.
            let unpacked =
                unpack_layer(&bytes[..], inner.layout.stage()?, None, &path.display().to_string())?;
            if unpacked.diff_id != *diff_id {
                return Err(wrong(&unpacked.diff_id));
            }
            return inner.commit_layer(unpacked, chain_id);
        }
        Item::Other => {
            return Err(ImageError::InvalidArchive(format!("layer {} is not a tar archive", path.display())));
        }
        Item::Link(_) => return Err(ImageError::InvalidArchive(format!("{} leads nowhere", path.display()))),
    }
    if let Some(record) = inner.known_layer(chain_id, diff_id)? {
        return Ok(record);
    }
    match contents.take_unpacked(&path) {
        Some(unpacked) => inner.commit_layer(unpacked, chain_id),
        None => Err(ImageError::Other(format!("layer {diff_id} was removed while it was being loaded"))),
    }
}
