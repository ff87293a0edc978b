//! `berth man`: manual pages.

use crate::error::{CliError, Doing as _};
use crate::ui;
use clap::Command;
use std::path::PathBuf;
use std::process::ExitCode;

/// Write manual pages
///
/// One page for each command goes to DIR, which is made: man finds them in a directory `man1` below one of $MANPATH.
/// Without DIR, berth's own page goes to stdout: `berth man | man -l -`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Directory that the pages are written to
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs it.
pub(crate) fn run(args: &ManArgs, grammar: Command) -> Result<ExitCode, CliError> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(grammar).render(&mut page).doing("cannot write the manual page")?;
        ui::stdout(&String::from_utf8_lossy(&page));
        return Ok(ExitCode::SUCCESS);
    };
    let doing = || format!("cannot write manual pages to {}", dir.display());
    std::fs::create_dir_all(dir).doing(doing())?;
    clap_mangen::generate_to(grammar, dir).doing(doing())?;
    Ok(ExitCode::SUCCESS)
}
