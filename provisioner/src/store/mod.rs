//! Machines on disk.
//!
//! ```text
//! $BERTH_HOME/                     0700
//!   active                         name of the machine that commands go to
//!   certs/                         the certificate authority; its key never leaves this laptop
//!   cache/                         shared by drivers: downloaded images
//!   locks/<name>                   held while a machine is being changed
//!   machines/<name>/machine.toml   the record
//!   machines/<name>/journal        the steps of `create`, each before it is taken
//!   machines/<name>/id_ed25519     our key for its SSH, with .pub; host_ed25519, the key that it is to show
//!   machines/<name>/{ca,cert,key}.pem   the client certificate, laid out as DOCKER_CERT_PATH wants it
//!   machines/<name>/driver/        the driver's own
//!   machines/<name>/forwarder.*    lock and log of the process that forwards its published ports
//!   proxy.sock                     where `berth proxy` listens, with its lock; proxy-<name>.sock where it is bound to one
//!   contexts                       there while docker's contexts are kept in step
//!   machines/<name>/renamed-from   while it gets another name: the one before
//! ```
//! Files are replaced atomically (written aside, synced, renamed). Commands that read never write, and a record that
//! cannot be read is an error of that machine alone.

pub(crate) mod files;
mod journal;
pub(crate) mod labels;
mod lock;
mod name;
mod pattern;
mod record;
mod rename;

pub(crate) use journal::{Event, Journal, Step, Steps};
pub(crate) use labels::{Label, LabelChange, Labels, Selector};
pub(crate) use lock::MachineLock;
pub(crate) use name::MachineName;
pub(crate) use pattern::NamePattern;
pub(crate) use record::{Record, SCHEMA, ServerCertificate, Ssh, Stage, Via};

use crate::error::{CliError, USAGE};
use drivers::driver::{Driver, DriverError, MachineContext};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("invalid machine name `{0}`")]
    InvalidName(String),
    #[error("no such machine: {0}")]
    NotFound(String),
    #[error("machine `{0}` already exists")]
    Exists(String),
    #[error("machine `{0}` is there already, from a create that did not finish")]
    Interrupted(String),
    #[error("machine `{name}` is being changed by another berth{}", pid(*holder))]
    Locked { name: String, holder: Option<u32> },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is not a machine's record", path.display())]
    Malformed { path: PathBuf, source: toml::de::Error },
    #[error("{} has schema {found}, newer than this berth understands ({SCHEMA})", path.display())]
    Newer { path: PathBuf, found: u32 },
}

fn pid(holder: Option<u32>) -> String {
    holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        let (hint, code) = match &error {
            StoreError::InvalidName(_) => (
                Some("a name has letters, digits, `-` and `.`, starts and ends with a letter or digit, and has at most 63 characters".to_owned()),
                USAGE,
            ),
            StoreError::NotFound(_) => (Some("`berth ls` lists the machines".to_owned()), 1),
            StoreError::Exists(name) => {
                (Some(format!("choose another name, or remove it with `berth machine rm {name}`")), 1)
            }
            StoreError::Interrupted(name) => (
                Some(format!("go on with `berth create --resume {name}`, or remove it with `berth machine rm {name}`")),
                1,
            ),
            StoreError::Locked { .. } => (Some("wait until it is done".to_owned()), 1),
            StoreError::Newer { .. } => (Some("use a newer berth".to_owned()), 1),
            StoreError::Read { .. } | StoreError::Write { .. } | StoreError::Malformed { .. } => (None, 1),
        };
        let shown = error.to_string();
        let mut cli = Self::new(shown).code(code);
        if let Some(source) = match error {
            StoreError::Read { source, .. } | StoreError::Write { source, .. } => Some(Box::from(source)),
            StoreError::Malformed { source, .. } => {
                Some(Box::<dyn std::error::Error + Send + Sync>::from(source))
            }
            _ => None,
        } {
            cli = cli.because(source);
        }
        match hint {
            Some(hint) => cli.hint(hint),
            None => cli,
        }
    }
}

/// A machine's name, and what could be read of it.
pub(crate) type Listed = (MachineName, Result<Machine, StoreError>);

/// All machines below one directory.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    home: PathBuf,
    via: Option<Via>,
}

impl Store {
    /// The store in this directory, which need not exist yet.
    pub(crate) fn at(home: PathBuf) -> Self {
        Self { home, via: None }
    }

    /// The same, whose machines are reached in this way whatever their records say.
    pub(crate) fn via(self, via: Option<Via>) -> Self {
        Self { via, ..self }
    }

    /// `$BERTH_HOME`.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Where the certificate authority is.
    pub(crate) fn certs_dir(&self) -> PathBuf {
        self.home.join("certs")
    }

    /// The directory of a machine, there or not.
    pub(crate) fn dir(&self, name: &MachineName) -> PathBuf {
        self.home.join("machines").join(name.as_str())
    }

    /// Whether a machine has this name, even one whose record is broken.
    pub(crate) fn contains(&self, name: &MachineName) -> bool {
        self.dir(name).is_dir()
    }

