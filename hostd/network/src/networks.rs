//! The networks of a host: who is connected, and how that changes.

use crate::bridge::{Bridge, link_error, random_id};
use crate::error::NetworkError;
use crate::firewall::{Firewall, Mapping, Nft, Ruleset};
use crate::ipam::{self, Pool};
use crate::linked::{Parties, Party};
use crate::links::{self, Mac, Veth};
use crate::ports::{self, HeldPort, PortHolder};
use crate::proxy::Proxy;
use crate::rtnl::Rtnl;
use crate::rules::Rules;
use crate::{
    DefaultNetwork, Endpoint, EndpointLink, EndpointRequest, NetworkConfig, PortRequest, PublishedPort,
};
use std::collections::{HashMap, HashSet};
use std::mem;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{JoinError, spawn_blocking};

/// What the default network is called.
const DEFAULT_NETWORK: &str = "bridge";

/// How long a disconnected container's namespace has to take its link with it before we remove that ourselves.
const NETNS_GRACE: Duration = Duration::from_millis(100);

/// The networks of this host. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Networks {
    inner: Arc<Inner>,
}

struct Inner {
    bridge: Bridge,
    /// Whether containers reach each other.
    icc: bool,
    /// In the host's network namespace.
    host: Mutex<Rtnl>,
    rules: Rules,
    state: Mutex<State>,
}

/// Who has what.
struct State {
    pool: Pool,
    holder: PortHolder,
    /// Ports of all endpoints, of those too that are being made or unmade.
    taken: Vec<PublishedPort>,
    endpoints: HashMap<String, Live>,
}

/// An endpoint and what holds its ports.
struct Live {
    endpoint: Endpoint,
    proxies: Vec<Proxy>,
}

impl Networks {
    /// Makes the default bridge and our nft table where they are missing, and publishes again what `live` (the
    /// endpoints of containers that still run) had; all other veths, addresses and port mappings of ours go.
    ///
    /// Without a working `nft` this succeeds with a warning, since containers with `--network none` or `host` need no
    /// firewall; [`Self::connect`] then tries again, and fails.
    pub async fn open(config: NetworkConfig, live: &[Endpoint]) -> Result<Self, NetworkError> {
        Self::open_with(config, live, Box::new(Nft)).await
    }

    async fn open_with(
        config: NetworkConfig,
        live: &[Endpoint],
        firewall: Box<dyn Firewall>,
    ) -> Result<Self, NetworkError> {
        let live = live.to_vec();
        let opening = spawn_blocking(move || Inner::open(&config, &live, firewall)).await;
        let (inner, held) = opening.map_err(task_failed)??;
        let networks = Self { inner: Arc::new(inner) };
        for (endpoint, ports) in held {
            networks.inner.serve(endpoint, ports);
        }
        Ok(networks)
    }

    /// veth, address, route, published ports, in one go; on error nothing is left behind, and nothing either
    /// when the caller does not wait for the end.
    pub async fn connect(&self, request: EndpointRequest<'_>) -> Result<Endpoint, NetworkError> {
        if request.network != DEFAULT_NETWORK {
            return Err(NetworkError::NoSuchNetwork(request.network));
        }
        let EndpointRequest { container_id, network: _, netns, ports, ip, mac, links } = request;
        let netns = netns.try_clone_to_owned().map_err(NetworkError::Netns)?;
        let wanted = Wanted { container_id, netns, ports, ip, mac, links };
        let networks = self.clone();
        let (answer, answered) = oneshot::channel();
        // A task of its own: dropping this future must not stop the work half-way.
        let task = tokio::spawn(async move {
            let connected = networks.inner.connect(wanted).await;
            if let Err(Ok(unwanted)) = answer.send(connected)
                && let Err(e) = networks.disconnect(&unwanted).await
            {
                tracing::warn!(
                    endpoint = unwanted.endpoint_id,
                    "cannot undo a connection that nobody waits for: {e}"
                );
            }
        });
        match answered.await {
            Ok(connected) => connected,
            Err(_) => Err(NetworkError::Task(task.await.err())),
        }
    }

    /// Withdraws the ports, which are free when this returns. The link goes, and the address becomes free, a moment
    /// later in the background, unless the container's namespace ends first and takes the link along. Succeeds when it
    /// is gone already.
    pub async fn disconnect(&self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        let networks = self.clone();
        let id = endpoint.endpoint_id.clone();
        // A task of its own, for the same reason as above.
        tokio::spawn(async move { networks.inner.disconnect(&id).await }).await.map_err(task_failed)?
    }

