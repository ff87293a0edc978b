//! `berth ls`: all machines, asked at once, with one deadline.

use crate::context::Context;
use crate::error::CliError;
use crate::provision::engine;
use crate::store::{Machine, MachineName, Stage, StoreError};
use crate::ui::{self, Format, Table};
use drivers::driver::MachineState;
use futures_util::future::join_all;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;

/// List machines
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Only names
    #[arg(long, short)]
    quiet: bool,
    /// Only machines that match: name=, driver= or state= (can be repeated)
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = Filter::parse)]
    filter: Vec<Filter>,
    /// Seconds after which a machine that does not answer is shown as such
    #[arg(long, short, default_value_t = 10, value_name = "SECONDS")]
    timeout: u64,
    /// How to write it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Debug)]
enum Filter {
    Name(String),
    Driver(String),
    State(String),
}

impl Filter {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("name", value)) => Ok(Self::Name(value.to_owned())),
            Some(("driver", value)) => Ok(Self::Driver(value.to_owned())),
            Some(("state", value)) => Ok(Self::State(value.to_ascii_lowercase())),
            _ => Err("a filter is name=, driver= or state= with a value".to_owned()),
        }
    }

    fn matches(&self, row: &Row) -> bool {
        match self {
            Self::Name(part) => row.name.contains(part.as_str()),
            Self::Driver(driver) => row.driver == *driver,
            Self::State(state) => row.state.to_ascii_lowercase() == *state,
        }
    }
}

/// One machine, as it is shown.
#[derive(Debug, Default, serde::Serialize)]
struct Row {
    name: String,
    active: bool,
    driver: String,
    state: String,
    url: String,
    version: String,
    error: Option<String>,
}

/// Runs it.
pub(crate) fn run(args: &LsArgs, context: &Context) -> Result<ExitCode, CliError> {
    let by_state = args.filter.iter().any(|filter| matches!(filter, Filter::State(_)));
    let active = context.store.active()?;
    let mut rows = if args.quiet && !by_state {
        context.store.list()?.into_iter().map(|(name, loaded)| unasked(&name, &loaded)).collect()
    } else {
        let machines = context.store.list()?;
        let until = Duration::from_secs(args.timeout);
        context.block_on(async {
            let until = Instant::now() + until;
            Ok(join_all(machines.into_iter().map(|(name, loaded)| asked(name, loaded, until))).await)
        })?
    };
    for row in &mut rows {
        row.active = active.as_ref().is_some_and(|active| active.as_str() == row.name);
    }
    rows.retain(|row| args.filter.iter().all(|filter| filter.matches(row)));
    write(args, &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn write(args: &LsArgs, rows: &[Row]) -> Result<(), CliError> {
    if args.quiet {
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        ui::stdout(&names.join("\n"));
        return Ok(());
    }
    if args.format == Format::Json {
        return ui::json(&rows);
    }
    let mut table = Table::new(&["NAME", "ACTIVE", "DRIVER", "STATE", "URL", "VERSION", "ERRORS"]);
    for row in rows {
        let active = if row.active { "*" } else { "-" };
        let errors = row.error.clone().unwrap_or_default();
        table.row(vec![
            row.name.clone(),
            active.to_owned(),
            row.driver.clone(),
            row.state.clone(),
            row.url.clone(),
            row.version.clone(),
            errors,
        ]);
    }
    table.print();
    Ok(())
}

/// What the store alone knows.
fn unasked(name: &MachineName, loaded: &Result<Machine, StoreError>) -> Row {
    let driver = loaded.as_ref().map(|machine| machine.record.driver.clone()).unwrap_or_default();
    Row { name: name.to_string(), driver, ..Row::default() }
}

async fn asked(name: MachineName, loaded: Result<Machine, StoreError>, until: Instant) -> Row {
    let mut row = unasked(&name, &loaded);
    row.state = "Error".to_owned();
    if let Err(error) = ask(loaded, &mut row, until).await {
        row.error = Some(error.one_line());
    }
    row
}

async fn ask(loaded: Result<Machine, StoreError>, row: &mut Row, until: Instant) -> Result<(), CliError> {
    let machine = loaded?;
    let driver = machine.driver()?;
    row.url = driver.url().unwrap_or_default();
    let Ok(state) = tokio::time::timeout_at(until, engine::state(&machine, driver.as_ref())).await else {
        row.state = "Timeout".to_owned();
        return Ok(());
    };
    let state = state?;
    row.state = super::state_word(state).to_owned();
    if machine.record.state == Stage::Creating {
        row.error = Some(format!("create was interrupted: `berth create --resume {}`", machine.name));
        return Ok(());
    }
    if state == MachineState::Running {
        match tokio::time::timeout_at(until, engine::version(&machine)).await {
            Ok(version) => row.version = version?,
            Err(_) => row.error = Some("the engine did not answer in time".to_owned()),
        }
    }
    Ok(())
}
