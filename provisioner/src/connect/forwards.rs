//! Brings published ports to the laptop, where the machine's network does not.
//!
//! What is to be forwarded follows from the engine alone: the published ports of the containers that run. Every command
//! that may have changed them brings the driver's forwards to that set, under a lock, as two commands at a time would
//! each set what it saw.

use super::{Engine, EngineError};
use crate::error::CliError;
use crate::store::Machine;
use drivers::driver::{Driver, Forward};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// The laptop's side of every forward: what was published on all addresses of the machine is not meant for everyone in
/// the laptop's network.
const LAPTOP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Keeps the forwards of one machine in step with its containers.
pub(crate) struct Forwarder {
    /// `None` where ports need no forwarding.
    driver: Option<Box<dyn Driver>>,
    lock: PathBuf,
}

/// A published port, as the engine lists it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    #[serde(default, rename = "IP")]
    ip: String,
    #[serde(default)]
    public_port: Option<u16>,
    #[serde(default)]
    r#type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

impl Forwarder {
    /// Those of this machine.
    pub(crate) fn of(machine: &Machine) -> Result<Self, CliError> {
        let driver = machine.driver()?;
        let driver = driver.features().forwards_ports.then_some(driver);
        Ok(Self { driver, lock: machine.dir().join("forwards.lock") })
    }

    /// Brings the forwards in step with the containers that run.
    pub(crate) async fn sync(&self, engine: &Engine) -> Result<(), CliError> {
        self.sync_with(engine, &[]).await
    }

    /// The same, with ports of a container that is about to start: a port that is taken on the laptop is found before
    /// the container has run.
    pub(crate) async fn sync_with(&self, engine: &Engine, more: &[Forward]) -> Result<(), CliError> {
        let Some(driver) = &self.driver else { return Ok(()) };
        let lock = self.lock.clone();
        let locked = tokio::task::spawn_blocking(move || -> std::io::Result<File> {
            let file = File::options().create(true).truncate(false).write(true).open(lock)?;
            file.lock()?;
            Ok(file)
        });
        let failed =
            |what: std::io::Error| CliError::new("cannot lock the machine's port forwards").because(what);
        let _lock = locked.await.map_err(|e| failed(std::io::Error::other(e)))?.map_err(failed)?;
        let mut wanted = running(engine).await.map_err(|e| super::failed("cannot list containers", e))?;
        let publishers = wanted.clone();
        wanted.extend(more.iter().map(|forward| (*forward, String::new())));
        let wanted: Vec<_> = wanted.into_keys().collect();
        driver.set_forwards(&wanted).await.map_err(|error| {
            let named = publishers_of(&publishers, &error.to_string());
            let error = CliError::from(error);
            let error = if named.is_empty() { error } else { CliError::new(named).because(error) };
            error.hint("choose another port of the laptop (`-p PORT:…`), or stop what uses this one")
        })
    }

    /// Whether this machine's ports need forwarding at all.
    pub(crate) fn is_needed(&self) -> bool {
        self.driver.is_some()
    }

    /// The forward for a port that is asked for, where it has to be forwarded.
    pub(crate) fn forward(&self, udp: bool, host_ip: &str, host_port: u16) -> Option<Forward> {
        self.driver.as_ref().and(forward(udp, host_ip, host_port))
    }
}

/// A port that the machine publishes on its own loopback address is not reached from outside.
fn forward(udp: bool, host_ip: &str, port: u16) -> Option<Forward> {
    let loopback = host_ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    (port != 0 && !loopback).then_some(Forward { udp, host_ip: LAPTOP, host_port: port, guest_port: port })
}

/// What is published, and by which container.
type Published = BTreeMap<Forward, String>;

async fn running(engine: &Engine) -> Result<Published, EngineError> {
    let containers: Vec<Container> = engine.get("/containers/json").await?;
    let mut published = Published::new();
    for container in containers {
        let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
        let forwards =
            container.ports.unwrap_or_default().into_iter().filter_map(|port| match port.r#type.as_str() {
                "udp" => forward(true, &port.ip, port.public_port?),
                "tcp" => forward(false, &port.ip, port.public_port?),
                _ => None,
            });
        published.extend(forwards.map(|forward| (forward, name.trim_start_matches('/').to_owned())));
    }
    Ok(published)
}

/// Which containers publish the ports that a driver names in its refusal.
fn publishers_of(published: &Published, refusal: &str) -> String {
    let is_named = |port: u16| {
        refusal.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.parse::<u16>() == Ok(port))
    };
    let named: Vec<String> = published
        .iter()
        .filter(|(forward, name)| is_named(forward.host_port) && !name.is_empty())
        .map(|(forward, name)| {
            format!("port {} of container `{name}` does not reach this computer", forward.host_port)
        })
        .collect();
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_to_the_laptops_localhost_unless_they_are_the_machines_own() {
        let forwarded = forward(false, "0.0.0.0", 8080).unwrap();
        assert_eq!((forwarded.host_ip, forwarded.host_port, forwarded.guest_port), (LAPTOP, 8080, 8080));
        assert_eq!(forward(false, "::", 8080), Some(forwarded));
        assert_eq!(forward(false, "127.0.0.1", 8080), None);
        assert_eq!(forward(true, "", 0), None);
    }

    #[test]
    fn a_port_that_is_refused_is_told_with_its_container() {
        let published = Published::from([
            (forward(false, "", 8080).unwrap(), "web".to_owned()),
            (forward(false, "", 80).unwrap(), "other".to_owned()),
        ]);
        let told = publishers_of(&published, "cannot forward every port: port 8080 of 127.0.0.1 is taken");
        assert_eq!(told, "port 8080 of container `web` does not reach this computer");
    }
}
