//! A CDI specification as it stands in its file (Container Device Interface, SPEC.md).

use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;
use std::fmt;

/// One file: devices of one kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Document {
    pub(super) cdi_version: String,
    /// `vendor.com/class`.
    pub(super) kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    pub(super) devices: Vec<Entry>,
    /// For a container that gets any of the devices.
    #[serde(default)]
    pub(super) container_edits: Option<Edits>,
}

/// One device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Entry {
    #[serde(deserialize_with = "text")]
    pub(super) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// What a container gets.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Edits {
    /// `NAME=value`.
    pub(super) env: Option<Vec<String>>,
    pub(super) device_nodes: Option<Vec<Node>>,
    pub(super) mounts: Option<Vec<Mount>>,
    pub(super) hooks: Option<Vec<Hook>>,
    #[serde(rename = "additionalGids")]
    pub(super) additional_gids: Option<Vec<u32>>,
    pub(super) intel_rdt: Option<serde_json::Value>,
    pub(super) net_devices: Option<serde_json::Value>,
}

/// A device file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Node {
    /// In the container.
    pub(super) path: String,
    /// On the host, where it has another name there.
    pub(super) host_path: Option<String>,
    /// `b`, `c`, `u` or `p`.
    pub(super) r#type: Option<String>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) file_mode: Option<u32>,
    /// Any of `r`, `w`, `m`.
    pub(super) permissions: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A mount.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default)]
    pub(super) options: Option<Vec<String>>,
    #[serde(default)]
    pub(super) r#type: Option<String>,
}

/// A program to run on the way.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Hook {
    /// When.
    pub(super) hook_name: String,
    pub(super) path: String,
    pub(super) args: Option<Vec<String>>,
    pub(super) env: Option<Vec<String>>,
    /// Seconds.
    pub(super) timeout: Option<i64>,
}

/// YAML writers leave the quotes off a device that is named by a number.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    struct Text;
    impl de::Visitor<'_> for Text {
        type Value = String;
        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a name")
        }
        fn visit_str<E: de::Error>(self, value: &str) -> Result<String, E> {
            Ok(value.to_owned())
        }
        fn visit_i64<E: de::Error>(self, value: i64) -> Result<String, E> {
            Ok(value.to_string())
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<String, E> {
            Ok(value.to_string())
        }
    }
    from.deserialize_any(Text)
}

impl Document {
    /// What is wrong with it, if anything.
    pub(super) fn validate(&self) -> Result<(), String> {
        const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
        let version = self.cdi_version.trim_start_matches('v');
        if !VERSIONS.contains(&version) {
            return Err(format!("invalid version {:?}", self.cdi_version));
        }
        let (vendor, class) = self.kind.split_once('/').unwrap_or((&self.kind, ""));
        if !is_name(vendor, "_-.") || !is_name(class, "_-.") {
            return Err(format!("invalid kind {:?}", self.kind));
        }
        if self.devices.is_empty() {
            return Err("no devices".to_owned());
        }
        for (at, device) in self.devices.iter().enumerate() {
            if !is_device_name(&device.name) {
                return Err(format!("invalid device name {:?}", device.name));
            }
            if self.devices[..at].iter().any(|other| other.name == device.name) {
                return Err(format!("multiple device {:?}", device.name));
            }
        }
        Ok(())
    }
}

/// Begins with a letter, ends with a letter or a digit.
fn is_name(text: &str, more: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && ends_well(text, more)
}

fn is_device_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && ends_well(text, "_-.:")
}

fn ends_well(text: &str, more: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}
