//! Docker contexts: one for each machine, so that `docker context use berth-dev` is all that docker has to be told.
//!
//! ```text
//! ~/.docker/contexts/meta/<sha256 of the name>/meta.json         where the engine is, and whose context it is
//! ~/.docker/contexts/tls/<sha256 of the name>/docker/*.pem       the client certificate
//! $BERTH_HOME/contexts                                           there while contexts are to be kept in step
//! ```
//! The files are docker's own; it reads them at each command. Ours carry berth's home among their metadata, and no other is
//! touched, whatever its name.

use crate::connect::Via;
use crate::error::{CliError, Doing as _};
use crate::store::{Machine, MachineName, Store, files};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The key of the metadata that makes a context ours.
const MARK: &str = "BerthHome";
/// Metadata larger than this is not docker's.
const MOST: u64 = 1 << 20;
const CERTIFICATES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// docker's directory, and the store that contexts are made from.
pub(crate) struct Contexts<'a> {
    docker: PathBuf,
    store: &'a Store,
}

/// How a context stands to its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Standing {
    InStep,
    Outdated,
    Missing,
    /// Its machine is gone.
    Orphaned,
    /// Somebody else made one of this name.
    Foreign,
}

/// A context that is there, or ought to be.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) machine: String,
    pub(crate) endpoint: String,
    pub(crate) current: bool,
    pub(crate) standing: Standing,
}

/// What a machine's context should hold.
struct Wanted {
    meta: Value,
    endpoint: String,
    /// The client certificate's files, where it has one.
    tls: Vec<(&'static str, String)>,
}

/// The name of a machine's context.
pub(crate) fn context_name(machine: &MachineName) -> String {
    format!("berth-{machine}")
}

/// Where `berth proxy` listens unless told: one socket for the active machine, and one for each that it is bound to.
pub(crate) fn proxy_socket(home: &Path, machine: Option<&str>) -> PathBuf {
    match machine {
        Some(machine) => home.join(format!("proxy-{machine}.sock")),
        None => home.join("proxy.sock"),
    }
}

/// Brings the contexts in step where that was switched on; that it fails does not undo what was done to a machine.
pub(crate) fn keep(store: &Store) {
    if !store.home().join("contexts").exists() {
        return;
    }
    if let Err(error) = Contexts::of(store).and_then(|contexts| contexts.sync()) {
        crate::ui::stderr(&format!("warning: docker's contexts are not in step: {}", error.one_line()));
    }
}

impl<'a> Contexts<'a> {
    /// Those in `$DOCKER_CONFIG`, or `.docker` in the home directory.
    pub(crate) fn of(store: &'a Store) -> Result<Self, CliError> {
        let given = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let docker = given("DOCKER_CONFIG").or_else(|| given("HOME").map(|home| home.join(".docker")));
        let docker = docker.ok_or_else(|| {
            CliError::new("cannot tell where docker keeps its contexts").hint("set HOME or DOCKER_CONFIG")
        })?;
        Ok(Self { docker, store })
    }

    /// From now on they are kept in step.
    pub(crate) fn switch_on(&self) -> Result<(), CliError> {
        let home = self.store.home();
        files::private_dir(home).doing(format!("cannot make {}", home.display()))?;
        let path = home.join("contexts");
        files::write(&path, b"docker contexts are kept in step\n", 0o600)
            .doing(format!("cannot write {}", path.display()))
    }

    /// Writes what differs and removes what is ours and has no machine; tells which names somebody else has.
    pub(crate) fn sync(&self) -> Result<Vec<String>, CliError> {
        let mut foreign = Vec::new();
        for context in self.list()? {
            match context.standing {
                Standing::InStep => {}
                Standing::Outdated | Standing::Missing => self.write(&context)?,
                Standing::Orphaned => self.remove(&context.name)?,
                Standing::Foreign => foreign.push(context.name),
            }
        }
        Ok(foreign)
    }

