//! What registries and archives say about images: manifests, indexes, configurations. Read leniently, as Go would.

use crate::digest::Digest;
use crate::error::ImageError;
use crate::model::{ContainerConfig, Platform, null_as_default};
use serde::Deserialize;
use std::collections::BTreeMap;

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";

/// Layers in one image: overlay takes 500.
const MAX_LAYERS: usize = 500;

/// A piece of content by its digest.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default, deserialize_with = "null_as_default")]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<ManifestPlatform>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The platform of an index's entry.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ManifestPlatform {
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) os: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) architecture: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) variant: String,
}

/// An image manifest: Docker schema 2 or OCI.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(crate) layers: Vec<Descriptor>,
}

/// A manifest list or OCI index.
#[derive(Debug, Deserialize)]
pub(crate) struct ImageIndex {
    #[serde(default, deserialize_with = "null_as_default")]
    pub(crate) manifests: Vec<Descriptor>,
}

/// Either kind.
#[derive(Debug)]
pub(crate) enum ManifestOrIndex {
    Manifest(Manifest),
    Index(ImageIndex),
}

impl ManifestOrIndex {
    /// Reads a manifest. What it is stands in itself, in its media type, or shows in its fields.
    pub(crate) fn parse(bytes: &[u8], content_type: &str) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            #[serde(default)]
            schema_version: u32,
            #[serde(default, deserialize_with = "null_as_default")]
            media_type: String,
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            config: Option<serde::de::IgnoredAny>,
        }
        let probe: Probe = parse(bytes, "manifest")?;
        let media_type = if probe.media_type.is_empty() { content_type } else { &probe.media_type };
        if probe.schema_version == 1 || media_type.starts_with(SCHEMA1) {
            return Err(ImageError::InvalidManifest(
                "Docker image format v1 and manifest version 2, schema 1 are not supported: push the image again with a \
                 current client"
                    .into(),
            ));
        }
        let is_index = match media_type {
            DOCKER_LIST | OCI_INDEX => true,
            DOCKER_MANIFEST | OCI_MANIFEST => false,
            _ if probe.manifests.is_some() => true,
            _ if probe.config.is_some() => false,
            other => {
                return Err(ImageError::InvalidManifest(format!(
                    "unsupported manifest media type {other:?}"
                )));
            }
        };
        if is_index {
            return Ok(Self::Index(parse(bytes, "manifest list")?));
        }
        let manifest: Manifest = parse(bytes, "manifest")?;
        manifest.check()?;
        Ok(Self::Manifest(manifest))
    }
}

impl Manifest {
    fn check(&self) -> Result<(), ImageError> {
        if self.layers.len() > MAX_LAYERS {
            return Err(ImageError::InvalidManifest(format!(
                "the image has {} layers; at most {MAX_LAYERS} are possible",
                self.layers.len()
            )));
        }
        match self.layers.iter().find(|layer| !layer.is_layer()) {
            Some(other) => Err(ImageError::InvalidManifest(format!(
                "unsupported layer media type {:?}: this is not a container image",
                other.media_type
            ))),
            None => Ok(()),
        }
    }
}

impl Descriptor {
    fn is_layer(&self) -> bool {
        self.media_type.is_empty()
            || (self.media_type.starts_with("application/vnd.docker.image.rootfs.")
                || self.media_type.starts_with("application/vnd.oci.image.layer."))
                && !self.media_type.ends_with("+encrypted")
    }
}

impl ImageIndex {
    /// The entry for `platform`: the very variant first, then one without, then the nearest below.
    pub(crate) fn choose(&self, platform: &Platform) -> Option<&Descriptor> {
        let wanted = variant_level(&platform.architecture, platform.variant.as_deref().unwrap_or(""));
        self.manifests
            .iter()
            .filter_map(|entry| {
                let has = entry.platform.as_ref()?;
                if has.os != platform.os
                    || normal_arch(&has.architecture) != normal_arch(&platform.architecture)
                {
                    return None;
                }
                let level = variant_level(&platform.architecture, &has.variant);
                (level <= wanted).then_some((level, entry))
            })
            // The first of equals wins, as in Docker.
            .rev()
            .max_by_key(|(level, _)| *level)
            .map(|(_, entry)| entry)
    }
}

