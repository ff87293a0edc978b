//! Certificates with their keys, and what can be read from a certificate.

use crate::files::{self, Access};
use crate::{CertError, Result};
use rcgen::SerialNumber;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// How far back a certificate begins, for machines whose clock is behind.
const BACKDATED: Duration = Duration::minutes(10);

/// A certificate with its key, as PEM. `Debug` does not show the key.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key (PKCS#8).
    pub key_pem: String,
    /// The last moment at which it is valid.
    pub not_after: OffsetDateTime,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cert_pem, key_pem: _, not_after } = self;
        f.debug_struct("Leaf")
            .field("cert_pem", cert_pem)
            .field("not_after", not_after)
            .finish_non_exhaustive()
    }
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
}

impl Validity {
    /// `lifetime` from now on, and a few minutes back.
    pub(crate) fn from_now(lifetime: Duration) -> Self {
        let now = OffsetDateTime::now_utc();
        Self { not_before: now - BACKDATED, not_after: now + lifetime }
    }
}

/// The DNS name under which a machine's certificate is verified, whatever its address: `<uuid>.machine.berth`.
pub fn identity_name(machine: Uuid) -> String {
    format!("{}.machine.berth", machine.hyphenated())
}

/// Writes `ca.pem`, `cert.pem`, `key.pem` (0600) as docker's `DOCKER_CERT_PATH` wants them, each atomically.
///
/// The key goes first: one who is interrupted in between leaves a bundle that does not fit together rather than none,
/// and writing it again repairs it.
pub fn write_client_bundle(dir: &Path, ca_pem: &str, leaf: &Leaf) -> Result<()> {
    files::make_dir(dir)?;
    files::write(dir, "key.pem", &leaf.key_pem, Access::Owner)?;
    files::write(dir, "cert.pem", &leaf.cert_pem, Access::All)?;
    files::write(dir, "ca.pem", ca_pem, Access::All)
}

/// The last moment at which the (first) certificate of `cert_pem` is valid.
pub fn not_after(cert_pem: &str) -> Result<OffsetDateTime> {
    with_x509(cert_pem, |cert| cert.validity().not_after.to_datetime())
}

/// The same of a certificate as DER.
pub fn not_after_of(der: &[u8]) -> Result<OffsetDateTime> {
    let invalid = |source| CertError::Invalid { what: "the certificate".to_owned(), source };
    let (_, cert) = x509_parser::parse_x509_certificate(der).map_err(|e| invalid(e.to_string().into()))?;
    Ok(cert.validity().not_after.to_datetime())
}

/// Its public key with the algorithm, as DER.
pub(crate) fn public_key(cert_pem: &str) -> Result<Vec<u8>> {
    with_x509(cert_pem, |cert| cert.public_key().raw.to_vec())
}

/// 16 bytes, 126 bits of them random: unique without a register, positive, and short enough for everyone.
pub(crate) fn serial() -> Result<SerialNumber> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(CertError::Random)?;
    // The first bit of an ASN.1 integer is its sign, and a first byte of zero would be cut off.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn with_x509<T>(
    cert_pem: &str,
    read: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> T,
) -> Result<T> {
    let invalid = |source| CertError::Invalid { what: "the certificate".to_owned(), source };
    let der =
        CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|e| invalid(e.to_string().into()))?;
    let (_, cert) = x509_parser::parse_x509_certificate(&der).map_err(|e| invalid(e.to_string().into()))?;
    Ok(read(&cert))
}
