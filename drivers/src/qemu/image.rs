//! Base images, and the machine's disk on top of one.
//!
//! The machine keeps a hard link of its own to the base (and to a kernel beside it), so that an image which is
//! rebuilt or deleted in its place never changes under a machine; `disk.qcow2` holds what differs from it, or, where the
//! image is one of our own, all that the machine writes.

use super::config::{Config, Source};
use super::small::{self, Manifest};
use crate::download;
use crate::driver::{DriverError, MachineContext};
use crate::files;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// The image in the cache that is used where the user names none and there is none of our own.
const DEBIAN_IMAGE: &str = "debian-12.qcow2";
/// Names in the machine's directory.
pub(super) const DISK: &str = "disk.qcow2";
pub(super) const KERNEL: &str = "kernel";
pub(super) const INITRD: &str = "initrd";
pub(super) const BASE: &str = "base.img";
/// What an image of our own says of itself; only a machine made from one has it.
pub(super) const MANIFEST: &str = "image.toml";

/// Format of a disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Qcow2,
    Raw,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// An image with the kernel and initial RAM disk to boot it with, where it has no boot loader.
#[derive(Debug)]
pub(super) struct Bundle {
    disk: PathBuf,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    /// An image of our own.
    own: Option<Manifest>,
    /// Came over the network, so that what it refers to is not trusted.
    foreign: bool,
}

/// The image as far as it is on this host already: `None` for one that is to be downloaded first.
pub(super) fn local(config: &Config, context: &MachineContext) -> Result<Option<Bundle>, DriverError> {
    let (disk, foreign) = match &config.image {
        None => (default_image(&context.cache), false),
        Some(Source::File(path)) => (path.clone(), false),
        Some(Source::Url { url, sha256 }) => {
            let path = download::cached_path(&context.cache, url, sha256.as_deref());
            if !path.exists() {
                return Ok(None);
            }
            (path, true)
        }
    };
    if !disk.is_file() {
        return Err(missing(config, &disk));
    }
    let own = if foreign { None } else { small::manifest(&small::beside(&disk, "toml"))? };
    if own.is_some() && (config.kernel.is_some() || config.append.is_some()) {
        return Err(DriverError::usage("an image of berth's own has its kernel and its command line")
            .hint("leave out --qemu-kernel, --qemu-initrd and --qemu-append, or name another image with --qemu-image"));
    }
    let bundle = Bundle {
        kernel: beside(&config.kernel, &disk, "kernel"),
        initrd: initrd(config, &disk),
        disk,
        own,
        foreign,
    };
    bundle.check_boot_files()?;
    Ok(Some(bundle))
}

/// Our own of this version, else the Debian image as it was made before there was one.
fn default_image(cache: &Path) -> PathBuf {
    let (own, debian) = (small::default_path(cache), cache.join(DEBIAN_IMAGE));
    if !own.exists() && debian.exists() { debian } else { own }
}

fn missing(config: &Config, disk: &Path) -> DriverError {
    if config.image.is_some() {
        return DriverError::precheck(format!("no image at {}", disk.display()))
            .hint("--qemu-image takes a file or an https URL");
    }
    DriverError::precheck(format!("no machine image was named, and there is none at {}", disk.display())).hint(
        "make one with `berth image build`, which takes a minute on Debian or Ubuntu; or name one with --qemu-image: \
         a file, or the https URL of a cloud image",
    )
}

/// The file the user named, else `<image>.<suffix>` where there is one.
fn beside(named: &Option<PathBuf>, disk: &Path, suffix: &str) -> Option<PathBuf> {
    named.clone().or_else(|| Some(small::beside(disk, suffix)).filter(|p| p.is_file()))
}

fn initrd(config: &Config, disk: &Path) -> Option<PathBuf> {
    // A kernel of the user's own does not go with the image's initial RAM disk.
    if config.kernel.is_some() { config.initrd.clone() } else { beside(&config.initrd, disk, "initrd") }
}

impl Bundle {
    /// The kernel that boots it without a boot loader.
    pub(super) fn kernel(&self) -> Option<&Path> {
        self.kernel.as_deref()
    }

    /// What the image says of itself, where it is one of our own.
    pub(super) fn own(&self) -> Option<&Manifest> {
        self.own.as_ref()
    }

