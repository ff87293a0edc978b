//! `berth ls`: all machines, asked at once, with one deadline.

use super::live::{self, Live};
use crate::context::Context;
use crate::error::CliError;
use crate::store::{Labels, Listed, MachineName, Selector, labels};
use crate::ui::{self, Fields, Output, Table};
use futures_util::StreamExt as _;
use regex_lite::Regex;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;

/// How often `--watch` looks.
const REDRAW: Duration = Duration::from_secs(2);

/// List machines
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Only names
    #[arg(long, short)]
    quiet: bool,
    /// Only machines that match: driver=, state=, name= (a regular expression) or label=KEY=VALUE (can be repeated:
    /// one of each kind must match)
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = Filter::parse)]
    filter: Vec<Filter>,
    /// Only machines with these labels: KEY=VALUE, KEY!=VALUE or KEY; where several are given, all must hold
    #[arg(short = 'l', long, value_name = "LABEL,…")]
    selector: Option<Selector>,
    /// Seconds after which a machine that does not answer is shown as such
    #[arg(long, short, default_value_t = 10, value_name = "SECONDS")]
    timeout: u64,
    /// How to write it: table, json, a template such as '{{.Name}}', or 'table {{.Name}}\t{{.State}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Output,
    /// Look again every 2 seconds, until interrupted
    #[arg(long, short)]
    watch: bool,
}

#[derive(Clone, Debug)]
enum Filter {
    Name(Regex),
    Driver(String),
    State(String),
    Label(Selector),
}

impl Filter {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("name", value)) => {
                Regex::new(value).map(Self::Name).map_err(|error| format!("`{value}` is no pattern: {error}"))
            }
            Some(("driver", value)) => Ok(Self::Driver(value.to_owned())),
            Some(("state", value)) => Ok(Self::State(value.to_ascii_lowercase())),
            Some(("label", value)) => value.parse().map(Self::Label),
            Some(("swarm", _)) => Err("there is no Swarm, and so no filter for it".to_owned()),
            _ => Err("a filter is name=, driver=, state= or label= with a value".to_owned()),
        }
    }

    fn matches(&self, row: &Row) -> bool {
        match self {
            Self::Name(pattern) => pattern.is_match(&row.name),
            Self::Driver(driver) => row.driver == *driver,
            Self::State(state) => row.live.state.to_ascii_lowercase() == *state,
            Self::Label(selector) => selector.matches(&row.labels),
        }
    }

    fn needs_answer(&self) -> bool {
        matches!(self, Self::State(_))
    }
}

/// Whether of each kind of filter that is given one matches.
fn pass<'a>(filters: impl Iterator<Item = &'a Filter>, row: &Row) -> bool {
    let mut kinds = Vec::new();
    for filter in filters {
        let kind = std::mem::discriminant(filter);
        let matches = filter.matches(row);
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, any)) => *any |= matches,
            None => kinds.push((kind, matches)),
        }
    }
    kinds.into_iter().all(|(_, any)| any)
}

/// One machine, as it is shown.
#[derive(Debug, Default, serde::Serialize)]
struct Row {
    name: String,
    active: bool,
    driver: String,
    labels: Labels,
    #[serde(flatten)]
    live: Live,
    /// How long it took to answer, in milliseconds.
    #[serde(skip)]
    took: u128,
}

