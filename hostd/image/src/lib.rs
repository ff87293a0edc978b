//! Images: their names, where they come from, and how they lie on the disk.
//!
//! # Vocabulary
//! - A **reference** is a name that people type (`busybox`, `ghcr.io/a/b:v1`, `a@sha256:…`).
//! - A **blob** is content named by its SHA-256 **digest**. An image's **configuration** is one, and its digest is the image's id.
//! - A **layer** is a tar of changes: its **diff ID** is the digest of the uncompressed tar, its **chain ID** names it on top
//!   of the layers below. It is kept unpacked, and shared by all images and containers that stand on it.
//! - A **snapshot** is a container's writable layer on top of an image.
//!
//! # The path that data takes
//! A pull ([`ImageStore::pull`]) finds the manifest in a registry (`registry`) and streams each layer it lacks; a load
//! ([`ImageStore::load`]) streams layers out of an archive (`archive`). Either way a layer goes through three threads (`layer`):
//! read and hash, inflate and hash, and write (`tarstream`, `unpack`), into `staging/` (`layout`). Once its digests
//! are right, it is renamed into place, and the image is registered (`store`, `index`) when all its layers are there.

mod archive;
mod commit;
mod compress;
mod diff;
mod digest;
mod dirtimes;
mod error;
pub mod files;
mod index;
mod layer;
mod layout;
mod manifest;
mod model;
mod pipe;
mod pull;
mod quota;
mod reference;
mod registry;
mod remove;
mod resolve;
mod store;
mod stream;
mod tarout;
mod tarstream;
mod unpack;
mod usage;

pub use commit::Commit;
pub use diff::{Change, ChangeKind};
pub use error::{ErrorKind, ImageError};
pub use model::{
    Auth, ContainerConfig, HistoryEntry, Image, ImageStoreConfig, Platform, Progress, ProgressSink, Removed,
    Snapshot,
};
pub use reference::Reference;
pub use store::{ImageStore, Lease};
pub use usage::Usage;
