//! `berth start` for containers.

use super::attached::{Attached, start_code};
use super::inspect::Details;
use super::names;
use super::terminal::{self, DetachKeys};
use crate::connect::{self, Connection, failed};
use crate::context::Context;
use crate::error::CliError;
use std::process::ExitCode;

/// Start containers
#[derive(Debug, clap::Args)]
pub(crate) struct StartArgs {
    /// Stay with the container and see its output
    #[arg(short, long)]
    attach: bool,
    /// Send our input to the container
    #[arg(short, long)]
    interactive: bool,
    /// Keys that leave the container while it runs on
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    /// Container to start (can be repeated)
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) fn run(args: StartArgs, context: &Context) -> Result<ExitCode, CliError> {
    if !args.attach && !args.interactive {
        return super::each(context, "start", &args.containers, async |engine, id| {
            engine.docker().start_container(id, None).await
        });
    }
    let [name] = args.containers.as_slice() else {
        return Err(CliError::usage("you cannot start and attach multiple containers at once"));
    };
    context.block_on(async {
        let connection = connect::selected(context).await?;
        stay(&args, name, &connection).await.map(ExitCode::from)
    })
}

async fn stay(args: &StartArgs, name: &str, connection: &Connection) -> Result<u8, CliError> {
    let engine = &connection.engine;
    let details = Details::of(engine, name).await?;
    terminal::check_input(details.config.tty, args.interactive)?;
    let id = names::container(&details.id)?;
    let start = async {
        let started = engine.docker().start_container(&id, None).await.map_err(|e| engine.error(e));
        started.map_err(|e| {
            let code = start_code(&e);
            failed(format!("cannot start container `{name}`"), e).code(code)
        })?;
        connection.forwarder.sync(engine).await
    };
    let attached = Attached {
        id: details.id.clone(),
        tty: details.config.tty,
        stdin: args.interactive && details.config.open_stdin,
        detach_keys: args.detach_keys.clone(),
        proxy_signals: !details.config.tty,
        removed_at_end: details.host_config.auto_remove,
    };
    let stay = attached.stay(engine, start).await;
    super::tell(connection.forwarder.sync(engine).await);
    stay.map(|stay| stay.code())
}