    fn check_boot_files(&self) -> Result<(), DriverError> {
        if self.own.is_some() && (self.kernel.is_none() || self.initrd.is_none()) {
            return Err(DriverError::precheck(format!(
                "the image {} lacks its kernel or its initrd",
                self.disk.display()
            ))
            .hint("make it again with `berth image build`"));
        }
        for path in [&self.kernel, &self.initrd].into_iter().flatten() {
            File::open(path)
                .map_err(|e| DriverError::precheck(format!("cannot read {}", path.display())).because(e))?;
        }
        Ok(())
    }

    /// Whether the image is a disk, and one that fits into the size asked for.
    pub(super) async fn check(&self, qemu_img: &Path, disk_mib: u64) -> Result<(), DriverError> {
        if self.own.is_some() {
            // Its disk is not the machine's, and was made by us.
            return Ok(());
        }
        let format = format_of(&self.disk)?;
        let info = info(qemu_img, &self.disk, format).await?;
        // A qcow2 file may name any other file of this host as its content.
        let refers = info.get("backing-filename").or_else(|| info.pointer("/format-specific/data/data-file"));
        if let Some(other) = refers.filter(|_| self.foreign) {
            return Err(DriverError::precheck(format!(
                "the downloaded image refers to another file: {other}"
            ))
            .hint("an image has to stand alone; this one may want to read files of this host"));
        }
        let virtual_size = info.get("virtual-size").and_then(Value::as_u64).unwrap_or(0);
        if disk_mib.saturating_mul(1 << 20) < virtual_size {
            let needed = virtual_size.div_ceil(1 << 20);
            return Err(DriverError::precheck(format!(
                "the image needs a disk of {needed} MiB, and --qemu-disk-size is {disk_mib}"
            )));
        }
        Ok(())
    }

    /// Makes the machine's disk in `dir`, unless it is there.
    pub(super) async fn make_disk(
        &self,
        qemu_img: &Path,
        dir: &Path,
        disk_mib: u64,
    ) -> Result<(), DriverError> {
        let disk = dir.join(DISK);
        if disk.exists() {
            return Ok(());
        }
        let failed =
            |e: io::Error| DriverError::failed(format!("cannot make the disk {}", disk.display())).because(e);
        let manifest = self.own.as_ref().map(|_| small::beside(&self.disk, "toml"));
        for (from, to) in [
            (Some(&self.disk), BASE),
            (self.kernel.as_ref(), KERNEL),
            (self.initrd.as_ref(), INITRD),
            (manifest.as_ref(), MANIFEST),
        ] {
            match from {
                Some(from) => pin(from, &dir.join(to)).map_err(failed)?,
                None => files::remove_if_there(&dir.join(to)).map_err(failed)?,
            }
        }
        let partial = files::partial(&disk);
        files::remove_if_there(&partial).map_err(failed)?;
        // The base is named relative to the overlay: the machine's directory may be moved.
        let mut command = Command::new(qemu_img);
        command.args(["create", "-q", "-f", "qcow2"]);
        if self.own.is_none() {
            command.args(["-b", BASE, "-F", format_of(&self.disk)?.name()]);
        }
        command.arg(&partial).arg(format!("{disk_mib}M"));
        run(command).await.map_err(failed)?;
        files::commit(&partial, &disk).map_err(failed)
    }

    /// Deletes a downloaded file that turned out to be no image.
    pub(super) fn forget_download(&self) {
        if self.foreign {
            let _ = fs::remove_file(&self.disk);
        }
    }
}

/// Makes `to` the same file as `from`, or a copy where links do not reach.
fn pin(from: &Path, to: &Path) -> io::Result<()> {
    let partial = files::partial(to);
    files::remove_if_there(&partial)?;
    let from = fs::canonicalize(from)?;
    if fs::hard_link(&from, &partial).is_err() {
        fs::copy(&from, &partial)?;
    }
    files::commit(&partial, to)
}

