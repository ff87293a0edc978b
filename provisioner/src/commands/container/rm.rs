//! `berth rm` for containers.

use crate::context::Context;
use crate::error::CliError;
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use std::process::ExitCode;

/// Remove containers
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Kill containers that run
    #[arg(short, long)]
    force: bool,
    /// Remove their anonymous volumes too
    #[arg(short, long)]
    volumes: bool,
    /// Container to remove (can be repeated)
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) fn run(args: RmArgs, context: &Context) -> Result<ExitCode, CliError> {
    let options = RemoveContainerOptionsBuilder::new().force(args.force).v(args.volumes).build();
    super::each(context, "remove", &args.containers, async |engine, id| {
        engine.docker().remove_container(id, Some(options.clone())).await
    })
}
