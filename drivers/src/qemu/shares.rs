//! Folders of this computer in a machine made from an image of our own: by 9p, and only those that were asked for.
//!
//! ```text
//! <dir>/shares/<n>     where the guest sees the folder number n, as /mnt/laptop/<n>
//! <dir>/shares.toml    which folders; they are there again at the machine's next start
//! ```
//! QEMU exports `shares/`, which is empty, and runs in a mount namespace of its own. To share a folder is to bind it below
//! `shares/` in that namespace: nobody but that QEMU sees it there, and the guest sees nothing else of this computer.
//! Without root, a user namespace allows it. What QEMU makes there belongs to whoever runs it.

use super::process::which;
use crate::driver::{DriverError, MachineContext};
use crate::files;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::process::Command;

const DIR: &str = "shares";
const LIST: &str = "shares.toml";
/// Where the image mounts what is exported, under this name.
const GUEST_DIR: &str = "/mnt/laptop";
const TAG: &str = "laptop";

/// The folders, in the order in which they were asked for; their place here is their number.
#[derive(Debug, Default, Serialize, Deserialize)]
struct List {
    folders: Vec<PathBuf>,
}

impl List {
    fn read(dir: &Path) -> io::Result<Self> {
        match fs::read_to_string(dir.join(LIST)) {
            Ok(text) => toml::from_str(&text).map_err(io::Error::other),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e),
        }
    }
}

/// What goes before QEMU's command line so that folders can be shared with its guest; `None` where this host cannot.
pub(super) async fn wrapper() -> Option<Vec<OsString>> {
    let unshare = which("unshare").filter(|_| which("nsenter").is_some() && which("mount").is_some())?;
    let mut words: Vec<OsString> = vec![unshare.into()];
    if !is_root() {
        words.extend(["--user", "--map-root-user"].map(OsString::from));
    }
    words.extend(["--mount", "--propagation", "slave", "--"].map(OsString::from));
    // A host may forbid namespaces to users.
    let mut probe = Command::new(&words[0]);
    probe.args(&words[1..]).arg("true").stdin(std::process::Stdio::null());
    run(probe).await.ok().map(|()| words)
}

/// QEMU's arguments for the export; makes the directory.
pub(super) fn args(dir: &Path) -> io::Result<[String; 4]> {
    files::private_dir(&dir.join(DIR))?;
    Ok([
        "-fsdev".into(),
        // As QEMU's user, without owners of the guest's: files here are this user's, as plain as any.
        format!("local,id=laptop,path={DIR},security_model=none,multidevs=remap"),
        "-device".into(),
        format!("virtio-9p-pci,fsdev=laptop,mount_tag={TAG}"),
    ])
}

/// Shares all that was shared in earlier runs with the QEMU that has just started. A folder that is gone is left out: its
/// place is empty then.
pub(super) async fn restore(dir: &Path, pid: i32) -> io::Result<Vec<PathBuf>> {
    let mut lost = Vec::new();
    for (number, folder) in List::read(dir)?.folders.iter().enumerate() {
        if bind(dir, pid, number, folder).await.is_err() {
            lost.push(folder.clone());
        }
    }
    Ok(lost)
}

/// Shares a folder with the running QEMU, unless it is shared already; returns where the guest sees it.
pub(super) async fn add(context: &MachineContext, pid: i32, folder: &Path) -> Result<String, DriverError> {
    let failed = |e: io::Error| {
        DriverError::failed(format!("cannot share {} with `{}`", folder.display(), context.name)).because(e)
    };
    let folder = fs::canonicalize(folder).map_err(failed)?;
    if !folder.is_dir() {
        return Err(DriverError::usage(format!("{} is no folder", folder.display()))
            .hint("a machine is given folders; share the one that the file is in"));
    }
    let dir = &context.dir;
    let mut list = List::read(dir).map_err(failed)?;
    if let Some(number) = list.folders.iter().position(|known| *known == folder) {
        if !is_bound(dir, pid, number) {
            bind(dir, pid, number, &folder).await.map_err(failed)?;
        }
        return Ok(format!("{GUEST_DIR}/{number}"));
    }
    let number = list.folders.len();
    bind(dir, pid, number, &folder).await.map_err(failed)?;
    list.folders.push(folder.clone());
    let text = toml::to_string(&list).map_err(|e| failed(io::Error::other(e)))?;
    files::write_private(&dir.join(LIST), text.as_bytes()).map_err(failed)?;
    Ok(format!("{GUEST_DIR}/{number}"))
}

/// Whether QEMU was started with the export.
pub(super) fn exports(command_line: &[u8]) -> bool {
    let device = format!("mount_tag={TAG}");
    command_line.split(|b| *b == 0).any(|word| word.ends_with(device.as_bytes()))
}

