//! Volumes as clients see them, and who counts on which.
//!
//! A volume that a container on record mounts is not removed, and neither is one that a create under way has *claimed*:
//! it takes its claim before it makes the volume, and gives it back once the container is in the index. Claims are
//! looked at, and volumes leave their place, under one lock, so that no container is created over a volume that goes.

use crate::container::Index;
use crate::error::{EngineError, Result, joined};
use crate::filters::{self, Filters};
use crate::model::{ContainerRecord, MountType};
use crate::{Engine, Inner};
use hostd_volume::{Gone, Volume};
use regex_lite::Regex;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many creates under way count on a volume, by name.
#[derive(Default)]
pub(crate) struct Claims(Mutex<HashMap<String, usize>>);

impl Claims {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, name: &str) {
        *self.lock().entry(name.to_owned()).or_insert(0) += 1;
    }

    pub(crate) fn release(&self, name: &str) {
        let mut claims = self.lock();
        if let Some(count) = claims.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                claims.remove(name);
            }
        }
    }
}

/// What a prune has removed.
#[derive(Clone, Debug, Default)]
pub struct Pruned<T = String> {
    /// In the order of removal.
    pub removed: Vec<T>,
    /// Bytes.
    pub reclaimed: u64,
}

/// What a volume takes, and how many containers mount it.
#[derive(Clone, Copy, Debug)]
pub struct VolumeUsage {
    /// Bytes of its files.
    pub size: u64,
    /// Containers, running or not.
    pub containers: usize,
}

impl Engine {
    /// The volumes that match, by name.
    pub async fn volumes(&self, wanted: &Filters) -> Result<Vec<Volume>> {
        filters::check(wanted, &["dangling", "driver", "label", "name"])?;
        let dangling = filters::boolean(wanted, "dangling")?;
        let names = wanted.get("name").into_iter().flatten().map(|text| {
            Regex::new(text)
                .map_err(|e| EngineError::invalid(format!("invalid filter 'name={text}'")).caused_by(e))
        });
        let names: Vec<Regex> = names.collect::<Result<_>>()?;
        let mut volumes = self.all_volumes().await?;
        volumes.retain(|volume| {
            let used = || !users(&self.0.index, &volume.name).is_empty();
            (names.is_empty() || names.iter().any(|name| name.is_match(&volume.name)))
                && wanted.get("driver").is_none_or(|drivers| drivers.contains(&volume.driver))
                && wanted.get("label").is_none_or(|labels| filters::labels_match(&volume.labels, labels))
                && dangling.is_none_or(|dangling| dangling != used())
        });
        Ok(volumes)
    }

    async fn all_volumes(&self) -> Result<Vec<Volume>> {
        let volumes = self.0.volumes.clone();
        Ok(tokio::task::spawn_blocking(move || volumes.list()).await.map_err(joined)??)
    }

    /// One volume.
    pub fn volume(&self, name: &str) -> Result<Volume> {
        Ok(self.0.volumes.get(name)?)
    }

    /// What a volume takes. Reads all of its directories.
    pub async fn volume_usage(&self, volume: &Volume) -> Result<VolumeUsage> {
        let place = volume.mountpoint.clone();
        let size = tokio::task::spawn_blocking(move || crate::list::disk_usage(&place)).await;
        Ok(VolumeUsage { size: size.map_err(joined)?, containers: users(&self.0.index, &volume.name).len() })
    }

    /// The volume of that name, made when missing; without a name an anonymous one.
    pub async fn create_volume(
        &self,
        name: Option<&str>,
        driver: &str,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    ) -> Result<Volume> {
        let (volumes, driver) = (self.0.volumes.clone(), driver.to_owned());
        let name = name.filter(|name| !name.is_empty()).map(str::to_owned);
        let made = tokio::task::spawn_blocking(move || {
            let known = name.as_deref().is_some_and(|name| volumes.get(name).is_ok());
            let volume = volumes.create(name.as_deref(), &driver, &options, &labels)?;
            Ok::<_, EngineError>((volume, known))
        });
        let (volume, known) = made.await.map_err(joined)??;
        if !known {
            self.tell_volume("create", &volume);
        }
        Ok(volume)
    }

