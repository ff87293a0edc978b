//! Ports on the wire: `80/tcp` as a key, `{"HostIp":"","HostPort":"8080-8090"}` as a binding.

use crate::error::ApiError;
use crate::fields::Fields;
use hostd_engine::Protocol;
use hostd_engine::model::{ContainerRecord, Port, PortBinding};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// `80/tcp`.
pub(crate) fn key(number: u16, protocol: Protocol) -> String {
    format!("{number}/{}", protocol_name(protocol))
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn parse(text: &str) -> Result<Vec<Port>, ApiError> {
    let invalid = || ApiError::bad_request(format!("invalid port specification: \"{text}\""));
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" | "" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(invalid()),
    };
    let (first, last) = range(numbers).ok_or_else(invalid)?;
    Ok((first..=last).map(|number| Port { number, protocol }).collect())
}

/// `80` or `80-90`, without 0.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some((first, last))
}

/// `ExposedPorts`.
pub(crate) fn exposed(fields: &Fields<'_>) -> Result<BTreeSet<Port>, ApiError> {
    let mut ports = BTreeSet::new();
    for text in fields.keys("ExposedPorts")? {
        ports.extend(parse(text)?);
    }
    Ok(ports)
}

/// `PortBindings`.
pub(crate) fn bindings(fields: &Fields<'_>) -> Result<BTreeMap<Port, Vec<PortBinding>>, ApiError> {
    let mut ports = BTreeMap::new();
    for (text, value) in fields.entries("PortBindings")? {
        let [port] = parse(text)?[..] else {
            return Err(ApiError::bad_request(format!(
                "invalid port specification: \"{text}\": a binding is of one port"
            )));
        };
        let name = format!("PortBindings.{text}");
        let items = match value {
            Value::Null => &[][..],
            Value::Array(items) => items,
            _ => {
                return Err(ApiError::bad_request(format!(
                    "invalid JSON: {} must be a list",
                    fields.path(&name)
                )));
            }
        };
        let items = items.iter().map(|item| binding(&fields.item(&name, item)?));
        ports.insert(port, items.collect::<Result<_, _>>()?);
    }
    Ok(ports)
}

fn binding(fields: &Fields<'_>) -> Result<PortBinding, ApiError> {
    let ip = fields.string("HostIp")?;
    let ports = fields.string("HostPort")?;
    let host_ip = match ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| ApiError::bad_request(format!("invalid IP address: {text}")))?),
    };
    let host_ports = match ports.as_str() {
        "" | "0" => None,
        text => Some(
            range(text)
                .ok_or_else(|| ApiError::bad_request(format!("invalid port specification: \"{text}\"")))?,
        ),
    };
    Ok(PortBinding { host_ip, host_ports })
}

/// `HostConfig.PortBindings`, as it was asked for.
pub(crate) fn encode_bindings(ports: &BTreeMap<Port, Vec<PortBinding>>) -> Value {
    let binding = |binding: &PortBinding| {
        let ports = match binding.host_ports {
            None => String::new(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        };
        json!({ "HostIp": binding.host_ip.map(|ip| ip.to_string()).unwrap_or_default(), "HostPort": ports })
    };
    let entries = ports.iter().map(|(port, bindings)| {
        (key(port.number, port.protocol), Value::Array(bindings.iter().map(binding).collect()))
    });
    Value::Object(entries.collect())
}

/// `NetworkSettings.Ports`: what is published, and null for what is only exposed. Empty while it does not run.
pub(crate) fn encode_published(record: &ContainerRecord) -> Value {
    let Some(endpoint) = &record.endpoint else { return json!({}) };
    let exposed = record.config.exposed_ports.iter().chain(record.host.port_bindings.keys());
    let mut map: Map<String, Value> =
        exposed.map(|port| (key(port.number, port.protocol), Value::Null)).collect();
    for port in &endpoint.ports {
        let entry = map.entry(key(port.container_port, port.protocol)).or_insert(Value::Null);
        let binding = json!({ "HostIp": port.host_ip.to_string(), "HostPort": port.host_port.to_string() });
        match entry {
            Value::Array(items) => items.push(binding),
            other => *other = Value::Array(vec![binding]),
        }
    }
    Value::Object(map)
}

/// `Ports` of the list.
pub(crate) fn encode_list(record: &ContainerRecord) -> Value {
    let Some(endpoint) = &record.endpoint else { return json!([]) };
    let mut ports = Vec::new();
    for port in &endpoint.ports {
        ports.push(json!({
            "IP": port.host_ip.to_string(), "PrivatePort": port.container_port, "PublicPort": port.host_port,
            "Type": protocol_name(port.protocol),
        }));
    }
    let published = |port: &Port| {
        endpoint
            .ports
            .iter()
            .any(|known| (known.container_port, known.protocol) == (port.number, port.protocol))
    };
    for port in record.config.exposed_ports.iter().filter(|port| !published(port)) {
        ports.push(json!({ "PrivatePort": port.number, "Type": protocol_name(port.protocol) }));
    }
    Value::Array(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<BTreeMap<Port, Vec<PortBinding>>, String> {
        let value = json!({ "PortBindings": value });
        bindings(&Fields::root(value.as_object().unwrap())).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn bindings_come_back_as_they_were_given() {
        let value = json!({
            "80/tcp": [{ "HostIp": "", "HostPort": "8080" }, { "HostIp": "::1", "HostPort": "" }],
            "53/udp": [{ "HostIp": "127.0.0.1", "HostPort": "5000-5010" }],
        });
        assert_eq!(encode_bindings(&read(value.clone()).unwrap()), value);
        assert_eq!(read(json!({ "80": [{ "hostport": "1" }] })).unwrap().len(), 1);
        assert_eq!(read(json!({ "80/tcp": null })).unwrap().values().next().unwrap().len(), 0);
    }

    #[test]
    fn bad_ports_are_refused() {
        for bad in [
            json!({ "x": [] }),
            json!({ "0": [] }),
            json!({ "80/icmp": [] }),
            json!({ "80-90/tcp": [] }),
            json!({ "70000/tcp": [] }),
            json!({ "80": [{ "HostPort": "90-80" }] }),
            json!({ "80": [{ "HostPort": 8080 }] }),
            json!({ "80": [{ "HostIp": "localhost" }] }),
            json!({ "80": "8080" }),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
