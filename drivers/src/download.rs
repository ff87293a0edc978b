//! Files fetched once into a cache: downloaded beside, verified, renamed.

use crate::driver::{DriverError, Reporter};
use crate::files;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Where the file of a URL stands in the cache: by its checksum where there is one, else by its URL.
pub(crate) fn cached_path(cache: &Path, url: &Url, sha256: Option<&str>) -> PathBuf {
    let name = match sha256 {
        Some(hex) => format!("sha256-{hex}.img"),
        None => format!("url-{}.img", hex::encode(Sha256::digest(url.as_str()))),
    };
    cache.join("images").join(name)
}

/// Fetches `url` to where [`cached_path`] says, unless it is there.
pub(crate) async fn fetch(
    cache: &Path,
    url: &Url,
    sha256: Option<&str>,
    reporter: &dyn Reporter,
) -> Result<PathBuf, DriverError> {
    let path = cached_path(cache, url, sha256);
    if path.exists() {
        return Ok(path);
    }
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
        DriverError::failed(format!("cannot download {url}")).because(e)
    };
    let dir = cache.join("images");
    files::private_dir(&dir).map_err(|e| failed(e.into()))?;
    // A name of its own, as two may fetch the same at once; dropped, and so removed, on every way out but the last.
    let mut partial = tempfile::NamedTempFile::new_in(&dir).map_err(|e| failed(e.into()))?;
    let found = copy_body(url, &mut partial, &dir, reporter).await.map_err(failed)?;
    if let Some(wanted) = sha256.filter(|wanted| *wanted != found) {
        return Err(DriverError::failed(format!("{url} has another checksum than asked for"))
            .because(format!("expected sha256:{wanted}, found sha256:{found}"))
            .hint("the file was changed at its source or on its way; nothing of it was kept"));
    }
    let kept = partial.into_temp_path();
    files::commit(&kept, &path).map_err(|e| failed(e.into()))?;
    Ok(path)
}

/// Streams the body into `file`; returns the hex SHA-256 of what was written.
async fn copy_body(
    url: &Url,
    file: &mut tempfile::NamedTempFile,
    dir: &Path,
    reporter: &dyn Reporter,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls_config()?)
        .connect_timeout(Duration::from_secs(20))
        .read_timeout(Duration::from_secs(60))
        .build()?;
    let mut response = client.get(url.clone()).send().await?.error_for_status()?;
    let total = response.content_length();
    let free = files::free_space(dir)?;
    if total.is_some_and(|total| total > free) {
        return Err(format!(
            "it has {} bytes, and {} are free in {}",
            total.unwrap_or(0),
            free,
            dir.display()
        )
        .into());
    }
    let (mut hash, mut done) = (Sha256::new(), 0u64);
    while let Some(chunk) = response.chunk().await? {
        hash.update(&chunk);
        file.write_all(&chunk)?;
        done += chunk.len() as u64;
        reporter.progress("downloading the image", done, total);
    }
    Ok(hex::encode(hash.finalize()))
}

/// The public authorities, and those of `$SSL_CERT_FILE`: companies have their own.
fn tls_config() -> Result<rustls::ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|p| !p.is_empty()) {
        let unreadable = |e| format!("cannot read $SSL_CERT_FILE ({}): {e}", Path::new(&path).display());
        let found = CertificateDer::pem_file_iter(&path).map_err(unreadable)?;
        roots.add_parsable_certificates(found.flatten());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