/// Runs it.
pub(crate) fn run(args: &LsArgs, context: &Context) -> Result<ExitCode, CliError> {
    if !args.watch {
        write(args, &rows(args, context)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let terminal = std::io::stdout().is_terminal();
    loop {
        let rows = rows(args, context)?;
        if terminal {
            // To the upper left corner, and nothing below.
            let mut out = std::io::stdout().lock();
            if out.write_all(b"\x1b[H\x1b[2J").is_err() {
                return Ok(ExitCode::SUCCESS);
            }
        }
        write(args, &rows)?;
        std::thread::sleep(REDRAW);
    }
}

fn rows(args: &LsArgs, context: &Context) -> Result<Vec<Row>, CliError> {
    let active = context.store.active()?;
    let of_records = || args.filter.iter().filter(|filter| !filter.needs_answer());
    if args.quiet
        && args.filter.iter().all(|filter| matches!(filter, Filter::Name(_)))
        && args.selector.is_none()
    {
        // Names are names of directories: no record is read.
        let named = |name: MachineName| Row { name: name.to_string(), ..Row::default() };
        let mut rows: Vec<Row> = context.store.names()?.into_iter().map(named).collect();
        rows.retain(|row| pass(of_records(), row));
        return Ok(rows);
    }
    let mut machines: Vec<(Row, Listed)> = Vec::new();
    for listed in context.store.list()? {
        let mut row = unasked(&listed);
        row.active = active.as_ref() == Some(&listed.0);
        if pass(of_records(), &row) && args.selector.as_ref().is_none_or(|it| it.matches(&row.labels)) {
            machines.push((row, listed));
        }
    }
    if args.quiet && !args.filter.iter().any(Filter::needs_answer) {
        return Ok(machines.into_iter().map(|(row, _)| row).collect());
    }
    let until = Duration::from_secs(args.timeout);
    let mut rows = context.block_on(async {
        let until = Instant::now() + until;
        let asked = machines
            .into_iter()
            .enumerate()
            .map(|(at, machine)| async move { (at, ask(machine, until).await) });
        // As they answer: a dead one holds up no other.
        let mut rows: Vec<_> =
            futures_util::stream::iter(asked).buffer_unordered(live::at_once()).collect().await;
        rows.sort_by_key(|(at, _)| *at);
        Ok(rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>())
    })?;
    rows.retain(|row| pass(args.filter.iter(), row));
    Ok(rows)
}

/// What the store alone knows.
fn unasked((name, loaded): &Listed) -> Row {
    let mut row = Row { name: name.to_string(), ..Row::default() };
    if let Ok(machine) = loaded {
        row.driver = machine.record.driver.clone();
        row.labels = machine.record.labels.clone();
    }
    row
}

async fn ask((mut row, (_, loaded)): (Row, Listed), until: Instant) -> Row {
    let began = Instant::now();
    row.live = match loaded {
        Ok(machine) => live::ask(&machine, until).await,
        Err(error) => {
            let error = CliError::from(error).one_line();
            Live { state: "Error".to_owned(), error: Some(error), ..Live::default() }
        }
    };
    row.took = began.elapsed().as_millis();
    row
}

/// The fields of templates; those of docker-machine under its names too.
const FIELDS: [&str; 12] = [
    "Name",
    "Active",
    "Driver",
    "DriverName",
    "State",
    "URL",
    "Version",
    "DockerVersion",
    "Cert",
    "Labels",
    "Error",
    "ResponseTime",
];

impl Row {
    fn active(&self) -> &'static str {
        if self.active { "*" } else { "-" }
    }

    fn cert(&self) -> String {
        match self.live.cert_days {
            None => String::new(),
            Some(days) if days < 0 => "expired".to_owned(),
            Some(days) => format!("{days}d"),
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.active().to_owned(),
            self.driver.clone(),
            self.live.state.clone(),
            self.live.url.clone(),
            self.live.version.clone(),
            self.cert(),
            labels::line(&self.labels),
            self.live.error.clone().unwrap_or_default(),
        ]
    }

    fn fields(&self) -> Fields {
        let values = [
            self.name.clone(),
            self.active().to_owned(),
            self.driver.clone(),
            self.driver.clone(),
            self.live.state.clone(),
            self.live.url.clone(),
            self.live.version.clone(),
            self.live.version.clone(),
            self.cert(),
            labels::line(&self.labels),
            self.live.error.clone().unwrap_or_default(),
            format!("{}ms", self.took),
        ];
        FIELDS.into_iter().map(str::to_owned).zip(values.map(serde_json::Value::from)).collect()
    }
}

fn write(args: &LsArgs, rows: &[Row]) -> Result<(), CliError> {
    if args.quiet {
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        ui::stdout(&names.join("\n"));
        return Ok(());
    }
    if args.format == Output::Json {
        return ui::json(&rows);
    }
    let fields: Vec<Fields> = rows.iter().map(Row::fields).collect();
    args.format.write(&FIELDS, &fields, || {
        let mut table =
            Table::new(&["NAME", "ACTIVE", "DRIVER", "STATE", "URL", "VERSION", "CERT", "LABELS", "ERRORS"]);
        rows.iter().for_each(|row| table.row(row.cells()));
        table
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_kind_of_filter_one_must_match() {
        let row = Row {
            name: "web-1".into(),
            driver: "qemu".into(),
            labels: [("role".to_owned(), "web".to_owned())].into(),
            ..Row::default()
        };
        for (filters, passes) in [
            (&[][..], true),
            (&["name=web"], true),
            (&["name=^eb"], false),
            (&["name=^web-[0-9]$", "driver=qemu"], true),
            (&["driver=qemu", "driver=none"], true),
            (&["driver=none", "name=web"], false),
            (&["label=role=web"], true),
            (&["label=role=ci"], false),
            (&["label=role"], true),
        ] {
            let filters: Vec<Filter> = filters.iter().map(|text| Filter::parse(text).unwrap()).collect();
            assert_eq!(pass(filters.iter(), &row), passes, "{filters:?}");
        }
        for wrong in ["swarm=x", "name", "colour=red", "name=(", "label=a b=c"] {
            assert!(Filter::parse(wrong).is_err(), "{wrong}");
        }
    }
}
