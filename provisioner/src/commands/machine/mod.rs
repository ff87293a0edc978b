//! Machine commands: what goes to the store, to drivers and over SSH.

mod context;
pub(crate) mod create;
mod env;
mod forwarder;
mod ls;
mod power;
mod provision;
mod proxy;
mod rm;
mod shell;
mod show;
mod ssh;

use crate::context::Context;
use crate::error::CliError;
use crate::store::MachineName;
use clap::ArgMatches;
use drivers::driver::MachineState;
use power::Power;
use std::process::ExitCode;

/// Commands for machines.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum MachineCommand {
    Create(create::CreateArgs),
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Make a machine the active one
    Use(show::UseArgs),
    /// Show which machine commands go to
    Active,
    Env(env::EnvArgs),
    Config(env::ConfigArgs),
    /// Show all that is known of machines, as JSON
    Inspect(show::InspectArgs),
    /// Show a machine's address
    Ip(show::OneArgs),
    /// Show the URL of a machine's engine
    Url(show::OneArgs),
    /// Show whether a machine runs; exit code 1 where it does not
    Status(show::OneArgs),
    /// Start machines
    Start(power::PowerArgs),
    /// Stop machines: ask the guest to power off, and power it off if it does not in time
    Stop(power::PowerArgs),
    /// Stop and start machines
    Restart(power::PowerArgs),
    /// Power machines off at once
    Kill(power::PowerArgs),
    Rm(rm::RmArgs),
    Ssh(ssh::SshArgs),
    Provision(provision::ProvisionArgs),
    Proxy(proxy::ProxyArgs),
    Context(context::ContextArgs),
    #[command(hide = true)]
    Forwarder(forwarder::ForwarderArgs),
}

/// Runs one; `matches` hold the flags of the driver that `create` was given.
pub(crate) fn run(
    command: MachineCommand,
    matches: &ArgMatches,
    context: &Context,
) -> Result<ExitCode, CliError> {
    use MachineCommand as C;
    let reads = command.reads();
    let result = match command {
        C::Create(args) => create::run(&args, matches, context),
        C::Ls(args) => ls::run(&args, context),
        C::Use(args) => show::make_active(&args, context),
        C::Active => show::active(context),
        C::Env(args) => env::env(&args, context),
        C::Config(args) => env::config(&args, context),
        C::Inspect(args) => show::inspect(&args, context),
        C::Ip(args) => show::ip(&args, context),
        C::Url(args) => show::url(&args, context),
        C::Status(args) => show::status(&args, context),
        C::Start(args) => power::run(&args, Power::Start, context),
        C::Stop(args) => power::run(&args, Power::Stop, context),
        C::Restart(args) => power::run(&args, Power::Restart, context),
        C::Kill(args) => power::run(&args, Power::Kill, context),
        C::Rm(args) => rm::run(&args, context),
        C::Ssh(args) => ssh::run(&args, context),
        C::Provision(args) => provision::run(&args, context),
        C::Proxy(args) => proxy::run(&args, context),
        C::Context(args) => context::run(&args, context),
        C::Forwarder(args) => forwarder::run(&args, context),
    };
    // Also where it failed: some of it may have been done.
    if !reads {
        crate::contexts::keep(&context.store);
    }
    result
}

impl MachineCommand {
    /// Whether it leaves machines as they are.
    fn reads(&self) -> bool {
        use MachineCommand as C;
        matches!(
            self,
            C::Ls(_)
                | C::Use(_)
                | C::Active
                | C::Env(_)
                | C::Config(_)
                | C::Inspect(_)
                | C::Ip(_)
                | C::Url(_)
                | C::Status(_)
                | C::Ssh(_)
                | C::Proxy(_)
                | C::Context(_)
                | C::Forwarder(_)
        )
    }
}

/// Does something to each machine in turn, past failures. All failures but the last are printed here, the last is the
/// command's own.
async fn each<F: Future<Output = Result<(), CliError>>>(
    names: &[MachineName],
    mut act: impl FnMut(MachineName) -> F,
) -> Result<ExitCode, CliError> {
    let mut failed: Option<CliError> = None;
    for name in names {
        if let Err(error) = act(name.clone()).await
            && let Some(before) = failed.replace(error)
        {
            before.print();
        }
    }
    match failed {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error),
    }
}

/// How a state is shown.
fn state_word(state: MachineState) -> &'static str {
    match state {
        MachineState::Running => "Running",
        MachineState::Stopped => "Stopped",
        MachineState::Starting => "Starting",
        MachineState::Stopping => "Stopping",
        MachineState::Paused => "Paused",
        MachineState::Absent => "Absent",
        MachineState::Error => "Error",
    }
}