    /// Takes the link to the container `target` from a connected one.
    pub async fn unlink(&self, endpoint: &Endpoint, target: &str) -> Result<(), NetworkError> {
        let (inner, name, target) =
            (Arc::clone(&self.inner), endpoint.host_interface.clone(), target.to_owned());
        let unlink = move || {
            let ends = inner.rules.unlink(&name, &target)?;
            inner.settle_isolation(&ends);
            Ok(())
        };
        spawn_blocking(unlink).await.map_err(task_failed)?
    }

    /// Why containers cannot be linked here, if so: they are kept apart, and the kernel has no rules that would let two
    /// of them through.
    pub fn no_links(&self) -> Option<String> {
        self.inner.rules.no_links().filter(|_| !self.inner.icc)
    }

    /// The default network as clients see it.
    pub fn default_network(&self) -> DefaultNetwork {
        let Inner { bridge, icc, .. } = &*self.inner;
        DefaultNetwork {
            id: bridge.network_id.clone(),
            bridge: bridge.link.name.clone(),
            subnet: bridge.gateway.network(),
            prefix_len: bridge.gateway.prefix_len,
            gateway: bridge.gateway.ip,
            icc: *icc,
            created: bridge.created,
        }
    }

    /// Address of the default bridge (what `host-gateway` means).
    pub fn bridge_gateway(&self) -> Ipv4Addr {
        self.inner.bridge.gateway.ip
    }
}

/// An [`EndpointRequest`] that owns what it needs.
struct Wanted {
    container_id: String,
    netns: OwnedFd,
    ports: Vec<PortRequest>,
    ip: Option<Ipv4Addr>,
    mac: Option<String>,
    links: Vec<EndpointLink>,
}

/// Endpoints whose ports are held and not served yet.
type Unserved = Vec<(Endpoint, Vec<HeldPort>)>;

impl Inner {
    fn open(
        config: &NetworkConfig,
        live: &[Endpoint],
        firewall: Box<dyn Firewall>,
    ) -> Result<(Self, Unserved), NetworkError> {
        let mut host = Rtnl::open().map_err(NetworkError::Netlink)?;
        let bridge = Bridge::open(&mut host, config, !live.is_empty())?;
        remove_stale_veths(&mut host, &bridge, live)?;
        let mut pool = Pool::new(bridge.gateway);
        for endpoint in live {
            if let Err(e) = pool.take(Some(endpoint.ip)) {
                tracing::warn!(
                    container = endpoint.container_id,
                    "a running container's address is not ours: {e}"
                );
            }
        }
        let mut parties = Parties::default();
        for endpoint in live.iter().filter(|_| !config.icc) {
            parties.add(Party::of(endpoint));
        }
        let rules = Ruleset {
            bridge: bridge.link.name.clone(),
            subnet: bridge.gateway,
            icc: config.icc,
            mappings: live.iter().flat_map(mappings).collect(),
            parties,
        };
        let rules = Rules::new(firewall, rules);
        match rules.enforce() {
            Ok(()) => {
                if let Some(drops) = rules.foreign_drops() {
                    tracing::warn!("containers may be cut off from other networks: {drops}");
                }
            }
            Err(e) => tracing::warn!("containers cannot be connected to networks until this is mended: {e}"),
        }
        for endpoint in live {
            // The daemon before may have kept them apart, or had other links on record.
            let name = &endpoint.host_interface;
            if let Err(e) = links::isolate(&mut host, name, rules.isolates(name)) {
                tracing::warn!(interface = name, "cannot set whether containers reach each other: {e}");
            }
        }
        let unserved = live.iter().map(|endpoint| (endpoint.clone(), hold_again(endpoint))).collect();
        let taken = live.iter().flat_map(|endpoint| endpoint.ports.clone()).collect();
        let state = State { pool, holder: PortHolder::new(), taken, endpoints: HashMap::new() };
        Ok((
            Self { bridge, icc: config.icc, host: Mutex::new(host), rules, state: Mutex::new(state) },
            unserved,
        ))
    }

    async fn connect(self: &Arc<Self>, wanted: Wanted) -> Result<Endpoint, NetworkError> {
        let inner = Arc::clone(self);
        let made = spawn_blocking(move || inner.make(wanted)).await.map_err(task_failed)?;
        let (endpoint, held) = made?;
        self.serve(endpoint.clone(), held);
        Ok(endpoint)
    }

