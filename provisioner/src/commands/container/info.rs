//! `berth info`.

use super::human;
use crate::connect::{self, failed};
use crate::context::Context;
use crate::error::CliError;
use crate::ui::{self, Format};
use serde_json::Value;
use std::process::ExitCode;

/// Tell about the selected machine's engine
#[derive(Debug, clap::Args)]
pub(crate) struct InfoArgs {
    /// How to print it; json is all that the engine tells
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
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
        let connection = connect::selected(context).await?;
        let info = connection.engine.get_json("/info").await;
        let info = info.map_err(|e| failed("cannot ask the engine about itself", e))?;
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
