//! The networks that containers can be on, as clients see them: the default bridge, the host's, and none.

use crate::Engine;
use crate::error::{EngineError, Result};
use crate::filters::{self, Filters};
use crate::model::ContainerRecord;
use hostd_network::{DefaultNetwork, Endpoint};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// A network, and who is on it.
#[derive(Clone, Debug)]
pub struct Network {
    /// `bridge`, `host`, `none`.
    pub name: &'static str,
    /// 64 hex digits; stays across restarts.
    pub id: String,
    /// `bridge`, `host`, `null`.
    pub driver: &'static str,
    /// When the default bridge was set up first.
    pub created: OffsetDateTime,
    /// The bridge's settings; the others have none.
    pub bridge: Option<DefaultNetwork>,
    /// Running containers with an endpoint on it: name and endpoint.
    pub members: Vec<(String, Endpoint)>,
}

impl Engine {
    /// The networks that match.
    pub fn networks(&self, wanted: &Filters) -> Result<Vec<Network>> {
        filters::check(wanted, &["dangling", "driver", "id", "label", "name", "scope", "type"])?;
        let kinds = wanted.get("type").into_iter().flatten();
        if let Some(bad) = kinds.into_iter().find(|kind| !["builtin", "custom"].contains(&kind.as_str())) {
            return Err(EngineError::invalid(format!("invalid filter: 'type'='{bad}'")));
        }
        let dangling = filters::boolean(wanted, "dangling")?;
        let any = |key: &str, test: &dyn Fn(&str) -> bool| {
            wanted.get(key).is_none_or(|values| values.is_empty() || values.iter().any(|value| test(value)))
        };
        let mut networks = self.all_networks();
        networks.retain(|network| {
            any("driver", &|driver| driver == network.driver)
                && any("id", &|id| network.id.contains(id))
                && any("name", &|name| network.name.contains(name))
                && any("scope", &|scope| scope == "local")
                // All are built in, none has labels, and Docker never counts one of these as dangling.
                && any("type", &|kind| kind == "builtin")
                && wanted.get("label").is_none_or(|labels| filters::labels_match(&BTreeMap::new(), labels))
                && dangling != Some(true)
        });
        Ok(networks)
    }

    /// One network: by name, id, or unambiguous prefix of an id.
    pub fn network(&self, name: &str) -> Result<Network> {
        let mut networks = self.all_networks();
        let exact = networks.iter().position(|network| network.name == name || network.id == name);
        let at = match exact {
            Some(at) => at,
            None => {
                let hits = networks.iter().enumerate().filter(|(_, network)| network.id.starts_with(name));
                let hits: Vec<usize> = hits.map(|(at, _)| at).collect();
                match hits[..] {
                    [at] if !name.is_empty() => at,
                    [] | [_] => return Err(EngineError::not_found(format!("network {name} not found"))),
                    _ => {
                        let message = format!(
                            "network {name} is ambiguous ({} matches found on ID prefix)",
                            hits.len()
                        );
                        return Err(EngineError::invalid(message));
                    }
                }
            }
        };
        Ok(networks.swap_remove(at))
    }

    /// Removes the networks without containers: none, since all are built in.
    pub fn prune_networks(&self, wanted: &Filters) -> Result<()> {
        filters::check(wanted, &["until", "label", "label!"])?;
        self.tell_pruned("network", 0);
        Ok(())
    }

    /// Id of the network that a container is on, or was when it ran last.
    pub fn network_id(&self, record: &ContainerRecord) -> Option<String> {
        record.state.started_at?;
        self.network_of(record).map(|(id, _, _)| id)
    }

    /// Id, name and driver of the network that a container has to itself; `None` where it shares another's.
    pub(crate) fn network_of(&self, record: &ContainerRecord) -> Option<(String, String, String)> {
        let bridge = self.0.networks.default_network().id;
        let (id, driver) = match record.host.network_mode.as_str() {
            "bridge" if record.config.network_disabled => return None,
            "bridge" => (bridge, "bridge"),
            "host" => (related_id(&bridge, HOST), "host"),
            "none" => (related_id(&bridge, NONE), "null"),
            _ => return None,
        };
        Some((id, record.host.network_mode.clone(), driver.to_owned()))
    }

    fn all_networks(&self) -> Vec<Network> {
        let bridge = self.0.networks.default_network();
        let created = OffsetDateTime::from(bridge.created);
        let containers = self.0.index.all();
        let records = containers.iter().map(|container| container.record());
        let members = records.filter_map(|record| member(&record, &bridge.id)).collect();
        let plain =
            |name, id, driver| Network { name, id, driver, created, bridge: None, members: Vec::new() };
        vec![
            Network {
                name: "bridge",
                id: bridge.id.clone(),
                driver: "bridge",
                created,
                members,
                bridge: Some(bridge.clone()),
            },
            plain("host", related_id(&bridge.id, HOST), "host"),
            plain("none", related_id(&bridge.id, NONE), "null"),
        ]
    }
}

fn member(record: &ContainerRecord, network_id: &str) -> Option<(String, Endpoint)> {
    let endpoint = record.endpoint.clone().filter(|endpoint| endpoint.network_id == network_id)?;
    Some((record.name.clone(), endpoint))
}

/// What tells the ids of the networks `host` and `none` from that of the bridge.
const HOST: u32 = 0x5;
const NONE: u32 = 0xa;

/// Another id, which stays as long as `id` does: every digit combined with `mask`.
fn related_id(id: &str, mask: u32) -> String {
    id.chars().filter_map(|c| char::from_digit(c.to_digit(16)? ^ mask, 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_ids_differ_from_the_first_digit_on() {
        let id = "0123456789abcdef".repeat(4);
        let (host, none) = (related_id(&id, 0x5), related_id(&id, 0xa));
        assert_eq!((host.len(), none.len()), (64, 64));
        assert!(id.chars().zip(host.chars()).zip(none.chars()).all(|((a, b), c)| a != b && b != c && a != c));
    }
}
