//! `berth info`.

use super::across::{Across, Bound};
use super::human;
use crate::connect::{self, Engine, failed};
use crate::context::Context;
use crate::error::CliError;
use crate::ui::{self, Format, Table};
use serde_json::Value;
use std::process::ExitCode;

/// Tell about the selected machine's engine, or those of several machines
#[derive(Debug, clap::Args)]
pub(crate) struct InfoArgs {
    /// How to print it; json is all that the engine tells
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    #[command(flatten)]
    across: Across,
}

/// What is shown, and under which name the engine tells it.
const LINES: [(&str, &str); 14] = [
    ("Name", "Name"),
    ("Server Version", "ServerVersion"),
    ("Containers", "Containers"),
    (" Running", "ContainersRunning"),
    (" Paused", "ContainersPaused"),
    (" Stopped", "ContainersStopped"),
    ("Images", "Images"),
    ("Storage Driver", "Driver"),
    ("Cgroup Version", "CgroupVersion"),
    ("Operating System", "OperatingSystem"),
    ("Kernel Version", "KernelVersion"),
    ("Architecture", "Architecture"),
    ("CPUs", "NCPU"),
    ("Root Directory", "DockerRootDir"),
];

pub(crate) fn run(args: InfoArgs, context: &Context) -> Result<ExitCode, CliError> {
    context.block_on(async {
        if args.across.several() {
            let answers = args.across.gather(context, Bound::Answer, ask).await?;
            print_all(&answers.answers, args.format)?;
            return answers.ended().map(|()| ExitCode::SUCCESS);
        }
        let asked = async {
            let connection = connect::selected(context).await?;
            let info = ask(&connection.engine).await?;
            Ok((connection, info))
        };
        let (connection, info) = args.across.in_time(asked).await?;
        if args.format == Format::Json {
            ui::json(&info)?;
            return Ok(ExitCode::SUCCESS);
        }
        ui::stdout(&format!("Machine: {}", connection.engine.machine()));
        for (label, key) in LINES {
            match &info[key] {
                Value::Null => {}
                Value::String(text) => ui::stdout(&format!("{label}: {text}")),
                other => ui::stdout(&format!("{label}: {other}")),
            }
        }
        if let Some(memory) = info["MemTotal"].as_i64() {
            ui::stdout(&format!("Total Memory: {}", human::size(memory)));
        }
        for warning in info["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            ui::stderr(warning);
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn ask(engine: &Engine) -> Result<Value, CliError> {
    engine.get_json("/info").await.map_err(|e| failed("cannot ask the engine about itself", e))
}

/// A line for each machine; as JSON, an object per line.
fn print_all(all: &[(String, Value)], format: Format) -> Result<(), CliError> {
    if format == Format::Json {
        for (machine, info) in all {
            let mut info = info.clone();
            if let Value::Object(fields) = &mut info {
                fields.insert("Machine".to_owned(), machine.as_str().into());
            }
            ui::stdout(&info.to_string());
        }
        return Ok(());
    }
    let columns = [
        ("VERSION", "ServerVersion"),
        ("CONTAINERS", "Containers"),
        ("RUNNING", "ContainersRunning"),
        ("IMAGES", "Images"),
        ("CPUS", "NCPU"),
        ("MEMORY", "MemTotal"),
        ("OS", "OperatingSystem"),
        ("KERNEL", "KernelVersion"),
    ];
    let heads = ["MACHINE"].into_iter().chain(columns.map(|(head, _)| head));
    let mut table = Table::new(&heads.collect::<Vec<_>>());
    for (machine, info) in all {
        let cell = |(_, key): (&str, &str)| match &info[key] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            Value::Number(bytes) if key == "MemTotal" => bytes.as_i64().map(human::size).unwrap_or_default(),
            other => other.to_string(),
        };
        table.row([machine.clone()].into_iter().chain(columns.map(cell)).collect());
    }
    table.print();
    Ok(())
}
