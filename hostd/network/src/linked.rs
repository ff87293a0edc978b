//! Links between containers that are otherwise kept apart (`--icc=false`): who may call which ports of whom.
//!
//! A port of the bridge that takes part in a link is not *isolated* any more; what the bridge passes between ports of
//! ours is then for the table `bridge hostd` to say, which knows both ends by their interfaces: a forged address
//! gets nobody through.

use crate::{Endpoint, EndpointLink, Protocol};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// Where a container is on the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) interface: String,
    pub(crate) ip: Ipv4Addr,
}

/// A container as far as links look at it.
#[derive(Clone, Debug)]
pub(crate) struct Party {
    container_id: String,
    seat: Seat,
    links: Vec<EndpointLink>,
}

/// `from` may call these ports of `to`, and is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    from: Seat,
    to: Seat,
    ports: Vec<(Protocol, u16)>,
}

/// All containers on the bridge, linked or not.
#[derive(Debug, Default)]
pub(crate) struct Parties(Vec<Party>);

impl Party {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        Self {
            container_id: endpoint.container_id.clone(),
            seat: Seat { interface: endpoint.host_interface.clone(), ip: endpoint.ip },
            links: endpoint.links.clone(),
        }
    }

    /// What this one may call of `other`.
    fn call(&self, other: &Self) -> Option<Call> {
        let links = self.links.iter().filter(|link| link.container_id == other.container_id);
        let mut ports: Vec<_> = links.flat_map(|link| link.ports.iter().copied()).collect();
        ports.sort_unstable();
        ports.dedup();
        let call = Call { from: self.seat.clone(), to: other.seat.clone(), ports };
        (!call.ports.is_empty() && call.from != call.to).then_some(call)
    }
}

impl Parties {
    pub(crate) fn add(&mut self, party: Party) {
        self.0.push(party);
    }

    pub(crate) fn remove(&mut self, interface: &str) {
        self.0.retain(|party| party.seat.interface != interface);
    }

    /// Takes the link to `target` from the container at `interface`.
    pub(crate) fn unlink(&mut self, interface: &str, target: &str) {
        for party in self.0.iter_mut().filter(|party| party.seat.interface == interface) {
            party.links.retain(|link| link.container_id != target);
        }
    }

    /// All calls that may be made now.
    pub(crate) fn calls(&self) -> Vec<Call> {
        let linking = self.0.iter().filter(|party| !party.links.is_empty());
        linking.flat_map(|from| self.0.iter().filter_map(|to| from.call(to))).collect()
    }

    /// Those that the container at `interface` makes or takes.
    pub(crate) fn calls_of(&self, interface: &str) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.interfaces().contains(&interface));
        calls
    }

    /// Whether the container at `interface` makes or takes any.
    pub(crate) fn is_linked(&self, interface: &str) -> bool {
        !self.calls_of(interface).is_empty()
    }
}

impl Call {
    /// The two ends.
    pub(crate) fn interfaces(&self) -> [&str; 2] {
        [&self.from.interface, &self.to.interface]
    }

    /// Lines that `add` the call to the table's sets, or `delete` it.
    pub(crate) fn elements(&self, verb: &str, batch: &mut String) {
        let Self {
            from: Seat { interface: from, ip: caller },
            to: Seat { interface: to, ip: callee },
            ports,
        } = self;
        for (here, there, ip) in [(from, to, caller), (to, from, callee)] {
            let _ =
                writeln!(batch, "{verb} element bridge hostd pairs {{ \"{here}\" . \"{there}\" . {ip} }}");
        }
        for (protocol, port) in ports {
            let _ = writeln!(
                batch,
                "{verb} element bridge hostd {protocol}_calls {{ \"{from}\" . \"{to}\" . {caller} . {callee} . {port} }}\n\
                 {verb} element bridge hostd {protocol}_answers {{ \"{to}\" . \"{from}\" . {callee} . {caller} . {port} }}"
            );
        }
    }
}

