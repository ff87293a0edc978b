//! Certificates: who may speak to whom, and how that is proved.
//!
//! - **authority**: the laptop's CA, made once and kept in one directory. Its key never leaves the laptop.
//! - **leaf**: a certificate with its key, signed by the authority: for a machine's engine (server) or for those who
//!   speak to it (client).
//! - **identity name**: `<uuid>.machine.berth`, the DNS name that every server leaf carries. Our client verifies this
//!   name whatever address it dialled, so an address may change without a new certificate.
//! - **bundle**: `ca.pem`, `cert.pem` and `key.pem` in a directory, as Docker clients want them in `DOCKER_CERT_PATH`.
//!
//! ```text
//! Authority::load_or_create ──▶ issue_server ──▶ to the machine ──▶ server_config   (hostd listens)
//!                          └──▶ issue_client ──▶ write_client_bundle ──▶ client_config   (berth dials)
//! ```
//! Keys are P-256, signatures ECDSA with SHA-256; TLS is rustls with ring as its provider.

mod authority;
mod error;
mod files;
mod leaf;
mod tls;

#[cfg(test)]
mod tests;

pub use authority::Authority;
pub use error::CertError;
pub use leaf::{Leaf, identity_name, not_after, not_after_of, write_client_bundle};
pub use tls::{client_config, server_config, server_config_without_clients};

/// What this crate answers.
pub type Result<T, E = CertError> = std::result::Result<T, E>;