    /// All of a connection but the proxies. Blocks.
    fn make(&self, wanted: Wanted) -> Result<(Endpoint, Vec<HeldPort>), NetworkError> {
        let endpoint_id = random_id().map_err(NetworkError::Random)?;
        let mac = wanted.mac.as_deref().map(ipam::parse_mac).transpose()?;
        let reserved = Reservation::make(self, wanted.ip, &wanted.ports)?;
        let mac = mac.unwrap_or_else(|| ipam::mac_of(reserved.ip));
        let endpoint = Endpoint {
            host_interface: format!("veth{}", &endpoint_id[..7]),
            endpoint_id,
            container_id: wanted.container_id,
            network: DEFAULT_NETWORK.into(),
            network_id: self.bridge.network_id.clone(),
            ip: reserved.ip,
            prefix_len: self.bridge.gateway.prefix_len,
            gateway: self.bridge.gateway.ip,
            mac: ipam::format_mac(mac),
            ports: reserved.ports.iter().map(|held| held.published.clone()).collect(),
            links: wanted.links,
        };
        let mappings: Vec<_> = mappings(&endpoint).collect();
        // Side by side: both take milliseconds, most of which is waiting.
        let name = &endpoint.host_interface;
        let publish = || self.rules.publish(Party::of(&endpoint), name, &mappings);
        let (linked, published) = std::thread::scope(|scope| {
            let publishing =
                (!mappings.is_empty() || !endpoint.links.is_empty()).then(|| scope.spawn(publish));
            let linked = self.link(&endpoint, mac, wanted.netns.as_fd());
            let published = match publishing {
                Some(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                None => publish(),
            };
            (linked, published)
        });
        let error = match (linked, published) {
            (Ok(()), Ok(ends)) => {
                self.settle_isolation(&ends);
                return Ok((endpoint, reserved.keep()));
            }
            (Err(e), Ok(_)) => {
                warn_failure(&endpoint, self.rules.withdraw(name, &mappings).map(drop));
                e
            }
            (Ok(()), Err(e)) => {
                warn_failure(&endpoint, self.unlink(&endpoint.host_interface));
                e
            }
            (Err(e), Err(_)) => e,
        };
        Err(error)
    }

    /// Makes the veth pair and configures both ends.
    fn link(&self, endpoint: &Endpoint, mac: Mac, netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
        let name = &endpoint.host_interface;
        let veth = Veth { host_name: name, bridge: &self.bridge.link, netns, mac, isolated: !self.icc };
        veth.create(&mut lock(&self.host)).map_err(link_error("create the veth pair", name))?;
        links::configure_container(netns, endpoint.ip, endpoint.prefix_len, endpoint.gateway)
            .map_err(link_error("configure the container's end of", name))
            .inspect_err(|_| warn_failure(endpoint, self.unlink(name)))
    }

    /// Has these ports of the bridge isolated or not, as their links are now: the rules come first and go last.
    fn settle_isolation(&self, interfaces: &[String]) {
        for name in interfaces {
            let mut host = lock(&self.host);
            // Asked under the lock, so that of two who change the same port the later has the last word.
            if let Err(e) = links::isolate(&mut host, name, self.rules.isolates(name)) {
                tracing::warn!(
                    interface = name,
                    "cannot set whether linked containers reach each other: {e}"
                );
            }
        }
    }

    fn unlink(&self, name: &str) -> Result<(), NetworkError> {
        links::delete_link(&mut lock(&self.host), name).map_err(link_error("remove", name))
    }

    /// Puts an endpoint on record and serves its ports.
    fn serve(&self, endpoint: Endpoint, held: Vec<HeldPort>) {
        let start = |held: HeldPort| {
            let port = held.published.clone();
            // Most callers over IPv4 do without.
            Proxy::start(held, endpoint.ip)
                .inspect_err(|e| tracing::warn!(?port, "cannot serve a published port: {e}"))
        };
        let proxies = held.into_iter().filter_map(|held| start(held).ok()).collect();
        lock(&self.state).endpoints.insert(endpoint.endpoint_id.clone(), Live { endpoint, proxies });
    }

    async fn disconnect(self: &Arc<Self>, endpoint_id: &str) -> Result<(), NetworkError> {
        // Whoever takes it off the record does the work.
        let Some(Live { endpoint, proxies }) = lock(&self.state).endpoints.remove(endpoint_id) else {
            return Ok(());
        };
        let mappings: Vec<_> = mappings(&endpoint).collect();
        let withdrawn = if mappings.is_empty() && self.icc {
            Ok(())
        } else {
            let (inner, name) = (Arc::clone(self), endpoint.host_interface.clone());
            let withdraw = move || {
                let ends = inner.rules.withdraw(&name, &mappings)?;
                inner.settle_isolation(&ends);
                Ok(())
            };
            spawn_blocking(withdraw).await.map_err(task_failed)?
        };
        for proxy in proxies {
            proxy.stop().await;
        }
        lock(&self.state).release_ports(&endpoint.ports);
        tokio::spawn(Arc::clone(self).bury(endpoint));
        withdrawn
    }

    /// Removes a disconnected endpoint's link and then frees its address.
    ///
    /// The kernel takes about 30 ms to remove a veth, during which no other link can change. As a rule the
    /// container's namespace is about to go, and many of those go at the price of one: so that gets a chance first.
    async fn bury(self: Arc<Self>, endpoint: Endpoint) {
        tokio::time::sleep(NETNS_GRACE).await;
        let work = move || {
            if let Err(e) = self.unlink(&endpoint.host_interface) {
                tracing::warn!(interface = endpoint.host_interface, "cannot remove a disconnected link: {e}");
            }
            lock(&self.state).pool.release(endpoint.ip);
        };
        if let Err(e) = spawn_blocking(work).await {
            tracing::warn!("removing a disconnected link did not end: {e}");
        }
    }
}

impl State {
    fn release_ports(&mut self, ports: &[PublishedPort]) {
        self.taken.retain(|taken| !ports.contains(taken));
    }
}

/// An address and ports for an endpoint in the making; free again when dropped, unless kept.
struct Reservation<'a> {
    inner: &'a Inner,
    ip: Ipv4Addr,
    ports: Vec<HeldPort>,
    kept: bool,
}

