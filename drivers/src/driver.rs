//! The contract between berth and the places where machines live. Knows no driver.
//!
//! Calls survive a crash of the caller: [`Driver::create`] on a machine that exists and [`Driver::remove`] on
//! one that does not both succeed. What a driver cannot do stands in [`Features`], not in a failure.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Where a machine is in its life, as its place reports it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineState {
    /// It runs (or, where nothing else can be known, its port answers).
    Running,
    /// It is there and does not run.
    Stopped,
    /// It is on its way up.
    Starting,
    /// It is on its way down.
    Stopping,
    /// It is held, its memory kept.
    Paused,
    /// There is no such machine.
    Absent,
    /// It is there, and in trouble.
    Error,
}

/// What kind of failure; berth turns it into hints and exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A flag's value is wrong: exit code 2.
    Usage,
    /// The host lacks something, found before anything was made: exit code 3.
    Precheck,
    /// There is no such machine or driver.
    NotFound,
    /// This driver has no such ability.
    Unsupported,
    /// It was tried, and failed.
    Failed,
}

/// What went wrong, with its cause and what the user may do about it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct DriverError {
    /// For exit codes.
    pub kind: ErrorKind,
    /// What was being done, and to what: a lower-case phrase.
    pub what: String,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
    /// What the user may do about it.
    pub hint: Option<String>,
}

impl DriverError {
    /// An error without cause or hint yet.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), source: None, hint: None }
    }
    /// A wrong value of a flag.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, what)
    }
    /// Something that the host lacks.
    pub fn precheck(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Precheck, what)
    }
    /// An ability that the driver lacks.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, what)
    }
    /// Something that was tried and failed.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, what)
    }
    /// With the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
    /// With what the user may do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A flag that `berth create --driver X` takes.
#[derive(Clone, Debug)]
pub struct Flag {
    /// Its name without dashes, beginning with the driver's: `qemu-memory`.
    pub name: &'static str,
    /// The environment variable that gives its value where the flag does not.
    pub env: Option<&'static str>,
    /// What its value is called in the help.
    pub value_name: &'static str,
    /// Its value where nothing is given.
    pub default: Option<String>,
    /// One line of help.
    pub help: &'static str,
    /// Given without a value.
    pub switch: bool,
    /// Never shown or stored in clear.
    pub secret: bool,
}

/// Values of flags, by name; only those that the user gave or that have a default. A switch is `"true"`.
pub type FlagValues = BTreeMap<String, String>;

/// What a driver knows of its machine besides its own configuration.
#[derive(Clone, Debug)]
pub struct MachineContext {
    /// The machine's name, valid as a host name.
    pub name: String,
    /// The machine's identity.
    pub id: Uuid,
    /// The driver's own directory for this machine (`$BERTH_HOME/machines/<name>/driver`); the driver makes it
    /// and all that is in it, and `remove` removes it.
    pub dir: PathBuf,
    /// Shared by all machines: downloaded images.
    pub cache: PathBuf,
}

/// Keys and files that go into the new machine. `Debug` does not show the private one.
#[derive(Clone)]
pub struct Keys {
    /// OpenSSH line of the user's key for this machine.
    pub authorized_key: String,
    /// OpenSSH private key (PEM) that the machine is to have as its host key, where the driver can deliver it.
    pub host_private_key: String,
    /// Its public line.
    pub host_public_key: String,
    /// Files that are to be there before its first service starts, where the driver places files.
    pub files: Vec<PlacedFile>,
}

/// A file of the new machine, which the driver brings there and knows nothing else about.
#[derive(Clone)]
pub struct PlacedFile {
    /// Where it goes: an absolute path.
    pub path: String,
    /// Its permissions.
    pub mode: u32,
    /// What stands in it; may be a secret.
    pub content: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("authorized_key", &self.authorized_key)
            .field("host_public_key", &self.host_public_key)
            .finish_non_exhaustive()
    }
}

/// How the machine is reached over SSH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshEndpoint {
    /// Name (which may be one of `~/.ssh/config`) or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User to log in as.
    pub user: String,
    /// Key to log in with; `None`: berth's own key for the machine, the agent, `~/.ssh/config`.
    pub identity: Option<PathBuf>,
    /// Whether the host key of [`Keys`] is the one to expect, from the first connect on.
    pub host_key_delivered: bool,
}

/// What a driver can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `start`, `stop`, `kill` and `restart` work; without, they fail as [`ErrorKind::Unsupported`].
    pub start_stop: bool,
    /// [`Driver::ssh`] has an endpoint.
    pub ssh: bool,
    /// The machine has the host key of [`Keys`].
    pub delivers_host_key: bool,
    /// Container ports must be forwarded to the laptop by [`Driver::set_forwards`].
    pub forwards_ports: bool,
    /// berth installs hostd.
    pub provisions: bool,
    /// The files of [`Keys`] are in the machine when its services start.
    pub places_files: bool,
}

