//! `docker import`: an image with one layer, from a tar of its root file system.

use crate::digest::Digest;
use crate::error::ImageError;
use crate::layer::unpack_layer;
use crate::manifest::ImageConfig;
use crate::model::{ContainerConfig, Image, Platform};
use crate::reference::Reference;
use crate::store::{ImageStore, Inner, blocking};
use crate::stream::feed;
use std::sync::Arc;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncRead;

impl ImageStore {
    /// `docker import` / POST /images/create?fromSrc=-: one layer from a tar, plain or compressed.
    pub async fn import(
        &self,
        rootfs: impl AsyncRead + Send + Unpin + 'static,
        reference: Option<&Reference>,
        config: ContainerConfig,
        message: &str,
    ) -> Result<Image, ImageError> {
        if reference.is_some_and(|reference| reference.wanted_digest().is_some()) {
            return Err(ImageError::InvalidName("cannot import digest reference".into()));
        }
        let (feed, reader) = feed();
        let (inner, names, message) =
            (self.inner.clone(), Vec::from_iter(reference.cloned()), message.to_owned());
        let work = blocking(move || import(&inner, reader, &names, &config, &message));
        tokio::join!(work, feed.send_all(rootfs)).0
    }
}

fn import(
    inner: &Arc<Inner>,
    rootfs: impl std::io::Read + Send,
    names: &[Reference],
    config: &ContainerConfig,
    message: &str,
) -> Result<Image, ImageError> {
    let unpacked = unpack_layer(rootfs, inner.layout.stage()?, None, "the root file system")?;
    let diff_id = unpacked.diff_id.clone();
    let _hold = inner.hold(std::slice::from_ref(&diff_id));
    // A base layer's chain ID is its diff ID.
    let layer = match inner.known_layer(&diff_id, &diff_id)? {
        Some(layer) => layer,
        None => inner.commit_layer(unpacked, &diff_id)?,
    };
    let bytes = configuration(&diff_id, config, message)?;
    let config = ImageConfig::parse(&bytes)?;
    inner.register(&bytes, config, vec![layer], names, None)
}

fn configuration(diff_id: &Digest, config: &ContainerConfig, message: &str) -> Result<Vec<u8>, ImageError> {
    let now =
        OffsetDateTime::now_utc().format(&Rfc3339).map_err(|error| ImageError::Other(error.to_string()))?;
    let host = Platform::host();
    let value = serde_json::json!({
        "architecture": host.architecture,
        "variant": host.variant,
        "os": host.os,
        "created": now,
        "comment": message,
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": now, "comment": message }],
    });
    serde_json::to_vec(&value).map_err(|error| ImageError::Other(error.to_string()))
}
