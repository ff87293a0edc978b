//! `GET /containers/json`: containers as the list shows them.

use crate::error::ApiError;
use crate::version::ApiVersion;
use crate::{hostconfig, inspect, ports, timestamps};
use hostd_engine::model::{ContainerRecord, HealthStatus, State, Status};
use hostd_engine::{Engine, ListOptions};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use time::OffsetDateTime;

/// The containers that `options` select.
pub(crate) fn list(engine: &Engine, options: &ListOptions, version: ApiVersion) -> Result<Value, ApiError> {
    let now = OffsetDateTime::now_utc();
    let mut names = ImageNames { engine, known: HashMap::new() };
    let mut items = Vec::new();
    let mut link_names = engine.link_names();
    for record in engine.list(options)? {
        let image = names.shown(&record);
        let mut item = encode(&record, &image, now, version);
        if let (Some(more), Some(Value::Array(names))) =
            (link_names.remove(&record.id), item.get_mut("Names"))
        {
            names.extend(more.into_iter().map(Value::String));
        }
        if options.size
            && let Value::Object(map) = &mut item
        {
            let (writable, all) = engine.size(&record.id)?;
            map.insert("SizeRw".to_owned(), json!(writable));
            map.insert("SizeRootFs".to_owned(), json!(all));
        }
        items.push(item);
    }
    Ok(Value::Array(items))
}

/// What images are called in a list: by the name that was given at create, while that still means the same image.
struct ImageNames<'a> {
    engine: &'a Engine,
    known: HashMap<String, Option<String>>,
}

impl ImageNames<'_> {
    fn shown(&mut self, record: &ContainerRecord) -> String {
        let name = &record.config.image;
        let id = match self.known.get(name) {
            Some(id) => id.clone(),
            None => {
                let id = self.engine.image(name).ok().map(|image| image.id);
                self.known.insert(name.clone(), id.clone());
                id
            }
        };
        if id.as_ref() == Some(&record.image_id) { name.clone() } else { record.image_id.clone() }
    }
}

fn encode(record: &ContainerRecord, image: &str, now: OffsetDateTime, version: ApiVersion) -> Value {
    let mut host = Map::new();
    host.insert("NetworkMode".to_owned(), json!(hostconfig::network_mode(&record.host)));
    if version.since(46) && !record.host.annotations.is_empty() {
        host.insert("Annotations".to_owned(), json!(record.host.annotations));
    }
    json!({
        "Id": record.id,
        "Names": [format!("/{}", record.name)],
        "Image": image,
        "ImageID": record.image_id,
        "Command": command(&record.args),
        "Created": record.created.unix_timestamp(),
        "Ports": ports::encode_list(record),
        "Labels": record.config.labels,
        "State": record.state.status.as_str(),
        "Status": status(record, now),
        "HostConfig": host,
        "NetworkSettings": { "Networks": inspect::encode_networks(record, version) },
        "Mounts": record.mounts.iter().map(inspect::encode_mount).collect::<Value>(),
    })
}

/// The command on one line; arguments with spaces in quotes, as Docker prints them.
fn command(args: &[String]) -> String {
    let Some((program, args)) = args.split_first() else { return String::new() };
    let mut line = program.clone();
    for arg in args {
        line.push(' ');
        if arg.contains(' ') {
            line.push_str(&format!("'{arg}'"));
        } else {
            line.push_str(arg);
        }
    }
    line
}

/// `Up 3 seconds`, `Exited (0) 2 minutes ago`: Docker's words, which scripts match.
fn status(record: &ContainerRecord, now: OffsetDateTime) -> String {
    let state = &record.state;
    let since = |at: Option<OffsetDateTime>| at.map(|at| timestamps::human(now - at)).unwrap_or_default();
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => format!("Up {}{}", since(state.started_at), health(state)),
        Status::Paused => format!("Up {} (Paused)", since(state.started_at)),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, since(state.finished_at)),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished_at)),
    }
}

fn health(state: &State) -> &'static str {
    match state.health.as_ref().map(|health| health.status) {
        None => "",
        Some(HealthStatus::Starting) => " (health: starting)",
        Some(HealthStatus::Healthy) => " (healthy)",
        Some(HealthStatus::Unhealthy) => " (unhealthy)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_line_of_the_list_reads_as_dockers() {
        let record = inspect::tests::record();
        let item = encode(&record, "busybox", datetime!(2024-05-01 10:00:05 UTC), ApiVersion(50));
        assert_eq!(item["Names"], json!(["/web"]));
        assert_eq!(item["Command"], "sh -c 'echo hi'");
        assert_eq!(item["Status"], "Up 3 seconds");
        assert_eq!(
            item["Ports"],
            json!([{ "IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp" }])
        );
        assert_eq!(item["HostConfig"], json!({ "NetworkMode": "bridge" }));
        if let Some(description) = inspect::tests::description() {
            let may_lack = ["SizeRw", "SizeRootFs", "ImageManifestDescriptor"];
            inspect::tests::fits(&description, "ContainerSummary", &item, &may_lack, &[]);
        }
    }

    #[test]
    fn the_status_tells_state_exit_code_and_age() {
        let mut record = inspect::tests::record();
        let now = datetime!(2024-05-01 12:00:01.5 UTC);
        record.state.finished_at = Some(datetime!(2024-05-01 11:58:00 UTC));
        record.state.exit_code = 137;
        for (state, words) in [
            (Status::Created, "Created"),
            (Status::Running, "Up 2 hours"),
            (Status::Paused, "Up 2 hours (Paused)"),
            (Status::Restarting, "Restarting (137) 2 minutes ago"),
            (Status::Removing, "Removal In Progress"),
            (Status::Exited, "Exited (137) 2 minutes ago"),
            (Status::Dead, "Dead"),
        ] {
            record.state.status = state;
            assert_eq!(status(&record, now), words);
        }
    }
}
