//! Files that are whole or absent, whatever happens while they are written.

use crate::{CertError, Result};
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// What temporary files are called until they are renamed into place.
const TEMPORARY: &str = ".certs-tmp-";

/// Far more than any certificate, chain or key.
const MAX_SIZE: u64 = 1 << 20;

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// 0600: keys.
    Owner,
    /// 0644: certificates.
    All,
}

/// Makes `dir` with 0700 where it does not exist.
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| failed("create", dir, e))
}

/// The file's text, or `None` where there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("read", path, e)),
    };
    let mut text = String::new();
    file.take(MAX_SIZE).read_to_string(&mut text).map_err(|e| failed("read", path, e))?;
    Ok(Some(text))
}

/// Puts `text` at `dir`/`name`, in place of what was there: readers see the old or the new, and so does the next boot.
pub(crate) fn write(dir: &Path, name: &str, text: &str, access: Access) -> Result<()> {
    let path = dir.join(name);
    let fail = |e| failed("write", &path, e);
    // Temporary files are made 0600, so that a key is at no time readable by others.
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir).map_err(fail)?;
    file.write_all(text.as_bytes()).map_err(fail)?;
    if access == Access::All {
        file.as_file().set_permissions(Permissions::from_mode(0o644)).map_err(fail)?;
    }
    file.as_file().sync_all().map_err(fail)?;
    file.persist(&path).map_err(|e| fail(e.error))?;
    // rename(2) is atomic but not durable by itself.
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(fail)
}

/// Removes what writers that crashed left behind. Only while no other may be writing.
pub(crate) fn sweep(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(|e| failed("read", dir, e))? {
        let entry = entry.map_err(|e| failed("read", dir, e))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            fs::remove_file(entry.path()).map_err(|e| failed("remove", &entry.path(), e))?;
        }
    }
    Ok(())
}

/// Waits until this process alone holds `path`; it is released when the file is dropped, or its holder dies.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let mut options = File::options();
    let file =
        options.create(true).truncate(false).write(true).open(path).map_err(|e| failed("open", path, e))?;
    file.lock().map_err(|e| failed("lock", path, e))?;
    Ok(file)
}

fn failed(what: &'static str, path: &Path, source: std::io::Error) -> CertError {
    CertError::File { what, path: path.to_owned(), source }
}
