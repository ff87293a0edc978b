//! A container's files, for clients: `docker cp`, `docker export`, `docker diff`.
//!
//! What the client asks for is found through a view of the container ([`hostd_runtime::View`]) and read or written by a
//! thread of its own, since files block and a client may be as slow as it likes; between the two lies a channel of a few
//! chunks ([`stream`]), so that a transfer takes the same memory whatever its size.

mod stream;

use crate::container::Container;
use crate::error::{EngineError, ErrorKind, Result, io, joined};
use crate::model::{ContainerRecord, MountType, Status};
use crate::{Engine, spec};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use hostd_image::Change;
use hostd_image::files::{self, ExtractOptions, FilesError, Pack, PathStat, Sink};
use hostd_runtime::spec::RootFs;
use hostd_runtime::{Access, View};
use std::sync::Arc;

/// A tar on its way to a client.
pub struct Archive {
    /// What was asked for.
    pub stat: PathStat,
    /// Bytes of the tar, where that is known beforehand.
    pub length: Option<u64>,
    /// The tar; its last item is the error, if any.
    pub content: BoxStream<'static, std::io::Result<Bytes>>,
}

/// How to put files into a container.
#[derive(Clone, Copy, Debug, Default)]
pub struct PutOptions {
    /// Refuse to put a directory in place of something else, or something else in place of a directory.
    pub no_overwrite_dir_non_dir: bool,
    /// All of it is to belong to the user that the container runs as.
    pub copy_uid_gid: bool,
}

/// What of a container is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All of it, with what is mounted in it.
    All,
    /// The same, to be written to.
    Writable,
    /// Its root file system alone.
    RootFs,
}

impl Engine {
    /// What is at a path in a container.
    pub async fn stat_path(&self, name: &str, path: &str) -> Result<PathStat> {
        let container = self.container(name)?;
        let view = self.view(&container, Part::All).await?;
        let asked = path.to_owned();
        let found = tokio::task::spawn_blocking(move || files::stat(view.root(), &asked));
        found.await.map_err(joined)?.map_err(|error| told(error, name, path, None))
    }

    /// A tar of what is at a path in a container.
    pub async fn archive(&self, name: &str, path: &str) -> Result<Archive> {
        let container = self.container(name)?;
        let view = self.view(&container, Part::All).await?;
        let asked = path.to_owned();
        let images = self.0.images.clone();
        let find = move || (Pack::find(view.root(), &asked, images.id_map()), view);
        let found = tokio::task::spawn_blocking(find);
        let (pack, view) = found.await.map_err(joined)?;
        let pack = pack.map_err(|error| told(error, name, path, None))?;
        let (stat, length) = (pack.stat.clone(), pack.length());
        let content = stream::produce(move |sink: &mut dyn Sink| {
            let packed = files::pack_path(&pack, sink);
            drop(view);
            packed
        })?;
        self.tell(&container, "archive-path", &[]);
        Ok(Archive { stat, length, content })
    }

