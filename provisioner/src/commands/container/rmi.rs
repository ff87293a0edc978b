//! `berth rmi`.

use super::names;
use crate::connect::{self, failed};
use crate::context::Context;
use crate::error::CliError;
use bollard::query_parameters::RemoveImageOptionsBuilder;
use std::process::ExitCode;

/// Remove images
#[derive(Debug, clap::Args)]
pub(crate) struct RmiArgs {
    /// Remove them even where containers use them, or they have several names
    #[arg(short, long)]
    force: bool,
    /// Keep the nameless images that they were built on
    #[arg(long)]
    no_prune: bool,
    /// Image to remove (can be repeated)
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

pub(crate) fn run(args: RmiArgs, context: &Context) -> Result<ExitCode, CliError> {
    context.block_on(async {
        let connection = connect::selected(context).await?;
        let engine = &connection.engine;
        let options = RemoveImageOptionsBuilder::new().force(args.force).noprune(args.no_prune).build();
        let mut code = ExitCode::SUCCESS;
        for name in &args.images {
            let image = names::image(name)?;
            match engine.docker().remove_image(&image, Some(options.clone()), None).await {
                Ok(removed) => {
                    for item in removed {
                        item.untagged.iter().for_each(|name| crate::ui::stdout(&format!("Untagged: {name}")));
                        item.deleted.iter().for_each(|id| crate::ui::stdout(&format!("Deleted: {id}")));
                    }
                }
                Err(error) => {
                    failed(format!("cannot remove image `{name}`"), engine.error(error)).print();
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    })
}
