//! Which acceleration a guest gets.
//!
//! `/dev/kvm` may open and still be unusable: inside machines that are virtual themselves, firmware may run and a
//! Linux kernel hang without a word. So where the CPU shows neither vmx nor svm, or the host runs `kvm_pvm`, KVM is
//! believed only after a kernel ran under it to the point where it misses its root disk; without a kernel to try, it
//! is not believed. The answer holds until the next boot and is kept in the cache.

use super::config::Accel;
use super::process;
use crate::driver::{DriverError, Reporter};
use crate::files;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// How long the kernel may take to find that it has no root disk; where KVM works, that is about a second.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// What it says then.
const PROBE_WORDS: &str = "Unable to mount root fs";

/// What a probe found, until the next boot.
#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    boot_id: String,
    works: bool,
}

/// Turns what was asked for into what is used; says so where `auto` falls back.
pub(super) async fn choose(
    asked: Accel,
    qemu: &Path,
    kernel: Option<&Path>,
    cache: &Path,
    reporter: &dyn Reporter,
) -> Result<Accel, DriverError> {
    match asked {
        Accel::Tcg => Ok(Accel::Tcg),
        Accel::Hvf if cfg!(target_os = "macos") => Ok(Accel::Hvf),
        Accel::Hvf => Err(DriverError::precheck("--qemu-accel hvf works on macOS alone")),
        Accel::Kvm => match kvm_opens() {
            Ok(()) => Ok(Accel::Kvm),
            Err(reason) => Err(DriverError::precheck(format!("KVM cannot be used: {reason}"))
                .hint("--qemu-accel tcg works without, but slowly")),
        },
        Accel::Auto if cfg!(target_os = "macos") => Ok(Accel::Hvf),
        Accel::Auto => Ok(match kvm_works(qemu, kernel, cache).await {
            Ok(()) => Accel::Kvm,
            Err(reason) => {
                reporter.warn(&format!(
                    "the machine runs without hardware acceleration, and slower for it: {reason}"
                ));
                Accel::Tcg
            }
        }),
    }
}

async fn kvm_works(qemu: &Path, kernel: Option<&Path>, cache: &Path) -> Result<(), String> {
    kvm_opens()?;
    if !distrusted() {
        return Ok(());
    }
    let broken = || "KVM is there, but a guest does not run under it".to_owned();
    // No boot id, no memory of the answer: it would outlive a reboot that changes it.
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let record = cache.join("kvm-probe.toml");
    let known = fs::read_to_string(&record).ok().and_then(|text| toml::from_str::<Verdict>(&text).ok());
    if let Some(verdict) = known.filter(|v| !boot_id.is_empty() && v.boot_id == boot_id) {
        return if verdict.works { Ok(()) } else { Err(broken()) };
    }
    let Some(kernel) = kernel else {
        return Err("KVM on this host is doubtful, and the image has no kernel beside it to try".into());
    };
    let works = probe(Accel::Kvm, qemu, kernel, PROBE_LIMIT).await;
    if let Ok(text) = toml::to_string(&Verdict { boot_id, works }) {
        // Only a memory: without it, the next machine probes again.
        let _ = files::private_dir(cache).and_then(|()| files::write_private(&record, text.as_bytes()));
    }
    if works { Ok(()) } else { Err(broken()) }
}

fn kvm_opens() -> Result<(), String> {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err("this host has no KVM (/dev/kvm)".into()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            Err("no permission for /dev/kvm (join its group: sudo usermod -aG kvm $USER, then log in again)"
                .into())
        }
        Err(e) => Err(format!("cannot open /dev/kvm: {e}")),
    }
}

fn distrusted() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let x86_without =
        cfg!(target_arch = "x86_64") && !flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    Path::new("/sys/module/kvm_pvm").exists() || x86_without
}

/// Boots a kernel without a disk, on the machine and CPU that guests get: it panics for want of a root file system,
/// and QEMU ends instead of rebooting it.
async fn probe(accel: Accel, qemu: &Path, kernel: &Path, limit: Duration) -> bool {
    let Ok(dir) = tempfile::tempdir() else { return false };
    let console = dir.path().join("console");
    let append = format!("console={} panic=-1", process::console_device());
    let mut command = Command::new(qemu);
    command
        .args(process::machine_args(accel))
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-smp", "2", "-m", "256"])
        .arg("-chardev")
        .arg(format!("file,id=console,path={}", process::comma(&console)))
        .args(["-serial", "chardev:console", "-append", &append, "-kernel"])
        .arg(kernel)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let Ok(mut child) = command.spawn() else { return false };
    if tokio::time::timeout(limit, child.wait()).await.is_err() {
        // Dropped, it is killed; waiting for it here keeps the directory until it is gone.
        let _ = child.kill().await;
    }
    let said = fs::read(&console).unwrap_or_default();
    String::from_utf8_lossy(&said).contains(PROBE_WORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_probe_of_what_is_no_kernel_fails() {
        let Some(qemu) = process::which(&process::program()) else { return eprintln!("skipped: no QEMU") };
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel");
        fs::write(&kernel, "no kernel").unwrap();
        assert!(!probe(Accel::Tcg, &qemu, &kernel, Duration::from_secs(20)).await);
    }

    #[tokio::test]
    async fn a_probe_under_an_acceleration_that_works_succeeds() {
        let Some(qemu) = process::which(&process::program()) else { return eprintln!("skipped: no QEMU") };
        let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/debian-12.qcow2.kernel");
        if !kernel.exists() {
            return eprintln!("skipped: no kernel in build/ (make image)");
        }
        assert!(probe(Accel::Tcg, &qemu, &kernel, Duration::from_secs(120)).await);
    }
}
