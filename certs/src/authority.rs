//! The laptop's certificate authority.
//!
//! ```text
//! ca-key.pem   its key, 0600; written first
//! ca.pem       its certificate; once this is there, the authority is
//! ca.lock      held by whoever makes the authority, so that it is made once
//! ```
//! A crash between the two files leaves a key that nobody has seen a certificate of: the next caller begins anew. The
//! other way round, a certificate without its key, is never repaired: machines trust that certificate.

use crate::files::{self, Access};
use crate::leaf::{self, Leaf, Validity};
use crate::{CertError, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyPair,
    KeyUsagePurpose as Usage, PublicKeyData, SanType,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

const CERT: &str = "ca.pem";
const KEY: &str = "ca-key.pem";
const LOCK: &str = "ca.lock";

/// Ten years.
const LIFETIME: Duration = Duration::days(3652);
/// A year and a month: renewed once a year with a month to spare, and below what some clients accept at most.
const LEAF_LIFETIME: Duration = Duration::days(397);

/// The laptop's certificate authority: `ca.pem` and `ca-key.pem` (0600) in one directory.
pub struct Authority {
    cert_pem: String,
    not_after: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Authority {
    /// Loads it, or makes it: once even when many start together.
    pub fn load_or_create(dir: &Path) -> Result<Self> {
        if let Some(authority) = Self::load(dir)? {
            return Ok(authority);
        }
        files::make_dir(dir)?;
        let _lock = files::lock(&dir.join(LOCK))?;
        // Another may have made it while we waited for the lock.
        if let Some(authority) = Self::load(dir)? {
            return Ok(authority);
        }
        files::sweep(dir)?;
        let (cert_pem, key_pem) = generate(Validity::from_now(LIFETIME))?;
        files::write(dir, KEY, &key_pem, Access::Owner)?;
        files::write(dir, CERT, &cert_pem, Access::All)?;
        Self::from_pem(dir, cert_pem, &key_pem)
    }

    /// The authority in `dir`, or `None` where there is none (yet).
    fn load(dir: &Path) -> Result<Option<Self>> {
        let Some(cert_pem) = files::read(&dir.join(CERT))? else { return Ok(None) };
        let Some(key_pem) = files::read(&dir.join(KEY))? else {
            return Err(CertError::KeyLost { dir: dir.to_owned() });
        };
        Self::from_pem(dir, cert_pem, &key_pem).map(Some)
    }

    fn from_pem(dir: &Path, cert_pem: String, key_pem: &str) -> Result<Self> {
        let invalid = |name: &str, source: Box<dyn std::error::Error + Send + Sync>| CertError::Invalid {
            what: dir.join(name).display().to_string(),
            source,
        };
        let key = KeyPair::from_pem(key_pem).map_err(|e| invalid(KEY, e.into()))?;
        if leaf::public_key(&cert_pem).map_err(|e| invalid(CERT, e.into()))? != key.subject_public_key_info()
        {
            return Err(CertError::KeyMismatch { dir: dir.to_owned() });
        }
        let not_after = leaf::not_after(&cert_pem)?;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).map_err(|e| invalid(CERT, e.into()))?;
        Ok(Self { cert_pem, not_after, issuer })
    }

    /// Its certificate, which is all that others get to see.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// A certificate for a machine's engine.
    ///
    /// EKU serverAuth, and clientAuth as the engines of one fleet will talk to each other; DNS SANs
    /// [`identity_name`](crate::identity_name), `localhost` and `names`; IP SANs 127.0.0.1, ::1 and `ips`.
    pub fn issue_server(&self, machine: Uuid, names: &[String], ips: &[IpAddr]) -> Result<Leaf> {
        let identity = leaf::identity_name(machine);
        let mut all_names = vec![identity.clone(), "localhost".to_owned()];
        all_names.extend_from_slice(names);
        let mut all_ips = vec![IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        all_ips.extend_from_slice(ips);
        let usages = [Eku::ServerAuth, Eku::ClientAuth];
        self.issue(&identity, sans(&all_names, &all_ips)?, &usages, Validity::from_now(LEAF_LIFETIME))
    }

    /// A certificate for someone who speaks to engines. EKU clientAuth.
    pub fn issue_client(&self, common_name: &str) -> Result<Leaf> {
        self.issue(common_name, Vec::new(), &[Eku::ClientAuth], Validity::from_now(LEAF_LIFETIME))
    }

    /// A leaf that ends with its authority at the latest.
    pub(crate) fn issue(
        &self,
        common_name: &str,
        sans: Vec<SanType>,
        usages: &[Eku],
        validity: Validity,
    ) -> Result<Leaf> {
        let fail = |source| CertError::Make { what: format!("a certificate for {common_name}"), source };
        let key = KeyPair::generate().map_err(fail)?;
        let mut params = params(common_name, validity)?;
        params.not_after = params.not_after.min(self.not_after);
        // Not `NoCa`, which leaves out the subject key identifier.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![Usage::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.subject_alt_names = sans;
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.issuer).map_err(fail)?;
        Ok(Leaf { cert_pem: cert.pem(), key_pem: key.serialize_pem(), not_after: params.not_after })
    }
}

/// The SANs for these names and addresses, each once.
pub(crate) fn sans(names: &[String], ips: &[IpAddr]) -> Result<Vec<SanType>> {
    let mut sans = Vec::new();
    for name in names {
        let dns =
            name.as_str().try_into().map_err(|source| CertError::Name { name: name.clone(), source })?;
        sans.push(SanType::DnsName(dns));
    }
    sans.extend(ips.iter().copied().map(SanType::IpAddress));
    let mut seen = std::collections::HashSet::new();
    sans.retain(|san| seen.insert(san.clone()));
    Ok(sans)
}

/// A new authority's certificate and key.
fn generate(validity: Validity) -> Result<(String, String)> {
    let fail = |source| CertError::Make { what: "the certificate authority".to_owned(), source };
    let key = KeyPair::generate().map_err(fail)?;
    // A name of its own, as clients that know several authorities look them up by name.
    let name = format!("Berth CA {}", &Uuid::new_v4().simple().to_string()[..12]);
    let mut params = params(&name, validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![Usage::KeyCertSign, Usage::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let cert = params.self_signed(&key).map_err(fail)?;
    Ok((cert.pem(), key.serialize_pem()))
}

/// What every certificate has.
fn params(common_name: &str, validity: Validity) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Berth");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(leaf::serial()?);
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    Ok(params)
}
