//! `berth ssh`: the built-in client.

use crate::context::Context;
use crate::error::CliError;
use crate::provision;
use crate::ssh::Session;
use crate::store::MachineName;
use std::io::IsTerminal as _;
use std::process::ExitCode;

/// Log in to a machine, or run a command on it
///
/// stdin is passed on, and the exit code of the command becomes ours.
#[derive(Debug, clap::Args)]
pub(crate) struct SshArgs {
    /// Machine
    #[arg(value_name = "MACHINE")]
    name: MachineName,
    /// Give the command a terminal too
    #[arg(long, short)]
    tty: bool,
    /// Command; a shell where there is none
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs it.
pub(crate) fn run(args: &SshArgs, context: &Context) -> Result<ExitCode, CliError> {
    let machine = context.store.load(&args.name)?;
    let driver = machine.driver()?;
    let target = provision::target(&machine, driver.as_ref())?;
    // As with ssh, the words are joined by spaces and the machine's shell splits them again.
    let command = (!args.command.is_empty()).then(|| args.command.join(" "));
    let pty = command.is_none() || args.tty;
    if args.tty && !std::io::stdin().is_terminal() {
        return Err(CliError::usage("--tty needs a terminal as stdin"));
    }
    context.block_on(async {
        let session = Session::connect(&target).await?;
        let status = session.interact(command.as_deref(), pty).await?;
        session.close().await;
        Ok(ExitCode::from(status))
    })
}