    /// One machine.
    pub(crate) fn load(&self, name: &MachineName) -> Result<Machine, StoreError> {
        let dir = self.dir(name);
        let path = dir.join("machine.toml");
        let text = match files::read(&path, 1 << 20) {
            Ok(text) => text,
            Err(missing) if missing.kind() == ErrorKind::NotFound && !dir.exists() => {
                return Err(StoreError::NotFound(name.to_string()));
            }
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        #[derive(serde::Deserialize)]
        struct Version {
            schema: u32,
        }
        let malformed = |source| StoreError::Malformed { path: path.clone(), source };
        let version: Version = toml::from_str(&text).map_err(malformed)?;
        if version.schema > SCHEMA {
            return Err(StoreError::Newer { path, found: version.schema });
        }
        let mut record: Record = toml::from_str(&text).map_err(malformed)?;
        // A rename that was interrupted may not have come to this.
        record.name = name.to_string();
        Ok(Machine { record, name: name.clone(), home: self.home.clone(), via: self.via })
    }

    /// All machines by name; one that cannot be read is an error beside its name.
    pub(crate) fn list(&self) -> Result<Vec<Listed>, StoreError> {
        Ok(self.names()?.into_iter().map(|name| (name.clone(), self.load(&name))).collect())
    }

    /// The names alone, sorted.
    pub(crate) fn names(&self) -> Result<Vec<MachineName>, StoreError> {
        let path = self.home.join("machines");
        let failed = |source| StoreError::Read { path: path.clone(), source };
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed(source)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            // What is being made or removed has a name that no machine can have.
            names.extend(name.to_str().and_then(|name| name.parse::<MachineName>().ok()));
        }
        names.sort();
        Ok(names)
    }

    /// The machine that commands go to when none is named.
    pub(crate) fn active(&self) -> Result<Option<MachineName>, StoreError> {
        let written = self.active_as_written()?;
        let gone = written.as_ref().filter(|name| !self.contains(name));
        Ok(gone.and_then(|gone| self.successor(gone)).or(written))
    }

    fn active_as_written(&self) -> Result<Option<MachineName>, StoreError> {
        let path = self.home.join("active");
        match files::read(&path, 4096) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => text.trim().parse().map(Some),
            Err(missing) if missing.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Read { path, source }),
        }
    }

    /// Makes a machine the active one.
    pub(crate) fn set_active(&self, name: &MachineName) -> Result<(), StoreError> {
        let path = self.home.join("active");
        files::write(&path, format!("{name}\n").as_bytes(), 0o600)
            .map_err(|source| StoreError::Write { path, source })
    }

    /// Makes a machine the active one where none is, or where the active one is gone. Says whether it did.
    pub(crate) fn set_active_if_none(&self, name: &MachineName) -> Result<bool, StoreError> {
        let _held = self.wait_for_lock(".active")?;
        if self.active().ok().flatten().is_some_and(|active| self.contains(&active)) {
            return Ok(false);
        }
        self.set_active(name)?;
        Ok(true)
    }

    /// No machine is active, if this one was.
    pub(crate) fn clear_active(&self, name: &MachineName) -> Result<(), StoreError> {
        let _held = self.wait_for_lock(".active")?;
        if self.active().ok().flatten().as_ref() != Some(name) {
            return Ok(());
        }
        let path = self.home.join("active");
        std::fs::remove_file(&path).map_err(|source| StoreError::Write { path, source })
    }

    /// Only one process at a time changes a machine.
    pub(crate) fn lock(&self, name: &MachineName) -> Result<MachineLock, StoreError> {
        MachineLock::take(&self.lock_path(name.as_str())?, name.as_str())
    }

    fn lock_path(&self, name: &str) -> Result<PathBuf, StoreError> {
        let dir = self.home.join("locks");
        files::private_dir(&dir).map_err(|source| StoreError::Write { path: dir.clone(), source })?;
        Ok(dir.join(name))
    }

    /// A lock that is only ever held for an instant.
    fn wait_for_lock(&self, name: &str) -> Result<std::fs::File, StoreError> {
        let path = self.lock_path(name)?;
        let open = || -> io::Result<std::fs::File> {
            let file =
                std::fs::File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        open().map_err(|source| StoreError::Write { path: path.clone(), source })
    }

    /// Takes a name: of ten that try at once, one gets it. The caller holds the machine's lock.
    pub(crate) fn reserve(&self, name: &MachineName, record: Record) -> Result<Machine, StoreError> {
        let machines = self.home.join("machines");
        let failed = |path: &Path, source| StoreError::Write { path: path.to_owned(), source };
        files::private_dir(&machines).map_err(|source| failed(&machines, source))?;
        if self.contains(name) {
            return Err(self.taken(name));
        }
        // Made aside and renamed whole, so that no crash leaves a machine without its record.
        let aside = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&machines)
            .map_err(|source| failed(&machines, source))?;
        let text =
            toml::to_string_pretty(&record).map_err(|error| failed(aside.path(), io::Error::other(error)))?;
        files::write(&aside.path().join("machine.toml"), text.as_bytes(), 0o600)
            .map_err(|source| failed(aside.path(), source))?;
        let dir = self.dir(name);
        match std::fs::rename(aside.path(), &dir) {
            Ok(()) => {
                // Nothing is left at the old place to be removed.
                let _ = aside.keep();
            }
            Err(taken) if matches!(taken.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                return Err(self.taken(name));
            }
            Err(source) => return Err(failed(&dir, source)),
        }
        files::sync_dir(&machines).map_err(|source| failed(&machines, source))?;
        Ok(Machine { record, name: name.clone(), home: self.home.clone(), via: self.via })
    }

    fn taken(&self, name: &MachineName) -> StoreError {
        match self.load(name) {
            Ok(machine) if machine.record.state == Stage::Creating => {
                StoreError::Interrupted(name.to_string())
            }
            _ => StoreError::Exists(name.to_string()),
        }
    }

    /// Removes what the store has of a machine, whole or broken: out of sight first, then for good.
    pub(crate) fn forget(&self, name: &MachineName) -> Result<(), StoreError> {
        self.clear_active(name)?;
        let (dir, machines) = (self.dir(name), self.home.join("machines"));
        let failed = |source| StoreError::Write { path: dir.clone(), source };
        let aside = tempfile::Builder::new().prefix(".gone-").tempdir_in(&machines).map_err(failed)?;
        match std::fs::rename(&dir, aside.path().join("machine")) {
            Ok(()) => {}
            Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(failed(source)),
        }
        files::sync_dir(&machines).map_err(failed)?;
        aside.close().map_err(failed)
    }
}

