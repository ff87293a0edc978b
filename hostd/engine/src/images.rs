//! Images: the store's calls, with the events that go with them.

use crate::Engine;
use crate::error::{EngineError, Result};
use crate::filters::{self, Filters};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use hostd_image::{Auth, ContainerConfig, Image, Platform, Progress, Reference, Removed};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

/// What `load` tells.
pub enum LoadEvent {
    /// It goes on.
    Progress(Progress),
    /// An image is there: its name where it has one, else its id.
    Loaded(String),
}

/// How far a slow reader of progress may fall behind before the work waits for it.
const PROGRESS: usize = 64;

impl Engine {
    /// Pulls an image. Progress comes through the stream; its last item is the error, if any.
    pub fn pull(
        &self,
        reference: &str,
        platform: Option<Platform>,
        auth: Option<Auth>,
    ) -> Result<BoxStream<'static, Result<Progress>>> {
        let reference: Reference = reference.parse()?;
        let (engine, (sink, progress)) = (self.clone(), mpsc::channel(PROGRESS));
        let work = async move {
            engine.0.images.pull(&reference, platform.as_ref(), auth.as_ref(), sink).await?;
            let name = reference.familiar();
            engine.tell_image("pull", &name, &name);
            Ok(Vec::new())
        };
        Ok(beside(progress, work, |progress| progress))
    }

    /// Whether the registry that `auth` names takes it.
    pub async fn login(&self, auth: &Auth) -> Result<()> {
        Ok(self.0.images.login(&auth.serveraddress, auth).await?)
    }

    /// Loads an archive. The images loaded, by name where they have one (else id), come after the progress.
    pub fn load(
        &self,
        archive: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> BoxStream<'static, Result<LoadEvent>> {
        let (engine, (sink, progress)) = (self.clone(), mpsc::channel(PROGRESS));
        let work = async move {
            let images = engine.0.images.load(StreamReader::new(archive), sink).await?;
            let mut loaded = Vec::new();
            for image in images {
                engine.tell_image("load", &image.id, &image.id);
                if image.repo_tags.is_empty() {
                    loaded.push(LoadEvent::Loaded(image.id));
                } else {
                    loaded.extend(image.repo_tags.into_iter().map(LoadEvent::Loaded));
                }
            }
            Ok(loaded)
        };
        beside(progress, work, LoadEvent::Progress)
    }

    /// Makes an image of one layer from a tar.
    pub async fn import(
        &self,
        rootfs: BoxStream<'static, std::io::Result<Bytes>>,
        reference: Option<&str>,
        message: &str,
    ) -> Result<Image> {
        let reference = reference.filter(|name| !name.is_empty()).map(str::parse::<Reference>).transpose()?;
        let reader = StreamReader::new(rootfs);
        let image =
            self.0.images.import(reader, reference.as_ref(), ContainerConfig::default(), message).await?;
        if let Some(name) = image.repo_tags.first() {
            self.tell_image("tag", &image.id, name);
        }
        self.tell_image("import", &image.id, &image.id);
        Ok(image)
    }

    /// All images that match, newest first.
    pub fn images(&self, wanted: &Filters) -> Result<Vec<Image>> {
        filters::check(wanted, &["dangling", "label", "label!", "before", "since", "until", "reference"])?;
        let dangling = filters::boolean(wanted, "dangling")?;
        let moment = |key: &str| -> Result<Option<OffsetDateTime>> {
            let Some(name) = wanted.get(key).and_then(|names| names.first()) else { return Ok(None) };
            Ok(created(&self.0.images.get(name)?))
        };
        let (before, since) = (moment("before")?, moment("since")?);
        let until = match wanted.get("until").and_then(|values| values.first()) {
            Some(text) => Some(crate::list::moment(text)?),
            None => None,
        };
        let mut images = self.0.images.list()?;
        images.retain(|image| {
            let at = created(image);
            dangling.is_none_or(|dangling| dangling == image.repo_tags.is_empty())
                && filters::labels_fit(&image.config.labels, wanted)
                && before.is_none_or(|before| at.is_some_and(|at| at < before))
                && since.is_none_or(|since| at.is_some_and(|at| at > since))
                && until.is_none_or(|until| at.is_some_and(|at| at < until))
        });
        if let Some(patterns) = wanted.get("reference") {
            // Of an image with several names only those that fit are told.
            for image in &mut images {
                image.repo_tags.retain(|name| matches_reference(name, patterns));
                image.repo_digests.retain(|name| matches_reference(name, patterns));
            }
            images.retain(|image| !image.repo_tags.is_empty() || !image.repo_digests.is_empty());
        }
        images.sort_by_key(|image| std::cmp::Reverse(created(image)));
        Ok(images)
    }

    /// One image.
    pub fn image(&self, name: &str) -> Result<Image> {
        Ok(self.0.images.get(name)?)
    }

    /// Gives an image a further name.
    pub async fn tag(&self, name: &str, target: &str) -> Result<()> {
        let target: Reference = target.parse()?;
        self.0.images.tag(name, &target).await?;
        let id = self.0.images.get(name).map_or_else(|_| name.to_owned(), |image| image.id);
        self.tell_image("tag", &id, &target.familiar());
        Ok(())
    }

    /// Takes a name from an image, and with the last one the image.
    pub async fn remove_image(&self, name: &str, force: bool, no_prune: bool) -> Result<Vec<Removed>> {
        let id = self.0.images.get(name)?.id;
        let engine = self.clone();
        let users = move |image: &str| -> Vec<(String, bool)> {
            let containers = engine.0.index.all();
            let records = containers.iter().map(|container| container.record());
            let users = records.filter(|record| record.image_id == image);
            users.map(|record| (record.id.clone(), record.state.status.is_up())).collect()
        };
        let removed = self.0.images.remove(name, force, !no_prune, &users).await?;
        for line in &removed {
            match line {
                // As Docker: under its id, since the name is gone.
                Removed::Untagged(_) => self.tell_image("untag", &id, &id),
                Removed::Deleted(deleted) if *deleted == id => self.tell_image("delete", &id, &id),
                Removed::Deleted(_) => {}
            }
        }
        Ok(removed)
    }

    pub(crate) fn tell_image(&self, action: &str, id: &str, name: &str) {
        self.0.bus.publish("image", action, id, BTreeMap::from([("name".to_owned(), name.to_owned())]));
    }
}