/// The table: nothing passes between two ports of the link group `group` but what links allow. Who is let through here
/// gets `mark`, since with br_netfilter the rules for IP see the packet too, and no interfaces but the bridge's;
/// a container cannot give its packets a mark that is seen outside.
pub(crate) fn table(group: u32, mark: u32) -> String {
    let mut text = String::from("table bridge hostd {\n set pairs { type ifname . ifname . ipv4_addr; }\n");
    for protocol in Protocol::ALL {
        for kind in ["calls", "answers"] {
            let _ = writeln!(
                text,
                " set {protocol}_{kind} {{ type ifname . ifname . ipv4_addr . ipv4_addr . inet_service; }}"
            );
        }
    }
    let rules = |way: &str, kind: &str| {
        let rule = |protocol: Protocol| {
            format!(
                "  iifname . oifname . ip saddr . ip daddr . {protocol} {way} @{protocol}_{kind} \
                 meta mark set {mark} accept\n"
            )
        };
        Protocol::ALL.map(rule).concat()
    };
    let (calls, answers) = (rules("dport", "calls"), rules("sport", "answers"));
    let _ = writeln!(
        text,
        " chain forward {{
  type filter hook forward priority -200; policy accept;
  iifgroup {group} oifgroup {group} jump between
 }}
 chain between {{
  iifname . oifname . arp saddr ip @pairs accept
{calls}  # Who is called answers, and calls nobody from the port that it is called on.
  tcp flags & (syn | ack) == syn drop
{answers}  # What comes behind the first fragment has no ports, and is worth nothing without that.
  ip frag-off & 0x1fff != 0 iifname . oifname . ip saddr @pairs meta mark set {mark} accept
  drop
 }}
}}"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(id: &str, last: u8, links: &[(&str, u16)]) -> Party {
        let link = |(to, port): &(&str, u16)| EndpointLink {
            container_id: (*to).to_owned(),
            ports: vec![(Protocol::Tcp, *port)],
        };
        Party {
            container_id: id.into(),
            seat: Seat { interface: format!("veth-{id}"), ip: Ipv4Addr::new(10, 0, 0, last) },
            links: links.iter().map(link).collect(),
        }
    }

    #[test]
    fn calls_are_those_between_containers_that_are_there() {
        let mut parties = Parties::default();
        parties.add(party("web", 2, &[("db", 81), ("db", 80), ("db", 81), ("gone", 80), ("web", 80)]));
        assert!(parties.calls().is_empty());
        parties.add(party("db", 3, &[]));
        parties.add(party("other", 4, &[]));
        let calls = parties.calls();
        assert_eq!(calls, parties.calls_of("veth-db"));
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].ports, [(Protocol::Tcp, 80), (Protocol::Tcp, 81)]);
        assert!(parties.is_linked("veth-web") && !parties.is_linked("veth-other"));
        parties.unlink("veth-web", "db");
        assert!(parties.calls().is_empty());
    }

    #[test]
    fn a_call_names_both_interfaces_and_addresses_each_way() {
        let mut parties = Parties::default();
        parties.add(party("web", 2, &[("db", 80)]));
        parties.add(party("db", 3, &[]));
        let mut batch = String::new();
        parties.calls()[0].elements("add", &mut batch);
        let expected = [
            r#"add element bridge hostd pairs { "veth-web" . "veth-db" . 10.0.0.2 }"#,
            r#"add element bridge hostd pairs { "veth-db" . "veth-web" . 10.0.0.3 }"#,
            r#"add element bridge hostd tcp_calls { "veth-web" . "veth-db" . 10.0.0.2 . 10.0.0.3 . 80 }"#,
            r#"add element bridge hostd tcp_answers { "veth-db" . "veth-web" . 10.0.0.3 . 10.0.0.2 . 80 }"#,
        ];
        assert_eq!(batch.lines().collect::<Vec<_>>(), expected);
    }
}