/// Tells a disk from what is none by its first bytes; never lets QEMU guess, as a raw disk's guest could
/// write a qcow2 header that names files of this host.
pub(super) fn format_of(path: &Path) -> Result<Format, DriverError> {
    let no_disk = |what: &str| {
        DriverError::precheck(format!("{} is no disk image: {what}", path.display())).hint(
            "--qemu-image takes a qcow2 or raw disk, such as the cloud images that distributions publish",
        )
    };
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(2048).read_to_end(&mut head));
    read.map_err(|e| DriverError::precheck(format!("cannot read the image {}", path.display())).because(e))?;
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    if at(0, b"QFI\xfb") {
        return Ok(Format::Qcow2);
    }
    if head.is_empty() {
        return Err(no_disk("it is empty"));
    }
    let text = head.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace() || *b >= 0x80);
    if text {
        let page = head.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'<');
        return Err(no_disk(if page { "it is a web page" } else { "it is text" }));
    }
    for (magic, what) in [
        (&b"\x1f\x8b"[..], "gzip"),
        (b"\xfd7zXZ", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh", "bzip2"),
        (b"PK\x03\x04", "zip"),
    ] {
        if at(0, magic) {
            return Err(no_disk(&format!("it is compressed with {what}; unpack it first")));
        }
    }
    // A partition table's signature, or the magic of ext2/3/4, XFS or Btrfs without partitions.
    if at(510, b"\x55\xaa") || at(1080, b"\x53\xef") || at(0, b"XFSB") {
        return Ok(Format::Raw);
    }
    Err(no_disk("it has neither qcow2's magic, nor a partition table, nor a file system"))
}

/// Makes the machine's disk larger; nothing where it has that size. It never becomes smaller: what lies at its end would be lost.
pub(super) async fn grow(qemu_img: &Path, dir: &Path, disk_mib: u64) -> Result<(), DriverError> {
    let disk = dir.join(DISK);
    let info = info(qemu_img, &disk, Format::Qcow2).await?;
    let now = info.get("virtual-size").and_then(Value::as_u64).unwrap_or(0).div_ceil(1 << 20);
    if disk_mib == now {
        return Ok(());
    }
    if disk_mib < now {
        return Err(DriverError::usage(format!("the disk has {now} MiB, and cannot become smaller")));
    }
    let mut command = Command::new(qemu_img);
    command.args(["resize", "-q", "-f", "qcow2"]).arg(&disk).arg(format!("{disk_mib}M"));
    let failed = |e| DriverError::failed(format!("cannot grow the disk {}", disk.display())).because(e);
    run(command).await.map(drop).map_err(failed)
}

async fn info(qemu_img: &Path, disk: &Path, format: Format) -> Result<Value, DriverError> {
    let broken =
        |e: io::Error| DriverError::precheck(format!("cannot use the image {}", disk.display())).because(e);
    let mut command = Command::new(qemu_img);
    command.args(["info", "--force-share", "--output=json", "-f", format.name()]).arg(disk);
    let output = run(command).await.map_err(broken)?;
    serde_json::from_slice(&output).map_err(|e| broken(e.into()))
}

/// Runs a command to its end; its complaint is the error.
async fn run(mut command: Command) -> io::Result<Vec<u8>> {
    let output = command.stdin(std::process::Stdio::null()).kill_on_drop(true).output().await?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::ErrorKind;

    #[test]
    fn what_is_no_disk_is_named_for_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut partitioned = vec![0u8; 512];
        partitioned[510..].copy_from_slice(b"\x55\xaa");
        for (content, expected) in [
            (&b"QFI\xfb\0\0\0\x03"[..], Ok(Format::Qcow2)),
            (&partitioned, Ok(Format::Raw)),
            (b"", Err("it is empty")),
            (b"<!DOCTYPE html><html>", Err("it is a web page")),
            (b"404 not found\n", Err("it is text")),
            (b"\xfd7zXZ\0\0", Err("compressed with xz")),
            (b"\0\0\0\0", Err("neither")),
        ] {
            fs::write(&path, content).unwrap();
            match (format_of(&path), expected) {
                (Ok(found), Ok(wanted)) => assert_eq!(found, wanted),
                (Err(error), Err(words)) => {
                    assert_eq!(error.kind, ErrorKind::Precheck);
                    assert!(error.what.contains(words), "{error}");
                }
                (found, wanted) => panic!("{found:?} instead of {wanted:?}"),
            }
        }
    }
}
