//! Legacy links (`--link db:database`): on the default bridge, where containers have no DNS, one finds another by a
//! name of its own, through its hosts file and its environment.
//!
//! A link stands in the record of the container that has it, by the target's id, so that renames cannot break it; a link
//! whose target was removed means nothing. A start takes the targets' addresses; when a target starts anew, the
//! hosts files of those that run with a link to it follow. Where containers are kept apart, the network lets through what a
//! link is for. `/web/db` is a name of the container that `web` links to as `db`.

use crate::Engine;
use crate::container::Container;
use crate::create::target_container;
use crate::error::{EngineError, Result};
use crate::model::{ContainerRecord, HostConfig, Link, Port};
use crate::whole::whole;
use hostd_network::{Endpoint, EndpointLink};
use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// `name:alias`; the alias is the name where it is left out.
fn parse(text: &str) -> Result<(&str, &str)> {
    let bad = || EngineError::invalid(format!("bad format for links: {text}"));
    let (name, alias) = match text.split(':').collect::<Vec<_>>()[..] {
        [name] => (name, name),
        [name, alias] => (name, alias),
        _ => return Err(bad()),
    };
    // As inspect shows it: `/db:/web/database`.
    let last = |text: &'_ str| text.rsplit('/').next().map_or(0, str::len);
    let alias = &alias[alias.len() - last(alias)..];
    if name.is_empty() || alias.is_empty() { Err(bad()) } else { Ok((name, alias)) }
}

impl Engine {
    /// The links that a new container is to have.
    pub(crate) fn resolve_links(&self, host: &HostConfig) -> Result<Vec<Link>> {
        let conflict = |kind: &str| {
            EngineError::invalid(format!(
                "conflicting options: {kind} type networking can't be used with links. This would result in undefined \
                 behavior"
            ))
        };
        if host.links.is_empty() {
            return Ok(Vec::new());
        }
        if host.network_mode == "host" {
            return Err(conflict("host"));
        }
        if target_container(&host.network_mode).is_some() {
            return Err(EngineError::invalid(
                "conflicting options: container type network can't be used with links. This would result in undefined \
                 behavior",
            ));
        }
        if let Some(why) = self.0.networks.no_links() {
            return Err(EngineError::unsupported(format!(
                "HostConfig.Links is not supported by a daemon with --icc=false on this host, which takes no nftables \
                 rules for bridges: {why}"
            )));
        }
        let mut links: Vec<Link> = Vec::new();
        for text in &host.links {
            let (name, alias) = parse(text)?;
            let target = self.link_target(name)?;
            if target.record().host.network_mode == "host" {
                return Err(conflict("host"));
            }
            if links.iter().any(|link| link.alias == alias) {
                return Err(EngineError::invalid(format!("the alias {alias} is given to two links")));
            }
            links.push(Link { target: target.id.clone(), alias: alias.to_owned() });
        }
        Ok(links)
    }

    /// The container by that name, or the one whose network it shares.
    fn link_target(&self, name: &str) -> Result<Arc<Container>> {
        let missing = |error: EngineError| {
            EngineError::invalid(format!("could not get container for {name}")).caused_by(error)
        };
        let mut target = self.container(name).map_err(missing)?;
        while let Some(other) = target_container(&target.record().host.network_mode) {
            target = self.container(other).map_err(missing)?;
        }
        Ok(target)
    }

