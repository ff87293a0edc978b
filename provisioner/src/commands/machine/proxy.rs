//! `berth proxy`: a socket on this computer that leads to the active machine's engine.

use crate::context::Context;
use crate::contexts::proxy_socket;
use crate::error::{CliError, Doing as _};
use crate::proxy::{self, Address, Door};
use crate::ui;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Forward a local socket to whichever machine is active
///
/// Docker clients that are pointed at the socket once follow `berth use` from then on; with `--machine` it leads to that
/// machine alone. stderr says where connections go. It runs until it is interrupted.
#[derive(Debug, clap::Args)]
pub(crate) struct ProxyArgs {
    /// Where to listen: unix:///PATH or tcp://127.0.0.1:PORT (can be repeated) [default: proxy.sock
    /// in $BERTH_HOME, or proxy-MACHINE.sock with `--machine`]
    #[arg(long, value_name = "URL")]
    listen: Vec<Address>,
}

/// Runs it.
pub(crate) fn run(args: &ProxyArgs, context: &Context) -> Result<ExitCode, CliError> {
    let mut addresses = args.listen.clone();
    if addresses.is_empty() {
        let home = context.store.home();
        crate::store::files::private_dir(home).doing(format!("cannot make {}", home.display()))?;
        addresses.push(Address::Unix(proxy_socket(home, context.machine.as_deref())));
    }
    if context.machine.is_some() {
        // A name that nobody has is found now rather than by each client.
        context.selected()?;
    }
    context.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt()).doing("cannot wait for signals")?;
        let mut terminated = signal(SignalKind::terminate()).doing("cannot wait for signals")?;
        let mut doors = Vec::new();
        for address in &addresses {
            let door = Door::open(address).await?;
            tell(&door, context);
            doors.push(door);
        }
        tokio::select! {
            () = proxy::serve(doors, context.clone()) => {}
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn tell(door: &Door, context: &Context) {
    let whom = match &context.machine {
        Some(name) => format!("machine `{name}`"),
        None => "the active machine".to_owned(),
    };
    ui::stderr(&format!("listening on {door} for {whom}: export DOCKER_HOST={door}"));
    if door.is_exposed() {
        ui::stderr(&format!(
            "warning: every user and program of this computer commands the engine through {door}"
        ));
    }
}