/// Runs `work` beside the reading of its progress; what it gives, or its error, ends the stream. It stops when the
/// stream is dropped.
fn beside<T: Send + 'static>(
    progress: mpsc::Receiver<Progress>,
    work: impl Future<Output = Result<Vec<T>>> + Send + 'static,
    wrap: fn(Progress) -> T,
) -> BoxStream<'static, Result<T>> {
    let told =
        stream::unfold(progress, |mut progress| async { progress.recv().await.map(|item| (item, progress)) });
    let task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(work));
    let outcome = stream::once(async move {
        match task.await {
            Ok(Ok(items)) => items.into_iter().map(Ok).collect(),
            Ok(Err(error)) => vec![Err(error)],
            Err(error) => {
                vec![Err(EngineError::internal("the work on an image was given up").caused_by(error))]
            }
        }
    });
    told.map(move |item| Ok(wrap(item))).chain(outcome.flat_map(stream::iter)).boxed()
}

pub(crate) fn created(image: &Image) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(image.created.as_deref()?, &Rfc3339).ok()
}

/// Whether one of `patterns` (with `*` and `?`, with or without a tag) fits `name`.
fn matches_reference(name: &str, patterns: &[String]) -> bool {
    let without_tag = match name.rfind(':') {
        Some(at) if !name[at..].contains('/') => &name[..at],
        _ => name,
    };
    let bare = without_tag.split('@').next().unwrap_or(without_tag);
    patterns
        .iter()
        .any(|pattern| glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), bare.as_bytes()))
}

/// Shell patterns as for paths: `*` and `?` do not match a slash. Takes no more than the product of both lengths, since
/// only the last `*` ever has to take more.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last `*` does not fit: after it, and one further in the text.
    let mut retry: Option<(usize, usize)> = None;
    while p < pattern.len() || t < text.len() {
        match (pattern.get(p), text.get(t)) {
            (Some(b'*'), _) => {
                p += 1;
                retry = Some((p, t));
            }
            (Some(b'?'), Some(c)) if *c != b'/' => (p, t) = (p + 1, t + 1),
            (Some(wanted), Some(c)) if wanted == c => (p, t) = (p + 1, t + 1),
            _ => match retry {
                Some((after, from)) if text.get(from).is_some_and(|c| *c != b'/') => {
                    retry = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                _ => return false,
            },
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_patterns_fit_names_with_and_without_tags() {
        for (pattern, name, fits) in [
            ("busybox", "busybox:latest", true),
            ("busy*", "busybox:latest", true),
            ("busybox:1", "busybox:latest", false),
            ("*box:l?test", "busybox:latest", true),
            ("my/*", "my/app:1", true),
            ("*", "my/app:1", false),
            ("host:5000/app", "host:5000/app:2", true),
            ("*/*:*", "my/app:1", true),
            ("a*b*c", "a/b/c:1", false),
            ("**", "busybox", true),
        ] {
            assert_eq!(matches_reference(name, &[pattern.to_owned()]), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_is_no_burden() {
        // By trying all ways this would never end.
        assert!(!glob("*a".repeat(100).as_bytes(), "a".repeat(99).as_bytes()));
        assert!(glob("*a".repeat(100).as_bytes(), "a".repeat(200).as_bytes()));
    }
}
