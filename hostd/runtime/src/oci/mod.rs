//! A container in the words of the OCI runtime specification (1.0.2): the `config.json` of its bundle, and the
//! process of an exec, for runtimes that are not ours.
//!
//! What only the root file system can tell (users and groups) is resolved before and handed in as numbers;
//! namespaces of others are handed in as paths. The standard mounts, devices, masks and the seccomp profile are the
//! ones that our own runtime would use.

mod config;
mod process;

pub(crate) use config::{Config, resources};
pub(crate) use process::Process;

use serde_json::Value;

/// Drops what is null from objects, at every depth: not every runtime reads that as "not set".
fn compact(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, compact(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(compact).collect(),
        other => other,
    }
}
