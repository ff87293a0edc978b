//! OCI image layouts, described by their `index.json`.

use super::Described;
use super::contents::Contents;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{Descriptor, ImageIndex, Manifest, ManifestOrIndex};
use crate::model::Platform;
use crate::reference::Reference;
use std::path::{Path, PathBuf};

/// Indexes in indexes.
const MAX_DEPTH: usize = 3;

pub(super) fn describe(contents: &Contents) -> Result<Vec<Described>, ImageError> {
    let bytes = contents.small(Path::new("index.json"))?;
    let index: ImageIndex = serde_json::from_slice(bytes)
        .map_err(|error| ImageError::InvalidArchive(format!("malformed index.json: {error}")))?;
    let mut images: Vec<(Digest, Described)> = Vec::new();
    for entry in &index.manifests {
        let manifest = manifest(contents, entry, 0)?;
        let name = name(entry)?;
        // One image with several names has several entries.
        match images.iter_mut().find(|(id, _)| *id == manifest.config.digest) {
            Some((_, image)) => image.names.extend(name),
            None => images.push((manifest.config.digest.clone(), image(contents, &manifest, name)?)),
        }
    }
    if images.is_empty() {
        return Err(ImageError::InvalidArchive("the archive's index.json names no image".into()));
    }
    Ok(images.into_iter().map(|(_, image)| image).collect())
}

fn image(contents: &Contents, manifest: &Manifest, name: Option<Reference>) -> Result<Described, ImageError> {
    Ok(Described {
        config: contents.small(&blob(&manifest.config.digest))?.to_vec(),
        layers: manifest.layers.iter().map(|layer| blob(&layer.digest)).collect(),
        names: name.into_iter().collect(),
    })
}

/// The manifest that an entry means, on this machine.
fn manifest(contents: &Contents, entry: &Descriptor, depth: usize) -> Result<Manifest, ImageError> {
    let bytes = contents.small(&blob(&entry.digest))?;
    match ManifestOrIndex::parse(bytes, &entry.media_type)? {
        ManifestOrIndex::Manifest(manifest) => Ok(manifest),
        ManifestOrIndex::Index(_) if depth == MAX_DEPTH => {
            Err(ImageError::InvalidArchive("the archive's indexes are nested too deeply".into()))
        }
        ManifestOrIndex::Index(index) => {
            let host = Platform::host();
            let chosen = index.choose(&host).ok_or_else(|| {
                ImageError::InvalidArchive(format!(
                    "no matching manifest for {host} in the manifest list entries"
                ))
            })?;
            manifest(contents, chosen, depth + 1)
        }
    }
}

/// The name that an annotation gives: containerd's is a whole reference, the specification's may be a tag alone.
fn name(entry: &Descriptor) -> Result<Option<Reference>, ImageError> {
    let full = entry.annotations.get("io.containerd.image.name");
    let short = || {
        entry.annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/']))
    };
    full.or_else(short).map(|name| name.parse()).transpose()
}

fn blob(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}
