//! rustls configurations: who is trusted, and what is shown.

use crate::{CertError, Result};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// What is spoken inside. The Engine API upgrades connections, which only HTTP/1.1 can.
const ALPN: &[u8] = b"http/1.1";

/// Server that demands a client certificate of this CA.
pub fn server_config(ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<Arc<ServerConfig>> {
    let roots = Arc::new(roots(ca_pem)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|e| unusable("the certificate authority")(e.into()))?;
    server(ServerConfig::builder_with_provider(provider()), cert_pem, key_pem, |builder| {
        builder.with_client_cert_verifier(verifier)
    })
}

/// The same without client certificates (`--tls` alone).
pub fn server_config_without_clients(cert_pem: &str, key_pem: &str) -> Result<Arc<ServerConfig>> {
    server(ServerConfig::builder_with_provider(provider()), cert_pem, key_pem, |builder| {
        builder.with_no_client_auth()
    })
}

/// Client that trusts this CA alone and shows its certificate.
pub fn client_config(ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<Arc<ClientConfig>> {
    let unusable = unusable("the client's certificate");
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(e.into()))?
        .with_root_certificates(roots(ca_pem)?)
        .with_client_auth_cert(chain(cert_pem)?, key(key_pem)?)
        .map_err(|e| unusable(e.into()))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

type WantsVersions<S> = rustls::ConfigBuilder<S, rustls::WantsVersions>;
type WantsVerifier<S> = rustls::ConfigBuilder<S, rustls::WantsVerifier>;
type WantsCert<S> = rustls::ConfigBuilder<S, rustls::server::WantsServerCert>;

fn server(
    builder: WantsVersions<ServerConfig>,
    cert_pem: &str,
    key_pem: &str,
    clients: impl FnOnce(WantsVerifier<ServerConfig>) -> WantsCert<ServerConfig>,
) -> Result<Arc<ServerConfig>> {
    let unusable = unusable("the server's certificate");
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| unusable(e.into()))?;
    let mut config =
        clients(builder).with_single_cert(chain(cert_pem)?, key(key_pem)?).map_err(|e| unusable(e.into()))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Named each time, as the process-wide default is unset where several providers are linked.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(ca_pem: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for cert in certificates("the certificate authority", ca_pem)? {
        roots.add(cert).map_err(|e| unusable("the certificate authority")(e.into()))?;
    }
    Ok(roots)
}

fn chain(cert_pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    certificates("the certificate", cert_pem)
}

pub(crate) fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certs = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| CertError::Invalid { what: what.to_owned(), source: e.to_string().into() })?;
    if certs.is_empty() {
        return Err(CertError::Empty { what, section: "certificate" });
    }
    Ok(certs)
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    use rustls_pki_types::pem::Error::NoItemsFound;
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| match e {
        NoItemsFound => CertError::Empty { what: "the key file", section: "private key" },
        // The error may quote what it read, which is no one's business.
        _ => CertError::Invalid { what: "the private key".to_owned(), source: "malformed PEM".into() },
    })
}

fn unusable(what: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> CertError + Copy {
    move |source| CertError::Tls { what, source }
}
