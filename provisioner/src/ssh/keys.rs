//! Ed25519 keys in OpenSSH's format: ours for a machine, and the one that the machine is to show.

use crate::error::{CliError, Doing as _};
use crate::store::files;
use drivers::driver::Keys;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};
use std::path::Path;

/// The keys of a machine, made where they are not there yet.
pub(crate) fn load_or_create(dir: &Path, name: &str) -> Result<Keys, CliError> {
    let (_, authorized_key) = pair(dir, "id_ed25519", &format!("berth-{name}"))?;
    let (host_private_key, host_public_key) = pair(dir, "host_ed25519", name)?;
    Ok(Keys { authorized_key, host_private_key, host_public_key, files: Vec::new() })
}

/// Private and public text of one key; the private file counts, the other is written from it.
fn pair(dir: &Path, file: &str, comment: &str) -> Result<(String, String), CliError> {
    let path = dir.join(file);
    let doing = || format!("cannot make the key {}", path.display());
    let private = match files::read(&path, 1 << 16) {
        Ok(text) => text,
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {
            let mut key =
                PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).doing(doing())?;
            key.set_comment(comment);
            let text = key.to_openssh(LineEnding::LF).doing(doing())?.to_string();
            files::write(&path, text.as_bytes(), 0o600).doing(doing())?;
            text
        }
        Err(other) => {
            return Err(CliError::new(format!("cannot read the key {}", path.display())).because(other));
        }
    };
    let key = PrivateKey::from_openssh(&private).doing(format!("cannot read the key {}", path.display()))?;
    let public = key.public_key().to_openssh().doing(doing())?;
    files::write(&dir.join(format!("{file}.pub")), format!("{public}\n").as_bytes(), 0o644).doing(doing())?;
    Ok((private, public))
}
