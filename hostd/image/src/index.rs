//! What the store knows, in memory: images, names, layers and who uses them. Files are read once, when the store opens.

use crate::digest::Digest;
use crate::error::ImageError;
use crate::layout::Layout;
use crate::manifest::ImageConfig;
use crate::model::{HistoryEntry, Image};
use crate::reference::Reference;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::sync::Arc;

/// One layer of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) diff_id: Digest,
    pub(crate) chain_id: Digest,
    /// Bytes of its regular files.
    pub(crate) size: u64,
}

/// `images/<hex>.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ImageFile {
    pub(crate) layers: Vec<LayerRecord>,
    /// The image that it was made from on this machine.
    #[serde(default)]
    pub(crate) parent: Option<Digest>,
}

/// An item of a writable layer's `lower.json`; the older form lacks what is known of the layer.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Lower {
    Layer(LayerRecord),
    Chain(Digest),
}

/// An image without its names.
#[derive(Debug)]
pub(crate) struct ImageRecord {
    pub(crate) image: Image,
    pub(crate) layers: Vec<LayerRecord>,
    pub(crate) parent: Option<Digest>,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) images: HashMap<Digest, Arc<ImageRecord>>,
    pub(crate) names: BTreeMap<Reference, Digest>,
    /// Committed layers, by chain ID.
    pub(crate) layers: HashMap<Digest, LayerRecord>,
    /// Chain IDs below each writable layer.
    pub(crate) snapshots: HashMap<String, Vec<Digest>>,
    /// Chain IDs that a pull or load at work counts on, and how many do.
    pub(crate) held: HashMap<Digest, usize>,
    /// Images that somebody is about to use, by key.
    pub(crate) leases: HashMap<String, Digest>,
}

impl Index {
    /// Counts on these layers.
    pub(crate) fn hold(&mut self, chain: &[Digest]) {
        for chain_id in chain {
            *self.held.entry(chain_id.clone()).or_insert(0) += 1;
        }
    }

    /// Counts on them no more.
    pub(crate) fn let_go(&mut self, chain: &[Digest]) {
        for chain_id in chain {
            if let Some(count) = self.held.get_mut(chain_id) {
                *count -= 1;
                if *count == 0 {
                    self.held.remove(chain_id);
                }
            }
        }
    }

    /// Keys of those who are about to use the image.
    pub(crate) fn lessees(&self, id: &Digest) -> Vec<String> {
        self.leases.iter().filter(|(_, leased)| *leased == id).map(|(key, _)| key.clone()).collect()
    }

    /// Reads the store's files. What no image or container needs is removed; a broken record never hides the others.
    pub(crate) fn read(layout: &Layout) -> Result<Self, ImageError> {
        let mut index = Self::default();
        let dir = layout.dir("images");
        for file in fs::read_dir(&dir).map_err(ImageError::io("read", &dir))? {
            let path = file.map_err(ImageError::io("read", &dir))?.path();
            let id = path.file_stem().and_then(|stem| Digest::from_hex(&stem.to_string_lossy()));
            let Some(id) = id else { continue };
            match read_image(layout, &id) {
                Ok(record) => index.add_image(id, record),
                Err(error) => {
                    tracing::error!(image = %id, error = &error as &dyn std::error::Error, "cannot read an image");
                }
            }
        }
        index.read_names(layout)?;
        index.read_snapshots(layout)?;
        index.sweep(layout)?;
        Ok(index)
    }

    pub(crate) fn add_image(&mut self, id: Digest, record: ImageRecord) {
        for layer in &record.layers {
            self.layers.insert(layer.chain_id.clone(), layer.clone());
        }
        self.images.insert(id, Arc::new(record));
    }

    /// The image with the names that it has now.
    pub(crate) fn image(&self, id: &Digest) -> Option<Image> {
        let mut image = self.images.get(id)?.image.clone();
        for name in self.names_of(id) {
            let list = if name.is_tagged() { &mut image.repo_tags } else { &mut image.repo_digests };
            list.push(name.familiar());
        }
        image.repo_tags.sort();
        image.repo_digests.sort();
        Some(image)
    }

