//! `berth kill` for containers.

use crate::context::Context;
use crate::error::CliError;
use bollard::query_parameters::KillContainerOptionsBuilder;
use std::process::ExitCode;

/// Kill containers
#[derive(Debug, clap::Args)]
pub(crate) struct KillArgs {
    /// Signal to send
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// Container to kill (can be repeated)
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) fn run(args: KillArgs, context: &Context) -> Result<ExitCode, CliError> {
    let options = KillContainerOptionsBuilder::new().signal(&args.signal).build();
    super::each(context, "kill", &args.containers, async |engine, id| {
        engine.docker().kill_container(id, Some(options.clone())).await
    })
}
