//! Run-time forwards of container ports. QEMU itself is the record: what it lists is what there is, so that a crash
//! between two changes loses nothing.

use super::qmp::{Qmp, QmpError};
use crate::driver::{DriverError, Forward};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Brings QEMU's forwards, other than those in `own`, to exactly `wanted`; goes past failures.
pub(super) async fn set(qmp: &mut Qmp, own: &[Forward], wanted: &[Forward]) -> Result<(), DriverError> {
    let failed = |e: QmpError| DriverError::failed("cannot change the forwarded ports").because(e);
    if let Some(v6) = wanted.iter().find(|f| f.host_ip.is_ipv6()) {
        return Err(DriverError::unsupported(format!(
            "cannot forward {v6}: QEMU forwards IPv4 addresses alone"
        ))
        .hint("publish the port on 127.0.0.1 or on 0.0.0.0"));
    }
    let present: BTreeSet<Forward> = parse(&qmp.monitor("info usernet").await.map_err(failed)?)
        .difference(&own.iter().copied().collect())
        .copied()
        .collect();
    let wanted: BTreeSet<Forward> = wanted.iter().copied().collect();
    let mut failures = Vec::new();
    for gone in present.difference(&wanted) {
        let said = qmp.monitor(&format!("hostfwd_remove net0 {}", host_side(gone))).await.map_err(failed)?;
        if said.contains("not found") || said.contains("invalid") {
            failures.push(format!("{gone} cannot be removed: {said}"));
        }
    }
    for new in wanted.difference(&present) {
        let said = qmp
            .monitor(&format!("hostfwd_add net0 {}-:{}", host_side(new), new.guest_port))
            .await
            .map_err(failed)?;
        if !said.is_empty() {
            failures.push(format!(
                "port {} of {} is taken on this host, or not allowed",
                new.host_port, new.host_ip
            ));
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(DriverError::failed(format!("cannot forward every port: {}", failures.join("; ")))
        .hint("see what listens there (ss -ltnup), or publish on another port"))
}

fn host_side(forward: &Forward) -> String {
    format!("{}:{}:{}", if forward.udp { "udp" } else { "tcp" }, forward.host_ip, forward.host_port)
}

/// The forwards in the output of `info usernet`:
///
/// ```text
///   Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
///   TCP[HOST_FORWARD]  13       127.0.0.1  2222       10.0.2.15    22     0     0
/// ```
fn parse(listing: &str) -> BTreeSet<Forward> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let udp = match fields.next()? {
            "TCP[HOST_FORWARD]" => false,
            "UDP[HOST_FORWARD]" => true,
            _ => return None,
        };
        fields.next()?;
        let host_ip = match fields.next()? {
            "*" => IpAddr::from([0, 0, 0, 0]),
            address => address.parse().ok()?,
        };
        let host_port = fields.next()?.parse().ok()?;
        fields.next()?;
        Some(Forward { udp, host_ip, host_port, guest_port: fields.next()?.parse().ok()? })
    };
    listing.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_from_qemus_listing_and_connections_are_not() {
        let listing = "Hub -1 (net0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n\
            \x20 TCP[ESTABLISHED]   15       127.0.0.1 40000       10.0.2.15    22     0     0\n\
            \x20 TCP[HOST_FORWARD]  13       127.0.0.1  2222       10.0.2.15    22     0     0\n\
            \x20 UDP[HOST_FORWARD]  14               *  5353       10.0.2.15    53     0     0\n";
        let localhost = IpAddr::from([127, 0, 0, 1]);
        let expected = [
            Forward { udp: false, host_ip: localhost, host_port: 2222, guest_port: 22 },
            Forward { udp: true, host_ip: IpAddr::from([0, 0, 0, 0]), host_port: 5353, guest_port: 53 },
        ];
        assert_eq!(parse(listing), BTreeSet::from(expected));
    }
}
