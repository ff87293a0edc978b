//! Removing what is not in use: containers that ended, images that no container has. And what all of it takes.

use crate::error::{EngineError, Result};
use crate::filters::{self, Filters};
use crate::list::moment;
use crate::volumes::Pruned;
use crate::{Engine, ErrorKind, RemoveOptions};
use hostd_image::{Image, Removed};
use std::collections::{BTreeMap, HashSet};
use time::OffsetDateTime;

/// What images take on the disk.
#[derive(Clone, Debug, Default)]
pub struct ImageUsage {
    /// Bytes of all layers, each counted once.
    pub layers: u64,
    /// By image id: bytes of layers that other images have too.
    pub shared: BTreeMap<String, u64>,
    /// By image id: containers, running or not.
    pub containers: BTreeMap<String, usize>,
}

impl Engine {
    /// Removes the containers that do not run and match.
    pub async fn prune_containers(&self, wanted: &Filters) -> Result<Pruned> {
        filters::check(wanted, &["until", "label", "label!"])?;
        let until = until(wanted)?;
        let mut pruned = Pruned::default();
        for container in self.0.index.all() {
            let record = container.record();
            let fits = !record.state.status.is_up()
                && until.is_none_or(|until| record.created < until)
                && filters::labels_fit(&record.config.labels, wanted);
            if !fits {
                continue;
            }
            let size = self.size(&record.id).await.map_or(0, |(writable, _)| writable);
            match self.remove(&record.id, RemoveOptions::default()).await {
                Ok(()) => {
                    pruned.removed.push(record.id.clone());
                    pruned.reclaimed += size;
                }
                // Started, or removed by another, since it was looked at.
                Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::NotFound) => {}
                Err(error) => {
                    tracing::warn!(id = record.id, error = error.chain(), "cannot prune a container");
                }
            }
        }
        self.tell_pruned("container", pruned.reclaimed);
        Ok(pruned)
    }

    /// Removes the images that no container has and that match: those without a tag, unless `dangling=false`.
    pub async fn prune_images(&self, wanted: &Filters) -> Result<Pruned<Removed>> {
        filters::check(wanted, &["dangling", "until", "label", "label!"])?;
        let dangling_only = filters::boolean(wanted, "dangling")?.unwrap_or(true);
        let until = until(wanted)?;
        let sizes = self.0.images.usage().layers;
        let used = self.image_users();
        let mut pruned = Pruned { removed: Vec::new(), reclaimed: 0 };
        for image in self.0.images.list()? {
            let fits = !used.contains_key(&image.id)
                && (!dangling_only || image.repo_tags.is_empty())
                && until.is_none_or(|until| crate::images::created(&image).is_some_and(|at| at < until))
                && filters::labels_fit(&image.config.labels, wanted);
            if fits {
                pruned.removed.extend(self.prune_image(&image).await);
            }
        }
        let layers: HashSet<&String> = pruned
            .removed
            .iter()
            .filter_map(|line| if let Removed::Deleted(id) = line { Some(id) } else { None })
            .collect();
        pruned.reclaimed = layers.iter().filter_map(|id| sizes.get(*id)).sum();
        self.tell_pruned("image", pruned.reclaimed);
        Ok(pruned)
    }

    /// Name by name, since an image with several names is not removed by its id.
    async fn prune_image(&self, image: &Image) -> Vec<Removed> {
        let mut names: Vec<&String> = image.repo_tags.iter().chain(&image.repo_digests).collect();
        if names.is_empty() {
            names.push(&image.id);
        }
        let mut removed = Vec::new();
        for name in names {
            match self.remove_image(name, false, false).await {
                Ok(lines) => removed.extend(lines),
                // Went with another name, or was taken into use meanwhile.
                Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::NotFound) => {}
                Err(error) => tracing::warn!(name, error = error.chain(), "cannot prune an image"),
            }
        }
        removed
    }

    /// What images take, and who uses them.
    pub fn image_usage(&self) -> ImageUsage {
        let usage = self.0.images.usage();
        ImageUsage {
            layers: usage.layers.values().sum(),
            shared: usage.shared,
            containers: self.image_users(),
        }
    }

    fn image_users(&self) -> BTreeMap<String, usize> {
        let mut users = BTreeMap::new();
        for container in self.0.index.all() {
            *users.entry(container.record().image_id.clone()).or_insert(0) += 1;
        }
        users
    }
}

fn until(wanted: &Filters) -> Result<Option<OffsetDateTime>> {
    match wanted.get("until").map(Vec::as_slice) {
        None | Some([]) => Ok(None),
        Some([text]) => moment(text).map(Some),
        Some(_) => Err(EngineError::invalid("more than one until filter specified")),
    }
}
