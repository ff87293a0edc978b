//! What images take on the disk.

use crate::digest::Digest;
use crate::model::Snapshot;
use crate::store::ImageStore;
use std::collections::{BTreeMap, HashMap};

/// What images take on the disk, in bytes.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Every layer, by chain ID.
    pub layers: BTreeMap<String, u64>,
    /// By image id: of layers that other images have too.
    pub shared: BTreeMap<String, u64>,
}

impl ImageStore {
    /// Adds up what is known; reads nothing from the disk.
    pub fn usage(&self) -> Usage {
        let index = self.inner.read();
        let mut owners = HashMap::new();
        for layer in index.images.values().flat_map(|image| &image.layers) {
            *owners.entry(&layer.chain_id).or_insert(0_usize) += 1;
        }
        let shared = index.images.iter().map(|(id, image)| {
            let layers = image.layers.iter().filter(|layer| owners[&layer.chain_id] > 1);
            (id.to_string(), layers.map(|layer| layer.size).sum())
        });
        let layers = index.layers.iter().map(|(chain_id, layer)| (chain_id.to_string(), layer.size));
        Usage { layers: layers.collect(), shared: shared.collect() }
    }

    /// The directories of a container's layers, whether they are made already or not; `None` where the image is gone.
    pub fn layer_dirs(&self, container_id: &str, image_id: &str) -> Option<Snapshot> {
        let index = self.inner.read();
        let chain: Vec<Digest> = match index.snapshots.get(container_id) {
            Some(chain) => chain.clone(),
            None => {
                let image = index.images.get(&image_id.parse().ok()?)?;
                image.layers.iter().map(|layer| layer.chain_id.clone()).collect()
            }
        };
        drop(index);
        Some(self.inner.snapshot_dirs(container_id, &chain))
    }

    /// Whether there is a writable layer under this key.
    pub fn has_snapshot(&self, container_id: &str) -> bool {
        self.inner.read().snapshots.contains_key(container_id)
    }
}
