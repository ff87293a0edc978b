//! The types that other crates see: images, their configuration, progress, credentials.

use hostd_sys::idmap::IdMap;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// How the store reaches registries.
#[derive(Clone, Debug, Default)]
pub struct ImageStoreConfig {
    /// `host[:port]` or CIDR, spoken to over plain HTTP or with an unverified certificate. 127.0.0.0/8 always is.
    pub insecure_registries: Vec<String>,
    /// Base URLs tried before Docker Hub.
    pub mirrors: Vec<String>,
    /// Who owns on the host what users and groups of images own; `None` is themselves. Layers are unpacked with these
    /// owners, so that a container in a user namespace needs no help of the file system to see its own.
    pub id_map: Option<IdMap>,
}

/// Credentials for a registry (the decoded X-Registry-Auth). Debug never shows the secrets.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct Auth {
    /// User name for basic authentication.
    pub username: String,
    /// Password or personal access token.
    pub password: String,
    /// OAuth2 refresh token, as `docker login` keeps it for some registries.
    pub identitytoken: String,
    /// A bearer token to send as it is.
    pub registrytoken: String,
    /// The registry that the credentials are for.
    pub serveraddress: String,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("username", &self.username)
            .field("serveraddress", &self.serveraddress)
            .finish_non_exhaustive()
    }
}

/// The `config` object of an image's configuration, as Docker and the OCI image spec have it; nulls read as absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs)] // The names are Docker's.
pub struct ContainerConfig {
    #[serde(deserialize_with = "null_as_default")]
    pub user: String,
    #[serde(deserialize_with = "null_as_default")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "one_or_many")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(deserialize_with = "one_or_many")]
    pub cmd: Option<Vec<String>>,
    #[serde(deserialize_with = "null_as_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_as_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    #[serde(deserialize_with = "one_or_many")]
    pub shell: Option<Vec<String>>,
    pub healthcheck: Option<serde_json::Value>,
    #[serde(deserialize_with = "one_or_many")]
    pub on_build: Option<Vec<String>>,
}

/// Reads an explicit `null` as the default, as Go does.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Old images hold a bare string where a list is usual.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<OneOrMany>::deserialize(deserializer)?.map(|value| match value {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    }))
}

/// One step of how an image came to be.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryEntry {
    /// RFC 3339 as in the configuration.
    pub created: Option<String>,
    /// The command.
    pub created_by: String,
    /// Free text.
    pub comment: String,
    /// Who made it.
    pub author: String,
    /// Whether the step changed no file, so that no layer belongs to it.
    pub empty_layer: bool,
    /// Bytes of its layer, unpacked.
    pub size: u64,
}

/// An image that is whole on this machine.
#[derive(Clone, Debug)]
pub struct Image {
    /// `sha256:…` of the configuration.
    pub id: String,
    /// The image that it was made from on this machine.
    pub parent: Option<String>,
    /// `repo:tag` as the user would type it (familiar form), sorted.
    pub repo_tags: Vec<String>,
    /// `repo@sha256:…`, familiar form, sorted.
    pub repo_digests: Vec<String>,
    /// What containers of this image start with.
    pub config: ContainerConfig,
    /// Id of the container that it was committed from; empty for none.
    pub container: String,
    /// That container's configuration, in Docker's shape.
    pub container_config: Option<serde_json::Value>,
    /// As Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// `v8` and the like.
    pub variant: Option<String>,
    /// `linux`.
    pub os: String,
    /// Who made it.
    pub author: String,
    /// Comment of the last step.
    pub comment: String,
    /// RFC 3339 as in the configuration.
    pub created: Option<String>,
    /// Bytes of all layers, unpacked.
    pub size: u64,
    /// Digests of the layers' uncompressed tars, base first.
    pub diff_ids: Vec<String>,
    /// Top layer first: `lowerdir`s.
    pub layers: Vec<PathBuf>,
    /// Oldest first.
    pub history: Vec<HistoryEntry>,
}

/// What pull and load tell while they work; the api turns it into Docker's JSON lines.
#[derive(Clone, Debug, Serialize)]
pub struct Progress {
    /// Short layer id, or the tag for the first line of a pull; `None` for a line of its own.
    pub id: Option<String>,
    /// Docker's words: `Pulling fs layer`, `Downloading`, `Verifying Checksum`, `Download complete`, `Extracting`,
    /// `Pull complete`, `Already exists`, `Digest: sha256:…`, `Status: Downloaded newer image for …`.
    pub status: String,
    /// Bytes so far.
    pub current: Option<u64>,
    /// Bytes in all.
    pub total: Option<u64>,
}

/// Where progress goes. A receiver that is gone is no error.
pub type ProgressSink = mpsc::Sender<Progress>;

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// As Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// `v8` and the like.
    pub variant: Option<String>,
}

impl Platform {
    /// What this machine runs.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8".to_owned())),
            "arm" => ("arm", Some("v7".to_owned())),
            other => (other, None),
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

/// A container's writable layer on top of an image.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Top layer first.
    pub lower: Vec<PathBuf>,
    /// `upperdir`.
    pub upper: PathBuf,
    /// `workdir`.
    pub work: PathBuf,
}

/// One line of what `rmi` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name that no longer points at the image.
    Untagged(String),
    /// An image or layer that is gone, by its digest.
    Deleted(String),
}