    /// Removes all of ours, and keeps none from now on.
    pub(crate) fn remove_all(&self) -> Result<Vec<String>, CliError> {
        let path = self.store.home().join("contexts");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(CliError::new(format!("cannot remove {}", path.display())).because(error));
            }
            _ => {}
        }
        let ours: Vec<String> = self.ours()?.into_keys().collect();
        for name in &ours {
            self.remove(name)?;
        }
        Ok(ours)
    }

    /// All that are there or ought to be, by name. Machines whose record cannot be read keep what they have.
    pub(crate) fn list(&self) -> Result<Vec<Listed>, CliError> {
        let current = self.current();
        let mut ours = self.ours()?;
        let mut listed = Vec::new();
        for (machine, loaded) in self.store.list()? {
            let name = context_name(&machine);
            let there = ours.remove(&name);
            let Ok(loaded) = loaded else { continue };
            // So does one that has not been started yet, or whose certificates cannot be read.
            let Ok(wanted) = self.wanted(&loaded) else { continue };
            let standing = match there {
                Some(meta) if meta == wanted.meta && self.has_certificates(&name, &wanted) => {
                    Standing::InStep
                }
                Some(_) => Standing::Outdated,
                None if self.meta_dir(&name).exists() => Standing::Foreign,
                None => Standing::Missing,
            };
            let machine = machine.to_string();
            let is_current = current.as_ref() == Some(&name);
            listed.push(Listed { name, machine, endpoint: wanted.endpoint, current: is_current, standing });
        }
        for (name, meta) in ours {
            let endpoint = meta["Endpoints"]["docker"]["Host"].as_str().unwrap_or_default().to_owned();
            let machine = name.trim_start_matches("berth-").to_owned();
            let is_current = current.as_ref() == Some(&name);
            listed.push(Listed {
                name,
                machine,
                endpoint,
                current: is_current,
                standing: Standing::Orphaned,
            });
        }
        Ok(listed)
    }

    fn wanted(&self, machine: &Machine) -> Result<Wanted, CliError> {
        let by_proxy = machine.record.via == Via::Ssh;
        let (endpoint, how) = if by_proxy {
            let socket = proxy_socket(self.store.home(), Some(machine.name.as_str()));
            (
                format!("unix://{}", socket.display()),
                format!(", while `berth proxy --machine {}` runs", machine.name),
            )
        } else {
            (machine.driver()?.url()?, String::new())
        };
        let mut tls = Vec::new();
        if machine.has_tls() && !by_proxy {
            for file in CERTIFICATES {
                let path = machine.dir().join(file);
                let text = files::read(&path, MOST).doing(format!("cannot read {}", path.display()))?;
                tls.push((file, text));
            }
        }
        let meta = json!({
            "Name": context_name(&machine.name),
            "Metadata": {
                "Description": format!("machine {} of berth{how}", machine.name),
                MARK: self.store.home(),
            },
            "Endpoints": { "docker": { "Host": endpoint, "SkipTLSVerify": false } },
        });
        Ok(Wanted { meta, endpoint, tls })
    }

    fn write(&self, context: &Listed) -> Result<(), CliError> {
        let machine = self.store.load(&context.machine.parse::<MachineName>()?)?;
        let (name, wanted) = (&context.name, self.wanted(&machine)?);
        let doing = || format!("cannot write docker's context {name}");
        let tls = self.tls_dir(name);
        if wanted.tls.is_empty() {
            remove_dir(&tls).doing(doing())?;
        } else {
            files::private_dir(&tls.join("docker")).doing(doing())?;
        }
        for (file, text) in &wanted.tls {
            files::write(&tls.join("docker").join(file), text.as_bytes(), 0o600).doing(doing())?;
        }
        // Last: a context is there when its metadata is.
        let meta = self.meta_dir(name);
        files::private_dir(&meta).doing(doing())?;
        files::write(&meta.join("meta.json"), wanted.meta.to_string().as_bytes(), 0o600).doing(doing())
    }

    fn remove(&self, name: &str) -> Result<(), CliError> {
        let doing = || format!("cannot remove docker's context {name}");
        self.leave(name).doing(doing())?;
        // The key first: without its metadata nobody would find it any more.
        remove_dir(&self.tls_dir(name)).doing(doing())?;
        remove_dir(&self.meta_dir(name)).doing(doing())
    }

    /// docker refuses every command while the context that it is to use is gone.
    fn leave(&self, name: &str) -> std::io::Result<()> {
        if self.current().as_deref() != Some(name) {
            return Ok(());
        }
        // It may be a link into somebody's collection of such files.
        let path = self.docker.join("config.json").canonicalize()?;
        let mut config: Value = serde_json::from_str(&files::read(&path, MOST)?)?;
        if let Some(fields) = config.as_object_mut() {
            fields.remove("currentContext");
        }
        files::write(&path, serde_json::to_string_pretty(&config)?.as_bytes(), 0o600)
    }

    /// The context that docker uses when it is not told.
    fn current(&self) -> Option<String> {
        let text = files::read(&self.docker.join("config.json"), MOST).ok()?;
        let config: Value = serde_json::from_str(&text).ok()?;
        config["currentContext"].as_str().map(str::to_owned)
    }

    /// Contexts that this store's berth has made, with their metadata.
    fn ours(&self) -> Result<BTreeMap<String, Value>, CliError> {
        let dir = self.docker.join("contexts/meta");
        let doing = || format!("cannot read {}", dir.display());
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(CliError::new(doing()).because(error)),
        };
        let mut ours = BTreeMap::new();
        let home = json!(self.store.home());
        for entry in entries {
            let path = entry.doing(doing())?.path().join("meta.json");
            // What cannot be read is not ours.
            let Ok(text) = files::read(&path, MOST) else { continue };
            let Ok(meta) = serde_json::from_str::<Value>(&text) else { continue };
            if meta["Metadata"][MARK] == home
                && let Some(name) = meta["Name"].as_str()
            {
                ours.insert(name.to_owned(), meta);
            }
        }
        Ok(ours)
    }

    fn has_certificates(&self, name: &str, wanted: &Wanted) -> bool {
        let dir = self.tls_dir(name).join("docker");
        let same = |(file, text): &(&str, String)| {
            files::read(&dir.join(file), MOST).is_ok_and(|there| there == *text)
        };
        wanted.tls.iter().all(same) && (!wanted.tls.is_empty() || !dir.exists())
    }

    fn meta_dir(&self, name: &str) -> PathBuf {
        self.docker.join("contexts/meta").join(id(name))
    }

    fn tls_dir(&self, name: &str) -> PathBuf {
        self.docker.join("contexts/tls").join(id(name))
    }
}

/// docker's name for a context's directories.
fn id(name: &str) -> String {
    hex::encode(Sha256::digest(name.as_bytes()))
}

fn remove_dir(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(missing) if missing.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