    /// Targets that still exist, with what they are called.
    fn targets<'a>(
        &'a self,
        record: &'a ContainerRecord,
    ) -> impl Iterator<Item = (&'a Link, Arc<Container>)> {
        record.links.iter().filter_map(|link| Some((link, self.container(&link.target).ok()?)))
    }

    /// `/db:/web/database`, as inspect shows it.
    pub fn links_shown(&self, record: &ContainerRecord) -> Vec<String> {
        let shown = self.targets(record);
        shown
            .map(|(link, target)| format!("/{}:/{}/{}", target.record().name, record.name, link.alias))
            .collect()
    }

    /// By the id of a target: the further names that links give it (`/web/database`).
    pub fn link_names(&self) -> HashMap<String, Vec<String>> {
        let mut names: HashMap<String, Vec<String>> = HashMap::new();
        for container in self.0.index.all() {
            let record = container.record();
            for link in &record.links {
                names
                    .entry(link.target.clone())
                    .or_default()
                    .push(format!("/{}/{}", record.name, link.alias));
            }
        }
        names
    }

    /// The container that `web/database` means.
    pub fn linked(&self, parent: &str, alias: &str) -> Result<String> {
        let container = self.container(parent)?;
        let record = container.record();
        let link = record.links.iter().find(|link| link.alias == alias);
        let missing = || EngineError::not_found(format!("No such container: {parent}/{alias}"));
        Ok(self.container(&link.ok_or_else(missing)?.target)?.id.clone())
    }

    /// Takes a link away (`docker rm --link web/database`).
    pub async fn remove_link(&self, parent: &str, alias: &str) -> Result<()> {
        let container = self.container(parent).map_err(|_| {
            EngineError::invalid(format!("Cannot get parent /{parent} for link name /{parent}/{alias}"))
        })?;
        let (engine, parent, alias) = (self.clone(), parent.to_owned(), alias.to_owned());
        whole(async move { engine.take_link(&container, &parent, &alias).await }).await
    }

    async fn take_link(&self, container: &Container, parent: &str, alias: &str) -> Result<()> {
        let turn = container.turn().await;
        if !container.record().links.iter().any(|link| link.alias == alias) {
            return Err(EngineError::not_found(format!("No such container: {parent}/{alias}")));
        }
        let mut without = (*container.record()).clone();
        without.links.retain(|link| link.alias != alias);
        let linked = self.endpoint_links(&without);
        let before = match &mut without.endpoint {
            Some(endpoint) => std::mem::replace(&mut endpoint.links, linked),
            None => Vec::new(),
        };
        self.0.db.store(&without).await?;
        let record = container.change(&turn, |record| {
            record.links = without.links;
            record.endpoint = without.endpoint;
        });
        if let Some(endpoint) = &record.endpoint {
            for gone in before.iter().filter(|link| !endpoint.links.contains(link)) {
                self.0.networks.unlink(endpoint, &gone.container_id).await?;
            }
        }
        if record.state.status.is_up() {
            self.write_hosts(&record, record.endpoint.as_ref())?;
        }
        Ok(())
    }

    /// What a container may call of those that it is linked to: the ports that they expose.
    pub(crate) fn endpoint_links(&self, record: &ContainerRecord) -> Vec<EndpointLink> {
        let mut links: Vec<EndpointLink> = Vec::new();
        for (_, target) in self.targets(record) {
            let target = target.record();
            if links.iter().all(|link| link.container_id != target.id) {
                let ports = target.config.exposed_ports.iter();
                let ports = ports.map(|port| (port.protocol, port.number)).collect();
                links.push(EndpointLink { container_id: target.id.clone(), ports });
            }
        }
        links
    }

    /// What a container with links has in its environment about the targets.
    pub(crate) fn linked_environment(&self, record: &ContainerRecord) -> Result<Vec<String>> {
        let mut env = Vec::new();
        if record.host.network_mode != "bridge" {
            return Ok(env);
        }
        for (link, target) in self.targets(record) {
            let target = target.record();
            let name = format!("/{}/{}", record.name, link.alias);
            let Some(endpoint) = &target.endpoint else {
                return Err(EngineError::conflict(format!(
                    "Cannot link to a non running container: /{} AS {name}",
                    target.name
                )));
            };
            env.extend(variables(&name, &target, endpoint.ip));
        }
        Ok(env)
    }

    /// Names and addresses of the targets for the hosts file.
    pub(crate) fn linked_hosts(&self, record: &ContainerRecord) -> Vec<(String, IpAddr)> {
        let mut hosts = Vec::new();
        for (link, target) in self.targets(record) {
            let target = target.record();
            let Some(endpoint) = &target.endpoint else { continue };
            let mut names = format!("{} {}", link.alias, target.config.hostname);
            if link.alias != target.name {
                names = format!("{names} {}", target.name);
            }
            hosts.push((names, IpAddr::V4(endpoint.ip)));
        }
        hosts
    }

    /// A target has a new address: those that run with a link to it are to find it there.
    pub(crate) fn tell_linked(&self, target: &str, endpoint: &Endpoint) {
        for container in self.0.index.all() {
            let record = container.record();
            for link in
                record.links.iter().filter(|link| link.target == target && record.state.status.is_up())
            {
                let text = fs::read_to_string(&record.hosts_path).unwrap_or_default();
                let text = hostd_network::move_host(&text, &link.alias, endpoint.ip.into());
                if let Err(error) = fs::write(&record.hosts_path, text) {
                    tracing::warn!(id = record.id, %error, "cannot tell a container of a link's new address");
                }
            }
        }
    }
}

