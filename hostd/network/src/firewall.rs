//! The firewall: address translation for containers, and who may talk to them.
//!
//! Everything of ours stands in one table, `ip hostd`, and changes in atomic batches. Rules are fixed; a published
//! port is one element of a map, so that publishing and withdrawing never touch a rule. The table outlives the daemon:
//! ports keep working while it restarts, which then replaces the table in one batch.
//!
//! A base chain of ours can only accept for itself: where another table (Docker's, firewalld's) drops forwarded
//! packets, they stay dropped. [`Firewall::foreign_drops`] finds the usual suspects, for a warning.

use crate::Protocol;
use crate::error::NetworkError;
use crate::ipam::Subnet;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// A published IPv4 port: packets to `host_ip:host_port` go to `to_ip:to_port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) protocol: Protocol,
    /// `0.0.0.0`: every address of the host.
    pub(crate) host_ip: Ipv4Addr,
    pub(crate) host_port: u16,
    pub(crate) to_ip: Ipv4Addr,
    pub(crate) to_port: u16,
}

/// All that our table says.
#[derive(Debug)]
pub(crate) struct Ruleset {
    pub(crate) bridge: String,
    pub(crate) subnet: Subnet,
    /// Whether containers reach each other.
    pub(crate) icc: bool,
    pub(crate) mappings: Vec<Mapping>,
}

/// Who puts the rules into the kernel. Every call is atomic: all of it takes effect, or nothing.
pub(crate) trait Firewall: Send + Sync {
    /// Puts `rules` in the place of all that our table said before.
    fn replace(&self, rules: &Ruleset) -> Result<(), NetworkError>;
    /// Adds mappings to the table.
    fn publish(&self, mappings: &[Mapping]) -> Result<(), NetworkError>;
    /// Takes mappings out of the table.
    fn withdraw(&self, mappings: &[Mapping]) -> Result<(), NetworkError>;
    /// What else on this host drops forwarded packets, in words, if anything is found.
    fn foreign_drops(&self) -> Option<String>;
}

/// The program `nft`, one process per batch (2-3 ms).
pub(crate) struct Nft;

impl Firewall for Nft {
    fn replace(&self, rules: &Ruleset) -> Result<(), NetworkError> {
        run(&rules.to_string())
    }

    fn publish(&self, mappings: &[Mapping]) -> Result<(), NetworkError> {
        run(&elements("add", mappings))
    }

    fn withdraw(&self, mappings: &[Mapping]) -> Result<(), NetworkError> {
        run(&elements("delete", mappings))
    }

    fn foreign_drops(&self) -> Option<String> {
        let chain = |name: &str| list(&["list", "chain", "ip", "filter", name]);
        if chain("DOCKER-USER").is_some() {
            return Some("Docker's rules are in force (chain DOCKER-USER)".into());
        }
        if chain("FORWARD").is_some_and(|rules| rules.contains("policy drop")) {
            return Some("the policy of the chain FORWARD (table ip filter) is drop".into());
        }
        // Rules of the older iptables are not visible to nft; that they exist is.
        let tables = std::fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
        tables.lines().any(|table| table == "filter").then(|| "rules of iptables-legacy are in force".into())
    }
}

impl std::fmt::Display for Ruleset {
    /// One batch for `nft -f -`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bridge, subnet, icc, mappings } = self;
        let between = if *icc { "accept" } else { "drop" };
        // Where containers are kept apart, what one sends to another's published port goes to the proxy instead: with
        // br_netfilter, a translated packet would go from port to port of the bridge, which the isolation forbids.
        let callers = if *icc { String::new() } else { format!("iifname != \"{bridge}\" ") };
        // Adding before deleting: deleting a table that is not there would fail the batch.
        writeln!(f, "add table ip hostd\ndelete table ip hostd\ntable ip hostd {{")?;
        for protocol in Protocol::ALL {
            writeln!(f, " map {protocol}_any {{ type inet_service : ipv4_addr . inet_service; }}")?;
            writeln!(
                f,
                " map {protocol}_at {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; }}"
            )?;
        }
        writeln!(f, " chain published {{")?;
        for protocol in Protocol::ALL {
            writeln!(f, "  dnat ip to ip daddr . {protocol} dport map @{protocol}_at")?;
            writeln!(f, "  dnat ip to {protocol} dport map @{protocol}_any")?;
        }
        writeln!(
            f,
            " }}
 # route_localnet lets the host reach containers from 127.0.0.1; it must not let containers reach the host there.
 chain guard {{
  type filter hook prerouting priority -300; policy accept;
  iifname \"{bridge}\" ip daddr 127.0.0.0/8 drop
 }}
 chain prerouting {{
  type nat hook prerouting priority -100; policy accept;
  {callers}fib daddr type local jump published
 }}
 chain output {{
  type nat hook output priority -100; policy accept;
  fib daddr type local jump published
 }}
 chain postrouting {{
  type nat hook postrouting priority 100; policy accept;
  ip saddr {subnet} oifname != \"{bridge}\" masquerade
  oifname \"{bridge}\" ip saddr 127.0.0.0/8 masquerade
  # A container that calls a published port: the answer has to come back through the host.
  oifname \"{bridge}\" ip saddr {subnet} ct status dnat masquerade
 }}
 # A container's packet that goes on to another would have us tell it the shorter way, round the translation.
 chain answers {{
  type filter hook output priority 0; policy accept;
  oifname \"{bridge}\" icmp type redirect drop
 }}
 chain forward {{
  type filter hook forward priority 0; policy accept;
  oifname \"{bridge}\" jump to_containers
 }}
 chain to_containers {{
  ct state established,related accept
  ct status dnat accept
  iifname \"{bridge}\" {between}
  drop
 }}
}}"
        )?;
        f.write_str(&elements("add", mappings))
    }
}

/// Lines that add mappings to their maps, or delete them.
fn elements(verb: &str, mappings: &[Mapping]) -> String {
    let mut batch = String::new();
    for Mapping { protocol, host_ip, host_port, to_ip, to_port } in mappings {
        let (map, key) = match host_ip.is_unspecified() {
            true => ("any", host_port.to_string()),
            false => ("at", format!("{host_ip} . {host_port}")),
        };
        let _ = writeln!(batch, "{verb} element ip hostd {protocol}_{map} {{ {key} : {to_ip} . {to_port} }}");
    }
    batch
}

fn run(batch: &str) -> Result<(), NetworkError> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| {
            if e.kind() == io::ErrorKind::NotFound {
                NetworkError::NftMissing
            } else {
                NetworkError::NftRun(e)
            }
        })?;
    // A program that ends without reading says why on stderr, which counts for more than the broken pipe.
    let written = nft.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(batch.as_bytes()));
    let mut complaint = String::new();
    if let Some(stderr) = nft.stderr.take() {
        let _ = stderr.take(16 << 10).read_to_string(&mut complaint);
    }
    let status = nft.wait().map_err(NetworkError::NftRun)?;
    if !status.success() {
        return Err(NetworkError::Nft(complaint.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    written.map_err(NetworkError::NftRun)
}

/// What `nft` prints, if it succeeds.
fn list(args: &[&str]) -> Option<String> {
    let output = Command::new("nft").args(args).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
