//! The QEMU process: its command line, its start, and how it is told from any other process.
//!
//! A process is the machine's when its command line carries the machine's UUID; the pid file only says where to look
//! first. It is signalled through a pidfd taken before that check, so that a recycled pid is never hit.

use super::config::{Accel, Config};
use super::image;
use super::qmp::Qmp;
use crate::driver::{DriverError, MachineContext};
use crate::files;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;
use uuid::Uuid;

pub(super) const SOCKET: &str = "qmp.sock";
pub(super) const CONSOLE: &str = "console.log";
pub(super) const SEED: &str = "seed.img";
/// Initial RAM disk of a machine made from an image of our own, with who it is.
pub(super) const SEEDED_INITRD: &str = "initrd.seeded";
const PID_FILE: &str = "qemu.pid";
/// What a console log is cut to when it is looked at.
const CONSOLE_LIMIT: u64 = 1 << 20;
/// How long QEMU may take to come up before it is given up: it maps memory and opens a disk.
const SPAWN_LIMIT: Duration = Duration::from_secs(60);

/// QEMU's program for guests of this host's architecture.
pub(super) fn program() -> String {
    format!("qemu-system-{}", std::env::consts::ARCH)
}

/// Finds a program on PATH.
pub(super) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file())
}

/// Machine, CPU and acceleration.
pub(super) fn machine_args(accel: Accel) -> [String; 4] {
    let machine = if cfg!(target_arch = "x86_64") { "q35" } else { "virt" };
    let cpu = if accel == Accel::Tcg { "max" } else { "host" };
    ["-machine".into(), format!("{machine},accel={}", accel.name()), "-cpu".into(), cpu.into()]
}

/// The kernel's name for the serial console.
pub(super) fn console_device() -> &'static str {
    if cfg!(target_arch = "x86_64") { "ttyS0" } else { "ttyAMA0" }
}

