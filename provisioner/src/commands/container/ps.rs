//! `berth ps`.

use super::across::{Across, Bound};
use super::{human, names};
use crate::connect::{self, Engine, failed};
use crate::context::Context;
use crate::error::CliError;
use crate::ui::{self, Fields, Output, Table};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// List containers
#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Nothing cut off
    #[arg(long)]
    no_trunc: bool,
    /// The last ones created, whatever their state
    #[arg(short = 'n', long, value_name = "NUMBER")]
    last: Option<u32>,
    /// Only those of which this is true, such as status=exited
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    filter: Vec<(String, String)>,
    /// How to print them: table, json (an object per line), or a template such as '{{.Names}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Output,
    #[command(flatten)]
    across: Across,
}

/// The fields of templates.
const FIELDS: [&str; 13] = [
    "Machine",
    "ID",
    "Names",
    "Image",
    "Command",
    "CreatedAt",
    "RunningFor",
    "State",
    "Status",
    "Ports",
    "Labels",
    "Mounts",
    "Networks",
];

fn filter(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a filter is written KEY=VALUE")?;
    Ok((key.trim().to_lowercase(), value.trim().to_owned()))
}

/// A container as it is listed. An engine may leave out what it does not know.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Container {
    id: String,
    names: Option<Vec<String>>,
    image: String,
    command: String,
    created: i64,
    ports: Option<Vec<Port>>,
    labels: Option<BTreeMap<String, String>>,
    state: String,
    status: String,
    network_settings: Networks,
    mounts: Option<Vec<Mount>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Port {
    #[serde(rename = "IP")]
    ip: String,
    private_port: u16,
    public_port: Option<u16>,
    r#type: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Networks {
    networks: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Mount {
    name: String,
    source: String,
}

pub(crate) fn run(args: PsArgs, context: &Context) -> Result<ExitCode, CliError> {
    context.block_on(async {
        if args.across.several() {
            let answers =
                args.across.gather(context, Bound::Answer, async |engine| args.ask(engine).await).await?;
            let of = |(machine, containers): &(String, Vec<Container>)| {
                let rows = containers.iter().map(|container| (Some(machine.clone()), container.clone()));
                rows.collect::<Vec<_>>()
            };
            args.print(&answers.answers.iter().flat_map(of).collect::<Vec<_>>())?;
            return answers.ended().map(|()| ExitCode::SUCCESS);
        }
        let asked = async {
            let connection = connect::selected(context).await?;
            let containers = args.ask(&connection.engine).await?;
            Ok((connection, containers))
        };
        let (connection, containers) = args.across.in_time(asked).await?;
        args.print(&containers.into_iter().map(|container| (None, container)).collect::<Vec<_>>())?;
        // A container may have ended by itself, or have been started by another client.
        super::tell(connection.forwarder.sync(&connection.engine).await);
        Ok(ExitCode::SUCCESS)
    })
}

impl PsArgs {
    fn path(&self) -> String {
        let mut path = format!("/containers/json?all={}", u8::from(self.all));
        if let Some(last) = self.last {
            path.push_str(&format!("&limit={last}"));
        }
        if !self.filter.is_empty() {
            let mut filters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (key, value) in &self.filter {
                filters.entry(key).or_default().push(value);
            }
            path.push_str(&format!("&filters={}", names::query(&json!(filters).to_string())));
        }
        path
    }

    async fn ask(&self, engine: &Engine) -> Result<Vec<Container>, CliError> {
        engine.get(&self.path()).await.map_err(|e| failed("cannot list containers", e))
    }

    /// Machines are told where there are several.
    fn print(&self, containers: &[(Option<String>, Container)]) -> Result<(), CliError> {
        if self.quiet {
            for (machine, container) in containers {
                let id = self.id(&container.id);
                ui::stdout(&machine.as_ref().map_or(id.to_owned(), |machine| format!("{machine}: {id}")));
            }
            return Ok(());
        }
        let fields: Vec<Fields> = containers
            .iter()
            .map(|(machine, container)| self.fields(machine.as_deref(), container))
            .collect();
        self.format.write(&FIELDS, &fields, || self.table(containers))
    }

    fn table(&self, containers: &[(Option<String>, Container)]) -> Table {
        let heads = ["MACHINE", "CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
        let mut table = Table::new(if self.across.several() { &heads } else { &heads[1..] });
        for (machine, container) in containers {
            let mut cells = Vec::from_iter(machine.clone());
            cells.extend([
                self.id(&container.id).to_owned(),
                container.image.clone(),
                self.command(container),
                human::ago(container.created),
                container.status.clone(),
                container.ports(),
                container.names(),
            ]);
            table.row(cells);
        }
        table
    }

    fn id<'a>(&self, id: &'a str) -> &'a str {
        if self.no_trunc { id } else { human::short_id(id) }
    }

    fn command(&self, container: &Container) -> String {
        let width = if self.no_trunc { usize::MAX } else { 20 };
        format!("\"{}\"", human::ellipsis(&container.command, width))
    }

    /// The keys that docker prints, and the machine's name where there are several.
    fn fields(&self, machine: Option<&str>, container: &Container) -> Fields {
        let mut fields = Fields::new();
        if let Some(machine) = machine {
            fields.insert("Machine".to_owned(), machine.into());
        }
        if let serde_json::Value::Object(of_container) = self.json(container) {
            fields.extend(of_container);
        }
        fields
    }

    fn json(&self, container: &Container) -> serde_json::Value {
        let labels = container.labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
        let mounts = container.mounts.iter().flatten();
        let mounts = mounts.map(|mount| if mount.name.is_empty() { &mount.source } else { &mount.name });
        let networks = container.network_settings.networks.iter().flatten().map(|(name, _)| name.as_str());
        let created = time::OffsetDateTime::from_unix_timestamp(container.created).ok();
        let written =
            time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC");
        json!({
            "ID": self.id(&container.id),
            "Names": container.names(),
            "Image": container.image,
            "Command": self.command(container),
            "CreatedAt": created.and_then(|at| at.format(written).ok()),
            "RunningFor": human::ago(container.created),
            "State": container.state,
            "Status": container.status,
            "Ports": container.ports(),
            "Labels": labels.collect::<Vec<_>>().join(","),
            "Mounts": mounts.map(String::as_str).collect::<Vec<_>>().join(","),
            "Networks": networks.collect::<Vec<_>>().join(","),
        })
    }
}

