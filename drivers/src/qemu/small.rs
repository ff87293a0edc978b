//! berth's own machine image: a kernel, busybox, an SSH server and hostd, up in the time that a bare kernel takes and a
//! little more. `image/small/build` makes it and says what is in it.
//!
//! ```text
//! <image>            the system, read-only, which all machines made from it share
//! <image>.kernel     <image>.initrd
//! <image>.toml       the manifest: it tells this kind of image from a disk with cloud-init
//! ```
//! Where a cloud image has a seed volume, this one has a second archive behind its initial RAM disk.

use crate::driver::{DriverError, Keys, Reporter};
use crate::files;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// Version of the manifest, and of what image and driver promise each other.
const FORMAT: u32 = 1;

/// The script that makes an image, and what goes into the image beside it.
const PARTS: [(&str, &str); 8] = [
    ("build", include_str!("../../image/small/build")),
    ("init", include_str!("../../image/small/init")),
    ("boot", include_str!("../../image/small/boot")),
    ("service", include_str!("../../image/small/service")),
    ("down", include_str!("../../image/small/down")),
    ("udhcpc", include_str!("../../image/small/udhcpc")),
    ("inittab", include_str!("../../image/small/inittab")),
    ("sshd_config", include_str!("../../image/small/sshd_config")),
];

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    format: u32,
    /// Version of the berth that made it.
    pub version: String,
    /// As `uname -m` has it.
    pub arch: String,
    /// The kernel's version.
    pub linux: String,
    /// SHA-256 of the hostd in it.
    pub hostd_sha256: String,
}

/// An image of ours in the cache.
#[derive(Clone, Debug)]
pub struct SmallImage {
    /// The system; the rest stands beside it.
    pub path: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Bytes on disk of all its files.
    pub size: u64,
    /// Whether it is the one that machines are made from where no image is named.
    pub default: bool,
}

/// Where the image of this version of berth is, in the cache.
pub fn default_path(cache: &Path) -> PathBuf {
    cache.join(format!("berth-{}-{}.img", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH))
}

/// `<path>.<suffix>`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{suffix}"));
    name.into()
}

/// The manifest at this path; `None` where there is none.
pub(super) fn manifest(path: &Path) -> Result<Option<Manifest>, DriverError> {
    let unusable = || DriverError::precheck(format!("cannot use the image's manifest {}", path.display()));
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unusable().because(e)),
    };
    let manifest: Manifest = toml::from_str(&text).map_err(|e| unusable().because(e))?;
    if manifest.format != FORMAT {
        let found = format!("it has format {}, and this berth knows {FORMAT}", manifest.format);
        return Err(unusable().because(found).hint("make a new one with `berth image build`"));
    }
    if manifest.arch != std::env::consts::ARCH {
        let found = format!("it is for {}, and this host is {}", manifest.arch, std::env::consts::ARCH);
        return Err(unusable().because(found));
    }
    Ok(Some(manifest))
}

/// All images of ours in the cache. One that cannot be read is left out of nothing: its error stands in its place.
pub fn list(cache: &Path) -> io::Result<Vec<Result<SmallImage, DriverError>>> {
    let entries = match fs::read_dir(cache) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if let Some(name) = path.to_string_lossy().strip_suffix(".img.toml") {
            found.push(PathBuf::from(format!("{name}.img")));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|path| look_at(path, cache)).collect())
}

fn look_at(path: PathBuf, cache: &Path) -> Result<SmallImage, DriverError> {
    let gone = || DriverError::precheck(format!("no image at {}", path.display()));
    let manifest = manifest(&beside(&path, "toml"))?.ok_or_else(gone)?;
    let size_of = |file: &Path| fs::metadata(file).map(|found| found.len());
    let mut size = 0;
    for file in [path.clone(), beside(&path, "kernel"), beside(&path, "initrd")] {
        size += size_of(&file).map_err(|e| {
            DriverError::precheck(format!("the image {} lacks a part", path.display())).because(e)
        })?;
    }
    Ok(SmallImage { default: path == default_path(cache), path, manifest, size })
}

/// Makes an image at `out` with this hostd, from Debian's packages. Whole or not at all: a build that fails leaves what
/// was there.
pub async fn build(out: &Path, hostd: &Path, reporter: &dyn Reporter) -> Result<(), DriverError> {
    let failed = |e: io::Error| DriverError::failed("cannot make the image").because(e);
    let parts = tempfile::Builder::new().prefix("berth-image-").tempdir().map_err(failed)?;
    for (name, content) in PARTS {
        let path = parts.path().join(name);
        fs::write(&path, content).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    }
    let mut child = Command::new("bash")
        .arg(parts.path().join("build"))
        .arg(out)
        .arg(hostd)
        .env("BERTH_VERSION", env!("CARGO_PKG_VERSION"))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        while let Some(line) = lines.next_line().await.map_err(failed)? {
            match line.strip_prefix("==> ") {
                Some(step) => reporter.step(step),
                None => said.push(line),
            }
        }
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    Err(explained(&said, status.code()))
}