    pub(crate) fn names_of(&self, id: &Digest) -> impl Iterator<Item = &Reference> {
        self.names.iter().filter(move |(_, target)| *target == id).map(|(name, _)| name)
    }

    /// Finds an image by id, name, or unambiguous id prefix, in Docker's order.
    pub(crate) fn resolve(&self, text: &str) -> Result<Digest, ImageError> {
        let not_found = || ImageError::NotFound(text.to_owned());
        if let Some(id) = text.parse().ok().or_else(|| Digest::from_hex(text)) {
            return if self.images.contains_key(&id) { Ok(id) } else { Err(not_found()) };
        }
        let reference: Result<Reference, _> = text.parse();
        if let Ok(reference) = &reference
            && let Some(id) = self.names.get(&reference.canonical())
        {
            return Ok(id.clone());
        }
        if let Some(id) = self.by_prefix(text)? {
            return Ok(id);
        }
        match reference {
            Ok(reference) => Err(ImageError::NotFound(reference.familiar())),
            Err(ImageError::InvalidReference) if text.starts_with("sha256:") => Err(not_found()),
            Err(error) => Err(error),
        }
    }

    fn by_prefix(&self, text: &str) -> Result<Option<Digest>, ImageError> {
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        if prefix.is_empty() || !prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(None);
        }
        let mut matches = self.images.keys().filter(|id| id.hex().starts_with(prefix));
        match (matches.next(), matches.next()) {
            (Some(_), Some(_)) => Err(ImageError::AmbiguousId(text.to_owned())),
            (found, _) => Ok(found.cloned()),
        }
    }

    /// Whether another image was made from this one.
    pub(crate) fn has_children(&self, id: &Digest) -> bool {
        self.images.values().any(|image| image.parent.as_ref() == Some(id))
    }

    /// Whether an image, a writable layer or work in progress needs the layer.
    pub(crate) fn is_used(&self, chain_id: &Digest) -> bool {
        self.held.contains_key(chain_id)
            || self.images.values().any(|image| image.layers.iter().any(|layer| layer.chain_id == *chain_id))
            || self.snapshots.values().flatten().any(|used| used == chain_id)
    }

    /// A committed layer with this content, wherever it stands in a stack.
    pub(crate) fn layer_with_diff(&self, diff_id: &Digest) -> Option<&LayerRecord> {
        self.layers.values().find(|layer| layer.diff_id == *diff_id)
    }

    /// `repositories.json` as it should be now.
    pub(crate) fn names_file(&self) -> Result<Vec<u8>, ImageError> {
        let names: BTreeMap<String, &Digest> =
            self.names.iter().map(|(name, id)| (name.to_string(), id)).collect();
        serde_json::to_vec_pretty(&names).map_err(|error| ImageError::Other(error.to_string()))
    }

    fn read_names(&mut self, layout: &Layout) -> Result<(), ImageError> {
        let path = layout.repositories();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(ImageError::io("read", &path)(source)),
        };
        let names: BTreeMap<String, Digest> = serde_json::from_slice(&bytes)
            .map_err(|error| ImageError::io("read", &path)(std::io::Error::from(error)))?;
        for (name, id) in names {
            match name.parse() {
                Ok(name) if self.images.contains_key(&id) => {
                    self.names.insert(name, id);
                }
                _ => tracing::warn!(%name, image = %id, "this name points at no image"),
            }
        }
        Ok(())
    }

    fn read_snapshots(&mut self, layout: &Layout) -> Result<(), ImageError> {
        let dir = layout.dir("containers");
        for entry in fs::read_dir(&dir).map_err(ImageError::io("read", &dir))? {
            let entry = entry.map_err(ImageError::io("read", &dir))?;
            let Ok(key) = entry.file_name().into_string() else { continue };
            let path = entry.path().join("lower.json");
            let lower = fs::read(&path).map_err(|e| e.to_string()).and_then(|bytes| {
                serde_json::from_slice::<Vec<Lower>>(&bytes).map_err(|error| error.to_string())
            });
            match lower {
                Ok(lower) => {
                    let chain = lower.into_iter().map(|lower| match lower {
                        Lower::Chain(chain_id) => chain_id,
                        // Its image may have been removed by force.
                        Lower::Layer(layer) => {
                            let chain_id = layer.chain_id.clone();
                            self.layers.entry(chain_id.clone()).or_insert(layer);
                            chain_id
                        }
                    });
                    let chain = chain.collect();
                    self.snapshots.insert(key, chain);
                }
                Err(error) => {
                    tracing::error!(container = key, error, "cannot read what a writable layer stands on");
                    self.snapshots.insert(key, Vec::new());
                }
            }
        }
        Ok(())
    }

    /// Removes layers and blobs that nothing names: what a crash in the middle of a pull or a removal left.
    fn sweep(&mut self, layout: &Layout) -> Result<(), ImageError> {
        let mut layers: HashSet<&str> = self.snapshots.values().flatten().map(Digest::hex).collect();
        layers.extend(self.layers.keys().map(Digest::hex));
        let mut blobs: HashSet<&str> = self.images.keys().map(Digest::hex).collect();
        blobs.extend(self.names.keys().filter_map(|name| name.wanted_digest()).map(Digest::hex));
        // An image that cannot be read keeps its layers unknown: then nothing is known to be free.
        let images = layout.dir("images");
        let files = fs::read_dir(&images).map_err(ImageError::io("read", &images))?.count();
        if files != self.images.len() || self.snapshots.values().any(Vec::is_empty) {
            return Ok(());
        }
        for (name, used) in [("layers", layers), ("blobs/sha256", blobs)] {
            let dir = layout.dir(name);
            for entry in fs::read_dir(&dir).map_err(ImageError::io("read", &dir))? {
                let entry = entry.map_err(ImageError::io("read", &dir))?;
                if !used.contains(&*entry.file_name().to_string_lossy()) {
                    layout.discard(&entry.path())?;
                }
            }
        }
        Ok(())
    }
}

