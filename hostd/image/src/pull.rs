//! `docker pull`: from a reference to an image, several layers at once.

use crate::digest::Digest;
use crate::error::{ErrorKind, ImageError};
use crate::index::LayerRecord;
use crate::layer::unpack_layer;
use crate::manifest::{Descriptor, ImageConfig, Manifest, ManifestOrIndex};
use crate::model::{Auth, Image, Platform, Progress, ProgressSink};
use crate::reference::Reference;
use crate::registry::{Fetched, Session};
use crate::store::{ImageStore, Inner, blocking};
use crate::stream::feed;
use futures_util::{StreamExt, TryStreamExt};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Layers that are fetched at once, as in Docker.
const PARALLEL: usize = 3;
/// Indexes in indexes.
const MAX_DEPTH: usize = 3;

impl ImageStore {
    /// Whether a registry (`host[:port]`, or a URL as clients keep it) takes these credentials.
    pub async fn login(&self, server: &str, auth: &Auth) -> Result<(), ImageError> {
        let host =
            server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
        let host = host.split('/').next().unwrap_or_default();
        let domain = if ["", "index.docker.io"].contains(&host) { "docker.io" } else { host };
        // Registries are spoken to about a repository; which one does not matter.
        let reference: Reference = format!("{domain}/library/login").parse()?;
        let mut failure = None;
        for mut session in Session::candidates(&self.inner.registries, &reference, Some(auth))? {
            if session.is_mirror() {
                continue;
            }
            match session.ping().await {
                Ok(()) => return session.check().await,
                Err(error) if error.kind() == ErrorKind::Unauthorized => return Err(error),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| ImageError::NotFound(domain.to_owned())))
    }

    /// Pulls one reference, several layers at once, digests verified, and tags it.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        auth: Option<&Auth>,
        progress: ProgressSink,
    ) -> Result<Image, ImageError> {
        let mut failure = None;
        let mut by_mirror = false;
        for mut session in Session::candidates(&self.inner.registries, reference, auth)? {
            let mirror = session.is_mirror();
            let tried = match session.ping().await {
                Ok(()) => session.manifest().await.map_err(|error| (error, !mirror)),
                // Refused credentials are an answer; anything else may come of asking in the wrong way.
                Err(error) => {
                    let refused = error.kind() == ErrorKind::Unauthorized;
                    Err((error, refused && !mirror))
                }
            };
            match tried {
                Ok(top) => {
                    let pull = Pull { inner: &self.inner, session, reference, platform, progress: &progress };
                    return pull.run(top).await;
                }
                Err((error, true)) => return Err(error),
                // Of several ways to a registry that all failed, the first is the one to tell of; a mirror's matters least.
                Err((error, false)) => {
                    if failure.is_none() || by_mirror {
                        failure = Some(error);
                    }
                    by_mirror = mirror;
                }
            }
        }
        Err(failure.unwrap_or_else(|| ImageError::NotFound(reference.familiar())))
    }
}

struct Pull<'a> {
    inner: &'a Arc<Inner>,
    session: Session<'a>,
    reference: &'a Reference,
    platform: Option<&'a Platform>,
    progress: &'a ProgressSink,
}