/// The script's own words as an error: `error: …` and `hint: …`, or the last that was said.
fn explained(said: &[String], code: Option<i32>) -> DriverError {
    let word = |prefix: &str| said.iter().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned);
    let last = || said[said.len().saturating_sub(10)..].join("\n");
    let cause = word("error: ").unwrap_or_else(last);
    let error = if code == Some(3) {
        DriverError::precheck("this host cannot make an image").because(cause)
    } else {
        DriverError::failed("cannot make the image").because(cause)
    };
    match word("hint: ") {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Writes the initial RAM disk of one machine: the image's own, and behind it who the machine is.
pub(super) fn write_initrd(path: &Path, base: &Path, name: &str, user: &str, keys: &Keys) -> io::Result<()> {
    let partial = files::partial(path);
    let mut file = files::create_private(&partial)?;
    let length = io::copy(&mut File::open(base)?, &mut file)?;
    // The kernel looks for the next archive behind zeros, at a multiple of four.
    file.write_all(&vec![0; length.wrapping_neg() as usize % 4])?;
    file.write_all(&seed(name, user, keys)?)?;
    files::commit(&partial, path)
}

fn seed(name: &str, user: &str, keys: &Keys) -> io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    let line = |text: &str| format!("{}\n", text.trim_end());
    for (file, mode, content) in [
        ("hostname", 0o644, line(name)),
        ("user", 0o644, line(user)),
        ("authorized_key", 0o644, line(&keys.authorized_key)),
        ("ssh_host_ed25519_key", 0o600, line(&keys.host_private_key)),
        ("ssh_host_ed25519_key.pub", 0o644, line(&keys.host_public_key)),
    ] {
        archive.file(&format!("seed/{file}"), mode, content.as_bytes())?;
    }
    for file in &keys.files {
        archive.file(
            &format!("seed/files/{}", file.path.trim_start_matches('/')),
            file.mode,
            file.content.as_bytes(),
        )?;
    }
    archive.entry("TRAILER!!!", 0, b"")?;
    Ok(archive.bytes)
}

/// A cpio archive of the kind that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    directories: Vec<String>,
}

impl Archive {
    /// A file, with the directories above it.
    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        for (at, _) in path.match_indices('/') {
            let directory = path[..at].to_owned();
            if !self.directories.contains(&directory) {
                self.entry(&directory, 0o040_755, b"")?;
                self.directories.push(directory);
            }
        }
        self.entry(path, 0o100_000 | mode, content)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let number = self.bytes.len();
        let too_large = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is too large"));
        let size = u32::try_from(content.len()).map_err(too_large)?;
        // Inode, mode, owner, group, links, time, size, four device numbers, length of the name, checksum.
        let fields = [number as u32, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::PlacedFile;

    #[test]
    fn the_seed_is_an_archive_that_cpio_unpacks_with_modes_and_directories() {
        let keys = Keys {
            authorized_key: "ssh-ed25519 AAAAuser me\n".into(),
            host_private_key: "private\n".into(),
            host_public_key: "public".into(),
            files: vec![PlacedFile {
                path: "/etc/hostd/tls/server-key.pem".into(),
                mode: 0o600,
                content: "key".into(),
            }],
        };
        let dir = tempfile::tempdir().unwrap();
        let (base, out) = (dir.path().join("base"), dir.path().join("out"));
        fs::write(&base, b"").unwrap();
        write_initrd(&out, &base, "dev", "berth", &keys).unwrap();
        assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
        let unpacked = std::process::Command::new("busybox")
            .args(["cpio", "-i", "-d", "-F"])
            .arg(&out)
            .current_dir(dir.path())
            .output();
        let Ok(unpacked) = unpacked else { return eprintln!("skipped: no busybox") };
        assert!(unpacked.status.success(), "{unpacked:?}");
        let seed = dir.path().join("seed");
        assert_eq!(fs::read_to_string(seed.join("user")).unwrap(), "berth\n");
        let key = seed.join("files/etc/hostd/tls/server-key.pem");
        assert_eq!(fs::read_to_string(&key).unwrap(), "key");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_manifest_of_another_format_or_architecture_is_refused_and_none_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        assert_eq!(manifest(&path).unwrap(), None);
        let text = |format: u32, arch: &str| {
            format!(
                "format = {format}\nversion = \"1\"\narch = \"{arch}\"\nlinux = \"6\"\nhostd-sha256 = \"00\"\n"
            )
        };
        fs::write(&path, text(FORMAT, std::env::consts::ARCH)).unwrap();
        assert_eq!(manifest(&path).unwrap().unwrap().hostd_sha256, "00");
        for wrong in [text(FORMAT + 1, std::env::consts::ARCH), text(FORMAT, "pdp11"), "x".into()] {
            fs::write(&path, wrong).unwrap();
            assert!(manifest(&path).is_err());
        }
    }

    #[test]
    fn a_build_that_fails_tells_what_is_missing_and_how_to_get_it() {
        let said =
            ["error: not installed: xz-utils", "hint: sudo apt-get install xz-utils"].map(str::to_owned);
        let error = explained(&said, Some(3));
        assert_eq!(error.kind, crate::driver::ErrorKind::Precheck);
        assert_eq!(error.source.unwrap().to_string(), "not installed: xz-utils");
        assert_eq!(error.hint.unwrap(), "sudo apt-get install xz-utils");
        let error = explained(&["mkfs.ext4: no space".to_owned()], Some(1));
        assert_eq!(error.source.unwrap().to_string(), "mkfs.ext4: no space");
    }
}
