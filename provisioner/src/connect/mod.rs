//! How a command reaches an engine.
//!
//! ```text
//! Context ─▶ machine ─▶ Way (TLS under the machine's identity, an SSH session, or a socket) ─▶ Wire (HTTP/1.1) ─▶ Engine
//! ```
//! Which of the ways is taken says [`Via`]: the command line for this once, the machine's record for always, or else what
//! leads there.
//!
//! Typed calls go through bollard, which sends its requests over our wire; streams (attach, exec, logs, pull) and answers
//! that are passed on as they are go over the wire directly.

mod engine;
mod error;
mod forwards;
pub(crate) mod watcher;
mod way;
mod wire;

pub(crate) use crate::store::Via;
pub(crate) use engine::{Archive, Engine};
pub(crate) use error::{ConnectError, EngineError};
pub(crate) use forwards::Forwarder;
pub(crate) use watcher::watch_ports;
pub(crate) use way::{Stream, Way};

use crate::context::Context;
use crate::error::CliError;
use crate::ssh::{Target, Tunnel};
use crate::store::Machine;
use drivers::driver::{Driver, DriverError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The selected machine's engine, and what brings its ports to the laptop.
pub(crate) struct Connection {
    /// The engine, connected.
    pub(crate) engine: Engine,
    /// Port forwards of the machine.
    pub(crate) forwarder: Forwarder,
    /// The machine.
    pub(crate) machine: Machine,
}

/// Connects to the engine of the machine that the user means: `--machine`, `$BERTH_MACHINE`, the active one.
pub(crate) async fn selected(context: &Context) -> Result<Connection, CliError> {
    let machine = context.selected()?;
    let engine = engine(&machine).await.map_err(|e| failed("cannot speak to the engine", e))?;
    watch_ports(&machine);
    Ok(Connection { engine, forwarder: Forwarder::of(&machine)?, machine })
}

/// Connects to a machine's engine.
pub(crate) async fn engine(machine: &Machine) -> Result<Engine, EngineError> {
    let name = machine.name.to_string();
    match way(machine) {
        Ok(way) => Engine::connect(&name, way).await,
        Err(source) => Err(EngineError::Unreachable { machine: name, source }),
    }
}

/// An engine call failed while `what` was being done. Where the engine was not reached at all, that is what is told.
pub(crate) fn failed(what: impl Into<String>, error: EngineError) -> CliError {
    match error {
        EngineError::Unreachable { machine, source } => unreachable(&machine, source),
        error => CliError::new(what).because(error),
    }
}

/// Why a machine's engine is not reached, and what to do about it.
pub(crate) fn unreachable(machine: impl std::fmt::Display, source: ConnectError) -> CliError {
    let hint = match source {
        ConnectError::Dial { .. }
        | ConnectError::Broken { .. }
        | ConnectError::Ssh(_)
        | ConnectError::Neither { .. } => {
            format!("`berth status {machine}` tells whether it is running")
        }
        ConnectError::Tls { .. } => format!("`berth provision {machine}` gives it new certificates"),
        ConnectError::NoSsh => "say `--via tls`, or leave the way to berth: `--via auto`".to_owned(),
        ConnectError::Url { .. } | ConnectError::Certificates { .. } | ConnectError::Driver(_) => {
            format!("`berth inspect {machine}` shows what is known of it")
        }
    };
    CliError::new(format!("cannot reach machine `{machine}`")).because(source).hint(hint)
}

/// hostd's socket on a machine that berth has set up.
const SOCKET: &str = "/run/hostd.sock";

/// The way to a machine's engine, asked of its driver anew: its address may be another than it was.
pub(crate) fn way(machine: &Machine) -> Result<Way, ConnectError> {
    let driver = machine.driver().map_err(|e| ConnectError::Driver(Box::new(e)))?;
    match machine.via() {
        Via::Tls => direct(machine, driver.as_ref()),
        Via::Ssh => Ok(Way::Ssh(tunnel(machine, driver.as_ref(), true)?.ok_or(ConnectError::NoSsh)?)),
        Via::Auto => {
            let direct = direct(machine, driver.as_ref())?;
            // Nobody has asked for SSH, so that nobody expects to be asked for a passphrase.
            Ok(match tunnel(machine, driver.as_ref(), false)? {
                Some(tunnel) => Way::either(direct, tunnel),
                None => direct,
            })
        }
    }
}

/// `None` where there is no SSH, or where its host has not been verified yet.
fn tunnel(
    machine: &Machine,
    driver: &dyn Driver,
    may_ask: bool,
) -> Result<Option<Arc<Tunnel>>, ConnectError> {
    if !driver.features().provisions || machine.record.ssh.host_keys.is_empty() {
        return Ok(None);
    }
    let target = ssh_target(machine, driver).map_err(|e| ConnectError::Driver(Box::new(e)))?;
    Ok(target.map(|target| Tunnel::new(Target { may_ask, ..target }, SOCKET)))
}

/// Where a machine's SSH is, where it has any.
pub(crate) fn ssh_target(machine: &Machine, driver: &dyn Driver) -> Result<Option<Target>, DriverError> {
    Ok(driver.ssh()?.map(|endpoint| Target {
        endpoint,
        own_key: machine.dir().join("id_ed25519"),
        pins: machine.record.ssh.host_keys.clone(),
        accept_any: false,
        known_hosts: machine.home().join("known_hosts"),
        may_ask: true,
    }))
}

/// The way without SSH.
pub(crate) fn direct(machine: &Machine, driver: &dyn Driver) -> Result<Way, ConnectError> {
    let url = driver.url().map_err(|e| ConnectError::Driver(Box::new(e)))?;
    if let Some(path) = url.strip_prefix("unix://") {
        return Ok(Way::Unix(PathBuf::from(path)));
    }
    let unusable = || ConnectError::Url { url: url.clone() };
    let parsed = url::Url::parse(&url).map_err(|_| unusable())?;
    let (Some(host), Some(port)) = (parsed.host_str(), parsed.port().or(Some(2376))) else {
        return Err(unusable());
    };
    let address = format!("{host}:{port}");
    let bare = host.trim_matches(['[', ']']).to_owned();
    let config = &machine.record.driver_config;
    let given = |key: &str| config.get(key).and_then(toml::Value::as_str).map(PathBuf::from);
    // An engine that berth did not set up has its own certificates, which carry its host's name, or none at all.
    let (name, files) =
        match (machine.record.driver.as_str(), given("tls-ca"), given("tls-cert"), given("tls-key")) {
            ("none", Some(ca), Some(cert), Some(key)) => (bare, [ca, cert, key]),
            ("none", None, None, None) => return Ok(Way::Tcp { address }),
            ("none", ..) => return Err(unusable()),
            _ => {
                let tls = machine.tls();
                (certs::identity_name(machine.record.id), [tls.ca, tls.cert, tls.key])
            }
        };
    let name = name.try_into().map_err(|_| unusable())?;
    Ok(Way::Tls { address, name, config: client_config(&files)? })
}

fn client_config(files: &[PathBuf; 3]) -> Result<Arc<rustls::ClientConfig>, ConnectError> {
    let dir = || files[1].parent().unwrap_or(Path::new("/")).to_owned();
    let read = |path: &PathBuf| {
        let text = crate::store::files::read(path, 1 << 20);
        text.map_err(|source| ConnectError::Certificates { dir: dir(), source: source.into() })
    };
    let [ca, cert, key] = files;
    certs::client_config(&read(ca)?, &read(cert)?, &read(key)?)
        .map_err(|source| ConnectError::Certificates { dir: dir(), source: source.into() })
}