fn normal_arch(arch: &str) -> &str {
    match arch {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Variants of one architecture in order; what has none is the architecture's baseline.
fn variant_level(arch: &str, variant: &str) -> u32 {
    let baseline = match normal_arch(arch) {
        "arm64" => 80,
        "arm" => 70,
        _ => 10,
    };
    let Some(version) = variant.strip_prefix('v') else { return baseline };
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    match (major.parse::<u32>(), minor.parse::<u32>()) {
        (Ok(major), Ok(minor)) => major.saturating_mul(10).saturating_add(minor),
        _ => baseline,
    }
}

/// An image's configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ImageConfig {
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) os: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) author: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) comment: String,
    pub(crate) created: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) config: ContainerConfig,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) container: String,
    pub(crate) container_config: Option<serde_json::Value>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) rootfs: RootFs,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) history: Vec<ConfigHistory>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RootFs {
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigHistory {
    pub(crate) created: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) created_by: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) comment: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) author: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) empty_layer: bool,
}

impl ImageConfig {
    /// Reads a configuration; one that names no root file system is none.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let config: Self = parse(bytes, "image configuration")?;
        if !config.os.is_empty() && config.os != "linux" {
            return Err(ImageError::InvalidManifest(format!(
                "image operating system {:?} cannot be used on this platform",
                config.os
            )));
        }
        if config.rootfs.diff_ids.len() > MAX_LAYERS {
            return Err(ImageError::InvalidManifest(format!("the image has more than {MAX_LAYERS} layers")));
        }
        Ok(config)
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ImageError::InvalidManifest(format!("malformed {what}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[(&str, &str)]) -> ImageIndex {
        let manifests = platforms
            .iter()
            .enumerate()
            .map(|(i, (arch, variant))| Descriptor {
                media_type: OCI_MANIFEST.into(),
                digest: Digest::of(&[i as u8]),
                size: 1,
                platform: Some(ManifestPlatform {
                    os: "linux".into(),
                    architecture: (*arch).into(),
                    variant: (*variant).into(),
                }),
                annotations: BTreeMap::new(),
            })
            .collect();
        ImageIndex { manifests }
    }

    #[test]
    fn the_nearest_variant_that_the_platform_runs_is_chosen() {
        let platform = |arch: &str, variant: Option<&str>| Platform {
            os: "linux".into(),
            architecture: arch.into(),
            variant: variant.map(str::to_owned),
        };
        for (entries, wanted, chosen) in [
            (&[("arm64", "v8"), ("amd64", "")][..], platform("amd64", None), Some(1)),
            (&[("amd64", "v3"), ("amd64", "")], platform("amd64", None), Some(1)),
            (&[("amd64", "v2"), ("amd64", "v3")], platform("amd64", Some("v3")), Some(1)),
            (&[("arm64", "")], platform("arm64", Some("v8")), Some(0)),
            (&[("arm64", "v8")], platform("arm64", None), Some(0)),
            (&[("arm", "v5"), ("arm", "v6"), ("arm", "v7")], platform("arm", Some("v6")), Some(1)),
            (&[("unknown", ""), ("s390x", "")], platform("amd64", None), None),
        ] {
            let index = index(entries);
            let got = index.choose(&wanted).map(|entry| entry.digest.clone());
            assert_eq!(got, chosen.map(|i: u8| Digest::of(&[i])), "{entries:?} for {wanted}");
        }
    }

    #[test]
    fn schema_1_is_refused_by_name() {
        let error = ManifestOrIndex::parse(br#"{"schemaVersion":1,"name":"x"}"#, "").unwrap_err();
        assert!(error.to_string().contains("schema 1"), "{error}");
    }

    #[test]
    fn nulls_and_bare_strings_in_a_configuration_are_read() {
        let config = ImageConfig::parse(
            br#"{"os":"linux","config":{"Cmd":null,"Entrypoint":"/bin/x","Env":null,"Labels":null},"history":null}"#,
        )
        .unwrap();
        assert_eq!(config.config.entrypoint, Some(vec!["/bin/x".to_owned()]));
        assert!(config.config.env.is_empty());
    }
}
