//! `machine.toml`: what is known of one machine.

use super::Labels;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// Version of the record that this program writes; it refuses newer ones.
pub(crate) const SCHEMA: u32 = 1;

/// The record of one machine, as stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// See [`SCHEMA`].
    pub(crate) schema: u32,
    /// Identity, for as long as the machine lives; the server certificate carries it.
    pub(crate) id: Uuid,
    /// Same as the directory's name.
    pub(crate) name: String,
    /// Kind of driver, `qemu`.
    pub(crate) driver: String,
    /// Whether `create` has run to its end.
    pub(crate) state: Stage,
    /// When `create` began.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created: OffsetDateTime,
    /// What the user says of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: Labels,
    /// The fleet that made it, and that may therefore change and remove it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fleet: Option<String>,
    /// The driver's flags that it was made with; no secret ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) flags: BTreeMap<String, String>,
    /// Keys of hostd's configuration that are its own.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub(crate) hostd: toml::Table,
    /// What is known about the way in.
    #[serde(default)]
    pub(crate) ssh: Ssh,
    /// Which way its engine is reached by, unless the command line says.
    #[serde(default, skip_serializing_if = "is_auto")]
    pub(crate) via: Via,
    /// What the machine was given to show to clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server_certificate: Option<ServerCertificate>,
    /// What the driver stores.
    #[serde(default)]
    pub(crate) driver_config: toml::Table,
}

/// Which way a machine's engine is reached by: what `--via` says, or else its record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Via {
    /// Mutual TLS, and SSH where its port is not reached
    #[default]
    Auto,
    /// Mutual TLS alone
    Tls,
    /// One SSH session alone; the engine needs no open port
    Ssh,
}

fn is_auto(via: &Via) -> bool {
    *via == Via::Auto
}

/// How far `create` came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// `create` is running or was interrupted: the journal tells where.
    Creating,
    /// Made, provisioned and verified.
    Ready,
}

/// The part of the record that is about SSH.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ssh {
    /// Host keys that the machine may show, as OpenSSH public key lines; empty before the first contact.
    #[serde(default)]
    pub(crate) host_keys: Vec<String>,
}

/// The certificate on the machine; not the certificate itself, and not its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerCertificate {
    /// SHA-256 of the PEM file.
    pub(crate) sha256: String,
    /// SHA-256 of the authority's certificate that signed it.
    pub(crate) authority: String,
    /// The addresses and names that it was issued for, besides the machine's identity.
    pub(crate) names: Vec<String>,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) not_after: OffsetDateTime,
}