/// One machine of the store.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// What stands in `machine.toml`.
    pub(crate) record: Record,
    /// Its name.
    pub(crate) name: MachineName,
    home: PathBuf,
    via: Option<Via>,
}

/// Where the parts of a machine's client certificate lie.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    /// The authority's certificate.
    pub(crate) ca: PathBuf,
    /// The client's certificate.
    pub(crate) cert: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
}

impl Machine {
    /// `$BERTH_HOME/machines/<name>`, which is also its DOCKER_CERT_PATH.
    pub(crate) fn dir(&self) -> PathBuf {
        self.home.join("machines").join(self.name.as_str())
    }

    /// `$BERTH_HOME`.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// The client certificate to show to its engine, whose own certificate has the name [`certs::identity_name`] of the
    /// record's id.
    pub(crate) fn tls(&self) -> TlsFiles {
        let dir = self.dir();
        TlsFiles { ca: dir.join("ca.pem"), cert: dir.join("cert.pem"), key: dir.join("key.pem") }
    }

    /// Whether its engine is reached over TLS; only a `none` machine may be reached without.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls().ca.is_file()
    }

    /// The name that its engine's certificate must have: the identity where berth issued it, else the host of the URL.
    pub(crate) fn server_name(&self, driver: &dyn Driver) -> Result<String, DriverError> {
        if driver.features().provisions {
            return Ok(certs::identity_name(self.record.id));
        }
        let url = driver.url()?;
        Ok(authority(&url).0)
    }

    /// The journal of its `create`.
    pub(crate) fn journal(&self) -> Journal {
        self.journal_of()
    }

    /// The journal of another operation on it.
    pub(crate) fn journal_of<S: Steps>(&self) -> Journal<S> {
        Journal::in_dir(&self.dir())
    }

    /// What its driver is told about it.
    pub(crate) fn driver_context(&self) -> MachineContext {
        MachineContext {
            name: self.name.to_string(),
            id: self.record.id,
            dir: self.dir().join("driver"),
            cache: self.home.join("cache"),
        }
    }

    /// Which way its engine is reached by.
    pub(crate) fn via(&self) -> Via {
        self.via.unwrap_or(self.record.via)
    }

    /// Its driver, as the record describes it.
    pub(crate) fn driver(&self) -> Result<Box<dyn Driver>, DriverError> {
        drivers::registry::open(&self.record.driver, &self.record.driver_config, self.driver_context())
    }

    /// Writes the record.
    pub(crate) fn save(&self) -> Result<(), StoreError> {
        save_record(&self.dir(), &self.record)
    }
}

/// Writes a record where the machine itself cannot be borrowed.
pub(crate) fn save_record(dir: &Path, record: &Record) -> Result<(), StoreError> {
    let path = dir.join("machine.toml");
    let written = toml::to_string_pretty(record)
        .map_err(io::Error::other)
        .and_then(|text| files::write(&path, text.as_bytes(), 0o600));
    written.map_err(|source| StoreError::Write { path, source })
}

/// Host (without brackets) and port of `tcp://host:port`.
pub(crate) fn authority(url: &str) -> (String, u16) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().unwrap_or(2376)),
        _ => (rest, 2376),
    };
    (host.trim_matches(['[', ']']).to_owned(), port)
}