impl<'a> Reservation<'a> {
    fn make(inner: &'a Inner, ip: Option<Ipv4Addr>, requests: &[PortRequest]) -> Result<Self, NetworkError> {
        let mut state = lock(&inner.state);
        let state = &mut *state;
        let ip = state.pool.take(ip)?;
        let ports = state.holder.hold(requests, &state.taken).inspect_err(|_| state.pool.release(ip))?;
        state.taken.extend(ports.iter().map(|held| held.published.clone()));
        Ok(Self { inner, ip, ports, kept: false })
    }

    fn keep(mut self) -> Vec<HeldPort> {
        self.kept = true;
        mem::take(&mut self.ports)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.kept {
            let published: Vec<_> =
                mem::take(&mut self.ports).into_iter().map(|held| held.published).collect();
            let mut state = lock(&self.inner.state);
            state.release_ports(&published);
            state.pool.release(self.ip);
        }
    }
}

/// Removes veths of ours whose container is gone. A container that ended without us took its own with it; these
/// are of containers that were being made or unmade when the daemon died.
fn remove_stale_veths(host: &mut Rtnl, bridge: &Bridge, live: &[Endpoint]) -> Result<(), NetworkError> {
    let wanted: HashSet<&str> = live.iter().map(|endpoint| endpoint.host_interface.as_str()).collect();
    for link in links::our_veths(host, bridge.link.index).map_err(NetworkError::Netlink)? {
        if !wanted.contains(link.name.as_str()) {
            links::delete_link(host, &link.name).map_err(link_error("remove stale", &link.name))?;
        }
    }
    Ok(())
}

/// Takes the ports of a running container again. One that another program took in the meantime is no reason to
/// fail: the firewall leads to the container as before.
fn hold_again(endpoint: &Endpoint) -> Vec<HeldPort> {
    let hold = |published: &PublishedPort| match ports::hold_published(published) {
        Ok(socket) => Some(HeldPort { published: published.clone(), socket }),
        Err(e) => {
            let cause = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(container = endpoint.container_id, "{e}: {cause}");
            None
        }
    };
    endpoint.ports.iter().filter_map(hold).collect()
}

/// What the firewall has to do for an endpoint.
fn mappings(endpoint: &Endpoint) -> impl Iterator<Item = Mapping> {
    endpoint.ports.iter().filter_map(|port| match port.host_ip {
        IpAddr::V4(host_ip) => Some(Mapping {
            protocol: port.protocol,
            host_ip,
            host_port: port.host_port,
            to_ip: endpoint.ip,
            to_port: port.container_port,
        }),
        IpAddr::V6(_) => None, // the proxy's
    })
}

/// A task that panicked or was cancelled, for `map_err`.
fn task_failed(error: JoinError) -> NetworkError {
    NetworkError::Task(Some(error))
}

/// For the steps back after a failure, which is the one that gets reported.
fn warn_failure(endpoint: &Endpoint, result: Result<(), NetworkError>) {
    if let Err(e) = result {
        tracing::warn!(interface = endpoint.host_interface, "cannot clean up after a failed connection: {e}");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half-changed where one of these is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