impl Pull<'_> {
    async fn run(self, top: Fetched) -> Result<Image, ImageError> {
        let by = self.reference.digest().or_else(|| self.reference.tag().map(str::to_owned));
        tell(self.progress, by, format!("Pulling from {}", self.reference.path())).await;
        let digest = top.digest.clone();
        let manifest = self.choose(top).await?;
        let bytes = self.session.config(&manifest.config).await?;
        let config = ImageConfig::parse(&bytes)?;
        self.check_platform(&config)?;
        // As Docker counts it: a name that is new, or that named another image before.
        let named = self.inner.read().names.get(&self.reference.canonical()).cloned();
        let new = named.as_ref() != Some(&manifest.config.digest);
        let diff_ids = config.rootfs.diff_ids.clone();
        if diff_ids.len() != manifest.layers.len() {
            return Err(ImageError::InvalidManifest(format!(
                "layers from manifest don't match image configuration: {} and {}",
                manifest.layers.len(),
                diff_ids.len()
            )));
        }
        let chain = Digest::chain(&diff_ids);
        let hold = self.inner.hold(&chain);
        let layers = self.layers(&manifest.layers, &diff_ids, &chain).await?;
        let mut names = vec![self.reference.with_digest(&digest)];
        if self.reference.is_tagged() {
            names.push(self.reference.canonical());
        }
        let inner = self.inner.clone();
        let image = blocking(move || {
            let _hold = hold;
            inner.register(&bytes, config, layers, &names, None)
        })
        .await?;
        tell(self.progress, None, format!("Digest: {digest}")).await;
        let what = if new { "Downloaded newer image" } else { "Image is up to date" };
        tell(self.progress, None, format!("Status: {what} for {}", self.reference.familiar())).await;
        Ok(image)
    }

    /// Follows indexes to the manifest for the platform.
    async fn choose(&self, top: Fetched) -> Result<Manifest, ImageError> {
        let platform = self.platform.cloned().unwrap_or_else(Platform::host);
        let mut fetched = top;
        for _ in 0..MAX_DEPTH {
            let index = match ManifestOrIndex::parse(&fetched.bytes, &fetched.content_type)? {
                ManifestOrIndex::Manifest(manifest) => return Ok(manifest),
                ManifestOrIndex::Index(index) => index,
            };
            let chosen = index.choose(&platform).ok_or_else(|| {
                ImageError::RegistryNotFound(format!(
                    "no matching manifest for {platform} in the manifest list entries"
                ))
            })?;
            fetched = self.session.manifest_by_digest(&chosen.digest).await?;
        }
        Err(ImageError::InvalidManifest("manifest lists are nested too deeply".into()))
    }

    /// A single manifest is taken as it is, unless a platform was asked for by name.
    fn check_platform(&self, config: &ImageConfig) -> Result<(), ImageError> {
        let Some(wanted) = self.platform else { return Ok(()) };
        if config.architecture == wanted.architecture && (config.os == wanted.os || config.os.is_empty()) {
            return Ok(());
        }
        Err(ImageError::RegistryNotFound(format!(
            "image with reference {} was found but its platform ({}/{}) does not match the specified platform ({wanted})",
            self.reference.familiar(),
            config.os,
            config.architecture
        )))
    }

    async fn layers(
        &self,
        descriptors: &[Descriptor],
        diff_ids: &[Digest],
        chain: &[Digest],
    ) -> Result<Vec<LayerRecord>, ImageError> {
        for descriptor in descriptors {
            tell(self.progress, short(descriptor), "Pulling fs layer".into()).await;
        }
        let work = descriptors
            .iter()
            .zip(diff_ids)
            .zip(chain)
            .map(|((descriptor, diff_id), chain_id)| self.layer(descriptor, diff_id, chain_id));
        futures_util::stream::iter(work.collect::<Vec<_>>()).buffered(PARALLEL).try_collect().await
    }

    /// One layer. Of two pulls that want the same one, the second waits and finds it there.
    async fn layer(
        &self,
        descriptor: &Descriptor,
        diff_id: &Digest,
        chain_id: &Digest,
    ) -> Result<LayerRecord, ImageError> {
        let turn = self.turns().entry(chain_id.clone()).or_default().clone();
        let result = {
            let _turn = turn.lock().await;
            self.layer_in_turn(descriptor, diff_id, chain_id).await
        };
        drop(turn);
        // Only the map's own is left once nobody waits.
        self.turns().retain(|_, turn| Arc::strong_count(turn) > 1);
        result
    }

    async fn layer_in_turn(
        &self,
        descriptor: &Descriptor,
        diff_id: &Digest,
        chain_id: &Digest,
    ) -> Result<LayerRecord, ImageError> {
        let id = short(descriptor);
        let (inner, wanted) = (self.inner.clone(), (chain_id.clone(), diff_id.clone()));
        if let Some(known) = blocking(move || inner.known_layer(&wanted.0, &wanted.1)).await? {
            tell(self.progress, id, "Already exists".into()).await;
            return Ok(known);
        }
        let (feed, reader) = feed();
        let (inner, digest) = (self.inner.clone(), descriptor.digest.clone());
        let what = format!("layer {digest} of {}", self.reference.familiar());
        let unpacking = blocking(move || unpack_layer(reader, inner.layout.stage()?, Some(&digest), &what));
        let fetching = async {
            let mut meter = Meter { progress: self.progress, descriptor, told: None };
            self.session.blob(descriptor, feed, |current| meter.tell(current)).await?;
            for status in ["Verifying Checksum", "Download complete", "Extracting"] {
                tell(self.progress, id.clone(), status.into()).await;
            }
            Ok(())
        };
        let (fetched, unpacked) = tokio::join!(fetching, unpacking);
        // A download that failed is why unpacking did.
        fetched?;
        let unpacked = unpacked?;
        if unpacked.diff_id != *diff_id {
            return Err(ImageError::WrongDigest {
                what: format!("uncompressed layer {} of {}", descriptor.digest, self.reference.familiar()),
                expected: diff_id.to_string(),
                got: unpacked.diff_id.to_string(),
            });
        }
        let record = self.inner.commit_layer(unpacked, chain_id)?;
        tell(self.progress, id, "Pull complete".into()).await;
        Ok(record)
    }

    fn turns(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::HashMap<Digest, Arc<tokio::sync::Mutex<()>>>> {
        self.inner.pulling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells how much of a layer has come, ten times a second.
struct Meter<'a> {
    progress: &'a ProgressSink,
    descriptor: &'a Descriptor,
    told: Option<Instant>,
}

impl Meter<'_> {
    fn tell(&mut self, current: u64) {
        if self.told.is_some_and(|told| told.elapsed() < Duration::from_millis(100)) {
            return;
        }
        self.told = Some(Instant::now());
        // A receiver that is slow misses a line.
        let _ = self.progress.try_send(Progress {
            id: short(self.descriptor),
            status: "Downloading".into(),
            current: Some(current),
            total: Some(self.descriptor.size),
        });
    }
}

fn short(descriptor: &Descriptor) -> Option<String> {
    Some(descriptor.digest.short().to_owned())
}

/// A receiver that is gone wants to hear no more.
async fn tell(progress: &ProgressSink, id: Option<String>, status: String) {
    let _ = progress.send(Progress { id, status, current: None, total: None }).await;
}