impl Container {
    fn names(&self) -> String {
        // A name with more than one slash belongs to a link.
        let own = |name: &&str| !name.contains('/');
        let names = self.names.iter().flatten().map(|name| name.trim_start_matches('/')).filter(own);
        names.collect::<Vec<_>>().join(",")
    }

    fn ports(&self) -> String {
        let mut ports: Vec<_> = self.ports.iter().flatten().collect();
        ports.sort_by_key(|port| {
            (port.private_port, port.r#type.clone(), port.public_port, port.ip.contains(':'))
        });
        let written = ports.into_iter().map(|port| {
            let ip = if port.ip.contains(':') { format!("[{}]", port.ip) } else { port.ip.clone() };
            match port.public_port {
                Some(public) => format!("{ip}:{public}->{}/{}", port.private_port, port.r#type),
                None => format!("{}/{}", port.private_port, port.r#type),
            }
        });
        written.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_names_are_written_as_dockers() {
        let container: Container = serde_json::from_value(json!({
            "Names": ["/web", "/other/alias"],
            "Ports": [
                { "IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp" },
                { "IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp" },
                { "PrivatePort": 53, "Type": "udp" },
            ],
            "Labels": null,
        }))
        .unwrap();
        assert_eq!(container.names(), "web");
        assert_eq!(container.ports(), "53/udp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp");
    }
}