    /// Removes a volume that no container uses; one that is not there is an error unless `force`.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        match self.0.volumes.get(name) {
            Ok(volume) => self.drop_volume(volume, None).await,
            Err(error) => match EngineError::from(error) {
                missing if force && missing.kind == crate::ErrorKind::NotFound => Ok(()),
                other => Err(other),
            },
        }
    }

    /// Removes the volumes that no container uses: anonymous ones, and others with the filter `all`.
    pub async fn prune_volumes(&self, wanted: &Filters) -> Result<Pruned> {
        filters::check(wanted, &["all", "label", "label!"])?;
        let all = filters::boolean(wanted, "all")?.unwrap_or(false);
        let mut pruned = Pruned::default();
        for volume in self.all_volumes().await? {
            let fits = (all || volume.anonymous) && filters::labels_fit(&volume.labels, wanted);
            if !fits || !users(&self.0.index, &volume.name).is_empty() {
                continue;
            }
            let (name, size) = (volume.name.clone(), self.volume_usage(&volume).await?.size);
            match self.drop_volume(volume, None).await {
                Ok(()) => {
                    pruned.removed.push(name);
                    pruned.reclaimed += size;
                }
                // Taken into use, or removed by another, since it was listed.
                Err(error) => tracing::debug!(volume = name, error = error.chain(), "not pruned"),
            }
        }
        self.tell_pruned("volume", pruned.reclaimed);
        Ok(pruned)
    }

    /// Those that go with their container, unless another uses them.
    pub(crate) async fn remove_anonymous_volumes(&self, record: &ContainerRecord) {
        for name in volume_names(record) {
            let Ok(volume) = self.0.volumes.get(name) else { continue };
            if !volume.anonymous {
                continue;
            }
            match self.drop_volume(volume, Some(&record.id)).await {
                Err(error) if error.kind != crate::ErrorKind::Conflict => {
                    tracing::warn!(volume = name, error = error.chain(), "cannot remove an anonymous volume");
                }
                _ => {}
            }
        }
    }

    /// Removes a volume unless another container than `owner` uses it.
    async fn drop_volume(&self, volume: Volume, owner: Option<&str>) -> Result<()> {
        let (engine, owner) = (self.clone(), owner.map(str::to_owned));
        let unlinked = tokio::task::spawn_blocking(move || {
            let gone = engine.0.unlink_volume(&volume.name, owner.as_deref())?;
            // Out of its place it is gone for all; deleting many files may take a while.
            tokio::task::spawn_blocking(move || gone.delete());
            engine.tell_volume("destroy", &volume);
            Ok(())
        });
        unlinked.await.map_err(joined)?
    }

    pub(crate) fn tell_volume(&self, action: &str, volume: &Volume) {
        let attributes = BTreeMap::from([("driver".to_owned(), volume.driver.clone())]);
        self.0.bus.publish("volume", action, &volume.name, attributes);
    }

    pub(crate) fn tell_pruned(&self, kind: &'static str, reclaimed: u64) {
        let attributes = BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
        self.0.bus.publish(kind, "prune", "", attributes);
    }
}

impl Inner {
    fn unlink_volume(&self, name: &str, owner: Option<&str>) -> Result<Gone> {
        let claims = self.claims.lock();
        let mut users = users(&self.index, name);
        users.retain(|id| Some(id.as_str()) != owner);
        if !users.is_empty() {
            let message = format!("remove {name}: volume is in use - [{}]", users.join(", "));
            return Err(EngineError::conflict(message));
        }
        if claims.contains_key(name) {
            let message = format!("remove {name}: volume is in use - a container is being created with it");
            return Err(EngineError::conflict(message));
        }
        Ok(self.volumes.unlink(name)?)
    }
}

/// The volumes that a container mounts.
fn volume_names(record: &ContainerRecord) -> impl Iterator<Item = &str> {
    record.mounts.iter().filter(|mount| mount.kind == MountType::Volume).filter_map(|m| m.name.as_deref())
}

/// Ids of the containers that mount a volume.
fn users(index: &Index, volume: &str) -> Vec<String> {
    let uses = |record: &ContainerRecord| volume_names(record).any(|name| name == volume);
    index.all().iter().filter(|container| uses(&container.record())).map(|c| c.id.clone()).collect()
}
