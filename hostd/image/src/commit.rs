//! `docker commit`: an image of another image and of what a container has changed.

use crate::diff::write_layer;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::files::Sink;
use crate::layer::{Unpacked, unpack_layer};
use crate::manifest::ImageConfig;
use crate::model::{ContainerConfig, Image};
use crate::pipe::{CHUNK, PipeWriter, pipe};
use crate::reference::Reference;
use crate::store::{ImageStore, Inner, blocking};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Digest of a tar that holds nothing: a step without changes adds no layer.
pub(crate) const EMPTY_TAR: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// What the new image is to be.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Key of the writable layer.
    pub container_id: String,
    /// Image that the container was made from.
    pub parent: String,
    /// What its containers start with.
    pub config: ContainerConfig,
    /// The container's own configuration, for clients of old versions.
    pub container_config: Value,
    /// Who makes it.
    pub author: String,
    /// Free text, for the history.
    pub comment: String,
    /// What made the layer, for the history.
    pub created_by: String,
    /// Its name.
    pub name: Option<Reference>,
}

impl ImageStore {
    /// Makes an image of what a container has changed. It is on the disk when this returns.
    pub async fn commit(&self, commit: Commit) -> Result<Image, ImageError> {
        if commit.name.as_ref().is_some_and(|name| name.wanted_digest().is_some()) {
            return Err(ImageError::InvalidName("refusing to create a tag with a digest reference".into()));
        }
        let inner = self.inner.clone();
        blocking(move || run(&inner, &commit)).await
    }
}

fn run(inner: &Arc<Inner>, commit: &Commit) -> Result<Image, ImageError> {
    let parent = inner.read().resolve(&commit.parent)?;
    let mut layers = inner.read().images.get(&parent).map(|image| image.layers.clone()).unwrap_or_default();
    let chain: Vec<Digest> = layers.iter().map(|layer| layer.chain_id.clone()).collect();
    let below = inner.hold(&chain);
    let upper = inner.layout.container(&commit.container_id).join("diff");
    let lower: Vec<PathBuf> = chain.iter().rev().map(|id| inner.layout.diff(id)).collect();
    // One that was never started has changed nothing.
    let changed = if inner.read().snapshots.contains_key(&commit.container_id) {
        let unpacked = layer_of(inner, &upper, &lower)?;
        (unpacked.diff_id.to_string() != EMPTY_TAR).then_some(unpacked)
    } else {
        None
    };
    let bytes = configuration(inner, &parent, commit, changed.as_ref().map(|layer| &layer.diff_id))?;
    let config = ImageConfig::parse(&bytes)?;
    let held =
        inner.hold(Digest::chain(&config.rootfs.diff_ids).last().map(std::slice::from_ref).unwrap_or(&[]));
    if let Some(unpacked) = changed
        && let Some(chain_id) = Digest::chain(&config.rootfs.diff_ids).last()
    {
        layers.push(match inner.known_layer(chain_id, &unpacked.diff_id)? {
            Some(layer) => layer,
            None => inner.commit_layer(unpacked, chain_id)?,
        });
    }
    let names = Vec::from_iter(commit.name.clone());
    let image = inner.register(&bytes, config, layers, &names, Some(&parent));
    drop((below, held));
    image
}

/// The layer that `upper` is on top of `lower`: written as a tar, since that is what its digest is of, and unpacked from
/// it, since the container may go on to change its own.
fn layer_of(inner: &Arc<Inner>, upper: &Path, lower: &[PathBuf]) -> Result<Unpacked, ImageError> {
    let staging = inner.layout.stage()?;
    let (writer, reader) = pipe();
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let mut sink = PipeSink { chunk: writer.buffer(), writer };
            write_layer(upper, lower, inner.layout.id_map(), &mut sink)?;
            sink.finish().map_err(ImageError::stream("send the layer"))
        });
        let unpacked = unpack_layer(reader, staging, None, "the container's changes");
        let written =
            writing.join().unwrap_or_else(|_| Err(ImageError::Other("writing a layer panicked".into())));
        match (written, unpacked) {
            // One that could not go on because of the other has nothing to tell.
            (Err(ImageError::Stream { source, .. }), Err(error))
                if source.kind() == io::ErrorKind::BrokenPipe =>
            {
                Err(error)
            }
            (written, unpacked) => written.and(unpacked),
        }
    })
}

/// Fills the chunks of a pipe.
struct PipeSink {
    writer: PipeWriter,
    chunk: Vec<u8>,
}

impl PipeSink {
    fn send_when_full(&mut self) -> io::Result<()> {
        if self.chunk.len() < CHUNK {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.chunk, self.writer.buffer());
        self.writer.send(full)
    }

    fn finish(self) -> io::Result<()> {
        self.writer.send(self.chunk)?;
        self.writer.finish()
    }
}

impl Sink for PipeSink {
    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            self.send_when_full()?;
        }
        Ok(())
    }

    fn file(&mut self, mut file: &File, size: u64) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let want = left.min((CHUNK - self.chunk.len()) as u64);
            let got = file.by_ref().take(want).read_to_end(&mut self.chunk)? as u64;
            if got < want {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= got;
            self.send_when_full()?;
        }
        Ok(())
    }
}

/// The parent's configuration with what is new: fields that nobody here knows stay.
fn configuration(
    inner: &Inner,
    parent: &Digest,
    commit: &Commit,
    layer: Option<&Digest>,
) -> Result<Vec<u8>, ImageError> {
    let blob = inner.layout.blob(parent);
    let bytes = std::fs::read(&blob).map_err(ImageError::io("read", &blob))?;
    let malformed = |error: serde_json::Error| {
        ImageError::InvalidManifest(format!("malformed image configuration: {error}"))
    };
    let mut value: Value = serde_json::from_slice(&bytes).map_err(malformed)?;
    let now =
        OffsetDateTime::now_utc().format(&Rfc3339).map_err(|error| ImageError::Other(error.to_string()))?;
    let mut step = json!({ "created": now, "created_by": commit.created_by });
    for (key, text) in [("author", &commit.author), ("comment", &commit.comment)] {
        if !text.is_empty() {
            step[key] = json!(text);
        }
    }
    if layer.is_none() {
        step["empty_layer"] = json!(true);
    }
    value["created"] = json!(now);
    value["author"] = json!(commit.author);
    value["comment"] = json!(commit.comment);
    value["container"] = json!(commit.container_id);
    value["config"] = serde_json::to_value(&commit.config).map_err(malformed)?;
    value["container_config"] = commit.container_config.clone();
    push(&mut value["history"], step);
    if let Some(layer) = layer {
        push(&mut value["rootfs"]["diff_ids"], json!(layer));
    }
    value["rootfs"]["type"] = json!("layers");
    serde_json::to_vec(&value).map_err(malformed)
}

/// Appends to a list that may be absent or null.
fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}
