//! docker-archive: what `docker save` writes, described by its `manifest.json`.

use super::Described;
use super::contents::Contents;
use crate::error::ImageError;
use crate::model::null_as_default;
use crate::reference::Reference;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: PathBuf,
    #[serde(default, deserialize_with = "null_as_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    layers: Vec<PathBuf>,
}

pub(super) fn describe(contents: &Contents) -> Result<Vec<Described>, ImageError> {
    let bytes = contents.small(Path::new("manifest.json"))?;
    let saved: Vec<SavedImage> = serde_json::from_slice(bytes)
        .map_err(|error| ImageError::InvalidArchive(format!("malformed manifest.json: {error}")))?;
    if saved.is_empty() {
        return Err(ImageError::InvalidArchive("the archive's manifest.json names no image".into()));
    }
    saved.into_iter().map(|image| image.describe(contents)).collect()
}

impl SavedImage {
    fn describe(self, contents: &Contents) -> Result<Described, ImageError> {
        Ok(Described {
            config: contents.small(&self.config)?.to_vec(),
            layers: self.layers,
            names: self.repo_tags.iter().map(|name| tagged(name)).collect::<Result<_, _>>()?,
        })
    }
}

fn tagged(name: &str) -> Result<Reference, ImageError> {
    let reference: Reference = name.parse()?;
    match reference.wanted_digest() {
        None => Ok(reference),
        Some(_) => Err(ImageError::InvalidArchive(format!("invalid tag {name:?}"))),
    }
}
