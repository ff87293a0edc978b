//! `berth version`.

use crate::error::CliError;
use crate::ui::{self, Format};
use std::process::ExitCode;

/// Show the version of berth
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {
    /// How to write it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Runs it.
pub(crate) fn run(args: &VersionArgs) -> Result<ExitCode, CliError> {
    let version = env!("CARGO_PKG_VERSION");
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    match args.format {
        Format::Table => ui::stdout(&format!("berth {version} ({os}/{arch})")),
        Format::Json => ui::json(&serde_json::json!({ "version": version, "os": os, "arch": arch }))?,
    }
    Ok(ExitCode::SUCCESS)
}