/// A port of the laptop that leads to a port of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Forward {
    /// UDP rather than TCP.
    pub udp: bool,
    /// Address of the laptop that it listens on.
    pub host_ip: IpAddr,
    /// Port of the laptop.
    pub host_port: u16,
    /// Port of the machine.
    pub guest_port: u16,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.udp { "udp" } else { "tcp" };
        let host = std::net::SocketAddr::new(self.host_ip, self.host_port);
        write!(f, "{host} to {}/{protocol}", self.guest_port)
    }
}

/// What a machine is to have from its next start on, as the user wrote it; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct Resize {
    /// Number of CPUs.
    pub cpus: Option<String>,
    /// Memory in MiB, or with a suffix.
    pub memory: Option<String>,
    /// Size of the disk in MiB, or with a suffix.
    pub disk: Option<String>,
}

/// Told what happens during long calls.
pub trait Reporter: Send + Sync {
    /// A new step begins.
    fn step(&self, what: &str);
    /// How far the step is.
    fn progress(&self, what: &str, done: u64, total: Option<u64>);
    /// Something the user should know that stops nothing.
    fn warn(&self, what: &str);
}

/// A reporter that nobody listens to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn step(&self, _: &str) {}
    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}
    fn warn(&self, _: &str) {}
}

/// Stores a driver's configuration.
pub type Save<'a> = &'a (dyn Fn(&toml::Table) -> std::io::Result<()> + Sync);

/// One machine at one place. Made from flags at create, from its stored configuration later.
///
/// A call that takes `&mut self` may change what [`config`](Self::config) gives (a port taken meanwhile is chosen
/// anew at start): store it afterwards. A crash before that loses nothing.
#[async_trait::async_trait]
pub trait Driver: Send + Sync {
    /// The driver's name: `qemu`.
    fn kind(&self) -> &'static str;
    /// What it can do.
    fn features(&self) -> Features;
    /// What is to be stored; `registry::open` makes the same driver from it. No secrets in clear.
    fn config(&self) -> toml::Table;
    /// Whether this host can do it, before anything is made.
    async fn check(&self, reporter: &dyn Reporter) -> Result<(), DriverError>;
    /// Makes and boots the machine; goes on where an interrupted create stopped; succeeds at once when it is there
    /// and runs. `save` is called with the configuration before each thing that could be orphaned is made.
    async fn create(
        &mut self,
        keys: &Keys,
        reporter: &dyn Reporter,
        save: Save<'_>,
    ) -> Result<(), DriverError>;
    /// Boots it; succeeds at once when it runs.
    async fn start(&mut self) -> Result<(), DriverError>;
    /// Asks the guest to power off, and has it powered off if it does not in time; succeeds when it does not run.
    async fn stop(&mut self) -> Result<(), DriverError>;
    /// Powers it off at once; succeeds when it does not run.
    async fn kill(&mut self) -> Result<(), DriverError>;
    /// Stops and starts it.
    async fn restart(&mut self) -> Result<(), DriverError> {
        self.stop().await?;
        self.start().await
    }
    /// Removes all that create made, past failures; succeeds when there is nothing.
    async fn remove(&mut self) -> Result<(), DriverError>;
    /// Where it is in its life. Answers within seconds.
    async fn state(&self) -> Result<MachineState, DriverError>;
    /// Host name or address as the laptop sees it.
    async fn address(&self) -> Result<String, DriverError>;
    /// `None` where there is no SSH.
    fn ssh(&self) -> Result<Option<SshEndpoint>, DriverError>;
    /// `tcp://host:port` of the engine.
    fn url(&self) -> Result<String, DriverError>;
    /// Gives a machine that is stopped another size. Where one value is refused, nothing has changed.
    async fn resize(&mut self, wanted: &Resize) -> Result<(), DriverError> {
        let _ = wanted;
        Err(DriverError::unsupported(format!("driver `{}` cannot resize machines", self.kind())))
    }
    /// The file that the console of the latest run is written to, where there is one; it may be cut at any time.
    fn console_log(&self) -> Option<PathBuf> {
        None
    }
    /// The last lines of the console, where there is one: shown when SSH never comes up.
    async fn console_tail(&self) -> Option<String> {
        None
    }
    /// SHA-256 of the hostd that the machine comes with, where it comes with one.
    fn engine(&self) -> Option<String> {
        None
    }
    /// Makes a folder of this computer visible in the machine, which runs, and returns where it stands there. It stays so
    /// over restarts. `None` where this machine cannot have folders of this computer.
    async fn share(&self, folder: &Path) -> Result<Option<String>, DriverError> {
        let _ = folder;
        Ok(None)
    }
    /// Brings the run-time forwards of container ports to exactly this set. They end with the machine's run: set
    /// them again after a start. Where some fail, the others stand, and the error names the ports that are taken.
    async fn set_forwards(&self, forwards: &[Forward]) -> Result<(), DriverError> {
        let _ = forwards;
        Ok(())
    }
}