/// A path inside a QEMU option, where a comma ends the value unless doubled.
pub(super) fn comma(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The whole command line. Files are named relative to the machine's directory, where QEMU is started: no path is
/// too long for the control socket, and the directory may be moved while the machine is stopped.
pub(super) fn args(
    config: &Config,
    context: &MachineContext,
    accel: Accel,
    export: &[String],
) -> Vec<OsString> {
    let forward = |port: u16, guest: u16| format!("hostfwd=tcp:127.0.0.1:{port}-:{guest}");
    let mut args: Vec<String> = machine_args(accel).into();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|w| (*w).to_owned()));
    add(&["-name", &format!("berth-{}", context.name), "-uuid", &context.id.to_string()]);
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-daemonize", "-pidfile", PID_FILE]);
    add(&["-smp", &config.cpu_count.to_string(), "-m", &format!("{}M", config.memory_mib)]);
    add(&["-qmp", &format!("unix:{SOCKET},server=on,wait=off")]);
    // Appending lets us cut the file while QEMU writes to it.
    add(&["-chardev", &format!("file,id=console,path={CONSOLE},append=on"), "-serial", "chardev:console"]);
    add(&[
        "-drive",
        &format!("if=none,id=root,file={},format=qcow2,discard=unmap,detect-zeroes=unmap", image::DISK),
    ]);
    add(&["-device", "virtio-blk-pci,drive=root,bootindex=1"]);
    let own = context.dir.join(image::MANIFEST).exists();
    let second = if own { image::BASE } else { SEED };
    add(&[
        "-drive",
        &format!("if=none,id=seed,file={second},format=raw,readonly=on"),
        "-device",
        "virtio-blk-pci,drive=seed",
    ]);
    let (ssh, engine) = (forward(config.ssh_port.number, 22), forward(config.engine_port.number, 2376));
    add(&[
        "-netdev",
        &format!("user,id=net0,{ssh},{engine}"),
        "-device",
        "virtio-net-pci,netdev=net0,romfile=",
    ]);
    add(&["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]);
    for word in export {
        add(&[word]);
    }
    if own {
        add(&["-kernel", image::KERNEL, "-initrd", SEEDED_INITRD, "-append", &own_kernel_arguments()]);
    } else if context.dir.join(image::KERNEL).exists() {
        let append = config.append.clone().unwrap_or_else(|| kernel_arguments(accel));
        add(&["-kernel", image::KERNEL, "-append", &append]);
        if context.dir.join(image::INITRD).exists() {
            add(&["-initrd", image::INITRD]);
        }
    } else if let Some(firmware) = firmware() {
        add(&["-bios", &firmware.to_string_lossy()]);
    }
    args.into_iter().map(OsString::from).collect()
}

/// The kernel's command line where the user gives none.
fn kernel_arguments(accel: Accel) -> String {
    let console = console_device();
    // A guest that has panicked would else burn a CPU for ever.
    let common = format!("root=/dev/vda ro console={console} loglevel=4 panic=30");
    match accel {
        // Where instructions are translated, the kernel's tests of its ciphers take seconds of the boot, and so does
        // loading a hypervisor that is of no use there.
        Accel::Tcg => format!("{common} cryptomgr.notests modprobe.blacklist=kvm_amd,kvm_intel"),
        _ => common,
    }
}

/// The same for an image of our own: it finds its disks, and tests no cipher that it was built with.
fn own_kernel_arguments() -> String {
    let common = format!("console={} quiet loglevel=4 panic=30 cryptomgr.notests", console_device());
    if cfg!(target_arch = "x86_64") {
        // Nothing here has a timer that must be checked, or a second serial port; and while it boots, waiting for every
        // CPU to have been idle costs more than asking them.
        format!("{common} no_timer_check 8250.nr_uarts=1 rcupdate.rcu_expedited=1")
    } else {
        common
    }
}

/// Firmware that QEMU does not find by itself: arm64 has none built in.
pub(super) fn firmware() -> Option<PathBuf> {
    let known = [
        "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
        "/usr/share/edk2/aarch64/QEMU_EFI.fd",
        "/opt/homebrew/share/qemu/edk2-aarch64-code.fd",
    ];
    known.iter().filter(|_| cfg!(target_arch = "aarch64")).map(PathBuf::from).find(|p| p.exists())
}

/// Why QEMU did not start.
#[derive(Debug)]
pub(super) enum SpawnError {
    /// One of the forwarded ports is taken.
    PortTaken(String),
    Other(DriverError),
}

/// Starts QEMU, whose program may have words before it, and returns once it runs in the background.
pub(super) async fn spawn(program: &[OsString], dir: &Path, args: Vec<OsString>) -> Result<(), SpawnError> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
        SpawnError::Other(DriverError::failed("cannot start QEMU").because(e))
    };
    prepare(dir).map_err(|e| failed(e.into()))?;
    // Not killed on drop: an interrupted create finds it by its pid file and goes on with it.
    let output = Command::new(&program[0])
        .args(&program[1..])
        .args(args)
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .output();
    let output = match tokio::time::timeout(SPAWN_LIMIT, output).await {
        Ok(output) => output.map_err(|e| failed(e.into()))?,
        Err(_) => return Err(failed("it did not come up in time".into())),
    };
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if complaint.contains("host forwarding rule") {
        return Err(SpawnError::PortTaken(complaint));
    }
    Err(failed(complaint.into()))
}

/// An empty console log for its owner alone, and no socket of an earlier run.
fn prepare(dir: &Path) -> io::Result<()> {
    files::create_private(&dir.join(CONSOLE))?;
    files::remove_if_there(&dir.join(SOCKET))
}

/// Cuts the console log where it has grown too long; a guest may write to it without end.
pub(super) fn trim_console(dir: &Path) {
    let path = dir.join(CONSOLE);
    if fs::metadata(&path).is_ok_and(|m| m.len() > CONSOLE_LIMIT) {
        // Best effort: what is lost is old console output.
        let _ = fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(0));
    }
}

/// The running QEMU of one machine.
#[derive(Debug)]
pub(super) struct Process {
    #[cfg(target_os = "linux")]
    pidfd: std::os::fd::OwnedFd,
    #[cfg(not(target_os = "linux"))]
    dir: PathBuf,
}

