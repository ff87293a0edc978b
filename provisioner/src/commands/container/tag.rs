//! `berth tag`.

use super::names;
use crate::connect::{self, failed};
use crate::context::Context;
use crate::error::CliError;
use bollard::query_parameters::TagImageOptionsBuilder;
use std::process::ExitCode;

/// Give an image another name
#[derive(Debug, clap::Args)]
pub(crate) struct TagArgs {
    /// Image, by a name or its ID
    source: String,
    /// Its new name
    #[arg(value_name = "TARGET[:TAG]")]
    target: String,
}

pub(crate) fn run(args: TagArgs, context: &Context) -> Result<ExitCode, CliError> {
    let source = names::image(&args.source)?;
    names::image(&args.target)?;
    let (repository, tag) = match names::split_reference(&args.target) {
        (_, Some(digest)) if digest.contains(':') => {
            return Err(CliError::usage("refusing to create a tag with a digest reference"));
        }
        (repository, tag) => (repository, tag.unwrap_or("latest")),
    };
    context.block_on(async {
        let connection = connect::selected(context).await?;
        let engine = &connection.engine;
        let options = TagImageOptionsBuilder::new().repo(repository).tag(tag).build();
        let tagged = engine.docker().tag_image(&source, Some(options)).await;
        tagged.map_err(|e| failed(format!("cannot tag image `{}`", args.source), engine.error(e)))?;
        Ok(ExitCode::SUCCESS)
    })
}
