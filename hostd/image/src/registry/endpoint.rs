//! Where a registry answers, and by which of HTTPS, unverified HTTPS and HTTP.

use crate::model::ImageStoreConfig;
use crate::reference::Reference;
use std::net::IpAddr;
use url::Url;

/// Docker Hub's registry does not answer under the name that its images have.
const HUB: &str = "https://registry-1.docker.io";

/// One way to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) base: Url,
    /// Whether its certificate is verified.
    pub(super) verify: bool,
    /// A mirror gets no credentials: they are the registry's.
    pub(super) mirror: bool,
}

impl Endpoint {
    /// The host with its port, where it is not the scheme's own.
    pub(super) fn host(&self) -> String {
        host(&self.base)
    }
}

/// The host of a URL with its port, where it is not the scheme's own.
pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The ways to reach a reference's registry, in the order in which they are tried.
pub(super) fn endpoints(config: &ImageStoreConfig, reference: &Reference) -> Vec<Endpoint> {
    let domain = reference.domain();
    if domain == "docker.io" {
        let mirrors = config.mirrors.iter().filter_map(|mirror| Url::parse(mirror).ok()).map(|base| {
            let verify = !is_insecure(config, &host(&base));
            Endpoint { base, verify, mirror: true }
        });
        return mirrors.chain(endpoint(HUB, true)).collect();
    }
    let (https, http) = (format!("https://{domain}"), format!("http://{domain}"));
    if is_loopback(domain) {
        // Mostly plain HTTP, and a wrong guess costs nothing here.
        endpoint(&http, false).into_iter().chain(endpoint(&https, false)).collect()
    } else if is_insecure(config, domain) {
        endpoint(&https, false).into_iter().chain(endpoint(&http, false)).collect()
    } else {
        endpoint(&https, true).into_iter().collect()
    }
}

fn endpoint(base: &str, verify: bool) -> Option<Endpoint> {
    Some(Endpoint { base: Url::parse(base).ok()?, verify, mirror: false })
}

/// Whether plain HTTP and unverified certificates are accepted from `domain`, a host with or without its port.
pub(super) fn is_insecure(config: &ImageStoreConfig, domain: &str) -> bool {
    let host = without_port(domain);
    is_loopback(domain)
        || config.insecure_registries.iter().any(|entry| {
            entry == domain || entry == host || host.parse().is_ok_and(|address| in_network(address, entry))
        })
}

pub(super) fn is_loopback(domain: &str) -> bool {
    let host = without_port(domain);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn without_port(domain: &str) -> &str {
    match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => domain.split_once(':').map_or(domain, |(host, _)| host),
    }
}

/// Whether `address` lies in `network`, a CIDR.
fn in_network(address: IpAddr, network: &str) -> bool {
    let Some((base, length)) = network.split_once('/') else { return false };
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    match (address, base) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            length <= 32 && (u32::from(a) ^ u32::from(b)).checked_shr(32 - length).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            length <= 128 && (u128::from(a) ^ u128::from(b)).checked_shr(128 - length).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_configured_registries_are_insecure() {
        let config = ImageStoreConfig {
            insecure_registries: vec!["reg.test:5000".into(), "plain.test".into(), "10.1.0.0/16".into()],
            ..ImageStoreConfig::default()
        };
        for (domain, insecure) in [
            ("localhost:5000", true),
            ("localhost", true),
            ("127.3.2.1:80", true),
            ("[::1]:5000", true),
            ("reg.test:5000", true),
            ("reg.test", false),
            ("plain.test:99", true),
            ("10.1.2.3:5000", true),
            ("10.2.2.3:5000", false),
            ("docker.io", false),
            ("128.0.0.1", false),
        ] {
            assert_eq!(is_insecure(&config, domain), insecure, "{domain}");
        }
    }

    #[test]
    fn mirrors_come_before_docker_hub_and_nowhere_else() {
        let config =
            ImageStoreConfig { mirrors: vec!["https://mirror.test".into()], ..ImageStoreConfig::default() };
        let hosts = |name: &str| -> Vec<String> {
            endpoints(&config, &name.parse().unwrap()).iter().map(|e| e.base.to_string()).collect()
        };
        assert_eq!(hosts("busybox"), ["https://mirror.test/", "https://registry-1.docker.io/"]);
        assert_eq!(hosts("ghcr.io/a/b"), ["https://ghcr.io/"]);
        assert_eq!(hosts("localhost:5000/a"), ["http://localhost:5000/", "https://localhost:5000/"]);
    }
}
