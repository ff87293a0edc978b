//! `berth restart` for containers.

use crate::context::Context;
use crate::error::CliError;
use bollard::query_parameters::RestartContainerOptionsBuilder;
use std::process::ExitCode;

/// Restart containers
#[derive(Debug, clap::Args)]
pub(crate) struct RestartArgs {
    /// Seconds to wait before killing (-1: any time)
    #[arg(
        short = 't',
        long = "time",
        visible_alias = "timeout",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    seconds: Option<i32>,
    /// Signal to stop with
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Container to restart (can be repeated)
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) fn run(args: RestartArgs, context: &Context) -> Result<ExitCode, CliError> {
    let mut options = RestartContainerOptionsBuilder::new();
    if let Some(seconds) = args.seconds {
        options = options.t(seconds);
    }
    if let Some(signal) = &args.signal {
        options = options.signal(signal);
    }
    let options = options.build();
    super::each(context, "restart", &args.containers, async |engine, id| {
        engine.docker().restart_container(id, Some(options.clone())).await
    })
}
