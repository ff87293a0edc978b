//! `berth wait`.

use super::attached;
use crate::connect;
use crate::context::Context;
use crate::error::CliError;
use std::process::ExitCode;

/// Wait until containers have ended, and print their exit codes
#[derive(Debug, clap::Args)]
pub(crate) struct WaitArgs {
    /// Container to wait for (can be repeated)
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) fn run(args: WaitArgs, context: &Context) -> Result<ExitCode, CliError> {
    context.block_on(async {
        let connection = connect::selected(context).await?;
        let mut all = ExitCode::SUCCESS;
        for name in &args.containers {
            let ended = async {
                let exit = attached::wait(&connection.engine, name, "not-running").await?;
                exit.await.map_err(|e| CliError::new("cannot wait for the container").because(e))?
            };
            match ended.await {
                Ok(code) => crate::ui::stdout(&code.to_string()),
                Err(error) => {
                    error.print();
                    all = ExitCode::FAILURE;
                }
            }
        }
        Ok(all)
    })
}
