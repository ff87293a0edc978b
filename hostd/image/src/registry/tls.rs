//! One HTTP client per registry: which certificate authorities it trusts, and who it says it is.
//!
//! Trusted are the well-known authorities, the machine's own bundle, and what an administrator put into
//! `/etc/docker/certs.d/<host>/` or `/etc/hostd/certs.d/<host>/`: `*.crt` are authorities, `client.cert` with `client.key` is
//! this machine's certificate.

use super::endpoint::is_loopback;
use crate::error::ImageError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where distributions keep the machine's bundle; the first that exists counts.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const CERTS_D: [&str; 2] = ["/etc/docker/certs.d", "/etc/hostd/certs.d"];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Silence in the middle of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The client for `host` (with its port, where it is not 443).
pub(super) fn client(host: &str, verify: bool) -> Result<reqwest::Client, ImageError> {
    let dirs: Vec<PathBuf> = CERTS_D.iter().map(|dir| Path::new(dir).join(host)).collect();
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(config(&dirs, verify)?)
        .user_agent(concat!("hostd/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .hickory_dns(true);
    if is_loopback(host) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| super::failed(format!("cannot make an HTTP client for {host}"), &error))
}

fn config(dirs: &[PathBuf], verify: bool) -> Result<ClientConfig, ImageError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| ImageError::Other(format!("cannot set up TLS: {error}")))?;
    let builder = if verify {
        builder.with_root_certificates(roots(dirs)?)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
    };
    let identity = dirs.iter().map(|dir| (dir.join("client.cert"), dir.join("client.key")));
    let mut config = match identity.into_iter().find(|(cert, _)| cert.exists()) {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(&cert)?;
            let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| unusable(&key, &error))?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| unusable(&cert, &error))?
        }
    };
    // Layers come faster over connections of their own than through HTTP/2's windows.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(dirs: &[PathBuf]) -> Result<RootCertStore, ImageError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(bundle) = BUNDLES.iter().map(Path::new).find(|path| path.exists()) {
        // One odd certificate in a distribution's bundle is no reason to trust none of it.
        roots.add_parsable_certificates(certificates(bundle)?);
    }
    for dir in dirs {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for path in
            entries.flatten().map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "crt"))
        {
            for certificate in certificates(&path)? {
                roots.add(certificate).map_err(|error| unusable(&path, &error))?;
            }
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ImageError> {
    CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect())
        .map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> ImageError {
    ImageError::Other(format!("cannot use {}: {error}", path.display()))
}

/// Takes any certificate, from registries that are configured as insecure.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
