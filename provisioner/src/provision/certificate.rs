//! The machine's server certificate: issued anew only where it has to be.

use crate::error::{CliError, Doing as _};
use crate::store::{Machine, ServerCertificate};
use certs::{Authority, Leaf};
use sha2::{Digest as _, Sha256};
use std::net::IpAddr;
use time::{Duration, OffsetDateTime};

/// A certificate that ends sooner than this is replaced.
const RENEW: Duration = Duration::days(30);

/// The certificate to bring to the machine, and what to note about it; `None` where the one there will do.
pub(crate) fn needed(
    machine: &Machine,
    authority: &Authority,
    address: &str,
    on_machine: Option<&str>,
) -> Result<Option<(Leaf, ServerCertificate)>, CliError> {
    let names = vec![address.to_owned()];
    let signer = sha256(authority.cert_pem());
    let will_do = |known: &ServerCertificate| {
        on_machine == Some(known.sha256.as_str())
            && known.authority == signer
            && known.names == names
            && known.not_after > OffsetDateTime::now_utc() + RENEW
    };
    if machine.record.server_certificate.as_ref().is_some_and(will_do) {
        return Ok(None);
    }
    let (ips, dns): (Vec<IpAddr>, Vec<String>) = match address.parse() {
        Ok(ip) => (vec![ip], vec![machine.name.to_string()]),
        Err(_) => (Vec::new(), vec![machine.name.to_string(), address.to_owned()]),
    };
    let leaf = authority
        .issue_server(machine.record.id, &dns, &ips)
        .doing(format!("cannot issue a certificate for machine `{}`", machine.name))?;
    let note = ServerCertificate {
        sha256: sha256(&leaf.cert_pem),
        authority: signer,
        names,
        not_after: leaf.not_after,
    };
    Ok(Some((leaf, note)))
}

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}
