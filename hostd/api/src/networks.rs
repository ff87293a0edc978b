//! Handlers below `/networks`. There are the three built-in networks, which nobody can change.

use crate::error::ApiError;
use crate::params::Params;
use crate::timestamps;
use crate::version::ApiVersion;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use hostd_engine::{Engine, Network};
use serde_json::{Map, Value, json};

type Result<T, E = ApiError> = std::result::Result<T, E>;

/// `GET /networks`.
pub(crate) async fn list(
    State(engine): State<Engine>,
    version: ApiVersion,
    params: Params,
) -> Result<Json<Value>> {
    let networks = engine.networks(&params.filters()?)?;
    // Before 1.28 the list told the containers too.
    let shown = networks.iter().map(|network| encode(network, !version.since(28), version));
    Ok(Json(shown.collect()))
}

/// `GET /networks/{id}`.
pub(crate) async fn inspect(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    version: ApiVersion,
    params: Params,
) -> Result<Json<Value>> {
    if params.get("scope").is_some_and(|scope| scope != "local") {
        return Err(ApiError::new(StatusCode::NOT_FOUND, format!("network {id} not found")));
    }
    Ok(Json(encode(&engine.network(&id)?, true, version)))
}

/// `DELETE /networks/{id}`: all that there are are built in.
pub(crate) async fn remove(State(engine): State<Engine>, Path(id): Path<String>) -> Result<StatusCode> {
    let network = engine.network(&id)?;
    let message = format!("{} is a pre-defined network and cannot be removed", network.name);
    Err(ApiError::new(StatusCode::FORBIDDEN, message))
}

/// `POST /networks/prune`: built-in networks are never pruned.
pub(crate) async fn prune(State(engine): State<Engine>, params: Params) -> Result<Json<Value>> {
    engine.prune_networks(&params.filters()?)?;
    Ok(Json(json!({ "NetworksDeleted": null })))
}

fn encode(network: &Network, members: bool, version: ApiVersion) -> Value {
    let (mut config, mut options) = (Value::Null, Map::new());
    if let Some(bridge) = &network.bridge {
        let subnet = format!("{}/{}", bridge.subnet, bridge.prefix_len);
        config = json!([{ "Subnet": subnet, "Gateway": bridge.gateway.to_string() }]);
        for (name, value) in [
            ("default_bridge", "true"),
            ("enable_icc", if bridge.icc { "true" } else { "false" }),
            ("enable_ip_masquerade", "true"),
            ("host_binding_ipv4", "0.0.0.0"),
            ("name", &bridge.bridge),
        ] {
            options.insert(format!("com.docker.network.bridge.{name}"), json!(value));
        }
    }
    let mut value = json!({
        "Name": network.name,
        "Id": network.id,
        "Created": timestamps::rfc3339(network.created),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": config },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": if members { encode_members(network) } else { json!({}) },
        "Options": options,
        "Labels": {},
    });
    if version.since(48)
        && let Value::Object(map) = &mut value
    {
        map.insert("EnableIPv4".to_owned(), json!(true));
    }
    value
}

fn encode_members(network: &Network) -> Value {
    let members = network.members.iter().map(|(name, endpoint)| {
        let member = json!({
            "Name": name,
            "EndpointID": endpoint.endpoint_id,
            "MacAddress": endpoint.mac,
            "IPv4Address": format!("{}/{}", endpoint.ip, endpoint.prefix_len),
            "IPv6Address": "",
        });
        (endpoint.container_id.clone(), member)
    });
    Value::Object(members.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::tests::{description, fits, record};

    #[test]
    fn a_network_reads_as_in_docker_and_names_its_containers() {
        let endpoint = record().endpoint.unwrap();
        let network = Network {
            name: "bridge",
            id: endpoint.network_id.clone(),
            driver: "bridge",
            created: record().created,
            bridge: None,
            members: vec![("web".to_owned(), endpoint.clone())],
        };
        let shown = encode(&network, true, ApiVersion(50));
        let member = &shown["Containers"][&endpoint.container_id];
        assert_eq!(member["IPv4Address"], "172.17.0.2/16");
        assert_eq!(encode(&network, false, ApiVersion(50))["Containers"], json!({}));
        if let Some(description) = description() {
            fits(&description, "Network", &shown, &["Peers"], &[]);
            fits(&description, "NetworkContainer", member, &[], &[]);
        }
    }
}
