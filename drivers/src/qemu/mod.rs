//! `qemu`: virtual machines on this host, without privileges.
//!
//! ```text
//! <dir>/base.img      hard link to the base image
//! <dir>/kernel        the same for a kernel and an initrd beside it
//! <dir>/initrd
//! <dir>/disk.qcow2    what differs from the base
//! <dir>/seed.img      who the machine is, for cloud-init; holds its host key
//! <dir>/initrd.seeded the same for an image of our own, behind the initrd
//! <dir>/shares/       folders of this computer that it sees, with shares.toml
//! <dir>/image.toml    what an image of our own says of itself
//! <dir>/ports.toml    ports of 127.0.0.1 that lead into the machine's latest run
//! <dir>/qemu.pid      while it runs, with qmp.sock, its control socket
//! <dir>/console.log   the latest run's serial console
//! ```
//!
//! Each file is whole or absent, and each step of `create` is skipped where its file is there: a create that was
//! killed at any instant goes on where it stopped. QEMU runs in the background and belongs to nobody; it is found by
//! its pid file and known by the UUID on its command line.

mod accel;
mod config;
mod forwards;
mod image;
mod process;
mod qmp;
mod seed;
mod shares;
pub mod small;

pub use config::{Accel, flags};

use crate::driver::{
    Driver, DriverError, Features, FlagValues, Forward, Keys, MachineContext, MachineState, Reporter, Resize,
    Save, Silent, SshEndpoint,
};
use crate::{download, files, options};
use config::{Config, Port, Source};
use process::{Process, SpawnError};
use qmp::Qmp;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The driver's name.
pub const KIND: &str = "qemu";

const PORTS: &str = "ports.toml";
/// Ports in the guest.
const SSH: u16 = 22;
const ENGINE: u16 = 2376;
/// Disk space that a new machine needs at least, in bytes.
const MIN_FREE: u64 = 512 << 20;
/// How often a start is tried with other ports, where those chosen are taken between choice and use.
const PORT_TRIES: usize = 5;
/// A guest that is still booting misses the power button; it is pressed again this often.
const POWER_BUTTON_EVERY: Duration = Duration::from_secs(10);

/// One virtual machine.
#[derive(Debug)]
pub struct Qemu {
    config: Config,
    context: MachineContext,
}

/// The ports of the latest run, written before QEMU starts.
#[derive(Serialize, Deserialize)]
struct Ports {
    ssh: u16,
    engine: u16,
}

/// The programs that are needed.
struct Programs {
    qemu: PathBuf,
    qemu_img: PathBuf,
}

impl Programs {
    fn find() -> Result<Self, DriverError> {
        let find = |name: &str, debian: &str, fedora: &str| {
            process::which(name).ok_or_else(|| {
                DriverError::precheck(format!("{name} is not installed, or not on PATH")).hint(format!(
                    "install it: `apt install {debian}` on Debian and Ubuntu, `dnf install {fedora}` on Fedora, `brew install qemu` on macOS"
                ))
            })
        };
        let system = if cfg!(target_arch = "aarch64") {
            ("qemu-system-arm", "qemu-system-aarch64")
        } else {
            ("qemu-system-x86", "qemu-system-x86")
        };
        Ok(Self {
            qemu: find(&process::program(), system.0, system.1)?,
            qemu_img: find("qemu-img", "qemu-utils", "qemu-img")?,
        })
    }
}

impl Qemu {
    /// From the flags of `berth create`.
    pub fn from_flags(values: &FlagValues, context: MachineContext) -> Result<Self, DriverError> {
        Ok(Self { config: Config::from_flags(values)?, context })
    }

    /// From the stored configuration, and the ports of the latest run: these are newer where a start was
    /// interrupted before they could be stored.
    pub fn open(table: &toml::Table, context: MachineContext) -> Result<Self, DriverError> {
        let mut config: Config = options::from_table(KIND, table)?;
        let ports = std::fs::read_to_string(context.dir.join(PORTS)).ok();
        if let Some(ports) = ports.and_then(|text| toml::from_str::<Ports>(&text).ok()) {
            config.ssh_port.number = ports.ssh;
            config.engine_port.number = ports.engine;
        }
        Ok(Self { config, context })
    }