impl Process {
    /// The machine's QEMU as its pid file has it; `None` where it does not run.
    #[cfg(target_os = "linux")]
    pub(super) async fn find(dir: &Path, id: Uuid) -> Option<Self> {
        let pid = fs::read_to_string(dir.join(PID_FILE)).ok()?.trim().parse().ok()?;
        Self::verified(pid, id)
    }

    /// The same, also where the pid file is lost: by the command lines of all processes.
    #[cfg(target_os = "linux")]
    pub(super) async fn search(dir: &Path, id: Uuid) -> Option<Self> {
        if let Some(process) = Self::find(dir, id).await {
            return Some(process);
        }
        let entries = fs::read_dir("/proc").ok()?;
        let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        pids.into_iter().find_map(|pid| Self::verified(pid, id))
    }

    #[cfg(target_os = "linux")]
    fn verified(pid: i32, id: Uuid) -> Option<Self> {
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let command_line = format!("/proc/{pid}/cmdline");
        // Before the pidfd, as a pidfd for each process of the host would be costly.
        carries_uuid(&fs::read(&command_line).ok()?, id).then_some(())?;
        let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // Again, now that the pid cannot be another's: a process that ended has an empty command line.
        carries_uuid(&fs::read(&command_line).ok()?, id).then_some(Self { pidfd })
    }

    /// Without `/proc`, QEMU itself is asked who it is.
    #[cfg(not(target_os = "linux"))]
    pub(super) async fn find(dir: &Path, id: Uuid) -> Option<Self> {
        let mut qmp = Qmp::connect(dir, SOCKET).await.ok()?;
        let answer = qmp.execute("query-uuid", serde_json::json!({})).await.ok()?;
        (answer.get("UUID")?.as_str()? == id.to_string()).then(|| Self { dir: dir.to_owned() })
    }

    /// The same as [`find`](Self::find): there is nowhere else to look.
    #[cfg(not(target_os = "linux"))]
    pub(super) async fn search(dir: &Path, id: Uuid) -> Option<Self> {
        Self::find(dir, id).await
    }

    /// The process of the machine and its command line, as its pid file has it.
    pub(super) fn pid_and_command_line(dir: &Path, id: Uuid) -> Option<(i32, Vec<u8>)> {
        let pid: i32 = fs::read_to_string(dir.join(PID_FILE)).ok()?.trim().parse().ok()?;
        let command_line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        carries_uuid(&command_line, id).then_some((pid, command_line))
    }

    /// Waits until it has ended; false where it has not in time.
    #[cfg(target_os = "linux")]
    pub(super) async fn ended_within(&self, limit: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let ended = async {
            // A pidfd becomes readable when its process has ended. (tokio's own watch of a descriptor is unsafe.)
            while poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&Timespec::default())) == Ok(0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(limit, ended).await.is_ok()
    }

    /// Waits until it has ended; false where it has not in time.
    #[cfg(not(target_os = "linux"))]
    pub(super) async fn ended_within(&self, limit: Duration) -> bool {
        let ended = async {
            while tokio::net::UnixStream::connect(self.dir.join(SOCKET)).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(limit, ended).await.is_ok()
    }

    /// Ends it at once: QEMU flushes its disks when asked to quit; the signal is for one that does not listen.
    pub(super) async fn kill(self, dir: &Path) -> io::Result<()> {
        if let Ok(mut qmp) = Qmp::connect(dir, SOCKET).await
            && qmp.execute("quit", serde_json::json!({})).await.is_ok()
            && self.ended_within(Duration::from_secs(10)).await
        {
            return Ok(());
        }
        #[cfg(target_os = "linux")]
        match rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(e.into()),
        }
        if self.ended_within(Duration::from_secs(10)).await {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "QEMU does not end"))
    }
}

/// Whether a command line is that of a QEMU started with `-uuid <id>`.
fn carries_uuid(command_line: &[u8], id: Uuid) -> bool {
    let id = id.to_string();
    let words: Vec<&[u8]> = command_line.split(|b| *b == 0).collect();
    let is_qemu = words.first().is_some_and(|w| String::from_utf8_lossy(w).contains("qemu-system-"));
    is_qemu && words.windows(2).any(|pair| pair[0] == b"-uuid" && pair[1] == id.as_bytes())
}