fn is_bound(dir: &Path, pid: i32, number: usize) -> bool {
    let Ok(place) = fs::canonicalize(dir.join(DIR).join(number.to_string())) else { return false };
    let mounts = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    // Where it is mounted is the fifth word, in which a space would be written as an escape.
    let escaped = place.as_os_str().as_bytes().iter().flat_map(|byte| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        plain => vec![*plain],
    });
    let escaped: Vec<u8> = escaped.collect();
    mounts
        .split(|b| *b == b'\n')
        .any(|line| line.split(|b| *b == b' ').nth(4).is_some_and(|word| word == escaped.as_slice()))
}

/// A guest that was given a folder can put a link in the place of one below it, which must not lead it anywhere else:
/// `folder` has no link on its way, and what is bound is looked at again.
async fn bind(dir: &Path, pid: i32, number: usize, folder: &Path) -> io::Result<()> {
    let led_astray =
        || io::Error::other(format!("{} is not what it was: a link is on its way", folder.display()));
    if fs::canonicalize(folder)? != folder {
        return Err(led_astray());
    }
    let wanted = fs::symlink_metadata(folder)?;
    let place = fs::canonicalize(dir)?.join(DIR).join(number.to_string());
    files::private_dir(&place)?;
    let mut mount = inside(pid);
    mount.args(["mount", "--bind", "--"]).arg(folder).arg(&place);
    run(mount).await?;
    let bound =
        fs::metadata(Path::new(&format!("/proc/{pid}/root")).join(place.strip_prefix("/").unwrap_or(&place)));
    if bound.is_ok_and(|bound| (bound.dev(), bound.ino()) == (wanted.dev(), wanted.ino())) {
        return Ok(());
    }
    let mut unmount = inside(pid);
    unmount.args(["umount", "--lazy", "--"]).arg(&place);
    run(unmount).await?;
    Err(led_astray())
}

/// A command in QEMU's mount namespace.
fn inside(pid: i32) -> Command {
    let mut command = Command::new("nsenter");
    command.arg("--target").arg(pid.to_string());
    if !is_root() {
        command.args(["--user", "--preserve-credentials"]);
    }
    command.args(["--mount", "--"]).stdin(std::process::Stdio::null());
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

async fn run(mut command: Command) -> io::Result<()> {
    let output = command.kill_on_drop(true).output().await?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_that_exports_is_told_by_its_command_line() {
        assert!(exports(b"qemu\0-device\0virtio-9p-pci,fsdev=laptop,mount_tag=laptop\0"));
        assert!(!exports(b"qemu\0-device\0virtio-net-pci\0"));
    }

    #[tokio::test]
    async fn a_folder_is_bound_where_the_other_namespace_sees_it_and_nobody_else() {
        let Some(wrapper) = wrapper().await else { return eprintln!("skipped: no mount namespaces here") };
        let dir = tempfile::tempdir().unwrap();
        let (own, shared) = (dir.path().join("machine dir"), dir.path().join("shared"));
        for path in [&own, &shared] {
            fs::create_dir(path).unwrap();
        }
        fs::write(shared.join("file"), "seen").unwrap();
        args(&own).unwrap();
        let mut sleeper = Command::new(&wrapper[0]);
        sleeper.args(&wrapper[1..]).args(["sh", "-c", "echo ready; exec sleep 600"]);
        let mut sleeper = sleeper.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut ready = [0; 5];
        tokio::io::AsyncReadExt::read_exact(sleeper.stdout.as_mut().unwrap(), &mut ready).await.unwrap();
        let pid = i32::try_from(sleeper.id().unwrap()).unwrap();
        let context = MachineContext {
            name: "x".into(),
            id: uuid::Uuid::nil(),
            dir: own.clone(),
            cache: dir.path().join("cache"),
        };
        for _ in 0..2 {
            assert_eq!(add(&context, pid, &shared).await.unwrap(), "/mnt/laptop/0");
        }
        assert!(is_bound(&own, pid, 0));
        assert!(!is_bound(&own, i32::try_from(std::process::id()).unwrap(), 0));
        assert!(!own.join("shares/0/file").exists());
        let seen = format!("/proc/{pid}/root{}", own.join("shares/0/file").display());
        assert_eq!(fs::read_to_string(seen).unwrap(), "seen");
        assert_eq!(List::read(&own).unwrap().folders.len(), 1);
        let file = add(&context, pid, &shared.join("file")).await.unwrap_err();
        assert!(file.what.contains("is no folder"), "{file}");

        // What a guest could do with a folder below another that it has been given.
        let below = shared.join("below");
        fs::create_dir(&below).unwrap();
        assert_eq!(add(&context, pid, &below).await.unwrap(), "/mnt/laptop/1");
        let mut unmount = inside(pid);
        unmount.arg("umount").arg(own.join("shares/1"));
        run(unmount).await.unwrap();
        fs::remove_dir(&below).unwrap();
        std::os::unix::fs::symlink(&own, &below).unwrap();
        assert_eq!(restore(&own, pid).await.unwrap(), [fs::canonicalize(&shared).unwrap().join("below")]);
        assert!(!is_bound(&own, pid, 1));
        sleeper.kill().await.unwrap();
    }
}