    fn failed(&self, verb: &str, e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DriverError {
        DriverError::failed(format!("cannot {verb} `{}`", self.context.name)).because(e)
    }

    fn created(&self) -> bool {
        let is_there = |file| self.context.dir.join(file).exists();
        is_there(image::DISK) && (is_there(process::SEED) || is_there(process::SEEDED_INITRD))
    }

    /// What the image says of itself, where it is one of our own: the machine's, or the one that it is to have.
    fn own_image(&self) -> Option<small::Manifest> {
        if self.context.dir.join(image::DISK).exists() {
            return small::manifest(&self.context.dir.join(image::MANIFEST)).ok().flatten();
        }
        image::local(&self.config, &self.context).ok().flatten()?.own().cloned()
    }

    async fn process(&self) -> Option<Process> {
        Process::find(&self.context.dir, self.context.id).await
    }

    async fn qmp(&self) -> Result<Qmp, DriverError> {
        let unreachable =
            |e| DriverError::failed(format!("cannot control `{}`", self.context.name)).because(e);
        Qmp::connect(&self.context.dir, process::SOCKET).await.map_err(unreachable)
    }

    /// Makes the disk and the seed.
    async fn make_files(
        &self,
        programs: &Programs,
        keys: &Keys,
        reporter: &dyn Reporter,
    ) -> Result<(), DriverError> {
        let dir = &self.context.dir;
        files::private_dir(dir).map_err(|e| self.failed("make the directory of", e))?;
        if !dir.join(image::DISK).exists() {
            if let Some(Source::Url { url, sha256 }) = &self.config.image {
                reporter.step("fetching the image");
                download::fetch(&self.context.cache, url, sha256.as_deref(), reporter).await?;
            }
            let bundle = image::local(&self.config, &self.context)?
                .ok_or_else(|| DriverError::failed("the image went away"))?;
            if let Err(error) = bundle.check(&programs.qemu_img, self.config.disk_mib).await {
                bundle.forget_download();
                return Err(error);
            }
            reporter.step("making the disk");
            bundle.make_disk(&programs.qemu_img, dir, self.config.disk_mib).await?;
        }
        let (name, user) = (&self.context.name, &self.config.ssh_user);
        let own = self.own_image().is_some();
        let seed = dir.join(if own { process::SEEDED_INITRD } else { process::SEED });
        if seed.exists() {
            return Ok(());
        }
        reporter.step("writing the seed");
        let written = if own {
            small::write_initrd(&seed, &dir.join(image::INITRD), name, user, keys)
        } else {
            seed::write(&seed, self.context.id, name, user, keys)
        };
        written.map_err(|e| self.failed("write the seed of", e))
    }

    /// Boots the machine; its files are there and it does not run.
    async fn boot(
        &mut self,
        programs: &Programs,
        reporter: &dyn Reporter,
        save: Save<'_>,
    ) -> Result<(), DriverError> {
        let kernel = Some(self.context.dir.join(image::KERNEL)).filter(|path| path.exists());
        let accel = accel::choose(
            self.config.accel,
            &programs.qemu,
            kernel.as_deref(),
            &self.context.cache,
            reporter,
        )
        .await?;
        reporter.step("booting");
        let (mut program, mut export) = (vec![programs.qemu.clone().into_os_string()], Vec::new());
        if self.own_image().is_some()
            && let Some(wrapper) = shares::wrapper().await
        {
            program.splice(0..0, wrapper);
            export.extend(shares::args(&self.context.dir).map_err(|e| self.failed("share folders with", e))?);
        }
        let mut taken = String::new();
        for _ in 0..PORT_TRIES {
            self.choose_ports()?;
            save(&self.config()).map_err(|e| self.failed("store the configuration of", e))?;
            self.write_ports().map_err(|e| self.failed("store the ports of", e))?;
            let args = process::args(&self.config, &self.context, accel, &export);
            match process::spawn(&program, &self.context.dir, args).await {
                Ok(()) => {
                    self.restore_shares(reporter).await;
                    return Ok(());
                }
                // Another call may have been quicker: its QEMU holds the pid file and the disk.
                Err(_) if self.process().await.is_some() => return Ok(()),
                Err(SpawnError::PortTaken(complaint)) => taken = complaint,
                Err(SpawnError::Other(error)) => return Err(error),
            }
        }
        Err(self.failed("start", taken))
    }

    /// Folders that were shared in an earlier run are there again before the guest looks for them.
    async fn restore_shares(&self, reporter: &dyn Reporter) {
        let Some((pid, command_line)) = Process::pid_and_command_line(&self.context.dir, self.context.id)
        else {
            return;
        };
        if !shares::exports(&command_line) {
            return;
        }
        match shares::restore(&self.context.dir, pid).await {
            Ok(lost) => {
                for folder in lost {
                    reporter.warn(&format!("cannot share {} with the machine again", folder.display()));
                }
            }
            Err(error) => {
                reporter.warn(&format!("folders are not shared with the machine again: {error}"));
            }
        }
    }

    fn write_ports(&self) -> io::Result<()> {
        let ports = Ports { ssh: self.config.ssh_port.number, engine: self.config.engine_port.number };
        let text = toml::to_string(&ports).map_err(io::Error::other)?;
        files::write_private(&self.context.dir.join(PORTS), text.as_bytes())
    }

    /// Keeps the ports that are free, chooses others for those that are not, and refuses where the user chose them.
    fn choose_ports(&mut self) -> Result<(), DriverError> {
        // Both are held until both are chosen, as one free port could else be chosen twice.
        let (ssh, _ssh_held) = free_port(self.config.ssh_port, "qemu-ssh-port")?;
        let (engine, _engine_held) = free_port(self.config.engine_port, "qemu-engine-port")?;
        self.config.ssh_port.number = ssh;
        self.config.engine_port.number = engine;
        Ok(())
    }

    /// The forwards that the machine has from its start on.
    fn own_forwards(&self) -> [Forward; 2] {
        let forward = |port: Port, guest_port| Forward {
            udp: false,
            host_ip: LOCALHOST,
            host_port: port.number,
            guest_port,
        };
        [forward(self.config.ssh_port, SSH), forward(self.config.engine_port, ENGINE)]
    }

    fn port(&self, port: Port) -> Result<u16, DriverError> {
        if port.number != 0 {
            return Ok(port.number);
        }
        Err(DriverError::new(
            crate::driver::ErrorKind::NotFound,
            format!("`{}` has never been started", self.context.name),
        ))
    }
}

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A port that is free now, and the listener that holds it.
fn free_port(port: Port, flag: &str) -> Result<(u16, TcpListener), DriverError> {
    let number = |listener: TcpListener| Ok((listener.local_addr()?.port(), listener));
    let bound = TcpListener::bind((LOCALHOST, port.number)).and_then(number);
    match bound {
        Ok(found) => Ok(found),
        Err(e) if port.fixed => {
            Err(DriverError::precheck(format!("port {} of 127.0.0.1 is not free", port.number))
                .because(e)
                .hint(format!("choose another with --{flag}, or none to have a free one chosen")))
        }
        Err(_) => TcpListener::bind((LOCALHOST, 0))
            .and_then(number)
            .map_err(|e| DriverError::failed("no port of 127.0.0.1 is free").because(e)),
    }
}

#[async_trait::async_trait]
impl Driver for Qemu {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn features(&self) -> Features {
        Features {
            start_stop: true,
            ssh: true,
            delivers_host_key: true,
            forwards_ports: true,
            provisions: true,
            places_files: self.own_image().is_some(),
        }
    }
    fn config(&self) -> toml::Table {
        options::to_table(&self.config)
    }

