//! `berth load`.

use super::pull::messages;
use super::session;
use crate::connect::{self, Archive, failed};
use crate::context::Context;
use crate::error::CliError;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Load images from an archive
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// Read from a file in place of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Do not print what was loaded
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(args: LoadArgs, context: &Context) -> Result<ExitCode, CliError> {
    let what = match &args.input {
        Some(path) => format!("cannot load {}", path.display()),
        None => "cannot load images from standard input".to_owned(),
    };
    context.block_on(async {
        let archive = match &args.input {
            Some(path) => file(path).await.map_err(|e| CliError::new(what.clone()).because(e))?,
            None if std::io::stdin().is_terminal() => {
                return Err(CliError::usage("requested load from stdin, but stdin is empty")
                    .hint("name a file with -i, or pipe an archive in"));
            }
            None => stdin(),
        };
        let connection = connect::selected(context).await?;
        let loaded = connection.engine.upload("/images/load?quiet=1", archive).await;
        let answer = loaded.map_err(|e| failed(what.clone(), e))?;
        let told = messages(answer, |message| {
            if let (false, Some(text)) = (args.quiet, &message.stream) {
                crate::ui::stdout(text);
            }
        });
        told.await.map_err(|e| CliError::new(what).because(e))?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn file(path: &Path) -> std::io::Result<Archive> {
    let file = tokio::fs::File::open(path).await?;
    if file.metadata().await?.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    Ok(Box::pin(tokio_util::io::ReaderStream::with_capacity(file, 256 << 10)))
}

fn stdin() -> Archive {
    let chunks = session::stdin_chunks();
    Box::pin(futures_util::stream::unfold(chunks, async |mut chunks| {
        chunks.recv().await.map(|chunk| (chunk, chunks))
    }))
}
