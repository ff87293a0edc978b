//! How a command reaches an engine.
//!
//! ```text
//! Context ─▶ machine ─▶ Way (TLS under the machine's identity, or a socket) ─▶ Wire (HTTP/1.1) ─▶ Engine
//! ```
//! Typed calls go through bollard, which sends its requests over our wire; streams (attach, exec, logs, pull) and answers
//! that are passed on as they are go over the wire directly.

mod engine;
mod error;
mod forwards;
mod way;
mod wire;

pub(crate) use engine::{Archive, Engine};
pub(crate) use error::{ConnectError, EngineError};
pub(crate) use forwards::Forwarder;
pub(crate) use way::Way;

use crate::context::Context;
use crate::error::CliError;
use crate::store::Machine;
use std::path::{Path, PathBuf};

/// The selected machine's engine, and what brings its ports to the laptop.
pub(crate) struct Connection {
    /// The engine, connected.
    pub(crate) engine: Engine,
    /// Port forwards of the machine.
    pub(crate) forwarder: Forwarder,
}

/// Connects to the engine of the machine that the user means: `--machine`, `$BERTH_MACHINE`, the active one.
pub(crate) async fn selected(context: &Context) -> Result<Connection, CliError> {
    let machine = context.selected()?;
    let engine = engine(&machine).await.map_err(|e| failed("cannot speak to the engine", e))?;
    Ok(Connection { engine, forwarder: Forwarder::of(&machine)? })
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
        EngineError::Unreachable { machine, source } => {
            let hint = match source {
                ConnectError::Dial { .. } | ConnectError::Broken { .. } => {
                    format!("`berth status {machine}` tells whether it is running")
                }
                ConnectError::Tls { .. } => format!("`berth provision {machine}` gives it new certificates"),
                ConnectError::Url { .. } | ConnectError::Certificates { .. } | ConnectError::Driver(_) => {
                    format!("`berth inspect {machine}` shows what is known of it")
                }
            };
            CliError::new(format!("cannot reach machine `{machine}`")).because(source).hint(hint)
        }
        error => CliError::new(what).because(error),
    }
}

/// The way to a machine's engine.
fn way(machine: &Machine) -> Result<Way, ConnectError> {
    let url =
        machine.driver().and_then(|driver| driver.url()).map_err(|e| ConnectError::Driver(Box::new(e)))?;
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

fn client_config(files: &[PathBuf; 3]) -> Result<std::sync::Arc<rustls::ClientConfig>, ConnectError> {
    let dir = || files[1].parent().unwrap_or(Path::new("/")).to_owned();
    let read = |path: &PathBuf| {
        let text = crate::store::files::read(path, 1 << 20);
        text.map_err(|source| ConnectError::Certificates { dir: dir(), source: source.into() })
    };
    let [ca, cert, key] = files;
    certs::client_config(&read(ca)?, &read(cert)?, &read(key)?)
        .map_err(|source| ConnectError::Certificates { dir: dir(), source: source.into() })
}
