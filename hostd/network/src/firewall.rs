//! The firewall: address translation for containers, and who may talk to them.
//!
//! Everything of ours stands in the table `ip hostd` and, where containers are kept apart, in `bridge hostd`
//! ([`linked`]), and changes in atomic batches. Rules are fixed; a published port is one element of a map, and a link
//! one or more of a set, so that publishing and withdrawing never touch a rule. The tables outlive the daemon:
//! ports keep working while it restarts, which then replaces them in one batch.
//!
//! A base chain of ours can only accept for itself: where another table (Docker's, firewalld's) drops forwarded
//! packets, they stay dropped. [`Firewall::foreign_drops`] finds the usual suspects, for a warning.

use crate::Protocol;
use crate::error::NetworkError;
use crate::ipam::Subnet;
use crate::linked::{self, Call, Parties};
use crate::links::OUR_GROUP;
use crate::nft;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// What packets bear that a link lets through; no other rule has a reason to use the number.
const LINK_MARK: u32 = 0x6873_7464;

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

/// What comes and goes with containers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries {
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) calls: Vec<Call>,
}

/// All that our tables say.
#[derive(Debug)]
pub(crate) struct Ruleset {
    pub(crate) bridge: String,
    pub(crate) subnet: Subnet,
    /// Whether containers reach each other.
    pub(crate) icc: bool,
    pub(crate) mappings: Vec<Mapping>,
    /// Empty where containers reach each other anyway.
    pub(crate) parties: Parties,
}

/// Who puts the rules into the kernel. Every call is atomic: all of it takes effect, or nothing.
pub(crate) trait Firewall: Send + Sync {
    /// Puts `rules` in the place of all that our tables said before. Where the kernel cannot keep the rules of links, it
    /// goes without, and the answer is why.
    fn replace(&self, rules: &Ruleset) -> Result<Option<String>, NetworkError>;
    /// Adds entries to the tables.
    fn publish(&self, entries: &Entries) -> Result<(), NetworkError>;
    /// Takes entries out of the tables.
    fn withdraw(&self, entries: &Entries) -> Result<(), NetworkError>;
    /// What else on this host drops forwarded packets, in words, if anything is found.
    fn foreign_drops(&self) -> Option<String>;
}

/// The program `nft`, one process per batch (2-3 ms).
pub(crate) struct Nft;

impl Firewall for Nft {
    fn replace(&self, rules: &Ruleset) -> Result<Option<String>, NetworkError> {
        let all = nft::run(&format!("{rules}{}", rules.bridge_table()));
        let Err(NetworkError::Nft(why)) = all else { return all.map(|()| None) };
        // Not every kernel has nftables for bridges.
        nft::run(&rules.to_string())?;
        Ok(Some(why))
    }

    fn publish(&self, entries: &Entries) -> Result<(), NetworkError> {
        nft::run(&entries.batch("add"))
    }

    fn withdraw(&self, entries: &Entries) -> Result<(), NetworkError> {
        nft::run(&entries.batch("delete"))
    }

    fn foreign_drops(&self) -> Option<String> {
        let chain = |name: &str| nft::list(&["list", "chain", "ip", "filter", name]);
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
        let Self { bridge, subnet, icc, mappings, parties: _ } = self;
        let between = if *icc { "accept" } else { "drop" };
        // What goes from port to port of the bridge comes by here where br_netfilter is loaded.
        let linked = if *icc { String::new() } else { format!("  meta mark {LINK_MARK} accept\n") };
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
{linked}  iifname \"{bridge}\" {between}
  drop
 }}
}}"
        )?;
        f.write_str(&elements("add", mappings))
    }
}

impl Ruleset {
    /// The part of the batch that not every kernel takes.
    fn bridge_table(&self) -> String {
        let mut batch = "add table bridge hostd\ndelete table bridge hostd\n".to_owned();
        if !self.icc {
            batch.push_str(&linked::table(OUR_GROUP, LINK_MARK));
            for call in self.parties.calls() {
                call.elements("add", &mut batch);
            }
        }
        batch
    }
}

impl Entries {
    pub(crate) fn is_empty(&self) -> bool {
        self.mappings.is_empty() && self.calls.is_empty()
    }

    /// One batch that adds them, or deletes them.
    fn batch(&self, verb: &str) -> String {
        let mut batch = elements(verb, &self.mappings);
        for call in &self.calls {
            call.elements(verb, &mut batch);
        }
        batch
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
