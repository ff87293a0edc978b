//! `GET /containers/json`: containers as the list shows them.

use crate::error::ApiError;
use crate::version::ApiVersion;
use crate::{hostconfig, inspect, ports, timestamps};
use hostd_engine::model::{ContainerRecord, HealthStatus, State, Status};
use hostd_engine::{Engine, ListOptions};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use time::OffsetDateTime;

/// A list in the making. It is written straight from the records: by way of copies and trees of values, fifty
/// containers took 0.47 ms of CPU.
pub(crate) struct List {
    items: Vec<Item>,
    now: OffsetDateTime,
    version: ApiVersion,
}

struct Item {
    record: Arc<ContainerRecord>,
    /// Whether the name that was given at create still means the same image.
    image_has_name: bool,
    /// Bytes of the writable layer, and of everything.
    sizes: Option<(u64, u64)>,
    /// The network that it was on, where it has left that.
    network_id: Option<String>,
    /// What containers that link to it call it.
    link_names: Vec<String>,
}

/// The containers that `options` select.
pub(crate) async fn list(
    engine: &Engine,
    options: &ListOptions,
    version: ApiVersion,
) -> Result<List, ApiError> {
    let records = engine.list(options)?;
    let mut names: HashMap<&str, Option<String>> = HashMap::new();
    let mut link_names = engine.link_names();
    let mut items = Vec::with_capacity(records.len());
    for record in &records {
        let name = record.config.image.as_str();
        let id = names.entry(name).or_insert_with(|| engine.image(name).ok().map(|image| image.id));
        items.push(Item {
            record: Arc::clone(record),
            image_has_name: id.as_ref() == Some(&record.image_id),
            sizes: if options.size { Some(engine.size(&record.id).await?) } else { None },
            network_id: if record.endpoint.is_none() { engine.network_id(record) } else { None },
            link_names: link_names.remove(&record.id).unwrap_or_default(),
        });
    }
    Ok(List { items, now: OffsetDateTime::now_utc(), version })
}

impl Serialize for List {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.items.iter().map(|item| Summary::of(item, self.now, self.version)))
    }
}

/// A container as the list shows it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Summary<'a> {
    id: &'a str,
    names: Vec<Cow<'a, str>>,
    image: &'a str,
    #[serde(rename = "ImageID")]
    image_id: &'a str,
    command: String,
    created: i64,
    ports: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    labels: &'a BTreeMap<String, String>,
    state: &'static str,
    status: String,
    host_config: HostSummary<'a>,
    network_settings: NetworkSummary,
    mounts: Vec<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HostSummary<'a> {
    network_mode: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a BTreeMap<String, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSummary {
    networks: Value,
}

impl<'a> Summary<'a> {
    fn of(item: &'a Item, now: OffsetDateTime, version: ApiVersion) -> Self {
        let record = &*item.record;
        let mut networks = inspect::encode_networks(record, version);
        inspect::name_network(&mut networks, item.network_id.as_deref());
        Self {
            id: &record.id,
            names: std::iter::once(Cow::from(format!("/{}", record.name)))
                .chain(item.link_names.iter().map(|name| Cow::from(name.as_str())))
                .collect(),
            image: if item.image_has_name { &record.config.image } else { &record.image_id },
            image_id: &record.image_id,
            command: command(&record.args),
            created: record.created.unix_timestamp(),
            ports: ports::encode_list(record),
            // Docker leaves out a size of nothing.
            size_rw: item.sizes.map(|(writable, _)| writable).filter(|bytes| *bytes > 0),
            size_root_fs: item.sizes.map(|(_, all)| all).filter(|bytes| *bytes > 0),
            labels: &record.config.labels,
            state: record.state.status.as_str(),
            status: status(record, now),
            host_config: HostSummary {
                network_mode: hostconfig::network_mode(&record.host),
                annotations: Some(&record.host.annotations)
                    .filter(|all| version.since(46) && !all.is_empty()),
            },
            network_settings: NetworkSummary { networks },
            mounts: record.mounts.iter().map(inspect::encode_mount).collect(),
        }
    }
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
    use serde_json::json;
    use time::macros::datetime;

    #[test]
    fn a_line_of_the_list_reads_as_dockers() {
        let record = inspect::tests::record();
        let record = Arc::new(record);
        let item = Item { record, image_has_name: true, sizes: None, network_id: None, link_names: vec![] };
        let now = datetime!(2024-05-01 10:00:05 UTC);
        let list = List { items: vec![item], now, version: ApiVersion(50) };
        let item = &serde_json::to_value(list).unwrap()[0];
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
            inspect::tests::fits(&description, "ContainerSummary", item, &may_lack, &[]);
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
