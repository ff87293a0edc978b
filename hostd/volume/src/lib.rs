//! Named and anonymous volumes.
//!
//! ```text
//! <name>/_data           the files: what is mounted into containers
//! <name>/volume.json     the record: driver, labels, when it was made
//! .new-<random>/         being made, or being filled from an image; emptied at start-up, never read
//! .gone-<random>/        being deleted; the same
//! ```
//! A volume is made beside its place and comes into it by one `rename(2)`, and leaves it by another: at any instant it
//! is there in whole or not at all. A name cannot begin with a dot, so the two never meet. The only driver is
//! `local`, without options. Who uses a volume is the engine's to know; here, removing removes.
//!
//! The first container that uses an empty volume has it filled with what its image holds at the mount path
//! ([`Volumes::populate`]): `image_tree` reads the image's layers as one tree, `copy` writes it out.

mod copy;
mod error;
mod image_tree;
mod store;

pub use error::{VolumeError, VolumeErrorKind};
pub use store::{Gone, Volumes};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A volume as it is on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`; 64 hex digits where the user gave none.
    pub name: String,
    /// `local`.
    pub driver: String,
    /// What gets mounted.
    pub mountpoint: PathBuf,
    /// RFC 3339.
    pub created_at: String,
    /// The user's.
    pub labels: BTreeMap<String, String>,
    /// Driver options: none so far.
    pub options: BTreeMap<String, String>,
    /// Made without a name: goes with its container under `rm -v` and `--rm`.
    pub anonymous: bool,
}
