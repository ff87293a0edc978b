//! `berth attach`.

use super::attached::{self, Attached};
use super::inspect::Details;
use super::terminal::{self, DetachKeys};
use crate::connect;
use crate::context::Context;
use crate::error::CliError;
use std::process::ExitCode;

/// Connect to a container that runs
#[derive(Debug, clap::Args)]
pub(crate) struct AttachArgs {
    /// Keys that leave the container while it runs on
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    /// Do not send our input
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the container
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// Container to connect to
    container: String,
}

pub(crate) fn run(args: AttachArgs, context: &Context) -> Result<ExitCode, CliError> {
    context.block_on(async {
        let connection = connect::selected(context).await?;
        let engine = &connection.engine;
        let details = Details::of(engine, &args.container).await?;
        let (state, tty) = (&details.state, details.config.tty);
        let refusal = match () {
            () if !state.running => "You cannot attach to a stopped container, start it first",
            () if state.paused => "You cannot attach to a paused container, unpause it first",
            () if state.restarting => "You cannot attach to a restarting container, wait until it is running",
            () => "",
        };
        if !refusal.is_empty() {
            return Err(CliError::new(refusal));
        }
        let stdin = details.config.open_stdin && !args.no_stdin;
        terminal::check_input(tty, stdin)?;
        if let Some((columns, rows)) = terminal::size().filter(|_| tty) {
            // Another size and back: a program on the terminal draws itself anew.
            attached::resize(engine, &details.id, columns + 1, rows + 1).await;
        }
        let attached = Attached {
            id: details.id.clone(),
            tty,
            stdin,
            detach_keys: args.detach_keys,
            proxy_signals: args.sig_proxy && !tty,
            removed_at_end: false,
        };
        Ok(ExitCode::from(attached.stay(engine, std::future::ready(Ok(()))).await?.code()))
    })
}
