//! The hostd that is to be installed: one static file per architecture.

use crate::error::{CliError, Doing as _};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// A hostd on the laptop.
pub(crate) struct Binary {
    pub(crate) path: PathBuf,
    pub(crate) sha256: String,
    pub(crate) size: u64,
}

/// Finds the one for an architecture as `uname -m` names it: `$BERTH_HOSTD`, or `hostd-ARCH` or `hostd` beside berth or
/// in `../libexec`.
pub(crate) fn find(arch: &str) -> Result<Binary, CliError> {
    check(arch, locate(arch)?)
}

/// The one for an upgrade: a file that was named, a version that lies beside berth, or the same as [`find`].
pub(super) fn choose(arch: &str, wanted: &super::Wanted) -> Result<Binary, CliError> {
    match (&wanted.file, &wanted.version) {
        (Some(file), _) => check(arch, file.clone()),
        (None, Some(version)) => check(arch, locate_version(arch, version)?),
        (None, None) => find(arch),
    }
}

/// Whether a file is a program for an architecture, and what it is.
fn check(arch: &str, path: PathBuf) -> Result<Binary, CliError> {
    let machine = match arch {
        "x86_64" => 62,
        "aarch64" | "arm64" => 183,
        other => {
            return Err(CliError::new(format!("no hostd for the architecture {other}"))
                .hint("hostd runs on x86-64 and arm64"));
        }
    };
    let doing = || format!("cannot read {}", path.display());
    let mut file = File::open(&path).doing(doing())?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer).doing(doing())?;
        if read == 0 {
            break;
        }
        // `e_machine` of an ELF header; what is no ELF file may be a wrapper.
        if size == 0
            && buffer.starts_with(b"\x7fELF")
            && u16::from_le_bytes([buffer[18], buffer[19]]) != machine
        {
            return Err(CliError::new(format!("{} is no program for {arch}", path.display()))
                .hint("set BERTH_HOSTD to a hostd that was built for the machine"));
        }
        hash.update(&buffer[..read]);
        size += read as u64;
    }
    Ok(Binary { sha256: hex::encode(hash.finalize()), path, size })
}

/// Where programs that came with berth lie.
fn places() -> Result<[PathBuf; 3], CliError> {
    let own = std::env::current_exe().doing("cannot tell where berth is")?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    Ok([beside.to_owned(), beside.join("../libexec"), beside.join("../libexec/berth")])
}

fn locate_version(arch: &str, version: &str) -> Result<PathBuf, CliError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-+".contains(c);
    if !version.chars().all(plain) {
        return Err(CliError::usage(format!("invalid version `{version}`")));
    }
    places()?
        .iter()
        .flat_map(|dir| [dir.join(format!("hostd-{version}-{arch}")), dir.join(format!("hostd-{version}"))])
        .find(|path| path.is_file())
        .ok_or_else(|| {
            CliError::new(format!("cannot find hostd {version}")).hint(format!(
                "put it beside the berth executable as hostd-{version}-{arch}, or name it with --hostd FILE"
            ))
        })
}

/// The one that an image for machines on this host gets.
pub(crate) fn of_this_host() -> Result<PathBuf, CliError> {
    Ok(find(std::env::consts::ARCH)?.path)
}

fn locate(arch: &str) -> Result<PathBuf, CliError> {
    if let Some(given) = std::env::var_os("BERTH_HOSTD").filter(|given| !given.is_empty()) {
        return Ok(PathBuf::from(given));
    }
    places()?
        .iter()
        .flat_map(|dir| [dir.join(format!("hostd-{arch}")), dir.join("hostd")])
        .find(|path| path.is_file())
        .ok_or_else(|| {
            CliError::new("cannot find hostd, which is to be installed on the machine")
                .hint("put it beside the berth executable, or set BERTH_HOSTD to it")
        })
}
