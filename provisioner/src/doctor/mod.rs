//! What is wrong with a machine: each hop on the way to its engine, in the order in which they are passed.
//!
//! ```text
//! driver ─ name ─ route ─┬─ SSH port ─ host key ─ log-in ─ service
//!                        └─ engine port ─ TLS ─ certificates ─ clock ─ API
//! ```
//! Each hop is asked by itself, with a time limit of its own. One that cannot be asked, because one before it failed, is
//! skipped and says so. Nothing is changed.

mod engine;
mod ssh;

use crate::error::CliError;
use crate::store::{Machine, Stage, Via, authority};
use drivers::driver::{Driver, MachineState};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// What came of one hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Ok,
    Failed,
    Skipped,
}

impl Outcome {
    /// How it is shown.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One hop.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Hop {
    pub(crate) hop: &'static str,
    pub(crate) outcome: Outcome,
    /// What was found, or why it was not asked.
    pub(crate) detail: String,
    pub(crate) milliseconds: u64,
    /// What mends it, where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

/// A failure, and what mends it.
struct Trouble {
    what: String,
    remedy: String,
}

type Found<T> = Result<T, Trouble>;

fn trouble(what: impl Into<String>, remedy: impl Into<String>) -> Trouble {
    Trouble { what: what.into(), remedy: remedy.into() }
}

/// An examination under way.
struct Report {
    hops: Vec<Hop>,
    limit: Duration,
}

impl Report {
    /// Asks one hop. Its answer is what it found, for people, and what later hops need.
    async fn ask<T>(
        &mut self,
        hop: &'static str,
        slow: &str,
        asked: impl Future<Output = Found<(String, T)>>,
    ) -> Option<T> {
        let since = Instant::now();
        let found = tokio::time::timeout(self.limit, asked).await.unwrap_or_else(|_| {
            Err(trouble(format!("no answer within {} seconds", self.limit.as_secs()), slow))
        });
        let milliseconds = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (outcome, detail, remedy, value) = match found {
            Ok((detail, value)) => (Outcome::Ok, detail, None, Some(value)),
            Err(Trouble { what, remedy }) => (Outcome::Failed, what, Some(remedy), None),
        };
        self.hops.push(Hop { hop, outcome, detail, milliseconds, remedy });
        value
    }

    /// The same with what is known already.
    async fn tell<T>(&mut self, hop: &'static str, found: Found<(String, T)>) -> Option<T> {
        self.ask(hop, "", async { found }).await
    }

    fn skip(&mut self, hops: &[&'static str], why: &str) {
        let skipped = |hop: &&'static str| Hop {
            hop,
            outcome: Outcome::Skipped,
            detail: why.to_owned(),
            milliseconds: 0,
            remedy: None,
        };
        self.hops.extend(hops.iter().map(skipped));
    }
}

/// Examines a machine; each hop gets this much time.
pub(crate) async fn examine(machine: &Machine, limit: Duration) -> Vec<Hop> {
    let mut report = Report { hops: Vec::new(), limit };
    let name = &machine.name;
    let slow = format!("`berth restart {name}` starts it anew");
    let Some(driver) = report.ask("driver", &slow, ask_driver(machine)).await else {
        report.skip(&["name", "route"], "the machine does not run");
        report.skip(&ssh::HOPS, "the machine does not run");
        report.skip(&engine::HOPS, "the machine does not run");
        return report.hops;
    };
    let driver = driver.as_ref();
    let url = driver.url().unwrap_or_default();
    let (host, port) = authority(&url);
    let slow = "check this computer's name servers: `cat /etc/resolv.conf`";
    let addresses = report.ask("name", slow, resolve(&host, port)).await;
    let routed = match &addresses {
        Some(addresses) => report.tell("route", route(addresses)).await.is_some(),
        None => {
            report.skip(&["route"], "the name has no address");
            false
        }
    };
    let session = ssh::examine(&mut report, machine, driver).await;
    if machine.via() == Via::Ssh {
        report.skip(&engine::HOPS[..3], "the engine is reached over SSH alone");
        engine::over_ssh(&mut report, machine, session.as_ref()).await;
    } else if let Some(addresses) = addresses.filter(|_| routed) {
        engine::examine(&mut report, machine, driver, &addresses, session.as_ref()).await;
    } else {
        report.skip(&engine::HOPS, "there is no way there");
    }
    if let Some(session) = session {
        session.close().await;
    }
    report.hops
}

async fn ask_driver(machine: &Machine) -> Found<(String, Box<dyn Driver>)> {
    let name = &machine.name;
    let inspect = || format!("`berth inspect {name}` shows what is known of it");
    let line = |error: drivers::driver::DriverError| CliError::from(error).one_line();
    let driver = machine.driver().map_err(|error| trouble(line(error), inspect()))?;
    if machine.record.state == Stage::Creating {
        return Err(trouble("create was interrupted", format!("`berth create --resume {name}`")));
    }
    let kind = driver.kind();
    if !driver.features().start_stop {
        return Ok((format!("driver {kind}: whether it runs is for others to say"), driver));
    }
    match driver.state().await {
        Ok(MachineState::Running) => Ok((format!("driver {kind}: it runs"), driver)),
        Ok(MachineState::Absent) => {
            Err(trouble("its files are gone", format!("`berth machine rm {name}`, then create it anew")))
        }
        Ok(MachineState::Error) => Err(trouble("it is in trouble", format!("`berth restart {name}`"))),
        Ok(state) => Err(trouble(
            format!("it does not run ({})", format!("{state:?}").to_lowercase()),
            format!("`berth start {name}`"),
        )),
        Err(error) => Err(trouble(line(error), inspect())),
    }
}

async fn resolve(host: &str, port: u16) -> Found<(String, Vec<SocketAddr>)> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok((format!("{host} is an address"), vec![SocketAddr::new(address, port)]));
    }
    let remedy = || format!("`getent hosts {host}` must know it: add it to the name server or to /etc/hosts");
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<SocketAddr> =
        found.map_err(|e| trouble(format!("cannot resolve `{host}`: {e}"), remedy()))?.collect();
    if found.is_empty() {
        return Err(trouble(format!("`{host}` has no address"), remedy()));
    }
    let addresses: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
    Ok((format!("{host} is {}", addresses.join(", ")), found))
}

/// Whether the kernel knows a way to one of them. Connecting a datagram socket sends nothing.
fn route(addresses: &[SocketAddr]) -> Found<(String, ())> {
    let mut refused = String::new();
    for address in addresses {
        let any: SocketAddr = if address.is_ipv4() {
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let own = std::net::UdpSocket::bind(any).and_then(|socket| {
            socket.connect(address)?;
            socket.local_addr()
        });
        match own {
            Ok(own) => return Ok((format!("to {} from {}", address.ip(), own.ip()), ())),
            Err(error) => refused = format!("no route to {}: {error}", address.ip()),
        }
    }
    Err(trouble(refused, "bring the network or the VPN up: `ip route` lists the ways there are"))
}