    async fn check(&self, reporter: &dyn Reporter) -> Result<(), DriverError> {
        let programs = Programs::find()?;
        let mut kernel = self.config.kernel.clone();
        if let Some(bundle) = image::local(&self.config, &self.context)? {
            bundle.check(&programs.qemu_img, self.config.disk_mib).await?;
            kernel = bundle.kernel().map(PathBuf::from);
        }
        if cfg!(target_arch = "aarch64") && kernel.is_none() && process::firmware().is_none() {
            return Err(DriverError::precheck("no firmware for arm64 machines")
                .hint("install it: `apt install qemu-efi-aarch64`"));
        }
        if self.process().await.is_none() {
            // Held no longer than this call: it is about a port that the user chose and another program has.
            free_port(self.config.ssh_port, "qemu-ssh-port")?;
            free_port(self.config.engine_port, "qemu-engine-port")?;
        }
        for dir in [&self.context.dir, &self.context.cache] {
            let free = files::free_space(dir)
                .map_err(|e| DriverError::precheck(format!("cannot use {}", dir.display())).because(e))?;
            if free < MIN_FREE {
                return Err(DriverError::precheck(format!(
                    "{} MiB are free for {}",
                    free >> 20,
                    dir.display()
                ))
                .hint(format!(
                    "a machine needs {} MiB at least, and grows with what is put into it",
                    MIN_FREE >> 20
                )));
            }
        }
        accel::choose(
            self.config.accel,
            &programs.qemu,
            kernel.as_deref(),
            &self.context.cache,
            &Quiet(reporter),
        )
        .await
        .map(|_| ())
    }