    /// A tar of a container's root file system, without what is mounted on it.
    pub async fn export(&self, name: &str) -> Result<BoxStream<'static, std::io::Result<Bytes>>> {
        let container = self.container(name)?;
        let view = self.view(&container, Part::RootFs).await?;
        let images = self.0.images.clone();
        let pack = move |sink: &mut dyn Sink| files::pack_all(view.root(), images.id_map(), sink);
        let content = stream::produce(pack)?;
        self.tell(&container, "export", &[]);
        Ok(content)
    }

    /// Extracts a tar, compressed or not, into the directory at a path in a container.
    pub async fn extract(
        &self,
        name: &str,
        path: &str,
        options: PutOptions,
        content: &mut BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<()> {
        let container = self.container(name)?;
        let record = container.record();
        let view = self.view(&container, Part::Writable).await?;
        let id_map = self.0.images.id_map().cloned();
        let (place, of) = (path.to_owned(), Arc::clone(&record));
        let extracted = stream::consume(content, move |input| {
            refuse_read_only(&view, &of, &place)?;
            let owner = owner(&view, &of, options)?;
            let no_overwrite_dir_non_dir = options.no_overwrite_dir_non_dir;
            let options = ExtractOptions { no_overwrite_dir_non_dir, owner, id_map };
            Ok(files::extract(view.root(), &place, options, input))
        });
        match extracted.await? {
            Ok(()) => {
                self.tell(&container, "extract-to-dir", &[]);
                Ok(())
            }
            Err(error) => Err(told(error, name, path, Some(&record))),
        }
    }

    /// What a container has changed of its image, parents before children.
    pub async fn changes(&self, name: &str) -> Result<Vec<Change>> {
        let (images, id) = (self.0.images.clone(), self.container(name)?.id.clone());
        Ok(tokio::task::spawn_blocking(move || images.changes(&id)).await.map_err(joined)??)
    }

    async fn view(&self, container: &Arc<Container>, part: Part) -> Result<View> {
        // It must neither start nor end between the look at its state and the view. What is mounted for the view stays
        // behind it; where it can be written to, a start waits until that is over.
        let turn = container.turn().await;
        let record = container.record();
        if matches!(record.state.status, Status::Removing | Status::Dead) {
            return Err(EngineError::conflict(format!(
                "container {} is marked for removal and cannot be read",
                container.id
            )));
        }
        let (engine, live) = (self.clone(), container.live_now());
        let made = tokio::task::spawn_blocking(move || -> Result<View> {
            Ok(match live {
                // One that has just ended is on record as running until its turn comes: it is looked at as one that ended.
                Some(live) if live.can_be_seen() => {
                    let runtime = &engine.0.runtime;
                    let view =
                        if part == Part::RootFs { runtime.view_rootfs(&live) } else { runtime.view(&live) };
                    match view {
                        Err(_) if !live.can_be_seen() => engine.view_of_layers(&record, part)?,
                        view => view?,
                    }
                }
                Some(_) | None => engine.view_of_layers(&record, part)?,
            })
        });
        let view = made.await.map_err(joined)?;
        drop(turn);
        view
    }

    fn view_of_layers(&self, record: &ContainerRecord, part: Part) -> Result<View> {
        let snapshot = self.snapshot_of(record)?;
        let rootfs = RootFs {
            lower: snapshot.lower,
            upper: snapshot.upper,
            work: snapshot.work,
            label: String::new(),
        };
        let mounts = if part == Part::RootFs { Vec::new() } else { spec::mounts(record) };
        let access = match part {
            Part::Writable => Access::Write { read_only_rootfs: record.host.readonly_rootfs },
            Part::All | Part::RootFs => Access::Read,
        };
        Ok(self.0.runtime.view_layers(&record.id, &rootfs, &mounts, access)?)
    }
}

/// Before anything is read of the archive: that a mount takes no writes is told by its name.
fn refuse_read_only(view: &View, record: &ContainerRecord, path: &str) -> Result<()> {
    match files::stat_filesystem(view.root(), path) {
        Ok(true) => Err(read_only(record, path)),
        // The extraction will tell what is wrong.
        Ok(false) | Err(_) => Ok(()),
    }
}

/// Docker's words.
fn read_only(record: &ContainerRecord, path: &str) -> EngineError {
    let inside = |destination: &str| {
        path == destination || path.strip_prefix(destination).is_some_and(|rest| rest.starts_with('/'))
    };
    let mounted = record.mounts.iter().any(|m| m.kind != MountType::Tmpfs && inside(&m.destination));
    let what =
        if mounted { "mounted volume is marked read-only" } else { "container rootfs is marked read-only" };
    EngineError::new(ErrorKind::Forbidden, what)
}

fn owner(view: &View, record: &ContainerRecord, options: PutOptions) -> Result<Option<(u32, u32)>> {
    if !options.copy_uid_gid || record.config.user.is_empty() {
        return Ok(None);
    }
    Ok(Some(view.user(&record.config.user)?))
}

/// In Docker's words; `name` is as the client has it.
fn told(error: FilesError, name: &str, path: &str, record: Option<&ContainerRecord>) -> EngineError {
    match error {
        FilesError::NotFound => {
            EngineError::not_found(format!("Could not find the file {path} in container {name}"))
        }
        FilesError::Invalid(message) | FilesError::Refused(message) => EngineError::invalid(message),
        FilesError::ReadOnly => match record {
            Some(record) => read_only(record, path),
            None => EngineError::new(ErrorKind::Forbidden, "read-only file system"),
        },
        FilesError::Archive(error) => error.into(),
        FilesError::Io { doing, source } => io(format!("cannot {doing}"))(source),
    }
}