fn read_image(layout: &Layout, id: &Digest) -> Result<ImageRecord, ImageError> {
    let path = layout.image(id);
    let bytes = fs::read(&path).map_err(ImageError::io("read", &path))?;
    let file: ImageFile = serde_json::from_slice(&bytes)
        .map_err(|error| ImageError::io("read", &path)(std::io::Error::from(error)))?;
    for layer in &file.layers {
        let diff = layout.diff(&layer.chain_id);
        if !diff.is_dir() {
            return Err(ImageError::Other(format!("its layer {} is missing", layer.chain_id)));
        }
    }
    let blob = layout.blob(id);
    let config = ImageConfig::parse(&fs::read(&blob).map_err(ImageError::io("read", &blob))?)?;
    Ok(record(layout, id, config, file.layers, file.parent))
}

/// Puts together what others see of an image.
pub(crate) fn record(
    layout: &Layout,
    id: &Digest,
    config: ImageConfig,
    layers: Vec<LayerRecord>,
    parent: Option<Digest>,
) -> ImageRecord {
    let mut sizes = layers.iter().map(|layer| layer.size);
    let history = config
        .history
        .into_iter()
        .map(|step| HistoryEntry {
            size: if step.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
            created: step.created,
            created_by: step.created_by,
            comment: step.comment,
            author: step.author,
            empty_layer: step.empty_layer,
        })
        .collect();
    let image = Image {
        id: id.to_string(),
        parent: parent.as_ref().map(Digest::to_string),
        repo_tags: Vec::new(),
        repo_digests: Vec::new(),
        config: config.config,
        container: config.container,
        container_config: config.container_config,
        architecture: config.architecture,
        variant: config.variant.filter(|variant| !variant.is_empty()),
        os: if config.os.is_empty() { "linux".to_owned() } else { config.os },
        author: config.author,
        comment: config.comment,
        created: config.created,
        size: layers.iter().map(|layer| layer.size).sum(),
        diff_ids: layers.iter().map(|layer| layer.diff_id.to_string()).collect(),
        layers: layers.iter().rev().map(|layer| layout.diff(&layer.chain_id)).collect(),
        history,
    };
    ImageRecord { image, layers, parent }
}