/// Docker's variables about one target; `name` is `/web/database`.
fn variables(name: &str, target: &ContainerRecord, ip: Ipv4Addr) -> Vec<String> {
    let alias = name.rsplit('/').next().unwrap_or(name).to_uppercase().replace('-', "_");
    let mut ports: Vec<Port> = target.config.exposed_ports.iter().copied().collect();
    let protocol = |port: &Port| port.protocol.to_string();
    // The lowest number, TCP before the others.
    ports.sort_by_key(|port| (port.number, protocol(port) != "tcp"));
    let url = |port: &Port| format!("{}://{ip}:{}", port.protocol, port.number);
    let mut env: Vec<String> =
        ports.first().map(|port| format!("{alias}_PORT={}", url(port))).into_iter().collect();
    ports.sort_by_key(|port| (protocol(port) != "tcp", protocol(port), port.number));
    let prefix = |port: &Port| format!("{alias}_PORT_{}_{}", port.number, protocol(port).to_uppercase());
    for range in ports.chunk_by(|a, b| b.number == a.number + 1 && a.protocol == b.protocol) {
        let [first, .., last] = range else { continue };
        let prefix = prefix(first);
        env.push(format!("{prefix}_START={}", url(first)));
        env.push(format!("{prefix}_ADDR={ip}"));
        env.push(format!("{prefix}_PROTO={}", first.protocol));
        env.push(format!("{prefix}_PORT_START={}", first.number));
        env.push(format!("{prefix}_END={}", url(last)));
        env.push(format!("{prefix}_PORT_END={}", last.number));
    }
    for port in &ports {
        let prefix = prefix(port);
        env.push(format!("{prefix}={}", url(port)));
        env.push(format!("{prefix}_ADDR={ip}"));
        env.push(format!("{prefix}_PORT={}", port.number));
        env.push(format!("{prefix}_PROTO={}", port.protocol));
    }
    env.push(format!("{alias}_NAME={name}"));
    for variable in &target.config.env {
        if let Some((key, value)) =
            variable.split_once('=').filter(|(key, _)| !["HOME", "PATH"].contains(key))
        {
            env.push(format!("{alias}_ENV_{key}={value}"));
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    #[test]
    fn links_are_names_and_aliases() {
        assert_eq!(parse("db").unwrap(), ("db", "db"));
        assert_eq!(parse("db:data").unwrap(), ("db", "data"));
        assert_eq!(parse("/db:/web/data").unwrap(), ("/db", "data"));
        for bad in ["", ":", "db:", ":x", "a:b:c"] {
            assert_eq!(parse(bad).unwrap_err().message, format!("bad format for links: {bad}"));
        }
    }

    #[test]
    fn the_variables_are_dockers() {
        let mut target = record("aa", "db");
        target.config.exposed_ports =
            ["5432", "80/udp", "81/tcp", "82/tcp"].map(|p| p.parse().unwrap()).into();
        target.config.env = vec!["PATH=/bin".to_owned(), "USER=me=you".to_owned(), "ALONE".to_owned()];
        let got = variables("/web/my-db", &target, Ipv4Addr::new(172, 17, 0, 5));
        let expected = "MY_DB_PORT=udp://172.17.0.5:80\n\
            MY_DB_PORT_81_TCP_START=tcp://172.17.0.5:81\nMY_DB_PORT_81_TCP_ADDR=172.17.0.5\n\
            MY_DB_PORT_81_TCP_PROTO=tcp\nMY_DB_PORT_81_TCP_PORT_START=81\n\
            MY_DB_PORT_81_TCP_END=tcp://172.17.0.5:82\nMY_DB_PORT_81_TCP_PORT_END=82\n\
            MY_DB_PORT_81_TCP=tcp://172.17.0.5:81\nMY_DB_PORT_81_TCP_ADDR=172.17.0.5\n\
            MY_DB_PORT_81_TCP_PORT=81\nMY_DB_PORT_81_TCP_PROTO=tcp\n\
            MY_DB_PORT_82_TCP=tcp://172.17.0.5:82\nMY_DB_PORT_82_TCP_ADDR=172.17.0.5\n\
            MY_DB_PORT_82_TCP_PORT=82\nMY_DB_PORT_82_TCP_PROTO=tcp\n\
            MY_DB_PORT_5432_TCP=tcp://172.17.0.5:5432\nMY_DB_PORT_5432_TCP_ADDR=172.17.0.5\n\
            MY_DB_PORT_5432_TCP_PORT=5432\nMY_DB_PORT_5432_TCP_PROTO=tcp\n\
            MY_DB_PORT_80_UDP=udp://172.17.0.5:80\nMY_DB_PORT_80_UDP_ADDR=172.17.0.5\n\
            MY_DB_PORT_80_UDP_PORT=80\nMY_DB_PORT_80_UDP_PROTO=udp\n\
            MY_DB_NAME=/web/my-db\nMY_DB_ENV_USER=me=you";
        assert_eq!(got.join("\n"), expected);
    }
}