    async fn create(
        &mut self,
        keys: &Keys,
        reporter: &dyn Reporter,
        save: Save<'_>,
    ) -> Result<(), DriverError> {
        let programs = Programs::find()?;
        // First of all, so that what is made from here on is known to be ours to remove.
        save(&self.config()).map_err(|e| self.failed("store the configuration of", e))?;
        if Process::search(&self.context.dir, self.context.id).await.is_some() {
            return Ok(());
        }
        self.make_files(&programs, keys, reporter).await?;
        self.boot(&programs, reporter, save).await
    }

    async fn start(&mut self) -> Result<(), DriverError> {
        if let Some(_running) = self.process().await {
            // A guest that was paused goes on.
            let mut qmp = self.qmp().await?;
            if qmp.status().await.is_ok_and(|status| status == "paused") {
                qmp.execute("cont", serde_json::json!({})).await.map_err(|e| self.failed("start", e))?;
            }
            return Ok(());
        }
        if !self.created() {
            return Err(DriverError::new(
                crate::driver::ErrorKind::NotFound,
                format!("there is no machine `{}` to start", self.context.name),
            ));
        }
        self.boot(&Programs::find()?, &Silent, &|_| Ok(())).await
    }

    async fn stop(&mut self) -> Result<(), DriverError> {
        let Some(process) = self.process().await else { return Ok(()) };
        let deadline = Instant::now() + Duration::from_secs(self.config.stop_timeout_s);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return process.kill(&self.context.dir).await.map_err(|e| self.failed("stop", e));
            }
            // The session is closed before the wait: QEMU serves one at a time.
            if let Ok(mut qmp) = self.qmp().await {
                let _ = qmp.execute("system_powerdown", serde_json::json!({})).await;
            }
            if process.ended_within(left.min(POWER_BUTTON_EVERY)).await {
                return Ok(());
            }
        }
    }

    async fn kill(&mut self) -> Result<(), DriverError> {
        match Process::search(&self.context.dir, self.context.id).await {
            Some(process) => process.kill(&self.context.dir).await.map_err(|e| self.failed("kill", e)),
            None => Ok(()),
        }
    }

    async fn remove(&mut self) -> Result<(), DriverError> {
        // The files go only once QEMU is gone: without them, nobody would find it.
        self.kill().await?;
        files::remove_dir_if_there(&self.context.dir).map_err(|e| self.failed("remove the files of", e))
    }

    async fn state(&self) -> Result<MachineState, DriverError> {
        if self.process().await.is_none() {
            return Ok(if self.created() { MachineState::Stopped } else { MachineState::Absent });
        }
        process::trim_console(&self.context.dir);
        let status = match self.qmp().await {
            Ok(mut qmp) => qmp.status().await.ok(),
            Err(_) => None,
        };
        Ok(match status.as_deref() {
            Some("running") => MachineState::Running,
            Some("paused" | "suspended" | "save-vm") => MachineState::Paused,
            Some("prelaunch" | "inmigrate" | "restore-vm") => MachineState::Starting,
            Some("shutdown") => MachineState::Stopping,
            // QEMU may have ended between the two looks.
            None if self.process().await.is_none() => MachineState::Stopped,
            _ => MachineState::Error,
        })
    }

    async fn address(&self) -> Result<String, DriverError> {
        Ok(LOCALHOST.to_string())
    }

    fn ssh(&self) -> Result<Option<SshEndpoint>, DriverError> {
        Ok(Some(SshEndpoint {
            host: LOCALHOST.to_string(),
            port: self.port(self.config.ssh_port)?,
            user: self.config.ssh_user.clone(),
            identity: None,
            host_key_delivered: true,
        }))
    }

    fn url(&self) -> Result<String, DriverError> {
        Ok(format!("tcp://{LOCALHOST}:{}", self.port(self.config.engine_port)?))
    }

    async fn resize(&mut self, wanted: &Resize) -> Result<(), DriverError> {
        let config = self.config.resized(wanted)?;
        let name = &self.context.name;
        if Process::search(&self.context.dir, self.context.id).await.is_some() {
            return Err(DriverError::failed(format!("`{name}` runs, and can be resized only when stopped"))
                .hint(format!("`berth stop {name}` first")));
        }
        if wanted.disk.is_some() {
            image::grow(&Programs::find()?.qemu_img, &self.context.dir, config.disk_mib).await?;
        }
        self.config = config;
        Ok(())
    }

    fn console_log(&self) -> Option<PathBuf> {
        Some(self.context.dir.join(process::CONSOLE))
    }

    fn engine(&self) -> Option<String> {
        self.own_image().map(|manifest| manifest.hostd_sha256)
    }

    async fn console_tail(&self) -> Option<String> {
        const LINES: usize = 20;
        let bytes = tokio::fs::read(self.context.dir.join(process::CONSOLE)).await.ok()?;
        process::trim_console(&self.context.dir);
        let tail = &bytes[bytes.len().saturating_sub(16 << 10)..];
        // A console speaks to a terminal; whoever prints this may be none.
        let text: String =
            String::from_utf8_lossy(tail).chars().filter(|c| !c.is_control() || *c == '\n').collect();
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        (!lines.is_empty()).then(|| lines[lines.len().saturating_sub(LINES)..].join("\n"))
    }

    async fn share(&self, folder: &Path) -> Result<Option<String>, DriverError> {
        if self.own_image().is_none() {
            return Ok(None);
        }
        let running = Process::pid_and_command_line(&self.context.dir, self.context.id);
        let (pid, command_line) = running.ok_or_else(|| {
            DriverError::failed(format!("cannot share folders with `{}`: it does not run", self.context.name))
        })?;
        if !shares::exports(&command_line) {
            return Err(DriverError::unsupported(format!(
                "cannot share folders with `{}`: this computer does not let its users have mount namespaces",
                self.context.name
            ))
            .hint("install util-linux (unshare, nsenter), allow user namespaces, and restart the machine"));
        }
        shares::add(&self.context, pid, folder).await.map(Some)
    }

    async fn set_forwards(&self, wanted: &[Forward]) -> Result<(), DriverError> {
        if self.process().await.is_none() {
            // Forwards end with the run.
            return if wanted.is_empty() {
                Ok(())
            } else {
                Err(self.failed("forward ports to", "the machine does not run"))
            };
        }
        forwards::set(&mut self.qmp().await?, &self.own_forwards(), wanted).await
    }
}

/// Passes steps on and keeps warnings back: `create` gives them again.
struct Quiet<'a>(&'a dyn Reporter);

impl Reporter for Quiet<'_> {
    fn step(&self, what: &str) {
        self.0.step(what);
    }
    fn progress(&self, what: &str, done: u64, total: Option<u64>) {
        self.0.progress(what, done, total);
    }
    fn warn(&self, _: &str) {}
}
